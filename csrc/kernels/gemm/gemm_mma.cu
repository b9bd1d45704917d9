#include "kernels/gemm/matrix_launch.cuh"
#include "kernels/gemm/mma.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

template <class T, class Tile>
void launch_tile(const MatrixLaunch& l) {
  launch("gemm_mma", gemm_mma_kernel<T, Tile>,
         {.grid = {std::min(l.cut.blocks(), most_blocks)},
          .block = {Tile::threads},
          .shared = sizeof(MmaShared<Tile>)},
         l.p, l.cut, PlanesOf{l.exact, l.a_plane_stride, l.b_plane_stride}, l.partial);
}

template <class T>
void launch_short(const MatrixLaunch& l) {
  constexpr MmaShape large = {.m = mma_large, .n = mma_large, .warp_m = 64, .warp_n = 64};
  constexpr MmaShape small = {.m = mma_small, .n = mma_small, .warp_m = 32, .warp_n = 32};
  dispatch_majors(l, [&]<bool A, bool B>() {
    l.cut.m == mma_large ? launch_tile<T, MmaTile<T, large, A, B>>(l)
                         : launch_tile<T, MmaTile<T, small, A, B>>(l);
  });
}

// Two sets of sums leave registers for half as many per thread; three planes leave shared memory for two stages.
template <int Planes>
void launch_planes(const MatrixLaunch& l) {
  constexpr int stages = Planes == 3 ? 2 : 3;
  constexpr MmaShape large = {.m = mma_large,
                              .n = mma_large,
                              .warp_m = 64,
                              .warp_n = Planes == 1 ? 64 : 32,
                              .planes = Planes,
                              .stages = stages};
  constexpr MmaShape small = {
      .m = mma_small, .n = mma_small, .warp_m = 32, .warp_n = 32, .planes = Planes, .stages = stages};
  l.cut.m == mma_large ? launch_tile<float, MmaTile<bf16, large, true, true>>(l)
                       : launch_tile<float, MmaTile<bf16, small, true, true>>(l);
}

}  // namespace

void launch_mma(const MatrixLaunch& l) {
  if (l.dtype == Dtype::bfloat16) return launch_short<bf16>(l);
  if (l.dtype == Dtype::float16) return launch_short<f16>(l);
  l.planes == 3 ? launch_planes<3>(l) : l.planes == 2 ? launch_planes<2>(l) : launch_planes<1>(l);
}

}  // namespace lamina::LAMINA_DEVICE
