// Convolutions as products on the ordinary cores (kernels/gemm/simt.cuh has the loop), for every shape and type.
//
//   over taps     result[m, n] = sum_k source[m, k] weight[k, n]     m: pixels of the result, n: its channels,
//                                                                   k = (tap, source channel), channels innermost
//   over pixels   dweight[m, n] = sum_k dy[k, m] x[k, n]             m: filters, n = (tap, channel), k: pixels of y
//
// The matrices of taps exist nowhere: loaders find their elements. What an output pixel reads is, up to the tap, the same
// for all of K, so a table in shared memory has it for each row of the tile: the tap only adds to it.
//
// Backward to the input under a stride is one product per phase (geometry.h), all in one launch, and no product meets a
// stuffed zero. Backward to the weight has few sums over many pixels: the pixels are cut into ranges, whose sums go to
// scratch memory and are added in their order by a second launch.
#pragma once

#include "kernels/conv2d/geometry.h"
#include "kernels/gemm/simt.cuh"
#include "prim/divider.cuh"

namespace lamina::LAMINA_DEVICE {

// --- sums over taps ----------------------------------------------------------------------------------------------

// TapAxis in half the registers.
struct Axis {
  int count, start, pitch, source, step, offset, offset_step, taps, tap, tap_step;

  LAMINA_HD explicit Axis(const TapAxis& a)
      : count(int(a.count)),
        start(int(a.start)),
        pitch(int(a.pitch)),
        source(int(a.source)),
        step(int(a.step)),
        offset(int(a.offset)),
        offset_step(int(a.offset_step)),
        taps(int(a.taps)),
        tap(int(a.tap)),
        tap_step(int(a.tap_step)) {}
};

// Forward, or backward to the input, as rows of pixels.
struct TapSum {
  Conv2dArgs a;
  bool is_backward;
  prim::Divider depth;  // source channels per group
  int64_t columns;      // result channels per group
  int64_t row_tiles, column_tiles, phases;

  TapSum(const Conv2dArgs& a, bool is_backward, int64_t tile_rows, int64_t tile_columns)
      : a(a),
        is_backward(is_backward),
        depth(larger(1, source().shape[1] / a.groups)),
        columns(result().shape[1] / a.groups),
        row_tiles(ceil_div(result().shape[0] * axis(0, 0).count * axis(1, 0).count, tile_rows)),
        column_tiles(ceil_div(columns, tile_columns)),
        phases(is_backward ? phases_of(0) * phases_of(1) : 1) {}

  LAMINA_HD const View& source() const { return is_backward ? a.y : a.x; }
  LAMINA_HD const View& result() const { return is_backward ? a.x : a.y; }
  LAMINA_HD int64_t phases_of(int d) const { return smaller(a.stride[d], a.x.shape[2 + d]); }
  LAMINA_HD Axis axis(int d, int64_t phase) const {
    return Axis(is_backward ? backward_axis(a, d, phase) : forward_axis(a, d));
  }
  LAMINA_HD int64_t blocks() const { return phases * a.groups * row_tiles * column_tiles; }
};

// A row of a tile: a pixel of the result, and what it reads under the tap with offset 0.
struct PixelRow {
  int64_t source, result;  // where the pixels begin, in elements; result is -1 for rows beyond the last pixel
  int32_t h, w;            // position in the source
};

LAMINA_PRIM PixelRow pixel_row(const TapSum& p, const Axis& h, const Axis& w, int64_t m) {
  const View &source = p.source(), &result = p.result();
  const int64_t line = m / w.count, j = m - line * w.count, image = line / h.count,
                i = line - image * h.count;
  if (image >= result.shape[0])
    return {0, -1, INT32_MIN, INT32_MIN};  // no tap leads from there into the source
  const int64_t source_h = i * h.step + h.offset, source_w = j * w.step + w.offset;
  const int64_t result_h = h.start + i * h.pitch, result_w = w.start + j * w.pitch;
  return {.source = ((image * source.shape[2] + source_h) * source.shape[3] + source_w) * source.shape[1],
          .result = ((image * result.shape[2] + result_h) * result.shape[3] + result_w) * result.shape[1],
          .h = int32_t(source_h),
          .w = int32_t(source_w)};
}

// Position of an element of K: which tap along each axis, which channel.
struct TapChannel {
  int32_t r, s, channel;
};

LAMINA_PRIM TapChannel tap_channel(const prim::Divider& depth, int32_t taps_w, int64_t k) {
  const int32_t tap = int32_t(depth.quotient(k)), r = tap / taps_w;
  return {r, tap - r * taps_w, int32_t(k - tap * depth.divisor)};
}

// A: the source under the taps. Neighbouring threads have neighbouring channels.
template <class T, class Tile>
struct SourceLoader {
  static constexpr int line_step = Tile::threads / Tile::K, count = Tile::M / line_step;
  static_assert(Tile::M % line_step == 0);

