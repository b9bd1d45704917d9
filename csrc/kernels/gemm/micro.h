// The register tile of every matrix-like kernel: acc[i][j] += sum_k A[i, k] * B[k, j].
//
// A tile has MR rows and NV vectors of columns, all of it in registers. Each k loads NV vectors of B,
// broadcasts MR scalars of A, and issues MR * NV multiply-adds. A is only ever broadcast, so its strides cost
// nothing: a transposed A needs no transposition. B is read along its rows, which are vectors.
//
//   level      registers  tile of float   accumulators   loads per multiply-add
//   baseline   16 x 128   4 x 8           8 of 16 (SSE2 also needs a register for each product)  6/8
//   neon       32 x 128   8 x 12          24 of 32       11/24
//   avx2       16 x 256   6 x 16          12 of 16       8/12
//   avx512     32 x 512   6 x 64          24 of 32       10/24
//
// Two FMA units of latency 4 want at least 8 independent accumulators, and all these tiles have them. double
// has the same tiles with half as many columns.
//
// A kernel names its accumulators, calls accumulate once per run of k, and stores them as it likes:
//   Accumulators<float, MR, NV> acc;
//   acc.clear();
//   accumulate(acc, K, a, row_stride, k_stride, panel);  // or accumulate(acc, C, rows, panel) for each filter tap
//   for (int i = 0; i < MR; ++i)
//     for (int j = 0; j < NV; ++j) acc.v[i][j].store(...);
#pragma once

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

#if defined(__AVX512F__)
inline constexpr int tile_rows = 6, tile_vectors = 4;
#elif defined(__AVX2__)
inline constexpr int tile_rows = 6, tile_vectors = 2;
#elif defined(__aarch64__)
inline constexpr int tile_rows = 8, tile_vectors = 3;
#else
inline constexpr int tile_rows = 4, tile_vectors = 2;
#endif

// Columns of a full tile, and of a packed panel of B.
template <class S>
inline constexpr int tile_columns = tile_vectors * Vec<S>::N;

template <class S, int MR, int NV>
struct Accumulators {
  Vec<S> v[MR][NV];

  LAMINA_INLINE void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) v[i][j] = Vec<S>::zero();
  }
};

// One k: row i of the tile gains scalar(i) times the vectors at b.
template <class S, int MR, int NV, class B, class Scalar>
LAMINA_INLINE void rank_one_update(Accumulators<S, MR, NV>& acc, const Scalar& scalar, const B* b) {
  Vec<S> row[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) row[j] = Vec<S>::load(b + j * Vec<S>::N);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) {
    const Vec<S> a = Vec<S>::set1(widen(scalar(i)));
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc.v[i][j] = fma(a, row[j], acc.v[i][j]);
  }
}

// A[i, k] lies at a[i * row_stride + k * k_stride]; row k of B at b + k * b_stride, NV vectors wide. Elements
// of A and B may be bf16, and are widened as they are read.
template <class S, int MR, int NV, class A, class B>
LAMINA_INLINE void accumulate(Accumulators<S, MR, NV>& acc, int64_t K, const A* a, int64_t row_stride,
                              int64_t k_stride, const B* b, int64_t b_stride = NV * Vec<S>::N) {
  Accumulators<S, MR, NV> sum = acc;  // a local, so that the compiler keeps it in registers
  for (int64_t k = 0; k < K; ++k, a += k_stride, b += b_stride)
    rank_one_update(sum, [&](int i) { return a[i * row_stride]; }, b);
  acc = sum;
}

// A[i, k] lies at rows[i][k]: rows that are no multiple of a stride apart, such as the pixels under a filter
// tap.
template <class S, int MR, int NV, class A, class B>
LAMINA_INLINE void accumulate(Accumulators<S, MR, NV>& acc, int64_t K, const A* const (&rows)[MR], const B* b,
                              int64_t b_stride = NV * Vec<S>::N) {
  Accumulators<S, MR, NV> sum = acc;
  const A* row[MR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) row[i] = rows[i];
  for (int64_t k = 0; k < K; ++k, b += b_stride) rank_one_update(sum, [&](int i) { return row[i][k]; }, b);
  acc = sum;
}

}  // namespace lamina::LAMINA_ISA
