// Softmax and its logarithm over one axis of length C, forward and backward.
//
//   softmax:      y[c] = exp(x[c] - max x) / sum_k exp(x[k] - max x)
//   log_softmax:  z[c] = (x[c] - max x) - log sum_k exp(x[k] - max x)
//
// Operands are dense and seen as (O, C, I): O positions before the axis, I after it in memory. I = 1 is the
// common case (last axis, or the channels of a channels-last image) and called a row; otherwise vectors lie
// along I.
// -inf weighs nothing; a row of nothing but -inf, or with +inf or NaN in it, is NaN, as in NumPy and PyTorch.
//
// Backward. dy[k]/dx[c] = y[k] (1[k = c] - y[c]), hence
//   softmax:      dx[c] = y[c] (dy[c] - sum_k dy[k] y[k])
//   log_softmax:  dx[c] = dy[c] - exp(z[c]) sum_k dy[k]
//
// Work: an exp per element (some 12 cycles per vector) and 8 bytes of traffic per float: bound by memory
// beyond L3.
// Plan. Rows: max, then exp stored while summed, then scaled; the row stays in L2 between the three. A longer
// row is read from memory in each pass, so it takes the online form (blocks of L1 size; the sum is rescaled
// when the max grows; Milakov and Gimelshein, arXiv:1805.02867) and computes exp again rather than store and
// reload it.
// Columns: a tile of neighbouring positions at once, online too, their max and sum in L1. Tiles of short rows are turned
// into columns (rows of 10 take 0.4 to 0.6 of the time).
#pragma once

#include "base/kernel_table.h"
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
