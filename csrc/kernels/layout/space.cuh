// The points that an elementwise kernel runs over, and where each operand has its element for a point.
//
// A Space numbers the points in the memory order of its last operand, the one that is written: its axes are ordered
// by that operand's strides, axes of extent 1 are dropped, and neighbours are merged where every operand runs through
// both without a jump. Dense operands of one layout thus have one axis, whatever their shape.
#pragma once

#include "base/launch.h"
#include "base/view.h"
#include "prim/divider.cuh"
#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE {

template <int Operands>
struct Space {
  int ndim = 0;
  int64_t size = 1;
  prim::Divider extent[max_ndim];
  int64_t strides[Operands][max_ndim] = {};  // in elements

  // The operands broadcast to the shape of the last one, which has elements.
  explicit Space(const View (&views)[Operands]) {
    constexpr int out = Operands - 1;
    const View& y = views[out];
    for (int d = 0; d < y.ndim; ++d) {
      size *= y.shape[d];
      if (y.shape[d] == 1) continue;
      int at = ndim++;
      for (; at > 0 && strides[out][at - 1] < y.strides[d]; --at) move(at - 1, at);
      extent[at] = prim::Divider(y.shape[d]);
      for (int k = 0; k < Operands; ++k) {
        const int axis = d - (y.ndim - views[k].ndim);
        strides[k][at] = axis >= 0 && views[k].shape[axis] != 1 ? views[k].strides[axis] : 0;
      }
    }
    int kept = 0;
    for (int d = 1; d < ndim; ++d) {
      bool is_run = true;
      for (int k = 0; k < Operands; ++k) is_run &= is_jump_free(k, kept, d);
      const int64_t outer = is_run ? extent[kept].divisor : 1;
      if (!is_run) ++kept;
      move(d, kept);
      extent[kept] = prim::Divider(outer * extent[kept].divisor);
    }
    if (ndim > 0) ndim = kept + 1;
  }

  int64_t inner() const { return ndim ? extent[ndim - 1].divisor : 1; }  // extent of the last axis
  int64_t inner_stride(int k) const { return ndim ? strides[k][ndim - 1] : 1; }

  // True iff the element of operand k for point i is its i-th in memory.
  bool is_dense(int k) const {
    bool is_run = inner_stride(k) == 1;
    for (int d = 1; d < ndim; ++d) is_run &= is_jump_free(k, d - 1, d);
    return is_run;
  }
  // True iff operand k has one element for all points.
  bool is_constant(int k) const {
    for (int d = 0; d < ndim; ++d)
      if (strides[k][d]) return false;
    return true;
  }
  // True iff operand k has each `count` points from a multiple of `count` on side by side, `count` elements or a
  // multiple of them from its start.
  bool has_packs(int k, int64_t count) const {
    if (count == 1) return true;
    bool is_packed = inner_stride(k) == 1 && inner() % count == 0;
    for (int d = 0; d < ndim - 1; ++d) is_packed &= strides[k][d] % count == 0;
    return is_packed;
  }

  // Makes packs of all operands the points.
  void pack(int64_t count) {
    if (count == 1) return;
    size /= count;
    extent[ndim - 1] = prim::Divider(inner() / count);
    for (int k = 0; k < Operands; ++k)
      for (int d = 0; d < ndim - 1; ++d) strides[k][d] /= count;
    if (inner() == 1) --ndim;
  }

  // The place of point i in each operand, and in one of them.
  LAMINA_PRIM void offsets(int64_t i, int64_t (&at)[Operands]) const {
#pragma unroll
    for (int k = 0; k < Operands; ++k) at[k] = 0;
    for_indices(i, [&](int d, int64_t index) {
#pragma unroll
      for (int k = 0; k < Operands; ++k) at[k] += index * strides[k][d];
    });
  }
  LAMINA_PRIM int64_t offset(int k, int64_t i) const {
    int64_t at = 0;
    for_indices(i, [&](int d, int64_t index) { at += index * strides[k][d]; });
    return at;
  }

 private:
  // Calls f(axis, index of point i along it).
  template <class F>
  LAMINA_PRIM void for_indices(int64_t i, F f) const {
#pragma unroll 1  // kernels call it for each of several points: twice the code
    for (int d = ndim - 1; d >= 0; --d) {
      const int64_t outer = d ? extent[d].quotient(i) : 0;
      f(d, i - outer * extent[d].divisor);
      i = outer;
    }
  }
  void move(int from, int to) {
    extent[to] = extent[from];
    for (int k = 0; k < Operands; ++k) strides[k][to] = strides[k][from];
  }
  bool is_jump_free(int k, int outer, int inner) const {
    return strides[k][outer] == strides[k][inner] * extent[inner].divisor;
  }
};

inline constexpr int spread_threads = 256;

// Blocks for n independent items: enough to fill the device four times over; for_items runs through the rest.
inline Launch spread(int64_t n) {
  const int64_t threads = n < spread_threads ? (n + 31) / 32 * 32 : spread_threads;
  const int64_t blocks = n ? (n + threads - 1) / threads : 0, most = device_properties().sm_count * 32;
  return {.grid = {blocks < most ? blocks : most}, .block = {threads}};
}

// Calls f(i) for the items of this thread; for the first of each `Run` items, where a thread takes them in runs. Counting
// items and not runs leaves one 64-bit number in registers.
template <int Run = 1, class F>
LAMINA_PRIM void for_items(int64_t n, F f) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x * Run;
  for (int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * Run; i < n; i += step) f(i);
}

}  // namespace lamina::LAMINA_DEVICE
