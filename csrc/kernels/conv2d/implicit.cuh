// Convolutions as products of matrices:
//
//   over taps     result[m, n] = sum_k source[m, k] weight[k, n]     m: pixels of the result, n: its channels,
//                                                                   k = (tap, source channel), channels innermost
//   over pixels   dweight[m, n] = sum_k dy[k, m] x[k, n]             m: filters, n = (tap, channel), k: pixels of y
//                 dbias[m] = sum_k dy[k, m]                          by the blocks of the first columns
//
// The matrices of taps exist nowhere: loaders find their elements. What an output pixel reads is, up to the tap, the same
// for all of K, so a table in shared memory has it for each row of the tile: the tap only adds to it.
//
// Backward to the input under a stride is one product per phase (geometry.h), all in one launch, and no product meets a
// stuffed zero. Backward to the weight has few sums over many pixels: the pixels are cut into ranges, whose sums go to
// scratch memory and are added in their order by a second launch. dbias goes the same way: the blocks that have the first
// columns sum the slices of dy that they load anyway, one addition beside tile_columns multiply-adds.
#pragma once

#include <algorithm>

#include "base/launch.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/gemm/epilogue.cuh"
#include "prim/divider.cuh"

namespace lamina::LAMINA_DEVICE {

inline constexpr int64_t most_blocks = 1 << 24;  // launches take more tiles in turns

// On the matrix units (mma.cuh), instantiated in files of their own. `planes`: 1 for short types; 1, 2 or 3 for float32.
template <class T>
void sum_over_taps_by_mma(const char* name, const Conv2dArgs& a, bool is_backward, int planes, bool is_large);
template <class T>
void sum_over_pixels_by_mma(const Conv2dArgs& a, int planes, bool is_large);

// Of few channels (stem.cuh), likewise; forward, as the other direction has few channels where it stores.
template <class T>
void stem_over_taps(const char* name, const Conv2dArgs& a, int planes);
template <class T>
void stem_over_pixels(const Conv2dArgs& a, int planes);

// True iff the operand can be copied to shared memory in chunks of eight channels: channels of T at addresses of 16 bytes.
template <class T>
bool is_chunked_pixels(const View& v, int64_t groups) {
  return sizeof(T) == 2 && v.shape[1] / groups % 8 == 0 && prim::is_aligned(v.as<T>());
}
template <class T>
bool is_chunked_weight(const View& w) {
  const auto steps_in_chunks = [&](int axis) { return w.shape[axis] == 1 || w.strides[axis] % 8 == 0; };
  return sizeof(T) == 2 && w.shape[1] % 8 == 0 && w.strides[1] == 1 && steps_in_chunks(0) &&
         steps_in_chunks(2) && steps_in_chunks(3) && prim::is_aligned(w.as<T>());
}

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

// Forward, or backward to the input, in tiles of rows (pixels) and columns (channels).
struct TapSum {
  Conv2dArgs a;
  bool is_backward;
  int64_t depth, columns;  // channels per group of the source and of the result
  int64_t pixel;  // elements from one pixel of the source to the next, in the form that the kernel reads
  int64_t tile_rows, tile_columns, row_tiles, column_tiles, phases;

