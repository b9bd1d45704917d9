// TMA: copies of whole tiles between global and shared memory, issued by one thread. sm_90 and later.
//
// Loads add to an mbarrier the bytes that land, all of the tile's even where it lies outside of the tensor and is filled
// with zeros. Stores and reductions belong to groups of the thread that issues them, and leave out what lies outside.
// They read shared memory through the asynchronous proxy: every thread that wrote it calls fence_async() first, then a
// barrier, then one thread issues. Coordinates are of the innermost axis first, in elements.
//
// Tiles are 128-byte aligned in shared memory, swizzled ones to 8 rows of the pattern: 1024, 512 or 256 bytes. The
// swizzle changes bits 4 to 6 of an address by bits 7 to 9: b128 all three, b64 two, b32 one.
#pragma once

#include "prim/mbarrier.cuh"
#include "prim/tensor_map.h"

namespace lamina::LAMINA_DEVICE::prim {

// Makes this thread's earlier writes to shared memory visible to the asynchronous proxy: TMA and wgmma.
LAMINA_PRIM void fence_async() {
#if defined(LAMINA_SIM)
  simt::fence_async();
#elif LAMINA_HAS_SM90
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

LAMINA_PRIM void prefetch(const TensorMap& map) {
#if LAMINA_HAS_SM90
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  (void)map;
#endif
}

template <int Rank>
LAMINA_PRIM void tensor_load(void* shared, const TensorMap& map, const int (&at)[Rank], Mbarrier* barrier) {
#if defined(LAMINA_SIM)
  simt::tensor_load(shared, map.layout, at, nullptr, barrier, 0);
#elif LAMINA_HAS_SM90
  const uint32_t to = shared_address(shared), signal = shared_address(barrier);
  if constexpr (Rank == 1)
    asm volatile(
        "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3}], "
        "[%2];" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0])
        : "memory");
  if constexpr (Rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4}], [%2];" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1])
        : "memory");
  if constexpr (Rank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5}], [%2];" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5, %6}], [%2];" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5, %6, %7}], [%2];" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
#endif
}

// Into every block of the cluster whose bit is set, at the same place, each signalled at the same barrier of its own.
// sm_90a: later consumer devices have clusters but no multicast.
template <int Rank>
LAMINA_PRIM void tensor_load_multicast(void* shared, const TensorMap& map, const int (&at)[Rank],
                                       Mbarrier* barrier, uint32_t blocks) {
#if defined(LAMINA_SIM)
  simt::tensor_load(shared, map.layout, at, nullptr, barrier, blocks);
#elif LAMINA_HAS_SM90A
  const uint32_t to = shared_address(shared), signal = shared_address(barrier);
  const uint16_t mask = uint16_t(blocks);
  if constexpr (Rank == 1)
    asm volatile(
        "cp.async.bulk.tensor.1d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%4}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0])
        : "memory");
  if constexpr (Rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%4, %5}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1])
        : "memory");
  if constexpr (Rank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%4, %5, %6}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%4, %5, %6, %7}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%4, %5, %6, %7, %8}], [%2], %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
#endif
}

// Of an im2col map: pixels from `at` = (C, W, (H, (D,)) N) on, each moved by `offsets` = (W, (H, (D))), the filter tap.
template <int Rank>
LAMINA_PRIM void tensor_load_im2col(void* shared, const TensorMap& map, const int (&at)[Rank],
                                    const int (&offsets)[Rank - 2], Mbarrier* barrier) {
#if defined(LAMINA_SIM)
  simt::tensor_load(shared, map.layout, at, offsets, barrier, 0);
#elif LAMINA_HAS_SM90
  const uint32_t to = shared_address(shared), signal = shared_address(barrier);
  if constexpr (Rank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5}], [%2], {%6};" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "h"(uint16_t(offsets[0]))
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5, %6}], [%2], {%7, %8};" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "h"(uint16_t(offsets[0])),
        "h"(uint16_t(offsets[1]))
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
        "%4, %5, %6, %7}], [%2], {%8, %9, %10};" ::"r"(to),
        "l"(&map), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]),
        "h"(uint16_t(offsets[0])), "h"(uint16_t(offsets[1])), "h"(uint16_t(offsets[2]))
        : "memory");
#endif
}

