// View: all that a kernel ever sees of an array.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "base/dtype.h"

namespace lamina {

inline constexpr int max_ndim = 8;

struct View {
  void* data = nullptr;  // null iff the operand is absent or has no elements
  Dtype dtype = Dtype::float32;
  int ndim = 0;
  int64_t shape[max_ndim] = {};
  int64_t strides[max_ndim] = {};  // in elements; 0 where broadcast; never negative in a kernel

  template <class T>
  [[gnu::always_inline]] LAMINA_HD T* as() const {
    return static_cast<T*>(data);
  }
  [[gnu::always_inline]] LAMINA_HD explicit operator bool() const { return data != nullptr; }

  [[gnu::always_inline]] LAMINA_HD int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= shape[i];
    return n;
  }
  // True iff elements lie in row-major order without gaps (axes of extent 1 do not count).
  [[gnu::always_inline]] LAMINA_HD bool is_contiguous() const {
    int64_t expected = 1;
    for (int i = ndim - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
  // True iff the view is (N, C, H, W) and lies in memory as N, H, W, C without gaps.
  [[gnu::always_inline]] LAMINA_HD bool is_channels_last() const {
    if (ndim != 4) return false;
    int64_t expected = 1;
    for (int i : {1, 3, 2, 0}) {
      if (shape[i] != 1 && strides[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
};

// The view of row-major memory: row_major(data, {M, N}) for float* data.
template <class T>
View row_major(T* data, std::initializer_list<int64_t> shape) {
  using Element = std::remove_const_t<T>;
  View v{.data = const_cast<Element*>(data), .dtype = dtype_of<Element>};
  for (int64_t extent : shape) v.shape[v.ndim++] = extent;
  int64_t stride = 1;
  for (int i = v.ndim - 1; i >= 0; stride *= v.shape[i--]) v.strides[i] = stride;
  return v;
}

// The view (N, C, H, W) of memory in the order N, H, W, C.
template <class T>
View channels_last(T* data, int64_t N, int64_t C, int64_t H, int64_t W) {
  View v = row_major(data, {N, C, H, W});
  const int64_t strides[] = {H * W * C, 1, W * C, C};
  for (int i = 0; i < 4; ++i) v.strides[i] = strides[i];
  return v;
}

}  // namespace lamina
