// Convolutions as products (implicit.cuh) on the matrix units, whose loop is in kernels/gemm/mma_loop.cuh: bf16 and f16,
// and float32 as planes of bf16.
//
// Copies to shared memory bring chunks of eight channels. Pixels whose groups are not whole chunks at addresses of 16
// bytes, and all of float32, are first copied to such form, which costs a pass over them; so are weights that do not run
// along the source's channels. Chunks that lie outside the source or beyond the last tap become zeros.
//
//   over taps     both operands run along K: chunk k of a row is chunk k % chunks of tap k / chunks
//   over pixels   both run along their lines: a thread's chunk of dy or of x under a tap stays, and pixels pass by
#pragma once

#include <optional>

#include "kernels/conv2d/implicit.cuh"
#include "kernels/gemm/mma_loop.cuh"

namespace lamina::LAMINA_DEVICE {

// Pixels in chunks, (pixels, groups, chunks, 8) in each plane.
struct ChunkedPixels {
  const void* data = nullptr;
  int64_t plane_stride = 0, pixel = 0;  // in elements
  prim::Divider chunks{};               // of a group
};

// Filters in chunks: line (a column of the product) by row and column of the filter by chunk.
struct ChunkedFilters {
  const void* data = nullptr;
  int64_t plane_stride = 0, line_stride = 0, row_stride = 0, tap_stride = 0;
};

// --- sums over taps ----------------------------------------------------------------------------------------------

// What the loaders of both operands step through: this thread's chunk of a slice of K.
template <class Tile>
struct ChunkOfTaps {
  static constexpr int per_slice = Tile::A::chunks;
  prim::Divider chunks;
  int taps_w;
  int count;  // of K

  LAMINA_PRIM ChunkOfTaps(const TapTile& tile, const prim::Divider& chunks)
      : chunks(chunks), taps_w(tile.w.taps), count(tile.h.taps * tile.w.taps * int(chunks.divisor)) {}
  // False beyond the last tap.
  LAMINA_PRIM bool find(int64_t slice, TapChannel& at) const {
    const int chunk = int(slice) * per_slice + prim::thread() % per_slice;
    at = tap_channel(chunks, taps_w, chunk < count ? chunk : 0);
    return chunk < count;
  }
};

// The sums of three planes leave registers for the addresses of one pass.
template <class Tile, int passes>
inline constexpr int passes_at_a_time = Tile::planes == 3 ? 1 : passes;

template <class Tile>
struct SourceChunks {
  using Element = typename Tile::Element;
  static constexpr int rows_per_pass = Tile::threads / Tile::A::chunks,
                       passes = Tile::A::rows / rows_per_pass;
  static_assert(Tile::A::is_k_major && Tile::A::rows % rows_per_pass == 0);

  const PixelRow* rows;
  const Element* data;  // from the group's first channel on
  ChunkOfTaps<Tile> chunk;
  int64_t plane_stride;
  int pixel, H, W, step_h, step_w;

  LAMINA_PRIM SourceChunks(const TapTile& tile, const ChunkedPixels& p, const PixelRow* rows)
      : rows(rows + prim::thread() / Tile::A::chunks),
        data(static_cast<const Element*>(p.data) + tile.group * p.chunks.divisor * 8),
        chunk(tile, p.chunks),
        plane_stride(p.plane_stride),
        pixel(int(p.pixel)),
        H(tile.h.source),
        W(tile.w.source),
        step_h(tile.h.offset_step),
        step_w(tile.w.offset_step) {}

