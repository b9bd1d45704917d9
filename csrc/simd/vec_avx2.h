// Vec at the level avx2: 256-bit registers, FMA, F16C.
#pragma once

#include <immintrin.h>

namespace lamina::LAMINA_ISA {

template <class S>
struct Vec;

// A sliding window over this table is a mask of n leading lanes.
alignas(64) static constexpr int32_t lane_window[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                                        0,  0,  0,  0,  0,  0,  0,  0};

template <>
struct Vec<float> {
  static constexpr int N = 8;
  static constexpr int min_exponent = -126, max_exponent = 127;
  struct Mask {
    __m256 m;
    LAMINA_INLINE friend Mask operator&(Mask a, Mask b) { return {_mm256_and_ps(a.m, b.m)}; }
    LAMINA_INLINE friend Mask operator|(Mask a, Mask b) { return {_mm256_or_ps(a.m, b.m)}; }
    LAMINA_INLINE friend Mask operator~(Mask a) {
      return {_mm256_xor_ps(a.m, _mm256_castsi256_ps(_mm256_set1_epi32(-1)))};
    }
    LAMINA_INLINE friend uint32_t bits(Mask a) { return uint32_t(_mm256_movemask_ps(a.m)); }
    LAMINA_INLINE friend bool any(Mask a) { return bits(a) != 0; }
    LAMINA_INLINE friend bool all(Mask a) { return bits(a) == 0xff; }
  };

  __m256 v;

