// What a TMA tensor map says, and what makes one legal (CUDA driver API, cuTensorMapEncodeTiled and -Im2col).
#pragma once

#include "base/check.h"

namespace lamina {

enum class Swizzle : int { none, b32, b64, b128 };  // by how many bytes; numbered as in CUtensorMapSwizzle

// A tensor of up to five axes, the innermost first. A tiled map moves boxes of `box` elements, in steps of `steps`; an
// im2col map moves `pixels` pixels of `channels` channels, the former in order from the box of pixels that the
// corners span: from lower to dim + upper of each spatial axis. Axes of im2col: C, W, (H, (D,)) N.
struct TensorLayout {
  void* data = nullptr;
  Dtype dtype = Dtype::float32;
  int rank = 0;
  int64_t dims[5] = {}, strides[5] = {};  // elements, bytes; strides[0] is not used
  int box[5] = {}, steps[5] = {1, 1, 1, 1, 1};
  Swizzle swizzle = Swizzle::none;
  bool is_im2col = false;
  int lower[3] = {}, upper[3] = {};
  int channels = 0, pixels = 0;
};

// Throws ValueError, saying what TMA does not take.
inline void check_tensor_layout(const TensorLayout& t) {
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

}  // namespace lamina
