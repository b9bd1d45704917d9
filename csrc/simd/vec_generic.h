// Vec at the levels baseline and neon: 128-bit GCC vectors, which the compiler turns into SSE2 or NEON.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace lamina::LAMINA_ISA {

template <class S>
struct Vec;

typedef float float_lanes __attribute__((vector_size(16)));
typedef double double_lanes __attribute__((vector_size(16)));

// What plain vector arithmetic does not express well, on the lanes of one register.
#if defined(__aarch64__)

LAMINA_INLINE float_lanes lanes_fma(float_lanes a, float_lanes b, float_lanes c) {
  return vfmaq_f32(c, a, b);
}
LAMINA_INLINE double_lanes lanes_fma(double_lanes a, double_lanes b, double_lanes c) {
  return vfmaq_f64(c, a, b);
}
LAMINA_INLINE float_lanes lanes_fnma(float_lanes a, float_lanes b, float_lanes c) {
  return vfmsq_f32(c, a, b);
}
LAMINA_INLINE double_lanes lanes_fnma(double_lanes a, double_lanes b, double_lanes c) {
  return vfmsq_f64(c, a, b);
}
LAMINA_INLINE float_lanes lanes_max(float_lanes a, float_lanes b) { return vmaxq_f32(a, b); }
LAMINA_INLINE double_lanes lanes_max(double_lanes a, double_lanes b) { return vmaxq_f64(a, b); }
LAMINA_INLINE float_lanes lanes_min(float_lanes a, float_lanes b) { return vminq_f32(a, b); }
LAMINA_INLINE double_lanes lanes_min(double_lanes a, double_lanes b) { return vminq_f64(a, b); }
LAMINA_INLINE float_lanes lanes_sqrt(float_lanes a) { return vsqrtq_f32(a); }
LAMINA_INLINE double_lanes lanes_sqrt(double_lanes a) { return vsqrtq_f64(a); }
LAMINA_INLINE float_lanes lanes_round(float_lanes a) { return vrndnq_f32(a); }
LAMINA_INLINE double_lanes lanes_round(double_lanes a) { return vrndnq_f64(a); }

#else

// Without an FMA unit (SSE2) this rounds twice; the tolerances of tests follow the working dtype, not the
// unit.
template <class Lanes>
LAMINA_INLINE Lanes lanes_fma(Lanes a, Lanes b, Lanes c) {
  return a * b + c;
}
template <class Lanes>
LAMINA_INLINE Lanes lanes_fnma(Lanes a, Lanes b, Lanes c) {
  return c - a * b;
}
// A comparison with NaN is false, which gives b; a NaN in a is put back.
template <class Lanes>
LAMINA_INLINE Lanes lanes_max(Lanes a, Lanes b) {
  const Lanes r = a > b ? a : b;
  return a != a ? a : r;
}
template <class Lanes>
LAMINA_INLINE Lanes lanes_min(Lanes a, Lanes b) {
  const Lanes r = a < b ? a : b;
  return a != a ? a : r;
}
#if defined(__SSE2__)
LAMINA_INLINE float_lanes lanes_sqrt(float_lanes a) { return _mm_sqrt_ps(a); }
LAMINA_INLINE double_lanes lanes_sqrt(double_lanes a) { return _mm_sqrt_pd(a); }
#else
LAMINA_INLINE float_lanes lanes_sqrt(float_lanes a) {
  for (int i = 0; i < 4; ++i) a[i] = __builtin_sqrtf(a[i]);
  return a;
}
LAMINA_INLINE double_lanes lanes_sqrt(double_lanes a) {
  for (int i = 0; i < 2; ++i) a[i] = __builtin_sqrt(a[i]);
  return a;
}
#endif
// Magnitudes of 2^23 (2^52) and more are integral; below that, adding and subtracting it rounds to nearest
// even.
template <class Lanes>
LAMINA_INLINE Lanes lanes_round(Lanes a) {
  const Lanes magic = Lanes{} + (sizeof(a[0]) == 4 ? 0x1p23 : 0x1p52);
  const Lanes magnitude = a < 0 ? -a : a;
  Lanes r = magnitude + magic;
  asm("" : "+m"(r));  // keeps the compiler from folding the pair away
  r -= magic;
  r = magnitude < magic ? r : magnitude;
  return r;
}

#endif

// What float and double share. Self is Vec<S>, I the signed integer of the size of S.
template <class Self, class S, class I, int Mantissa, int Bias>
struct VecBase {
  static constexpr int N = 16 / sizeof(S);
  static constexpr int min_exponent = 1 - Bias, max_exponent = Bias;
  typedef S Lanes __attribute__((vector_size(16)));
  typedef I Bits __attribute__((vector_size(16)));
  struct Mask {
    Bits m;
    LAMINA_INLINE friend Mask operator&(Mask a, Mask b) { return {a.m & b.m}; }
    LAMINA_INLINE friend Mask operator|(Mask a, Mask b) { return {a.m | b.m}; }
    LAMINA_INLINE friend Mask operator~(Mask a) { return {~a.m}; }
    LAMINA_INLINE friend uint32_t bits(Mask a) {
      uint32_t r = 0;
      for (int i = 0; i < N; ++i) r |= uint32_t(a.m[i] & 1) << i;
      return r;
    }
    LAMINA_INLINE friend bool any(Mask a) { return bits(a) != 0; }
    LAMINA_INLINE friend bool all(Mask a) { return bits(a) == (1u << N) - 1; }
  };

