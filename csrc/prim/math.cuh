// Mathematics for float and double by one name each, and the limits of a type. NaN and Inf as in NumPy.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

LAMINA_PRIM float exp(float x) { return ::expf(x); }
LAMINA_PRIM double exp(double x) { return ::exp(x); }
LAMINA_PRIM float exp2(float x) { return ::exp2f(x); }
LAMINA_PRIM double exp2(double x) { return ::exp2(x); }
LAMINA_PRIM float expm1(float x) { return ::expm1f(x); }
LAMINA_PRIM double expm1(double x) { return ::expm1(x); }
LAMINA_PRIM float log(float x) { return ::logf(x); }
LAMINA_PRIM double log(double x) { return ::log(x); }
LAMINA_PRIM float log2(float x) { return ::log2f(x); }
LAMINA_PRIM double log2(double x) { return ::log2(x); }
LAMINA_PRIM float log1p(float x) { return ::log1pf(x); }
LAMINA_PRIM double log1p(double x) { return ::log1p(x); }
LAMINA_PRIM float sqrt(float x) { return ::sqrtf(x); }
LAMINA_PRIM double sqrt(double x) { return ::sqrt(x); }
LAMINA_PRIM float tanh(float x) { return ::tanhf(x); }
LAMINA_PRIM double tanh(double x) { return ::tanh(x); }
LAMINA_PRIM float erf(float x) { return ::erff(x); }
LAMINA_PRIM double erf(double x) { return ::erf(x); }
LAMINA_PRIM float sin(float x) { return ::sinf(x); }
LAMINA_PRIM double sin(double x) { return ::sin(x); }
LAMINA_PRIM float cos(float x) { return ::cosf(x); }
LAMINA_PRIM double cos(double x) { return ::cos(x); }
LAMINA_PRIM float floor(float x) { return ::floorf(x); }
LAMINA_PRIM double floor(double x) { return ::floor(x); }
LAMINA_PRIM float ceil(float x) { return ::ceilf(x); }
LAMINA_PRIM double ceil(double x) { return ::ceil(x); }
LAMINA_PRIM float trunc(float x) { return ::truncf(x); }
LAMINA_PRIM double trunc(double x) { return ::trunc(x); }
LAMINA_PRIM float abs(float x) { return ::fabsf(x); }
LAMINA_PRIM double abs(double x) { return ::fabs(x); }
LAMINA_PRIM float round(float x) { return ::rintf(x); }  // halves to even
LAMINA_PRIM double round(double x) { return ::rint(x); }
LAMINA_PRIM float pow(float x, float y) { return ::powf(x, y); }
LAMINA_PRIM double pow(double x, double y) { return ::pow(x, y); }
LAMINA_PRIM float fmod(float x, float y) { return ::fmodf(x, y); }
LAMINA_PRIM double fmod(double x, double y) { return ::fmod(x, y); }
LAMINA_PRIM float copysign(float x, float sign) { return ::copysignf(x, sign); }
LAMINA_PRIM double copysign(double x, double sign) { return ::copysign(x, sign); }
LAMINA_PRIM float ldexp(float x, int exponent) { return ::ldexpf(x, exponent); }
LAMINA_PRIM double ldexp(double x, int exponent) { return ::ldexp(x, exponent); }
LAMINA_PRIM float fma(float x, float y, float z) { return ::fmaf(x, y, z); }
LAMINA_PRIM double fma(double x, double y, double z) { return ::fma(x, y, z); }
#if defined(LAMINA_SIM)
LAMINA_PRIM float rsqrt(float x) { return 1 / ::sqrtf(x); }
LAMINA_PRIM double rsqrt(double x) { return 1 / ::sqrt(x); }
LAMINA_PRIM uint64_t multiply_high(uint64_t a, uint64_t b) {  // the upper 64 bits of the product
  return uint64_t(static_cast<unsigned __int128>(a) * b >> 64);
}
#else
LAMINA_PRIM float rsqrt(float x) { return ::rsqrtf(x); }
LAMINA_PRIM double rsqrt(double x) { return ::rsqrt(x); }
LAMINA_PRIM uint64_t multiply_high(uint64_t a, uint64_t b) { return __umul64hi(a, b); }
#endif
LAMINA_PRIM float sigmoid(float x) { return 1 / (1 + ::expf(-x)); }
LAMINA_PRIM double sigmoid(double x) { return 1 / (1 + ::exp(-x)); }

template <class T>
LAMINA_PRIM bool is_nan(T x) {
  return x != x;
}

// The first operand if it is NaN, then the second: NaN if any is.
template <class T>
LAMINA_PRIM T max(T a, T b) {
  return a > b || is_nan(a) ? a : b;
}
template <class T>
LAMINA_PRIM T min(T a, T b) {
  return a < b || is_nan(a) ? a : b;
}

// The identities of max and min: infinities where T has them.
template <class T>
LAMINA_PRIM constexpr T lowest() {
  if constexpr (T(0.5) != T(0))
    return -T(INFINITY);
  else
    return T(-1) < T(0) ? T(T(1) << (sizeof(T) * 8 - 1)) : T(0);
}
template <class T>
LAMINA_PRIM constexpr T highest() {
  if constexpr (T(0.5) != T(0))
    return T(INFINITY);
  else
    return T(~lowest<T>());
}

}  // namespace lamina::LAMINA_DEVICE::prim
