// Convolutions of few channels (stems) as products (implicit.cuh) on the matrix units, with taps and channels as one axis:
//
//   over taps     y[m, n] = sum_k x[m, k] weight[n, k]       k = (r, s, c): 147 of them for 7 x 7 filters of an RGB image
//   over pixels   dweight[m, n] = sum_k dy[k, m] x[k, n]     n = (r, s, c), k: pixels of y
//
// In chunks of eight channels (mma.cuh) 392 elements stand for these 147, and x is copied to that form first. Here a block
// takes a rectangle of 128 pixels of y, and brings the patch of x under it to shared memory once, with zeros for the
// borders. Element (r, s, c) under pixel (i, j) lies at place(i, j) + step(r, s, c), two tables:
//
//       +-----------------+      place(i, j)    = (i sh patch_w + j sw) C
//       | x under         |      step(r, s, c)  = (r dh patch_w + s dw) C + c
//       |  the rectangle  |
//       +-----------------+      negative for what does not exist, so that a negative sum of both means zero
//
// Fragments of x are gathered from there, two bytes at a time: eight loads of a warp for 16 x 16 elements, which serve
// eight mma.sync against 64 filters, and lie on different banks for the usual strides. All weights stay in shared memory,
// and blocks go from rectangle to rectangle. x is read in any layout and any of the types; float32 becomes planes here.
//
// Traffic  x once or nearly (patches overlap by R - sh rows), y or dy once, weights once per block. Work: K is padded to
//   16, columns of dweight to 64, 160 or twice 96: 0.92 of the products of 7 x 7 x 3 taps count, against 0.35 in chunks.
#pragma once

#include "kernels/conv2d/mma.cuh"

namespace lamina::LAMINA_DEVICE {

inline constexpr int stem_pixels = 128, stem_filters = 64, stem_threads = 128;
inline constexpr int64_t most_of_stem_line = 1 << 14;  // elements of a line of a patch
inline constexpr int no_place = INT32_MIN / 2;         // stays negative when a place or a step is added

// How the pixels of y are cut into rectangles of tile_h x tile_w, and what these read.
struct StemTiles {
  int tile_w, tile_h, patch_h, patch_w;  // tile_w a power of two
  int64_t rows, columns, count;          // of rectangles: of an image, and of all
  uint32_t inverse_depth;                // e / C = e * inverse_depth >> 18 for all e < 2^14

