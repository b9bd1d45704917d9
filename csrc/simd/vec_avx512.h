// Vec at the level avx512 (F, BW, DQ, VL): 512-bit registers, one mask bit per lane.
#pragma once

// GCC 12 warns about its own headers here (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace lamina::LAMINA_ISA {

template <class S>
struct Vec;

// One bit per lane, in M = __mmask16 or __mmask8.
template <class M, M every>
struct LaneMask {
  M m;
  LAMINA_INLINE friend LaneMask operator&(LaneMask a, LaneMask b) { return {M(a.m & b.m)}; }
  LAMINA_INLINE friend LaneMask operator|(LaneMask a, LaneMask b) { return {M(a.m | b.m)}; }
  LAMINA_INLINE friend LaneMask operator~(LaneMask a) { return {M(a.m ^ every)}; }
  LAMINA_INLINE friend uint32_t bits(LaneMask a) { return a.m; }
  LAMINA_INLINE friend bool any(LaneMask a) { return a.m != 0; }
  LAMINA_INLINE friend bool all(LaneMask a) { return a.m == every; }
};

template <>
struct Vec<float> {
  static constexpr int N = 16;
  static constexpr int min_exponent = -126, max_exponent = 127;
  using Mask = LaneMask<__mmask16, 0xffff>;

  __m512 v;