  LAMINA_PRIM void load(char (&tiles)[Tile::planes][Tile::A::bytes], int64_t slice) const {
    TapChannel at;
    const bool exists = chunk.find(slice, at);
    const int down = at.r * step_h, right = at.s * step_w;
    const Element* from = data + (int64_t(down) * W + right) * pixel + at.channel * 8;
#pragma unroll(passes_at_a_time<Tile, passes>)
    for (int pass = 0; pass < passes; ++pass) {
      const PixelRow& row = rows[pass * rows_per_pass];
      const bool is_inside = exists && uint32_t(row.h) + uint32_t(down) < uint32_t(H) &&
                             uint32_t(row.w) + uint32_t(right) < uint32_t(W);
      const int offset = Tile::A::offset(prim::thread() / Tile::A::chunks + pass * rows_per_pass,
                                         prim::thread() % Tile::A::chunks);
      const Element* p = is_inside ? from + row.source : data;
#pragma unroll
      for (int plane = 0; plane < Tile::planes; ++plane)
        prim::copy_async<16>(tiles[plane] + offset, p + plane * plane_stride, is_inside ? 16 : 0);
    }
  }
};

template <class Tile>
struct FilterChunks {
  using Element = typename Tile::Element;
  static constexpr int lines_per_pass = Tile::threads / Tile::B::chunks,
                       passes = Tile::B::rows / lines_per_pass;
  static_assert(Tile::B::is_k_major && Tile::B::rows % lines_per_pass == 0);

  const Element* data;  // this thread's first line, at the first tap of the phase
  ChunkOfTaps<Tile> chunk;
  int64_t plane_stride, line_stride, row_stride, tap_stride;
  int lines;  // from this thread's first on

  LAMINA_PRIM FilterChunks(const TapSum& p, const TapTile& tile, const ChunkedFilters& f,
                           const prim::Divider& chunks)
      : chunk(tile, chunks),
        plane_stride(f.plane_stride),
        line_stride(f.line_stride),
        row_stride(f.row_stride * tile.h.tap_step),
        tap_stride(f.tap_stride * tile.w.tap_step) {
    const int64_t line = tile.column + prim::thread() / Tile::B::chunks;
    data = static_cast<const Element*>(f.data) + (tile.group * p.columns + line) * f.line_stride +
           tile.h.tap * f.row_stride + tile.w.tap * f.tap_stride;
    lines = int(p.columns - line);
  }

  LAMINA_PRIM void load(char (&tiles)[Tile::planes][Tile::B::bytes], int64_t slice) const {
    TapChannel at;
    const bool exists = chunk.find(slice, at);
    const Element* from = data + at.r * row_stride + at.s * tap_stride + at.channel * 8;
#pragma unroll(passes_at_a_time<Tile, passes>)
    for (int pass = 0; pass < passes; ++pass) {
      const bool is_inside = exists && pass * lines_per_pass < lines;
      const int offset = Tile::B::offset(prim::thread() / Tile::B::chunks + pass * lines_per_pass,
                                         prim::thread() % Tile::B::chunks);
#pragma unroll
      for (int plane = 0; plane < Tile::planes; ++plane)
        prim::copy_async<16>(
            tiles[plane] + offset,
            from + (is_inside ? pass * lines_per_pass * line_stride : 0) + plane * plane_stride,
            is_inside ? 16 : 0);
    }
  }
};

// Sums that are not finite are computed again from the operands themselves: planes of infinities have products that
// plain multiplication has not, as inf * 0, and those next to the largest number overflow.
struct ExactTaps {
  PixelEpilogue<float> epilogue;
  const TapSum& p;
  const TapTile& tile;

  template <int Run>
  LAMINA_PRIM void operator()(int64_t i, int64_t j, prim::Pack<float, Run> v) const {
    const PixelRow& row = epilogue.rows[i - epilogue.first_row];
#pragma unroll
    for (int n = 0; n < Run; ++n)
      if (!(prim::abs(v[n]) <= FLT_MAX) && row.result >= 0 && j + n < p.columns) v[n] = sum(row, j + n);
    epilogue(i, j, v);
  }

