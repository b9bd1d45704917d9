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

  // True iff y = sums, but for c.
  LAMINA_INLINE bool is_plain_beside_c() const {
    return alpha == S(1) && !bias.data && !residual.data && !pre.data && activation == Activation::none;
  }
  // True iff y = sums.
  LAMINA_INLINE bool is_plain() const { return !c.data && is_plain_beside_c(); }
  // True iff y += sums, in place.
  LAMINA_INLINE bool adds_to_y() const {
    return c.data == y.data && c.row_stride == y.row_stride && c.column_stride == y.column_stride &&
           beta == S(1) && is_plain_beside_c() && holds_vectors();
  }
  // True iff unfinished sums may lie in y: it has their type and vector order, and no operand is read from it
  // later.
  LAMINA_INLINE bool holds_sums() const {
    return holds_vectors() && (adds_to_y() || (c.data != y.data && residual.data != y.data));
  }
  LAMINA_INLINE bool holds_vectors() const { return sizeof(T) == sizeof(S) && y.column_stride == 1; }
};

// Rows and columns of y from (i0, j0) on, from their complete sums, which may lie in y.
template <class T>
[[gnu::noinline]] void finish(const Epilogue<T>& e, const Compute<T>* sums, int64_t ld, int64_t i0,
                              int64_t j0, int64_t rows, int64_t cols) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  const Vec<S> alpha = Vec<S>::set1(e.alpha), beta = Vec<S>::set1(e.beta);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; j += N) {
      const int n = int(smaller(N, cols - j));
      const auto operand = [&](const Matrix<T>& m) {
        const Matrix<T> at = m.at(i0 + i, j0 + j);
        return fetch<T>(at.data, at.column_stride, n);
      };
      const auto write = [&](const Matrix<T>& m, Vec<S> v) {
        const Matrix<T> at = m.at(i0 + i, j0 + j);
        put<T>(at.data, at.column_stride, n, v);
      };
      Vec<S> v = fetch<S>(sums + i * ld + j, 1, n);
      if (e.alpha != S(1)) v = v * alpha;
      if (e.c.data) v = fma(beta, operand(e.c), v);
      if (e.bias.data) v = v + operand(e.bias);
      if (e.pre.data) write(e.pre, v);
      dispatch_activation(e.activation, [&](auto f) { v = f.value(v); });
      if (e.residual.data) v = v + operand(e.residual);
      write(e.y, v);
    }
  }
}

// g = dy * act'(pre) and its column sums, in one pass over strips of columns. The sums add up blocks of 64
// rows, so that rounding errors grow with M / 64 + 64 at most.
template <class T>
void epilogue_backward_typed(const EpilogueBackwardArgs& args) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  constexpr int64_t strip = 256, block = 64;
  const auto matrix = [](const View& v) { return Matrix<T>{v.as<T>(), v.strides[0], v.strides[1]}; };
  const Matrix<T> dy = matrix(args.dy), saved = matrix(args.saved), g = matrix(args.g);
  const int64_t rows = args.dy.shape[0], columns = args.dy.shape[1];
  parallel_ranges(columns, strip, [&](int64_t j0, int64_t j1) {
    S total[strip] = {};
    for (int64_t i0 = 0; i0 < rows; i0 += block) {
      S sum[strip] = {};
      for (int64_t i = i0; i < smaller(i0 + block, rows); ++i) {
        for (int64_t j = j0; j < j1; j += N) {
          const int n = int(smaller(N, j1 - j));
          Vec<S> v = fetch<T>(dy.at(i, j).data, dy.column_stride, n);
          if (saved.data) {
            const Vec<S> x = fetch<T>(saved.at(i, j).data, saved.column_stride, n);
            dispatch_activation(args.activation,
                                [&](auto f) { v = v * f.slope(x, args.saved_is_y ? x : f.value(x)); });
          }
          if (g.data) put<T>(g.at(i, j).data, g.column_stride, n, v);
          (Vec<S>::load(sum + (j - j0)) + v).store(sum + (j - j0));
        }
      }
      for (int64_t j = 0; j < strip; j += N)
        (Vec<S>::load(total + j) + Vec<S>::load(sum + j)).store(total + j);
    }
    if (T* dbias = args.dbias.as<T>())
      for (int64_t j = j0; j < j1; ++j) dbias[j] = narrow<T>(total[j - j0]);
  });
}

}  // namespace lamina::LAMINA_ISA
