// Dropout of the elements of one tile of the stream, in registers.
#pragma once

#include "kernels/dropout/dropout.h"
#include "kernels/random/philox.h"

namespace lamina::LAMINA_ISA {

// y[i] = keep[i] ? x[i] * scale : 0, for tiles of dropout_elements_per_tile elements.
struct Dropout {
  using U = Philox::U;
  typedef int32_t Lanes __attribute__((vector_size(sizeof(U))));

  Philox philox;
  Lanes threshold;
  double scale;

  LAMINA_INLINE Dropout(const View& pair, double p)
      : philox(pair),
        threshold(Lanes{} + int32_t(p * 65536.0 + 0.5)),
        scale(p < 1.0 ? 1.0 / (1.0 - p) : 0.0) {}

  template <class T>
  LAMINA_INLINE void apply(int64_t tile, const T* x, T* y) const {
    U w[4][Philox::vectors];
    philox.generate(tile, w);
    for (int k = 0; k < 4; ++k) {
      for (int v = 0; v < Philox::vectors; ++v) {
        const Lanes low = (Lanes)w[k][v].v & 0xffff, high = (Lanes)(w[k][v] >> 16).v;
        const int e = 32 * k + v * U::N;
        drop(x + e, y + e, low >= threshold);
        drop(x + e + 16, y + e + 16, high >= threshold);
      }
    }
  }

 private:
  template <class T>
  LAMINA_INLINE void drop(const T* x, T* y, Lanes keep) const {
    using V = VecOf<T>;
    const auto factor = Compute<T>(scale);
    if constexpr (V::N == U::N) {
      const V kept = V::load(x) * V::set1(factor);
      V mask;
      __builtin_memcpy(&mask.v, &keep, sizeof keep);
      and_bits(kept, mask).store(y);
    } else {
      for (int i = 0; i < U::N; ++i) y[i] = keep[i] ? x[i] * factor : T(0);
    }
  }
};

}  // namespace lamina::LAMINA_ISA