  const PixelRow* rows;
  const T* source;  // from the group's first channel on
  prim::Divider depth;
  int32_t taps_w, H, W, step_h, step_w, pixel;
  int64_t k;
  Compute<T> v[count] = {};

  LAMINA_PRIM SourceLoader(const TapSum& p, const Axis& h, const Axis& w, const PixelRow* rows, int64_t group)
      : rows(rows + prim::thread() / Tile::K),
        source(p.source().as<const T>() + group * p.depth.divisor),
        depth(p.depth),
        taps_w(w.taps),
        H(h.source),
        W(w.source),
        step_h(h.offset_step),
        step_w(w.offset_step),
        pixel(int32_t(p.source().shape[1])),
        k(prim::thread() % Tile::K) {}

  LAMINA_PRIM void load(int64_t left) {
    const bool exists = prim::thread() % Tile::K < left;
    const TapChannel at = tap_channel(depth, taps_w, exists ? k : 0);
    const int32_t down = at.r * step_h, right = at.s * step_w;
    const T* p = source + (int64_t(down) * W + right) * pixel + at.channel;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const PixelRow& row = rows[i * line_step];
      const bool is_inside = exists && uint32_t(row.h) + uint32_t(down) < uint32_t(H) &&
                             uint32_t(row.w) + uint32_t(right) < uint32_t(W);
      v[i] = is_inside ? prim::widen(p[row.source]) : Compute<T>(0);
    }
    k += Tile::K;
  }
  LAMINA_PRIM void store(Slice<Compute<T>, Tile::K, Tile::M>& slice) const {
    Compute<T>* p = &slice.at[prim::thread() % Tile::K][prim::thread() / Tile::K];
#pragma unroll
    for (int i = 0; i < count; ++i) p[i * line_step] = v[i];
  }
};

// B: the weights, wherever their elements lie. Neighbouring threads take neighbours of the axis with the smaller stride.
template <class T, class Tile>
struct WeightLoader {
  static constexpr int count = Tile::K * Tile::N / Tile::threads, pitch = Tile::N + 4;
  static_assert(Tile::threads % Tile::K == 0 && Tile::threads % Tile::N == 0);

  const T* weight;  // from the tile's first column on, at the first tap of the phase
  int64_t channel_stride, row_stride, tap_stride, column_step;
  prim::Divider depth;
  int32_t taps_w;
  int line, line_step, first_k, k_step, lines;
  int64_t k = 0;  // of the next slice
  Compute<T> v[count] = {};

  LAMINA_PRIM WeightLoader(const TapSum& p, const Axis& h, const Axis& w, int64_t group, int64_t column)
      : depth(p.depth), taps_w(w.taps) {
    const View& filters = p.a.weight;
    // Forward: columns are filters of the group. Backward: columns are channels, and K runs over filters.
    const int64_t column_stride = filters.strides[p.is_backward ? 1 : 0];
    const int64_t group_step = p.is_backward ? p.depth.divisor : p.columns;
    channel_stride = filters.strides[p.is_backward ? 0 : 1];
    row_stride = h.tap_step * filters.strides[2];
    tap_stride = w.tap_step * filters.strides[3];
    const bool runs_along_k = channel_stride < column_stride;
    line = runs_along_k ? prim::thread() / Tile::K : prim::thread() % Tile::N;
    line_step = runs_along_k ? Tile::threads / Tile::K : 0;
    first_k = runs_along_k ? prim::thread() % Tile::K : prim::thread() / Tile::N;
    k_step = runs_along_k ? 0 : Tile::threads / Tile::N;
    lines = int(smaller(Tile::N, p.columns - column));
    column_step = line_step * column_stride;
    weight = filters.as<const T>() + group * group_step * filters.strides[0] +
             (column + line) * column_stride + h.tap * filters.strides[2] + w.tap * filters.strides[3];
  }