  Lanes v;

  LAMINA_INLINE static Bits lane_numbers() {
    Bits r;
    for (int i = 0; i < N; ++i) r[i] = i;
    return r;
  }
  LAMINA_INLINE static Mask first(int n) { return {lane_numbers() < (Bits{} + I(n))}; }
  LAMINA_INLINE static Self zero() { return set1(S(0)); }
  LAMINA_INLINE static Self set1(S s) {  // one shuffle; a loop over the lanes would be ten
    if constexpr (N == 4)
      return wrap(Lanes{s, s, s, s});
    else
      return wrap(Lanes{s, s});
  }
  LAMINA_INLINE static Self iota() { return wrap(__builtin_convertvector(lane_numbers(), Lanes)); }
  LAMINA_INLINE static Self wrap(Lanes v) {
    Self r;
    r.v = v;
    return r;
  }
  LAMINA_INLINE static Self from_int(Bits b) { return wrap((Lanes)b); }
  LAMINA_INLINE static Bits sign_bit() { return Bits{} + (I(1) << (8 * sizeof(S) - 1)); }

  LAMINA_INLINE static Self load(const S* p) {
    Self r;
    __builtin_memcpy(&r.v, p, 16);
    return r;
  }
  LAMINA_INLINE static Self load(const uint8_t* p) { return load(p, N); }
  template <class T>
  LAMINA_INLINE static Self load(const T* p, int n) {
    Self r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = widen(p[i]);
    return r;
  }
  LAMINA_INLINE void store(S* p) const { __builtin_memcpy(p, &v, 16); }
  template <class T>
  LAMINA_INLINE void store(T* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = narrow<T>(v[i]);
  }

  LAMINA_INLINE friend Self operator+(Self a, Self b) { return wrap(a.v + b.v); }
  LAMINA_INLINE friend Self operator-(Self a, Self b) { return wrap(a.v - b.v); }
  LAMINA_INLINE friend Self operator*(Self a, Self b) { return wrap(a.v * b.v); }
  LAMINA_INLINE friend Self operator/(Self a, Self b) { return wrap(a.v / b.v); }
  LAMINA_INLINE friend Self operator-(Self a) { return wrap(-a.v); }
  LAMINA_INLINE friend Self fma(Self a, Self b, Self c) { return wrap(lanes_fma(a.v, b.v, c.v)); }
  LAMINA_INLINE friend Self fnma(Self a, Self b, Self c) { return wrap(lanes_fnma(a.v, b.v, c.v)); }
  LAMINA_INLINE friend Self max_fast(Self a, Self b) { return wrap(a.v > b.v ? a.v : b.v); }
  LAMINA_INLINE friend Self min_fast(Self a, Self b) { return wrap(a.v < b.v ? a.v : b.v); }
  LAMINA_INLINE friend Self max(Self a, Self b) { return wrap(lanes_max(a.v, b.v)); }
  LAMINA_INLINE friend Self min(Self a, Self b) { return wrap(lanes_min(a.v, b.v)); }
  LAMINA_INLINE friend Self abs(Self a) { return from_int((Bits)a.v & ~sign_bit()); }
  LAMINA_INLINE friend Mask lt(Self a, Self b) { return {a.v < b.v}; }
  LAMINA_INLINE friend Mask le(Self a, Self b) { return {a.v <= b.v}; }
  LAMINA_INLINE friend Mask gt(Self a, Self b) { return {a.v > b.v}; }
  LAMINA_INLINE friend Mask ge(Self a, Self b) { return {a.v >= b.v}; }
  LAMINA_INLINE friend Mask eq(Self a, Self b) { return {a.v == b.v}; }
  LAMINA_INLINE friend Mask ne(Self a, Self b) { return {a.v != b.v}; }
  LAMINA_INLINE friend Mask is_nan(Self a) { return {a.v != a.v}; }
  LAMINA_INLINE friend Self select(Mask m, Self a, Self b) { return wrap(m.m ? a.v : b.v); }
  LAMINA_INLINE friend Self and_bits(Self a, Self b) { return from_int((Bits)a.v & (Bits)b.v); }
  LAMINA_INLINE friend Self or_bits(Self a, Self b) { return from_int((Bits)a.v | (Bits)b.v); }
  LAMINA_INLINE friend Self xor_bits(Self a, Self b) { return from_int((Bits)a.v ^ (Bits)b.v); }
  LAMINA_INLINE friend Self pow2(Self n) {
    return from_int((__builtin_convertvector(n.v, Bits) + Bias) << Mantissa);
  }
  // In two steps: only the second can round, and neither factor leaves the normal range.
  LAMINA_INLINE friend Self ldexp(Self a, Self n) {
    const Self half = floor(n * set1(S(0.5)));
    return a * pow2(half) * pow2(n - half);
  }
  LAMINA_INLINE friend Self frexp(Self a, Self* e) {
    const Bits u = (Bits)a.v;
    e->v = __builtin_convertvector((u >> Mantissa) - (Bias - 1), Lanes);
    return from_int((u & ((I(1) << Mantissa) - 1)) | (I(Bias - 1) << Mantissa));
  }
  LAMINA_INLINE friend Self with_sign_of(Self magnitude, Self a) {
    return from_int((Bits)magnitude.v | ((Bits)a.v & sign_bit()));
  }
  LAMINA_INLINE friend Self round(Self a) { return with_sign_of(wrap(lanes_round(a.v)), a); }
  LAMINA_INLINE friend Self floor(Self a) {
    const Self r = round(a);
    return select(gt(r, a), r - set1(S(1)), r);
  }
  LAMINA_INLINE friend Self ceil(Self a) { return -floor(-a); }
  LAMINA_INLINE friend Self trunc(Self a) { return with_sign_of(floor(abs(a)), a); }
  LAMINA_INLINE friend Self sqrt(Self a) { return wrap(lanes_sqrt(a.v)); }
  LAMINA_INLINE friend S reduce_add(Self a) {
    if constexpr (N == 4)
      return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    else
      return a.v[0] + a.v[1];
  }
  LAMINA_INLINE friend S reduce_max(Self a) {
    S r = a.v[0];
    for (int i = 1; i < N; ++i) r = (r > a.v[i] || r != r) ? r : a.v[i];
    return r;
  }
  LAMINA_INLINE friend S reduce_min(Self a) { return -reduce_max(-a); }
};

