// What the device kernels of batch_norm.h and layer_norm.h share: parameters, how threads go over channels, moments and
// sums of each, and the affine map. Plan and accuracy: batch_norm.cu.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels/norm/batch_norm.h"
#include "kernels/reduce/tile.cuh"

namespace lamina::LAMINA_DEVICE {

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

// Mean and rstd that channel c has in sample n: those of group c / K of G. Of a batch: n = 0, K = 1.
template <class S>
struct Statistics {
  const S *mean, *rstd;  // mean may be absent: 0
  int64_t G = 0, K = 1;

  LAMINA_PRIM int64_t at(int64_t n, int64_t c) const { return n * G + (K == 1 ? c : c / K); }
  LAMINA_PRIM S mean_at(int64_t i) const { return mean ? mean[i] : S(0); }
};

// --- threads and channels ----------------------------------------------------------------------------------------

// How threads go over the channels of each sample: k_units are channels (rows: packs of them), r_units their packs
// (rows: elements). A batch is one sample of N planes.
struct ChannelTile {
  Tile tile;
  BatchNormShape shape;              // of a sample
  int64_t samples, segments, units;  // units: of r_units in a segment

  Launch launch(int64_t shared = 0) const {
    Launch l = tile.launch(shared);
    l.grid.y = segments;
    l.grid.z = smaller(samples, grid_limit);
    return l;
  }
  int64_t parts() const { return samples * segments; }
};
inline ChannelTile choose_channel_tile(const BatchNormShape& z, int V, int64_t samples = 1) {
  const int64_t k_units = z.is_rows ? z.C / V : z.C, r_units = z.is_rows ? z.count() : z.count() / V;
  ChannelTile t = {choose_threads(z.is_rows, k_units, r_units), z, samples, 1, r_units};
  if (r_units == 0 || k_units == 0 || samples == 0) return t;
  const int64_t steps = r_units / t.tile.r_threads;  // a segment is worth 8 of them
  const int64_t wanted = std::max<int64_t>(wanted_tiles / (t.tile.k_tiles * samples), 1);
  t.units = ceil_div(r_units, std::clamp<int64_t>(steps / 8, 1, wanted));
  t.segments = ceil_div(r_units, t.units);
  return t;
}

// Calls f(std::integral_constant<int, V>{}) for the elements in a pack, which depend on the shape alone: V divides
// `run`, the number of neighbours in memory that belong together.
template <class T, class F>
void dispatch_pack(int64_t run, F f) {
  constexpr int V = small_pack<T>;
  if (run % V == 0)
    f(std::integral_constant<int, V>{});
  else
    f(std::integral_constant<int, 1>{});
}

// Calls f(n, k_tile) for the tiles of this block in all samples.
template <class F>
LAMINA_PRIM void for_tiles(const ChannelTile& t, F f) {
  for (int64_t n = blockIdx.z; n < t.samples; n += gridDim.z)
    for (int64_t k_tile = blockIdx.x; k_tile < t.tile.k_tiles; k_tile += gridDim.x) f(n, k_tile);
}

// The packs of a thread in a segment of a sample, one after the other.
template <int V>
struct ChannelWalk {
  const ChannelTile& t;
  int64_t origin;  // of the sample
  int64_t c;       // the (first) channel; is_inside: there is one
  int64_t unit, end;
  int64_t n, pixel;  // planes: where the pack lies, in packs
  int64_t n_step, pixel_step;
  bool is_inside, is_first;  // of the threads of its channel