  explicit StemTiles(const Conv2dArgs& a) {
    const auto tiles = [&](int w) {
      return ceil_div(a.y.shape[2], stem_pixels / w) * ceil_div(a.y.shape[3], w);
    };
    tile_w = 16;  // the smallest patches
    for (int w : {8, 32, 64, 128, 4, 2, 1})
      if (tiles(w) < tiles(tile_w)) tile_w = w;
    tile_h = stem_pixels / tile_w;
    const auto reach = [&](int d, int tile) {
      return int((tile - 1) * a.stride[d] + (a.weight.shape[2 + d] - 1) * a.dilation[d] + 1);
    };
    patch_h = reach(0, tile_h);
    patch_w = reach(1, tile_w);
    rows = ceil_div(a.y.shape[2], tile_h);
    columns = ceil_div(a.y.shape[3], tile_w);
    count = a.y.shape[0] * rows * columns;
    inverse_depth = uint32_t(ceil_div(1 << 18, larger(1, a.x.shape[1])));
  }
};

// A rectangle, and one of its pixels.
struct StemTile {
  int64_t image;
  int row, column;
};
LAMINA_PRIM StemTile tile_at(const StemTiles& t, int64_t index) {
  const int64_t line = index / t.columns, image = line / t.rows;
  return {.image = image,
          .row = int(line - image * t.rows) * t.tile_h,
          .column = int(index - line * t.columns) * t.tile_w};
}
struct StemPixel {
  int i, j;  // in the rectangle
  bool exists;
};
LAMINA_PRIM StemPixel pixel_of(const Conv2dArgs& a, const StemTiles& t, const StemTile& tile, int pixel) {
  const int i = pixel / t.tile_w, j = pixel % t.tile_w;
  return {i, j, tile.row + i < a.y.shape[2] && tile.column + j < a.y.shape[3]};
}
LAMINA_PRIM int place_of(const Conv2dArgs& a, const StemTiles& t, int i, int j) {
  return (i * int(a.stride[0]) * t.patch_w + j * int(a.stride[1])) * int(a.x.shape[1]);
}

// Element k of (R, S, C).
struct StemTap {
  int r, s, c;
};
LAMINA_PRIM StemTap tap_at(const Conv2dArgs& a, int k) {
  const int C = int(a.x.shape[1]), S = int(a.weight.shape[3]), tap = k / C, r = tap / S;
  return {r, tap - r * S, k - tap * C};
}
LAMINA_PRIM int step_of(const Conv2dArgs& a, const StemTiles& t, int k, int count) {
  if (k >= count) return no_place;
  const StemTap at = tap_at(a, k);
  return (at.r * int(a.dilation[0]) * t.patch_w + at.s * int(a.dilation[1])) * int(a.x.shape[1]) + at.c;
}

// Elements of a patch, to a multiple of 16 bytes.
LAMINA_HD inline int patch_size(const Conv2dArgs& a, const StemTiles& t) {
  return int(round_up(t.patch_h * t.patch_w * a.x.shape[1], 8));
}

template <class T, class Element, int Planes>
LAMINA_PRIM void load_patch(const Conv2dArgs& a, const StemTiles& t, const StemTile& tile, Element* patch) {
  const int C = int(a.x.shape[1]), size = patch_size(a, t);
  const int64_t top = int64_t(tile.row) * a.stride[0] - a.padding[0],
                left = int64_t(tile.column) * a.stride[1] - a.padding[1];
  for (int i = prim::warp(); i < t.patch_h; i += stem_threads / prim::warp_size) {
    const int64_t h = top + i;
    const T* line = a.x.as<const T>() + tile.image * a.x.strides[0] + h * a.x.strides[2];
    const bool has_line = uint64_t(h) < uint64_t(a.x.shape[2]);
#pragma unroll 4
    for (int e = prim::lane(); e < t.patch_w * C; e += prim::warp_size) {
      const int j = int(uint32_t(e) * t.inverse_depth >> 18), c = e - j * C;
      const int64_t w = left + j;
      float x = 0;
      if (has_line && uint64_t(w) < uint64_t(a.x.shape[3]))
        x = prim::widen(line[w * a.x.strides[3] + c * a.x.strides[1]]);
#pragma unroll
      for (int plane = 0; plane < Planes; ++plane) {
        const Element rounded = prim::narrow<Element>(x);
        patch[plane * size + i * t.patch_w * C + e] = rounded;
        x -= prim::widen(rounded);
      }
    }
  }
}

// Two neighbours along K of a fragment, in one register.
template <class Element>
LAMINA_PRIM uint32_t gather(const Element* patch, int first, int second) {
  const auto* bits = reinterpret_cast<const uint16_t*>(patch);
  const uint32_t low = first >= 0 ? bits[first] : 0, high = second >= 0 ? bits[second] : 0;
  return low | high << 16;
}

// Of K, the four elements of a fragment that a lane has: 2t, 2t + 1, 2t + 8, 2t + 9.
struct FourOfK {
  prim::Pack<int, 2> low, high;
  LAMINA_PRIM FourOfK(const int* table, int k)
      : low(prim::load_vector<2>(table + k + prim::lane() % 4 * 2)),
        high(prim::load_vector<2>(table + k + prim::lane() % 4 * 2 + 8)) {}
};

// --- sums over taps ----------------------------------------------------------------------------------------------

struct StemRows {
  PixelRow rows[stem_pixels];
};
using StemPatches = Patch<float, 16, stem_filters>[stem_threads / prim::warp_size];
using StemWeights = MmaOperand<stem_filters, 16, true>;

// Shared memory: rows, weights by slices of 16 and planes, steps; then the patch of a rectangle, and after it its sums.
struct Stem {
  TapSum sum;
  StemTiles tiles;
  int K, slices, steps_at, patch_at;
  int64_t bytes;