  LAMINA_PRIM void load(int64_t left) {
    const T* p = weight;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int at_k = first_k + i * k_step;
      if (i == 0 || k_step > 0) {
        const TapChannel at = tap_channel(depth, taps_w, at_k < left ? k + at_k : 0);
        p = weight + at.channel * channel_stride + at.r * row_stride + at.s * tap_stride;
      }
      v[i] = at_k < left && line + i * line_step < lines ? prim::widen(p[i * column_step]) : Compute<T>(0);
    }
    k += Tile::K;
  }
  LAMINA_PRIM void store(Slice<Compute<T>, Tile::K, Tile::N>& slice) const {
    Compute<T>* p = &slice.at[first_k][line];
#pragma unroll
    for (int i = 0; i < count; ++i) p[i * (k_step * pitch + line_step)] = v[i];
  }
};

// Adds the bias and stores runs of channels.
template <class T>
struct PixelEpilogue {
  const PixelRow* rows;  // of the tile
  int64_t first_row;
  T* result;               // from the group's first channel on
  Matrix<const T> bias{};  // one row
  int64_t columns;

  template <int Run>
  LAMINA_PRIM void operator()(int64_t i, int64_t j, prim::Pack<Compute<T>, Run> v) const {
    const int64_t pixel = rows[i - first_row].result;
    if (pixel < 0 || j >= columns) return;
    const int n = int(smaller(Run, columns - j));
    if (bias.data) {
      const prim::Pack<Compute<T>, Run> b = fetch<Run>(bias, 0, j, n);
#pragma unroll
      for (int k = 0; k < Run; ++k) v[k] += b[k];
    }
    put<Run>(Matrix<T>{result + pixel, 0, 1}, 0, j, n, v);
  }
};

template <class T, class Tile>
struct TapSumShared {
  SimtShared<T, Tile> tiles;
  PixelRow rows[Tile::M];
};

// Neighbouring blocks share rows, then filters.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads) tap_sum_kernel(TapSum p) {
  auto& shared = prim::shared_memory<TapSumShared<T, Tile>>();
  for (int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const int64_t column = block % p.column_tiles * Tile::N, tile = block / p.column_tiles;
    const int64_t first_row = tile % p.row_tiles * Tile::M, group = tile / p.row_tiles % p.a.groups;
    const int64_t phase = tile / p.row_tiles / p.a.groups, phases_w = p.is_backward ? p.phases_of(1) : 1;
    const Axis h = p.axis(0, phase / phases_w), w = p.axis(1, phase % phases_w);
    if (first_row >= p.result().shape[0] * h.count * w.count)
      continue;  // a phase with fewer pixels than others
    for (int i = prim::thread(); i < Tile::M; i += Tile::threads)
      shared.rows[i] = pixel_row(p, h, w, first_row + i);
    prim::block_sync();  // the table is there

    SourceLoader<T, Tile> source(p, h, w, shared.rows, group);
    WeightLoader<T, Tile> weight(p, h, w, group, column);
    SimtSums<T, Tile> total = {};
    const int64_t channels = p.source().shape[1] / p.a.groups;
    multiply<T, Tile>(shared.tiles, h.taps * w.taps * channels, source, weight, total);
    const T* bias = p.a.bias ? p.a.bias.as<const T>() + group * p.columns * p.a.bias.strides[0] : nullptr;
    finish_tile<T, Tile>(shared.tiles, total, first_row, column,
                         PixelEpilogue<T>{.rows = shared.rows,
                                          .first_row = first_row,
                                          .result = p.result().as<T>() + group * p.columns,
                                          .bias = {bias, 0, p.a.bias.strides[0]},
                                          .columns = p.columns});
  }
}

// --- sums over pixels --------------------------------------------------------------------------------------------

// Backward to the weight. Sums of range i of the pixels lie at partial + i * O * taps * C / G, as (O, taps, C / G).
struct PixelSum {
  Conv2dArgs a;
  int64_t filters, depth, columns;  // per group: rows, channels of x, columns of the product
  int64_t pixels, range;
  int64_t row_tiles, column_tiles, splits;
  prim::Divider image, line;  // pixels of an image and of a row of it

  PixelSum(const Conv2dArgs& a, int64_t tile_rows, int64_t tile_columns)
      : a(a),
        filters(a.y.shape[1] / a.groups),
        depth(a.weight.shape[1]),
        columns(a.weight.shape[2] * a.weight.shape[3] * depth),
        pixels(a.y.shape[0] * a.y.shape[2] * a.y.shape[3]),
        range(pixels),
        row_tiles(ceil_div(filters, tile_rows)),
        column_tiles(ceil_div(columns, tile_columns)),
        splits(1),
        image(larger(1, a.y.shape[2] * a.y.shape[3])),
        line(larger(1, a.y.shape[3])) {}

