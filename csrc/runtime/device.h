// The devices of this process, and which one a thread works on.
#pragma once

#include <string>

#include "base/device.h"
#include "base/device_library.h"

namespace lamina {

std::string name_of(Device);
// "cpu", "cuda" (the first GPU), "cuda:<index>" or "sim". Throws ValueError for an unknown name and StateError for a
// device that this build or machine does not have, saying why and what to do.
Device parse_device(const std::string& name);
// Why CUDA is not to be had here and how to get it; empty if it is.
std::string why_no_cuda();

// The device on which this thread allocates arrays and runs kernels. Ops run on the device of their inputs; those
// without inputs run where the thread was sent.
Device current_device();
void set_current_device(Device);

class DeviceScope {
 public:
  explicit DeviceScope(Device device) : previous_(current_device()) { set_current_device(device); }
  ~DeviceScope() { set_current_device(previous_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  Device previous_;
};

}  // namespace lamina