  TapSum(const Conv2dArgs& a, bool is_backward, int64_t tile_rows, int64_t tile_columns)
      : a(a),
        is_backward(is_backward),
        depth(source().shape[1] / a.groups),
        columns(result().shape[1] / a.groups),
        pixel(source().shape[1]),
        tile_rows(tile_rows),
        tile_columns(tile_columns),
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

struct TapTile {
  int64_t row;
  int column, group;
  Axis h, w;    // of the phase
  bool exists;  // a phase may have fewer pixels than others
};

// Neighbouring blocks share rows, then filters.
LAMINA_PRIM TapTile tile_at(const TapSum& p, int64_t block) {
  const int64_t rows = block / p.column_tiles, groups = rows / p.row_tiles, phase = groups / p.a.groups;
  const int64_t phases_w = p.is_backward ? p.phases_of(1) : 1, row = rows % p.row_tiles * p.tile_rows;
  const Axis h = p.axis(0, phase / phases_w), w = p.axis(1, phase % phases_w);
  return {.row = row,
          .column = int(block % p.column_tiles * p.tile_columns),
          .group = int(groups % p.a.groups),
          .h = h,
          .w = w,
          .exists = row < p.result().shape[0] * h.count * w.count};
}

// A row of a tile: a pixel of the result, and what it reads under the tap with offset 0.
struct PixelRow {
  int64_t source, result;  // where the pixels begin, in elements; result is -1 for rows beyond the last pixel
  int32_t h, w;            // position in the source
};

// The rows of a tile; waits for them.
LAMINA_PRIM void fill_rows(PixelRow* rows, const TapSum& p, const TapTile& tile) {
  const View &source = p.source(), &result = p.result();
  const Axis &h = tile.h, &w = tile.w;
#pragma unroll 1  // one or two
  for (int row = prim::thread(); row < int(p.tile_rows); row += prim::threads()) {
    const int64_t m = tile.row + row, line = m / w.count, image = line / h.count;
    const int64_t j = m - line * w.count, i = line - image * h.count;
    const int64_t at_h = i * h.step + h.offset, at_w = j * w.step + w.offset;
    const int64_t to_h = h.start + i * h.pitch, to_w = w.start + j * w.pitch;
    rows[row] = {.source = ((image * source.shape[2] + at_h) * source.shape[3] + at_w) * p.pixel,
                 .result = ((image * result.shape[2] + to_h) * result.shape[3] + to_w) * result.shape[1],
                 .h = int32_t(at_h),
                 .w = int32_t(at_w)};
    if (image >= result.shape[0]) rows[row] = {0, -1, INT32_MIN, INT32_MIN};  // no tap leads into the source
  }
  prim::block_sync();  // the table is there
}

// Position of an element of K: which tap along each axis, which channel.
struct TapChannel {
  int32_t r, s, channel;
};

LAMINA_PRIM TapChannel tap_channel(const prim::Divider& depth, int32_t taps_w, int64_t k) {
  const int32_t tap = int32_t(depth.quotient(k)), r = tap / taps_w;
  return {r, tap - r * taps_w, int32_t(k - tap * depth.divisor)};
}

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

template <class T>
LAMINA_PRIM PixelEpilogue<T> epilogue_of(const TapSum& p, const TapTile& tile, const PixelRow* rows) {
  const View& bias = p.a.bias;
  const int64_t channel = tile.group * p.columns;
  return {.rows = rows,
          .first_row = tile.row,
          .result = p.result().as<T>() + channel,
          .bias = {bias ? bias.as<const T>() + channel * bias.strides[0] : nullptr, 0, bias.strides[0]},
          .columns = p.columns};
}

// --- sums over pixels --------------------------------------------------------------------------------------------

// Backward to the weight, and to the bias where there is one. Sums of range i of the pixels lie at partial + i * size(),
// as (O, taps, depth) and (O).
struct PixelSum {
  Conv2dArgs a;
  int64_t filters, depth,
      columns;  // per group: rows; channels of x, perhaps with some that do not exist; columns
  int64_t pixels, range;
  int64_t tile_rows, tile_columns, row_tiles, column_tiles, splits = 1;
  prim::Divider image, line;  // pixels of an image and of a row of it

  PixelSum(const Conv2dArgs& a, int64_t depth, int64_t tile_rows, int64_t tile_columns)
      : a(a),
        filters(a.y.shape[1] / a.groups),
        depth(larger(1, depth)),
        columns(a.weight.shape[2] * a.weight.shape[3] * depth),
        pixels(a.y.shape[0] * a.y.shape[2] * a.y.shape[3]),
        range(pixels),
        tile_rows(tile_rows),
        tile_columns(tile_columns),
        row_tiles(ceil_div(filters, tile_rows)),
        column_tiles(larger(1, ceil_div(columns, tile_columns))),  // without channels there may be a bias
        image(larger(1, a.y.shape[2] * a.y.shape[3])),
        line(larger(1, a.y.shape[3])) {}

