// Arithmetic of extents, for the CPU at every instruction-set level and for devices.
#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace lamina {

[[gnu::always_inline]] LAMINA_HD constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
[[gnu::always_inline]] LAMINA_HD constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
[[gnu::always_inline]] LAMINA_HD constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
[[gnu::always_inline]] LAMINA_HD constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}
// The length of as few parts of n as are no longer than `most`, all alike: 16 by at most 12 are two of 8.
[[gnu::always_inline]] LAMINA_HD constexpr int64_t equal_part(int64_t n, int64_t most) {
  return n <= most ? n : ceil_div(n, ceil_div(n, most));
}

}  // namespace lamina
