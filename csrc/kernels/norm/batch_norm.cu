// Device kernels of batch_norm.h.
//
// Plan. Threads form tiles (reduce/tile.cuh): inner for planes, with packs of V pixels, outer for rows, with packs of V
// channels. Where channels are few, their elements are cut into segments (gridDim.y), so that about 1024 blocks take
// part. Forward is three launches: moments of each channel and segment, their merging, and y; backward likewise with the
// sums of dy and dy xhat.
//
// Moments. A thread takes 4 packs into registers, finds their mean and the squares about it, and merges them into its
// own (Chan, Golub, LeVeque 1979), all as differences from the channel's first element; threads merge as a tree, segments
// in double. Traffic as in batch_norm.h; the second pass over x finds in the second-level cache (50 MB) what fits there.
#include "kernels/norm/channels.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// --- forward -----------------------------------------------------------------------------------------------------

__global__ __launch_bounds__(1) void count_batch_kernel(int64_t* batches) { ++*batches; }

// Merges the segments of each channel; stores its statistics and updates the running ones, with the unbiased variance as
// PyTorch. `tile`: its results are channels, r_units the segments; none in evaluation.
template <class T>
__global__ __launch_bounds__(tile_threads, 2) void finish_forward_kernel(BatchNormArgs a, Tile tile,
                                                                         const Moments<Compute<T>>* partial) {
  for (int64_t k_tile = blockIdx.x; k_tile < tile.k_tiles; k_tile += gridDim.x) {
    const TilePlace place = place_in(tile);
    const int64_t c = k_tile * tile.k_threads + place.k;
    Moments<double> m[1] = {{0, 0, 0}};
    for (int64_t s = place.r; s < tile.r_units && c < tile.k_units; s += tile.r_threads) {
      const auto segment = partial[s * tile.k_units + c];
      m[0] = Merge{}(m[0], {double(segment.count), double(segment.mean), double(segment.squares)});
    }
    combine_threads(tile, m, &prim::shared_memory<Moments<double>>(), Merge{});
    if (c >= tile.k_units || place.r != 0) continue;
    if (!a.is_training) {
      set_parameter(a.mean, c, parameter(a.running_mean, c));
      set_parameter(a.rstd, c, 1 / prim::sqrt(parameter(a.running_var, c) + a.eps));
      continue;
    }
    const int64_t first = a.shape.is_rows ? c : c * a.shape.L;
    const double mean = double(prim::widen(a.x.as<T>()[first])) + m[0].mean, count = m[0].count;
    set_parameter(a.mean, c, mean);
    set_parameter(a.rstd, c, 1 / prim::sqrt(m[0].squares / count + a.eps));
    if (!a.running_mean) continue;
    const double momentum = a.is_cumulative ? 1 / double(*a.batches.as<int64_t>()) : a.momentum;
    const double keep = 1 - momentum, unbiased = m[0].squares / (count - 1);
    set_parameter(a.running_mean, c, keep * parameter(a.running_mean, c) + momentum * mean);
    set_parameter(a.running_var, c, keep * parameter(a.running_var, c) + momentum * unbiased);
  }
}

// Neighbours in memory that belong to one channel, or are channels of one row.
int64_t run_of(const BatchNormShape& z) { return z.is_rows ? z.C : z.L; }

template <class S>
Statistics<S> statistics_of(const View& mean, const View& rstd) {
  return {mean.as<const S>(), rstd.as<const S>()};
}

void batch_norm(const BatchNormArgs& a) {
  if (a.is_training && a.batches)
    launch("count_batch", count_batch_kernel, {.grid = {1}, .block = {1}}, a.batches.as<int64_t>());
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    dispatch_pack<T>(run_of(a.shape), [&]<int V>(std::integral_constant<int, V>) {
      const ChannelTile tile = choose_channel_tile(a.shape, V);
      const int64_t segments = a.is_training ? tile.segments : 0;
      DeviceScratch<Moments<S>> partial(segments * a.shape.C);
      if (a.is_training)
        launch("batch_norm_moments", channel_moments_kernel<T, V>,
               tile.launch(tile_threads * V * int64_t(sizeof(Moments<S>))), a.x.as<const T>(), tile,
               partial.data());
      const Tile channels = choose_threads(true, a.shape.C, segments);
      launch("batch_norm_finish", finish_forward_kernel<T>,
             channels.launch(tile_threads * sizeof(Moments<double>)), a, channels, partial.data());
      launch("batch_norm", channel_affine_kernel<T, V>, tile.launch(), a.x.as<const T>(),
             statistics_of<S>(a.mean, a.rstd), a.weight, a.bias, a.y.as<T>(), tile);
    });
  });
}

