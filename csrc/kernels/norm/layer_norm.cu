// Device kernels of layer_norm.h.
//
// Plan. Rows (L = 1): a tile of threads (softmax/rows.cuh) has each row; what fits one step of its threads (4096
// floats in a block) stays in registers, so that x, and backward dy and x, are read once for y or dx; a longer row is
// read again, mostly from the second-level cache. Moments are those of 16 elements of a thread, about their mean and
// as differences from the row's first element, then merged as a tree. dweight and dbias are sums of columns, in two
// stages: segments of rows each leave sums of all columns (channels.cuh), which a second launch adds up in double.
// Images: three launches as in batch_norm.cu, in each sample, with moments and sums of channels that are merged into
// those of their groups; those of backward also give dweight and dbias.
// Traffic per float of rows: 8 bytes forward, 20 backward with parameters, 12 without; of images 12 and 20 (8 and 12
// where a sample stays in the second-level cache). Bound by memory. One sweep for dx and the sums of columns would
// save 8 bytes, but for rows of up to 4096 elements only, and with as many sums in registers as elements.
#include "kernels/norm/layer_norm.h"

#include "kernels/norm/channels.cuh"
#include "kernels/softmax/rows.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

template <class S>
Statistics<S> statistics_of(const LayerNormShape& z, const View& mean, const View& rstd) {
  return {mean.as<const S>(), rstd.as<const S>(), z.G, z.K};
}

// V dense parameters from element `at` on, of the dtype of x or of its statistics; `absent` where there are none.
template <class T, int V, class S = Compute<T>>
LAMINA_PRIM prim::Pack<S, V> parameters_at(const View& v, int64_t at, S absent) {
  if (v && v.dtype == dtype_of<S>) return load_at<V>(v.as<const S>(), at);
  if (v) return load_at<V>(v.as<const T>(), at);
  prim::Pack<S, V> pack;
#pragma unroll
  for (int i = 0; i < V; ++i) pack[i] = absent;
  return pack;
}

LAMINA_PRIM int64_t group_of(const LayerNormShape& z, int64_t m) { return z.G == 1 ? 0 : m % z.G; }

// --- rows --------------------------------------------------------------------------------------------------------

