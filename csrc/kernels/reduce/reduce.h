// Reductions over any axes, and running sums.
//
//   sum       y[k] = sum_r x[k, r]                     max, min   NaN if any is NaN
//   mean      sum / R                                  any, all   of x != 0
//   prod      prod_r x[k, r]                           argmax, argmin   the first index r of the extremum, or of NaN
//   variance  sum_r (x[k, r] - mean)^2 / (R - ddof)    cumsum     y[.., i, ..] = sum_{j <= i} x[.., j, ..]
//   norm      sqrt(sum_r x[k, r]^2)
//
// k runs over the K elements that are kept, r over the R that are reduced. y has as many axes as x: those of which its
// extent differs from that of x are reduced. So is the gradient of a broadcast operand: `sum` to its shape.
//
// bfloat16, float16 and float32 accumulate in float32, float64 in float64, integers and bool in int64.
//
// Accuracy: leaves of at most 1024 elements (64 rows) in several accumulators, summed up as a binary tree, so that the
// error grows with log R. Variance takes two passes: the mean, then the squares of deviations.
//
// Plan. Axes are ordered by the strides of x, neighbours that run on without a jump are merged. If the last axis is
// reduced, vectors run along it and each y[k] is one chain of leaves (inner reduction). If it is kept, a leaf adds up 64
// rows of up to 1024 columns, so that memory is read in order (outer reduction; channels-last tensors over N, H, W).
// Where K is too small to occupy threads, R is cut into segments that are combined last, by shape only: bits do not
// depend on the number of threads. Traffic: x is read once (variance: twice).
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

enum class Reduction : uint8_t { sum, mean, prod, max, min, any, all, variance, norm };

// The dtype in which a reduction of dtype t accumulates.
constexpr Dtype accumulate_dtype(Dtype t) { return is_floating(t) ? compute_dtype(t) : Dtype::int64; }

struct ReduceArgs {
  Reduction op;
  View x;
  View y;           // x's axes; extent 1 where reduced
  double ddof = 0;  // of variance
};

// y: int64, extent 1 along `axis`.
struct ArgReduceArgs {
  View x, y;
  int axis;
  bool is_max;
};

struct CumsumArgs {
  View x, y;  // of one shape; y int64 where x is an integer or bool
  int axis;
  bool is_reverse;  // sums from the end
};

struct ReduceKernels {
  void (*reduce)(const ReduceArgs&);
  void (*arg_reduce)(const ArgReduceArgs&);
  void (*cumsum)(const CumsumArgs&);
};

LAMINA_KERNEL_TABLE(ReduceKernels, reduce_kernels)

}  // namespace lamina
