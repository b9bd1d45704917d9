// Dropout: y[i] = keep[i] ? x[i] / (1 - p) : 0, keep[i] = draw[i] >= p * 2^16
//
// draw[i] is 16 bits of the Philox stream at `pair` = {seed, offset} (random.h): word 16 * w + l of tile t
// serves the elements 128 * t + 32 * w + l (its low half) and 128 * t + 32 * w + 16 + l (its high half). Half
// a word an element halves the generator's work, which then hides behind memory; the probability is p to
// within 2^-17. Backward: dy/dx is the same mask and factor, so dx = dropout(dy) with the same pair. No mask
// is stored: the forward pass leaves its pair, 16 bytes, and both directions are this one kernel. x and y
// have n elements in one order in memory, whichever it is; i counts in that order. Traffic: 2n elements;
// about 0.75 cycles an element in Philox. p = 1 gives zeros; NaN and Inf where kept only.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

inline constexpr int64_t dropout_elements_per_tile = 128;

constexpr int64_t dropout_tiles(int64_t n) {
  return (n + dropout_elements_per_tile - 1) / dropout_elements_per_tile;
}

struct DropoutArgs {
  View x, y;  // same shape and strides, dense
  View pair;  // int64[2]
  double p;
};

struct DropoutKernels {
  void (*apply)(const DropoutArgs&);
};

LAMINA_KERNEL_TABLE(DropoutKernels, dropout_kernels)

}  // namespace lamina
