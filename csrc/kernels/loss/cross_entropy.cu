// Device kernels of cross_entropy.h.
//
// Plan. Cross entropy: tiles of threads (softmax/rows.cuh) find s and log sum exp(x - s) of their positions in one pass
// over the logits; only smoothing and probabilities take a second, whose logits mostly come from registers or cache. The
// first thread of a position has its label and its loss. Each block leaves the sums of its losses and weights in
// scratch memory, in double; one block adds them up. Backward is one pass without any exchange between threads, but for
// probabilities, whose mass is summed first. nll: one thread per position; backward: one per element, so dx is written
// once.
#include "kernels/loss/cross_entropy.h"

#include <algorithm>

#include "kernels/softmax/rows.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

LAMINA_PRIM bool has_labels(const ClassLoss& to) { return !is_floating(to.target.dtype); }

// A position's label and its weight. Ignored: weight 0. Out of range: weight NaN, and a class that may be read.
template <class S>
struct Label {
  int64_t c;
  S weight;
  bool is_ignored;
};

template <class T>
LAMINA_PRIM Compute<T> weight_at(const ClassLoss& to, int64_t c) {
  return to.weight ? prim::widen(to.weight.as<T>()[c]) : Compute<T>(1);
}

template <class T>
LAMINA_PRIM Label<Compute<T>> label_at(const ClassLoss& to, int64_t at) {
  const int64_t c =
      to.target.dtype == Dtype::int64 ? to.target.as<int64_t>()[at] : to.target.as<int32_t>()[at];
  if (c == to.ignore_index) return {0, 0, true};
  if (c < 0 || c >= to.C) return {0, Compute<T>(NAN), false};
  return {c, weight_at<T>(to, c), false};
}

// --- sums over positions -----------------------------------------------------------------------------------------

struct Sums {
  double loss, weight;
};
LAMINA_PRIM Sums add(Sums a, Sums b) { return {a.loss + b.loss, a.weight + b.weight}; }

// A position's loss goes to its place, or into the sums of its thread.
template <class T>
LAMINA_PRIM void record(const ClassLoss& to, const View& loss, int64_t at, Compute<T> value,
                        Compute<T> weight, Sums& sums) {
  if (to.reduction == LossReduction::none) loss.as<T>()[at] = prim::narrow<T>(value);
  sums = add(sums, {double(value), double(weight)});
}

// The sums of all threads of the block, whose number is a power of two. Uses tile_threads Sums of shared memory.
LAMINA_PRIM Sums sum_block(Sums sums) {
  const Tile all = {false, 1, prim::threads(), 1, 1, 1};
  Sums state[1] = {sums};
  combine_threads(all, state, &prim::shared_memory<Sums>(), [](Sums a, Sums b) { return add(a, b); });
  return state[0];
}

// One block: the divisor of the mean and the reduced loss, from the sums of all blocks.
template <class T>
__global__ __launch_bounds__(tile_threads) void finish_kernel(ClassLoss to, View loss, View total,
                                                              const Sums* partial, int64_t blocks) {
  Sums sums = {0, 0};
  for (int64_t i = prim::thread(); i < blocks; i += prim::threads()) sums = add(sums, partial[i]);
  sums = sum_block(sums);
  if (prim::thread() != 0) return;
  const double divisor = has_labels(to) ? sums.weight : double(to.O * to.I);
  *total.as<Compute<T>>() = Compute<T>(divisor);
  if (to.reduction == LossReduction::none) return;
  *loss.as<T>() =
      prim::narrow<T>(Compute<T>(to.reduction == LossReduction::mean ? sums.loss / divisor : sums.loss));
}

template <class T>
void finish(const ClassLoss& to, const View& loss, const View& total, const Sums* partial, int64_t blocks) {
  launch("loss_finish", finish_kernel<T>,
         {.grid = {1}, .block = {tile_threads}, .shared = tile_threads * sizeof(Sums)}, to, loss, total,
         partial, blocks);
}

