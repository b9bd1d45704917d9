// The implicit GEMM of convolution: rows are pixels of the result, K runs over taps and source channels.
#pragma once

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/gemm/micro.h"

namespace lamina::LAMINA_ISA {

// Tiles with one vector of columns take 8 rows: two FMA units of latency 4 want 8 accumulators.
template <int NV>
inline constexpr int rows_of_tile = NV == 1 ? 8 : tile_rows;
inline constexpr int64_t row_granule = 24;  // a multiple of the rows of all tiles

// result[n, i, j, g * columns + o] = bias[o] + sum over taps and k < depth of source[pixel under the tap][g * depth + k]
// * panels[g][o / tile_columns][tap][k][o % tile_columns].
template <class T>
struct TapSum {
  using S = Compute<T>;
  TapAxis h, w;
  int64_t images, groups, depth, columns;
  const S* source;  // strides in elements
  int64_t source_image, source_row, source_pixel;
  T* result;
  int64_t result_image, result_row, result_pixel;
  const S* panels;
  int64_t filter_width, filter_taps;  // of the packed weights: tap (r, s) is number r * filter_width + s
  const S* bias;                      // padded to whole panels
  const S* zeros;                     // `depth` of them

  LAMINA_INLINE int64_t panels_per_group() const { return ceil_div(columns, tile_columns<S>); }
  LAMINA_INLINE int64_t pixels() const { return images * h.count * w.count; }
};

// A piece of K: some taps, over the same `depth` channels of each. Pixel m of tap t is read at rows[t * pitch + m], its
// weights at panel + weights[t].
template <class S>
struct TapChunk {
  static constexpr int64_t max_taps = 16;  // the row table has room for so many
  int64_t taps, depth, pitch;
  const S** rows;
  int64_t weights[max_taps];
};

// The n first lanes, in pieces of a power of two: a masked store costs a dozen cycles on some machines.
template <class S>
LAMINA_INLINE void store_lanes(Vec<S> v, S* to, int n) {
  S lanes[Vec<S>::N];
  v.store(lanes);
  int done = 0;
#pragma GCC unroll 4
  for (int piece = Vec<S>::N / 2; piece > 0; piece /= 2)
    if (n & piece) {
      __builtin_memcpy(to + done, lanes + done, size_t(piece) * sizeof(S));
      done += piece;
    }
}

// Pixels of the chunk, one panel: out[m][column + j] = (bias[j], or itself) + sum over the chunk, for j < columns.
template <class S, int NV>
[[gnu::noinline]] void panel_tiles(const TapChunk<S>& chunk, int64_t pixels, const S* panel, int64_t columns,
                                   const S* bias, S* const* out, int64_t column) {
  constexpr int MR = rows_of_tile<NV>, N = Vec<S>::N;
  const int last = int(columns - (NV - 1) * N);  // lanes of the last vector
  for (int64_t m = 0; m < pixels; m += MR) {
    Accumulators<S, MR, NV> acc;
    acc.clear();
    const S* const* rows = chunk.rows + m;
    for (int64_t t = 0; t < chunk.taps; ++t, rows += chunk.pitch)
      accumulate(acc, chunk.depth, *reinterpret_cast<const S* const(*)[MR]>(rows), panel + chunk.weights[t],
                 tile_columns<S>);
    const int64_t valid = pixels - m;
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      if (i >= valid) break;
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        S* const y = out[m + i] + column + j * N;
        const bool whole = j < NV - 1 || last == N;
        const Vec<S> base = bias    ? Vec<S>::load(bias + j * N)
                            : whole ? Vec<S>::load(y)
                                    : Vec<S>::load(y, last);
        const Vec<S> sum = base + acc.v[i][j];
        if (whole)
          sum.store(y);
        else
          store_lanes(sum, y, last);
      }
    }
  }
}

// The tile has as many vectors as the panel has columns for.
template <class S, int NV = tile_vectors>
LAMINA_INLINE void tap_tiles(const TapChunk<S>& chunk, int64_t pixels, const S* panel, int64_t columns,
                             const S* bias, S* const* out, int64_t column) {
  if constexpr (NV > 1) {
    if (columns <= (NV - 1) * Vec<S>::N)
      return tap_tiles<S, NV - 1>(chunk, pixels, panel, columns, bias, out, column);
  }
  panel_tiles<S, NV>(chunk, pixels, panel, columns, bias, out, column);
}

// The even share of n that is at most `limit`.
LAMINA_INLINE int64_t share(int64_t n, int64_t limit) {
  const int64_t parts = larger(1, ceil_div(n, larger(1, limit)));
  return larger(1, ceil_div(n, parts));
}

