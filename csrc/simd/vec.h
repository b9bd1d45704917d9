// Vec<S>: one SIMD register of float, double or uint32, the same interface at every instruction-set level.
//
// Included by CPU kernel sources only: each is compiled once per level with LAMINA_ISA set to the level's name, and
// everything here lives in `namespace lamina::LAMINA_ISA`, so levels never share a symbol (a linker that merged an
// AVX-512 inline function into the baseline would crash old machines). Law of the folder: includes base/ only.
//
// The interface, for V = Vec<S>, Mask = V::Mask, n = a count of lanes (0 <= n <= V::N):
//   V::load(p), V::load(p, n)        n first lanes, the others 0; p may be S* or uint8_t*, for float also bf16*, f16*
//   v.store(p), v.store(p, n)        rounds to nearest even when p is bf16* or f16*
//   V::set1(s), V::zero(), V::iota() every lane s; 0; lane numbers 0, 1, 2 ...
//   + - * / and unary -; fma(a, b, c) = a * b + c, rounded once; fnma(a, b, c) = c - a * b
//   min, max                         NaN if either is NaN
//   max_fast, min_fast               one instruction; the second operand where either is NaN
//   abs, sqrt, floor, ceil, trunc, round (to nearest even)
//   lt le gt ge eq ne (ordered; ne true for NaN), is_nan(v) -> Mask; m & m, m | m, ~m; any(m), all(m), bits(m)
//   V::first(n) -> Mask              true in the n first lanes
//   select(m, a, b)                  a where m, else b
//   and_bits, or_bits, xor_bits      bitwise on the representation
//   pow2(v)                          2^v for integral v in [min_exponent - 1, max_exponent + 1]; 0 or inf beyond normal range
//   ldexp(v, n)                      v * 2^n for integral n in 2 * [min_exponent, max_exponent], subnormal results included
//   frexp(v, &e)                     v = m * 2^e with m in [0.5, 1), for normal positive v
//   reduce_add, reduce_max, reduce_min -> S   in a fixed order; max and min propagate NaN
#pragma once

#include <cstdint>
#include <cstring>

#include "base/dtype.h"

#define LAMINA_INLINE [[gnu::always_inline]] inline

#if defined(__AVX512F__)
#include "simd/vec_avx512.h"
#elif defined(__AVX2__)
#include "simd/vec_avx2.h"
#else
#include "simd/vec_generic.h"
#endif

namespace lamina::LAMINA_ISA {

// The vector in which elements of T are computed.
template <class T>
using VecOf = Vec<Compute<T>>;

}  // namespace lamina::LAMINA_ISA
