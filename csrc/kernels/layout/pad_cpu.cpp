#include "kernels/layout/pad.h"

#include "base/parallel.h"
#include "base/scratch.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t chunk_elements = 16 << 10;

LAMINA_INLINE int64_t source(int64_t i, int64_t n, PadMode mode) {
  if (i >= 0 && i < n) return i;
  switch (mode) {
    case PadMode::reflect:
      return i < 0 ? -i : 2 * (n - 1) - i;
    case PadMode::replicate:
      return i < 0 ? 0 : n - 1;
    default:
      return i < 0 ? i + n : i - n;
  }
}

template <class T>
void backward_typed(const PadBackwardArgs& a) {
  using C = Compute<T>;
  const int64_t H = a.dx.shape[1], W = a.dx.shape[2], P = a.dy.shape[1], Q = a.dy.shape[2];
  const T* dy = a.dy.as<const T>();
  T* dx = a.dx.as<T>();
  const int64_t grain = chunk_elements / Q;
  parallel_ranges(a.dx.shape[0] * H, grain > 0 ? grain : 1, [&](int64_t begin, int64_t end) {
    C* sum = scratch<C>(Scratch::row, Q);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / H, h = row % H;
      for (int64_t j = 0; j < Q; ++j) sum[j] = 0;
      auto add_if_mapped = [&](int64_t i) {
        if (source(i - a.top, H, a.mode) != h) return;
        const T* from = dy + (b * P + i) * Q;
        for (int64_t j = 0; j < Q; ++j) sum[j] += widen(from[j]);
      };
      for (int64_t i = 0; i < a.top; ++i) add_if_mapped(i);
      add_if_mapped(h + a.top);
      for (int64_t i = a.top + H; i < P; ++i) add_if_mapped(i);
      for (int64_t j = 0; j < a.left; ++j) sum[a.left + source(j - a.left, W, a.mode)] += sum[j];
      for (int64_t j = a.left + W; j < Q; ++j) sum[a.left + source(j - a.left, W, a.mode)] += sum[j];
      for (int64_t w = 0; w < W; ++w) dx[row * W + w] = narrow<T>(sum[a.left + w]);
    }
  });
}

void backward(const PadBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  dispatch_float(a.dx.dtype, [&](auto t) { backward_typed<typename decltype(t)::type>(a); });
}

}  // namespace

const PadKernels pad_kernels = {backward};

}  // namespace lamina::LAMINA_ISA
