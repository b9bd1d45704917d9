// Atomic operations on integers in global or shared memory, relaxed; each returns what was there before. There are
// none for floating point: results must not depend on the order of threads.
#pragma once

#include <cstdint>

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

#if !defined(LAMINA_SIM)
template <class T>
LAMINA_PRIM auto* as_atomic(T* p) {  // CUDA's overloads know `unsigned long long` and not uint64_t
  if constexpr (sizeof(T) == 8)
    return reinterpret_cast<unsigned long long*>(p);
  else
    return p;
}
#endif

template <class T>
LAMINA_PRIM T atomic_add(T* p, T value) {
#if defined(LAMINA_SIM)
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);
#else
  return T(atomicAdd(as_atomic(p), value));
#endif
}

template <class T>
LAMINA_PRIM T atomic_exchange(T* p, T value) {
#if defined(LAMINA_SIM)
  return __atomic_exchange_n(p, value, __ATOMIC_RELAXED);
#else
  return T(atomicExch(as_atomic(p), value));
#endif
}

// Stores `value` iff *p is `expected`.
template <class T>
LAMINA_PRIM T atomic_compare_exchange(T* p, T expected, T value) {
#if defined(LAMINA_SIM)
  __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return expected;
#else
  return T(atomicCAS(as_atomic(p), expected, value));
#endif
}

template <class T>
LAMINA_PRIM T atomic_or(T* p, T value) {
#if defined(LAMINA_SIM)
  return __atomic_fetch_or(p, value, __ATOMIC_RELAXED);
#else
  return T(atomicOr(as_atomic(p), value));
#endif
}

template <class T>
LAMINA_PRIM T atomic_and(T* p, T value) {
#if defined(LAMINA_SIM)
  return __atomic_fetch_and(p, value, __ATOMIC_RELAXED);
#else
  return T(atomicAnd(as_atomic(p), value));
#endif
}

template <class T>
LAMINA_PRIM T atomic_max(T* p, T value) {
#if defined(LAMINA_SIM)
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (old < value &&
         !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
#else
  if constexpr (sizeof(T) == 8 && T(-1) < T(0))
    return T(atomicMax(reinterpret_cast<long long*>(p), value));
  else
    return T(atomicMax(as_atomic(p), value));
#endif
}

template <class T>
LAMINA_PRIM T atomic_min(T* p, T value) {
#if defined(LAMINA_SIM)
  T old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (value < old &&
         !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return old;
#else
  if constexpr (sizeof(T) == 8 && T(-1) < T(0))
    return T(atomicMin(reinterpret_cast<long long*>(p), value));
  else
    return T(atomicMin(as_atomic(p), value));
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
