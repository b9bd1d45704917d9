// Tensor maps: what TMA instructions take as the description of an array. Made on the host.
//
//   const prim::TensorMap map = prim::encode({.data = x, .dtype = …, .rank = 2, .dims = {K, M}, .strides = {0, ld}, …});
//
// A kernel takes it as `const __grid_constant__ prim::TensorMap map` or inside of such an argument struct.
#pragma once

#include "base/tensor_layout.h"

namespace lamina::LAMINA_DEVICE::prim {

#if defined(LAMINA_SIM)

struct TensorMap {
  TensorLayout layout;
};

#else

struct alignas(64) TensorMap {
  uint64_t words[16];  // a CUtensorMap
};

#endif

// Throws ValueError, saying what TMA does not take. (devices/tensor_map.cpp)
TensorMap encode(const TensorLayout&);

}  // namespace lamina::LAMINA_DEVICE::prim
