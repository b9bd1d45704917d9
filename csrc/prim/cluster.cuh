// Clusters: blocks that run together and reach each other's shared memory. sm_90 and later.
#pragma once

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE::prim {

LAMINA_PRIM int cluster_rank() {
#if defined(LAMINA_SIM)
  return simt::cluster_rank();
#elif LAMINA_HAS_SM90
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return int(rank);
#else
  return 0;
#endif
}

LAMINA_PRIM int cluster_size() {
#if defined(LAMINA_SIM)
  return simt::cluster_size();
#elif LAMINA_HAS_SM90
  uint32_t size;
  asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return int(size);
#else
  return 1;
#endif
}

// A barrier for all threads of the cluster, in two halves. A block may not end while others may still reach its shared
// memory.
LAMINA_PRIM void cluster_arrive() {
#if defined(LAMINA_SIM)
  simt::cluster_arrive();
#elif LAMINA_HAS_SM90
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
LAMINA_PRIM void cluster_wait() {
#if defined(LAMINA_SIM)
  simt::cluster_wait();
#elif LAMINA_HAS_SM90
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
LAMINA_PRIM void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// The same place in the shared memory of block `rank` of the cluster.
template <class T>
LAMINA_PRIM T* map_shared(T* p, int rank) {
#if defined(LAMINA_SIM)
  return static_cast<T*>(simt::map_shared(p, rank));
#elif LAMINA_HAS_SM90
  T* there;
  asm volatile("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(p), "r"(rank));
  return there;
#else
  return p;
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
