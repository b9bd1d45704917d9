// Elementary functions on Vec<float> and Vec<double>.
//
// Error bounds are in ULP of the result, measured over all exponents of float (one value in 61) and 10^8
// values of double, at levels with an FMA unit; baseline, which rounds products, adds at most 1. Polynomials
// are minimax fits (Remez exchange in 50 digits), relative to the function they stand for. All functions
// follow IEEE at NaN, infinities, signed zeros and subnormals, of argument and of result.
//
//            float  double                             float  double
//   exp       1.0    1.0                      tanh      2.5    2.6
//   expm1     1.5    2.0                      sigmoid   2.4    2.4
//   log       0.9    0.9                      erf       1.1    libm
//   log1p     1.4    1.3                      sin cos   2.3    libm (float too where |x| > 6400)
//   softplus  1.7    1.7                      pow       libm
#pragma once

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

// c[0] + c[1] x + c[2] x^2 + ..., by Horner's rule: vectors in flight hide the latency of the chain.
template <class V, class S, int n>
LAMINA_INLINE V polynomial(V x, const S (&c)[n]) {
  V r = V::set1(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) r = fma(r, x, V::set1(c[i]));
  return r;
}

template <class S>
struct MathConstants;

template <>
struct MathConstants<float> {
  // ln 2 = ln2_high + ln2_low; ln2_high has 9 bits, so that n * ln2_high is exact.
  static constexpr float ln2_high = 0x1.63p-1f, ln2_low = -0x1.bd0106p-13f;
  static constexpr float exp_low = -104.0f, exp_high = 89.0f;  // beyond: 0 and infinity
  static constexpr float expm1_low = -18.0f;                   // below: -1
  static constexpr float tanh_high = 9.1f;                     // above: 1
  static constexpr float tiny = 0x1p-126f, infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float up = 0x1p24f, up_exponent = 24;  // takes subnormals to the normal range
  // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2; relative error of e^r - 1: 2.7e-10.
  static constexpr float expm1[] = {0x1.000000p-1f, 0x1.555556p-3f,  0x1.5554acp-5f,
                                    0x1.1110c6p-7f, 0x1.6d7556p-10f, 0x1.a1518ap-13f};
  // (log((1 + s) / (1 - s)) - 2 s) / s^3 in s^2, for |s| <= 3 - 2 sqrt(2); relative error of the log: 1.6e-9.
  static constexpr float log[] = {0x1.55557ap-1f, 0x1.995e9cp-2f, 0x1.31e678p-2f};
};

template <>
struct MathConstants<double> {
  static constexpr double ln2_high = 0x1.62e42feep-1,
                          ln2_low = 0x1.a39ef35793c76p-33;  // 32 bits and the rest
  static constexpr double exp_low = -746, exp_high = 710;
  static constexpr double expm1_low = -40;
  static constexpr double tanh_high = 20;
  static constexpr double tiny = 0x1p-1022, infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double up = 0x1p54, up_exponent = 54;
  // As above; errors 2.7e-18 and 2.5e-18.
  static constexpr double expm1[] = {0x1.0000000000001p-1,  0x1.5555555555557p-3,  0x1.5555555554d3cp-5,
                                     0x1.11111111100e3p-7,  0x1.6c16c16f0a7d5p-10, 0x1.a01a01abe4e01p-13,
                                     0x1.a019f39615d80p-16, 0x1.71de023976fb6p-19, 0x1.28022588ea469p-22,
                                     0x1.af4ddc4c169b0p-26, 0x1.e632da8a58657p-30};
  static constexpr double log[] = {0x1.5555555555593p-1, 0x1.999999997fb31p-2, 0x1.2492494217aa8p-2,
                                   0x1.c71c51e7ebedap-3, 0x1.7466462f5d730p-3, 0x1.39a0f4b1cddbep-3,
                                   0x1.2f0d9200138bdp-3};
};

template <class S>
LAMINA_INLINE Vec<S> sign_of(Vec<S> x) {
  return and_bits(x, Vec<S>::set1(S(-0.0)));
}

// x = n ln 2 + r with integral n and |r| <= ln(2) / 2. Returns e^r - 1 = r + r^2 q(r).
template <class S>
LAMINA_INLINE Vec<S> expm1_reduced(Vec<S> x, Vec<S>* n) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  *n = round(x * V::set1(S(1.44269504088896340736)));
  V r = fnma(*n, V::set1(C::ln2_high), x);
  r = fnma(*n, V::set1(C::ln2_low), r);
  return fma(r * r, polynomial(r, C::expm1), r);
}

// e^x = 2^n e^r. The clamp keeps 2^n within reach of ldexp; its operand order lets NaN pass.
template <class S>
LAMINA_INLINE Vec<S> exp(Vec<S> x) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  V n;
  const V clamped = min_fast(V::set1(C::exp_high), max_fast(V::set1(C::exp_low), x));
  const V p = expm1_reduced(clamped, &n);
  return ldexp(V::set1(1) + p, n);
}

