// Dropout on a GPU: a thread takes a counter, whose four words decide about eight elements (dropout.h).
#include "kernels/dropout/dropout.h"

#include "kernels/random/philox.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int per_tile = dropout_elements_per_tile;

template <class T>
__global__ __launch_bounds__(spread_threads) void dropout_kernel(const T* x, T* y, int64_t n,
                                                                 const int64_t* pair, uint32_t threshold,
                                                                 Compute<T> scale) {
  for_counters<per_tile>(n, pair, [&](int64_t first, const prim::Pack<uint32_t, 4>& words) {
    T in[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {  // all loads are under way before the first is waited for
      const int64_t i = first + 16 * e;
      if (i < n) in[e] = x[i];
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int64_t i = first + 16 * e;
      const uint32_t draw = e % 2 ? words[e / 2] >> 16 : words[e / 2] & 0xffff;
      if (i < n) y[i] = prim::narrow<T>(draw >= threshold ? prim::widen(in[e]) * scale : Compute<T>(0));
    }
  });
}

void apply(const DropoutArgs& a) {
  const int64_t n = a.y.size();
  dispatch_device_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("dropout", dropout_kernel<T>, spread_counters<per_tile>(n), a.x.as<const T>(), a.y.as<T>(), n,
           a.pair.as<const int64_t>(), uint32_t(a.p * 65536.0 + 0.5),
           Compute<T>(a.p < 1.0 ? 1.0 / (1.0 - a.p) : 0.0));
  });
}

}  // namespace

const DropoutKernels dropout_kernels = {apply};

}  // namespace lamina::LAMINA_DEVICE
