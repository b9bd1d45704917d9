// Lane<I>: one integer with the interface of Vec, so that functors on vectors serve integers too. The compiler vectorises
// the loops over it. Arithmetic wraps.
#pragma once

#include <type_traits>

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

template <class I>
struct Lane {
  static constexpr int N = 1;
  using U = std::make_unsigned_t<I>;
  struct Mask {
    bool m;
    LAMINA_INLINE friend Mask operator&(Mask a, Mask b) { return {a.m && b.m}; }
    LAMINA_INLINE friend Mask operator|(Mask a, Mask b) { return {a.m || b.m}; }
    LAMINA_INLINE friend Mask operator~(Mask a) { return {!a.m}; }
  };
  I v;
  LAMINA_INLINE static Lane load(const I* p) { return {*p}; }
  LAMINA_INLINE void store(I* p) const { *p = v; }
  LAMINA_INLINE static Lane zero() { return {0}; }
  LAMINA_INLINE static Lane set1(I s) { return {s}; }
  LAMINA_INLINE friend Lane operator+(Lane a, Lane b) { return {I(U(a.v) + U(b.v))}; }
  LAMINA_INLINE friend Lane operator-(Lane a, Lane b) { return {I(U(a.v) - U(b.v))}; }
  LAMINA_INLINE friend Lane operator*(Lane a, Lane b) { return {I(U(a.v) * U(b.v))}; }
  LAMINA_INLINE friend Lane operator-(Lane a) { return {I(U(0) - U(a.v))}; }
  LAMINA_INLINE friend Lane max(Lane a, Lane b) { return a.v > b.v ? a : b; }
  LAMINA_INLINE friend Lane min(Lane a, Lane b) { return a.v < b.v ? a : b; }
  LAMINA_INLINE friend Lane max_fast(Lane a, Lane b) { return max(a, b); }
  LAMINA_INLINE friend Lane min_fast(Lane a, Lane b) { return min(a, b); }
  LAMINA_INLINE friend Lane abs(Lane a) { return a.v < 0 ? -a : a; }
  LAMINA_INLINE friend Mask lt(Lane a, Lane b) { return {a.v < b.v}; }
  LAMINA_INLINE friend Mask le(Lane a, Lane b) { return {a.v <= b.v}; }
  LAMINA_INLINE friend Mask gt(Lane a, Lane b) { return {a.v > b.v}; }
  LAMINA_INLINE friend Mask ge(Lane a, Lane b) { return {a.v >= b.v}; }
  LAMINA_INLINE friend Mask eq(Lane a, Lane b) { return {a.v == b.v}; }
  LAMINA_INLINE friend Mask ne(Lane a, Lane b) { return {a.v != b.v}; }
  LAMINA_INLINE friend Lane select(Mask m, Lane a, Lane b) { return m.m ? a : b; }
  LAMINA_INLINE friend I reduce_add(Lane a) { return a.v; }
  LAMINA_INLINE friend I reduce_max(Lane a) { return a.v; }
  LAMINA_INLINE friend I reduce_min(Lane a) { return a.v; }
};

}  // namespace lamina::LAMINA_ISA
