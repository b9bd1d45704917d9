// Quotients by a number that is fixed for a launch, without a division:
//
//   n / d = (n * m) >> (31 + l),   l = ceil(log2 d),   m = ceil(2^(31 + l) / d) < 2^32,   exact for 0 <= n < 2^31
//
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994, theorem 4.2). A
// division costs a GPU 20 instructions, in 64 bits some 70. Larger n are divided.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace lamina::LAMINA_DEVICE::prim {

struct Divider {
  int64_t divisor = 1;
  uint32_t multiplier = 1u << 31;  // 0 where no n < 2^31 reaches the divisor
  int shift = 31;

  Divider() = default;
  explicit Divider(int64_t d) : divisor(d) {
    while (shift < 62 && int64_t(1) << (shift - 31) < d) ++shift;
    multiplier = d >> 31 ? 0 : uint32_t(((uint64_t(1) << shift) + uint64_t(d) - 1) / uint64_t(d));
  }

  LAMINA_HD int64_t quotient(int64_t n) const {
    if (n >> 31) return n / divisor;
    return int64_t(uint64_t(n) * multiplier >> shift);
  }
};

}  // namespace lamina::LAMINA_DEVICE::prim
