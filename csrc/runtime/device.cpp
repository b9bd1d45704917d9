#include "runtime/device.h"

#include <charconv>

#include "base/check.h"

namespace lamina {
namespace {

constexpr const char* type_names[device_type_count] = {"cpu", "cuda", "sim"};

}  // namespace

std::string name_of(Device device) {
  const std::string type = type_names[int(device.type)];
  return device.type == DeviceType::cuda ? cat(type, ":", device.index) : type;
}

std::string why_no_cuda() {
  std::string why;
  find_device_library(DeviceType::cuda, &why);
  return why;
}

Device parse_device(const std::string& name) {
  const std::string type = name.substr(0, name.find(':'));
  for (int t = 0; t < device_type_count; ++t) {
    if (type != type_names[t]) continue;
    Device device{DeviceType(t), 0};
    if (type.size() < name.size()) {
      const char *first = name.data() + type.size() + 1, *last = name.data() + name.size();
      const auto [end, error] = std::from_chars(first, last, device.index);
      if (error != std::errc{} || end != last || device.type != DeviceType::cuda) break;
    }
    if (device.is_cpu()) return device;
    std::string why;
    DeviceLibrary* library = find_device_library(device.type, &why);
    check<StateError>(library, "device", "'", name, "' is not available: ", why);
    check<StateError>(device.index >= 0 && device.index < library->count(), "device", "'", name,
                      "' is not available: this machine has ", library->count(), " such devices");
    return device;
  }
  fail("device", "unknown device '", name, "'; expected 'cpu', 'cuda' or 'cuda:<index>'");
}

}  // namespace lamina