  Stem(const Conv2dArgs& a, int planes)
      : sum(a, false, stem_pixels, stem_filters),
        tiles(a),
        K(int(a.weight.shape[1] * a.weight.shape[2] * a.weight.shape[3])),
        slices(int(ceil_div(K, 16))),
        steps_at(int(sizeof(StemRows)) + slices * planes * StemWeights::bytes),
        patch_at(steps_at + slices * 16 * int(sizeof(int))),
        bytes(patch_at + larger(patch_size(a, tiles) * planes * 2, sizeof(StemPatches))) {}
};

// Blocks that an SM's registers are to suffice for; the sums of float32 may have to be made again, which takes some.
template <class T, int Planes>
inline constexpr int stem_blocks = Planes > 1       ? 2
                                   : sizeof(T) == 4 ? 3
                                                    : 4;

// T: of x, weight and y. Block (i, j): rectangles i, i + gridDim.x, ...; filters from 64 j on.
template <class T, class Element, int Planes>
__global__ void __launch_bounds__(stem_threads, stem_blocks<T, Planes>) stem_kernel(Stem p) {
  const Conv2dArgs& a = p.sum.a;
  const View& weight = a.weight;
  char* const memory = &prim::shared_memory<char>();
  PixelRow* const rows = reinterpret_cast<StemRows*>(memory)->rows;
  char* const weights = memory + sizeof(StemRows);
  int* const steps = reinterpret_cast<int*>(memory + p.steps_at);
  Element* const patch = reinterpret_cast<Element*>(memory + p.patch_at);
  auto& patches = *reinterpret_cast<StemPatches*>(patch);
  const int first_filter = int(blockIdx.y) * stem_filters, size = patch_size(a, p.tiles);

  for (int k = prim::thread(); k < p.slices * 16; k += stem_threads) {
    steps[k] = step_of(a, p.tiles, k, p.K);
    const StemTap at = tap_at(a, k);
    const T* from =
        weight.as<const T>() + at.c * weight.strides[1] + at.r * weight.strides[2] + at.s * weight.strides[3];
    const int lines = k < p.K ? int(smaller(stem_filters, weight.shape[0] - first_filter)) : 0;
#pragma unroll 8
    for (int line = 0; line < stem_filters; ++line) {
      float w = line < lines ? prim::widen(from[(first_filter + line) * weight.strides[0]]) : 0.0f;
#pragma unroll
      for (int plane = 0; plane < Planes; ++plane) {
        const Element rounded = prim::narrow<Element>(w);
        char* to = weights + (k / 16 * Planes + plane) * StemWeights::bytes + k % 8 * 2;
        *reinterpret_cast<Element*>(to + StemWeights::offset(line, k % 16 / 8)) = rounded;
        w -= prim::widen(rounded);
      }
    }
  }

  constexpr int fragments_m = stem_pixels / prim::warp_size * 8 / 16, fragments_n = stem_filters / 8;
  static_assert(stem_threads == stem_pixels && fragments_m == 2);
  const int first_row = prim::warp() * prim::warp_size;
  int places[fragments_m][2];
#pragma unroll
  for (int i = 0; i < fragments_m; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + i * 16 + half * 8 + prim::lane() / 4;
      places[i][half] = place_of(a, p.tiles, row / p.tiles.tile_w, row % p.tiles.tile_w);
    }

  for (int64_t index = blockIdx.x; index < p.tiles.count; index += gridDim.x) {
    const StemTile tile = tile_at(p.tiles, index);
    const StemPixel mine = pixel_of(a, p.tiles, tile, prim::thread());
    const int h = tile.row + mine.i, w = tile.column + mine.j;
    prim::block_sync();  // all have left the patches, and the rows
    rows[prim::thread()] = {
        .source = 0,
        .result = mine.exists ? ((tile.image * a.y.shape[2] + h) * a.y.shape[3] + w) * a.y.shape[1] : -1,
        .h = int32_t(h * a.stride[0] - a.padding[0]),
        .w = int32_t(w * a.stride[1] - a.padding[1])};
    load_patch<T, Element, Planes>(a, p.tiles, tile, patch);
    prim::block_sync();  // weights, steps, rows and the patch are there

    float sums[fragments_m][fragments_n][4] = {}, recent[fragments_m][fragments_n][4] = {};
    for (int slice = 0; slice < p.slices; ++slice) {
      uint32_t b[Planes][fragments_n / 2][4];
#pragma unroll
      for (int plane = 0; plane < Planes; ++plane)
#pragma unroll
        for (int j = 0; j < fragments_n / 2; ++j)
          load_fragment<StemWeights, false>(
              b[plane][j], weights + (slice * Planes + plane) * StemWeights::bytes, j * 16, 0);
      const FourOfK step(steps, slice * 16);
#pragma unroll
      for (int i = 0; i < fragments_m; ++i) {
        uint32_t x[Planes][4];
#pragma unroll
        for (int plane = 0; plane < Planes; ++plane)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const Element* from = patch + plane * size;
            const int place = places[i][half];
            x[plane][half] = gather(from, place + step.low[0], place + step.low[1]);
            x[plane][half + 2] = gather(from, place + step.high[0], place + step.high[1]);
          }
        multiply_fragments<Element>(Planes == 1 ? sums[i] : recent[i], x, b);
      }
      if (Planes > 1 && (slice % slices_per_sum<16> == slices_per_sum<16> - 1 || slice == p.slices - 1))
        add_recent(sums, recent);
    }
    prim::block_sync();  // all have left the patch
    const TapTile whole = {.row = 0,
                           .column = first_filter,
                           .group = 0,
                           .h = p.sum.axis(0, 0),
                           .w = p.sum.axis(1, 0),
                           .exists = true};
    const PixelEpilogue<T> epilogue = epilogue_of<T>(p.sum, whole, rows);
    if constexpr (dtype_of<T> == Dtype::float32)
      finish_fragments<T>(patches[prim::warp()], sums, first_row, first_filter,
                          ExactTaps{epilogue, p.sum, whole});
    else
      finish_fragments<T>(patches[prim::warp()], sums, first_row, first_filter, epilogue);
  }
}