// The moments of the packs of a thread in a step.
template <class T, int V, class S = Compute<T>>
LAMINA_PRIM Moments<S> moments_of(const ClassWalk<V>& walk, int64_t step, const Step<T, V>& packs, S origin,
                                  bool is_centred) {
  S count = 0, sum = 0, squares = 0;
#pragma unroll
  for (int i = 0; i < step_packs; ++i) {
    if (!walk.has(step, i)) continue;
    count += S(V);
#pragma unroll
    for (int v = 0; v < V; ++v) sum += prim::widen(packs[i][v]) - origin;
  }
  const S mean = is_centred && count > 0 ? sum / count : S(0);
#pragma unroll
  for (int i = 0; i < step_packs; ++i) {
    if (!walk.has(step, i)) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const S d = prim::widen(packs[i][v]) - origin - mean;
      squares = prim::fma(d, d, squares);
    }
  }
  return {count, mean, squares};
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void rows_kernel(LayerNormArgs a, ClassTile tile) {
  using S = Compute<T>;
  const T* x = a.x.as<T>();
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    const S origin = a.is_centred && walk.has(0, 0) ? prim::widen(x[walk.first]) : S(0);
    Step<T, V> packs;
    Moments<S> row[1] = {{0, 0, 0}};
    for (int64_t step = 0; step < tile.steps; ++step) {
      walk.load_step(x, step, packs, T{});
      row[0] = Merge{}(row[0], moments_of<T>(walk, step, packs, origin, a.is_centred));
    }
    combine_threads(tile.tile, row, &prim::shared_memory<Moments<S>>(), Merge{});
    const S variance = row[0].count > 0 ? row[0].squares / row[0].count : S(0);
    const S mean = origin + row[0].mean, rstd = S(1) / prim::sqrt(variance + S(a.eps));
    if (walk.is_inside && walk.r == 0) {
      if (a.mean) a.mean.as<S>()[walk.at] = mean;
      a.rstd.as<S>()[walk.at] = rstd;
    }
    const int64_t first = group_of(a.shape, walk.at) * a.shape.K;
    for (int64_t step = 0; step < tile.steps; ++step) {
      if (tile.steps > 1) walk.load_step(x, step, packs, T{});
#pragma unroll
      for (int i = 0; i < step_packs; ++i) {
        if (!walk.has(step, i)) continue;
        const int64_t u = walk.unit_of(step, i);
        const auto weight = parameters_at<T, V>(a.weight, first + u * V, S(1));
        const auto bias = parameters_at<T, V>(a.bias, first + u * V, S(0));
        auto y = prim::widen(packs[i]);
#pragma unroll
        for (int v = 0; v < V; ++v) y[v] = prim::fma((y[v] - mean) * rstd, weight[v], bias[v]);
        walk.store(a.y.as<T>(), u, y);
      }
    }
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void rows_backward_kernel(LayerNormBackwardArgs a,
                                                                        ClassTile tile) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    const int64_t first = group_of(a.shape, walk.at) * a.shape.K;
    const S mean = walk.is_inside && a.mean ? a.mean.as<S>()[walk.at] : S(0);
    const S rstd = walk.is_inside ? a.rstd.as<S>()[walk.at] : S(0);
    Step<T, V> dys, xs;
    const auto load = [&](int64_t step) {
      walk.load_step(a.dy.as<const T>(), step, dys, T{});
      walk.load_step(a.x.as<const T>(), step, xs, T{});
    };
    // Calls f(unit, g, xhat) for the packs of a step, where g = dy * weight.
    const auto for_packs = [&](int64_t step, auto f) {
#pragma unroll
      for (int i = 0; i < step_packs; ++i) {
        if (!walk.has(step, i)) continue;
        const int64_t u = walk.unit_of(step, i);
        const auto weight = parameters_at<T, V>(a.weight, first + u * V, S(1));
        prim::Pack<S, V> g, xhat;
#pragma unroll
        for (int v = 0; v < V; ++v) {
          g[v] = prim::widen(dys[i][v]) * weight[v];
          xhat[v] = (prim::widen(xs[i][v]) - mean) * rstd;
        }
        f(u, g, xhat);
      }
    };
    Sums<S> row[1] = {{0, 0}};
    for (int64_t step = 0; step < tile.steps; ++step) {
      load(step);
      Sums<S> leaf = {0, 0};
      for_packs(step, [&](int64_t, const auto& g, const auto& xhat) {
#pragma unroll
        for (int v = 0; v < V; ++v) leaf = {leaf.sum + g[v], prim::fma(g[v], xhat[v], leaf.dot)};
      });
      row[0] = Add{}(row[0], leaf);
    }
    combine_threads(tile.tile, row, &prim::shared_memory<Sums<S>>(), Add{});
    const S shift = a.is_centred ? row[0].sum / S(a.shape.K) : S(0), slope = row[0].dot / S(a.shape.K);
    for (int64_t step = 0; step < tile.steps; ++step) {
      if (tile.steps > 1) load(step);
      for_packs(step, [&](int64_t u, auto& g, const auto& xhat) {
#pragma unroll
        for (int v = 0; v < V; ++v) g[v] = prim::fma(-xhat[v], slope, g[v] - shift) * rstd;
        walk.store(a.dx.as<T>(), u, g);
      });
    }
  }
}

// --- groups of images --------------------------------------------------------------------------------------------

// Merges the moments of the segments and channels of each group; stores its statistics. `groups`: its results are
// groups, r_units their segments and channels.
template <class T>
__global__ __launch_bounds__(tile_threads,
                             2) void group_statistics_kernel(LayerNormArgs a, Tile groups, int64_t segments,
                                                             const Moments<Compute<T>>* partial) {
  using S = Compute<T>;
  const LayerNormShape& z = a.shape;
  const int64_t C = z.C();
  for (int64_t k_tile = blockIdx.x; k_tile < groups.k_tiles; k_tile += gridDim.x) {
    const TilePlace place = place_in(groups);
    const int64_t m = k_tile * groups.k_threads + place.k, n = m / z.G;
    Moments<double> total[1] = {{0, 0, 0}};
    for (int64_t i = place.r; i < groups.r_units && m < groups.k_units; i += groups.r_threads) {
      const int64_t s = i / z.K, c = (m - n * z.G) * z.K + (i - s * z.K);
      const auto part = partial[(n * segments + s) * C + c];
      if (part.count == 0) continue;
      const int64_t first = n * C * z.L + (z.is_rows ? c : c * z.L);
      const double mean = double(prim::widen(a.x.as<T>()[first])) + double(part.mean);
      total[0] = Merge{}(total[0], {double(part.count), mean, double(part.squares)});
    }
    combine_threads(groups, total, &prim::shared_memory<Moments<double>>(), Merge{});
    if (m >= groups.k_units || place.r != 0) continue;
    const double variance = total[0].count > 0 ? total[0].squares / total[0].count : 0;
    a.mean.as<S>()[m] = S(total[0].mean);
    a.rstd.as<S>()[m] = S(1 / prim::sqrt(variance + a.eps));
  }
}

