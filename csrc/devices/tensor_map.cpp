// Tensor maps: what TMA takes, checked, and encoded by the driver.
#include "prim/tensor_map.h"

#include "base/check.h"

#if !defined(LAMINA_SIM)
#include <cuda.h>

#include <bit>

#include "devices/check_cuda.h"
#endif

namespace lamina::LAMINA_DEVICE::prim {
namespace {

void check_tensor_layout(const TensorLayout& t) {
  constexpr std::string_view name = "tensor map";
  const int64_t element = size_of(t.dtype);
  check(t.rank >= (t.is_im2col ? 3 : 1) && t.rank <= 5, name, t.rank, " axes");
  check(reinterpret_cast<uintptr_t>(t.data) % 16 == 0, name, t.data, " is not 16-byte aligned");
  for (int d = 0; d < t.rank; ++d) {
    check(t.dims[d] >= 1 && t.dims[d] <= int64_t(1) << 32, name, "axis ", d, " has ", t.dims[d], " elements");
    check(t.steps[d] >= 1 && t.steps[d] <= 8, name, "axis ", d, " has steps of ", t.steps[d]);
    if (d)
      check(t.strides[d] >= 0 && t.strides[d] % 16 == 0 && t.strides[d] < int64_t(1) << 40, name, "axis ", d,
            " has a stride of ", t.strides[d], " bytes; expected a multiple of 16 below 2^40");
  }
  const int inner = t.is_im2col ? t.channels : t.box[0];
  if (t.is_im2col) {
    check(t.channels >= 1 && t.channels <= 256, name, t.channels, " channels; expected at most 256");
    check(t.pixels >= 1 && t.pixels <= 1024, name, t.pixels, " pixels; expected at most 1024");
    const int limit = t.rank == 3 ? 1 << 15 : t.rank == 4 ? 1 << 7 : 1 << 4;
    for (int d = 0; d < t.rank - 2; ++d)
      check(t.lower[d] >= -limit && t.lower[d] < limit && t.upper[d] >= -limit && t.upper[d] < limit, name,
            "corners ", t.lower[d], " and ", t.upper[d], "; expected ", -limit, " to ", limit - 1);
  } else {
    for (int d = 0; d < t.rank; ++d)
      check(t.box[d] >= 1 && t.box[d] <= 256, name, "a box of ", t.box[d], " elements; expected at most 256");
  }
  // Without interleaving the innermost axis has no steps. A swizzled row that is not full has no layout we rely on.
  check(t.steps[0] == 1, name, "steps along the innermost axis");
  check(inner * element % 16 == 0, name, "rows of ", inner * element, " bytes; expected a multiple of 16");
  check(t.swizzle == Swizzle::none || inner * element == 16 << int(t.swizzle), name, "rows of ",
        inner * element, " bytes; expected ", 16 << int(t.swizzle), ", which are swizzled");
}

}  // namespace

#if defined(LAMINA_SIM)

TensorMap encode(const TensorLayout& layout) {
  check_tensor_layout(layout);
  return {layout};
}

#else

namespace {

// A function of the driver, which is not linked: the library loads on machines without one.
template <class F>
F driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  check_cuda(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), name);
  check<StateError>(found == cudaDriverEntryPointSuccess && function, name, "the driver does not have it");
  return reinterpret_cast<F>(function);
}

CUtensorMapDataType tensor_dtype(Dtype t) {
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

}  // namespace

TensorMap encode(const TensorLayout& t) {
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
  CUtensorMap map;
  const auto swizzle = CUtensorMapSwizzle(int(t.swizzle));
  const CUresult status =
      t.is_im2col ? encode_im2col(&map, tensor_dtype(t.dtype), cuuint32_t(t.rank), t.data, dims, strides,
                                  t.lower, t.upper, cuuint32_t(t.channels), cuuint32_t(t.pixels), steps,
                                  CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                  : encode_tiled(&map, tensor_dtype(t.dtype), cuuint32_t(t.rank), t.data, dims, strides, box,
                                 steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  check<StateError>(status == CUDA_SUCCESS, "tensor map", "the driver refuses it with error ", int(status),
                    " (", t.rank, " axes of ", Tuple{t.dims, t.rank}, ", strides ", Tuple{t.strides, t.rank},
                    ")");
  return std::bit_cast<TensorMap>(map);
}

#endif

}  // namespace lamina::LAMINA_DEVICE::prim
