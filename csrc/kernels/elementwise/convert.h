// Strided runs to and from contiguous runs of a compute dtype, with conversion.
#pragma once

#include "base/dtype.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

// `stride` is in elements; 0 repeats the first one.
using Load = void (*)(const void* x, int64_t stride, void* y, int64_t n);
using Store = void (*)(const void* x, void* y, int64_t stride, int64_t n);

Load load_function(Dtype from, Dtype compute);
Store store_function(Dtype to, Dtype compute);

// Floating values go to integers towards zero, to the narrow ones by way of int64, so that they wrap as in C.
template <class T, class S>
LAMINA_INLINE T converted(S x) {
  if constexpr (sizeof(Compute<T>) != sizeof(T))
    return narrow<T>(float(x));
  else if constexpr (dtype_of<T> == Dtype::boolean)
    return x != S(0);
  else if constexpr (is_floating(dtype_of<S>) && !is_floating(dtype_of<T>))
    return T(int64_t(x));
  else
    return T(x);
}

}  // namespace lamina::LAMINA_ISA
