// Elements to and from the type in which kernels compute: float for bf16 and f16. Rounds to nearest even.
#pragma once

#include <cstring>

#include "base/dtype.h"
#include "prim/vector.cuh"

namespace lamina::LAMINA_DEVICE::prim {

// The same bits as another type. (__builtin_bit_cast crashes nvcc 13.0 in templates.)
template <class To, class From>
LAMINA_PRIM To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  memcpy(&y, &x, sizeof(To));
  return y;
}

template <class T>
LAMINA_PRIM Compute<T> widen(T x) {
#if !defined(LAMINA_SIM)
  if constexpr (dtype_of<T> == Dtype::float16) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
  }
#endif
  return lamina::widen(x);
}

template <class T>
LAMINA_PRIM T narrow(Compute<T> x) {
#if !defined(LAMINA_SIM)
  if constexpr (dtype_of<T> == Dtype::bfloat16) {
    T y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  } else if constexpr (dtype_of<T> == Dtype::float16) {
    T y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
  }
#endif
  return lamina::narrow<T>(x);
}

template <class T, int N>
LAMINA_PRIM Pack<Compute<T>, N> widen(Pack<T, N> x) {
  Pack<Compute<T>, N> y;
#pragma unroll
  for (int i = 0; i < N; ++i) y[i] = prim::widen(x[i]);
  return y;
}

// Two elements in one register and one instruction: the first in the low half.
template <class T>
LAMINA_PRIM Pack<T, 2> narrow_pair(float first, float second) {
#if !defined(LAMINA_SIM)
  Pack<T, 2> y;
  if constexpr (dtype_of<T> == Dtype::bfloat16) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(reinterpret_cast<uint32_t&>(y)) : "f"(second), "f"(first));
    return y;
  } else if constexpr (dtype_of<T> == Dtype::float16) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(reinterpret_cast<uint32_t&>(y)) : "f"(second), "f"(first));
    return y;
  }
#endif
  return {{prim::narrow<T>(first), prim::narrow<T>(second)}};
}

template <class T, int N>
LAMINA_PRIM Pack<T, N> narrow(Pack<Compute<T>, N> x) {
  Pack<T, N> y;
  if constexpr (sizeof(T) == 2 && N % 2 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 2) {
      const Pack<T, 2> pair = narrow_pair<T>(x[i], x[i + 1]);
      y[i] = pair[0];
      y[i + 1] = pair[1];
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) y[i] = prim::narrow<T>(x[i]);
  }
  return y;
}

}  // namespace lamina::LAMINA_DEVICE::prim