// dloss of a position, over the divisor of the mean.
template <class T>
LAMINA_PRIM Compute<T> dloss_at(const ClassLoss& to, const View& dloss, const View& total, int64_t at) {
  const Compute<T> g = prim::widen(dloss.as<T>()[to.reduction == LossReduction::none ? at : 0]);
  return to.reduction == LossReduction::mean ? g / *total.as<Compute<T>>() : g;
}

// --- cross entropy -----------------------------------------------------------------------------------------------

template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void forward_kernel(CrossEntropyArgs a, ClassTile tile,
                                                                  Sums* partial) {
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const T* x = a.logits.as<T>();
  const S e = S(to.label_smoothing), uniform = e / S(to.C);
  const bool is_labelled = has_labels(to);
  Sums sums = {0, 0};
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    Step<T, V> packs;
    ExpSum<S> state[V];
    exp_sums(walk, x, packs, &prim::shared_memory<ExpSum<S>>(), state);
    // spread: the sum over classes of -w[c] log p[c], times q'[c] where probabilities are given.
    S shift[V], log_sum[V], spread[V];
#pragma unroll
    for (int v = 0; v < V; ++v) {
      shift[v] = shift_of(state[v].max);
      log_sum[v] = prim::log(state[v].sum);
      spread[v] = 0;
    }
    if (e > 0 || !is_labelled) {
      for (int64_t u = walk.r; walk.is_inside && u < tile.tile.r_units; u += tile.tile.r_threads) {
        const auto logits = walk.load(x, u);
        auto factor = logits;
        if (!is_labelled) factor = walk.load(to.target.as<T>(), u);
#pragma unroll
        for (int v = 0; v < V; ++v) {
          factor[v] = is_labelled ? S(1) : prim::fma(1 - e, factor[v], uniform);
          if (to.weight) factor[v] *= weight_at<T>(to, walk.class_of(u, v));
          spread[v] += factor[v] * (shift[v] - logits[v] + log_sum[v]);
        }
      }
      walk.sum(spread, &prim::shared_memory<S>());
    }
    if (!walk.is_inside || walk.r != 0) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v > 0 && !tile.tile.is_outer) break;  // a row is one position
      const int64_t at = walk.at + v;
      a.stats.as<S>()[at] = shift[v];
      a.stats.as<S>()[to.O * to.I + at] = log_sum[v];
      if (!is_labelled) {
        record<T>(to, a.loss, at, spread[v], 1, sums);
        continue;
      }
      const Label<S> label = label_at<T>(to, at);
      S loss = 0;
      if (!label.is_ignored) {
        loss = (1 - e) * label.weight *
               (shift[v] - prim::widen(x[walk.first + v + label.c * to.I]) + log_sum[v]);
        if (e > 0) loss += uniform * spread[v];
      }
      record<T>(to, a.loss, at, loss, label.weight, sums);
    }
  }
  sums = sum_block(sums);
  if (prim::thread() == 0) partial[blockIdx.x] = sums;
}

void cross_entropy(const CrossEntropyArgs& a) {
  const ClassLoss& to = a.to;
  dispatch_device_float(a.logits.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    dispatch_pack<T>(to.C, to.I, [&]<int V>(std::integral_constant<int, V>) {
      const ClassTile tile = choose_class_tile(to.O, to.C, to.I, V);
      Launch shape = tile.launch(V, sizeof(ExpSum<Compute<T>>));
      shape.shared = std::max(shape.shared, int64_t(tile_threads * sizeof(Sums)));
      DeviceScratch<Sums> partial(shape.grid.x);
      launch("cross_entropy", forward_kernel<T, V>, shape, a, tile, partial.data());
      finish<T>(to, a.loss, a.total, partial, shape.grid.x);
    });
  });
}