// --- backward ----------------------------------------------------------------------------------------------------

// dx = (dy - shift - (x - mean) * slope) * scale, all of them constants of the channel.
template <class S>
struct Coefficients {
  S scale, shift, slope;
};

// Sums up the segments of each channel; stores the gradients of its parameters and its coefficients.
template <class T>
__global__ __launch_bounds__(tile_threads,
                             2) void finish_backward_kernel(BatchNormBackwardArgs a, Tile tile,
                                                            const Sums<Compute<T>>* partial,
                                                            Coefficients<Compute<T>>* coefficients) {
  using S = Compute<T>;
  const double count = double(a.shape.N * a.shape.L);
  for (int64_t k_tile = blockIdx.x; k_tile < tile.k_tiles; k_tile += gridDim.x) {
    const TilePlace place = place_in(tile);
    const int64_t c = k_tile * tile.k_threads + place.k;
    const auto [sum, dot] = total_of(tile, c, place.r, [&](int64_t s) {
      const auto segment = partial[s * tile.k_units + c];
      return Sums<double>{double(segment.sum), double(segment.dot)};
    });
    if (c >= tile.k_units || place.r != 0) continue;
    const double rstd = double(a.rstd.as<S>()[c]);
    if (a.dbias) set_parameter(a.dbias, c, sum);
    if (a.dweight) set_parameter(a.dweight, c, dot);
    const double weight = a.weight ? parameter(a.weight, c) : 1;
    coefficients[c] = {S(rstd * weight), S(sum / count), S(dot * rstd / count)};
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads,
                             2) void backward_kernel(BatchNormBackwardArgs a, ChannelTile tile,
                                                     const Coefficients<Compute<T>>* coefficients) {
  using S = Compute<T>;
  for_tiles(tile, [&](int64_t n, int64_t k_tile) {
    ChannelWalk<V> walk(tile, n, k_tile);
    if (!walk.is_inside) return;
    S mean[V];
    Coefficients<S> k[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      mean[v] = a.mean.as<S>()[walk.channel(v)];
      k[v] = coefficients[walk.channel(v)];
    }
    for (; walk.has(1); walk.advance()) {
      auto d = load_at<V>(a.dy.as<T>(), walk.element());
      if (a.is_training) {
        const auto x = load_at<V>(a.x.as<T>(), walk.element());
#pragma unroll
        for (int v = 0; v < V; ++v) d[v] = prim::fma(-(x[v] - mean[v]), k[v].slope, d[v] - k[v].shift);
      }
#pragma unroll
      for (int v = 0; v < V; ++v) d[v] *= k[v].scale;
      store_at(a.dx.as<T>(), walk.element(), d);
    }
  });
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    dispatch_pack<T>(run_of(a.shape), [&]<int V>(std::integral_constant<int, V>) {
      const ChannelTile tile = choose_channel_tile(a.shape, V);
      DeviceScratch<Sums<S>> partial(tile.segments * a.shape.C);
      DeviceScratch<Coefficients<S>> coefficients(a.shape.C);
      launch("batch_norm_sums", channel_sums_kernel<T, V, false>,
             tile.launch(tile_threads * V * int64_t(sizeof(Sums<S>))), a.dy.as<const T>(), a.x.as<const T>(),
             statistics_of<S>(a.mean, a.rstd), tile, partial.data());
      const Tile channels = choose_threads(true, a.shape.C, tile.segments);
      launch("batch_norm_backward_finish", finish_backward_kernel<T>,
             channels.launch(tile_threads * sizeof(Sums<double>)), a, channels, partial.data(),
             coefficients.data());
      if (a.dx)
        launch("batch_norm_backward", backward_kernel<T, V>, tile.launch(), a, tile, coefficients.data());
    });
  });
}

}  // namespace

const BatchNormKernels batch_norm_kernels = {.forward = batch_norm, .backward = batch_norm_backward};

}  // namespace lamina::LAMINA_DEVICE
