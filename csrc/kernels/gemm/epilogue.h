// The epilogue of a product, y = act(alpha * sums + beta * c + bias) + residual, and its backward pass.
#pragma once

#include "base/parallel.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/pack.h"
#include "simd/activation.h"

namespace lamina::LAMINA_ISA {

// n elements, `stride` apart, as a vector; and back.
template <class T>
[[gnu::noinline]] VecOf<T> gather(const T* p, int64_t stride, int n) {
  Compute<T> lanes[VecOf<T>::N] = {};
  for (int i = 0; i < n; ++i) lanes[i] = widen(p[i * stride]);
  return VecOf<T>::load(lanes);
}
template <class T>
[[gnu::noinline]] void scatter(T* p, int64_t stride, int n, VecOf<T> v) {
  Compute<T> lanes[VecOf<T>::N];
  v.store(lanes);
  for (int i = 0; i < n; ++i) p[i * stride] = narrow<T>(lanes[i]);
}
template <class T>
LAMINA_INLINE VecOf<T> fetch(const T* p, int64_t stride, int n) {
  if (stride == 1) return n == VecOf<T>::N ? VecOf<T>::load(p) : VecOf<T>::load(p, n);
  if (stride == 0) return VecOf<T>::set1(widen(*p));
  return gather(p, stride, n);
}
template <class T>
LAMINA_INLINE void put(T* p, int64_t stride, int n, VecOf<T> v) {
  if (stride != 1) return scatter(p, stride, n, v);
  n == VecOf<T>::N ? v.store(p) : v.store(p, n);
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

// A block of y, from (i0, j0) on, and its sums, which may lie in y.
template <class T>
struct EpilogueBlock {
  Compute<T>* sums;
  int64_t ld;
  int64_t i0, j0, rows, cols;

  // Calls f(sums, n, i, j) for every vector of the block: its sums, its lanes, and its place in y.
  template <class F>
  LAMINA_INLINE void for_vectors(const F& f) const {
    constexpr int N = VecOf<T>::N;
    const EpilogueBlock b = *this;  // in registers
    for (int64_t j = 0; j < b.cols; j += N)
      for (int64_t i = 0; i < b.rows; ++i)
        f(b.sums + i * b.ld + j, int(smaller(N, b.cols - j)), b.i0 + i, b.j0 + j);
  }
};

// sums = alpha * sums + beta * c + bias, which pre keeps.
template <class T>
void add_operands(const Epilogue<T>& e, const EpilogueBlock<T>& block) {
  using V = VecOf<T>;
  const V alpha = V::set1(e.alpha), beta = V::set1(e.beta);
  block.for_vectors([&](Compute<T>* sums, int n, int64_t i, int64_t j) {
    const auto operand = [&](const Matrix<T>& m) { return fetch<T>(m.at(i, j).data, m.column_stride, n); };
    V v = fetch(sums, 1, n);
    if (e.alpha != Compute<T>(1)) v = v * alpha;
    if (e.c.data) v = fma(beta, operand(e.c), v);
    if (e.bias.data) v = v + operand(e.bias);
    if (e.pre.data) put<T>(e.pre.at(i, j).data, e.pre.column_stride, n, v);
    put(sums, 1, n, v);
  });
}

// y = act(sums + factor * addend) + residual.
template <class T, class F>
void activate(const Epilogue<T>& e, Matrix<T> addend, Compute<T> factor, const EpilogueBlock<T>& block) {
  using V = VecOf<T>;
  const V scale = V::set1(factor);
  block.for_vectors([&](const Compute<T>* sums, int n, int64_t i, int64_t j) {
    const auto operand = [&](const Matrix<T>& m) { return fetch<T>(m.at(i, j).data, m.column_stride, n); };
    V v = fetch(sums, 1, n);
    if (addend.data) v = fma(scale, operand(addend), v);
    v = F::value(v);
    if (e.residual.data) v = v + operand(e.residual);
    put<T>(e.y.at(i, j).data, e.y.column_stride, n, v);
  });
}

template <class T>
[[gnu::noinline]] void finish(const Epilogue<T>& e, const EpilogueBlock<T>& block) {
  Matrix<T> addend = e.bias.data ? e.bias : e.c;
  const Compute<T> factor = e.bias.data ? Compute<T>(1) : e.beta;
  if (e.alpha != 1 || (e.bias.data && e.c.data) || e.pre.data) {
    add_operands(e, block);
    addend = {};
  }
  dispatch_activation(e.activation, [&](auto f) { activate<T, decltype(f)>(e, addend, factor, block); });
}

// g = dy * act'(pre) and its column sums for the columns [j0, j1), a strip. The sums add up blocks of 64 rows, so that
// rounding errors grow with M / 64 + 64 at most.
inline constexpr int64_t backward_strip = 256;

// Of n columns of a row: g and its addition to the sums.
template <class T>
using BackwardRow = void (*)(const T* dy, const T* saved, bool saved_is_y, int64_t n, T* g, Compute<T>* sums);

template <class T, class F>
void backward_row(const T* dy, const T* saved, bool saved_is_y, int64_t n, T* g, Compute<T>* sums) {
  using V = VecOf<T>;
  for (int64_t j = 0; j < n; j += V::N) {
    const int lanes = int(smaller(V::N, n - j));
    V v = fetch(dy + j, 1, lanes);
    if constexpr (!std::is_same_v<F, Identity>) {
      const V x = fetch(saved + j, 1, lanes);
      v = v * F::slope(x, saved_is_y ? x : F::value(x));
    }
    if (g) put(g + j, 1, lanes, v);
    (V::load(sums + j) + v).store(sums + j);
  }
}

template <class T>
void strip_backward(const EpilogueBackwardArgs& args, BackwardRow<T> row, int64_t j0, int64_t j1) {
  using S = Compute<T>;
  constexpr int64_t strip = backward_strip, block = 64;
  const auto matrix = [](const View& v) { return Matrix<T>{v.as<T>(), v.strides[0], v.strides[1]}; };
  const Matrix<T> dy = matrix(args.dy), saved = matrix(args.saved), g = matrix(args.g);
  const int64_t rows = args.dy.shape[0], n = j1 - j0;
  T dy_copy[strip], saved_copy[strip], g_copy[strip];
  // Row i of a strip as a run: in place, or gathered.
  const auto run = [&](const Matrix<T>& m, int64_t i, T* copy) -> const T* {
    if (!m.data || m.column_stride == 1) return m.data ? m.at(i, j0).data : nullptr;
    for (int64_t j = 0; j < n; ++j) copy[j] = *m.at(i, j0 + j).data;
    return copy;
  };
  const bool g_is_copied = g.data && g.column_stride != 1;
  S total[strip] = {};
  for (int64_t i0 = 0; i0 < rows; i0 += block) {
    S sums[strip] = {};
    for (int64_t i = i0; i < smaller(i0 + block, rows); ++i) {
      T* const to = g_is_copied ? g_copy : g.data ? g.at(i, j0).data : nullptr;
      row(run(dy, i, dy_copy), run(saved, i, saved_copy), args.saved_is_y, n, to, sums);
      for (int64_t j = 0; g_is_copied && j < n; ++j) *g.at(i, j0 + j).data = g_copy[j];
    }
    for (int64_t j = 0; j < strip; ++j) total[j] += sums[j];
  }
  if (T* dbias = args.dbias.as<T>())
    for (int64_t j = j0; j < j1; ++j) dbias[j] = narrow<T>(total[j - j0]);
}

template <class T>
void epilogue_backward_typed(const EpilogueBackwardArgs& args) {
  BackwardRow<T> row;
  dispatch_activation(args.activation, [&](auto f) { row = backward_row<T, decltype(f)>; });
  parallel_ranges(args.dy.shape[1], backward_strip,
                  [&](int64_t j0, int64_t j1) { strip_backward<T>(args, row, j0, j1); });
}

}  // namespace lamina::LAMINA_ISA