// One block: the sum of all weights.
template <class T>
__global__ __launch_bounds__(tile_threads) void sum_weights_kernel(ClassLoss to, Compute<T>* sum) {
  Sums sums = {0, 0};
  for (int64_t c = prim::thread(); c < to.C; c += prim::threads()) sums.weight += double(weight_at<T>(to, c));
  sums = sum_block(sums);
  if (prim::thread() == 0) *sum = Compute<T>(sums.weight);
}

// Labels: dx[c] = p[c] * slope - w[c] * flat, and at the label less `peak`. Probabilities: dx[c] = p[c] * slope - w[c]
// q'[c] * flat.
template <class T, int V>
__global__ __launch_bounds__(tile_threads, 2) void backward_kernel(CrossEntropyBackwardArgs a, ClassTile tile,
                                                                   const Compute<T>* all_weights) {
  using S = Compute<T>;
  const ClassLoss& to = a.to;
  const S e = S(to.label_smoothing), uniform = e / S(to.C);
  const bool is_labelled = has_labels(to);
  for (int64_t k_tile = blockIdx.x; k_tile < tile.tile.k_tiles; k_tile += gridDim.x) {
    const ClassWalk<V> walk(tile, k_tile);
    // w[c] q'[c] of the elements of a unit.
    const auto weighted = [&](int64_t u) {
      auto q = walk.load(to.target.as<T>(), u);
#pragma unroll
      for (int v = 0; v < V; ++v)
        q[v] = weight_at<T>(to, walk.class_of(u, v)) * prim::fma(1 - e, q[v], uniform);
      return q;
    };
    S mass[V];
#pragma unroll
    for (int v = 0; v < V; ++v) mass[v] = 0;
    if (!is_labelled && a.dlogits) {
      for (int64_t u = walk.r; walk.is_inside && u < tile.tile.r_units; u += tile.tile.r_threads) {
        const auto q = weighted(u);
#pragma unroll
        for (int v = 0; v < V; ++v) mass[v] += q[v];
      }
      walk.sum(mass, &prim::shared_memory<S>());
    }
    if (!walk.is_inside) continue;
    S shift[V], log_sum[V], slope[V], flat[V], peak[V];
    int64_t label[V];  // -1: ignored
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int64_t at = walk.at + (tile.tile.is_outer ? v : 0);
      shift[v] = a.stats.as<S>()[at];
      log_sum[v] = a.stats.as<S>()[to.O * to.I + at];
      const S g = dloss_at<T>(to, a.dloss, a.total, at);
      slope[v] = g * mass[v];
      flat[v] = g;
      peak[v] = 0;
      label[v] = 0;
      if (!is_labelled) continue;
      const Label<S> found = label_at<T>(to, at);
      label[v] = found.is_ignored ? -1 : found.c;
      peak[v] = g * (1 - e) * found.weight;
      flat[v] = g * uniform;
      slope[v] = e > 0 ? peak[v] + flat[v] * (all_weights ? *all_weights : S(to.C)) : peak[v];
    }
    for (int64_t u = walk.r; u < tile.tile.r_units; u += tile.tile.r_threads) {
      auto log_p = walk.load(a.logits.as<T>(), u);
      prim::Pack<S, V> dx;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        log_p[v] = log_p[v] - shift[v] - log_sum[v];
        dx[v] = prim::exp(log_p[v]) * slope[v];
      }
      if (is_labelled) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int64_t c = walk.class_of(u, v);
          if (e > 0) dx[v] -= weight_at<T>(to, c) * flat[v];
          if (c == label[v]) dx[v] -= peak[v];
          if (label[v] < 0) dx[v] = 0;
        }
        walk.store(a.dlogits.as<T>(), u, dx);
        continue;
      }
      if (a.dlogits) {
        const auto q = weighted(u);
#pragma unroll
        for (int v = 0; v < V; ++v) dx[v] -= q[v] * flat[v];
        walk.store(a.dlogits.as<T>(), u, dx);
      }
      if (a.dtarget) {
#pragma unroll
        for (int v = 0; v < V; ++v)
          dx[v] = -(flat[v] * (1 - e) * weight_at<T>(to, walk.class_of(u, v)) * log_p[v]);
        walk.store(a.dtarget.as<T>(), u, dx);
      }
    }
  }
}

