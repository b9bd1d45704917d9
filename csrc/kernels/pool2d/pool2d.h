// Pooling over windows of a plane.
//
//   max      y[n,c,p,q] = max_{r,s} x[n,c,h,w]     average  y[n,c,p,q] = sum_{r,s} x[n,c,h,w] / count(p,q)
//   with     h = p * stride - pad + r * dilation, w likewise; taps outside the plane do not take part.
//
// x, dx (N, C, H, W), y, dy (N, C, P, Q), window (R, S). All operands of a call are dense and share one order in
// memory: row-major ("planes": N * C of H x W) or channels-last ("pixels": N images of H x W pixels of C lanes).
//
// Backward of a maximum needs to know where it was: the tap r * S + s, one byte per output (four where R * S > 256),
// an eighth of an int64 index. The winner is the first maximum in row-major order, or the last NaN; a window of
// -inf alone gives its first tap inside the plane. These are PyTorch's rules. Hence
//   max      dx[h,w] = sum of dy[p,q] over the windows whose tap points at (h, w)
//   average  dx[h,w] = sum of dy[p,q] / count(p,q) over the windows that cover (h, w)
//
// Traffic: x once and y once (plus taps), some R + S operations per output: bound by memory.
//
// Planes, forward: windows are separable. Along W the lanes of a vector are neighbouring outputs, whose taps lie
// `stride` apart: a row is first dealt into its residue classes modulo the stride,
//   row      0 1 2 3 4 5 6 7 8 9      tap s of output q is element q * stride + s * dilation, that is
//   class 0  0 2 4 6 8                element q + s * dilation / stride of class s * dilation % stride:
//   class 1  1 3 5 7 9                contiguous loads for every window, stride and dilation.
// Planes, average backward: the mirror image, columns first, then along W into classes, then interleaved; a row
// under the same windows as the one above is a copy of it.
// Pixels: lanes are channels, and every window is a plain loop. Backwards, each pixel of dx adds the windows that cover
// it; those of a maximum whose taps are elsewhere are left out by a compare.
// Max backward of planes, and of pixels under large windows: dy is added where its tap points, by one thread per plane
// (or image and block of channels), in order. Planes gain nothing from compares: 3 x 3 at stride 1 takes 7.3 ms that way
// and 7.0 ms by scattering, for 4.8 M outputs on a Zen 3 core.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

// The taps of one output along one axis: positions origin + r * dilation, inside the input for r in [first, last).
template <class Int>
struct PoolWindowOf {
  Int origin, first, last;
};

// On devices Int is int32_t, which halves the registers that indices take.
template <class Int>
struct PoolAxisOf {
  Int in, out, kernel, stride, pad, dilation;
  // True iff the windows are the bins [floor(o * in / out), ceil((o + 1) * in / out)), at most `kernel` long.
  bool is_adaptive;

  [[gnu::always_inline]] LAMINA_HD static Int ceil_div(Int a, Int b) { return (a + b - 1) / b; }

  // floor and ceil of i * a / b.
  [[gnu::always_inline]] LAMINA_HD static Int scaled(Int i, Int a, Int b) { return Int(int64_t(i) * a / b); }
  [[gnu::always_inline]] LAMINA_HD static Int scaled_up(Int i, Int a, Int b) {
    return Int((int64_t(i) * a + b - 1) / b);
  }

  // Bins of equal length are ordinary windows.
  static PoolAxisOf adaptive(Int in, Int out) {
    if (out > 0 && in % out == 0) return {in, out, in / out, in / out, 0, 1, false};
    return {in, out, out > 0 ? ceil_div(in, out) + 1 : 1, 1, 0, 1, true};
  }

  // Extent of a window, holes included.
  [[gnu::always_inline]] LAMINA_HD Int reach() const { return (kernel - 1) * dilation + 1; }

  [[gnu::always_inline]] LAMINA_HD PoolWindowOf<Int> window(Int o) const {
    if (is_adaptive) {
      const Int origin = scaled(o, in, out);
      return {origin, 0, scaled_up(o + 1, in, out) - origin};
    }
    const Int origin = o * stride - pad;
    const Int first = origin < 0 ? ceil_div(-origin, dilation) : 0;
    const Int last = origin + reach() > in ? ceil_div(in - origin, dilation) : kernel;
    return {origin, first, last};
  }

  // Elements that an average counts: padding if asked, what ceil_mode hangs over the padding never.
  [[gnu::always_inline]] LAMINA_HD Int count(Int o, bool include_pad) const {
    const PoolWindowOf<Int> v = window(o);
    if (!include_pad || is_adaptive) return v.last - v.first;
    return v.origin + kernel < in + pad ? kernel : in + pad - v.origin;
  }

  // The outputs [first, last) whose windows reach over position i.
  [[gnu::always_inline]] LAMINA_HD void covering(Int i, Int* first, Int* last) const {
    if (is_adaptive) {
      *first = scaled(i, out, in);
      *last = scaled_up(i + 1, out, in);
      return;
    }
    const Int u = i + pad;
    *first = u < reach() ? 0 : (u - reach()) / stride + 1;
    *last = u / stride < out ? u / stride + 1 : out;
  }
};

using PoolWindow = PoolWindowOf<int64_t>;
using PoolAxis = PoolAxisOf<int64_t>;

struct Pool2dArgs {
  View x, y;
  View taps;  // maximum: uint8 or int32, shaped as y; absent where nobody asks for it
  PoolAxis h, w;
  bool is_channels_last;
  bool count_include_pad;  // average
  int64_t divisor;         // average: takes the place of count if not 0
};

struct Pool2dBackwardArgs {
  View dy, taps, dx;
  PoolAxis h, w;
  bool is_channels_last;
  bool count_include_pad;
  int64_t divisor;
};

// indices[n,c,p,q] = h * W + w (int64) of the element that taps[n,c,p,q] points at.
struct Pool2dIndicesArgs {
  View taps, indices;
  PoolAxis h, w;
  bool is_channels_last;
};

struct Pool2dKernels {
  void (*max)(const Pool2dArgs&);
  void (*average)(const Pool2dArgs&);
  void (*max_backward)(const Pool2dBackwardArgs&);
  void (*average_backward)(const Pool2dBackwardArgs&);
  void (*max_indices)(const Pool2dIndicesArgs&);
};

LAMINA_KERNEL_TABLE(Pool2dKernels, pool2d_kernels)

}  // namespace lamina
