// Element types: their names, sizes and C++ types, and dispatch from a runtime dtype to a compile-time type.
//
// bf16 and f16 are storage types: kernels load them into float vectors and round once, when they store.
#pragma once

#include <cstdint>
#include <cstring>

// What kernels of the CUDA device call too.
#if defined(__CUDACC__)
#define LAMINA_HD __host__ __device__
#else
#define LAMINA_HD
#endif

namespace lamina {

enum class Dtype : uint8_t { boolean, uint8, int32, int64, float16, bfloat16, float32, float64 };

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

inline constexpr int dtype_count = 8;

LAMINA_HD constexpr int64_t size_of(Dtype t) {
  constexpr int64_t sizes[dtype_count] = {1, 1, 4, 8, 2, 2, 4, 8};
  return sizes[static_cast<int>(t)];
}

constexpr const char* name_of(Dtype t) {
  constexpr const char* names[dtype_count] = {"bool",    "uint8",    "int32",   "int64",
                                              "float16", "bfloat16", "float32", "float64"};
  return names[static_cast<int>(t)];
}

LAMINA_HD constexpr bool is_floating(Dtype t) { return t >= Dtype::float16; }

// The dtype in which two operands meet: the later one, but float32 for the two short floating types.
constexpr Dtype promote(Dtype a, Dtype b) {
  const Dtype low = a < b ? a : b, high = a < b ? b : a;
  return low == Dtype::float16 && high == Dtype::bfloat16 ? Dtype::float32 : high;
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<bool> {
  static constexpr Dtype value = Dtype::boolean;
};
template <>
struct DtypeOf<uint8_t> {
  static constexpr Dtype value = Dtype::uint8;
};
template <>
struct DtypeOf<int32_t> {
  static constexpr Dtype value = Dtype::int32;
};
template <>
struct DtypeOf<int64_t> {
  static constexpr Dtype value = Dtype::int64;
};
template <>
struct DtypeOf<f16> {
  static constexpr Dtype value = Dtype::float16;
};
template <>
struct DtypeOf<bf16> {
  static constexpr Dtype value = Dtype::bfloat16;
};
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::float32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::float64;
};
template <class T>
inline constexpr Dtype dtype_of = DtypeOf<T>::value;

// The type in which a kernel computes on elements of T: float for the short floating types.
template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<bf16> {
  using type = float;
};
template <>
struct ComputeOf<f16> {
  using type = float;
};
template <class T>
using Compute = typename ComputeOf<T>::type;
constexpr Dtype compute_dtype(Dtype t) {
  return t == Dtype::bfloat16 || t == Dtype::float16 ? Dtype::float32 : t;
}

template <class T>
struct Type {
  using type = T;
};

// Calls f(Type<T>{}) for the kernel dtypes float32, bfloat16 and float64. `infer` has refused all others.
template <class F>
[[gnu::always_inline]] inline void dispatch_float(Dtype t, F&& f) {
  switch (t) {
    case Dtype::float32:
      return f(Type<float>{});
    case Dtype::bfloat16:
      return f(Type<bf16>{});
    case Dtype::float64:
      return f(Type<double>{});
    default:
      __builtin_unreachable();
  }
}

// Calls f(Type<T>{}) for the kernel dtypes of the CUDA device: those and float16.
template <class F>
[[gnu::always_inline]] inline void dispatch_device_float(Dtype t, F&& f) {
  if (t == Dtype::float16) return f(Type<f16>{});
  return dispatch_float(t, f);
}

// Calls f(Type<T>{}) for every dtype.
template <class F>
[[gnu::always_inline]] inline void dispatch_any(Dtype t, F&& f) {
  switch (t) {
    case Dtype::boolean:
      return f(Type<bool>{});
    case Dtype::uint8:
      return f(Type<uint8_t>{});
    case Dtype::int32:
      return f(Type<int32_t>{});
    case Dtype::int64:
      return f(Type<int64_t>{});
    case Dtype::float16:
      return f(Type<f16>{});
    case Dtype::bfloat16:
      return f(Type<bf16>{});
    case Dtype::float32:
      return f(Type<float>{});
    case Dtype::float64:
      return f(Type<double>{});
  }
  __builtin_unreachable();
}

// Calls f(Type<unsigned integer of so many bytes>), for what moves without being computed on.
template <class F>
[[gnu::always_inline]] inline void dispatch_size(int64_t bytes, F&& f) {
  switch (bytes) {
    case 1:
      return f(Type<uint8_t>{});
    case 2:
      return f(Type<uint16_t>{});
    case 4:
      return f(Type<uint32_t>{});
    default:
      return f(Type<uint64_t>{});
  }
}
template <class F>
[[gnu::always_inline]] inline void dispatch_element(Dtype t, F&& f) {
  dispatch_size(size_of(t), f);
}

// Scalar conversions, round to nearest even. NaN stays NaN (quiet).
[[gnu::always_inline]] LAMINA_HD inline float to_float(bf16 x) {
  uint32_t u = uint32_t(x.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

[[gnu::always_inline]] LAMINA_HD inline bf16 to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40)};
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

[[gnu::always_inline]] LAMINA_HD inline float to_float(f16 x) {
  // Shift the 15 magnitude bits into float position, then rescale the exponent by 2^112: exact for subnormals too.
  uint32_t magnitude = uint32_t(x.bits & 0x7fff) << 13, sign = uint32_t(x.bits & 0x8000) << 16, u;
  if (magnitude >= 0x0f800000u) {
    u = magnitude | 0x7f800000u;
  } else {
    float f;
    std::memcpy(&f, &magnitude, 4);
    f *= 0x1p112f;
    std::memcpy(&u, &f, 4);
  }
  u |= sign;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

[[gnu::always_inline]] LAMINA_HD inline f16 to_f16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  const uint16_t sign = uint16_t((u >> 16) & 0x8000);
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return {uint16_t(sign | 0x7e00)};
  if (u >= 0x477ff000u) return {uint16_t(sign | 0x7c00)};  // 65520 and above round to infinity
  if (u < 0x38800000u) {                                   // subnormal: let a float addition round at 2^-24
    float magnitude;
    std::memcpy(&magnitude, &u, 4);
    magnitude += 0.5f;
    std::memcpy(&u, &magnitude, 4);
    return {uint16_t(sign | (u - 0x3f000000u))};
  }
  return {uint16_t(sign | ((u - 0x38000000u + 0xfffu + ((u >> 13) & 1)) >> 13))};
}

// One element to and from the compute type.
template <class T>
[[gnu::always_inline]] LAMINA_HD inline Compute<T> widen(T x) {
  if constexpr (sizeof(Compute<T>) != sizeof(T))
    return to_float(x);
  else
    return x;
}
template <class T>
[[gnu::always_inline]] LAMINA_HD inline T narrow(Compute<T> x) {
  if constexpr (dtype_of<T> == Dtype::bfloat16)
    return to_bf16(x);
  else if constexpr (dtype_of<T> == Dtype::float16)
    return to_f16(x);
  else
    return x;
}

}  // namespace lamina
