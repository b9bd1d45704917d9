// Device kernels of norm.h.
//
// Plan. Threads form tiles (reduce/tile.cuh): inner for planes, with packs of V pixels, outer for rows, with packs of V
// channels. Where channels are few, their elements are cut into segments (gridDim.y), so that about 1024 blocks take
// part. Forward is three launches: moments of each channel and segment, their merging, and y; backward likewise with the
// sums of dy and dy (x - mean).
//
// Moments. A thread takes 4 packs into registers, finds their mean and the squares about it, and merges them into its
// own (Chan, Golub, LeVeque 1979), all as differences from the channel's first element; threads merge as a tree, segments
// in double. Traffic as in norm.h; the second pass over x finds in the second-level cache (50 MB) what fits there.
#include "kernels/norm/norm.h"

#include <algorithm>
#include <type_traits>

#include "kernels/reduce/tile.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int64_t wanted_tiles = 1024;  // some 8 blocks of 256 threads for each of 132 multiprocessors

// Element c of a vector of parameters, whose dtype need not be that of x.
LAMINA_PRIM double parameter(const View& v, int64_t c) {
  const int64_t at = c * v.strides[0];
  switch (v.dtype) {
    case Dtype::float32:
      return double(v.as<float>()[at]);
    case Dtype::bfloat16:
      return double(prim::widen(v.as<bf16>()[at]));
    case Dtype::float16:
      return double(prim::widen(v.as<f16>()[at]));
    default:
      return v.as<double>()[at];
  }
}
LAMINA_PRIM void set_parameter(const View& v, int64_t c, double value) {
  const int64_t at = c * v.strides[0];
  switch (v.dtype) {
    case Dtype::float32:
      v.as<float>()[at] = float(value);
      return;
    case Dtype::bfloat16:
      v.as<bf16>()[at] = prim::narrow<bf16>(float(value));
      return;
    case Dtype::float16:
      v.as<f16>()[at] = prim::narrow<f16>(float(value));
      return;
    default:
      v.as<double>()[at] = value;
  }
}

// How threads go over the channels: k_units are channels (rows: packs of them), r_units their packs (rows: elements).
struct ChannelTile {
  Tile tile;
  BatchNormShape shape;
  int64_t segments, units;  // of r_units in a segment

  Launch launch(int64_t shared = 0) const {
    Launch l = tile.launch(shared);
    l.grid.y = segments;
    return l;
  }
};
ChannelTile choose_channel_tile(const BatchNormShape& z, int V) {
  const int64_t k_units = z.is_rows ? z.C / V : z.C, r_units = z.is_rows ? z.count() : z.count() / V;
  ChannelTile t = {choose_threads(z.is_rows, k_units, r_units), z, 1, r_units};
  if (r_units == 0 || k_units == 0) return t;
  const int64_t steps = r_units / t.tile.r_threads;  // a segment is worth 8 of them
  t.units = ceil_div(r_units,
                     std::clamp<int64_t>(steps / 8, 1, std::max<int64_t>(wanted_tiles / t.tile.k_tiles, 1)));
  t.segments = ceil_div(r_units, t.units);
  return t;
}

// Calls f(std::integral_constant<int, V>{}) for the elements in a pack, which depend on the shape alone.
template <class T, class F>
void dispatch_pack(const BatchNormShape& z, F f) {
  constexpr int V = small_pack<T>;
  if ((z.is_rows ? z.C : z.L) % V == 0)
    f(std::integral_constant<int, V>{});
  else
    f(std::integral_constant<int, 1>{});
}

// The packs of a thread in a segment, one after the other.
template <int V>
struct ChannelWalk {
  const ChannelTile& t;
  int64_t c;  // the (first) channel; is_inside: there is one
  int64_t unit, end;
  int64_t n, pixel;  // planes: where the pack lies, in packs
  int64_t n_step, pixel_step;
  bool is_inside, is_first;  // of the threads of its channel

