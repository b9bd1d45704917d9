// The activations that kernels can fuse, and their names in Python.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace lamina {

enum class Activation : uint8_t { none, relu, gelu, silu, sigmoid, tanh };

inline constexpr int activation_count = 6;

constexpr const char* name_of(Activation a) {
  constexpr const char* names[activation_count] = {"none", "relu", "gelu", "silu", "sigmoid", "tanh"};
  return names[static_cast<int>(a)];
}

constexpr std::optional<Activation> parse_activation(std::string_view name) {
  for (int i = 0; i < activation_count; ++i)
    if (name == name_of(Activation(i))) return Activation(i);
  return std::nullopt;
}

}  // namespace lamina