// Pixels [begin, end) of the result and panels [first, last) of group g.
template <class T>
void tap_block(const TapSum<T>& p, int64_t g, int64_t first, int64_t last, int64_t begin, int64_t end) {
  using S = Compute<T>;
  constexpr int64_t NR = tile_columns<S>;
  // Neighbouring pixels of one row: `pixels` of them, from column j on.
  struct Segment {
    const S* image;
    int64_t pixels, h, j;
  };
  const int64_t count = end - begin, pitch = round_up(count, row_granule);
  const int64_t column = first * NR, columns = smaller(p.columns, last * NR) - column;

  // Addresses of the block's pixels. Sums of bf16 meet in a tile of float and are rounded once.
  constexpr bool direct = sizeof(T) == sizeof(S);
  S* const tile = direct ? nullptr : scratch<S>(Scratch::tile, count * columns);
  using Chunk = TapChunk<S>;
  char* const table =
      scratch<char>(Scratch::row, pitch * int64_t(sizeof(Segment) + (2 + Chunk::max_taps) * sizeof(void*)));
  Segment* const segment = reinterpret_cast<Segment*>(table);
  T** const result = reinterpret_cast<T**>(segment + pitch);
  S** const out = reinterpret_cast<S**>(result + pitch);
  Chunk chunk;
  chunk.pitch = pitch;
  chunk.rows = const_cast<const S**>(out + pitch);
  int64_t segments = 0;
  for (int64_t m = 0; m < count; ++segments) {
    const int64_t at = begin + m, j = at % p.w.count, i = at / p.w.count % p.h.count,
                  n = at / p.w.count / p.h.count;
    const int64_t pixels = smaller(count - m, p.w.count - j), step = p.w.pitch * p.result_pixel;
    segment[segments] = {p.source + n * p.source_image + g * p.depth, pixels, i * p.h.step, j};
    T* const row = p.result + n * p.result_image + (p.h.start + i * p.h.pitch) * p.result_row +
                   p.w.start * p.result_pixel + g * p.columns + column;
    for (int64_t k = 0; k < pixels; ++k) result[m + k] = row + (j + k) * step;
    m += pixels;
  }
  for (int64_t m = 0; m < count; ++m) {
    if constexpr (direct)
      out[m] = result[m];
    else
      out[m] = tile + m * columns;
  }

  // Chunks of about 256 k: a panel's chunk is then 16 KB (avx2), half of L1. Without taps the result is the bias.
  constexpr int64_t chunk_depth = 256;
  const int64_t taps = p.h.taps * p.w.taps;
  const int64_t depth_step = share(p.depth, chunk_depth);
  const int64_t tap_step = share(taps, smaller(Chunk::max_taps, chunk_depth / depth_step));
  bool started = false;
  for (int64_t tap0 = 0; tap0 < taps || !started; tap0 += tap_step) {
    for (int64_t k0 = 0; k0 < p.depth || !started; k0 += depth_step) {
      chunk.taps = smaller(tap_step, taps - tap0);
      chunk.depth = smaller(depth_step, p.depth - k0);
      for (int64_t t = 0; t < chunk.taps; ++t) {
        const int64_t th = (tap0 + t) / p.w.taps, tw = (tap0 + t) % p.w.taps;
        const int64_t dh = p.h.offset + th * p.h.offset_step, dw = p.w.offset + tw * p.w.offset_step;
        const int64_t r = p.h.tap + th * p.h.tap_step, s = p.w.tap + tw * p.w.tap_step;
        chunk.weights[t] = ((r * p.filter_width + s) * p.depth + k0) * NR;
        const S** row = chunk.rows + t * pitch;
        for (int64_t e = 0; e < segments; ++e) {
          const auto [image, pixels, h, j] = segment[e];
          const bool inside = uint64_t(h + dh) < uint64_t(p.h.source);
          int64_t j0 = 0, j1 = 0;
          if (inside) p.w.inside(dw, &j0, &j1);
          j0 = smaller(larger(j0 - j, 0), pixels), j1 = larger(smaller(j1 - j, pixels), j0);
          const S* const from = image + (h + dh) * p.source_row + (j * p.w.step + dw) * p.source_pixel + k0;
          const int64_t step = p.w.step * p.source_pixel;
          for (int64_t k = 0; k < j0; ++k) row[k] = p.zeros;
          for (int64_t k = j0; k < j1; ++k) row[k] = from + k * step;
          for (int64_t k = j1; k < pixels; ++k) row[k] = p.zeros;
          row += pixels;
        }
        for (int64_t m = count; m < pitch; ++m) *row++ = p.zeros;
      }
      for (int64_t q = first; q < last; ++q) {
        const int64_t panel = g * p.panels_per_group() + q;
        tap_tiles(chunk, count, p.panels + panel * p.filter_taps * p.depth * NR,
                  smaller(NR, p.columns - q * NR), started ? nullptr : p.bias + panel * NR, out,
                  (q - first) * NR);
      }
      started = true;
    }
  }
  if constexpr (!direct) {
    for (int64_t m = 0; m < count; ++m) {
      const S* const from = tile + m * columns;
      int64_t c = 0;
      for (; c + Vec<S>::N <= columns; c += Vec<S>::N) Vec<S>::load(from + c).store(result[m] + c);
      Vec<S>::load(from + c, int(columns - c)).store(result[m] + c, int(columns - c));
    }
  }
}

// All pixels and panels. Panels outermost: a task's panels stay in L2 while it is handed on from block to block.
template <class T>
void tap_sum(const TapSum<T>& p, const Conv2dPlan& plan) {
  const int64_t panels = p.panels_per_group(), splits = ceil_div(panels, plan.block_panels);
  const int64_t pixels = p.pixels(), blocks = ceil_div(pixels, plan.block_pixels);
  if (pixels == 0 || panels == 0) return;
  const int64_t block = round_up(ceil_div(pixels, blocks), row_granule);
  parallel_for(p.groups * splits * blocks, [&](int64_t task) {
    const int64_t b = task % blocks, split = task / blocks % splits, g = task / blocks / splits;
    if (b * block >= pixels) return;
    tap_block(p, g, split * plan.block_panels, smaller(panels, (split + 1) * plan.block_panels), b * block,
              smaller(pixels, (b + 1) * block));
  });
}

}  // namespace lamina::LAMINA_ISA
