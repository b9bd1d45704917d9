// Tensor maps: what TMA instructions take as the description of an array. Made on the host.
//
//   const prim::TensorMap map = prim::encode({.data = x, .dtype = …, .rank = 2, .dims = {K, M}, .strides = {0, ld}, …});
//
// A kernel takes it as `const __grid_constant__ prim::TensorMap map` or inside of such an argument struct.
#pragma once

#include "base/launch.h"
#include "base/tensor_layout.h"

#if !defined(LAMINA_SIM)
#include <cuda.h>
#endif

namespace lamina::LAMINA_DEVICE::prim {

#if defined(LAMINA_SIM)

struct TensorMap {
  TensorLayout layout;
};

inline TensorMap encode(const TensorLayout& layout) {
  check_tensor_layout(layout);
  return {layout};
}

#else

struct TensorMap {
  CUtensorMap map;  // 64-byte aligned
};

// A function of the driver, which is not linked: the library loads on machines without one.
template <class F>
F driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), name);
  check<StateError>(found == cudaDriverEntryPointSuccess && function, name, "the driver does not have it");
  return reinterpret_cast<F>(function);
}

inline CUtensorMapDataType tensor_dtype(Dtype t) {
  switch (t) {
    case Dtype::bfloat16:
      return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    case Dtype::float16:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case Dtype::float32:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case Dtype::float64:
      return CU_TENSOR_MAP_DATA_TYPE_FLOAT64;
    case Dtype::int32:
      return CU_TENSOR_MAP_DATA_TYPE_INT32;
    case Dtype::int64:
      return CU_TENSOR_MAP_DATA_TYPE_INT64;
    default:
      return CU_TENSOR_MAP_DATA_TYPE_UINT8;
  }
}

inline TensorMap encode(const TensorLayout& t) {
  using EncodeTiled =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                   const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                   CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  using EncodeIm2col =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                   const int*, const int*, cuuint32_t, cuuint32_t, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const auto encode_tiled = driver_function<EncodeTiled>("cuTensorMapEncodeTiled");
  static const auto encode_im2col = driver_function<EncodeIm2col>("cuTensorMapEncodeIm2col");
  check_tensor_layout(t);
  cuuint64_t dims[5], strides[4];
  cuuint32_t box[5], steps[5];
  for (int d = 0; d < t.rank; ++d) {
    dims[d] = cuuint64_t(t.dims[d]);
    box[d] = cuuint32_t(t.box[d]);
    steps[d] = cuuint32_t(t.steps[d]);
    if (d) strides[d - 1] = cuuint64_t(t.strides[d]);
  }
  TensorMap out;
  const auto swizzle = CUtensorMapSwizzle(int(t.swizzle));
  const CUresult status =
      t.is_im2col ? encode_im2col(&out.map, tensor_dtype(t.dtype), cuuint32_t(t.rank), t.data, dims, strides,
                                  t.lower, t.upper, cuuint32_t(t.channels), cuuint32_t(t.pixels), steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                  : encode_tiled(&out.map, tensor_dtype(t.dtype), cuuint32_t(t.rank), t.data, dims, strides,
                                 box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check<StateError>(status == CUDA_SUCCESS, "tensor map", "the driver refuses it with error ", int(status),
                    " (", t.rank, " axes of ", Tuple{t.dims, t.rank}, ", strides ", Tuple{t.strides, t.rank},
                    ")");
  return out;
}

#endif

}  // namespace lamina::LAMINA_DEVICE::prim