// dx = (dy * weight - shift - (x - mean) * slope) * rstd, where mean, rstd, shift and slope are those of the group.
template <class S>
struct GroupCoefficients {
  S shift, slope;
};

template <class T>
__global__ __launch_bounds__(tile_threads,
                             2) void group_coefficients_kernel(LayerNormBackwardArgs a, Tile groups,
                                                               int64_t segments,
                                                               const Sums<Compute<T>>* partial,
                                                               GroupCoefficients<Compute<T>>* coefficients) {
  using S = Compute<T>;
  const LayerNormShape& z = a.shape;
  const double count = double(z.D());
  for (int64_t k_tile = blockIdx.x; k_tile < groups.k_tiles; k_tile += gridDim.x) {
    const TilePlace place = place_in(groups);
    const int64_t m = k_tile * groups.k_threads + place.k, n = m / z.G;
    const auto [sum, dot] = total_of(groups, m, place.r, [&](int64_t i) {
      const int64_t s = i / z.K, c = (m - n * z.G) * z.K + (i - s * z.K);
      const auto part = partial[(n * segments + s) * z.C() + c];
      const double weight = a.weight ? parameter(a.weight, c) : 1;
      return Sums<double>{double(part.sum) * weight, double(part.dot) * weight};
    });
    if (m >= groups.k_units || place.r != 0) continue;
    coefficients[m] = {S(sum / count), S(dot * double(a.rstd.as<S>()[m]) / count)};
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void group_backward_kernel(
    LayerNormBackwardArgs a, ChannelTile tile, Statistics<Compute<T>> statistics,
    const GroupCoefficients<Compute<T>>* coefficients) {
  using S = Compute<T>;
  for_tiles(tile, [&](int64_t n, int64_t k_tile) {
    ChannelWalk<V> walk(tile, n, k_tile);
    if (!walk.is_inside) return;
    S mean[V], rstd[V], weight[V];
    GroupCoefficients<S> k[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t c = walk.channel(v), m = statistics.at(n, c);
      mean[v] = statistics.mean_at(m);
      rstd[v] = statistics.rstd[m];
      weight[v] = a.weight ? S(parameter(a.weight, c)) : S(1);
      k[v] = coefficients[m];
    }
    for (; walk.has(1); walk.advance()) {
      auto d = load_at<V>(a.dy.as<const T>(), walk.element());
      const auto x = load_at<V>(a.x.as<const T>(), walk.element());
#pragma unroll
      for (int v = 0; v < V; ++v) {
        d[v] = prim::fma(d[v], weight[v], -k[v].shift);
        d[v] = prim::fma(-(x[v] - mean[v]), k[v].slope, d[v]) * rstd[v];
      }
      store_at(a.dx.as<T>(), walk.element(), d);
    }
  });
}

// Adds up what `columns`.r_units parts left of each channel.
template <class S>
__global__ __launch_bounds__(tile_threads, 2) void parameter_gradients_kernel(View dweight, View dbias,
                                                                              Tile columns,
                                                                              const Sums<S>* partial) {
  for (int64_t k_tile = blockIdx.x; k_tile < columns.k_tiles; k_tile += gridDim.x) {
    const TilePlace place = place_in(columns);
    const int64_t c = k_tile * columns.k_threads + place.k;
    const auto [sum, dot] = total_of(columns, c, place.r, [&](int64_t part) {
      const auto own = partial[part * columns.k_units + c];
      return Sums<double>{double(own.sum), double(own.dot)};
    });
    if (c >= columns.k_units || place.r != 0) continue;
    if (dbias) set_parameter(dbias, c, sum);
    if (dweight) set_parameter(dweight, c, dot);
  }
}

// --- launches ----------------------------------------------------------------------------------------------------

// A sample as batch_norm.h sees a batch.
BatchNormShape sample_of(const LayerNormShape& z) { return {1, z.C(), z.L, z.is_rows}; }
int64_t run_of(const LayerNormShape& z) { return z.is_rows ? z.C() : z.L; }

template <class T>
void normalise_rows(const LayerNormArgs& a) {
  const LayerNormShape& z = a.shape;
  dispatch_pack<T>(z.K, [&]<int V>(std::integral_constant<int, V>) {
    const ClassTile tile = choose_class_tile(z.N * z.G, z.K, 1, V);
    launch("layer_norm", rows_kernel<T, V>, tile.launch(V, sizeof(Moments<Compute<T>>)), a, tile);
  });
}

template <class T>
void normalise_images(const LayerNormArgs& a) {
  using S = Compute<T>;
  const LayerNormShape& z = a.shape;
  dispatch_pack<T>(run_of(z), [&]<int V>(std::integral_constant<int, V>) {
    const ChannelTile tile = choose_channel_tile(sample_of(z), V, z.N);
    DeviceScratch<Moments<S>> partial(tile.parts() * z.C());
    launch("group_norm_moments", channel_moments_kernel<T, V>,
           tile.launch(tile_threads * V * int64_t(sizeof(Moments<S>))), a.x.as<const T>(), tile,
           partial.data());
    const Tile groups = choose_threads(false, z.N * z.G, tile.segments * z.K);
    launch("group_norm_statistics", group_statistics_kernel<T>,
           groups.launch(tile_threads * sizeof(Moments<double>)), a, groups, tile.segments, partial.data());
    launch("group_norm", channel_affine_kernel<T, V>, tile.launch(), a.x.as<const T>(),
           statistics_of<S>(z, a.mean, a.rstd), a.weight, a.bias, a.y.as<T>(), tile);
  });
}

void forward(const LayerNormArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    a.shape.L == 1 ? normalise_rows<T>(a) : normalise_images<T>(a);
  });
}

