#pragma once

#include "base/dtype.h"

namespace lamina {

// Multiply-adds per second that one thread reaches on registers, counted as two flop each.
double fma_peak(Dtype dtype);

}  // namespace lamina
