#include "kernels/gemm/matrix_launch.cuh"
#include "kernels/gemm/wgmma.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// An operand in aligned chunks as a tensor of (inner, outer, batch and planes).
OperandMap map_of(const MatrixLaunch& l, Dtype dtype, const Operand& o, int64_t lines, int64_t line_stride,
                  int64_t k_stride, bool is_k_major, int tile_lines, int64_t plane_stride) {
  const int64_t inner = is_k_major ? l.p.K : lines, outer = is_k_major ? lines : l.p.K;
  const int64_t pitch = outer == 1 ? ceil_div(inner, 8) * 8 : is_k_major ? line_stride : k_stride;
  const bool is_broadcast = l.p.batch.axes == 0 || o.batch_strides[0] == 0;
  const int64_t matrices = is_broadcast ? 1 : l.p.batch.count;
  const int64_t matrix_stride = !is_broadcast  ? o.batch_strides[0]
                                : l.planes > 1 ? plane_stride
                                               : pitch * outer;
  return {.map = prim::encode({.data = o.data,
                               .dtype = dtype,
                               .rank = 3,
                               .dims = {inner, outer, matrices * l.planes},
                               .strides = {0, pitch * 2, matrix_stride * 2},
                               .box = {64, is_k_major ? tile_lines : 64, 1},
                               .swizzle = Swizzle::b128}),
          .index_step = is_broadcast ? 0 : 1,
          .plane_step = int(matrices)};
}

// T: of y.
template <class T, class Tile>
void launch_tile(const MatrixLaunch& l) {
  const Product& p = l.p;
  constexpr Dtype dtype = dtype_of<typename Tile::Element>;
  const OperandMaps maps = {map_of(l, dtype, p.a, p.M, p.a.row_stride, p.a.column_stride, Tile::a_is_k_major,
                                   Tile::M, l.a_plane_stride),
                            map_of(l, dtype, p.b, p.N, p.b.column_stride, p.b.row_stride, Tile::b_is_k_major,
                                   Tile::N, l.b_plane_stride)};
  launch("gemm_wgmma", gemm_wgmma_kernel<T, Tile>,
         {.grid = {l.cut.blocks()}, .block = {Tile::threads}, .shared = sizeof(WgmmaShared<Tile>)}, p, l.cut,
         l.exact, maps, l.partial);
}

template <class T>
void launch_short(const MatrixLaunch& l) {
  dispatch_majors(l, [&]<bool A, bool B>() {
    l.cut.n == wgmma_wide ? launch_tile<T, WgmmaTile<T, wgmma_wide, 1, A, B>>(l)
                          : launch_tile<T, WgmmaTile<T, wgmma_narrow, 1, A, B>>(l);
  });
}

template <int Planes>
void launch_planes(const MatrixLaunch& l) {
  launch_tile<float, WgmmaTile<bf16, wgmma_narrow, Planes, true, true>>(l);
}

}  // namespace

void launch_wgmma(const MatrixLaunch& l) {
  if (l.dtype == Dtype::bfloat16) return launch_short<bf16>(l);
  if (l.dtype == Dtype::float16) return launch_short<f16>(l);
  l.planes == 3 ? launch_planes<3>(l) : l.planes == 2 ? launch_planes<2>(l) : launch_planes<1>(l);
}

}  // namespace lamina::LAMINA_DEVICE