  LAMINA_PRIM float sum(const PixelRow& row, int64_t column) const {
    const Axis &h = tile.h, &w = tile.w;
    const View &source = p.source(), &result = p.result(), &weight = p.a.weight;
    const int64_t image = row.result / (result.shape[1] * result.shape[2] * result.shape[3]);
    const int64_t filter = tile.group * (p.is_backward ? p.depth : p.columns);
    float sum = 0;
#pragma unroll 1
    for (int64_t k = 0; k < h.taps * w.taps * p.depth; ++k) {
      const int64_t tap = k / p.depth, c = k - tap * p.depth, r = tap / w.taps, s = tap - r * w.taps;
      const int64_t at_h = row.h + r * h.offset_step, at_w = row.w + s * w.offset_step;
      const bool is_inside = at_h >= 0 && at_h < h.source && at_w >= 0 && at_w < w.source;
      const int64_t at = image * source.strides[0] + (tile.group * p.depth + c) * source.strides[1] +
                         at_h * source.strides[2] + at_w * source.strides[3];
      const int64_t o = filter + (p.is_backward ? c : column), channel = p.is_backward ? column : c;
      const float factor = weight.as<const float>()[o * weight.strides[0] + channel * weight.strides[1] +
                                                    (h.tap + r * h.tap_step) * weight.strides[2] +
                                                    (w.tap + s * w.tap_step) * weight.strides[3]];
      sum = prim::fma(is_inside ? source.as<const float>()[at] : 0.0f, factor, sum);
    }
    return sum;
  }
};

template <class Tile>
struct TapSumMmaShared {
  MmaShared<Tile> tiles;
  PixelRow rows[Tile::M];
};

// T: of the result.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    tap_sum_mma_kernel(TapSum p, ChunkedPixels pixels, ChunkedFilters filters) {
  static_assert(sizeof(TapSumMmaShared<Tile>) <= 99 << 10, "what a block of sm_86 or sm_120 may have");
  auto& shared = prim::shared_memory<TapSumMmaShared<Tile>>();
  const int64_t block = prim::block();
  if (block >= p.blocks()) return;
  const TapTile tile = tile_at(p, block);
  if (!tile.exists) return;
  fill_rows(shared.rows, p, tile);
  const SourceChunks<Tile> a(tile, pixels, shared.rows);
  const FilterChunks<Tile> b(p, tile, filters, pixels.chunks);
  float sums[Tile::fragments_m][Tile::fragments_n][4] = {};
  multiply<Tile>(shared.tiles, (a.chunk.count + Tile::A::chunks - 1) / Tile::A::chunks, a, b, sums);
  const PixelEpilogue<T> epilogue = epilogue_of<T>(p, tile, shared.rows);
  if constexpr (dtype_of<T> == Dtype::float32)
    finish_fragments<T, Tile>(shared.tiles, sums, tile.row, tile.column, ExactTaps{epilogue, p, tile});
  else
    finish_fragments<T, Tile>(shared.tiles, sums, tile.row, tile.column, epilogue);
}

// --- sums over pixels --------------------------------------------------------------------------------------------

template <class Tile>
struct PixelChunks {
  using Element = typename Tile::Element;
  static constexpr int rows_per_pass = Tile::threads / Tile::B::chunks,
                       passes = Tile::B::rows / rows_per_pass;
  static_assert(!Tile::B::is_k_major && Tile::B::rows % rows_per_pass == 0);

  const Element* data;  // this thread's channels, at the first pixel of the source
  prim::Divider image, line;
  int64_t plane_stride, first_pixel;
  int pixels;  // that are left from this thread's first on
  int pixel;
  int stride_h, stride_w, offset_h, offset_w, H, W;

  LAMINA_PRIM PixelChunks(const PixelSum& p, const PixelTile& tile, const ChunkedPixels& x)
      : image(p.image),
        line(p.line),
        plane_stride(x.plane_stride),
        pixel(int(x.pixel)),
        stride_h(int(p.a.stride[0])),
        stride_w(int(p.a.stride[1])),
        H(int(p.a.x.shape[2])),
        W(int(p.a.x.shape[3])) {
    const int64_t chunk = tile.column / 8 + prim::thread() % Tile::B::chunks,
                  row = prim::thread() / Tile::B::chunks;
    const int64_t tap = x.chunks.quotient(chunk), S = p.a.weight.shape[3], r = tap / S, s = tap - r * S;
    data = static_cast<const Element*>(x.data) + tile.group * p.depth + (chunk - tap * x.chunks.divisor) * 8;
    first_pixel = tile.first_pixel + row;
    pixels = chunk * 8 < p.columns ? int(tile.pixels - row) : 0;
    offset_h = int(r * p.a.dilation[0] - p.a.padding[0]);
    offset_w = int(s * p.a.dilation[1] - p.a.padding[1]);
  }

