// CUDA's keywords and built-in variables for the host compiler.
//
// threadIdx and blockIdx belong to the thread that runs: the engine sets them at every switch. The compiler may not
// keep them in registers across an engine call, which could change them as far as it knows.
#pragma once

#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

namespace lamina::simt {

struct Index {
  uint32_t x = 0, y = 0, z = 0;
};

extern Index thread_index, block_index, block_extent, grid_extent;

}  // namespace lamina::simt

inline constexpr lamina::simt::Index &threadIdx = lamina::simt::thread_index,
                                     &blockIdx = lamina::simt::block_index,
                                     &blockDim = lamina::simt::block_extent,
                                     &gridDim = lamina::simt::grid_extent;