// --- sums over pixels --------------------------------------------------------------------------------------------

// Fragments along the columns of a warp: those of 64 columns, or more; planes need a second set of sums.
inline constexpr int narrow_stem = 2;
constexpr int wide_stem(int planes) { return planes == 1 ? 5 : 3; }
constexpr int stem_columns(int fragments) { return stem_threads / prim::warp_size * 8 * fragments; }

// At most.
inline int64_t stem_gradient_bytes(const Conv2dArgs& a, const StemTiles& t, int planes) {
  return planes * 2 * (stem_pixels * stem_filters + patch_size(a, t)) + 1024;
}

// Rectangles of pixels as the K of PixelSum, whose ranges are of `range` rectangles.
struct StemGradient {
  PixelSum sum;
  StemTiles tiles;
  int64_t range;
};

// As much of an MmaTile as the sums of dy ask for; the four warps lie along the columns.
template <class Element_, int Planes, int FragmentsN>
struct StemGradientTile {
  using Element = Element_;
  static constexpr int M = stem_filters, K = stem_pixels, planes = Planes, threads = stem_threads;
  static constexpr int fragments_m = M / 16, fragments_n = FragmentsN, warp_n = 8 * FragmentsN;
  static constexpr int N = stem_columns(FragmentsN);
  using A = MmaOperand<M, K, false>;
};

template <class Tile>
struct StemGradientShared {
  union {
    char dy[Tile::planes][Tile::A::bytes];
    Patch<float, 16, Tile::warp_n> patches[Tile::threads / prim::warp_size];  // after the last rectangle
    typename SumsOfDy<Tile>::Shared sums;
  };
  int places[Tile::K];
  alignas(16) typename Tile::Element patch[1];  // as many as the launch gives
};

// The pixels of a range, in any order, for what has to be summed again.
struct StemRange {
  const StemGradient& p;
  int64_t split;

