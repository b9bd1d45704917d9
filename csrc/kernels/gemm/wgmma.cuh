// Products of matrices on Hopper: tiles come by TMA and are multiplied by wgmma, in warps that do nothing else. sm_90a.
//
//   warp group 0     one thread: for each slice of 64 of K waits until its stage is empty, and has the tiles of A and B copied
//   warp groups 1, 2 64 x N sums each: wait until the stage is full, multiply, and hand it back when their wgmmas have ended
//
//        full[s]   one arrival, which announces the bytes of the stage, and the bytes
//        empty[s]  one arrival of each consuming warp
//
// Tiles lie in shared memory as TMA swizzles rows of 128 bytes. K-major: a row per line, 64 of K long. MN-major: slabs
// of 64 lines, a row per element of K. wgmma reads both, so no operand is copied to be transposed. What lies outside of
// an operand arrives as zeros.
//
// 128 x 256 x 64 are 2048 cycles of the tensor cores per 48 KiB. Stages fill at most 192 KiB; the sums pass through the
// same memory afterwards. Consumers take the registers that the producer's warps do not need: 40 and 232 of them fit
// 384 threads. Planes and their second set of sums as in mma_loop.cuh; a slice is the 64 of K after which they are added.
#pragma once

#include "kernels/gemm/mma.cuh"
#include "prim/tensor_map.h"

