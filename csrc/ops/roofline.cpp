#include "ops/roofline.h"

#include <algorithm>
#include <chrono>

#include "kernels/roofline/roofline.h"
#include "runtime/stream.h"

namespace lamina {

double fma_peak(Dtype dtype) {
  constexpr int64_t iterations = 1 << 18;
  constexpr int rounds = 20;  // about 10 ms together
  double out = 0, best = 0;
  const FmaArgs args{.out = {.data = &out, .dtype = dtype == Dtype::float64 ? dtype : Dtype::float32},
                     .iterations = iterations};
  for (int i = 0; i < rounds; ++i) {
    const auto start = std::chrono::steady_clock::now();
    current_stream(Device{}).submit(&RooflineKernels::fma, args);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(
        best, double(iterations * roofline_kernels(DeviceType::cpu)->flop_per_iteration(args.out.dtype)) /
                  seconds.count());
  }
  return best;
}

}  // namespace lamina
