// Packing: the operands of a block of the product, copied into the order in which the register tile reads them.
//
// B (K, N) becomes panels of tile_columns columns: panel p holds B[k, p * columns + j] at [k * columns + j],
// and the last panel is padded with zeros. A (M, K) becomes bands of tile_rows rows: as rows where A's rows
// lie in memory, as columns where its columns do; the register tile only broadcasts A, so it takes either.
// Both widen bf16 to float.
#pragma once

#include "base/integer.h"
#include "kernels/gemm/micro.h"
#include "simd/transpose.h"

namespace lamina::LAMINA_ISA {

// A matrix in memory: element (i, j) at data[i * row_stride + j * column_stride].
template <class T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;
  LAMINA_INLINE Matrix at(int64_t i, int64_t j) const {
    return {data + i * row_stride + j * column_stride, row_stride, column_stride};
  }
  LAMINA_INLINE Matrix transposed() const { return {data, column_stride, row_stride}; }
  LAMINA_INLINE Matrix<const T> readonly() const { return {data, row_stride, column_stride}; }
};

// What sums start from: element (i, j) at data[i * row_stride + j], or zeros where data is null.
template <class S>
struct Start {
  const S* data = nullptr;
  int64_t row_stride = 0;
  LAMINA_INLINE Start at(int64_t i, int64_t j) const {
    return {data ? data + i * row_stride + j : nullptr, row_stride};
  }
};

// The lanes of vector j that lie in the n first columns of a panel.
template <class S>
LAMINA_INLINE int lanes_of(int64_t n, int j) {
  return int(larger(0, smaller(n - int64_t(j) * Vec<S>::N, Vec<S>::N)));
}

// out[k * ld + j] = b(k, j) for j < n, and 0 for n <= j < width, where width is a multiple of the vector.
template <class S, class T>
void copy_rows(Matrix<const T> b, int64_t K, int64_t n, int64_t width, S* out, int64_t ld) {
  constexpr int N = Vec<S>::N;
  if (b.column_stride == 1) {
    for (int64_t k = 0; k < K; ++k, out += ld, b.data += b.row_stride) {
      int64_t j = 0;
      for (; j + N <= n; j += N) Vec<S>::load(b.data + j).store(out + j);
      for (; j < width; j += N) Vec<S>::load(b.data + j, int(larger(0, n - j))).store(out + j);
    }
  } else if (b.row_stride == 1) {
    // Squares of N x N turn in registers; the last k < N go as scalars.
    int64_t k = 0;
    for (; k + N <= K; k += N) {
      for (int64_t j = 0; j < width; j += N) {
        Vec<S> r[N];
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i)
          r[i] = j + i < n ? Vec<S>::load(b.data + k + (j + i) * b.column_stride) : Vec<S>::zero();
        transpose(r);
#pragma GCC unroll 16
        for (int i = 0; i < N; ++i) r[i].store(out + (k + i) * ld + j);
      }
    }
    for (; k < K; ++k)
      for (int64_t j = 0; j < width; ++j)
        out[k * ld + j] = j < n ? S(widen(b.data[k + j * b.column_stride])) : S(0);
  } else {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t j = 0; j < width; ++j)
        out[k * ld + j] = j < n ? S(widen(b.data[k * b.row_stride + j * b.column_stride])) : S(0);
  }
}

// Elements that pack_b writes.
template <class S>
LAMINA_INLINE int64_t packed_b_size(int64_t K, int64_t N) {
  return ceil_div(N, tile_columns<S>) * tile_columns<S> * K;
}

// Rows of B are read along memory, a few at a time, into all panels: panel by panel, each row would give one
// line and then jump, which neither the prefetchers nor the TLB like.
template <class S, class T>
void pack_b(Matrix<const T> b, int64_t K, int64_t N, S* out) {
  constexpr int64_t columns = tile_columns<S>, rows = 8;
  const int64_t step = b.column_stride == 1 ? rows : K;
  for (int64_t k = 0; k < K; k += step)
    for (int64_t j = 0; j < N; j += columns)
      copy_rows<S>(b.at(k, j), smaller(step, K - k), smaller(columns, N - j), columns,
                   out + j * K + k * columns, columns);
}

// A in bands of tile_rows rows: element (i, k) of band p at data[p * band_stride + i * row_stride + k *
// k_stride].
template <class S>
struct Bands {
  const S* data;
  int64_t band_stride, row_stride, k_stride;
};

template <class S>
LAMINA_INLINE Bands<S> bands_of(Matrix<const S> a) {
  return {a.data, tile_rows * a.row_stride, a.row_stride, a.column_stride};
}

// A line more than K keeps the rows of a band out of each other's cache sets where K is a power of two.
template <class S>
LAMINA_INLINE int64_t packed_row(int64_t K) {
  return ceil_div(K, Vec<S>::N) * Vec<S>::N + 64 / int64_t(sizeof(S));
}
template <class S>
LAMINA_INLINE int64_t packed_a_size(int64_t M, int64_t K) {
  return ceil_div(M, tile_rows) * tile_rows * packed_row<S>(K) + Vec<S>::N;
}

// As rows, contiguous in k.
template <class S, class T>
Bands<S> pack_a_rows(Matrix<const T> a, int64_t M, int64_t K, S* out) {
  const int64_t ld = packed_row<S>(K);
  copy_rows<S>(a, M, K, ceil_div(K, Vec<S>::N) * Vec<S>::N, out, ld);
  return {out, tile_rows * ld, ld, 1};
}

// As columns of tile_rows, copied by whole vectors whose surplus the next column overwrites. Rows of memory are read a
// few at a time into all bands, as in pack_b; the line between bands takes the last surplus, and keeps bands that are
// written in turn out of each other's cache sets.
template <class S, class T>
Bands<S> pack_a_columns(Matrix<const T> a, int64_t M, int64_t K, S* out) {
  constexpr int width = (tile_rows + Vec<S>::N - 1) / Vec<S>::N * Vec<S>::N;
  constexpr int64_t step = 8;
  const int64_t band_stride = tile_rows * K + 64 / int64_t(sizeof(S));
  for (int64_t k0 = 0; k0 < K; k0 += step)
    for (int64_t i = 0; i < M; i += tile_rows) {
      const int64_t rows = smaller(tile_rows, M - i), end = smaller(k0 + step, K);
      S* band = out + i / tile_rows * band_stride;
      for (int64_t k = k0; k < end; ++k)
        for (int j = 0; j < width; j += Vec<S>::N)
          Vec<S>::load(a.data + i + k * a.column_stride + j, lanes_of<S>(rows, j / Vec<S>::N))
              .store(band + k * tile_rows + j);
    }
  return {out, band_stride, 1, tile_rows};
}

template <class S, class T>
Bands<S> pack_a(Matrix<const T> a, int64_t M, int64_t K, S* out) {
  return a.row_stride == 1 ? pack_a_columns(a, M, K, out) : pack_a_rows(a, M, K, out);
}

}  // namespace lamina::LAMINA_ISA
