// What a TMA tensor map says, and what makes one legal (CUDA driver API, cuTensorMapEncodeTiled and -Im2col).
#pragma once

#include "base/dtype.h"

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

}  // namespace lamina
