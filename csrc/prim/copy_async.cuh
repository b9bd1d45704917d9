// cp.async: copies from global to shared memory that go past the registers. sm_80 and later.
//
// A thread's copies since its last commit are a group; copy_wait<N>() waits for all but its N latest groups. Others
// see what was copied after a barrier that follows the wait.
#pragma once

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

// Copies the first `valid` of Bytes bytes and fills the rest with zeros. Both addresses are aligned to Bytes.
template <int Bytes>
LAMINA_PRIM void copy_async(void* shared, const void* global, int valid = Bytes) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
#if defined(LAMINA_SIM)
  simt::copy_async(shared, global, Bytes, valid);
#else
  if constexpr (Bytes == 16)  // .cg: past the first-level cache
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(Bytes), "r"(valid)
                 : "memory");
#endif
}

LAMINA_PRIM void copy_commit() {
#if defined(LAMINA_SIM)
  simt::copy_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int Pending>
LAMINA_PRIM void copy_wait() {
#if defined(LAMINA_SIM)
  simt::copy_wait(Pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
