// What ops ask of their operands, and how they bring them into the memory order that a kernel expects.
#pragma once

#include "autograd/op.h"
#include "kernels/layout/layout.h"

namespace lamina {

// Whether the kernels of layers have instances for elements of that type on the current device.
inline bool is_kernel_dtype(Dtype t) {
  return is_floating(t) && (t != Dtype::float16 || !current_device().is_cpu());
}
inline void check_kernel_dtype(std::string_view op, std::string_view name, Dtype t) {
  check<TypeError>(is_kernel_dtype(t), op, name, " is ", t, "; expected float32, bfloat16 or float64",
                   is_floating(t) ? " (float16 on a GPU)" : "");
}

// The axis that `dim` names, counted from the end where it is negative.
inline int axis_of(std::string_view op, int64_t dim, const View& x) {
  check(-x.ndim <= dim && dim < x.ndim, op, "dim is ", dim, "; expected an axis of x ", x);
  return int(dim < 0 ? dim + x.ndim : dim);
}

// Of an optional operand: null if it is not there.
inline View view_of(const Array& array) { return array ? array.view() : View{}; }

// The bits of one element with that value, as the fill kernel takes them.
inline uint64_t bits_of(double value, Dtype dtype) {
  uint64_t bits = 0;
  dispatch_any(dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    T element;
    if constexpr (is_floating(dtype_of<T>))
      element = narrow<T>(Compute<T>(value));
    else
      element = T(value);
    std::memcpy(&bits, &element, sizeof element);
  });
  return bits;
}

// True iff elements of equal index lie at equal offsets, in views of one shape.
inline bool same_order(const View& a, const View& b) {
  if (a.size() == 0) return true;
  for (int i = 0; i < a.ndim; ++i)
    if (a.shape[i] != 1 && a.strides[i] != b.strides[i]) return false;
  return true;
}

// True iff the elements lie without gaps and none is shared.
inline bool is_dense(const View& v) { return same_order(v, Spec::like(v, v.dtype)); }

// x with its elements where `order` (same shape, dense) has them: itself, or a copy.
inline Array in_order(Stream& stream, const Array& x, const View& order) {
  if (same_order(x.view(), order)) return x;
  View view = order;
  view.dtype = x.dtype();
  const Array copy(view);
  stream.submit(&LayoutKernels::copy, CopyArgs{.src = x.view(), .dst = copy.view()});
  return copy;
}

// Results of layers over images keep the order of x: channels last where its channels are neighbours in memory, otherwise
// row-major.
inline bool prefers_channels_last(const View& x) {
  return x.ndim == 4 && x.shape[1] > 1 && x.strides[1] == 1 && !x.is_contiguous();
}
inline Layout layout_of(bool is_channels_last) {
  return is_channels_last ? Layout::channels_last : Layout::contiguous;
}
inline Array dense(const Array& x, bool is_channels_last) {
  return is_channels_last ? channels_last(x) : contiguous(x);
}

// x seen as having `shape`: axes are added in front and repeated, with stride 0. False where that is
// impossible.
inline bool broadcast(const View& x, const Shape& shape, View* seen) {
  *seen = View{.data = x.data, .dtype = x.dtype, .ndim = shape.ndim};
  for (int i = 0; i < shape.ndim; ++i) {
    const int own = i - shape.ndim + x.ndim;
    seen->shape[i] = shape[i];
    seen->strides[i] = own >= 0 && x.shape[own] == shape[i] ? x.strides[own] : 0;
    if (own >= 0 && x.shape[own] != shape[i] && x.shape[own] != 1) return false;
  }
  return x.ndim <= shape.ndim;
}

// dy summed over the axes along which x was broadcast.
inline Array sum_to(const Array& dy, const Array& x) {
  if (dy.shape() == x.shape()) return dy;
  return eval<"sum_to">({dy}, {{"shape", Ints(x.view().shape, x.view().shape + x.ndim())}});
}

// An array as (O, C, I): O positions before an axis of extent C, I after it in memory.
struct Axis {
  int64_t O = 1, C = 1, I = 1;
  bool is_channels_last = false;  // axis 1 of (N, H, W, C) memory; otherwise row-major
};

inline Axis seen_along(const View& x, int axis) {
  Axis a;
  if (x.ndim == 0) return a;
  a.C = x.shape[axis];
  a.is_channels_last = axis == 1 && x.is_channels_last() && !x.is_contiguous();
  for (int i = 0; i < x.ndim; ++i)
    if (i != axis) (i < axis || a.is_channels_last ? a.O : a.I) *= x.shape[i];
  return a;
}

}  // namespace lamina