// e^x where that is a normal number.
template <class S>
LAMINA_INLINE Vec<S> exp_normal(Vec<S> x) {
  Vec<S> n;
  const Vec<S> p = expm1_reduced(x, &n), scale = pow2(n);
  return fma(scale, p, scale);
}

// e^x - 1 = 2 (2^(n-1) (e^r - 1) + (2^(n-1) - 1/2)), where 2^(n-1) stays finite as long as e^x does.
// For n = 0 that would round subnormals: there it is e^r - 1 itself.
template <class S>
LAMINA_INLINE Vec<S> expm1(Vec<S> x) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  V n;
  const V clamped = min_fast(V::set1(C::exp_high), max_fast(V::set1(C::expm1_low), x));
  const V p = expm1_reduced(clamped, &n);
  const V half = pow2(n - V::set1(1));
  const V y = fma(half, p, half - V::set1(S(0.5)));
  return or_bits(select(eq(n, V::zero()), p, y + y), sign_of(x));
}

// log(2^e (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)]. With s = f / (2 + f), log(1 + f) = log((1 + s) / (1 -
// s)) = 2 s + s^3 P(s^2), and 2 s = f - s f; so, with h = f^2 / 2, log(1 + f) = f - (h - s (h + s^2 P)),
// where the part that is rounded is small against f (as in Sun's fdlibm, e_log.c).
template <class S>
LAMINA_INLINE Vec<S> log_reduced(Vec<S> f, Vec<S> e) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  const V s = f / (V::set1(2) + f), z = s * s;
  const V h = V::set1(S(0.5)) * f * f;
  const V tail = fma(s, fma(z, polynomial(z, C::log), h), e * V::set1(C::ln2_low));
  return fma(e, V::set1(C::ln2_high), f - (h - tail));
}

// Values where x is not in (0, inf): -inf at 0, NaN below, inf and NaN at themselves.
template <class S>
LAMINA_INLINE Vec<S> log_special(Vec<S> x, Vec<S> y) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  y = select(lt(x, V::set1(C::infinity)), y, x);
  y = select(eq(x, V::zero()), V::set1(-C::infinity), y);
  return select(lt(x, V::zero()), V::set1(C::nan), y);
}

// x = 2^e m with m in [sqrt(1/2), sqrt(2)); subnormals are scaled up first.
template <class S>
LAMINA_INLINE Vec<S> split_exponent(Vec<S> x, Vec<S>* e) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  const auto subnormal = lt(x, V::set1(C::tiny));
  V m = frexp(select(subnormal, x * V::set1(C::up), x), e);
  *e = *e - select(subnormal, V::set1(C::up_exponent), V::zero());
  const auto low = lt(m, V::set1(S(0.70710678118654752440)));
  *e = *e - select(low, V::set1(1), V::zero());
  return select(low, m + m, m);
}

template <class S>
LAMINA_INLINE Vec<S> log(Vec<S> x) {
  using V = Vec<S>;
  V e;
  const V m = split_exponent(x, &e);
  return log_special(x, log_reduced(m - V::set1(1), e));
}

// u = 1 + x loses c = (1 + x) - u, which log_reduced gets back: 1 + x = 2^e (m + 2^-e c). Where u has
// exponents too large for 2^-e, c does not count.
template <class S>
LAMINA_INLINE Vec<S> log1p(Vec<S> x) {
  using V = Vec<S>;
  const V one = V::set1(1);
  const V u = one + x;
  const V c = select(lt(x, one), x - (u - one), one - (u - x));
  V e;
  const V m = split_exponent(u, &e);
  const V scale = pow2(max_fast(-e, V::set1(S(V::min_exponent))));
  const V y = log_reduced(fma(c, scale, m - one), e);
  return or_bits(log_special(u, y), sign_of(x));
}

// tanh |x| = t / (t + 2) with t = e^(2|x|) - 1.
template <class S>
LAMINA_INLINE Vec<S> tanh(Vec<S> x) {
  using V = Vec<S>;
  using C = MathConstants<S>;
  const V a = min_fast(V::set1(C::tanh_high), abs(x));
  V n;
  const V p = expm1_reduced(a + a, &n);
  const V scale = pow2(n);
  const V t = fma(scale, p, scale - V::set1(1));
  return or_bits(t / (t + V::set1(2)), sign_of(x));
}

// 1 / (1 + e^-x), which for negative x is z / (1 + z) with z = e^x: exact to its subnormal end.
template <class S>
LAMINA_INLINE Vec<S> sigmoid(Vec<S> x) {
  using V = Vec<S>;
  const V one = V::set1(1);
  const V z = exp(-abs(x));
  return select(ge(x, V::zero()), one, z) / (one + z);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|).
template <class S>
LAMINA_INLINE Vec<S> softplus(Vec<S> x) {
  return max(x, Vec<S>::zero()) + log1p(exp(-abs(x)));
}

