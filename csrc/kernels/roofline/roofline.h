// The computing limit of a roofline: multiply-adds on registers, measured by the vectors that the kernels use.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

struct FmaArgs {
  View out;            // one element, float32 or float64: keeps the result alive
  int64_t iterations;  // each of flop_per_iteration(out.dtype)
};

struct RooflineKernels {
  void (*fma)(const FmaArgs&);
  int64_t (*flop_per_iteration)(Dtype);
};

LAMINA_KERNEL_TABLE(RooflineKernels, roofline_kernels)

}  // namespace lamina
