#include "kernels/roofline/roofline.h"

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

// Two FMA ports times a latency of four to five cycles need ten chains in flight; twelve fit in sixteen registers.
constexpr int fma_chains = 12;

template <class T>
void fma_typed(const FmaArgs& args) {
  using V = Vec<T>;
  V chains[fma_chains];
  for (int i = 0; i < fma_chains; ++i) chains[i] = V::set1(T(i));
  const V factor = V::set1(T(0.999)), term = V::set1(T(0.001));
  for (int64_t i = 0; i < args.iterations; ++i) {
#pragma GCC unroll 12
    for (int k = 0; k < fma_chains; ++k) chains[k] = fma(chains[k], factor, term);
  }
  V sum = V::zero();
  for (int i = 0; i < fma_chains; ++i) sum = sum + chains[i];
  *args.out.as<T>() = reduce_add(sum);
}

void fma(const FmaArgs& args) {
  if (args.out.dtype == Dtype::float64)
    fma_typed<double>(args);
  else
    fma_typed<float>(args);
}

int64_t flop_per_iteration(Dtype dtype) {
  return 2 * fma_chains * (dtype == Dtype::float64 ? Vec<double>::N : Vec<float>::N);
}

}  // namespace

const RooflineKernels roofline_kernels = {fma, flop_per_iteration};

}  // namespace lamina::LAMINA_ISA