  LAMINA_PRIM void load(char (&tiles)[Tile::planes][Tile::B::bytes], int64_t slice) const {
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int k = int(slice) * Tile::K + pass * rows_per_pass;
      const int64_t at = first_pixel + k, n = image.quotient(at), rest = at - n * image.divisor,
                    row = line.quotient(rest);
      const int h = int(row) * stride_h + offset_h, w = int(rest - row * line.divisor) * stride_w + offset_w;
      const bool is_inside = k < pixels && uint32_t(h) < uint32_t(H) && uint32_t(w) < uint32_t(W);
      const int offset = Tile::B::offset(prim::thread() / Tile::B::chunks + pass * rows_per_pass,
                                         prim::thread() % Tile::B::chunks);
      const Element* from = data + (is_inside ? ((n * H + h) * W + w) * pixel : 0);
#pragma unroll
      for (int plane = 0; plane < Tile::planes; ++plane)
        prim::copy_async<16>(tiles[plane] + offset, from + plane * plane_stride, is_inside ? 16 : 0);
    }
  }
};

// A pixel of y; in no image: none.
struct PixelPlace {
  int64_t image, h, w;
};

// The pixels of a tile's range, for what has to be summed again.
struct PixelRange {
  const PixelSum& p;
  const PixelTile& tile;

  LAMINA_PRIM int64_t count() const { return tile.pixels; }
  LAMINA_PRIM PixelPlace at(int64_t k) const {
    const int64_t pixel = tile.first_pixel + k, image = p.image.quotient(pixel);
    const int64_t rest = pixel - image * p.image.divisor, h = p.line.quotient(rest);
    return {image, h, rest - h * p.line.divisor};
  }
};

LAMINA_PRIM float dy_at(const PixelSum& p, const PixelTile& tile, const PixelPlace& at, int64_t filter) {
  const View& y = p.a.y;
  const int64_t pixel = (at.image * y.shape[2] + at.h) * y.shape[3] + at.w;
  return y.as<const float>()[pixel * y.shape[1] + tile.group * p.filters + filter];
}

// As ExactTaps.
template <class Range>
struct ExactPixels {
  Epilogue<float> epilogue;
  const PixelSum& p;
  const PixelTile& tile;
  Range range;

  template <int Run>
  LAMINA_PRIM void operator()(int64_t i, int64_t j, prim::Pack<float, Run> v) const {
#pragma unroll
    for (int n = 0; n < Run; ++n)
      if (!(prim::abs(v[n]) <= FLT_MAX) && i < p.filters && j + n < p.columns) v[n] = sum(i, j + n);
    epilogue(i, j, v);
  }

  LAMINA_PRIM float sum(int64_t filter, int64_t column) const {
    const View& x = p.a.x;
    const int64_t H = x.shape[2], W = x.shape[3], S = p.a.weight.shape[3], C = p.a.weight.shape[1];
    const int64_t tap = column / p.depth, c = column - tap * p.depth, r = tap / S, s = tap - r * S;
    float sum = 0;
#pragma unroll 1
    for (int64_t k = 0; c < C && k < range.count(); ++k) {
      const PixelPlace pixel = range.at(k);
      if (pixel.image < 0) continue;
      const int64_t h = pixel.h * p.a.stride[0] + r * p.a.dilation[0] - p.a.padding[0];
      const int64_t w = pixel.w * p.a.stride[1] + s * p.a.dilation[1] - p.a.padding[1];
      const bool is_inside = h >= 0 && h < H && w >= 0 && w < W;
      const int64_t at = pixel.image * x.strides[0] + (tile.group * C + c) * x.strides[1] + h * x.strides[2] +
                         w * x.strides[3];
      sum = prim::fma(dy_at(p, tile, pixel, filter), is_inside ? x.as<const float>()[at] : 0.0f, sum);
    }
    return sum;
  }
};

