// Vec at the levels baseline and neon: 128-bit GCC vectors, which the compiler turns into SSE2 or NEON.
#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lamina::LAMINA_ISA {

template <class S>
struct Vec;

// What float and double share. Self is Vec<S>, U the unsigned and I the signed integer of the same size.
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
  LAMINA_INLINE static Self set1(S s) { return wrap(Lanes{} + s); }
  LAMINA_INLINE static Self iota() { return wrap(__builtin_convertvector(lane_numbers(), Lanes)); }
  LAMINA_INLINE static Self wrap(Lanes v) {
    Self r;
    r.v = v;
    return r;
  }
  LAMINA_INLINE static Self from_int(Bits b) { return wrap((Lanes)b); }

  LAMINA_INLINE static Self load(const S* p) {
    Self r;
    __builtin_memcpy(&r.v, p, 16);
    return r;
  }
  LAMINA_INLINE static Self load(const S* p, int n) {
    Self r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  template <class H>  // bf16 or f16
  LAMINA_INLINE static Self load(const H* p) {
    return load(p, N);
  }
  template <class H>
  LAMINA_INLINE static Self load(const H* p, int n) {
    Self r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = widen(p[i]);
    return r;
  }
  LAMINA_INLINE void store(S* p) const { __builtin_memcpy(p, &v, 16); }
  template <class T>
  LAMINA_INLINE void store(T* p) const {
    store(p, N);
  }
  template <class T>
  LAMINA_INLINE void store(T* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = narrow<T>(v[i]);
  }

  LAMINA_INLINE friend Self operator+(Self a, Self b) { return wrap(a.v + b.v); }
  LAMINA_INLINE friend Self operator-(Self a, Self b) { return wrap(a.v - b.v); }
  LAMINA_INLINE friend Self operator*(Self a, Self b) { return wrap(a.v * b.v); }
  LAMINA_INLINE friend Self operator/(Self a, Self b) { return wrap(a.v / b.v); }
  LAMINA_INLINE friend Self operator-(Self a) { return wrap(-a.v); }
  // Without an FMA unit (SSE2) this rounds twice; the tolerances of tests follow the working dtype, not the unit.
  LAMINA_INLINE friend Self fma(Self a, Self b, Self c) { return wrap(a.v * b.v + c.v); }
  LAMINA_INLINE friend Self fnma(Self a, Self b, Self c) { return wrap(c.v - a.v * b.v); }
  LAMINA_INLINE friend Self max_fast(Self a, Self b) { return wrap(a.v > b.v ? a.v : b.v); }
  LAMINA_INLINE friend Self min_fast(Self a, Self b) { return wrap(a.v < b.v ? a.v : b.v); }
  LAMINA_INLINE friend Self max(Self a, Self b) { return select(is_nan(a), a, max_fast(a, b)); }
  LAMINA_INLINE friend Self min(Self a, Self b) { return select(is_nan(a), a, min_fast(a, b)); }
  LAMINA_INLINE friend Self abs(Self a) { return from_int((Bits)a.v & ~sign_bit()); }
  LAMINA_INLINE static Bits sign_bit() { return Bits{} + (I(1) << (8 * sizeof(S) - 1)); }
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
  LAMINA_INLINE friend Self frexp(Self a, Self* e) {
    const Bits u = (Bits)a.v;
    e->v = __builtin_convertvector((u >> Mantissa) - (Bias - 1), Lanes);
    return from_int((u & ((I(1) << Mantissa) - 1)) | (I(Bias - 1) << Mantissa));
  }
  // Values of 2^Mantissa and more are integral; below it, adding and subtracting 2^Mantissa rounds to nearest even.
  LAMINA_INLINE friend Self round(Self a) {
    const Lanes magic = Lanes{} + S(I(1) << Mantissa);
    const Self magnitude = abs(a);
    Lanes r = magnitude.v + magic;
    asm("" : "+x"(r));  // keeps the compiler from folding the pair away
    r -= magic;
    const Self rounded = or_bits(wrap(r), from_int((Bits)a.v & sign_bit()));
    return select(lt(magnitude, wrap(magic)), rounded, a);
  }
  LAMINA_INLINE friend Self floor(Self a) {
    const Self r = round(a);
    return select(gt(r, a), r - set1(S(1)), r);
  }
  LAMINA_INLINE friend Self ceil(Self a) { return -floor(-a); }
  LAMINA_INLINE friend Self trunc(Self a) {
    const Self r = floor(abs(a));
    return or_bits(r, from_int((Bits)a.v & sign_bit()));
  }
  LAMINA_INLINE friend Self sqrt(Self a) {
    Self r;
    for (int i = 0; i < N; ++i) r.v[i] = sizeof(S) == 4 ? S(__builtin_sqrtf(float(a.v[i]))) : S(__builtin_sqrt(a.v[i]));
    return r;
  }
  LAMINA_INLINE friend S reduce_add(Self a) {
    if constexpr (N == 4) return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    else return a.v[0] + a.v[1];
  }
  LAMINA_INLINE friend S reduce_max(Self a) {
    S r = a.v[0];
    for (int i = 1; i < N; ++i) r = (r > a.v[i] || r != r) ? r : a.v[i];
    return r;
  }
  LAMINA_INLINE friend S reduce_min(Self a) { return -reduce_max(-a); }
};

template <>
struct Vec<float> : VecBase<Vec<float>, float, int32_t, 23, 127> {};
template <>
struct Vec<double> : VecBase<Vec<double>, double, int64_t, 52, 1023> {};

template <>
struct Vec<uint32_t> {
  static constexpr int N = 4;
  typedef uint32_t Lanes __attribute__((vector_size(16)));
  typedef uint64_t Wide __attribute__((vector_size(32)));
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
  LAMINA_INLINE friend void mul_wide(Vec a, Vec b, Vec* low, Vec* high) {
    for (int i = 0; i < 4; ++i) {
      const uint64_t product = uint64_t(a.v[i]) * b.v[i];
      low->v[i] = uint32_t(product);
      high->v[i] = uint32_t(product >> 32);
    }
  }
  LAMINA_INLINE friend Vec<float> to_float(Vec a) {
    Vec<float> r;
    for (int i = 0; i < 4; ++i) r.v[i] = float(int32_t(a.v[i]));
    return r;
  }
};

}  // namespace lamina::LAMINA_ISA
