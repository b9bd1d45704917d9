// Attention on the matrix units (mma.cuh).
#include "kernels/attention/matrix_units.h"
#include "kernels/attention/mma.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// Calls f(Type<T>{}, std::integral_constant<int, D>{}) for the dtype and the features of the operands.
template <class F>
void dispatch_mma(const AttentionArgs& a, F f) {
  const int64_t features = larger(columns_of(a.query), columns_of(a.value));
  const auto with_type = [&](auto t) {
    if (features <= 64)
      f(t, std::integral_constant<int, 64>{});
    else
      f(t, std::integral_constant<int, 128>{});
  };
  a.query.dtype == Dtype::float16 ? with_type(Type<f16>{}) : with_type(Type<bf16>{});
}

// A block for each tile of rows of each head.
template <class Shared, class Args, class Kernel>
void launch_mma(const char* name, Kernel kernel, int64_t heads, int64_t rows, const Args& args) {
  const int64_t tiles = heads * ceil_div(rows, own_rows);
  launch(name, kernel, {.grid = grid_of(tiles), .block = {mma_threads}, .shared = sizeof(Shared)}, args,
         tiles);
}

}  // namespace

void forward_mma(const AttentionArgs& a) {
  dispatch_mma(a, [&]<class T, int D>(Type<T>, std::integral_constant<int, D>) {
    launch_mma<ForwardShared<D>>("attention", forward_mma_kernel<T, D>, heads_of(a.query), rows_of(a.query),
                                 a);
  });
}

void backward_mma(const AttentionBackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  dispatch_mma(a, [&]<class T, int D>(Type<T>, std::integral_constant<int, D>) {
    launch_mma<BackwardShared<D, true>>("attention_backward_key", backward_mma_kernel<T, D, true>,
                                        heads_of(a.key), rows_of(a.key), b);
    launch_mma<BackwardShared<D, false>>("attention_backward_query", backward_mma_kernel<T, D, false>,
                                         heads_of(a.query), rows_of(a.query), b);
  });
}

}  // namespace lamina::LAMINA_DEVICE
