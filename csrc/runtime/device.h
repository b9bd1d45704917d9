// Device: where an array's memory lies.
#pragma once

#include <string>

namespace lamina {

enum class DeviceType : int { cpu };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

std::string name_of(Device);
// "cpu", or "cuda" and "cuda:<index>". Throws ValueError for an unknown name and StateError for a device that this
// build or machine does not have, saying why and what to do.
Device parse_device(const std::string& name);
// Why CUDA is not to be had here and how to get it; empty if it is.
std::string why_no_cuda();

}  // namespace lamina