  LAMINA_PRIM ChannelWalk(const ChannelTile& t, int64_t sample, int64_t k_tile) : t(t) {
    const TilePlace place = place_in(t.tile);
    const int64_t k = k_tile * t.tile.k_threads + place.k;
    origin = sample * t.shape.count() * t.shape.C;
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
    return origin + (t.shape.is_rows ? unit * t.shape.C + c : (n * t.shape.C + c) * t.shape.L + pixel * V);
  }
  // Element 0 of channel c + v of the sample: what its moments are differences from.
  LAMINA_PRIM int64_t first_of(int v) const {
    return origin + (t.shape.is_rows ? channel(v) : channel(v) * t.shape.L);
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

// Leaves the states of the channels of a tile, of V channels per thread or of one, in partial[sample][segment][c].
template <int V, class State, class F>
LAMINA_PRIM void store_states(const ChannelWalk<V>& walk, int64_t sample, State (&state)[V], State* partial,
                              F combine) {
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
  partial += (sample * t.segments + blockIdx.y) * t.shape.C;
#pragma unroll
  for (int v = 0; v < V; ++v)
    if (v == 0 || t.shape.is_rows) partial[walk.channel(v)] = state[v];
}

// --- moments -----------------------------------------------------------------------------------------------------

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

// Leaves the moments of each sample, segment and channel, as differences from the channel's first element.
template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void channel_moments_kernel(const T* x, ChannelTile tile,
                                                                          Moments<Compute<T>>* partial) {
  using S = Compute<T>;
  for_tiles(tile, [&](int64_t n, int64_t k_tile) {
    ChannelWalk<V> walk(tile, n, k_tile);
    Moments<S> state[V];
    S origin[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = {0, 0, 0};
      origin[v] = walk.has(1) ? prim::widen(x[walk.first_of(v)]) : S(0);
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
    store_states(walk, n, state, partial, Merge{});
  });
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads,
                             2) void channel_affine_kernel(const T* x, Statistics<Compute<T>> statistics,
                                                           View weight, View bias, T* y, ChannelTile tile) {
  using S = Compute<T>;
  for_tiles(tile, [&](int64_t n, int64_t k_tile) {
    ChannelWalk<V> walk(tile, n, k_tile);
    if (!walk.is_inside) return;
    S mean[V], scale[V], shift[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = walk.channel(v), i = statistics.at(n, c);
      mean[v] = statistics.mean_at(i);
      scale[v] = statistics.rstd[i] * (weight ? S(parameter(weight, c)) : S(1));
      shift[v] = bias ? S(parameter(bias, c)) : S(0);
    }
    for (; walk.has(1); walk.advance()) {
      auto pack = load_at<V>(x, walk.element());
#pragma unroll
      for (int v = 0; v < V; ++v) pack[v] = prim::fma(pack[v] - mean[v], scale[v], shift[v]);
      store_at(y, walk.element(), pack);
    }
  });
}

// --- sums --------------------------------------------------------------------------------------------------------

// sum dy, and sum dy * xhat with xhat = (x - mean) * rstd.
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

// Leaves the sums of each sample, segment and channel. Statistics are those of the sample, or, of_rows, of each row,
// which takes a few registers more than two blocks on an SM leave packs.
template <class T, int V, bool of_rows>
__global__ __launch_bounds__(tile_threads, of_rows&& V > 2 ? 1 : 2) void channel_sums_kernel(
    const T* dys, const T* xs, Statistics<Compute<T>> statistics, ChannelTile tile,
    Sums<Compute<T>>* partial) {
  using S = Compute<T>;
  for_tiles(tile, [&](int64_t n, int64_t k_tile) {
    ChannelWalk<V> walk(tile, n, k_tile);
    Sums<S> state[V];
    S mean[V], rstd[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = {0, 0};
      const int64_t i = statistics.at(n, walk.channel(v));
      mean[v] = !of_rows && walk.is_inside ? statistics.mean_at(i) : S(0);
      rstd[v] = !of_rows && walk.is_inside ? statistics.rstd[i] : S(1);
    }
    const int64_t group = statistics.at(0, walk.c);  // of_rows: packs lie within groups
    const auto take = [&](auto& dy, auto& x) {       // a leaf of as many packs as they have elements
      constexpr int leaves = sizeof(dy) / sizeof(dy[0]);
#pragma unroll
      for (int i = 0; i < leaves; ++i, walk.advance()) {
        dy[i] = load_at<V>(dys, walk.element());
        x[i] = load_at<V>(xs, walk.element());
        if constexpr (of_rows) {
          const int64_t row = walk.unit * statistics.G + group;
          const S row_mean = statistics.mean_at(row), row_rstd = statistics.rstd[row];
#pragma unroll
          for (int v = 0; v < V; ++v) x[i][v] = (x[i][v] - row_mean) * row_rstd;
        }
      }
#pragma unroll
      for (int v = 0; v < V; ++v) {
        Sums<S> leaf = {0, 0};
#pragma unroll
        for (int i = 0; i < leaves; ++i)
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
#pragma unroll
    for (int v = 0; v < V; ++v) state[v].dot *= rstd[v];
    store_states(walk, n, state, partial, Add{});
  });
}

// The total of result k of a tile: of sum_of(i) for each i below r_units. All threads of the result get it.
template <class F>
LAMINA_PRIM Sums<double> total_of(const Tile& tile, int64_t k, int r, F sum_of) {
  Sums<double> total[1] = {{0, 0}};
  for (int64_t i = r; i < tile.r_units && k < tile.k_units; i += tile.r_threads)
    total[0] = Add{}(total[0], sum_of(i));
  combine_threads(tile, total, &prim::shared_memory<Sums<double>>(), Add{});
  return total[0];
}

}  // namespace lamina::LAMINA_DEVICE
