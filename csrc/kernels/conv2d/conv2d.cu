// Convolutions on a device; kernels/conv2d/conv2d.h has the mathematics.
#include "kernels/conv2d/conv2d.h"

#include <algorithm>

#include "kernels/conv2d/depthwise.cuh"
#include "kernels/conv2d/simt.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int64_t most_blocks = 1 << 24;  // launches take more tiles in turns

using SmallTile = SimtTile<32, 64, 4, 4>;
using LargeTile = SimtTile<128, 64, 8, 8>;

// Threads of a block over channels (x) and what is joined or shared along y.
Extent block_over_channels(int64_t channels, int64_t threads) {
  int64_t width = 32;
  while (width / 2 >= channels && width > 1) width /= 2;
  return {width, threads / width};
}

// Positions within a plane and channels are 32-bit numbers in kernels; elements are counted in 64.
void check_extents(const Conv2dArgs& a) {
  constexpr int64_t most = 1 << 30;
  for (const View* v : {&a.x, &a.y})
    for (int d = 1; d < 4; ++d)
      check(v->shape[d] < most, "conv2d", "an operand is ", *v,
            "; expected channels, rows and columns of less than ", most, " on this device");
}

bool is_depthwise(const Conv2dArgs& a) {
  return a.groups > 1 && a.groups == a.x.shape[1] && a.groups == a.y.shape[1];
}

// Calls f(V) with the channels in 16 bytes, if x and y can be read so.
template <class T, class F>
void with_pack(const Conv2dArgs& a, F f) {
  constexpr int V = prim::vector_of<T>;
  if (a.x.shape[1] % V == 0 && prim::is_aligned(a.x.as<T>()) && prim::is_aligned(a.y.as<T>()))
    f(std::integral_constant<int, V>{});
  else
    f(std::integral_constant<int, 1>{});
}

// --- Forward, and backward to the input: sums over taps ----------------------------------------------------------

template <class T, int V, int Taps, int Step>
void launch_depthwise(const char* name, const TapSum& p, const Compute<T>* weights) {
  const View& result = p.result();
  const Extent block = block_over_channels(result.shape[1] / V, depthwise_threads);
  const int64_t channel_blocks = ceil_div(result.shape[1] / V, block.x);
  const int64_t runs = result.shape[0] * p.axis(0, 0).count * ceil_div(p.axis(1, 0).count, depthwise_run<V>);
  launch(name, depthwise_kernel<T, V, Taps, Step>,
         {.grid = {std::min(ceil_div(runs, block.y), most_blocks), channel_blocks,
                   std::min<int64_t>(p.phases, 65535)},
          .block = block},
         p, weights);
}

template <class T>
void depthwise_sum(const char* name, const TapSum& p) {
  const View& weight = p.a.weight;
  const DeviceScratch<Compute<T>> packed(weight.size());
  launch("conv2d_pack_taps", pack_taps_kernel<T>,
         {.grid = {std::min(ceil_div(weight.size(), depthwise_threads), most_blocks)},
          .block = {depthwise_threads}},
         weight, packed.data());
  const Axis w = p.axis(1, 0);
  const bool slides = p.phases == 1 && w.taps == 3 && std::abs(w.offset_step) == 1;
  with_pack<T>(p.a, [&](auto pack) {
    constexpr int V = decltype(pack)::value;
    if constexpr (V > 1) {
      if (slides && w.step == 1) return launch_depthwise<T, V, 3, 1>(name, p, packed);
      if (slides && w.step == 2) return launch_depthwise<T, V, 3, 2>(name, p, packed);
    }
    launch_depthwise<T, V, 0, 0>(name, p, packed);
  });
}

template <class T, class Tile>
void launch_tap_sum(const char* name, const TapSum& p) {
  launch(name, tap_sum_kernel<T, Tile>,
         {.grid = {std::min(p.blocks(), most_blocks)},
          .block = {Tile::threads},
          .shared = sizeof(TapSumShared<T, Tile>)},
         p);
}