  LAMINA_PRIM ChannelWalk(const ChannelTile& t, int64_t k_tile) : t(t) {
    const TilePlace place = place_in(t.tile);
    const int64_t k = k_tile * t.tile.k_threads + place.k;
    is_inside = k < t.tile.k_units;
    is_first = place.r == 0;
    c = t.shape.is_rows ? k * V : k;
    unit = blockIdx.y * t.units + place.r;
    end = (blockIdx.y + 1) * t.units;
    if (end > t.tile.r_units) end = t.tile.r_units;
    if (!is_inside) unit = end;
    n = pixel = n_step = pixel_step = 0;
    if (t.shape.is_rows || t.tile.r_units == 0) return;
    const int64_t pixels = t.shape.L / V;
    n = unit / pixels;
    pixel = unit - n * pixels;
    n_step = t.tile.r_threads / pixels;
    pixel_step = t.tile.r_threads - n_step * pixels;
  }
  LAMINA_PRIM bool has(int packs) const { return unit + (packs - 1) * t.tile.r_threads < end; }
  LAMINA_PRIM int64_t element() const {
    return t.shape.is_rows ? unit * t.shape.C + c : (n * t.shape.C + c) * t.shape.L + pixel * V;
  }
  LAMINA_PRIM void advance() {
    unit += t.tile.r_threads;
    n += n_step;
    pixel += pixel_step;
    if (!t.shape.is_rows && pixel >= t.shape.L / V) {
      pixel -= t.shape.L / V;
      ++n;
    }
  }
  LAMINA_PRIM int64_t channel(int v) const { return t.shape.is_rows ? c + v : c; }
};

template <int V, class T>
LAMINA_PRIM prim::Pack<Compute<T>, V> load_at(const T* x, int64_t at) {
  return prim::widen(load_pack<V>(x + at, prim::is_aligned(x, V * int64_t(sizeof(T)))));
}
template <class T, int V>
LAMINA_PRIM void store_at(T* y, int64_t at, const prim::Pack<Compute<T>, V>& pack) {
  store_pack(y + at, prim::narrow<T>(pack), prim::is_aligned(y, V * int64_t(sizeof(T))));
}

// Leaves the states of the channels of a tile, of V channels per thread or of one, in partial[segment][c].
template <int V, class State, class F>
LAMINA_PRIM void store_states(const ChannelWalk<V>& walk, State (&state)[V], State* partial, F combine) {
  const ChannelTile& t = walk.t;
  State* shared = &prim::shared_memory<State>();
  if (t.shape.is_rows) {
    combine_threads(t.tile, state, shared, combine);
  } else {
    State sum[1] = {state[0]};
#pragma unroll
    for (int v = 1; v < V; ++v) sum[0] = combine(sum[0], state[v]);
    combine_threads(t.tile, sum, shared, combine);
    state[0] = sum[0];
  }
  if (!walk.is_inside || !walk.is_first) return;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (v == 0 || t.shape.is_rows) partial[blockIdx.y * t.shape.C + walk.channel(v)] = state[v];
}

// --- forward -----------------------------------------------------------------------------------------------------

template <class S>
struct Moments {
  S count, mean, squares;
};
struct Merge {
  template <class S>
  LAMINA_PRIM Moments<S> operator()(Moments<S> a, Moments<S> b) const {
    if (a.count == 0) return b;
    if (b.count == 0) return a;
    const S count = a.count + b.count, delta = b.mean - a.mean, share = b.count / count;
    return {count, prim::fma(delta, share, a.mean),
            a.squares + b.squares + delta * delta * (a.count * share)};
  }
};

// The moments of rows values each.
template <class S, int rows, int V>
LAMINA_PRIM void merge_leaf(const prim::Pack<S, V> (&x)[rows], Moments<S> (&state)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) {
    S sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < rows; ++i) sum += x[i][v];
    const S mean = sum * (S(1) / S(rows));