// The sums of dy that a tile's slices bring, which is A, by filters. A thread has two filters and every parts-th pixel.
template <class Tile>
struct SumsOfDy {
  using Element = typename Tile::Element;
  static constexpr int pairs = Tile::M / 2, parts = Tile::threads / pairs;
  static_assert(!Tile::A::is_k_major && Tile::threads % pairs == 0 && Tile::K % parts == 0);
  struct Shared {
    float at[parts][Tile::M];
  };
  float sum[2] = {};

  LAMINA_PRIM void add(const char (&planes)[Tile::planes][Tile::A::bytes]) {
    const int pair = prim::thread() % pairs;
    float of_slice[2] = {};
#pragma unroll
    for (int i = 0; i < Tile::K / parts; ++i) {
      const int offset = Tile::A::offset(prim::thread() / pairs + i * parts, pair / 4) + pair % 4 * 4;
      float dy[2] = {};
#pragma unroll
      for (int plane = Tile::planes - 1; plane >= 0; --plane) {
        const auto v =
            prim::widen(prim::load_vector<2>(reinterpret_cast<const Element*>(planes[plane] + offset)));
        dy[0] += v[0];
        dy[1] += v[1];
      }
      of_slice[0] += dy[0];
      of_slice[1] += dy[1];
    }
    sum[0] += of_slice[0];
    sum[1] += of_slice[1];
  }

  // Called by the whole block. T: of dy, from which sums that planes made not finite are made again.
  template <class T, class Range>
  LAMINA_PRIM void finish(Shared& shared, const PixelSum& p, const PixelTile& tile, const Range& range,
                          float* partial) const {
    const int line = prim::thread();
    for (int i = 0; i < 2; ++i) shared.at[line / pairs][line % pairs * 2 + i] = sum[i];
    prim::block_sync();  // the sums are there
    if (line < Tile::M && tile.row + line < p.filters) {
      float total = 0;
      for (int part = 0; part < parts; ++part) total += shared.at[part][line];
      if (dtype_of<T> == Dtype::float32 && !(prim::abs(total) <= FLT_MAX)) {
        total = 0;
#pragma unroll 1
        for (int64_t k = 0; k < range.count(); ++k)
          if (const PixelPlace at = range.at(k); at.image >= 0) total += dy_at(p, tile, at, tile.row + line);
      }
      put_sum_of_dy(p, tile, line, total, partial);
    }
    prim::block_sync();  // shared memory is free
  }
};