template <class T>
void sum_over_taps(const char* name, const Conv2dArgs& a, bool is_backward) {
  if ((is_backward ? a.x : a.y).size() == 0) return;
  check_extents(a);
  if (is_depthwise(a)) return depthwise_sum<T>(name, TapSum(a, is_backward, 1, 1));
  const TapSum large(a, is_backward, LargeTile::M, LargeTile::N);
  if constexpr (sizeof(Compute<T>) == 4)  // the sums of a large tile in float64 do not fit the registers
    if (large.blocks() >= device_properties().sm_count) return launch_tap_sum<T, LargeTile>(name, large);
  launch_tap_sum<T, SmallTile>(name, TapSum(a, is_backward, SmallTile::M, SmallTile::N));
}

// --- Backward to weight and bias: sums over pixels ---------------------------------------------------------------

constexpr int sum_threads = 256;

// Element (o, r, s, c) of weight, or element o of bias with one tap and one channel, from `parts` partial sums.
template <class T>
__global__ void __launch_bounds__(sum_threads)
    add_parts_kernel(const Compute<T>* partial, int64_t parts, int64_t size, View to, int64_t taps_w,
                     int64_t depth) {
  const int64_t columns = to.ndim == 1 ? 1 : to.shape[2] * taps_w * depth;
  for (int64_t i = int64_t(blockIdx.x) * sum_threads + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * sum_threads) {
    Compute<T> sum = 0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[part * size + i];
    const int64_t o = i / columns, tap = (i - o * columns) / depth, r = tap / taps_w;
    const int64_t c = i - o * columns - tap * depth, s = tap - r * taps_w;
    to.as<T>()[o * to.strides[0] + c * to.strides[1] + r * to.strides[2] + s * to.strides[3]] =
        prim::narrow<T>(sum);
  }
}

template <class T>
void add_parts(const Compute<T>* partial, int64_t parts, int64_t size, const View& to) {
  const bool is_bias = to.ndim == 1;
  launch("conv2d_add_parts", add_parts_kernel<T>,
         {.grid = {std::min(ceil_div(size, sum_threads), most_blocks)}, .block = {sum_threads}}, partial,
         parts, size, to, is_bias ? 1 : to.shape[3], is_bias ? 1 : to.shape[1]);
}

// As many ranges of pixels as give every multiprocessor two blocks, each of 512 pixels or more, with partial sums of
// 128 MiB at most.
template <class T>
int64_t split_count(const PixelSum& p) {
  const int64_t wanted = ceil_div(2 * device_properties().sm_count, p.blocks());
  const int64_t affordable = (128 << 20) / (p.size() * int64_t(sizeof(Compute<T>)));
  return larger(1, std::min({wanted, affordable, p.pixels / 512}));
}

template <class T, class Tile>
void launch_pixel_sum(PixelSum p) {
  p.split(split_count<T>(p), Tile::K);
  const DeviceScratch<Compute<T>> partial(p.splits * p.size());
  launch("conv2d_backward_weight", pixel_sum_kernel<T, Tile>,
         {.grid = {std::min(p.blocks(), most_blocks)},
          .block = {Tile::threads},
          .shared = sizeof(SimtShared<T, Tile>)},
         p, partial.data());
  add_parts<T>(partial, p.splits, p.size(), p.a.weight);
}

template <class T>
void depthwise_gradient(PixelSum p) {
  with_pack<T>(p.a, [&](auto pack) {
    constexpr int V = decltype(pack)::value;
    using Shared = DepthwiseShared<Compute<T>, V>;
    const int64_t packs = p.a.y.shape[1] / V;
    const Extent block = block_over_channels(packs, depthwise_threads);
    const int64_t channel_blocks = ceil_div(packs, block.x);
    // Blocks for every multiprocessor, as long as a thread has 16 pixels.
    const int64_t wanted = ceil_div(4 * device_properties().sm_count, channel_blocks);
    p.split(larger(1, std::min(wanted, p.pixels / (16 * block.y))), 1);
    const DeviceScratch<Compute<T>> partial(p.splits * p.size());
    launch("conv2d_backward_weight", depthwise_gradient_kernel<T, V>,
           {.grid = {p.splits, channel_blocks, std::min<int64_t>(ceil_div(p.columns, gradient_taps), 65535)},
            .block = block,
            .shared = sizeof(Shared)},
           p, partial.data());
    add_parts<T>(partial, p.splits, p.size(), p.a.weight);
  });
}

