// Who a thread is, what it shares with its block, and where it waits for others.
#pragma once

#include <cstdint>

#if defined(LAMINA_SIM)
#include "simt/builtin.h"
#include "simt/engine.h"
#endif

#define LAMINA_PRIM __device__ __forceinline__

// What the architecture that is being compiled for has. Bodies of later instructions are empty on earlier ones; a
// kernel that needs them is launched only where device_properties() says so.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define LAMINA_HAS_SM90 1
#else
#define LAMINA_HAS_SM90 0
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LAMINA_HAS_SM90A 1
#else
#define LAMINA_HAS_SM90A 0
#endif

namespace lamina::LAMINA_DEVICE::prim {

inline constexpr int warp_size = 32;
inline constexpr uint32_t all_lanes = 0xffffffffu;

#if defined(LAMINA_SIM)
inline constexpr bool has_tma = true, has_wgmma = true;
#else
inline constexpr bool has_tma = LAMINA_HAS_SM90, has_wgmma = LAMINA_HAS_SM90A;

// For instructions: addresses of shared memory are 32 bits.
LAMINA_PRIM uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
#endif

// Index in the block and in the warp; of the warp in the block; warps in the block.
LAMINA_PRIM int thread() { return int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)); }
LAMINA_PRIM int lane() { return thread() % warp_size; }
LAMINA_PRIM int warp() { return thread() / warp_size; }
LAMINA_PRIM int threads() { return int(blockDim.x * blockDim.y * blockDim.z); }
LAMINA_PRIM int warps() { return (threads() + warp_size - 1) / warp_size; }

// x, of which the compiler then knows nothing: what is computed from it stays where it is written, and does not wait in
// registers outside of a loop.
template <class T>
LAMINA_PRIM T opaque(T x) {
#if !defined(LAMINA_SIM)
  if constexpr (sizeof(T) == 8)
    asm volatile("" : "+l"(x));
  else
    asm volatile("" : "+r"(x));
#endif
  return x;
}

// Number of the block in a grid with x and y.
LAMINA_PRIM int64_t block() { return int64_t(blockIdx.y) * gridDim.x + blockIdx.x; }

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
  simt::warp_sync(mask);
#else
  __syncwarp(mask);
#endif
}

// Barriers 1 to 15 of a block, for `threads` threads in whole warps: sync waits for the others, arrive does not.
LAMINA_PRIM void barrier_sync(int id, int threads) {
#if defined(LAMINA_SIM)
  simt::barrier_sync(id, threads);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}
LAMINA_PRIM void barrier_arrive(int id, int threads) {
#if defined(LAMINA_SIM)
  simt::barrier_arrive(id, threads);
#else
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// In the loop of a thread that waits for memory to change.
LAMINA_PRIM void spin() {
#if defined(LAMINA_SIM)
  simt::yield();
#else
  __nanosleep(20);
#endif
}

// True in one lane of the warp, all of which take part.
LAMINA_PRIM bool elect_one() {
#if defined(LAMINA_SIM)
  simt::warp_converge("elect_one");
  return lane() == 0;
#elif LAMINA_HAS_SM90
  uint32_t is_elected;
  asm volatile(
      "{\n.reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.b32 %0, 1, 0, p;\n}"
      : "=r"(is_elected));
  return is_elected;
#else
  return lane() == 0;
#endif
}

// Registers per thread of the warps that call it, a whole warp group: what producers give up, consumers may take. The
// kernel says __launch_bounds__(threads, 1), from which the compiler knows how many it begins with.
template <int N>
LAMINA_PRIM void take_registers() {
#if defined(LAMINA_SIM)
  simt::set_registers(N);
#elif LAMINA_HAS_SM90A
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}
template <int N>
LAMINA_PRIM void give_up_registers() {
#if defined(LAMINA_SIM)
  simt::set_registers(N);
#elif LAMINA_HAS_SM90A
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

// Of a launch that is_dependent. Nothing that the launch before wrote may be read, and nothing that it reads written,
// before dependency_wait(). After every block has called dependency_launch() the next launch may start.
LAMINA_PRIM void dependency_wait() {
#if defined(LAMINA_SIM)
  simt::dependency_wait();
#elif LAMINA_HAS_SM90
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
LAMINA_PRIM void dependency_launch() {
#if LAMINA_HAS_SM90
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
