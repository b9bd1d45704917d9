// What a multiprocessor multiplies and adds per cycle, for the cost models of products and convolutions.
#pragma once

#include "base/dtype.h"

namespace lamina {

constexpr bool is_data_centre(int architecture) {
  return architecture == 80 || architecture == 90 || architecture == 100;
}

// Its ordinary cores: "Arithmetic Instructions" in the CUDA programming guide.
constexpr double core_rate(Dtype t, int architecture) {
  if (t == Dtype::float64) return !is_data_centre(architecture) ? 2 : architecture == 80 ? 32 : 64;
  return architecture == 80 ? 64 : 128;
}

// Its matrix units with float32 sums, as mma.sync gets them: 0.63 of the 2048 of Hopper; small chips have a quarter.
constexpr double matrix_rate(int architecture) {
  return !is_data_centre(architecture) ? 256 : architecture == 90 ? 1290 : 1024;
}

}  // namespace lamina
