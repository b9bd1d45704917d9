#include "base/isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lamina {
namespace {

#if defined(__x86_64__)
// AMX needs all four: CPUID flags, a tile palette (some virtual machines advertise tiles without one), tile state
// enabled in XCR0 (bits 17 and 18), and the kernel's permission for this process (arch_prctl ARCH_REQ_XCOMP_PERM).
bool probe_amx() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  if (!(d & amx_bf16) || !(d & amx_tile)) return false;
  if (!__get_cpuid_count(0x1d, 0, &a, &b, &c, &d) || a < 1) return false;
  unsigned lo, hi;
  asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  constexpr unsigned tile_state = 3u << 17;
  if ((lo & tile_state) != tile_state) return false;
  constexpr int arch_req_xcomp_perm = 0x1023, xfeature_tile_data = 18;
  return syscall(SYS_arch_prctl, arch_req_xcomp_perm, xfeature_tile_data) == 0;
}
#endif

Isa choose() {
  const char* wanted = std::getenv("LAMINA_ISA");
  if (!wanted || !*wanted) {
    Isa best{};
    for (Isa level : isa_levels)
      if (is_supported(level)) best = level;
    return best;
  }
  std::string names;
  for (Isa level : isa_levels) {
    if (!is_built(level)) continue;
    if (std::string(wanted) == name_of(level)) {
      if (is_supported(level)) return level;
      throw std::runtime_error(std::string("LAMINA_ISA: this machine does not support '") + wanted + "'");
    }
    names += names.empty() ? name_of(level) : std::string(", ") + name_of(level);
  }
  throw std::runtime_error(std::string("LAMINA_ISA: unknown level '") + wanted + "'; expected one of " +
                           names);
}

}  // namespace

const char* name_of(Isa level) {
  constexpr const char* names[] = {"baseline", "neon", "avx2", "avx512", "amx"};
  return names[static_cast<int>(level)];
}

bool is_built(Isa level) {
  switch (level) {
#if defined(__aarch64__)
    case Isa::neon:
      return true;
#else
    case Isa::baseline:
      return true;
      LAMINA_IF_AVX2(case Isa::avx2 : return true;)
      LAMINA_IF_AVX512(case Isa::avx512 : case Isa::amx : return true;)
#endif
    default:
      return false;
  }
}

bool is_supported(Isa level) {
  if (!is_built(level)) return false;
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool amx = probe_amx();
  switch (level) {
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::amx:
      return avx512 && amx;
    default:
      return true;
  }
#else
  return true;
#endif
}

Isa isa() {
  static const Isa level = choose();
  return level;
}

bool has_amx() { return isa() == Isa::amx; }

}  // namespace lamina