#pragma unroll
    for (int i = 0; i < rows; ++i) squares = prim::fma(x[i][v] - mean, x[i][v] - mean, squares);
    state[v] = Merge{}(state[v], Moments<S>{S(rows), mean, squares});
  }
}

// Element 0 of channel c: what its moments are differences from.
template <class T>
LAMINA_PRIM Compute<T> origin_of(const T* x, const BatchNormShape& z, int64_t c) {
  return prim::widen(x[z.is_rows ? c : c * z.L]);
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void moments_kernel(const T* x, ChannelTile tile,
                                                                  Moments<Compute<T>>* partial) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    ChannelWalk<V> walk(tile, k_tile);
    Moments<S> state[V];
    S origin[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = {0, 0, 0};
      origin[v] = walk.is_inside ? origin_of(x, tile.shape, walk.channel(v)) : S(0);
    }
    const auto take = [&](auto& packs) {
      for (auto& pack : packs) {
        pack = load_at<V>(x, walk.element());
#pragma unroll
        for (int v = 0; v < V; ++v) pack[v] -= origin[v];
        walk.advance();
      }
      merge_leaf(packs, state);
    };
    while (walk.has(4)) {
      prim::Pack<S, V> packs[4];
      take(packs);
    }
    while (walk.has(1)) {
      prim::Pack<S, V> packs[1];
      take(packs);
    }
    store_states(walk, state, partial, Merge{});
  }
}

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
    const double mean = double(origin_of(a.x.as<T>(), a.shape, c)) + m[0].mean, count = m[0].count;
    set_parameter(a.mean, c, mean);
    set_parameter(a.rstd, c, 1 / prim::sqrt(m[0].squares / count + a.eps));
    if (!a.running_mean) continue;
    const double momentum = a.is_cumulative ? 1 / double(*a.batches.as<int64_t>()) : a.momentum;
    const double keep = 1 - momentum, unbiased = m[0].squares / (count - 1);
    set_parameter(a.running_mean, c, keep * parameter(a.running_mean, c) + momentum * mean);
    set_parameter(a.running_var, c, keep * parameter(a.running_var, c) + momentum * unbiased);
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void normalise_kernel(BatchNormArgs a, ChannelTile tile) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    ChannelWalk<V> walk(tile, k_tile);
    if (!walk.is_inside) continue;
    S mean[V], scale[V], bias[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = walk.channel(v);
      mean[v] = a.mean.as<S>()[c];
      scale[v] = a.rstd.as<S>()[c] * (a.weight ? S(parameter(a.weight, c)) : S(1));
      bias[v] = a.bias ? S(parameter(a.bias, c)) : S(0);
    }
    for (; walk.has(1); walk.advance()) {
      auto x = load_at<V>(a.x.as<T>(), walk.element());
#pragma unroll
      for (int v = 0; v < V; ++v) x[v] = prim::fma(x[v] - mean[v], scale[v], bias[v]);
      store_at(a.y.as<T>(), walk.element(), x);
    }
  }
}

void batch_norm(const BatchNormArgs& a) {
  if (a.is_training && a.batches)
    launch("count_batch", count_batch_kernel, {.grid = {1}, .block = {1}}, a.batches.as<int64_t>());
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    dispatch_pack<T>(a.shape, [&]<int V>(std::integral_constant<int, V>) {
      const ChannelTile tile = choose_channel_tile(a.shape, V);
      const int64_t segments = a.is_training ? tile.segments : 0;
      DeviceScratch<Moments<S>> partial(segments * a.shape.C);
      if (a.is_training)
        launch("batch_norm_moments", moments_kernel<T, V>,
               tile.launch(tile_threads * V * int64_t(sizeof(Moments<S>))), a.x.as<const T>(), tile,
               partial.data());
      const Tile channels = choose_threads(true, a.shape.C, segments);
      launch("batch_norm_finish", finish_forward_kernel<T>,
             channels.launch(tile_threads * sizeof(Moments<double>)), a, channels, partial.data());
      launch("batch_norm", normalise_kernel<T, V>, tile.launch(), a, tile);
    });
  });
}

