// Elements chosen by an index array (int64 or int32) along one axis, and the sums that are its derivatives.
//
//   select   y[o, j, i] = x[o, index[j], i]            x (O, N, I), index (M), y (O, M, I), contiguous
//            backward:  dx[o, n, i] = sum over { j : index[j] = n } of dy[o, j, i];  0 for n = skipped
//   gather   y[p] = x[p with p[axis] replaced by index[p]]     p runs over the shape of index; x has any
//            strides, and its extents off the axis are at least those of index
//            backward:  dx[q] = sum over { p : q = p with p[axis] replaced by index[p] } of dy[p]
//   one_hot  y[j, n] = (index[j] == n)                  y (M, N)
//
// Both sums are taken in the order of j, in float32 at least, so they have the same bits in every run. For
// `select` a counting sort of the index first lists the j of each n (workspace: N + 1 + M int64); then rows
// of dx are independent, each is written once, and bfloat16 is rounded once. For `gather` the elements off
// the axis are independent; bfloat16 sums in a float32 workspace of the size of dx. Indices lie in [0, N);
// one that does not reads and writes as if clamped to it, never outside. Traffic: select M*I*O elements
// twice, in rows of I; gather is bound by the latency of its reads.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

struct SelectArgs {
  View x, index, y;
};

struct SelectBackwardArgs {
  View dy, index, dx;
  int64_t skipped;  // the n that takes part in no sum; -1: none
  void* workspace;
};

struct GatherArgs {
  View x, index, y;  // y, index: same shape, contiguous
  int axis;
};

struct GatherBackwardArgs {
  View dy, index, dx;  // contiguous
  int axis;
  void* workspace;  // bfloat16 only
};

struct OneHotArgs {
  View index, y;
};

struct IndexKernels {
  void (*select)(const SelectArgs&);
  void (*select_backward)(const SelectBackwardArgs&);
  void (*gather)(const GatherArgs&);
  void (*gather_backward)(const GatherBackwardArgs&);
  void (*one_hot)(const OneHotArgs&);
};

LAMINA_KERNEL_TABLE(IndexKernels, index_kernels)

}  // namespace lamina
