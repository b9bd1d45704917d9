#include "kernels/elementwise/convert.h"

namespace lamina::LAMINA_ISA {
namespace {

// True for pairs that vectors load and store: float32, bfloat16 and float16 as float32.
template <class T, class S>
inline constexpr bool has_vector =
    sizeof(S) == 4 && is_floating(dtype_of<S>) && is_floating(dtype_of<T>) && dtype_of<T> != Dtype::float64;

template <class T, class S>
void load_run(const void* x, int64_t stride, void* y, int64_t n) {
  const T* from = static_cast<const T*>(x);
  S* to = static_cast<S*>(y);
  int64_t i = 0;
  if (stride == 0) {
    const S value = S(widen(*from));
    for (; i < n; ++i) to[i] = value;
  } else if (stride == 1) {
    if constexpr (has_vector<T, S>)
      for (; i + Vec<float>::N <= n; i += Vec<float>::N) Vec<float>::load(from + i).store(to + i);
    for (; i < n; ++i) to[i] = S(widen(from[i]));
  } else {
    for (; i < n; ++i) to[i] = S(widen(from[i * stride]));
  }
}

template <class T, class S>
void store_run(const void* x, void* y, int64_t stride, int64_t n) {
  const S* from = static_cast<const S*>(x);
  T* to = static_cast<T*>(y);
  int64_t i = 0;
  if (stride == 1) {
    if constexpr (has_vector<T, S>)
      for (; i + Vec<float>::N <= n; i += Vec<float>::N) Vec<float>::load(from + i).store(to + i);
    for (; i < n; ++i) to[i] = converted<T>(from[i]);
  } else {
    for (; i < n; ++i) to[i * stride] = converted<T>(from[i]);
  }
}

// Calls f(Type<T>{}, Type<S>{}) for an element type and a compute type.
template <class F>
LAMINA_INLINE void dispatch_conversion(Dtype element, Dtype compute, F f) {
  dispatch_any(element, [&](auto t) {
    switch (compute) {
      case Dtype::float32:
        return f(t, Type<float>{});
      case Dtype::float64:
        return f(t, Type<double>{});
      case Dtype::int32:
        return f(t, Type<int32_t>{});
      default:
        return f(t, Type<int64_t>{});
    }
  });
}

}  // namespace

Load load_function(Dtype from, Dtype compute) {
  Load r;
  dispatch_conversion(from, compute, [&]<class T, class S>(Type<T>, Type<S>) { r = load_run<T, S>; });
  return r;
}
Store store_function(Dtype to, Dtype compute) {
  Store r;
  dispatch_conversion(to, compute, [&]<class T, class S>(Type<T>, Type<S>) { r = store_run<T, S>; });
  return r;
}

}  // namespace lamina::LAMINA_ISA
