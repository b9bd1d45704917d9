// The epilogue of a product, y = act(alpha * sums + beta * c + bias) + residual, and its backward pass.
#pragma once

#include "base/parallel.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/pack.h"
#if __has_include("simd/math.h")
#include "simd/math.h"
#endif

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

template <class S>
LAMINA_INLINE Vec<S> activate(Activation activation, Vec<S> x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return max(x, Vec<S>::zero());
    default: return x;
  }
  __builtin_unreachable();
}

template <class T>
struct Epilogue {
  using S = Compute<T>;
  S alpha, beta;
  Activation activation;
  Matrix<const T> c, bias, residual;  // data null where absent
  Matrix<T> y, pre;

  // True iff y = sums.
  LAMINA_INLINE bool is_plain() const {
    return alpha == S(1) && !c.data && !bias.data && !residual.data && !pre.data && activation == Activation::none;
  }
  // True iff y += sums, in place.
  LAMINA_INLINE bool adds_to_y() const {
    Epilogue rest = *this;
    rest.c.data = nullptr;
    return c.data == y.data && c.row_stride == y.row_stride && c.column_stride == y.column_stride && beta == S(1) &&
           rest.is_plain() && holds_vectors();
  }
  // True iff unfinished sums may lie in y: it has their type and vector order, and no operand is read from it later.
  LAMINA_INLINE bool holds_sums() const {
    return holds_vectors() && (adds_to_y() || (c.data != y.data && residual.data != y.data));
  }
  LAMINA_INLINE bool holds_vectors() const { return sizeof(T) == sizeof(S) && y.column_stride == 1; }
};

// Rows and columns of y from (i0, j0) on, from their complete sums, which may lie in y.
template <class T>
[[gnu::noinline]] void finish(const Epilogue<T>& e, const Compute<T>* sums, int64_t ld, int64_t i0, int64_t j0,
                              int64_t rows, int64_t cols) {
  using S = Compute<T>;
  constexpr int N = Vec<S>::N;
  const Vec<S> alpha = Vec<S>::set1(e.alpha), beta = Vec<S>::set1(e.beta);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; j += N) {
      const int n = int(min_of(N, cols - j));
      const auto operand = [&](const Matrix<const T>& m) {
        const Matrix<const T> at = m.at(i0 + i, j0 + j);
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
      v = activate(e.activation, v);
      if (e.residual.data) v = v + operand(e.residual);
      write(e.y, v);
    }
  }
}

}  // namespace lamina::LAMINA_ISA
