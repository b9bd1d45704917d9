// dweight as a GEMM whose K runs over pixels: [taps x channels] x [pixels] times [pixels] x [filters]. dbias are the
// sums of the second operand over K, while its panels are in the caches.
#pragma once

#include "base/scratch.h"
#include "kernels/conv2d/pack.h"

namespace lamina::LAMINA_ISA {

// x under the taps, as the micro-kernel broadcasts it: channel c of output pixel (n, i, j) under tap (r, s) lies at
//   data[c / width * panel + n * image + i * row + j * pixel + r * tap_row + s * tap_column + c % width].
template <class S>
struct TapPlanes {
  const S* data;
  int64_t width, panel, image, row, pixel, tap_row, tap_column;
};

// Output rows [row, row + rows) of images [image, image + images).
struct PixelBlock {
  int64_t image, images, row, rows;
};

template <class T>
struct WeightGradient {
  using S = Compute<T>;
  const Conv2dArgs& a;
  const S* merged;  // the padded plane of merged taps, else null

  int64_t groups = a.groups, images = a.x.shape[0], P = a.y.shape[2], Q = a.y.shape[3];
  int64_t filters = a.y.shape[1] / groups, taps_w = merged ? 1 : a.weight.shape[3],
          taps_h = a.weight.shape[2];
  int64_t channels = a.weight.shape[1] * (merged ? a.weight.shape[3] : 1);
  int64_t panels = ceil_div(filters, tile_columns<S>),
          panel_elements = taps_h * taps_w * channels * tile_columns<S>;

  // Blocks of about `pixels` pixels: whole images if they are small, else rows of one image.
  LAMINA_INLINE int64_t block_images(int64_t pixels) const {
    return larger(1, smaller(images, pixels / (P * Q)));
  }
  LAMINA_INLINE int64_t block_rows(int64_t pixels) const { return smaller(P, larger(1, pixels / Q)); }
  LAMINA_INLINE int64_t blocks(int64_t pixels) const {
    return ceil_div(images, block_images(pixels)) * ceil_div(P, block_rows(pixels));
  }
  LAMINA_INLINE PixelBlock block(int64_t pixels, int64_t b) const {
    const int64_t rows = block_rows(pixels), row_blocks = ceil_div(P, rows);
    const int64_t n = b / row_blocks * block_images(pixels), i = b % row_blocks * rows;
    return {n, smaller(block_images(pixels), images - n), i, smaller(rows, P - i)};
  }

  // dy of a block: [panel][pixel][tile_columns], columns beyond the filters zero. Panels innermost: reads are then runs
  // of neighbouring filters.
  void pack_dy(int64_t g, int64_t first, int64_t last, const PixelBlock& b, S* to) const {
    using V = Vec<S>;
    constexpr int64_t NR = tile_columns<S>;
    const int64_t O = groups * filters, pixels = b.rows * Q, panel = b.images * pixels * NR;
    const int64_t whole = smaller(last, filters / NR) - first,
                  rest = smaller(filters - (first + whole) * NR, NR);
    const bool has_rest = first + whole < last;
    for (int64_t n = 0; n < b.images; ++n) {
      const T* from = a.y.as<const T>() + ((b.image + n) * P + b.row) * Q * O + g * filters + first * NR;
      for (int64_t pixel = 0; pixel < pixels; ++pixel, from += O, to += NR) {
        for (int64_t q = 0; q < whole; ++q)
#pragma GCC unroll 4
          for (int j = 0; j < tile_vectors; ++j)
            V::load(from + q * NR + j * V::N).store(to + q * panel + j * V::N);
        for (int j = 0; has_rest && j < tile_vectors; ++j)
          V::load(from + whole * NR + j * V::N, int(larger(0, smaller(V::N, rest - j * V::N))))
              .store(to + whole * panel + j * V::N);
      }
    }
  }

