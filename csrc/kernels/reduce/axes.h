// The iteration space of a reduction: the axes that are kept and those that are reduced, each from the largest stride of
// x to the smallest, neighbours that run on without a jump merged. Axes of extent 1 do not appear.
#pragma once

#include "base/view.h"

namespace lamina {

// Some axes of x, with the strides of y. Inlined always: compiled once per instruction-set level.
struct Axes {
  int n = 0;
  int64_t size = 1;
  int64_t shape[max_ndim], x[max_ndim], y[max_ndim];

  [[gnu::always_inline]] void insert(int64_t extent, int64_t x_stride, int64_t y_stride) {
    int at = n++;
    for (; at > 0 && x[at - 1] < x_stride; --at) {
      shape[at] = shape[at - 1];
      x[at] = x[at - 1];
      y[at] = y[at - 1];
    }
    shape[at] = extent;
    x[at] = x_stride;
    y[at] = y_stride;
    size *= extent;
  }
  [[gnu::always_inline]] void merge() {
    int last = 0;
    for (int d = 1; d < n; ++d) {
      if (x[last] == x[d] * shape[d] && y[last] == y[d] * shape[d]) {
        shape[last] *= shape[d];
      } else {
        shape[++last] = shape[d];
      }
      x[last] = x[d];
      y[last] = y[d];
    }
    if (n > 0) n = last + 1;
  }
};

// The axes that y keeps, and the others; either has at least one axis, if only of extent 1.
[[gnu::always_inline]] inline void split_axes(const View& x, const View& y, Axes& kept, Axes& reduced) {
  for (int d = 0; d < x.ndim; ++d) {
    if (x.shape[d] == 1) continue;
    if (y.shape[d] == x.shape[d])
      kept.insert(x.shape[d], x.strides[d], y.strides[d]);
    else
      reduced.insert(x.shape[d], x.strides[d], 0);
  }
  kept.merge();
  reduced.merge();
  if (reduced.n == 0) reduced.insert(1, 0, 0);  // one element
  if (reduced.size == 0) {                      // none: one empty run
    reduced = {};
    reduced.insert(0, 0, 0);
  }
  if (kept.n == 0) kept.insert(1, 0, 0);
}

// All axes but one.
[[gnu::always_inline]] inline Axes axes_beside(const View& x, const View& y, int axis) {
  Axes kept;
  for (int d = 0; d < x.ndim; ++d)
    if (d != axis && x.shape[d] != 1) kept.insert(x.shape[d], x.strides[d], y.strides[d]);
  kept.merge();
  return kept;
}

}  // namespace lamina
