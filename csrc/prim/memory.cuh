// Order of memory between threads of different blocks: fences, and loads and stores that synchronise.
#pragma once

#include "prim/atomic.cuh"
#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

// What this thread wrote before is seen by all threads of the device before what it writes after.
LAMINA_PRIM void fence_device() {
#if defined(LAMINA_SIM)
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#else
  __threadfence();
#endif
}

// A flag in global memory: what happened before the store is seen by who loads its value.
LAMINA_PRIM uint32_t load_acquire(const uint32_t* p) {
#if defined(LAMINA_SIM)
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
#else
  uint32_t value;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
#endif
}
LAMINA_PRIM void store_release(uint32_t* p, uint32_t value) {
#if defined(LAMINA_SIM)
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
#else
  asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(value) : "memory");
#endif
}
LAMINA_PRIM uint32_t atomic_add_acquire_release(uint32_t* p, uint32_t value) {
#if defined(LAMINA_SIM)
  return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
#else
  uint32_t old;
  asm volatile("atom.add.acq_rel.gpu.u32 %0, [%1], %2;" : "=r"(old) : "l"(p), "r"(value) : "memory");
  return old;
#endif
}

// Waits for all threads of a cooperative grid. The counters are zero before the first use and are so again, but for the
// generation, after each: no launch need clear them.
struct GridBarrier {
  uint32_t arrived, generation;
};
LAMINA_PRIM void grid_sync(GridBarrier* barrier) {
  block_sync();
  if (thread() == 0) {
    const uint32_t blocks = gridDim.x * gridDim.y * gridDim.z;
    const uint32_t generation = load_acquire(&barrier->generation);
    if (atomic_add_acquire_release(&barrier->arrived, 1) == blocks - 1) {
      atomic_exchange(&barrier->arrived, 0u);
      store_release(&barrier->generation, generation + 1);
    } else {
      while (load_acquire(&barrier->generation) == generation) spin();
    }
  }
  block_sync();
}

}  // namespace lamina::LAMINA_DEVICE::prim
