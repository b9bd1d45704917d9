// Exchange between the lanes of a warp. All lanes of `mask` take part, and the same ones in every lane's mask.
#pragma once

#include <cstring>

#include "prim/math.cuh"
#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

#if defined(LAMINA_SIM)

template <class T>
inline T shuffle(const char* name, T value, int source, uint32_t mask) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = simt::shuffle(name, bits, source, mask);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

#endif

// The value of lane `source`.
template <class T>
LAMINA_PRIM T shuffle_from(T value, int source, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return shuffle("shuffle_from", value, source % warp_size, mask);
#else
  return __shfl_sync(mask, value, source);
#endif
}

// The value of lane ^ bits.
template <class T>
LAMINA_PRIM T shuffle_xor(T value, int bits, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return shuffle("shuffle_xor", value, lane() ^ bits, mask);
#else
  return __shfl_xor_sync(mask, value, bits);
#endif
}

// The value of lane + delta; the last lanes keep their own.
template <class T>
LAMINA_PRIM T shuffle_down(T value, int delta, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return shuffle("shuffle_down", value, lane() + delta < warp_size ? lane() + delta : lane(), mask);
#else
  return __shfl_down_sync(mask, value, unsigned(delta));
#endif
}

// The value of lane - delta; the first lanes keep their own.
template <class T>
LAMINA_PRIM T shuffle_up(T value, int delta, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return shuffle("shuffle_up", value, lane() >= delta ? lane() - delta : lane(), mask);
#else
  return __shfl_up_sync(mask, value, unsigned(delta));
#endif
}

// The lanes whose predicate holds.
LAMINA_PRIM uint32_t ballot(bool predicate, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return simt::ballot(predicate, mask);
#else
  return __ballot_sync(mask, predicate);
#endif
}

LAMINA_PRIM bool any(bool predicate, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return ballot(predicate, mask) != 0;
#else
  return __any_sync(mask, predicate);
#endif
}

LAMINA_PRIM bool all(bool predicate, uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  return ballot(!predicate, mask) == 0;
#else
  return __all_sync(mask, predicate);
#endif
}

// Reductions over groups of `Width` neighbouring lanes, a power of two; every lane gets the result. All 32 lanes
// take part. The order of operations is fixed, so the result has the same bits in all lanes and on every run.
template <int Width = warp_size, class T, class F>
LAMINA_PRIM T warp_reduce(T value, F combine) {
#pragma unroll
  for (int bits = Width / 2; bits > 0; bits /= 2) value = combine(value, shuffle_xor(value, bits));
  return value;
}

struct Sum {
  template <class T>
  LAMINA_PRIM T operator()(T a, T b) const {
    return a + b;
  }
  template <class T>
  static LAMINA_PRIM T identity() {
    return T(0);
  }
};
struct Max {  // NaN if any is
  template <class T>
  LAMINA_PRIM T operator()(T a, T b) const {
    return prim::max(a, b);
  }
  template <class T>
  static LAMINA_PRIM T identity() {
    return lowest<T>();
  }
};
struct Min {  // NaN if any is
  template <class T>
  LAMINA_PRIM T operator()(T a, T b) const {
    return prim::min(a, b);
  }
  template <class T>
  static LAMINA_PRIM T identity() {
    return highest<T>();
  }
};

template <int Width = warp_size, class T>
LAMINA_PRIM T warp_sum(T value) {
  return warp_reduce<Width>(value, Sum{});
}
template <int Width = warp_size, class T>
LAMINA_PRIM T warp_max(T value) {
  return warp_reduce<Width>(value, Max{});
}
template <int Width = warp_size, class T>
LAMINA_PRIM T warp_min(T value) {
  return warp_reduce<Width>(value, Min{});
}

}  // namespace lamina::LAMINA_DEVICE::prim
