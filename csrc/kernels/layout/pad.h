// The derivative of padding by reflection, replication or wrapping in the last two axes.
//
//   forward   y[b, i, j] = x[b, map(i - top, H), map(j - left, W)],   x (B, H, W), y (B, P, Q)
//             map(i, n), for i outside [0, n):  reflect    -i, or 2(n - 1) - i
//                                               replicate  0, or n - 1
//                                               circular   i + n, or i - n
//   backward  dx[b, h, w] = sum of dy[b, i, j] over the i mapped to h and the j mapped to w
//
// Forward is a handful of strided copies (reversed, broadcast or shifted slices) and needs no kernel of its
// own; nor does constant padding in either direction. Here rows of dx are independent: the rows i of dy that
// map to h, in ascending order, are added up in a row of float32 (float64), whose ends are then folded
// inwards. Traffic: dy + dx.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

enum class PadMode : int { constant, reflect, replicate, circular };

struct PadBackwardArgs {
  View dy, dx;  // (B, P, Q), (B, H, W), contiguous
  int64_t top, left;
  PadMode mode;  // not constant
};

struct PadKernels {
  void (*backward)(const PadBackwardArgs&);
};

LAMINA_KERNEL_TABLE(PadKernels, pad_kernels)

}  // namespace lamina