// Applies a scalar function to each lane: for what is rare, or rarely vectorised well.
template <class V, class F>
LAMINA_INLINE V by_lane(V x, F f) {
  decltype(reduce_add(x)) lanes[V::N];
  x.store(lanes);
  for (int i = 0; i < V::N; ++i) lanes[i] = f(lanes[i]);
  return V::load(lanes);
}

// Below 1: x + x P(x^2), relative error 1.3e-9. Above: 1 - erfc |x|, where -log erfc is smooth enough for a
// polynomial (the idea is N. Juffa's); its error, seen in the result, is 1.1e-9. From 3.95 on the result
// rounds to 1.
LAMINA_INLINE Vec<float> erf(Vec<float> x) {
  using V = Vec<float>;
  static constexpr float near_zero[] = {0x1.06eba8p-3f, -0x1.81273ep-2f,  0x1.ce2cf8p-4f, -0x1.b7f90ep-6f,
                                        0x1.5405b2p-8f, -0x1.a3f706p-11f, 0x1.496a40p-14f};
  static constexpr float tail[] = {0x1.6626e4p-12f, 0x1.2088e8p+0f, 0x1.46baf4p-1f,  0x1.a65304p-4f,
                                   -0x1.65cafap-6f, 0x1.8259f8p-9f, -0x1.86dbd8p-13f};
  const V one = V::set1(1);
  const V a = min_fast(V::set1(3.95f), abs(x));
  const V low = fma(a, polynomial(a * a, near_zero), a);
  const V high = one - exp_normal(-polynomial(a, tail));
  return or_bits(select(lt(a, one), low, high), sign_of(x));
}
LAMINA_INLINE Vec<double> erf(Vec<double> x) {
  return by_lane(x, [](double s) { return __builtin_erf(s); });
}

// sin(x + quarters * pi / 2). x = n pi/2 + r with |r| <= pi/4: sin and cos of r by their odd and even
// polynomials (errors 3.8e-9, 9.5e-11), then one of them, with its sign, by n mod 4. pi/2 is cut into parts
// of 8, 12, 12 and 24 bits: for n < 2^12 the first three products are exact without an FMA unit too, and the
// parts reach to 2^-62.
LAMINA_INLINE Vec<float> sin_quarters(Vec<float> x, float quarters) {
  using V = Vec<float>;
  static constexpr float sine[] = {-0x1.555546p-3f, 0x1.11073cp-7f, -0x1.99445ep-13f};
  static constexpr float cosine[] = {0x1.55554ap-5f, -0x1.6c0c8cp-10f, 0x1.9a0258p-16f};
  const V n = round(x * V::set1(0x1.45f306p-1f));
  V r = fnma(n, V::set1(0x1.92p+0f), x);
  r = fnma(n, V::set1(0x1.fb4p-12f), r);
  r = fnma(n, V::set1(0x1.444p-24f), r);
  r = fnma(n, V::set1(0x1.68c234p-39f), r);
  const V z = r * r;
  const V s = fma(r * z, polynomial(z, sine), r);
  const V c = fma(z * z, polynomial(z, cosine), fma(z, V::set1(-0.5f), V::set1(1)));
  const V k = n + V::set1(quarters);
  const V quadrant = k - V::set1(4) * floor(k * V::set1(0.25f));
  const V half = floor(quadrant * V::set1(0.5f));  // 1 in the lower half circle
  const V y = select(eq(quadrant, half + half), s, c);
  return select(eq(half, V::zero()), y, -y);
}
// Lanes beyond the reach of the reduction (n >= 2^12), infinities and NaN among them, get libm's answer.
template <class F>
LAMINA_INLINE Vec<float> patch_far(Vec<float> x, Vec<float> y, F f) {
  const auto near = le(abs(x), Vec<float>::set1(6400));
  return all(near) ? y : select(near, y, by_lane(x, f));
}
LAMINA_INLINE Vec<float> sin(Vec<float> x) {
  const Vec<float> y = select(eq(x, Vec<float>::zero()), x, sin_quarters(x, 0));
  return patch_far(x, y, [](float s) { return __builtin_sinf(s); });
}
LAMINA_INLINE Vec<float> cos(Vec<float> x) {
  return patch_far(x, sin_quarters(x, 1), [](float s) { return __builtin_cosf(s); });
}
LAMINA_INLINE Vec<double> sin(Vec<double> x) {
  return by_lane(x, [](double s) { return __builtin_sin(s); });
}
LAMINA_INLINE Vec<double> cos(Vec<double> x) {
  return by_lane(x, [](double s) { return __builtin_cos(s); });
}

LAMINA_INLINE float pow(float x, float y) { return __builtin_powf(x, y); }
LAMINA_INLINE double pow(double x, double y) { return __builtin_pow(x, y); }
template <class S>
LAMINA_INLINE Vec<S> pow(Vec<S> x, Vec<S> y) {
  S a[Vec<S>::N], b[Vec<S>::N];
  x.store(a);
  y.store(b);
  for (int i = 0; i < Vec<S>::N; ++i) a[i] = pow(a[i], b[i]);
  return Vec<S>::load(a);
}

}  // namespace lamina::LAMINA_ISA