template <>
struct Vec<double> : VecBase<Vec<double>, double, int64_t, 52, 1023> {};

template <>
struct Vec<float> : VecBase<Vec<float>, float, int32_t, 23, 127> {
  typedef uint16_t Halves __attribute__((vector_size(8)));
  typedef uint32_t Words __attribute__((vector_size(16)));

  using VecBase::load;
  using VecBase::store;
  LAMINA_INLINE static Vec load(const bf16* p) {
    Halves h;
    __builtin_memcpy(&h, p, 8);
    return wrap((Lanes)(__builtin_convertvector(h, Words) << 16));
  }
  LAMINA_INLINE void store(bf16* p) const {
    const Words u = (Words)v, high = u >> 16;
    const Words rounded = (u + (0x7fff + (high & 1))) >> 16;
    const Halves h = __builtin_convertvector(v != v ? (high | 0x40) : rounded, Halves);
    __builtin_memcpy(p, &h, 8);
  }
#if defined(__aarch64__)
  LAMINA_INLINE static Vec load(const f16* p) {
    return wrap(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)))));
  }
  LAMINA_INLINE void store(f16* p) const {
    vst1_u16(reinterpret_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }
#else
  LAMINA_INLINE static Vec load(const f16* p) { return load(p, N); }
  LAMINA_INLINE void store(f16* p) const { store(p, N); }
#endif
};

template <>
struct Vec<uint32_t> {
  static constexpr int N = 4;
  typedef uint32_t Lanes __attribute__((vector_size(16)));
  Lanes v;
  LAMINA_INLINE static Vec set1(uint32_t s) { return {Lanes{} + s}; }
  LAMINA_INLINE static Vec iota() { return {Lanes{0, 1, 2, 3}}; }
  LAMINA_INLINE static Vec load(const uint32_t* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, 16);
    return r;
  }
  LAMINA_INLINE void store(uint32_t* p) const { __builtin_memcpy(p, &v, 16); }
  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
  LAMINA_INLINE friend Vec operator^(Vec a, Vec b) { return {a.v ^ b.v}; }
  LAMINA_INLINE friend Vec operator>>(Vec a, int n) { return {a.v >> n}; }
  // The 64-bit products a * b, as their low and high halves.
  LAMINA_INLINE friend void mul_wide(Vec a, Vec b, Vec* low, Vec* high) {
    for (int i = 0; i < 4; ++i) {
      const uint64_t product = uint64_t(a.v[i]) * b.v[i];
      low->v[i] = uint32_t(product);
      high->v[i] = uint32_t(product >> 32);
    }
  }
  // Exact for values below 2^24.
  LAMINA_INLINE friend Vec<float> to_float(Vec a) {
    return Vec<float>::wrap(__builtin_convertvector((Vec<float>::Bits)a.v, float_lanes));
  }
};

}  // namespace lamina::LAMINA_ISA
