// The epilogue of a product, y = act(alpha * sums + beta * c + bias) + residual, and its backward pass.
#pragma once

#include "base/parallel.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/pack.h"
#include "simd/activation.h"

namespace lamina::LAMINA_ISA {

// n elements, `stride` apart, as a vector; and back.
template <class T>
LAMINA_INLINE VecOf<T> fetch(const T* p, int64_t stride, int n) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  if (stride == 1) return n == N ? Vec<S>::load(p) : Vec<S>::load(p, n);
  if (stride == 0) return Vec<S>::set1(widen(*p));
  S lanes[N] = {};
  for (int i = 0; i < n; ++i) lanes[i] = widen(p[i * stride]);
  return Vec<S>::load(lanes);
}
template <class T>
LAMINA_INLINE void put(T* p, int64_t stride, int n, VecOf<T> v) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  if (stride == 1) return n == N ? v.store(p) : v.store(p, n);
  S lanes[N];
  v.store(lanes);
  for (int i = 0; i < n; ++i) p[i * stride] = narrow<T>(lanes[i]);
}

template <class T>
struct Epilogue {
  using S = Compute<T>;
  S alpha, beta;
  Activation activation;
  Matrix<T> c, bias, residual, y, pre;  // data null where absent

  // True iff y = sums.
  LAMINA_INLINE bool is_plain() const {
    return alpha == S(1) && !c.data && !bias.data && !residual.data && !pre.data &&
           activation == Activation::none;
  }
  // True iff unfinished sums may lie in y: it has their type and vector order, and no operand is read from it
  // later.
  LAMINA_INLINE bool holds_sums() const {
    return holds_vectors() && c.data != y.data && residual.data != y.data;
  }
  LAMINA_INLINE bool holds_vectors() const { return sizeof(T) == sizeof(S) && y.column_stride == 1; }

  // Takes out what the sums may start from instead: c, which may be y, or the bias.
  LAMINA_INLINE Start<T> take_start() {
    if (!holds_vectors() || alpha != S(1)) return {};
    const bool is_own_place = c.data != y.data || c.row_stride == y.row_stride;  // read before it is written
    const bool takes_c = c.data && beta == S(1) && c.column_stride == 1 && is_own_place;
    if (!takes_c && bias.column_stride != 1) return {};
    Matrix<T>& taken = takes_c ? c : bias;
    const Start<T> start{taken.data, taken.row_stride};
    taken = {};
    return start;
  }
};

// Rows and columns of y from (i0, j0) on, from their complete sums, which may lie in y. `is_short`: y = act(sums +
// factor * addend), where the addend is c, the bias, or absent.
template <class T, class F, bool is_short>
void finish_with(const Epilogue<T>& e, const Compute<T>* sums, int64_t ld, int64_t i0, int64_t j0,
                 int64_t rows, int64_t cols) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  const Vec<S> alpha = Vec<S>::set1(e.alpha), beta = Vec<S>::set1(e.beta);
  const Matrix<T> addend = e.bias.data ? e.bias : e.c;
  const Vec<S> factor = e.bias.data ? Vec<S>::set1(1) : beta;
  for (int64_t j = 0; j < cols; j += N) {
    const int n = int(smaller(N, cols - j));
    const auto operand = [&](const Matrix<T>& m, int64_t i) {
      return fetch<T>(m.at(i0 + i, j0 + j).data, m.column_stride, n);
    };
    const auto write = [&](const Matrix<T>& m, int64_t i, Vec<S> v) {
      put<T>(m.at(i0 + i, j0 + j).data, m.column_stride, n, v);
    };
    for (int64_t i = 0; i < rows; ++i) {
      Vec<S> v = fetch<S>(sums + i * ld + j, 1, n);
      if constexpr (is_short) {
        if (addend.data) v = fma(factor, operand(addend, i), v);
        v = F::value(v);
      } else {
        if (e.alpha != S(1)) v = v * alpha;
        if (e.c.data) v = fma(beta, operand(e.c, i), v);
        if (e.bias.data) v = v + operand(e.bias, i);
        if (e.pre.data) write(e.pre, i, v);
        v = F::value(v);
        if (e.residual.data) v = v + operand(e.residual, i);
      }
      write(e.y, i, v);
    }
  }
}

template <class T>
[[gnu::noinline]] void finish(const Epilogue<T>& e, const Compute<T>* sums, int64_t ld, int64_t i0,
                              int64_t j0, int64_t rows, int64_t cols) {
  const bool is_short = e.alpha == 1 && !(e.bias.data && e.c.data) && !e.pre.data && !e.residual.data;
  dispatch_activation(e.activation, [&](auto f) {
    const auto with = is_short ? finish_with<T, decltype(f), true> : finish_with<T, decltype(f), false>;
    with(e, sums, ld, i0, j0, rows, cols);
  });
}

// g = dy * act'(pre) and its column sums for the columns [j0, j1), a strip. The sums add up blocks of 64 rows, so that
// rounding errors grow with M / 64 + 64 at most. `is_dense`: the columns of all matrices are neighbours.
inline constexpr int64_t backward_strip = 256;

template <class T, class F, bool is_dense>
void strip_backward(const EpilogueBackwardArgs& args, int64_t j0, int64_t j1) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  constexpr int64_t strip = backward_strip, block = 64;
  const auto matrix = [](const View& v) {
    return Matrix<T>{v.as<T>(), v.strides[0], is_dense ? 1 : v.strides[1]};
  };
  const Matrix<T> dy = matrix(args.dy), saved = matrix(args.saved), g = matrix(args.g);
  const int64_t rows = args.dy.shape[0];
  S total[strip] = {};
  for (int64_t i0 = 0; i0 < rows; i0 += block) {
    S sum[strip] = {};
    for (int64_t i = i0; i < smaller(i0 + block, rows); ++i) {
      for (int64_t j = j0; j < j1; j += N) {
        const int n = int(smaller(N, j1 - j));
        Vec<S> v = fetch<T>(dy.at(i, j).data, dy.column_stride, n);
        if constexpr (!std::is_same_v<F, Identity>) {
          const Vec<S> x = fetch<T>(saved.at(i, j).data, saved.column_stride, n);
          v = v * F::slope(x, args.saved_is_y ? x : F::value(x));
        }
        if (g.data) put<T>(g.at(i, j).data, g.column_stride, n, v);
        (Vec<S>::load(sum + (j - j0)) + v).store(sum + (j - j0));
      }
    }
    for (int64_t j = 0; j < strip; j += N) (Vec<S>::load(total + j) + Vec<S>::load(sum + j)).store(total + j);
  }
  if (T* dbias = args.dbias.as<T>())
    for (int64_t j = j0; j < j1; ++j) dbias[j] = narrow<T>(total[j - j0]);
}

template <class T>
void epilogue_backward_typed(const EpilogueBackwardArgs& args) {
  const auto is_dense = [](const View& v) { return !v || v.strides[1] == 1; };
  const bool are_dense = is_dense(args.dy) && is_dense(args.saved) && is_dense(args.g);
  dispatch_activation(args.activation, [&](auto f) {
    using F = decltype(f);
    parallel_ranges(args.dy.shape[1], backward_strip, [&](int64_t j0, int64_t j1) {
      are_dense ? strip_backward<T, F, true>(args, j0, j1) : strip_backward<T, F, false>(args, j0, j1);
    });
  });
}

}  // namespace lamina::LAMINA_ISA
