// Device kernels of pointwise.h.
//
// Plan. A block takes packs of 16 bytes from a sequence of n elements. Reduced losses: each thread adds its packs up in
// double, each block its threads, and one block the blocks, in a fixed order. Gradients: one pass.
#include "kernels/loss/pointwise.h"

#include <algorithm>

#include "kernels/reduce/tile.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

template <class S>
LAMINA_PRIM S softplus(S x) {
  return prim::max(x, S(0)) + prim::log1p(prim::exp(-prim::abs(x)));
}
// -1, 0 or 1; NaN of NaN.
template <class S>
LAMINA_PRIM S sign(S x) {
  return x > 0 ? S(1) : x < 0 ? S(-1) : x;
}

// What an element with target t adds to the loss, and the derivatives of that by x and by t.
template <class S>
LAMINA_PRIM S value(PointwiseLoss kind, S x, S t, S w, S u) {
  switch (kind) {
    case PointwiseLoss::mse:
      return (x - t) * (x - t);
    case PointwiseLoss::l1:
      return prim::abs(x - t);
    default:
      return w * prim::fma(prim::fma(u - 1, t, S(1)), softplus(-x), (1 - t) * x);
  }
}
template <class S>
LAMINA_PRIM S by_x(PointwiseLoss kind, S x, S t, S w, S u) {
  switch (kind) {
    case PointwiseLoss::mse:
      return (x - t) + (x - t);
    case PointwiseLoss::l1:
      return sign(x - t);
    default:
      return w * ((1 - t) - prim::fma(u - 1, t, S(1)) * prim::sigmoid(-x));
  }
}
template <class S>
LAMINA_PRIM S by_target(PointwiseLoss kind, S x, S t, S w, S u) {
  switch (kind) {
    case PointwiseLoss::mse:
      return (t - x) + (t - x);
    case PointwiseLoss::l1:
      return sign(t - x);
    default:
      return w * prim::fma(u - 1, softplus(-x), -x);
  }
}

// N elements at `at` in the compute dtype, 1 where the array is absent.
template <int N, class T>
LAMINA_PRIM prim::Pack<Compute<T>, N> load_or_one(const View& v, int64_t at) {
  if (v) return prim::widen(prim::load_vector<N>(v.as<T>() + at));
  prim::Pack<Compute<T>, N> ones;
#pragma unroll
  for (int i = 0; i < N; ++i) ones[i] = 1;
  return ones;
}

// Calls body(std::integral_constant<int, N>{}, at) for the packs of N elements of this thread: whole ones where the
// arrays are aligned, else single elements.
template <int V, class F>
LAMINA_PRIM void for_packs(int64_t n, bool is_aligned, F body) {
  const int64_t threads = int64_t(gridDim.x) * tile_threads;
  for (int64_t at = (int64_t(blockIdx.x) * tile_threads + prim::thread()) * V; at < n; at += threads * V) {
    if (is_aligned && at + V <= n) {
      body(std::integral_constant<int, V>{}, at);
      continue;
    }
#pragma unroll 1
    for (int64_t i = at; i < at + V && i < n; ++i) body(std::integral_constant<int, 1>{}, i);
  }
}

struct SumShared {
  double partial[32];
};

// `partial`: the sum of each block; null where the loss is not reduced.
template <class T>
__global__ __launch_bounds__(tile_threads, 2) void forward_kernel(PointwiseLossArgs a, int64_t n,
                                                                  bool is_aligned, double* partial) {
  using S = Compute<T>;
  double total = 0;
  for_packs<prim::vector_of<T>>(n, is_aligned, [&]<int N>(std::integral_constant<int, N>, int64_t at) {
    const auto x = load_or_one<N, T>(a.x, at), t = load_or_one<N, T>(a.target, at);
    const auto w = load_or_one<N, T>(a.weight, at), u = load_or_one<N, T>(a.pos_weight, at);
    prim::Pack<S, N> loss;
    S sum = 0;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      loss[i] = value(a.kind, x[i], t[i], w[i], u[i]);
      sum += loss[i];
    }
    if (partial)
      total += double(sum);
    else
      prim::store_vector(a.loss.as<T>() + at, prim::narrow<T>(loss));
  });
  if (!partial) return;
  total = prim::block_sum(total, prim::shared_memory<SumShared>().partial);
  if (prim::thread() == 0) partial[blockIdx.x] = total;
}

