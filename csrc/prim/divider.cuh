// Quotients by a number that is fixed for a launch, without a division, which costs a GPU some 70 instructions:
//
//   n / d = floor(n m / 2^(63 + l)),   l = ceil(log2 d),   m = ceil(2^(63 + l) / d) < 2^64,   for 0 <= n < 2^63
//
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994, theorem 4.2.)
#pragma once

#include <cstdint>

#include "prim/math.cuh"

namespace lamina::LAMINA_DEVICE::prim {

struct Divider {
  int64_t divisor = 1;
  uint64_t multiplier = 0;
  int shift = -1;  // l - 1: the upper half of the product is taken first

  Divider() = default;
  explicit Divider(int64_t d) : divisor(d) {  // 1 to 2^62
    while (int64_t(1) << (shift + 1) < d) ++shift;
    if (d > 1)
      multiplier =
          uint64_t(((static_cast<unsigned __int128>(1) << (64 + shift)) + uint64_t(d) - 1) / uint64_t(d));
  }

  LAMINA_PRIM int64_t quotient(int64_t n) const {
    return divisor == 1 ? n : int64_t(multiply_high(uint64_t(n), multiplier) >> shift);
  }
};

}  // namespace lamina::LAMINA_DEVICE::prim
