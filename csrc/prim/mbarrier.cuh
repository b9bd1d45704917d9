// mbarriers: barriers in shared memory that count arrivals and the bytes of asynchronous copies. sm_90 and later.
//
// A phase ends when `count` arrivals and all expected bytes have come in; then the next one begins. Phases have
// parity 0, 1, 0, …; wait(parity) returns when the current phase has the other one. So a wait for parity 1 of a new
// barrier returns at once.
#pragma once

#include "prim/cluster.cuh"

namespace lamina::LAMINA_DEVICE::prim {

using Mbarrier = uint64_t;

LAMINA_PRIM void mbarrier_init(Mbarrier* barrier, int count) {
#if defined(LAMINA_SIM)
  simt::mbarrier_init(barrier, count);
#elif LAMINA_HAS_SM90
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
#endif
}

// By the thread that made barriers, before others are told of them: for the asynchronous proxy and the cluster.
LAMINA_PRIM void fence_mbarrier_init() {
#if LAMINA_HAS_SM90
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Before the memory of a barrier is used for something else.
LAMINA_PRIM void mbarrier_invalidate(Mbarrier* barrier) {
#if defined(LAMINA_SIM)
  simt::mbarrier_invalidate(barrier);
#elif LAMINA_HAS_SM90
  asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

LAMINA_PRIM void mbarrier_arrive(Mbarrier* barrier) {
#if defined(LAMINA_SIM)
  simt::mbarrier_arrive(barrier, 1);
#elif LAMINA_HAS_SM90
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// At the same barrier of another block of the cluster.
LAMINA_PRIM void mbarrier_arrive_remote(Mbarrier* barrier, int rank) {
#if defined(LAMINA_SIM)
  simt::mbarrier_arrive(simt::map_shared(barrier, rank), 1);
#elif LAMINA_HAS_SM90
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
#endif
}

// The current phase also waits for `bytes` bytes.
LAMINA_PRIM void mbarrier_expect(Mbarrier* barrier, int bytes) {
#if defined(LAMINA_SIM)
  simt::mbarrier_expect(barrier, bytes);
#elif LAMINA_HAS_SM90
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
#endif
}

LAMINA_PRIM void mbarrier_arrive_expect(Mbarrier* barrier, int bytes) {
#if defined(LAMINA_SIM)
  simt::mbarrier_expect(barrier, bytes);
  simt::mbarrier_arrive(barrier, 1);
#elif LAMINA_HAS_SM90
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
#endif
}

// Whether the phase of this parity has ended; may take a moment to see.
LAMINA_PRIM bool mbarrier_test(Mbarrier* barrier, uint32_t parity) {
#if defined(LAMINA_SIM)
  return simt::mbarrier_test(barrier, int(parity));
#elif LAMINA_HAS_SM90
  uint32_t has_ended;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n}"
      : "=r"(has_ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return has_ended;
#else
  return true;
#endif
}

LAMINA_PRIM void mbarrier_wait(Mbarrier* barrier, uint32_t parity) {
#if defined(LAMINA_SIM)
  simt::mbarrier_wait(barrier, int(parity));
#else
  while (!mbarrier_test(barrier, parity)) {
  }
#endif
}

// The same where threads of other blocks arrive, having written to this one's shared memory.
LAMINA_PRIM void mbarrier_wait_cluster(Mbarrier* barrier, uint32_t parity) {
#if defined(LAMINA_SIM)
  simt::mbarrier_wait(barrier, int(parity));
#elif LAMINA_HAS_SM90
  uint32_t has_ended;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n}"
        : "=r"(has_ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!has_ended);
#endif
}

// Where a thread is in a ring of Stages buffers. The consumer of a stage waits for its `full` barrier with parity(), the
// producer for its `empty` one with parity() ^ 1, which holds at once in the first round.
template <int Stages>
struct PhaseRing {
  int stage = 0;
  uint32_t phase = 0;

  LAMINA_PRIM uint32_t parity() const { return phase; }
  LAMINA_PRIM void advance() {
    if (++stage == Stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace lamina::LAMINA_DEVICE::prim