  LAMINA_PRIM int64_t count() const {
    return (smaller(p.tiles.count, (split + 1) * p.range) - split * p.range) * stem_pixels;
  }
  LAMINA_PRIM PixelPlace at(int64_t k) const {
    const StemTile tile = tile_at(p.tiles, split * p.range + k / stem_pixels);
    const StemPixel pixel = pixel_of(p.sum.a, p.tiles, tile, int(k % stem_pixels));
    return {pixel.exists ? tile.image : -1, tile.row + pixel.i, tile.column + pixel.j};
  }
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, 2) stem_gradient_kernel(StemGradient p, float* partial) {
  using Element = typename Tile::Element;
  constexpr int planes = Tile::planes, fragments_m = Tile::fragments_m, fragments_n = Tile::fragments_n;
  const Conv2dArgs& a = p.sum.a;
  auto& shared = prim::shared_memory<StemGradientShared<Tile>>();
  const int64_t block = prim::block();
  if (block >= p.sum.blocks()) return;
  const PixelTile at = tile_at(p.sum, block);
  const bool sums_dy = at.sums_dy(p.sum);
  const int size = patch_size(a, p.tiles), column = int(at.column) + prim::warp() * Tile::warp_n;
  int steps[fragments_n];
#pragma unroll
  for (int j = 0; j < fragments_n; ++j)
    steps[j] = step_of(a, p.tiles, column + j * 8 + prim::lane() / 4, int(p.sum.columns));

  float sums[fragments_m][fragments_n][4] = {}, recent[fragments_m][fragments_n][4] = {};
  SumsOfDy<Tile> sums_of_dy;
  const int64_t last = smaller(p.tiles.count, (at.split + 1) * p.range);
  for (int64_t index = at.split * p.range; index < last; ++index) {
    const StemTile tile = tile_at(p.tiles, index);
    prim::block_sync();  // all have left the patch and dy
    const StemPixel mine = pixel_of(a, p.tiles, tile, prim::thread());
    shared.places[prim::thread()] = mine.exists ? place_of(a, p.tiles, mine.i, mine.j) : no_place;
    load_patch<T, Element, planes>(a, p.tiles, tile, shared.patch);
#pragma unroll 4
    for (int i = prim::thread(); i < Tile::K * Tile::A::chunks; i += Tile::threads) {
      const int pixel = i / Tile::A::chunks, chunk = i % Tile::A::chunks;
      const StemPixel its = pixel_of(a, p.tiles, tile, pixel);
      const int64_t filter = at.row + chunk * 8;
      const int n = its.exists && filter < p.sum.filters ? int(smaller(8, p.sum.filters - filter)) : 0;
      const int64_t place =
          (tile.image * a.y.shape[2] + tile.row + its.i) * a.y.shape[3] + tile.column + its.j;
      const Matrix<const T> dy = {a.y.as<const T>(), a.y.shape[1], 1};
      store_planes<Element, planes>(reinterpret_cast<Element*>(shared.dy[0] + Tile::A::offset(pixel, chunk)),
                                    Tile::A::bytes / 2,
                                    n > 0 ? fetch<8>(dy, place, filter, n) : prim::Pack<float, 8>{});
    }
    prim::block_sync();  // places, the patch and dy are there
    if (sums_dy) sums_of_dy.add(shared.dy);
#pragma unroll 1
    for (int k = 0; k < Tile::K; k += 16) {
      const FourOfK place(shared.places, k);
      uint32_t b[planes][(fragments_n + 1) / 2][4];
#pragma unroll
      for (int plane = 0; plane < planes; ++plane)
#pragma unroll
        for (int j = 0; j < fragments_n; ++j) {
          const Element* from = shared.patch + plane * size;
          b[plane][j / 2][j % 2 * 2] = gather(from, place.low[0] + steps[j], place.low[1] + steps[j]);
          b[plane][j / 2][j % 2 * 2 + 1] = gather(from, place.high[0] + steps[j], place.high[1] + steps[j]);
        }
#pragma unroll
      for (int i = 0; i < fragments_m; ++i) {
        uint32_t dy[planes][4];
#pragma unroll
        for (int plane = 0; plane < planes; ++plane)
          load_fragment<typename Tile::A, true>(dy[plane], shared.dy[plane], i * 16, k);
        multiply_fragments<Element>(planes == 1 ? sums[i] : recent[i], dy, b);
      }
      if (planes > 1 && k % 64 == 48) add_recent(sums, recent);
    }
  }
  prim::block_sync();  // all have left dy
  const StemRange range{p, at.split};
  if (sums_dy) sums_of_dy.template finish<T>(shared.sums, p.sum, at, range, partial);
  const Epilogue<T> epilogue = epilogue_of<T>(p.sum, at, partial);
  if constexpr (dtype_of<T> == Dtype::float32)
    finish_fragments<T>(shared.patches[prim::warp()], sums, at.row, column,
                        ExactPixels{epilogue, p.sum, at, range});
  else
    finish_fragments<T>(shared.patches[prim::warp()], sums, at.row, column, epilogue);
}

// --- launches ----------------------------------------------------------------------------------------------------

template <class T, class Element, int Planes>
void launch_stem(const char* name, const Conv2dArgs& a) {
  const Stem p(a, Planes);
  const int64_t filter_tiles = ceil_div(a.y.shape[1], stem_filters);
  const int64_t blocks = ceil_div(device_properties().sm_count * stem_blocks<T, Planes>, filter_tiles);
  launch(
      name, stem_kernel<T, Element, Planes>,
      {.grid = {std::min(p.tiles.count, blocks), filter_tiles}, .block = {stem_threads}, .shared = p.bytes},
      p);
}

template <class T, class Element, int Planes, int FragmentsN>
void launch_stem_gradient(const Conv2dArgs& a) {
  using Tile = StemGradientTile<Element, Planes, FragmentsN>;
  StemGradient p = {PixelSum(a, a.x.shape[1], Tile::M, Tile::N), StemTiles(a), 0};
  p.range = ceil_div(p.tiles.count, split_count<float>(p.sum));
  p.sum.splits = ceil_div(p.tiles.count, p.range);
  const DeviceScratch<float> partial(p.sum.splits * p.sum.size());
  launch("conv2d_backward_weight", stem_gradient_kernel<T, Tile>,
         {.grid = grid_of(p.sum.blocks()),
          .block = {Tile::threads},
          .shared = int64_t(sizeof(StemGradientShared<Tile>)) +
                    patch_size(a, p.tiles) * Planes * int64_t(sizeof(Element))},
         p, partial.data());
  add_parts<T>(p.sum, partial.data());
}

}  // namespace lamina::LAMINA_DEVICE