  LAMINA_INLINE static __m256i window(int n) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_window + 8 - n));
  }
  LAMINA_INLINE static Mask first(int n) { return {_mm256_castsi256_ps(window(n))}; }
  LAMINA_INLINE static Vec zero() { return {_mm256_setzero_ps()}; }
  LAMINA_INLINE static Vec set1(float s) { return {_mm256_set1_ps(s)}; }
  LAMINA_INLINE static Vec iota() { return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)}; }

  LAMINA_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  LAMINA_INLINE static Vec load(const float* p, int n) { return {_mm256_maskload_ps(p, window(n))}; }
  LAMINA_INLINE static Vec from_bits(__m128i h, bf16) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
  }
  LAMINA_INLINE static Vec from_bits(__m128i h, f16) { return {_mm256_cvtph_ps(h)}; }
  LAMINA_INLINE static __m128i to_bits(__m256 x, bf16) {
    const __m256i u = _mm256_castps_si256(x), high = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    if (_mm256_movemask_ps(nan) != 0) [[unlikely]]  // to choose in any case takes a fifth longer
      r = _mm256_blendv_epi8(r, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), _mm256_castps_si256(nan));
    return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
  }
  LAMINA_INLINE static __m128i to_bits(__m256 x, f16) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  }
  LAMINA_INLINE static Vec load(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))};
  }
  template <class H>  // bf16 or f16
  LAMINA_INLINE static Vec load(const H* p) {
    return from_bits(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), H{});
  }
  template <class H>
  LAMINA_INLINE static Vec load(const H* p, int n) {
    H lanes[8] = {};
    __builtin_memcpy(lanes, p, size_t(n) * sizeof(H));
    return load(lanes);
  }
  LAMINA_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  LAMINA_INLINE void store(float* p, int n) const { _mm256_maskstore_ps(p, window(n), v); }
  template <class H>
  LAMINA_INLINE void store(H* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bits(v, H{}));
  }
  template <class H>
  LAMINA_INLINE void store(H* p, int n) const {
    H lanes[8];
    store(lanes);
    __builtin_memcpy(p, lanes, size_t(n) * sizeof(H));
  }

  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a) { return {_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))}; }
  LAMINA_INLINE friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec max_fast(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec min_fast(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  // maxps gives b where either is NaN; a NaN in a is put back.
  LAMINA_INLINE friend Vec max(Vec a, Vec b) { return select(is_nan(a), a, max_fast(a, b)); }
  LAMINA_INLINE friend Vec min(Vec a, Vec b) { return select(is_nan(a), a, min_fast(a, b)); }
  LAMINA_INLINE friend Vec abs(Vec a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
  LAMINA_INLINE friend Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
  LAMINA_INLINE friend Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }
  LAMINA_INLINE friend Vec ceil(Vec a) { return {_mm256_ceil_ps(a.v)}; }
  LAMINA_INLINE friend Vec trunc(Vec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec round(Vec a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Mask lt(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
  LAMINA_INLINE friend Mask le(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
  LAMINA_INLINE friend Mask gt(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
  LAMINA_INLINE friend Mask ge(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
  LAMINA_INLINE friend Mask eq(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
  LAMINA_INLINE friend Mask ne(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
  LAMINA_INLINE friend Mask is_nan(Vec a) { return {_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q)}; }
  LAMINA_INLINE friend Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
  LAMINA_INLINE friend Vec and_bits(Vec a, Vec b) { return {_mm256_and_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec or_bits(Vec a, Vec b) { return {_mm256_or_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec xor_bits(Vec a, Vec b) { return {_mm256_xor_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec pow2(Vec n) {
    const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(e, 23))};
  }
  // In two steps: only the second can round, and neither factor leaves the normal range.
  LAMINA_INLINE friend Vec ldexp(Vec a, Vec n) {
    const __m256i e = _mm256_cvtps_epi32(n.v), bias = _mm256_set1_epi32(127);
    const __m256i half = _mm256_srai_epi32(e, 1), rest = _mm256_sub_epi32(e, half);
    const Vec first{_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23))};
    const Vec second{_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23))};
    return a * first * second;
  }
  LAMINA_INLINE friend Vec frexp(Vec a, Vec* e) {
    const __m256i u = _mm256_castps_si256(a.v);
    e->v = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(u, 23), _mm256_set1_epi32(126)));
    const __m256i m =
        _mm256_or_si256(_mm256_and_si256(u, _mm256_set1_epi32(0x007fffff)), _mm256_set1_epi32(0x3f000000));
    return {_mm256_castsi256_ps(m)};
  }
  LAMINA_INLINE friend float reduce_add(Vec a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  LAMINA_INLINE friend float reduce_max(Vec a) {
    if (any(is_nan(a))) return __builtin_nanf("");
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  LAMINA_INLINE friend float reduce_min(Vec a) { return -reduce_max(-a); }
};

template <>
struct Vec<double> {
  static constexpr int N = 4;
  static constexpr int min_exponent = -1022, max_exponent = 1023;
  struct Mask {
    __m256d m;
    LAMINA_INLINE friend Mask operator&(Mask a, Mask b) { return {_mm256_and_pd(a.m, b.m)}; }
    LAMINA_INLINE friend Mask operator|(Mask a, Mask b) { return {_mm256_or_pd(a.m, b.m)}; }
    LAMINA_INLINE friend Mask operator~(Mask a) {
      return {_mm256_xor_pd(a.m, _mm256_castsi256_pd(_mm256_set1_epi32(-1)))};
    }
    LAMINA_INLINE friend uint32_t bits(Mask a) { return uint32_t(_mm256_movemask_pd(a.m)); }
    LAMINA_INLINE friend bool any(Mask a) { return bits(a) != 0; }
    LAMINA_INLINE friend bool all(Mask a) { return bits(a) == 0xf; }
  };

  __m256d v;

  LAMINA_INLINE static __m256i window(int n) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_window + 8 - 2 * n));
  }
  LAMINA_INLINE static Mask first(int n) { return {_mm256_castsi256_pd(window(n))}; }
  LAMINA_INLINE static Vec zero() { return {_mm256_setzero_pd()}; }
  LAMINA_INLINE static Vec set1(double s) { return {_mm256_set1_pd(s)}; }
  LAMINA_INLINE static Vec iota() { return {_mm256_setr_pd(0, 1, 2, 3)}; }
  LAMINA_INLINE static Vec load(const double* p) { return {_mm256_loadu_pd(p)}; }
  LAMINA_INLINE static Vec load(const double* p, int n) { return {_mm256_maskload_pd(p, window(n))}; }
  LAMINA_INLINE static Vec load(const uint8_t* p, int n = N) {
    uint8_t lanes[4] = {};
    __builtin_memcpy(lanes, p, size_t(n));
    return {_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_loadu_si32(lanes)))};
  }
  LAMINA_INLINE void store(double* p) const { _mm256_storeu_pd(p, v); }
  LAMINA_INLINE void store(double* p, int n) const { _mm256_maskstore_pd(p, window(n), v); }

  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm256_sub_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm256_mul_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm256_div_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a) { return {_mm256_xor_pd(a.v, _mm256_set1_pd(-0.0))}; }
  LAMINA_INLINE friend Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec max_fast(Vec a, Vec b) { return {_mm256_max_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec min_fast(Vec a, Vec b) { return {_mm256_min_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec max(Vec a, Vec b) { return select(is_nan(a), a, max_fast(a, b)); }
  LAMINA_INLINE friend Vec min(Vec a, Vec b) { return select(is_nan(a), a, min_fast(a, b)); }
  LAMINA_INLINE friend Vec abs(Vec a) { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
  LAMINA_INLINE friend Vec sqrt(Vec a) { return {_mm256_sqrt_pd(a.v)}; }
  LAMINA_INLINE friend Vec floor(Vec a) { return {_mm256_floor_pd(a.v)}; }
  LAMINA_INLINE friend Vec ceil(Vec a) { return {_mm256_ceil_pd(a.v)}; }
  LAMINA_INLINE friend Vec trunc(Vec a) {
    return {_mm256_round_pd(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec round(Vec a) {
    return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Mask lt(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ)}; }
  LAMINA_INLINE friend Mask le(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ)}; }
  LAMINA_INLINE friend Mask gt(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GT_OQ)}; }
  LAMINA_INLINE friend Mask ge(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_GE_OQ)}; }
  LAMINA_INLINE friend Mask eq(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ)}; }
  LAMINA_INLINE friend Mask ne(Vec a, Vec b) { return {_mm256_cmp_pd(a.v, b.v, _CMP_NEQ_UQ)}; }
  LAMINA_INLINE friend Mask is_nan(Vec a) { return {_mm256_cmp_pd(a.v, a.v, _CMP_UNORD_Q)}; }
  LAMINA_INLINE friend Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_pd(b.v, a.v, m.m)}; }
  LAMINA_INLINE friend Vec and_bits(Vec a, Vec b) { return {_mm256_and_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec or_bits(Vec a, Vec b) { return {_mm256_or_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec xor_bits(Vec a, Vec b) { return {_mm256_xor_pd(a.v, b.v)}; }
  // Adding 1.5 * 2^52 leaves the integer in the low mantissa bits, from where it shifts into the exponent.
  LAMINA_INLINE friend Vec pow2(Vec n) {
    const __m256d shifted = _mm256_add_pd(n.v, _mm256_set1_pd(0x1.8p52 + 1023));
    return {_mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(shifted), 52))};
  }
  LAMINA_INLINE friend Vec ldexp(Vec a, Vec n) {
    const Vec half = floor(n * set1(0.5));
    return a * pow2(half) * pow2(n - half);
  }
  LAMINA_INLINE friend Vec frexp(Vec a, Vec* e) {
    const __m256i u = _mm256_castpd_si256(a.v);
    const __m256i biased =
        _mm256_or_si256(_mm256_srli_epi64(u, 52), _mm256_castpd_si256(_mm256_set1_pd(0x1p52)));
    e->v = _mm256_sub_pd(_mm256_castsi256_pd(biased), _mm256_set1_pd(0x1p52 + 1022));
    const __m256i m = _mm256_and_si256(u, _mm256_set1_epi64x(0x000fffffffffffff));
    return {_mm256_castsi256_pd(_mm256_or_si256(m, _mm256_castpd_si256(_mm256_set1_pd(0.5))))};
  }
  LAMINA_INLINE friend double reduce_add(Vec a) {
    const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
  }
  LAMINA_INLINE friend double reduce_max(Vec a) {
    if (any(is_nan(a))) return __builtin_nan("");
    const __m128d x = _mm_max_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(x, _mm_unpackhi_pd(x, x)));
  }
  LAMINA_INLINE friend double reduce_min(Vec a) { return -reduce_max(-a); }
};

template <>
struct Vec<uint32_t> {
  static constexpr int N = 8;
  __m256i v;
  LAMINA_INLINE static Vec set1(uint32_t s) { return {_mm256_set1_epi32(int32_t(s))}; }
  LAMINA_INLINE static Vec iota() { return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)}; }
  LAMINA_INLINE static Vec load(const uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  LAMINA_INLINE void store(uint32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm256_add_epi32(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator^(Vec a, Vec b) { return {_mm256_xor_si256(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator>>(Vec a, int n) { return {_mm256_srli_epi32(a.v, n)}; }
  // The 64-bit products a * b, as their low and high halves.
  LAMINA_INLINE friend void mul_wide(Vec a, Vec b, Vec* low, Vec* high) {
    const __m256i even = _mm256_mul_epu32(a.v, b.v);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), _mm256_srli_epi64(b.v, 32));
    low->v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
    high->v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  }
  // Exact for values below 2^24.
  LAMINA_INLINE friend Vec<float> to_float(Vec a) { return {_mm256_cvtepi32_ps(a.v)}; }
};

}  // namespace lamina::LAMINA_ISA