// One block.
template <class T>
__global__ __launch_bounds__(tile_threads) void finish_kernel(View loss, const double* partial,
                                                              int64_t blocks, double divisor) {
  double total = 0;
  for (int64_t i = prim::thread(); i < blocks; i += prim::threads()) total += partial[i];
  total = prim::block_sum(total, prim::shared_memory<SumShared>().partial);
  if (prim::thread() == 0) *loss.as<T>() = prim::narrow<T>(Compute<T>(total / divisor));
}

template <class T>
__global__ __launch_bounds__(tile_threads, 2) void backward_kernel(PointwiseLossBackwardArgs a, int64_t n,
                                                                   bool is_aligned) {
  using S = Compute<T>;
  const bool is_reduced = a.reduction != LossReduction::none;
  S scale = 0;
  if (is_reduced) scale = prim::widen(*a.dloss.as<T>()) / (a.reduction == LossReduction::mean ? S(n) : S(1));
  for_packs<prim::vector_of<T>>(n, is_aligned, [&]<int N>(std::integral_constant<int, N>, int64_t at) {
    const auto x = load_or_one<N, T>(a.x, at), t = load_or_one<N, T>(a.target, at);
    const auto w = load_or_one<N, T>(a.weight, at), u = load_or_one<N, T>(a.pos_weight, at);
    const auto g = load_or_one<N, T>(is_reduced ? View{} : a.dloss, at);
    prim::Pack<S, N> dx, dt;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const S factor = is_reduced ? scale : g[i];
      dx[i] = factor * by_x(a.kind, x[i], t[i], w[i], u[i]);
      dt[i] = factor * by_target(a.kind, x[i], t[i], w[i], u[i]);
    }
    if (a.dx) prim::store_vector(a.dx.as<T>() + at, prim::narrow<T>(dx));
    if (a.dtarget) prim::store_vector(a.dtarget.as<T>() + at, prim::narrow<T>(dt));
  });
}

// At most 1024 blocks, 8 for each of 132 multiprocessors; a thread has 4 packs or more where there are so many.
Launch per_pack(int64_t n, int V) {
  return {.grid = {std::min<int64_t>(ceil_div(n, 4 * V * tile_threads), 1024)},
          .block = {tile_threads},
          .shared = sizeof(SumShared)};
}

bool are_aligned(std::initializer_list<View> views) {
  for (const View& v : views)
    if (!prim::is_aligned(v.as<char>())) return false;
  return true;
}

void forward(const PointwiseLossArgs& a) {
  const int64_t n = a.x.size();
  const bool is_reduced = a.reduction != LossReduction::none;
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const Launch shape = per_pack(n, prim::vector_of<T>);
    const bool is_aligned =
        are_aligned({a.x, a.target, a.weight, a.pos_weight}) && (is_reduced || are_aligned({a.loss}));
    DeviceScratch<double> partial(is_reduced ? shape.grid.x : 0);
    launch("pointwise_loss", forward_kernel<T>, shape, a, n, is_aligned, partial.data());
    if (is_reduced)
      launch("pointwise_loss_finish", finish_kernel<T>,
             {.grid = {1}, .block = {tile_threads}, .shared = sizeof(SumShared)}, a.loss, partial.data(),
             shape.grid.x, a.reduction == LossReduction::mean ? double(n) : 1.0);
  });
}

void backward(const PointwiseLossBackwardArgs& a) {
  const int64_t n = a.x.size();
  dispatch_device_float(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const bool is_aligned = are_aligned({a.x, a.target, a.weight, a.pos_weight, a.dx, a.dtarget}) &&
                            (a.reduction != LossReduction::none || are_aligned({a.dloss}));
    launch("pointwise_loss_backward", backward_kernel<T>, per_pack(n, prim::vector_of<T>), a, n, is_aligned);
  });
}

}  // namespace

const PointwiseLossKernels pointwise_loss_kernels = {.forward = forward, .backward = backward};

}  // namespace lamina::LAMINA_DEVICE
