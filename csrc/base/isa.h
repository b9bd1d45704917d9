// The instruction-set levels, which of them this binary has, and which one was chosen.
//
// Every CPU source in kernels/ is compiled once per level, inside `namespace lamina::<level>`, and exports one table
// of function pointers. AMX has no sources of its own: it is AVX-512 plus a run-time permission that the matrix
// kernels ask for (`has_amx()`), because no compiler emits tile instructions unasked.
#pragma once

#include "base/export.h"

namespace lamina {

enum class Isa : int { baseline, neon, avx2, avx512, amx };
inline constexpr Isa isa_levels[] = {Isa::baseline, Isa::neon, Isa::avx2, Isa::avx512,
                                     Isa::amx};  // best last

LAMINA_EXPORT const char* name_of(Isa);
LAMINA_EXPORT bool is_built(Isa);
LAMINA_EXPORT bool is_supported(Isa);  // built, and known to this machine and its kernel

// The level in use: the best supported one, or LAMINA_ISA (read once, at first use).
// Throws std::runtime_error if LAMINA_ISA names a level that this build or machine does not have.
LAMINA_EXPORT Isa isa();
LAMINA_EXPORT bool has_amx();

}  // namespace lamina

#if defined(LAMINA_BUILD_AVX512)
#define LAMINA_IF_AVX512(x) x
#else
#define LAMINA_IF_AVX512(x)
#endif
#if defined(LAMINA_BUILD_AVX2)
#define LAMINA_IF_AVX2(x) x
#else
#define LAMINA_IF_AVX2(x)
#endif