template <class T>
void sum_over_pixels(const Conv2dArgs& a) {
  if (a.weight.size() == 0) return;
  check_extents(a);
  if (is_depthwise(a)) return depthwise_gradient<T>(PixelSum(a, 1, 1));
  const PixelSum large(a, LargeTile::M, LargeTile::N);
  if constexpr (sizeof(Compute<T>) == 4)
    if (large.filters > SmallTile::M &&
        large.blocks() * split_count<T>(large) >= device_properties().sm_count)
      return launch_pixel_sum<T, LargeTile>(large);
  launch_pixel_sum<T, SmallTile>(PixelSum(a, SmallTile::M, SmallTile::N));
}

template <class S>
struct BiasShared {
  S sums[sum_threads];
};

// Threads: x channels, y pixels. Block (i, j): channels from i * blockDim.x on, range j of the pixels.
template <class T>
__global__ void __launch_bounds__(sum_threads)
    bias_kernel(const T* dy, int64_t pixels, int64_t channels, int64_t range, Compute<T>* partial) {
  auto& shared = prim::shared_memory<BiasShared<Compute<T>>>();
  const int64_t channel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const int64_t first = blockIdx.y * range, last = smaller(pixels, first + range);
  Compute<T> sum = 0;
  if (channel < channels)
    for (int64_t i = first + threadIdx.y; i < last; i += blockDim.y)
      sum += prim::widen(dy[i * channels + channel]);
  Compute<T>* mine = &shared.sums[prim::thread()];
  *mine = sum;
  for (int half = int(blockDim.y) / 2; half > 0; half /= 2) {
    prim::block_sync();  // sums of the step before
    if (int(threadIdx.y) < half) *mine += mine[half * int(blockDim.x)];
  }
  if (threadIdx.y == 0 && channel < channels) partial[blockIdx.y * channels + channel] = *mine;
}

template <class T>
void sum_pixels(const Conv2dArgs& a) {
  const int64_t channels = a.y.shape[1], pixels = a.y.shape[0] * a.y.shape[2] * a.y.shape[3];
  const Extent block = block_over_channels(channels, sum_threads);
  const int64_t parts = std::clamp<int64_t>(pixels / (16 * block.y), 1, 256);
  const DeviceScratch<Compute<T>> partial(parts * channels);
  launch("conv2d_backward_bias", bias_kernel<T>,
         {.grid = {ceil_div(channels, block.x), parts},
          .block = block,
          .shared = sizeof(BiasShared<Compute<T>>)},
         a.y.as<const T>(), pixels, channels, ceil_div(pixels, parts), partial.data());
  add_parts<T>(partial, parts, channels, a.bias);
}

// --- Entries -----------------------------------------------------------------------------------------------------

// Scratch memory is the kernels' own: nothing is asked of the caller.
Conv2dPlan choose_algorithm(ConvPass, const Conv2dArgs& a) {
  return {.algorithm = ConvAlgorithm::implicit_gemm};
}

void forward(const Conv2dArgs& a) {
  dispatch_device_float(a.x.dtype,
                        [&](auto t) { sum_over_taps<typename decltype(t)::type>("conv2d", a, false); });
}

void backward_input(const Conv2dArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    sum_over_taps<typename decltype(t)::type>("conv2d_backward_input", a, true);
  });
}

void backward_weight(const Conv2dArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) { sum_over_pixels<typename decltype(t)::type>(a); });
}

void backward_bias(const Conv2dArgs& a) {
  dispatch_device_float(a.y.dtype, [&](auto t) { sum_pixels<typename decltype(t)::type>(a); });
}

}  // namespace

const Conv2dKernels conv2d_kernels = {choose_algorithm, forward, backward_input, backward_weight,
                                      backward_bias};

}  // namespace lamina::LAMINA_DEVICE