  // Cuts the pixels into about n ranges of whole slices, less than 2^31 each.
  void split(int64_t n, int64_t slice) {
    n = larger(n, ceil_div(pixels, 1 << 30));
    range = larger(slice, round_up(ceil_div(pixels, n), slice));
    splits = larger(1, ceil_div(pixels, range));
  }
  LAMINA_HD int64_t weights() const { return a.groups * filters * columns; }
  LAMINA_HD int64_t size() const { return weights() + (a.bias ? a.groups * filters : 0); }
  LAMINA_HD int64_t blocks() const { return splits * a.groups * row_tiles * column_tiles; }
};

struct PixelTile {
  int64_t row, column, group, split;
  int64_t first_pixel, pixels;

  // True iff the block has sums of dy to make, too.
  LAMINA_PRIM bool sums_dy(const PixelSum& p) const { return p.a.bias && column == 0; }
};

LAMINA_PRIM PixelTile tile_at(const PixelSum& p, int64_t block) {
  const int64_t rows = block / p.column_tiles, groups = rows / p.row_tiles, split = groups / p.a.groups;
  return {.row = rows % p.row_tiles * p.tile_rows,
          .column = block % p.column_tiles * p.tile_columns,
          .group = groups % p.a.groups,
          .split = split,
          .first_pixel = split * p.range,
          .pixels = smaller(p.range, p.pixels - split * p.range)};
}

// T: as many sums to a run as make 16 bytes of it.
template <class T>
LAMINA_PRIM Epilogue<T> epilogue_of(const PixelSum& p, const PixelTile& tile, Compute<T>* partial) {
  return {.partial = partial + tile.split * p.size() + tile.group * p.filters * p.columns,
          .M = p.filters,
          .N = p.columns};
}

// Where a block leaves the sum of dy of a filter: of its tile, which may reach beyond the group's last.
template <class S>
LAMINA_PRIM void put_sum_of_dy(const PixelSum& p, const PixelTile& tile, int64_t line, S sum, S* partial) {
  const int64_t filter = tile.row + line;
  if (filter < p.filters)
    partial[tile.split * p.size() + p.weights() + tile.group * p.filters + filter] = sum;
}

inline constexpr int sum_threads = 256;

// weight[o, c, r, s] and bias[o] from the partial sums of all ranges. Channels that do not exist are left out.
template <class T>
__global__ void __launch_bounds__(sum_threads) add_parts_kernel(PixelSum p, const Compute<T>* partial) {
  const View &weight = p.a.weight, &bias = p.a.bias;
  const int64_t size = p.size();
  for (int64_t i = int64_t(blockIdx.x) * sum_threads + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * sum_threads) {
    const int64_t tap = i / p.depth, c = i - tap * p.depth, row = tap / weight.shape[3],
                  s = tap - row * weight.shape[3];
    const int64_t o = row / weight.shape[2], r = row - o * weight.shape[2];
    const bool is_weight = i < p.weights();
    if (is_weight && c >= weight.shape[1]) continue;
    Compute<T> sum = 0;
    for (int64_t part = 0; part < p.splits; ++part) sum += partial[part * size + i];
    T* to = is_weight ? weight.as<T>() + o * weight.strides[0] + c * weight.strides[1] +
                            r * weight.strides[2] + s * weight.strides[3]
                      : bias.as<T>() + (i - p.weights()) * bias.strides[0];
    *to = prim::narrow<T>(sum);
  }
}

template <class T>
void add_parts(const PixelSum& p, const Compute<T>* partial) {
  launch("conv2d_add_parts", add_parts_kernel<T>,
         {.grid = {std::min(ceil_div(p.size(), sum_threads), most_blocks)}, .block = {sum_threads}}, p,
         partial);
}

// As many ranges of pixels as give every multiprocessor two blocks, each of 512 pixels or more, with partial sums of
// 128 MiB at most.
template <class T>
int64_t split_count(const PixelSum& p) {
  const int64_t wanted = ceil_div(2 * device_properties().sm_count, p.blocks());
  const int64_t affordable = (128 << 20) / (p.size() * int64_t(sizeof(Compute<T>)));
  return larger(1, std::min({wanted, affordable, p.pixels / 512}));
}

}  // namespace lamina::LAMINA_DEVICE
