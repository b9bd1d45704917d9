// Device: where an array's memory lies and its kernels run.
#pragma once

namespace lamina {

// cpu: this process. cuda: an NVIDIA GPU. sim: the CUDA sources executed on the CPU, to test them without a GPU.
enum class DeviceType : int { cpu, cuda, sim };
inline constexpr int device_type_count = 3, max_devices = 16;  // of a type

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
  bool is_cpu() const { return type == DeviceType::cpu; }
};

}  // namespace lamina
