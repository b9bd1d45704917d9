// Who a thread is, what it shares with its block, and where it waits for others.
#pragma once

#include <cstdint>

#if defined(LAMINA_SIM)
#include "simt/builtin.h"
#include "simt/engine.h"
#endif

#define LAMINA_PRIM __device__ __forceinline__

namespace lamina::LAMINA_DEVICE::prim {

inline constexpr int warp_size = 32;
inline constexpr uint32_t all_lanes = 0xffffffffu;

// Index in the block and in the warp; of the warp in the block; warps in the block.
LAMINA_PRIM int thread() { return int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)); }
LAMINA_PRIM int lane() { return thread() % warp_size; }
LAMINA_PRIM int warp() { return thread() / warp_size; }
LAMINA_PRIM int threads() { return int(blockDim.x * blockDim.y * blockDim.z); }
LAMINA_PRIM int warps() { return (threads() + warp_size - 1) / warp_size; }

// The block's shared memory, 1024-byte aligned: one struct per kernel, whose size the launch passes.
template <class T>
LAMINA_PRIM T& shared_memory() {
#if defined(LAMINA_SIM)
  return *static_cast<T*>(simt::shared_memory());
#else
  extern __shared__ __align__(1024) unsigned char lamina_shared_memory[];
  return *reinterpret_cast<T*>(lamina_shared_memory);
#endif
}

// Waits for all threads of the block; memory that they wrote is then seen by all.
LAMINA_PRIM void block_sync() {
#if defined(LAMINA_SIM)
  simt::block_sync();
#else
  __syncthreads();
#endif
}

// The same for the lanes of a warp.
LAMINA_PRIM void warp_sync(uint32_t mask = all_lanes) {
#if defined(LAMINA_SIM)
  simt::warp_collective("warp_sync", mask, nullptr, [](void* const*, uint32_t) {});
#else
  __syncwarp(mask);
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