template <int Rank>
LAMINA_PRIM void tensor_load_im2col_multicast(void* shared, const TensorMap& map, const int (&at)[Rank],
                                              const int (&offsets)[Rank - 2], Mbarrier* barrier,
                                              uint32_t blocks) {
#if defined(LAMINA_SIM)
  simt::tensor_load(shared, map.layout, at, offsets, barrier, blocks);
#elif LAMINA_HAS_SM90A
  const uint32_t to = shared_address(shared), signal = shared_address(barrier);
  const uint16_t mask = uint16_t(blocks);
  if constexpr (Rank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::"
        "cluster [%0], [%1, {%4, %5, %6}], [%2], {%7}, %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2]), "h"(uint16_t(offsets[0]))
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::"
        "cluster [%0], [%1, {%4, %5, %6, %7}], [%2], {%8, %9}, %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]),
        "h"(uint16_t(offsets[0])), "h"(uint16_t(offsets[1]))
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes.multicast::"
        "cluster [%0], [%1, {%4, %5, %6, %7, %8}], [%2], {%9, %10, %11}, %3;" ::"r"(to),
        "l"(&map), "r"(signal), "h"(mask), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]),
        "h"(uint16_t(offsets[0])), "h"(uint16_t(offsets[1])), "h"(uint16_t(offsets[2]))
        : "memory");
#endif
}

template <int Rank>
LAMINA_PRIM void tensor_store(const TensorMap& map, const int (&at)[Rank], const void* shared) {
#if defined(LAMINA_SIM)
  simt::tensor_store(map.layout, at, shared, simt::Reduction::none);
#elif LAMINA_HAS_SM90
  const uint32_t from = shared_address(shared);
  if constexpr (Rank == 1)
    asm volatile("cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [%0, {%2}], [%1];" ::"l"(&map),
                 "r"(from), "r"(at[0])
                 : "memory");
  if constexpr (Rank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
        "r"(from), "r"(at[0]), "r"(at[1])
        : "memory");
  if constexpr (Rank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
            &map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
            &map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
#endif
}

// Adds the tile to what is there. Deterministic where each element is added to once in a launch.
template <int Rank>
LAMINA_PRIM void tensor_add(const TensorMap& map, const int (&at)[Rank], const void* shared) {
#if defined(LAMINA_SIM)
  simt::tensor_store(map.layout, at, shared, simt::Reduction::add);
#elif LAMINA_HAS_SM90
  const uint32_t from = shared_address(shared);
  if constexpr (Rank == 1)
    asm volatile(
        "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [%0, {%2}], [%1];" ::"l"(&map),
        "r"(from), "r"(at[0])
        : "memory");
  if constexpr (Rank == 2)
    asm volatile(
        "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(
            &map),
        "r"(from), "r"(at[0]), "r"(at[1])
        : "memory");
  if constexpr (Rank == 3)
    asm volatile(
        "cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];" ::
            "l"(&map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  if constexpr (Rank == 4)
    asm volatile(
        "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5}], "
        "[%1];" ::"l"(&map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  if constexpr (Rank == 5)
    asm volatile(
        "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5, %6}], "
        "[%1];" ::"l"(&map),
        "r"(from), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
#endif
}

// Bytes in a row: addresses and sizes are multiples of 16.
LAMINA_PRIM void bulk_load(void* shared, const void* global, int bytes, Mbarrier* barrier) {
#if defined(LAMINA_SIM)
  simt::bulk_load(shared, global, bytes, barrier);
#elif LAMINA_HAS_SM90
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
}
LAMINA_PRIM void bulk_store(void* global, const void* shared, int bytes) {
#if defined(LAMINA_SIM)
  simt::bulk_store(global, shared, bytes);
#elif LAMINA_HAS_SM90
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
#endif
}
// To the same place `to` in block `rank` of the cluster, signalled at the same barrier there.
LAMINA_PRIM void bulk_copy_remote(void* to, const void* shared, int bytes, Mbarrier* barrier, int rank) {
#if defined(LAMINA_SIM)
  simt::bulk_copy(simt::map_shared(to, rank), shared, bytes, simt::map_shared(barrier, rank));
#elif LAMINA_HAS_SM90
  asm volatile(
      "{\n.reg .b32 there, signal;\n"
      "mapa.shared::cluster.u32 there, %0, %4;\n"
      "mapa.shared::cluster.u32 signal, %3, %4;\n"
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [there], [%1], %2, "
      "[signal];\n}" ::"r"(shared_address(to)),
      "r"(shared_address(shared)), "r"(bytes), "r"(shared_address(barrier)), "r"(rank)
      : "memory");
#endif
}

// Groups of stores: bulk_wait<N>() waits for all but the thread's N latest groups; bulk_wait_read<N>() only until their
// shared memory may be written again.
LAMINA_PRIM void bulk_commit() {
#if defined(LAMINA_SIM)
  simt::bulk_commit();
#elif LAMINA_HAS_SM90
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}
template <int Pending>
LAMINA_PRIM void bulk_wait() {
#if defined(LAMINA_SIM)
  simt::bulk_wait(Pending, false);
#elif LAMINA_HAS_SM90
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}
template <int Pending>
LAMINA_PRIM void bulk_wait_read() {
#if defined(LAMINA_SIM)
  simt::bulk_wait(Pending, true);
#elif LAMINA_HAS_SM90
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
#endif
}

}  // namespace lamina::LAMINA_DEVICE::prim