  // Cuts the pixels into about n ranges of whole slices.
  void split(int64_t n, int64_t slice) {
    range = larger(slice, round_up(ceil_div(pixels, n), slice));
    splits = larger(1, ceil_div(pixels, range));
  }
  LAMINA_HD int64_t size() const { return a.groups * filters * columns; }
  LAMINA_HD int64_t blocks() const { return splits * a.groups * row_tiles * column_tiles; }
};

// B: x under a tap, by pixels. A thread keeps its column, a channel under a tap.
template <class T, class Tile>
struct PixelLoader {
  static constexpr int k_step = Tile::threads / Tile::N, count = Tile::K / k_step, pitch = Tile::N + 4;
  static_assert(Tile::threads % Tile::N == 0 && Tile::K % k_step == 0);

  const T* x;
  int64_t k;  // this thread's first pixel of the next slice
  prim::Divider image, line;
  int32_t stride_h, stride_w, offset_h, offset_w, H, W;
  int64_t pixel;
  bool exists;
  Compute<T> v[count] = {};

  LAMINA_PRIM PixelLoader(const PixelSum& p, int64_t group, int64_t column, int64_t first_pixel)
      : image(p.image),
        line(p.line),
        stride_h(int32_t(p.a.stride[0])),
        stride_w(int32_t(p.a.stride[1])),
        H(int32_t(p.a.x.shape[2])),
        W(int32_t(p.a.x.shape[3])),
        pixel(p.a.x.shape[1]) {
    const int64_t mine = column + prim::thread() % Tile::N;
    const int64_t S = p.a.weight.shape[3], tap = mine / p.depth, r = tap / S, s = tap - r * S;
    x = p.a.x.as<const T>() + group * p.depth + (mine - tap * p.depth);
    k = first_pixel + prim::thread() / Tile::N;
    offset_h = int32_t(r * p.a.dilation[0] - p.a.padding[0]);
    offset_w = int32_t(s * p.a.dilation[1] - p.a.padding[1]);
    exists = mine < p.columns;
  }

  LAMINA_PRIM void load(int64_t left) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int64_t at = k + i * k_step, n = image.quotient(at), rest = at - n * image.divisor;
      const int64_t row = line.quotient(rest);
      const int32_t h = int32_t(row) * stride_h + offset_h,
                    w = int32_t(rest - row * line.divisor) * stride_w + offset_w;
      const bool is_inside = exists && prim::thread() / Tile::N + i * k_step < left &&
                             uint32_t(h) < uint32_t(H) && uint32_t(w) < uint32_t(W);
      v[i] = is_inside ? prim::widen(x[((n * H + h) * W + w) * pixel]) : Compute<T>(0);
    }
    k += Tile::K;
  }
  LAMINA_PRIM void store(Slice<Compute<T>, Tile::K, Tile::N>& slice) const {
    Compute<T>* p = &slice.at[prim::thread() / Tile::N][prim::thread() % Tile::N];
#pragma unroll
    for (int i = 0; i < count; ++i) p[i * k_step * pitch] = v[i];
  }
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads) pixel_sum_kernel(PixelSum p, Compute<T>* partial) {
  auto& shared = prim::shared_memory<SimtShared<T, Tile>>();
  for (int64_t block = blockIdx.x; block < p.blocks(); block += gridDim.x) {
    const int64_t column = block % p.column_tiles * Tile::N, tile = block / p.column_tiles;
    const int64_t row = tile % p.row_tiles * Tile::M, group = tile / p.row_tiles % p.a.groups;
    const int64_t split = tile / p.row_tiles / p.a.groups, first_pixel = split * p.range, O = p.a.y.shape[1];
    const T* dy = p.a.y.as<const T>() + group * p.filters;
    SliceLoader<T, Tile::K, Tile::M, Tile::threads> a(dy + first_pixel * O + row, 1, O, p.filters - row);
    PixelLoader<T, Tile> b(p, group, column, first_pixel);
    SimtSums<T, Tile> total = {};
    multiply<T, Tile>(shared, smaller(p.range, p.pixels - first_pixel), a, b, total);
    finish_tile<T, Tile>(shared, total, row, column,
                         Epilogue<T>{.partial = partial + split * p.size() + group * p.filters * p.columns,
                                     .M = p.filters,
                                     .N = p.columns});
  }
}

}  // namespace lamina::LAMINA_DEVICE
