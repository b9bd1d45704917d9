// attention.h on devices.
#include "kernels/attention/matrix_units.h"
#include "kernels/attention/simt.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int row_threads = 256;

// D[i] = dy[i] . y[i], a warp to a row.
template <class T>
__global__ __launch_bounds__(row_threads) void dot_kernel(AttentionBackwardArgs b, int64_t rows) {
  using S = Compute<T>;
  const View& y = b.forward.y;
  const int64_t row = prim::block() * prim::warps() + prim::warp(), L = rows_of(y);
  if (row >= rows) return;
  const T* p = y.as<T>() + offset_of_head(y, row / L) + row % L * row_stride_of(y);
  const T* q = b.dy.as<T>() + offset_of_head(b.dy, row / L) + row % L * row_stride_of(b.dy);
  S sum = 0;
  for (int64_t e = prim::lane(); e < columns_of(y); e += prim::warp_size)
    sum = prim::fma(prim::widen(p[e]), prim::widen(q[e]), sum);
  sum = prim::warp_sum(sum);
  if (prim::lane() == 0) static_cast<S*>(b.workspace)[row] = sum;
}

void forward(const AttentionArgs& a) {
  if (suits_matrix_units(a)) return forward_mma(a);
  dispatch_device_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    dispatch_attention_tile<T>(columns_of(a.value), [&]<class Tile>(Type<Tile>) {
      launch_attention<Tile>("attention", forward_kernel<T, Tile>, heads_of(a.query), rows_of(a.query),
                             columns_of(a.value), a);
    });
  });
}

void backward(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  const int64_t N = heads_of(a.query), L = rows_of(a.query), E = columns_of(a.query),
                columns = larger(E, columns_of(a.value));
  dispatch_device_float(b.dy.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("attention_dot", dot_kernel<T>,
           {.grid = grid_of(ceil_div(N * L, row_threads / prim::warp_size)), .block = {row_threads}}, b,
           N * L);
    if (suits_matrix_units(b)) return backward_mma(b);
    dispatch_attention_tile<T>(columns, [&]<class Tile>(Type<Tile>) {
      launch_attention<Tile>("attention_backward_key", key_backward_kernel<T, Tile>, heads_of(a.key),
                             rows_of(a.key), columns, b);
      launch_attention<Tile>("attention_backward_query", query_backward_kernel<T, Tile>, N, L, E, b);
    });
  });
}

}  // namespace

const AttentionKernels attention_kernels = {.forward = forward, .backward = backward};

}  // namespace lamina::LAMINA_DEVICE