// --- backward ----------------------------------------------------------------------------------------------------

// sum dy, and sum dy (x - mean).
template <class S>
struct Sums {
  S sum, dot;
};
struct Add {
  template <class S>
  LAMINA_PRIM Sums<S> operator()(Sums<S> a, Sums<S> b) const {
    return {a.sum + b.sum, a.dot + b.dot};
  }
};

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void sums_kernel(BatchNormBackwardArgs a, ChannelTile tile,
                                                               Sums<Compute<T>>* partial) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    ChannelWalk<V> walk(tile, k_tile);
    Sums<S> state[V];
    S mean[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = {0, 0};
      mean[v] = walk.is_inside ? a.mean.as<S>()[walk.channel(v)] : S(0);
    }
    const auto take = [&](auto& dy, auto& x) {  // a leaf of as many packs as they have elements
      constexpr int n = sizeof(dy) / sizeof(dy[0]);
#pragma unroll
      for (int i = 0; i < n; ++i, walk.advance()) {
        dy[i] = load_at<V>(a.dy.as<T>(), walk.element());
        x[i] = load_at<V>(a.x.as<T>(), walk.element());
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        Sums<S> leaf = {0, 0};
#pragma unroll
        for (int i = 0; i < n; ++i)
          leaf = {leaf.sum + dy[i][v], prim::fma(dy[i][v], x[i][v] - mean[v], leaf.dot)};
        state[v] = Add{}(state[v], leaf);
      }
    };
    while (walk.has(4)) {
      prim::Pack<S, V> dy[4], x[4];
      take(dy, x);
    }
    while (walk.has(1)) {
      prim::Pack<S, V> dy[1], x[1];
      take(dy, x);
    }
    store_states(walk, state, partial, Add{});
  }
}

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
    Sums<double> total[1] = {{0, 0}};
    for (int64_t s = place.r; s < tile.r_units && c < tile.k_units; s += tile.r_threads) {
      const auto segment = partial[s * tile.k_units + c];
      total[0] = Add{}(total[0], {double(segment.sum), double(segment.dot)});
    }
    combine_threads(tile, total, &prim::shared_memory<Sums<double>>(), Add{});
    if (c >= tile.k_units || place.r != 0) continue;
    const auto [sum, dot] = total[0];
    const double rstd = double(a.rstd.as<S>()[c]);
    if (a.dbias) set_parameter(a.dbias, c, sum);
    if (a.dweight) set_parameter(a.dweight, c, dot * rstd);
    const double weight = a.weight ? parameter(a.weight, c) : 1;
    coefficients[c] = {S(rstd * weight), S(sum / count), S(dot * rstd * rstd / count)};
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads,
                             2) void backward_kernel(BatchNormBackwardArgs a, ChannelTile tile,
                                                     const Coefficients<Compute<T>>* coefficients) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    ChannelWalk<V> walk(tile, k_tile);
    if (!walk.is_inside) continue;
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
  }
}

void batch_norm_backward(const BatchNormBackwardArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    dispatch_pack<T>(a.shape, [&]<int V>(std::integral_constant<int, V>) {
      const ChannelTile tile = choose_channel_tile(a.shape, V);
      DeviceScratch<Sums<S>> partial(tile.segments * a.shape.C);
      DeviceScratch<Coefficients<S>> coefficients(a.shape.C);
      launch("batch_norm_sums", sums_kernel<T, V>, tile.launch(tile_threads * V * int64_t(sizeof(Sums<S>))),
             a, tile, partial.data());
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

const NormKernels norm_kernels = {.batch_norm = batch_norm, .batch_norm_backward = batch_norm_backward};

}  // namespace lamina::LAMINA_DEVICE
