#include "kernels/dropout/dropout.h"

#include "base/parallel.h"
#include "kernels/random/philox.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t tile_elements = dropout_elements_per_tile;
constexpr int64_t tiles_per_chunk = 128;  // 16k elements: 128 KB of float32 traffic

using U = Philox::U;
typedef int32_t Lanes __attribute__((vector_size(sizeof(U))));

template <class T>
LAMINA_INLINE void drop(const T* x, T* y, Lanes keep, Compute<T> scale) {
  using V = VecOf<T>;
  if constexpr (V::N == U::N) {
    const V kept = V::load(x) * V::set1(scale);
    V mask;
    __builtin_memcpy(&mask.v, &keep, sizeof keep);
    and_bits(kept, mask).store(y);
  } else {
    for (int i = 0; i < U::N; ++i) y[i] = keep[i] ? x[i] * scale : T(0);
  }
}

template <class T>
void apply_typed(const DropoutArgs& a) {
  const Philox philox(a.pair);
  const Lanes threshold = Lanes{} + int32_t(a.p * 65536.0 + 0.5);
  const auto scale = Compute<T>(a.p < 1.0 ? 1.0 / (1.0 - a.p) : 0.0);
  const T* x = a.x.as<const T>();
  T* y = a.y.as<T>();
  const int64_t n = a.y.size();
  parallel_ranges(dropout_tiles(n), tiles_per_chunk, [&](int64_t begin, int64_t end) {
    T last[tile_elements] = {};
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile * tile_elements, count = n - i;
      const bool is_partial = count < tile_elements;
      if (is_partial) __builtin_memcpy(last, x + i, size_t(count) * sizeof(T));
      const T* in = is_partial ? last : x + i;
      T* out = is_partial ? last : y + i;
      U w[4][Philox::vectors];
      philox.generate(tile, w);
      for (int k = 0; k < 4; ++k) {
        for (int v = 0; v < Philox::vectors; ++v) {
          const Lanes low = (Lanes)w[k][v].v & 0xffff, high = (Lanes)(w[k][v] >> 16).v;
          const int e = 32 * k + v * U::N;
          drop<T>(in + e, out + e, low >= threshold, scale);
          drop<T>(in + e + 16, out + e + 16, high >= threshold, scale);
        }
      }
      if (is_partial) __builtin_memcpy(y + i, last, size_t(count) * sizeof(T));
    }
  });
}

void apply(const DropoutArgs& a) {
  dispatch_float(a.y.dtype, [&](auto t) { apply_typed<typename decltype(t)::type>(a); });
}

}  // namespace

const DropoutKernels dropout_kernels = {apply};

}  // namespace lamina::LAMINA_ISA