template <class S>
void add_parts(const LayerNormBackwardArgs& a, int64_t parts, const Sums<S>* partial) {
  if (!a.dweight && !a.dbias) return;
  const Tile columns = choose_threads(true, a.shape.C(), parts);
  launch("layer_norm_parameter_gradients", parameter_gradients_kernel<S>,
         columns.launch(tile_threads * sizeof(Sums<double>)), a.dweight, a.dbias, columns, partial);
}

template <class T>
void backward_rows(const LayerNormBackwardArgs& a) {
  using S = Compute<T>;
  const LayerNormShape& z = a.shape;
  dispatch_pack<T>(z.K, [&]<int V>(std::integral_constant<int, V>) {
    const ClassTile rows = choose_class_tile(z.N * z.G, z.K, 1, V);
    launch("layer_norm_backward", rows_backward_kernel<T, V>, rows.launch(V, sizeof(Sums<S>)), a, rows);
    if (!a.dweight && !a.dbias) return;
    const ChannelTile tile = choose_channel_tile({z.N, z.C(), 1, true}, V);
    DeviceScratch<Sums<S>> partial(tile.parts() * z.C());
    launch("layer_norm_sums", channel_sums_kernel<T, V, true>,
           tile.launch(tile_threads * V * int64_t(sizeof(Sums<S>))), a.dy.as<const T>(), a.x.as<const T>(),
           statistics_of<S>(z, a.mean, a.rstd), tile, partial.data());
    add_parts<S>(a, tile.parts(), partial.data());
  });
}

template <class T>
void backward_images(const LayerNormBackwardArgs& a) {
  using S = Compute<T>;
  const LayerNormShape& z = a.shape;
  const auto statistics = statistics_of<S>(z, a.mean, a.rstd);
  dispatch_pack<T>(run_of(z), [&]<int V>(std::integral_constant<int, V>) {
    const ChannelTile tile = choose_channel_tile(sample_of(z), V, z.N);
    DeviceScratch<Sums<S>> partial(tile.parts() * z.C());
    DeviceScratch<GroupCoefficients<S>> coefficients(z.N * z.G);
    launch("group_norm_sums", channel_sums_kernel<T, V, false>,
           tile.launch(tile_threads * V * int64_t(sizeof(Sums<S>))), a.dy.as<const T>(), a.x.as<const T>(),
           statistics, tile, partial.data());
    const Tile groups = choose_threads(false, z.N * z.G, tile.segments * z.K);
    launch("group_norm_coefficients", group_coefficients_kernel<T>,
           groups.launch(tile_threads * sizeof(Sums<double>)), a, groups, tile.segments, partial.data(),
           coefficients.data());
    launch("group_norm_backward", group_backward_kernel<T, V>, tile.launch(), a, tile, statistics,
           coefficients.data());
    add_parts<S>(a, tile.parts(), partial.data());
  });
}

void backward(const LayerNormBackwardArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    a.shape.L == 1 ? backward_rows<T>(a) : backward_images<T>(a);
  });
}

}  // namespace

const LayerNormKernels layer_norm_kernels = {.forward = forward, .backward = backward};

}  // namespace lamina::LAMINA_DEVICE
