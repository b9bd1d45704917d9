// What gemm.cu hands to the launches of the matrix units' kernels, which are compiled on their own.
#pragma once

#include "kernels/gemm/product.cuh"

namespace lamina::LAMINA_DEVICE {

// Operands as they were given, where those of the product are planes.
struct ExactOperands {
  Operand a{}, b{};
};

struct MatrixLaunch {
  Product p;  // a and b: of elements of `dtype`, or of `planes` planes of bf16 where that is float32
  Cut cut;
  ExactOperands exact;
  int planes = 1;
  int64_t a_plane_stride = 0, b_plane_stride = 0;
  bool a_is_k_major = true, b_is_k_major = true;  // what is planes is K-major
  Dtype dtype;                                    // of y
  float* partial = nullptr;                       // sums of ranges of K, if it is cut
};

// Blocks take the tiles of larger products in turns.
inline constexpr int64_t most_blocks = 1 << 24;

// Tiles that there are, of M x N x K.
inline constexpr int mma_large = 128, mma_small = 64, mma_k = 32;
inline constexpr int wgmma_m = 128, wgmma_wide = 256, wgmma_narrow = 128, wgmma_k = 64;

void launch_mma(const MatrixLaunch&);    // gemm_mma.cu
void launch_wgmma(const MatrixLaunch&);  // gemm_wgmma.cu

// Calls run.operator()<AIsKMajor, BIsKMajor>().
template <class F>
void dispatch_majors(const MatrixLaunch& l, F&& run) {
  if (l.a_is_k_major)
    l.b_is_k_major ? run.template operator()<true, true>() : run.template operator()<true, false>();
  else
    l.b_is_k_major ? run.template operator()<false, true>() : run.template operator()<false, false>();
}

}  // namespace lamina::LAMINA_DEVICE