  // x of a block: [c / tile_rows][image][row][column][tile_rows], as many rows and columns as the taps read, zero outside
  // the borders. A vector may reach into the next pixel of its row, which is written later. Panels are packed eight at a
  // time, so that reads are runs of neighbouring channels.
  TapPlanes<S> pack_x(int64_t g, const PixelBlock& b, S* to) const {
    using V = Vec<S>;
    constexpr int64_t MR = tile_rows, batch = 8;
    const int64_t H = a.x.shape[2], W = a.x.shape[3], C = a.x.shape[1];
    const int64_t rows = (b.rows - 1) * a.stride[0] + (taps_h - 1) * a.dilation[0] + 1;
    const int64_t columns = (Q - 1) * a.stride[1] + (taps_w - 1) * a.dilation[1] + 1;
    const int64_t image = rows * columns * MR, panel = b.images * image;
    const int64_t left = smaller(columns, a.padding[1]);
    const int64_t inner = larger(0, smaller(columns, a.padding[1] + W) - left);
    for (int64_t c0 = 0; c0 < channels; c0 += batch * MR) {
      const int64_t panels = smaller(batch, ceil_div(channels - c0, MR));
      for (int64_t n = 0; n < b.images; ++n) {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t h = b.row * a.stride[0] - a.padding[0] + r;
          const bool inside = uint64_t(h) < uint64_t(H);
          S* const row = to + c0 / MR * panel + n * image + r * columns * MR;
          for (int64_t e = 0; e < panels; ++e) {
            const auto clear = [&](int64_t begin, int64_t end) {
              __builtin_memset(row + e * panel + begin * MR, 0, size_t((end - begin) * MR) * sizeof(S));
            };
            clear(0, inside ? left : columns);
            if (inside) clear(left + inner, columns);
          }
          if (!inside) continue;
          const T* from = a.x.as<const T>() + ((b.image + n) * H + h) * W * C + g * channels + c0;
          S* at = row + left * MR;
          S* const right = row + (left + inner) * MR;
          for (int64_t j = 0; j < inner; ++j, from += C, at += MR) {
            // Whole vectors where they stay inside this pixel's channels and this row's part of the panel.
            const bool fits = MR <= V::N && at + V::N <= right && c0 + V::N <= channels;
            const int64_t whole = fits ? smaller(panels, (channels - c0 - V::N) / MR + 1) : 0;
            int64_t e = 0;
            for (; e < whole; ++e) V::load(from + e * MR).store(at + e * panel);
            for (; e < panels; ++e)
              for (int v = 0; v < MR; v += V::N) {
                const int lanes = int(larger(0, smaller(smaller(V::N, MR - v), channels - c0 - e * MR - v)));
                V::load(from + e * MR + v, lanes).store(at + e * panel + v, int(smaller(V::N, MR - v)));
              }
          }
        }
      }
    }
    return {.data = to,
            .width = MR,
            .panel = panel,
            .image = image,
            .row = a.stride[0] * columns * MR,
            .pixel = a.stride[1] * MR,
            .tap_row = a.dilation[0] * columns * MR,
            .tap_column = a.dilation[1] * MR};
  }

  TapPlanes<S> merged_planes(const PixelBlock& b) const {
    const PaddedPlane p = padded_plane(a);
    const int64_t row = p.W * p.C;
    return {.data = merged + (b.image * p.H + b.row * a.stride[0]) * row,
            .width = tile_rows,
            .panel = tile_rows,
            .image = p.H * row,
            .row = a.stride[0] * row,
            .pixel = a.stride[1] * p.C,
            .tap_row = a.dilation[0] * row,
            .tap_column = 0};
  }

