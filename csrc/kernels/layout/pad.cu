// The derivative of padding on a GPU: a thread takes an element (b, h, w) of dx and adds up the elements of dy that pad
// copied from it. Along an axis they are (pad.h, map(i - before, n) = h solved for i):
//
//   the middle   h + before
//   reflect      before - h in the margin before, before + 2 (n - 1) - h in the margin after
//   replicate    the whole margin before for h = 0, the one after for h = n - 1
//   circular     h + before - n, h + before + n
//
// Sums are float32 (float64): columns of dy first, as on the CPU, then across. Traffic: dy + dx.
#include "kernels/layout/pad.h"

#include "kernels/layout/space.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

struct Range {
  int64_t begin, end;
};

// An axis of n elements that was padded to `padded`.
struct PaddedAxis {
  int64_t n, before, padded;
  PadMode mode;

  // The copies of element h in the margins.
  LAMINA_PRIM Range copies_before(int64_t h) const {
    if (mode == PadMode::replicate) return {0, h == 0 ? before : 0};
    const int64_t i = mode == PadMode::reflect ? before - h : h + before - n;
    return i >= 0 && i < before ? Range{i, i + 1} : Range{0, 0};
  }
  LAMINA_PRIM Range copies_after(int64_t h) const {
    const int64_t after = before + n;
    if (mode == PadMode::replicate) return {after, h == n - 1 ? padded : after};
    const int64_t i = mode == PadMode::reflect ? before + 2 * (n - 1) - h : h + before + n;
    return i >= after && i < padded ? Range{i, i + 1} : Range{0, 0};
  }
  // Calls f(i) for all copies: those before, the element itself, those after, and in this order.
  template <class F>
  LAMINA_PRIM void for_copies(int64_t h, F f) const {
    const Range first = copies_before(h), last = copies_after(h);
    for (int64_t i = first.begin; i < first.end; ++i) f(i);
    f(h + before);
    for (int64_t i = last.begin; i < last.end; ++i) f(i);
  }
};

template <class T>
__global__ __launch_bounds__(spread_threads) void pad_backward_kernel(const T* dy, T* dx, int64_t size,
                                                                      prim::Divider H, prim::Divider W,
                                                                      PaddedAxis rows, PaddedAxis columns) {
  for_items(size, [&](int64_t at) {
    const int64_t row = W.quotient(at), b = H.quotient(row), h = row - b * H.divisor,
                  w = at - row * W.divisor;
    const T* plane = dy + b * rows.padded * columns.padded;
    Compute<T> sum = 0;
    columns.for_copies(w, [&](int64_t j) {
      Compute<T> column = 0;
      rows.for_copies(h, [&](int64_t i) { column += prim::widen(plane[i * columns.padded + j]); });
      sum += column;
    });
    dx[at] = prim::narrow<T>(sum);
  });
}

void backward(const PadBackwardArgs& a) {
  const int64_t H = a.dx.shape[1], W = a.dx.shape[2];
  if (a.dx.size() == 0) return;
  const PaddedAxis rows = {H, a.top, a.dy.shape[1], a.mode}, columns = {W, a.left, a.dy.shape[2], a.mode};
  dispatch_device_float(a.dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    launch("pad_backward", pad_backward_kernel<T>, spread(a.dx.size()), a.dy.as<const T>(), a.dx.as<T>(),
           a.dx.size(), prim::Divider(H), prim::Divider(W), rows, columns);
  });
}

}  // namespace

const PadKernels pad_kernels = {backward};

}  // namespace lamina::LAMINA_DEVICE
