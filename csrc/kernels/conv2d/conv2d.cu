// Convolutions on a device; kernels/conv2d/conv2d.h has the mathematics. Which kernel, and the launches:
//
//   depthwise.cuh   one filter per channel
//   mma.cuh         matrix units: bf16, f16, and float32 unless it is to be IEEE; large problems
//   stem.cuh        matrix units: the first layer of a network, one to four channels
//   simt.cuh        ordinary cores: float64, small problems, groups of few channels
//
// A result takes one launch, and one for each operand that has to be brought into the form its kernel reads. Gradients of
// weight and bias take two: sums over ranges of pixels, and the sums of these in their order.
#include "kernels/conv2d/conv2d.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/conv2d/depthwise.cuh"
#include "kernels/conv2d/simt.cuh"
#include "kernels/conv2d/stem.cuh"
#include "kernels/gemm/rates.h"

namespace lamina::LAMINA_DEVICE {
namespace {

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

// --- What to launch ----------------------------------------------------------------------------------------------

enum class ConvCore { simt, mma, stem };

// Sums of a convolution as `count` products of M x N sums over K. `depth` channels of K (over pixels: of N) are loaded
// together, by mma.cuh in chunks of eight; `copies` launches that move `bytes` bring operands to that form.
struct ConvProblem {
  Dtype dtype;
  int planes;  // that the matrix units need; 0: they are not exact enough
  double M, N, K, depth, count;
  double copies, bytes;
  bool splits_k;
  double in_rectangles;  // of the pixels of stem.cuh's rectangles, those that exist; 0: it cannot do it
};

// A kernel that choose_tile may pick. `rate`: multiply-adds per cycle that it keeps up on one multiprocessor.
// `slice_cycles`: what a step of `k` along K takes at least, by the latency of what it waits for.
struct ConvTile {
  ConvCore core;
  bool is_large;
  double m, n, k, rate, slice_cycles;
  double cycles = 0;  // estimate
};

ConvTile choose_tile(const ConvProblem& p) {
  constexpr double dram = 20;             // bytes per cycle and multiprocessor, of H200 and similar
  constexpr double launch_cycles = 3000;  // what a further launch costs
  constexpr double block_cycles = 1500;   // from its start to its first product, and its epilogue
  const DeviceProperties& device = device_properties();
  const double core = core_rate(p.dtype, device.architecture), sm_count = device.sm_count;
  const double matrix = p.planes ? matrix_rate(device.architecture) / (p.planes * (p.planes + 1) / 2) : 0;
  const double core_large = p.dtype == Dtype::float32 ? 0.8 * core : 0;
  // Eight loads from shared memory for each fragment of a stem leave the matrix units idle more than half of the time.
  const double stem = 0.4 * matrix * p.in_rectangles;
  ConvTile stem_tile = {ConvCore::stem, false, stem_pixels, stem_filters, 16, stem, 100};
  const double stem_n = stem_columns(p.N <= stem_columns(narrow_stem) ? narrow_stem : wide_stem(p.planes));
  if (p.splits_k) stem_tile = {ConvCore::stem, false, stem_filters, stem_n, 128, stem, 800};
  const ConvTile tiles[] = {
      {ConvCore::mma, true, 128, 128, 32, 0.9 * matrix, 150},
      {ConvCore::mma, false, 64, 64, 32, 0.6 * matrix, 150},
      stem_tile,
      {ConvCore::simt, true, LargeTile::M, LargeTile::N, LargeTile::K, core_large, 300},
      {ConvCore::simt, false, SmallTile::M, SmallTile::N, SmallTile::K, 0.5 * core, 300},
  };
  ConvTile best = {};
  for (ConvTile t : tiles) {
    if (t.rate == 0) continue;
    const double padding = t.core == ConvCore::mma ? std::ceil(p.depth / 8) * 8 / p.depth : 1;
    const double blocks = std::ceil(p.M / t.m) * std::ceil(p.N * (p.splits_k ? padding : 1) / t.n) * p.count;
    const double splits =
        p.splits_k ? std::max(1.0, std::min(std::ceil(2 * sm_count / blocks), p.K / 512)) : 1;
    const double slices = std::ceil(p.K * (p.splits_k ? 1 : padding) / splits / t.k);
    const double slice = std::max(t.slice_cycles, t.m * t.n * t.k / t.rate);
    t.cycles = std::ceil(blocks * splits / sm_count) * (slices * slice + block_cycles);
    if (t.core == ConvCore::mma) t.cycles += p.copies * launch_cycles + p.bytes / dram / sm_count;
    if (best.cycles == 0 || t.cycles < best.cycles) best = t;
  }
  return best;
}

template <class T>
int planes_of(const Conv2dArgs& a) {
  if (dtype_of<T> == Dtype::float64 || a.x.size() == 0 || a.y.size() == 0) return 0;
  if (dtype_of<T> != Dtype::float32) return 1;
  return lamina::planes_of(a.precision);
}

// Of the pixels of stem.cuh's rectangles, those that exist; 0 where it is not for this problem: with groups or more than
// four channels, or when weights or a patch take more shared memory than there is.
double stem_use(const Conv2dArgs& a, int planes, bool splits_k) {
  const int64_t C = a.weight.shape[1];
  if (planes == 0 || a.groups > 1 || C == 0 || C > 4 || a.weight.shape[0] == 0) return 0;
  const StemTiles tiles(a);
  const int64_t bytes = splits_k ? stem_gradient_bytes(a, tiles, planes) : Stem(a, planes).bytes;
  if (bytes > device_properties().max_shared || tiles.patch_w * C >= most_of_stem_line) return 0;
  return double(a.y.shape[0] * a.y.shape[2] * a.y.shape[3]) / double(tiles.count * stem_pixels);
}

template <class T>
void add_copy(ConvProblem& p, const View& v, bool is_chunked) {
  if (is_chunked) return;
  p.copies += 1;
  p.bytes += double(v.size()) * double(sizeof(T) + 2 * sizeof(bf16) * size_t(p.planes));
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
                   std::min<int64_t>(p.phases, grid_limit)},
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
         {.grid = grid_of(p.blocks()), .block = {Tile::threads}, .shared = sizeof(TapSumShared<T, Tile>)}, p,
         prim::Divider(larger(1, p.depth)));
}