void cross_entropy_backward(const CrossEntropyBackwardArgs& a) {
  const ClassLoss& to = a.to;
  dispatch_device_float(a.logits.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using S = Compute<T>;
    const bool is_smoothed = to.weight && to.label_smoothing > 0;
    DeviceScratch<S> all_weights(is_smoothed ? 1 : 0);
    if (is_smoothed)
      launch("sum_weights", sum_weights_kernel<T>,
             {.grid = {1}, .block = {tile_threads}, .shared = tile_threads * sizeof(Sums)}, to,
             all_weights.data());
    dispatch_pack<T>(to.C, to.I, [&]<int V>(std::integral_constant<int, V>) {
      const ClassTile tile = choose_class_tile(to.O, to.C, to.I, V);
      launch("cross_entropy_backward", backward_kernel<T, V>, tile.launch(V, sizeof(S)), a, tile,
             all_weights.data());
    });
  });
}

// --- negative log likelihood -------------------------------------------------------------------------------------

Launch per_element(int64_t n, int64_t shared = 0) {
  return {
      .grid = {std::min(ceil_div(n, tile_threads), grid_limit)}, .block = {tile_threads}, .shared = shared};
}

template <class T>
__global__ __launch_bounds__(tile_threads, 2) void nll_kernel(NllArgs a, Sums* partial) {
  const ClassLoss& to = a.to;
  Sums sums = {0, 0};
  for (int64_t at = blockIdx.x * int64_t(tile_threads) + prim::thread(); at < to.O * to.I;
       at += int64_t(gridDim.x) * tile_threads) {
    const auto label = label_at<T>(to, at);
    const int64_t o = at / to.I, i = at - o * to.I;
    // A bad label's weight is NaN; an ignored one counts nothing, whatever x holds.
    const Compute<T> x = label.is_ignored ? 0 : prim::widen(a.x.as<T>()[(o * to.C + label.c) * to.I + i]);
    record<T>(to, a.loss, at, -label.weight * x, label.weight, sums);
  }
  sums = sum_block(sums);
  if (prim::thread() == 0) partial[blockIdx.x] = sums;
}

void nll(const NllArgs& a) {
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const Launch shape = per_element(a.to.O * a.to.I, tile_threads * sizeof(Sums));
    DeviceScratch<Sums> partial(shape.grid.x);
    launch("nll", nll_kernel<T>, shape, a, partial.data());
    finish<T>(a.to, a.loss, a.total, partial, shape.grid.x);
  });
}

template <class T>
__global__ __launch_bounds__(tile_threads) void nll_backward_kernel(NllBackwardArgs a) {
  const ClassLoss& to = a.to;
  for (int64_t element = blockIdx.x * int64_t(tile_threads) + prim::thread(); element < to.O * to.C * to.I;
       element += int64_t(gridDim.x) * tile_threads) {
    const int64_t row = element / to.I, i = element - row * to.I, o = row / to.C, c = row - o * to.C;
    const int64_t at = o * to.I + i;
    const auto label = label_at<T>(to, at);
    Compute<T> dx = 0;
    if (!label.is_ignored && c == label.c) dx = -label.weight * dloss_at<T>(to, a.dloss, a.total, at);
    a.dx.as<T>()[element] = prim::narrow<T>(dx);
  }
}

void nll_backward(const NllBackwardArgs& a) {
  dispatch_device_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("nll_backward", nll_backward_kernel<T>, per_element(a.to.O * a.to.C * a.to.I), a);
  });
}

}  // namespace

const ClassLossKernels class_loss_kernels = {.cross_entropy = cross_entropy,
                                             .cross_entropy_backward = cross_entropy_backward,
                                             .nll = nll,
                                             .nll_backward = nll_backward};

}  // namespace lamina::LAMINA_DEVICE
