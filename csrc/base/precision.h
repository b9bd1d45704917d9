// How exactly products of float32 numbers are computed on matrix units, which know shorter types only.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lamina {

// highest: no less exactly than by multiply-adds in float32, by whatever is fastest (three bf16 planes per operand);
// ieee: multiply-adds in float32; high: two planes, 16 bits of each operand; medium: operands rounded to bf16.
// The CPU has multiply-adds for all of them.
enum class Float32Precision : uint8_t { highest, ieee, high, medium };

inline constexpr int float32_precision_count = 4;

constexpr const char* name_of(Float32Precision p) {
  constexpr const char* names[float32_precision_count] = {"highest", "ieee", "high", "medium"};
  return names[static_cast<int>(p)];
}

constexpr std::optional<Float32Precision> parse_float32_precision(std::string_view name) {
  for (int i = 0; i < float32_precision_count; ++i)
    if (name == name_of(Float32Precision(i))) return Float32Precision(i);
  return std::nullopt;
}

// Planes that a float32 operand needs; 0: matrix units are not exact enough.
constexpr int planes_of(Float32Precision precision) {
  switch (precision) {
    case Float32Precision::highest:
      return 3;
    case Float32Precision::ieee:
      return 0;
    case Float32Precision::high:
      return 2;
    case Float32Precision::medium:
      return 1;
  }
  return 0;
}

// The setting of the process. Ops read it and hand it on in the arguments of kernels, so a recorded step keeps the one it
// was recorded with.
inline std::atomic<Float32Precision> float32_precision = Float32Precision::highest;

}  // namespace lamina