template <class T>
ConvTile choose_tile(const Conv2dArgs& a, bool is_backward) {
  const TapSum p(a, is_backward, 1, 1);
  const int planes = planes_of<T>(a);
  const View &source = p.source(), &result = p.result();
  const double pixels = double(result.shape[0] * result.shape[2] * result.shape[3]),
               phases = double(p.phases);
  const double taps = double(a.weight.shape[2] * a.weight.shape[3]) / phases, depth = double(p.depth);
  ConvProblem problem = {.dtype = dtype_of<T>,
                         .planes = planes,
                         .M = pixels / phases,
                         .N = double(p.columns),
                         .K = taps * depth,
                         .depth = std::max(1.0, depth),
                         .count = phases * double(a.groups),
                         .copies = 0,
                         .bytes = 0,
                         .splits_k = false,
                         .in_rectangles = is_backward ? 0 : stem_use(a, planes, false)};
  add_copy<T>(problem, source, is_chunked_pixels<T>(source, a.groups));
  add_copy<T>(problem, a.weight, !is_backward && is_chunked_weight<T>(a.weight));
  return choose_tile(problem);
}

template <class T>
void sum_over_taps(const char* name, const Conv2dArgs& a, bool is_backward) {
  if ((is_backward ? a.x : a.y).size() == 0) return;
  check_extents(a);
  if (is_depthwise(a)) return depthwise_sum<T>(name, TapSum(a, is_backward, 1, 1));
  const ConvTile tile = choose_tile<T>(a, is_backward);
  if constexpr (dtype_of<T> != Dtype::float64) {
    if (tile.core == ConvCore::stem) return stem_over_taps<T>(name, a, planes_of<T>(a));
    if (tile.core == ConvCore::mma)
      return sum_over_taps_by_mma<T>(name, a, is_backward, planes_of<T>(a), tile.is_large);
  }
  if constexpr (dtype_of<T> == Dtype::float32)
    if (tile.is_large)
      return launch_tap_sum<T, LargeTile>(name, TapSum(a, is_backward, LargeTile::M, LargeTile::N));
  launch_tap_sum<T, SmallTile>(name, TapSum(a, is_backward, SmallTile::M, SmallTile::N));
}

