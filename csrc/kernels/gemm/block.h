// multiply_block: sums of products for a block of C, tile by tile, from operands that the register tile can read.
//
// For each panel of B (which stays in L1) all bands of A pass by (they stay in L2):
//
//            panel j                 A: any strides, or packed bands
//          +--+--+--+                B: packed panels, or rows in place (unit column stride)
//   band i |  |##|  |                C: where the sink says
//          +--+--+--+
//
// A Sink says where the sums of a tile go and what happens when the tile is complete:
//   S* at(i, j)                    the tile's place, for its first row and column; rows are sink.ld elements apart
//   void done(i, j, rows, cols)    called when the tile's sums have been stored
#pragma once

#include "kernels/gemm/pack.h"

namespace lamina::LAMINA_ISA {

template <class S, class B>
struct TileArgs {
  const S* a;
  int64_t row_stride, k_stride;
  const B* b;
  int64_t b_stride;
  int64_t K;
  S* c;
  int64_t ld;
  int last;        // lanes of the last vector that exist in C
  Start<S> start;  // added last: sums of fewer terms round less
};

template <class S, class B, int MR, int NV>
[[gnu::noinline]] void tile(const TileArgs<S, B>& t) {
  constexpr int N = Vec<S>::N;
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i) __builtin_prefetch(t.c + i * t.ld, 1);
  Accumulators<S, MR, NV> acc;
  acc.clear();
  accumulate(acc, t.K, t.a, t.row_stride, t.k_stride, t.b, t.b_stride);
  const bool is_whole = t.last == N;
  if (t.start.data) {
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        const S* start = t.start.data + i * t.start.row_stride + j * N;
        acc.v[i][j] =
            acc.v[i][j] + (j < NV - 1 || is_whole ? Vec<S>::load(start) : Vec<S>::load(start, t.last));
      }
  }
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      S* to = t.c + i * t.ld + j * N;
      j < NV - 1 || is_whole ? acc.v[i][j].store(to) : acc.v[i][j].store(to, t.last);
    }
}

template <class S, class B>
struct TileTable {
  using Function = void (*)(const TileArgs<S, B>&);
  Function f[tile_rows][tile_vectors];
};

template <class S, class B, int... Index>
constexpr TileTable<S, B> make_tile_table(std::integer_sequence<int, Index...>) {
  TileTable<S, B> table{};
  ((table.f[Index / tile_vectors][Index % tile_vectors] =
        tile<S, B, Index / tile_vectors + 1, Index % tile_vectors + 1>),
   ...);
  return table;
}

// f[rows - 1][vectors - 1]
template <class S, class B>
inline constexpr TileTable<S, B> tile_table =
    make_tile_table<S, B>(std::make_integer_sequence<int, tile_rows * tile_vectors>());

// B as small as this stays in L1 beside a band of A.
inline constexpr int64_t small_b_bytes = 16 << 10;

// C = start + A B: M x N sums over K. Panel p of B at b + p * panel_stride, its row k at k * b_stride. B in place is read by
// whole vectors: N must then be a multiple of the vector, or the rows padded. Where B is small, the panels pass by each
// band instead: C, which is then most of the traffic, is written along its rows.
template <class S, class B, class Sink>
LAMINA_INLINE void multiply_block(int64_t M, int64_t N, int64_t K, Bands<S> a, const B* b,
                                  int64_t panel_stride, int64_t b_stride, Start<S> start, const Sink& sink) {
  TileArgs<S, B> t{nullptr, a.row_stride, a.k_stride, nullptr, b_stride, K, nullptr, sink.ld, 0, {}};
  const auto multiply = [&](int64_t band, int64_t panel) {
    const int64_t i = band * tile_rows, j = panel * tile_columns<S>;
    const int rows = int(smaller(tile_rows, M - i)), cols = int(smaller(tile_columns<S>, N - j)),
              vectors = int(ceil_div(cols, Vec<S>::N));
    t.a = a.data + band * a.band_stride;
    t.b = b + panel * panel_stride;
    t.c = sink.at(i, j);
    t.start = start.at(i, j);
    t.last = cols - (vectors - 1) * Vec<S>::N;
    tile_table<S, B>.f[rows - 1][vectors - 1](t);
    sink.done(i, j, rows, cols);
  };
  const int64_t bands = ceil_div(M, tile_rows), panels = ceil_div(N, tile_columns<S>);
  const bool by_bands = K * N * int64_t(sizeof(B)) <= small_b_bytes;
  for (int64_t outer = 0; outer < (by_bands ? bands : panels); ++outer)
    for (int64_t inner = 0; inner < (by_bands ? panels : bands); ++inner)
      multiply(by_bands ? outer : inner, by_bands ? inner : outer);
}

}  // namespace lamina::LAMINA_ISA