template <class Tile>
struct PixelSumMmaShared {
  union {
    MmaShared<Tile> tiles;
    typename SumsOfDy<Tile>::Shared sums;  // after the last slice
  };
  PixelTile tile;  // here, what only the epilogue needs takes no registers while the sums are made
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    pixel_sum_mma_kernel(PixelSum p, ChunkedPixels y, ChunkedPixels x, float* partial) {
  using Element = typename Tile::Element;
  auto& shared = prim::shared_memory<PixelSumMmaShared<Tile>>();
  const int64_t block = prim::block();
  if (block >= p.blocks()) return;
  if (prim::thread() == 0) shared.tile = tile_at(p, block);
  prim::block_sync();  // the tile is there
  const PixelTile& tile = shared.tile;
  const int64_t group_filters = y.chunks.divisor * 8;
  const Element* first = static_cast<const Element*>(y.data) + tile.first_pixel * y.pixel +
                         tile.group * group_filters + tile.row;
  const MatrixLoader<Element, typename Tile::A, Tile::planes, Tile::threads> a(
      first, 1, y.pixel, y.plane_stride, group_filters - tile.row, tile.pixels);
  const PixelChunks<Tile> b(p, tile, x);
  float sums[Tile::fragments_m][Tile::fragments_n][4] = {};
  SumsOfDy<Tile> sums_of_dy;
  const bool sums_dy = tile.sums_dy(p);
  multiply<Tile>(shared.tiles, int(ceil_div(tile.pixels, Tile::K)), a, b, sums, [&](const auto& stage) {
    if (sums_dy) sums_of_dy.add(stage.a);
  });
  const PixelRange range{p, tile};
  if (sums_dy) sums_of_dy.template finish<T>(shared.sums, p, tile, range, partial);
  const Epilogue<T> epilogue = epilogue_of<T>(p, tile, partial);
  if constexpr (dtype_of<T> == Dtype::float32)
    finish_fragments<T, Tile>(shared.tiles, sums, tile.row, tile.column,
                              ExactPixels{epilogue, p, tile, range});
  else
    finish_fragments<T, Tile>(shared.tiles, sums, tile.row, tile.column, epilogue);
}

// --- operands in chunks ------------------------------------------------------------------------------------------

// x = x0 + x1 + ... in planes of Element, `size` elements apart.
template <class Element, int Planes>
LAMINA_PRIM void store_planes(Element* to, int64_t size, prim::Pack<float, 8> x) {
#pragma unroll
  for (int plane = 0; plane < Planes; ++plane, to += size) {
    const prim::Pack<Element, 8> rounded = prim::narrow<Element>(x);
    prim::store_vector(to, rounded);
#pragma unroll
    for (int k = 0; k < 8; ++k) x[k] -= prim::widen(rounded[k]);
  }
}

template <class T, class Element, int Planes>
__global__ void __launch_bounds__(sum_threads)
    pack_pixels_kernel(const T* from, int64_t depth, int64_t chunks, int64_t size, Element* to) {
  for (int64_t i = int64_t(blockIdx.x) * sum_threads + threadIdx.x; i < size / 8;
       i += int64_t(gridDim.x) * sum_threads) {
    const int64_t group = i / chunks, c = (i - group * chunks) * 8;  // groups of all pixels
    const int n = int(smaller(8, depth - c));
    store_planes<Element, Planes>(to + i * 8, size, fetch<8>(Matrix<const T>{from, depth, 1}, group, c, n));
  }
}

// To (lines, R, S, chunks, 8) for all columns of the product, by groups.
template <class T, class Element, int Planes>
__global__ void __launch_bounds__(sum_threads)
    pack_filters_kernel(View weight, bool is_backward, int64_t columns, int64_t depth, int64_t chunks,
                        int64_t size, Element* to) {
  const int64_t S = weight.shape[3], taps = weight.shape[2] * S;
  for (int64_t i = int64_t(blockIdx.x) * sum_threads + threadIdx.x; i < size / 8;
       i += int64_t(gridDim.x) * sum_threads) {
    const int64_t at = i / chunks, k = (i - at * chunks) * 8, line = at / taps, tap = at - line * taps;
    const int64_t r = tap / S, group = line / columns, column = line - group * columns;
    const T* first = weight.as<const T>() + r * weight.strides[2] + (tap - r * S) * weight.strides[3];
    const Matrix<const T> m =  // rows: lines of the group; columns: channels of the source
        is_backward
            ? Matrix<const T>{first + group * depth * weight.strides[0], weight.strides[1], weight.strides[0]}
            : Matrix<const T>{first + group * columns * weight.strides[0], weight.strides[0],
                              weight.strides[1]};
    store_planes<Element, Planes>(to + i * 8, size, fetch<8>(m, column, k, int(smaller(8, depth - k))));
  }
}

// Operands as they are where they are in chunks, else copies of them.
template <class T, class Element, int Planes>
class Chunked {
 public:
  // Pixels of a dense channels-last view.
  ChunkedPixels pixels(const View& v, int64_t groups) {
    const int64_t depth = v.shape[1] / groups, chunks = ceil_div(depth, 8);
    const int64_t pixel = groups * chunks * 8, size = v.shape[0] * v.shape[2] * v.shape[3] * pixel;
    if (is_chunked_pixels<T>(v, groups)) return {v.data, 0, pixel, prim::Divider(chunks)};
    memory_.emplace(Planes * size);
    launch("conv2d_pack_pixels", pack_pixels_kernel<T, Element, Planes>, launch_of(size), v.as<const T>(),
           depth, chunks, size, memory_->data());
    return {memory_->data(), size, pixel, prim::Divider(chunks)};
  }

