// Casts, and the table of the family.
#include "kernels/elementwise/elementwise.h"

#include "kernels/elementwise/elementwise.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// One kernel for each dtype of x, which chooses that of y: a kernel for each pair would be 64.
template <class T>
__global__ __launch_bounds__(spread_threads) void cast_kernel(Elementwise<1> e) {
  constexpr int V = points<T>;
  for_packs<V>(e, [&](int64_t first, int count) {
    const prim::Pack<Number<T>, V> x = load_numbers<T, V>(e, 0, first, count);
    switch (e.result) {
      case Dtype::boolean:
        return store_numbers<bool>(e, first, count, x);
      case Dtype::uint8:
        return store_numbers<uint8_t>(e, first, count, x);
      case Dtype::int32:
        return store_numbers<int32_t>(e, first, count, x);
      case Dtype::int64:
        return store_numbers<int64_t>(e, first, count, x);
      case Dtype::float16:
        return store_numbers<f16>(e, first, count, x);
      case Dtype::bfloat16:
        return store_numbers<bf16>(e, first, count, x);
      case Dtype::float32:
        return store_numbers<float>(e, first, count, x);
      case Dtype::float64:
        return store_numbers<double>(e, first, count, x);
    }
  });
}

}  // namespace

void cast(const ElementwiseArgs& args) {
  dispatch_any(args.x[0].dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch_elementwise<points<T>>("cast", cast_kernel<T>, args);
  });
}

const ElementwiseKernels elementwise_kernels = {unary, unary_backward, binary, ternary, cast};

}  // namespace lamina::LAMINA_DEVICE
