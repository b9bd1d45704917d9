// Device kernels of softmax.h.
//
// Plan. One launch each way. A tile of threads (rows.cuh) finds the maxima and sums of its rows or columns, then goes
// over them again and writes. What fits one step of its threads (rows: 4096 floats in a block) stays in registers between
// the two, so memory is read once; a longer one is read again, mostly from the second-level cache. Backward likewise,
// with the sum of dy y (of dy for the logarithm) in place of the exponentials.
// Traffic per float: 8 bytes forward, 12 backward; bound by memory.
#include "kernels/softmax/softmax.h"

#include "kernels/softmax/rows.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void forward_kernel(SoftmaxArgs a, ClassTile tile) {
  using S = Compute<T>;
  const T* x = a.x.as<T>();
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    Step<T, V> packs;
    ExpSum<S> state[V];
    exp_sums(walk, x, packs, &prim::shared_memory<ExpSum<S>>(), state);
    S shift[V], factor[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      shift[v] = shift_of(state[v].max);
      factor[v] = a.logarithm ? prim::log(state[v].sum) : 1 / state[v].sum;
    }
    for (int64_t step = 0; step < tile.steps; ++step) {
      if (tile.steps > 1) walk.load_step(x, step, packs, T{});
#pragma unroll
      for (int i = 0; i < step_packs; ++i) {
        if (!walk.has(step, i)) continue;
        auto y = prim::widen(packs[i]);
#pragma unroll
        for (int v = 0; v < V; ++v)
          y[v] = a.logarithm ? (y[v] - shift[v]) - factor[v] : prim::exp(y[v] - shift[v]) * factor[v];
        walk.store(a.y.as<T>(), walk.unit_of(step, i), y);
      }
    }
  }
}

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void backward_kernel(SoftmaxBackwardArgs a, ClassTile tile) {
  using S = Compute<T>;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    Step<T, V> ys, dys;
    S sum[V];
#pragma unroll
    for (int v = 0; v < V; ++v) sum[v] = 0;
    for (int64_t step = 0; step < tile.steps; ++step) {
      walk.load_step(a.y.as<T>(), step, ys, T{});
      walk.load_step(a.dy.as<T>(), step, dys, T{});
#pragma unroll
      for (int v = 0; v < V; ++v) {
        S leaf = 0;
#pragma unroll
        for (int i = 0; i < step_packs; ++i) {
          const S dy = prim::widen(dys[i][v]);
          leaf += a.logarithm ? dy : dy * prim::widen(ys[i][v]);
        }
        sum[v] += leaf;
      }
    }
    walk.sum(sum, &prim::shared_memory<S>());
    for (int64_t step = 0; step < tile.steps; ++step) {
      if (tile.steps > 1) {
        walk.load_step(a.y.as<T>(), step, ys, T{});
        walk.load_step(a.dy.as<T>(), step, dys, T{});
      }
#pragma unroll
      for (int i = 0; i < step_packs; ++i) {
        if (!walk.has(step, i)) continue;
        const auto y = prim::widen(ys[i]);
        auto dx = prim::widen(dys[i]);
#pragma unroll
        for (int v = 0; v < V; ++v)
          dx[v] = a.logarithm ? prim::fma(-prim::exp(y[v]), sum[v], dx[v]) : y[v] * (dx[v] - sum[v]);
        walk.store(a.dx.as<T>(), walk.unit_of(step, i), dx);
      }
    }
  }
}

void forward(const SoftmaxArgs& a) {
  if (a.outer * a.C * a.inner == 0) return;
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    dispatch_pack<T>(a.C, a.inner, [&]<int V>(std::integral_constant<int, V>) {
      const ClassTile tile = choose_class_tile(a.outer, a.C, a.inner, V);
      launch("softmax", forward_kernel<T, V>, tile.launch(V, sizeof(ExpSum<Compute<T>>)), a, tile);
    });
  });
}

void backward(const SoftmaxBackwardArgs& a) {
  if (a.outer * a.C * a.inner == 0) return;
  dispatch_device_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    dispatch_pack<T>(a.C, a.inner, [&]<int V>(std::integral_constant<int, V>) {
      const ClassTile tile = choose_class_tile(a.outer, a.C, a.inner, V);
      launch("softmax_backward", backward_kernel<T, V>, tile.launch(V, sizeof(Compute<T>)), a, tile);
    });
  });
}

}  // namespace

const SoftmaxKernels softmax_kernels = {.forward = forward, .backward = backward};

}  // namespace lamina::LAMINA_DEVICE