  LAMINA_INLINE static __mmask16 window(int n) { return __mmask16((1u << n) - 1); }
  LAMINA_INLINE static Mask first(int n) { return {window(n)}; }
  LAMINA_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
  LAMINA_INLINE static Vec set1(float s) { return {_mm512_set1_ps(s)}; }
  LAMINA_INLINE static Vec iota() {
    return {_mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
  }

  LAMINA_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  LAMINA_INLINE static Vec load(const float* p, int n) { return {_mm512_maskz_loadu_ps(window(n), p)}; }
  LAMINA_INLINE static Vec from_bits(__m256i h, bf16) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
  }
  LAMINA_INLINE static Vec from_bits(__m256i h, f16) { return {_mm512_cvtph_ps(h)}; }
  LAMINA_INLINE static __m256i to_bits(__m512 x, bf16) {
    const __m512i u = _mm512_castps_si512(x);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i r =
        _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet));
  }
  LAMINA_INLINE static __m256i to_bits(__m512 x, f16) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
  }
  LAMINA_INLINE static Vec from_bytes(__m128i b) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b))}; }
  LAMINA_INLINE static Vec load(const uint8_t* p) {
    return from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  LAMINA_INLINE static Vec load(const uint8_t* p, int n) {
    return from_bytes(_mm_maskz_loadu_epi8(window(n), p));
  }
  template <class H>  // bf16 or f16
  LAMINA_INLINE static Vec load(const H* p) {
    return from_bits(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), H{});
  }
  template <class H>
  LAMINA_INLINE static Vec load(const H* p, int n) {
    return from_bits(_mm256_maskz_loadu_epi16(window(n), p), H{});
  }
  LAMINA_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  LAMINA_INLINE void store(float* p, int n) const { _mm512_mask_storeu_ps(p, window(n), v); }
  template <class H>
  LAMINA_INLINE void store(H* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bits(v, H{}));
  }
  template <class H>
  LAMINA_INLINE void store(H* p, int n) const {
    _mm256_mask_storeu_epi16(p, window(n), to_bits(v, H{}));
  }

  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
  LAMINA_INLINE friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec max_fast(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec min_fast(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  // maxps gives b where either is NaN; a NaN in a is put back.
  LAMINA_INLINE friend Vec max(Vec a, Vec b) { return select(is_nan(a), a, max_fast(a, b)); }
  LAMINA_INLINE friend Vec min(Vec a, Vec b) { return select(is_nan(a), a, min_fast(a, b)); }
  LAMINA_INLINE friend Vec abs(Vec a) { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.v)}; }
  LAMINA_INLINE friend Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
  LAMINA_INLINE friend Vec floor(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec ceil(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec trunc(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec round(Vec a) {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Mask lt(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
  LAMINA_INLINE friend Mask le(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
  LAMINA_INLINE friend Mask gt(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
  LAMINA_INLINE friend Mask ge(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
  LAMINA_INLINE friend Mask eq(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
  LAMINA_INLINE friend Mask ne(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
  LAMINA_INLINE friend Mask is_nan(Vec a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
  LAMINA_INLINE friend Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
  LAMINA_INLINE friend Vec and_bits(Vec a, Vec b) { return {_mm512_and_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec or_bits(Vec a, Vec b) { return {_mm512_or_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec xor_bits(Vec a, Vec b) { return {_mm512_xor_ps(a.v, b.v)}; }
  LAMINA_INLINE friend Vec pow2(Vec n) {
    const __m512i e = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(e, 23))};
  }
  LAMINA_INLINE friend Vec ldexp(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
  LAMINA_INLINE friend Vec frexp(Vec a, Vec* e) {
    const __m512i u = _mm512_castps_si512(a.v);
    e->v = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(u, 23), _mm512_set1_epi32(126)));
    const __m512i m = _mm512_and_si512(u, _mm512_set1_epi32(0x007fffff));
    return {_mm512_castsi512_ps(_mm512_or_si512(m, _mm512_set1_epi32(0x3f000000)))};
  }
  LAMINA_INLINE static __m256 upper_half(__m512 x) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  }
  LAMINA_INLINE friend float reduce_add(Vec a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), upper_half(a.v));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }
  LAMINA_INLINE friend float reduce_max(Vec a) {
    if (any(is_nan(a))) return __builtin_nanf("");
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), upper_half(a.v));
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  LAMINA_INLINE friend float reduce_min(Vec a) { return -reduce_max(-a); }
};

template <>
struct Vec<double> {
  static constexpr int N = 8;
  static constexpr int min_exponent = -1022, max_exponent = 1023;
  using Mask = LaneMask<__mmask8, 0xff>;

  __m512d v;

  LAMINA_INLINE static __mmask8 window(int n) { return __mmask8((1u << n) - 1); }
  LAMINA_INLINE static Mask first(int n) { return {window(n)}; }
  LAMINA_INLINE static Vec zero() { return {_mm512_setzero_pd()}; }
  LAMINA_INLINE static Vec set1(double s) { return {_mm512_set1_pd(s)}; }
  LAMINA_INLINE static Vec iota() { return {_mm512_set_pd(7, 6, 5, 4, 3, 2, 1, 0)}; }
  LAMINA_INLINE static Vec load(const double* p) { return {_mm512_loadu_pd(p)}; }
  LAMINA_INLINE static Vec load(const double* p, int n) { return {_mm512_maskz_loadu_pd(window(n), p)}; }
  LAMINA_INLINE static Vec load(const uint8_t* p, int n = N) {
    const __m128i bytes = _mm_maskz_loadu_epi8(window(n), p);
    return {_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(bytes))};
  }
  LAMINA_INLINE void store(double* p) const { _mm512_storeu_pd(p, v); }
  LAMINA_INLINE void store(double* p, int n) const { _mm512_mask_storeu_pd(p, window(n), v); }

  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a, Vec b) { return {_mm512_sub_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator*(Vec a, Vec b) { return {_mm512_mul_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator/(Vec a, Vec b) { return {_mm512_div_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator-(Vec a) { return {_mm512_xor_pd(a.v, _mm512_set1_pd(-0.0))}; }
  LAMINA_INLINE friend Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
  LAMINA_INLINE friend Vec max_fast(Vec a, Vec b) { return {_mm512_max_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec min_fast(Vec a, Vec b) { return {_mm512_min_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec max(Vec a, Vec b) { return select(is_nan(a), a, max_fast(a, b)); }
  LAMINA_INLINE friend Vec min(Vec a, Vec b) { return select(is_nan(a), a, min_fast(a, b)); }
  LAMINA_INLINE friend Vec abs(Vec a) { return {_mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v)}; }
  LAMINA_INLINE friend Vec sqrt(Vec a) { return {_mm512_sqrt_pd(a.v)}; }
  LAMINA_INLINE friend Vec floor(Vec a) {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec ceil(Vec a) {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec trunc(Vec a) {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Vec round(Vec a) {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  LAMINA_INLINE friend Mask lt(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
  LAMINA_INLINE friend Mask le(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
  LAMINA_INLINE friend Mask gt(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
  LAMINA_INLINE friend Mask ge(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
  LAMINA_INLINE friend Mask eq(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
  LAMINA_INLINE friend Mask ne(Vec a, Vec b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
  LAMINA_INLINE friend Mask is_nan(Vec a) { return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)}; }
  LAMINA_INLINE friend Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_pd(m.m, b.v, a.v)}; }
  LAMINA_INLINE friend Vec and_bits(Vec a, Vec b) { return {_mm512_and_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec or_bits(Vec a, Vec b) { return {_mm512_or_pd(a.v, b.v)}; }
  LAMINA_INLINE friend Vec xor_bits(Vec a, Vec b) { return {_mm512_xor_pd(a.v, b.v)}; }
  // Adding 1.5 * 2^52 leaves the integer in the low mantissa bits, from where it shifts into the exponent.
  LAMINA_INLINE friend Vec pow2(Vec n) {
    const __m512d shifted = _mm512_add_pd(n.v, _mm512_set1_pd(0x1.8p52 + 1023));
    return {_mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(shifted), 52))};
  }
  LAMINA_INLINE friend Vec ldexp(Vec a, Vec n) { return {_mm512_scalef_pd(a.v, n.v)}; }
  LAMINA_INLINE friend Vec frexp(Vec a, Vec* e) {
    const __m512i u = _mm512_castpd_si512(a.v);
    const __m512i biased =
        _mm512_or_si512(_mm512_srli_epi64(u, 52), _mm512_castpd_si512(_mm512_set1_pd(0x1p52)));
    e->v = _mm512_sub_pd(_mm512_castsi512_pd(biased), _mm512_set1_pd(0x1p52 + 1022));
    const __m512i m = _mm512_and_si512(u, _mm512_set1_epi64(0x000fffffffffffff));
    return {_mm512_castsi512_pd(_mm512_or_si512(m, _mm512_castpd_si512(_mm512_set1_pd(0.5))))};
  }
  LAMINA_INLINE friend double reduce_add(Vec a) {
    const __m256d half = _mm256_add_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
  }
  LAMINA_INLINE friend double reduce_max(Vec a) {
    if (any(is_nan(a))) return __builtin_nan("");
    const __m256d half = _mm256_max_pd(_mm512_castpd512_pd256(a.v), _mm512_extractf64x4_pd(a.v, 1));
    const __m128d x = _mm_max_pd(_mm256_castpd256_pd128(half), _mm256_extractf128_pd(half, 1));
    return _mm_cvtsd_f64(_mm_max_sd(x, _mm_unpackhi_pd(x, x)));
  }
  LAMINA_INLINE friend double reduce_min(Vec a) { return -reduce_max(-a); }
};

template <>
struct Vec<uint32_t> {
  static constexpr int N = 16;
  __m512i v;
  LAMINA_INLINE static Vec set1(uint32_t s) { return {_mm512_set1_epi32(int32_t(s))}; }
  LAMINA_INLINE static Vec iota() {
    return {_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
  }
  LAMINA_INLINE static Vec load(const uint32_t* p) { return {_mm512_loadu_si512(p)}; }
  LAMINA_INLINE void store(uint32_t* p) const { _mm512_storeu_si512(p, v); }
  LAMINA_INLINE friend Vec operator+(Vec a, Vec b) { return {_mm512_add_epi32(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator^(Vec a, Vec b) { return {_mm512_xor_si512(a.v, b.v)}; }
  LAMINA_INLINE friend Vec operator>>(Vec a, int n) { return {_mm512_srli_epi32(a.v, unsigned(n))}; }
  // The 64-bit products a * b, as their low and high halves.
  LAMINA_INLINE friend void mul_wide(Vec a, Vec b, Vec* low, Vec* high) {
    const __m512i even = _mm512_mul_epu32(a.v, b.v);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
    low->v = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
    high->v = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
  }
  // Exact for values below 2^24.
  LAMINA_INLINE friend Vec<float> to_float(Vec a) { return {_mm512_cvtepi32_ps(a.v)}; }
};

}  // namespace lamina::LAMINA_ISA
