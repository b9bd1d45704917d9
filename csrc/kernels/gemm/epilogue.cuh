// Matrices in device memory and what happens to the sums of a product: y = act(alpha * sums + beta * c + bias) +
// residual, with `pre` the value before the activation. Used by every kernel that sums products, convolutions included.
//
// Sums lie scattered over the registers of a warp. They pass through a patch of shared memory, from which each thread
// takes runs of neighbouring columns, 16 bytes of y: the operands are read and the results written in vectors where the
// columns of a matrix are contiguous and aligned, by elements where not.
#pragma once

#include "kernels/gemm/gemm.h"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {

// Any strides; T const where it is only read.
template <class T>
struct Matrix {
  T* data = nullptr;  // null iff absent
  int64_t row_stride = 0, column_stride = 0;

  LAMINA_PRIM T* at(int64_t i, int64_t j) const { return data + i * row_stride + j * column_stride; }
};

// The n <= N elements from (i, j) on, and zeros after them.
template <int N, class T>
LAMINA_PRIM prim::Pack<Compute<T>, N> fetch(const Matrix<const T>& m, int64_t i, int64_t j, int n) {
  const T* p = m.at(i, j);
  if (m.column_stride == 1 && n == N && prim::is_aligned(p, sizeof(prim::Pack<T, N>)))
    return prim::widen(prim::load_vector<N>(p));
  prim::Pack<Compute<T>, N> v;
#pragma unroll
  for (int k = 0; k < N; ++k) v[k] = k < n ? prim::widen(p[k * m.column_stride]) : Compute<T>(0);
  return v;
}

template <int N, class T>
LAMINA_PRIM void put(const Matrix<T>& m, int64_t i, int64_t j, int n, const prim::Pack<Compute<T>, N>& v) {
  T* p = m.at(i, j);
  if (m.column_stride == 1 && n == N && prim::is_aligned(p, sizeof(prim::Pack<T, N>)))
    return prim::store_vector(p, prim::narrow<T>(v));
#pragma unroll
  for (int k = 0; k < N; ++k)
    if (k < n) p[k * m.column_stride] = prim::narrow<T>(v[k]);
}

template <class T>
struct Epilogue {
  using S = Compute<T>;
  S alpha = 1, beta = 0;
  Activation activation = Activation::none;
  Matrix<const T> c{}, bias{}, residual{};
  Matrix<T> y{}, pre{};
  S* partial = nullptr;  // if given, the sums go there as they are, row by row, and nothing else is written
  int64_t M = 0, N = 0;  // sums from row M and column N on are left out

  template <int Run>
  LAMINA_PRIM void operator()(int64_t i, int64_t j, prim::Pack<S, Run> v) const {
    if (i >= M || j >= N) return;
    const int n = int(N - j < Run ? N - j : Run);
    if (partial) return put<Run>(Matrix<S>{partial, N, 1}, i, j, n, v);
    const auto add = [&](const Matrix<const T>& operand, S factor) {
      if (!operand.data) return;
      const prim::Pack<S, Run> x = fetch<Run>(operand, i, j, n);
#pragma unroll
      for (int k = 0; k < Run; ++k) v[k] = prim::fma(factor, x[k], v[k]);
    };
#pragma unroll
    for (int k = 0; k < Run; ++k) v[k] *= alpha;
    add(c, beta);
    add(bias, S(1));
    if (pre.data) put<Run>(pre, i, j, n, v);
    if (activation != Activation::none) {
#pragma unroll
      for (int k = 0; k < Run; ++k) v[k] = prim::activate(activation, v[k]);
    }
    add(residual, S(1));
    put<Run>(y, i, j, n, v);
  }
};

// A warp's Rows x Columns sums on their way from registers to an epilogue. Eight more columns put the rows of a matrix
// fragment, eight rows of four pairs, on different banks.
template <class S, int Rows, int Columns>
struct Patch {
  S at[Rows][Columns + 8];
};

// Gives a warp's patch, whose first sum is (row, column) of the product, to `epilogue(i, j, Pack)` in runs. Called by
// the whole warp, before and after which the patch may be written by any of its lanes.
template <class T, int Rows, int Columns, class E>
LAMINA_PRIM void finish(const Patch<Compute<T>, Rows, Columns>& patch, int64_t row, int64_t column,
                        const E& epilogue) {
  constexpr int run = prim::vector_of<T>, runs = Columns / run;
  prim::warp_sync();  // the patch is complete
#pragma unroll 1
  for (int e = prim::lane(); e < Rows * runs; e += prim::warp_size) {
    const int i = e / runs, j = e % runs * run;
    epilogue(row + i, column + j, prim::load_vector<run>(&patch.at[i][j]));
  }
  prim::warp_sync();  // the patch is free
}

}  // namespace lamina::LAMINA_DEVICE