// --- Backward to weight and bias: sums over pixels ---------------------------------------------------------------

template <class T, class Tile>
void launch_pixel_sum(PixelSum p) {
  p.split(split_count<T>(p), Tile::K);
  const DeviceScratch<Compute<T>> partial(p.splits * p.size());
  launch("conv2d_backward_weight", pixel_sum_kernel<T, Tile>,
         {.grid = grid_of(p.blocks()), .block = {Tile::threads}, .shared = sizeof(PixelSumShared<T, Tile>)},
         p, partial.data());
  add_parts<T>(p, partial.data());
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
           {.grid = {p.splits, channel_blocks,
                     std::min<int64_t>(ceil_div(p.columns, gradient_taps), grid_limit)},
            .block = block,
            .shared = sizeof(Shared)},
           p, partial.data());
    add_parts<T>(p, partial.data());
  });
}

template <class T>
ConvTile choose_gradient_tile(const Conv2dArgs& a) {
  const PixelSum p(a, a.weight.shape[1], 1, 1);
  const int planes = planes_of<T>(a);
  ConvProblem problem = {.dtype = dtype_of<T>,
                         .planes = planes,
                         .M = double(p.filters),
                         .N = double(p.columns),
                         .K = double(p.pixels),
                         .depth = double(p.depth),
                         .count = double(a.groups),
                         .copies = 0,
                         .bytes = 0,
                         .splits_k = true,
                         .in_rectangles = stem_use(a, planes, true)};
  for (const View* v : {&a.x, &a.y}) add_copy<T>(problem, *v, is_chunked_pixels<T>(*v, a.groups));
  return choose_tile(problem);
}

template <class T>
void sum_over_pixels(const Conv2dArgs& a) {
  const PixelSum small(a, a.weight.shape[1], SmallTile::M, SmallTile::N);
  if (small.size() == 0) return;
  check_extents(a);
  if (is_depthwise(a)) return depthwise_gradient<T>(PixelSum(a, 1, 1, 1));
  const ConvTile tile = choose_gradient_tile<T>(a);
  if constexpr (dtype_of<T> != Dtype::float64) {
    if (tile.core == ConvCore::stem) return stem_over_pixels<T>(a, planes_of<T>(a));
    if (tile.core == ConvCore::mma) return sum_over_pixels_by_mma<T>(a, planes_of<T>(a), tile.is_large);
  }
  if constexpr (dtype_of<T> == Dtype::float32)
    if (tile.is_large)
      return launch_pixel_sum<T, LargeTile>(PixelSum(a, a.weight.shape[1], LargeTile::M, LargeTile::N));
  launch_pixel_sum<T, SmallTile>(small);
}

// --- Entries -----------------------------------------------------------------------------------------------------

// Scratch memory is the kernels' own: nothing is asked of the caller. Like merged taps, stems read x in any layout.
Conv2dPlan choose_algorithm(ConvPass pass, const Conv2dArgs& a) {
  Conv2dPlan plan = {};
  plan.algorithm = is_depthwise(a) ? ConvAlgorithm::depthwise : ConvAlgorithm::implicit_gemm;
  if (pass != ConvPass::backward_input && a.x.size() > 0 && a.y.size() > 0)
    dispatch_device_float(a.x.dtype, [&](auto t) {
      using T = typename decltype(t)::type;
      const ConvTile tile = pass == ConvPass::forward ? choose_tile<T>(a, false) : choose_gradient_tile<T>(a);
      if (tile.core == ConvCore::stem) plan.algorithm = ConvAlgorithm::merged_taps;
    });
  return plan;
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

}  // namespace

const Conv2dKernels conv2d_kernels = {choose_algorithm, forward, backward_input, backward_weight};

}  // namespace lamina::LAMINA_DEVICE
