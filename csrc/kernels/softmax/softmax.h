// Softmax and its logarithm over one axis of length C, forward and backward.
//
//   y[c] = exp(x[c] - max x) / sum_k exp(x[k] - max x)            log_softmax: z[c] = (x[c] - max x) - log
//   sum_k …
//
// Operands are dense and seen as (O, C, I): O positions before the axis, I after it in memory. I = 1 is the
// common case (last axis, or the channels of a channels-last image) and called a row; otherwise a vector lies
// along I. Backward. dy[k]/dx[c] = y[k] (1[k = c] - y[c]), hence
//   softmax:      dx[c] = y[c] (dy[c] - sum_k dy[k] y[k])
//   log_softmax:  dx[c] = dy[c] - exp(z[c]) sum_k dy[k]
// -inf weighs nothing; a row of nothing but -inf, or with +inf or NaN in it, is NaN, as in NumPy and PyTorch.
//
// Work. One exp per element (about 12 cycles per vector), 8 bytes of traffic per float: bound by memory
// beyond L3. Plan. Rows: max, then exp stored while summed, then scaled; the row stays in L2 between the
// three. A longer row is read from memory once per pass, so it takes the online form (blocks of L1 size, the
// sum rescaled when the max grows; Milakov and Gimelshein, arXiv:1805.02867) and computes exp again instead
// of storing and reloading it. Columns: `column_tile` neighbouring positions at once, their running max and
// sum in L1. bfloat16 rows pass through a float scratch row, so that they round once.
#pragma once

#include "base/isa.h"
#include "base/view.h"

namespace lamina {

struct SoftmaxArgs {
  View x, y;
  int64_t outer, C, inner;
  bool logarithm;
};

struct SoftmaxBackwardArgs {
  View y, dy, dx;  // y is the output of the forward pass
  int64_t outer, C, inner;
  bool logarithm;
};

struct SoftmaxKernels {
  void (*forward)(const SoftmaxArgs&);
  void (*backward)(const SoftmaxBackwardArgs&);
};
LAMINA_KERNEL_TABLE(SoftmaxKernels, softmax_kernels)

}  // namespace lamina
