// Units: what moves without being computed on. Elements of 1, 2, 4 or 8 bytes, or 16 bytes of them.
#pragma once

#include "base/dtype.h"
#include "prim/vector.cuh"

namespace lamina::LAMINA_DEVICE {

inline constexpr int64_t widest_unit = 16;  // bytes

// Calls f(Type of a unit of so many bytes).
template <class F>
void dispatch_unit(int64_t bytes, F f) {
  if (bytes == widest_unit) return f(Type<prim::Pack<uint64_t, 2>>{});
  dispatch_size(bytes, f);
}

}  // namespace lamina::LAMINA_DEVICE
