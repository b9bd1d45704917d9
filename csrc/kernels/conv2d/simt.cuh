// Convolutions as products (implicit.cuh) on the ordinary cores, whose loop is in kernels/gemm/simt.cuh: for every shape
// and type. Elements of the source and of the weights are loaded one by one.
#pragma once

#include "kernels/conv2d/implicit.cuh"
#include "kernels/gemm/simt.cuh"

namespace lamina::LAMINA_DEVICE {

// --- sums over taps ----------------------------------------------------------------------------------------------

// A: the source under the taps. Neighbouring threads have neighbouring channels.
template <class T, class Tile>
struct SourceLoader {
  static constexpr int line_step = Tile::threads / Tile::K, count = Tile::M / line_step;
  static_assert(Tile::M % line_step == 0);

  const PixelRow* rows;
  const T* source;  // from the group's first channel on
  prim::Divider depth;
  int taps_w, H, W, step_h, step_w;
  int64_t pixel, k;
  Compute<T> v[count] = {};

  LAMINA_PRIM SourceLoader(const TapSum& p, const TapTile& tile, const prim::Divider& depth,
                           const PixelRow* rows)
      : rows(rows + prim::thread() / Tile::K),
        source(p.source().as<const T>() + tile.group * p.depth),
        depth(depth),
        taps_w(tile.w.taps),
        H(tile.h.source),
        W(tile.w.source),
        step_h(tile.h.offset_step),
        step_w(tile.w.offset_step),
        pixel(p.pixel),
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
  int taps_w;
  int line, line_step, first_k, k_step, lines;
  int64_t k = 0;  // of the next slice
  Compute<T> v[count] = {};

  LAMINA_PRIM WeightLoader(const TapSum& p, const TapTile& tile, const prim::Divider& depth)
      : depth(depth), taps_w(tile.w.taps) {
    const View& filters = p.a.weight;
    const Axis &h = tile.h, &w = tile.w;
    // Forward: columns are filters of the group. Backward: columns are channels, and K runs over filters.
    const int64_t column_stride = filters.strides[p.is_backward ? 1 : 0];
    const int64_t first_filter = tile.group * (p.is_backward ? p.depth : p.columns);
    channel_stride = filters.strides[p.is_backward ? 0 : 1];
    row_stride = h.tap_step * filters.strides[2];
    tap_stride = w.tap_step * filters.strides[3];
    const bool runs_along_k = channel_stride < column_stride;
    line = runs_along_k ? prim::thread() / Tile::K : prim::thread() % Tile::N;
    line_step = runs_along_k ? Tile::threads / Tile::K : 0;
    first_k = runs_along_k ? prim::thread() % Tile::K : prim::thread() / Tile::N;
    k_step = runs_along_k ? 0 : Tile::threads / Tile::N;
    lines = int(smaller(Tile::N, p.columns - tile.column));
    column_step = line_step * column_stride;
    weight = filters.as<const T>() + first_filter * filters.strides[0] +
             (tile.column + line) * column_stride + h.tap * filters.strides[2] + w.tap * filters.strides[3];
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

template <class T, class Tile>
struct TapSumShared {
  SimtShared<T, Tile> tiles;
  PixelRow rows[Tile::M];
  TapTile tile;  // here, what only the epilogue needs takes no registers while the sums are made
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, blocks_per_sm<T, Tile>(512))
    tap_sum_kernel(TapSum p, prim::Divider depth) {
  auto& shared = prim::shared_memory<TapSumShared<T, Tile>>();
  if (prim::block() >= p.blocks()) return;
  if (prim::thread() == 0) shared.tile = tile_at(p, prim::block());
  prim::block_sync();  // the tile is there
  const TapTile& tile = shared.tile;
  if (!tile.exists) return;
  fill_rows(shared.rows, p, tile);
  SourceLoader<T, Tile> source(p, tile, depth, shared.rows);
  WeightLoader<T, Tile> weight(p, tile, depth);
  SimtSums<T, Tile> total = {};
  multiply<T, Tile>(shared.tiles, tile.h.taps * tile.w.taps * p.depth, source, weight, total);
  finish_tile<T, Tile>(shared.tiles, total, tile.row, tile.column, epilogue_of<T>(p, tile, shared.rows));
}

// --- sums over pixels --------------------------------------------------------------------------------------------

// A: dy by pixels. A thread keeps its filter, of which it sums what it loads.
template <class T, class Tile>
struct GradientLoader : SliceLoader<T, Tile::K, Tile::M, Tile::threads> {
  using Loader = SliceLoader<T, Tile::K, Tile::M, Tile::threads>;
  bool sums;
  Compute<T> sum = 0;

  LAMINA_PRIM GradientLoader(const PixelSum& p, const PixelTile& tile)
      : Loader(p.a.y.as<const T>() + tile.first_pixel * p.a.y.shape[1] + tile.group * p.filters + tile.row, 1,
               p.a.y.shape[1], p.filters - tile.row),
        sums(tile.sums_dy(p)) {}

  LAMINA_PRIM void load(int64_t left) {
    Loader::load(left);
    if (!sums) return;
    Compute<T> of_slice = 0;
#pragma unroll
    for (const Compute<T>& v : this->v) of_slice += v;
    sum += of_slice;
  }
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

  LAMINA_PRIM PixelLoader(const PixelSum& p, const PixelTile& tile)
      : image(p.image),
        line(p.line),
        stride_h(int32_t(p.a.stride[0])),
        stride_w(int32_t(p.a.stride[1])),
        H(int32_t(p.a.x.shape[2])),
        W(int32_t(p.a.x.shape[3])),
        pixel(p.a.x.shape[1]) {
    const int64_t mine = tile.column + prim::thread() % Tile::N;
    const int64_t S = p.a.weight.shape[3], tap = mine / p.depth, r = tap / S, s = tap - r * S;
    x = p.a.x.as<const T>() + tile.group * p.depth + (mine - tap * p.depth);
    k = tile.first_pixel + prim::thread() / Tile::N;
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
struct PixelSumShared {
  SimtShared<T, Tile> tiles;
  PixelTile tile;
  Compute<T> sums_of_dy[Tile::threads];
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, blocks_per_sm<T, Tile>(384))
    pixel_sum_kernel(PixelSum p, Compute<T>* partial) {
  auto& shared = prim::shared_memory<PixelSumShared<T, Tile>>();
  if (prim::block() >= p.blocks()) return;
  if (prim::thread() == 0) shared.tile = tile_at(p, prim::block());
  prim::block_sync();  // the tile is there
  const PixelTile& tile = shared.tile;
  GradientLoader<T, Tile> dy(p, tile);
  PixelLoader<T, Tile> x(p, tile);
  SimtSums<T, Tile> total = {};
  multiply<T, Tile>(shared.tiles, tile.pixels, dy, x, total);
  finish_tile<T, Tile>(shared.tiles, total, tile.row, tile.column, epilogue_of<T>(p, tile, partial));
  if (!tile.sums_dy(p)) return;
  shared.sums_of_dy[prim::thread()] = dy.sum;
  prim::block_sync();  // the sums are there; those of a filter are Tile::M apart
  if (prim::thread() >= Tile::M) return;
  Compute<T> sum = 0;
  for (int i = prim::thread(); i < Tile::threads; i += Tile::M) sum += shared.sums_of_dy[i];
  put_sum_of_dy(p, tile, prim::thread(), sum, partial);
}

}  // namespace lamina::LAMINA_DEVICE