  // sum[tap][c + i][column] = (0 at first, or itself) + sum over the block's pixels, for one tile of channels and one
  // panel of filters.
  template <int NV>
  [[gnu::noinline]] void tile(const PixelBlock& b, const TapPlanes<S>& planes, const S* x, const S* dy,
                              S* sum, int64_t valid, bool first) const {
    constexpr int64_t NR = tile_columns<S>;
    // Rows that follow one another without a gap are one run of k.
    const bool whole = planes.row == Q * planes.pixel;
    const int64_t run = whole ? b.rows * Q : Q, runs = whole ? 1 : b.rows;
    Accumulators<S, tile_rows, NV> acc;
    acc.clear();
    for (int64_t n = 0; n < b.images; ++n)
      for (int64_t i = 0; i < runs; ++i, dy += run * NR)
        accumulate(acc, run, x + n * planes.image + i * planes.row, 1, planes.pixel, dy, NR);
#pragma GCC unroll 8
    for (int i = 0; i < tile_rows; ++i) {
      if (i >= valid) return;
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        S* const to = sum + i * NR + j * Vec<S>::N;
        (first ? acc.v[i][j] : Vec<S>::load(to) + acc.v[i][j]).store(to);
      }
    }
  }

  // sums[column] = (0 at first, or itself) + sum of a panel of dy over its pixels.
  void add_panel(const S* dy, int64_t pixels, S* sums, bool first) const {
    using V = Vec<S>;
    V acc[tile_vectors];
    for (V& v : acc) v = V::zero();
    for (int64_t i = 0; i < pixels; ++i, dy += tile_columns<S>)
#pragma GCC unroll 4
      for (int j = 0; j < tile_vectors; ++j) acc[j] = acc[j] + V::load(dy + j * V::N);
    for (int j = 0; j < tile_vectors; ++j) {
      S* const to = sums + j * V::N;
      (first ? acc[j] : V::load(to) + acc[j]).store(to);
    }
  }

  template <int NV = tile_vectors>
  LAMINA_INLINE void tiles(const PixelBlock& b, const TapPlanes<S>& planes, const S* dy, S* sum,
                           int64_t columns, bool first) const {
    if constexpr (NV > 1) {
      if (columns <= (NV - 1) * Vec<S>::N) return tiles<NV - 1>(b, planes, dy, sum, columns, first);
    }
    for (int64_t c = 0; c < channels; c += tile_rows)
      for (int64_t r = 0; r < taps_h; ++r)
        for (int64_t s = 0; s < taps_w; ++s)
          tile<NV>(b, planes,
                   planes.data + c / planes.width * planes.panel + r * planes.tap_row + s * planes.tap_column,
                   dy, sum + ((r * taps_w + s) * channels + c) * tile_columns<S>, channels - c, first);
  }

  // Partial sums over blocks [begin, end), begin < end, for panels [first, last) of group g; of dbias where `bias_sum`.
  void partial(int64_t pixels, int64_t g, int64_t first, int64_t last, int64_t begin, int64_t end, S* sum,
               S* bias_sum) const {
    constexpr int64_t NR = tile_columns<S>;
    const int64_t most = block_images(pixels) * block_rows(pixels) * Q;
    S* const packed_dy = scratch<S>(Scratch::pack_b, (last - first) * most * NR);
    S* packed_x = nullptr;
    if (!merged) {
      const int64_t rows = (block_rows(pixels) - 1) * a.stride[0] + (taps_h - 1) * a.dilation[0] + 1;
      const int64_t columns = (Q - 1) * a.stride[1] + (taps_w - 1) * a.dilation[1] + 1;
      packed_x =
          scratch<S>(Scratch::pack_a, block_images(pixels) * rows * columns * round_up(channels, tile_rows));
    }
    for (int64_t i = begin; i < end; ++i) {
      const PixelBlock b = block(pixels, i);
      pack_dy(g, first, last, b, packed_dy);
      const TapPlanes<S> planes = merged ? merged_planes(b) : pack_x(g, b, packed_x);
      for (int64_t q = first, size = b.images * b.rows * Q; q < last; ++q) {
        const S* const dy = packed_dy + (q - first) * size * NR;
        tiles(b, planes, dy, sum + (q - first) * panel_elements, smaller(NR, filters - q * NR), i == begin);
        if (bias_sum) add_panel(dy, size, bias_sum + (q - first) * NR, i == begin);
      }
    }
  }
};

// sums[0] += sums[1] + … , each of n elements, in this order.
template <class S>
void add_partials(S* sums, int64_t partials, int64_t n) {
  using V = Vec<S>;
  if (partials == 1) return;
  parallel_ranges(n, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += V::N) {
      const int lanes = int(smaller(V::N, end - i));
      V acc = V::load(sums + i, lanes);
      for (int64_t p = 1; p < partials; ++p) acc = acc + V::load(sums + p * n + i, lanes);
      acc.store(sums + i, lanes);
    }
  });
}

}  // namespace lamina::LAMINA_ISA