namespace lamina::LAMINA_DEVICE {

template <class T, int Columns, int Planes, bool AIsKMajor, bool BIsKMajor>
struct WgmmaTile {
  using Element = T;
  static constexpr int M = 128, N = Columns, K = 64, planes = Planes;
  static constexpr bool a_is_k_major = AIsKMajor, b_is_k_major = BIsKMajor;
  static constexpr int a_bytes = M * K * 2, b_bytes = N * K * 2, stage_bytes = planes * (a_bytes + b_bytes);
  static constexpr int most_stages = 192 * 1024 / stage_bytes, stages = most_stages < 4 ? most_stages : 4;
  static constexpr int consumers = 2, consumer_threads = consumers * 128, threads = 128 + consumer_threads;
};

template <class Tile>
struct WgmmaShared {
  struct Stage {
    char a[Tile::planes][Tile::a_bytes], b[Tile::planes][Tile::b_bytes];
  };
  union {
    Stage stages[Tile::stages];  // multiples of 1024 bytes, over which the swizzle repeats
    Patch<float, 16, Tile::N> patches[Tile::consumer_threads / prim::warp_size];
  };
  prim::Mbarrier full[Tile::stages], empty[Tile::stages];
};

// An operand to TMA: axes (inner, outer, batch and planes), of which the inner one is contiguous: K if it is K-major,
// otherwise its lines. Product `index` and `plane` begin at index * index_step + plane * plane_step of the last axis.
struct OperandMap {
  prim::TensorMap map;
  int index_step, plane_step;
};
struct OperandMaps {
  OperandMap a, b;
};

// Has TMA bring Lines x 64 of K of every plane from (line, k) on.
template <int Lines, bool IsKMajor, int Planes, int Bytes>
LAMINA_PRIM void load_tiles(char (&tiles)[Planes][Bytes], const OperandMap& operand, int line, int k,
                            int index, prim::Mbarrier* full) {
#pragma unroll
  for (int plane = 0; plane < Planes; ++plane) {
    const int last = index * operand.index_step + plane * operand.plane_step;
    if constexpr (IsKMajor) {
      prim::tensor_load<3>(tiles[plane], operand.map, {k, line, last}, full);
    } else {
#pragma unroll
      for (int slab = 0; slab < Lines / 64; ++slab)
        prim::tensor_load<3>(tiles[plane] + slab * 64 * 128, operand.map, {line + slab * 64, k, last}, full);
    }
  }
}

// Of a tile from a multiple of 64 lines on, and from `k` on.
template <bool IsKMajor>
LAMINA_PRIM uint64_t descriptor_of(const char* tile, int k) {
  if constexpr (IsKMajor) return prim::advance(prim::wgmma_descriptor_k(tile, Swizzle::b128), k * 2);
  return prim::advance(prim::wgmma_descriptor_mn(tile, Swizzle::b128, 64), k * 128);
}

// Issues acc += A B over one slice: rows 64 * group and on.
template <class Tile>
LAMINA_PRIM void issue_slice(const typename WgmmaShared<Tile>::Stage& stage, int group,
                             float (&acc)[Tile::N / 2]) {
  using prim::Major;
  constexpr Major a_major = Tile::a_is_k_major ? Major::k : Major::mn,
                  b_major = Tile::b_is_k_major ? Major::k : Major::mn;
#pragma unroll
  for (int order = Tile::planes - 1; order >= 0; --order)
#pragma unroll
    for (int plane = 0; plane <= order; ++plane)
#pragma unroll
      for (int k = 0; k < Tile::K; k += 16)
        prim::wgmma<typename Tile::Element, Tile::N, a_major, b_major>(
            acc, descriptor_of<Tile::a_is_k_major>(stage.a[plane] + group * 64 * 128, k),
            descriptor_of<Tile::b_is_k_major>(stage.b[order - plane], k), true);
}

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, 1)
    gemm_wgmma_kernel(Product p, Cut cut, ExactOperands exact, const __grid_constant__ OperandMaps maps,
                      float* partial) {
  if constexpr (prim::has_wgmma) {
    auto& shared = prim::shared_memory<WgmmaShared<Tile>>();
    const BlockTile tile = tile_of(cut, p.K, blockIdx.x);
    const int slices = int((tile.k_end - tile.k_begin + Tile::K - 1) / Tile::K);
    if (prim::thread() == 0) {
      for (int stage = 0; stage < Tile::stages; ++stage) {
        prim::mbarrier_init(&shared.full[stage], 1);
        prim::mbarrier_init(&shared.empty[stage], Tile::consumer_threads / prim::warp_size);
      }
      prim::fence_mbarrier_init();
    }
    prim::block_sync();  // the barriers are there
    prim::PhaseRing<Tile::stages> ring;

    if (prim::warp() < 4) {
      prim::give_up_registers<40>();
      if (prim::thread() > 0) return;
      prim::prefetch(maps.a.map);
      prim::prefetch(maps.b.map);
      for (int slice = 0; slice < slices; ++slice, ring.advance()) {
        auto& stage = shared.stages[ring.stage];
        prim::Mbarrier* full = &shared.full[ring.stage];
        const int k = int(tile.k_begin) + slice * Tile::K;
        prim::mbarrier_wait(&shared.empty[ring.stage], ring.parity() ^ 1);
        prim::mbarrier_arrive_expect(full, Tile::stage_bytes);
        load_tiles<Tile::M, Tile::a_is_k_major>(stage.a, maps.a, int(tile.row), k, int(tile.index), full);
        load_tiles<Tile::N, Tile::b_is_k_major>(stage.b, maps.b, int(tile.column), k, int(tile.index), full);
      }
      return;
    }

    prim::take_registers<232>();
    const int group = prim::warp() / 4 - 1;
    float sums[1][Tile::N / 8][4] = {}, recent[Tile::N / 2] = {};
    float (&acc)[Tile::N / 2] = Tile::planes == 1 ? reinterpret_cast<float (&)[Tile::N / 2]>(sums) : recent;
    const auto hand_back = [&](int stage) {
      if (prim::lane() == 0) prim::mbarrier_arrive(&shared.empty[stage]);
    };
    for (int slice = 0; slice < slices; ++slice, ring.advance()) {
      prim::mbarrier_wait(&shared.full[ring.stage], ring.parity());
      prim::wgmma_fence(acc);
      issue_slice<Tile>(shared.stages[ring.stage], group, acc);
      prim::wgmma_commit();
      if constexpr (Tile::planes == 1) {
        prim::wgmma_wait<1>(acc);  // the slice before has ended
        if (slice > 0) hand_back((ring.stage + Tile::stages - 1) % Tile::stages);
      } else {
        prim::wgmma_wait<0>(acc);
        hand_back(ring.stage);
#pragma unroll
        for (int i = 0; i < Tile::N / 2; ++i) {
          sums[0][i / 4][i % 4] += acc[i];
          acc[i] = 0;
        }
      }
    }
    prim::wgmma_wait<0>(acc);
    prim::barrier_sync(1, Tile::consumer_threads);  // both groups have left the stages, where the patches lie

    const int warp = prim::warp() - 4;
    const auto finish_with = [&](const auto& epilogue) {
      finish_fragments<T>(shared.patches[warp], sums, tile.row + warp * 16, tile.column, epilogue);
    };
    const Epilogue<T> epilogue = epilogue_of<T>(p, cut, tile, partial);
    if constexpr (dtype_of<T> == Dtype::float32)
      finish_with(finite_or_exact(p, exact, tile, epilogue));
    else
      finish_with(epilogue);
  }
}

}  // namespace lamina::LAMINA_DEVICE
