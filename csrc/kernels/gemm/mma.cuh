// Products of matrices by mma.sync (mma_loop.cuh): bf16 and f16, and float32 as planes of bf16 (planes.cuh).
//
// One block per tile and range of K. 128 x 128 with four warps of 64 x 64: a slice of 32 brings 16 KiB for 524288
// multiply-adds, so that the L2 cache has to deliver 32 bytes per 1024 of them. Tiles of 64 x 64 serve products that
// would leave multiprocessors idle.
#pragma once

#include "kernels/gemm/matrix_launch.cuh"
#include "kernels/gemm/mma_loop.cuh"

namespace lamina::LAMINA_DEVICE {

struct PlanesOf {
  ExactOperands exact;
  int64_t a_plane_stride, b_plane_stride;
};

// Before the epilogue of float32 operands that were cut into planes: a sum that is not finite is computed again from the
// operands themselves. Planes of infinities have products that plain multiplication has not, as inf * 0, and those of
// numbers next to the largest overflow.
template <class E>
struct FiniteOrExact {
  E epilogue;
  Matrix<const float> a, b;
  int64_t k_begin, k_end;

  template <int Run>
  LAMINA_PRIM void operator()(int64_t i, int64_t j, prim::Pack<float, Run> v) const {
#pragma unroll
    for (int n = 0; n < Run; ++n) {
      if (prim::abs(v[n]) <= FLT_MAX || i >= epilogue.M || j + n >= epilogue.N) continue;
      v[n] = 0;
#pragma unroll 1
      for (int64_t k = k_begin; k < k_end; ++k) v[n] = prim::fma(*a.at(i, k), *b.at(k, j + n), v[n]);
    }
    epilogue(i, j, v);
  }
};

LAMINA_PRIM FiniteOrExact<Epilogue<float>> finite_or_exact(const Product& p, const ExactOperands& exact,
                                                           const BlockTile& tile,
                                                           const Epilogue<float>& epilogue) {
  return {epilogue, matrix_of<const float>(p.batch, exact.a, tile.index),
          matrix_of<const float>(p.batch, exact.b, tile.index), tile.k_begin, tile.k_end};
}

// T: of y. p.a and p.b have elements of Tile::Element.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    gemm_mma_kernel(Product p, Cut cut, PlanesOf planes, float* partial) {
  using Element = typename Tile::Element;
  auto& shared = prim::shared_memory<MmaShared<Tile>>();
  for (int64_t block = blockIdx.x; block < cut.blocks(); block += gridDim.x) {
    const BlockTile tile = tile_of(cut, p.K, block);
    const int64_t k = tile.k_end - tile.k_begin;
    const auto am = matrix_of<const Element>(p.batch, p.a, tile.index),
               bm = matrix_of<const Element>(p.batch, p.b, tile.index);
    MatrixLoader<Element, typename Tile::A, Tile::planes, Tile::threads> a(
        am.at(tile.row, tile.k_begin), am.row_stride, am.column_stride, planes.a_plane_stride, p.M - tile.row,
        k);
    MatrixLoader<Element, typename Tile::B, Tile::planes, Tile::threads> b(
        bm.at(tile.k_begin, tile.column), bm.column_stride, bm.row_stride, planes.b_plane_stride,
        p.N - tile.column, k);
    float sums[Tile::fragments_m][Tile::fragments_n][4] = {};
    multiply<Tile>(shared, (k + Tile::K - 1) / Tile::K, a, b, sums);

    const Epilogue<T> epilogue = epilogue_of<T>(p, cut, tile, partial);
    if constexpr (dtype_of<T> == Dtype::float32)
      finish_fragments<T, Tile>(shared, sums, tile.row, tile.column,
                                finite_or_exact(p, planes.exact, tile, epilogue));
    else
      finish_fragments<T, Tile>(shared, sums, tile.row, tile.column, epilogue);
  }
}

}  // namespace lamina::LAMINA_DEVICE