  ChunkedFilters filters(const TapSum& p) {
    const View& w = p.a.weight;
    const int64_t chunks = ceil_div(p.depth, 8), taps = w.shape[2] * w.shape[3];
    const int64_t size = p.a.groups * p.columns * taps * chunks * 8;
    if (!p.is_backward && is_chunked_weight<T>(w))
      return {w.data, 0, w.strides[0], w.strides[2], w.strides[3]};
    memory_.emplace(Planes * size);
    launch("conv2d_pack_filters", pack_filters_kernel<T, Element, Planes>, launch_of(size), w, p.is_backward,
           p.columns, p.depth, chunks, size, memory_->data());
    return {memory_->data(), size, taps * chunks * 8, w.shape[3] * chunks * 8, chunks * 8};
  }

 private:
  static Launch launch_of(int64_t size) {
    return {.grid = {std::min(ceil_div(size / 8, sum_threads), most_blocks)}, .block = {sum_threads}};
  }
  std::optional<DeviceScratch<Element>> memory_;
};

// --- launches ----------------------------------------------------------------------------------------------------

// Calls f(number of planes, Type<Element>) as constants.
template <class T, class F>
void with_planes(int planes, F f) {
  if constexpr (dtype_of<T> == Dtype::float32) {
    if (planes == 3) return f(std::integral_constant<int, 3>{}, Type<bf16>{});
    if (planes == 2) return f(std::integral_constant<int, 2>{}, Type<bf16>{});
    f(std::integral_constant<int, 1>{}, Type<bf16>{});
  } else {
    f(std::integral_constant<int, 1>{}, Type<T>{});
  }
}

// Two sets of sums, which planes need, leave registers for half as many per thread; three planes leave shared memory for
// two stages.
template <class Element, int Planes, bool is_large, bool is_k_major>
using ConvMmaTile = MmaTile<Element,
                            MmaShape{.m = is_large ? 128 : 64,
                                     .n = is_large ? 128 : 64,
                                     .warp_m = is_large ? 64 : 32,
                                     .warp_n = is_large && Planes == 1 ? 64 : 32,
                                     .planes = Planes,
                                     .stages = Planes == 3 ? 2 : 3},
                            is_k_major, is_k_major>;

template <class T, class Element, int Planes, bool is_large>
void launch_tap_sum_mma(const char* name, const Conv2dArgs& a, bool is_backward) {
  using Tile = ConvMmaTile<Element, Planes, is_large, true>;
  TapSum p(a, is_backward, Tile::M, Tile::N);
  Chunked<T, Element, Planes> source, weight;
  const ChunkedPixels pixels = source.pixels(p.source(), a.groups);
  p.pixel = pixels.pixel;
  launch(name, tap_sum_mma_kernel<T, Tile>,
         {.grid = grid_of(p.blocks()), .block = {Tile::threads}, .shared = sizeof(TapSumMmaShared<Tile>)}, p,
         pixels, weight.filters(p));
}

template <class T, class Element, int Planes, bool is_large>
void launch_pixel_sum_mma(const Conv2dArgs& a) {
  using Tile = ConvMmaTile<Element, Planes, is_large, false>;
  Chunked<T, Element, Planes> source, gradient;
  const ChunkedPixels x = source.pixels(a.x, a.groups), y = gradient.pixels(a.y, a.groups);
  PixelSum p(a, x.chunks.divisor * 8, Tile::M, Tile::N);
  p.split(split_count<float>(p), Tile::K);
  const DeviceScratch<float> partial(p.splits * p.size());
  launch("conv2d_backward_weight", pixel_sum_mma_kernel<T, Tile>,
         {.grid = grid_of(p.blocks()), .block = {Tile::threads}, .shared = sizeof(PixelSumMmaShared<Tile>)},
         p, y, x, partial.data());
  add_parts<T>(p, partial.data());
}

}  // namespace lamina::LAMINA_DEVICE
