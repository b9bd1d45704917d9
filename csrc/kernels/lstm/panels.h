// Products with a matrix that is packed once and used at every step.
//
// A panel is a run of columns, NV vectors wide, k after k: what the register tile of gemm/micro.h reads. Few
// rows want wide panels, as the independent sums that hide the latency of the FMA units must then come from
// the columns.
#pragma once

#include "kernels/gemm/pack.h"

namespace lamina::LAMINA_ISA {

// Vectors in a panel for products of `rows` rows at a time. Four vectors (of different gates) make a group,
// so both widths divide it.
inline constexpr int narrow_panel = tile_vectors == 4 ? 4 : 2, wide_panel = 4;
template <int NV>
inline constexpr int panel_rows = tile_rows * tile_vectors / NV;
LAMINA_INLINE int panel_vectors(int64_t rows) {
  return rows <= panel_rows<wide_panel> ? wide_panel : narrow_panel;
}

// Calls f(Type<int[NV]>{}) with the width as a constant.
template <class F>
LAMINA_INLINE void dispatch_panel(int vectors, F&& f) {
  if (vectors == wide_panel)
    f(Type<int[wide_panel]>{});
  else
    f(Type<int[narrow_panel]>{});
}

template <class S, int MR, int NV>
void multiply_tile(int64_t K, const S* a, int64_t lda, const S* panel, const S* start, int64_t start_stride,
                   S* c, int64_t ldc) {
  using V = Vec<S>;
  Accumulators<S, MR, NV> acc;
  acc.clear();  // `start` comes last: sums of fewer terms round less
  accumulate(acc, K, a, lda, 1, panel);
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      (V::load(start + i * start_stride + j * V::N) + acc.v[i][j]).store(c + i * ldc + j * V::N);
}

template <class S, int MR, int NV>
LAMINA_INLINE void multiply_rows(int rows, int64_t K, const S* a, int64_t lda, const S* panel, const S* start,
                                 int64_t start_stride, S* c, int64_t ldc) {
  if (rows == MR)
    multiply_tile<S, MR, NV>(K, a, lda, panel, start, start_stride, c, ldc);
  else if constexpr (MR > 1)
    multiply_rows<S, MR - 1, NV>(rows, K, a, lda, panel, start, start_stride, c, ldc);
}

// C = start + A * panel, for one panel: a (rows, K), c (rows, NV * N). `start` has the shape of C, or is one
// row (start_stride 0); it may be C.
template <class S, int NV>
void multiply_panel(int64_t rows, int64_t K, const S* a, int64_t lda, const S* panel, const S* start,
                    int64_t start_stride, S* c, int64_t ldc) {
  // A piece of the panel stays in L1 while all rows pass: 256 k of 2 vectors are 16 KB of AVX2's 32.
  constexpr int64_t piece = 256;
  constexpr int MR = panel_rows<NV>;
  const int64_t tiles = (rows + MR - 1) / MR;
  int64_t k = 0;
  do {
    const int64_t depth = smaller(piece, K - k);
    for (int64_t tile = 0; tile < tiles;
         ++tile) {  // tiles as equal as can be: 16 rows are 6 + 5 + 5, not 6 + 6 + 4
      const int64_t r = (rows * tile + tiles - 1) / tiles, end = (rows * (tile + 1) + tiles - 1) / tiles;
      multiply_rows<S, MR, NV>(int(end - r), depth, a + r * lda + k, lda, panel + k * NV * Vec<S>::N,
                               start + r * start_stride, start_stride, c + r * ldc, ldc);
    }
    start = c, start_stride = ldc;
    k += depth;
  } while (k < K);
}

}  // namespace lamina::LAMINA_ISA
