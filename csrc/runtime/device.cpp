#include "runtime/device.h"

#include "base/check.h"

namespace lamina {

std::string name_of(Device) { return "cpu"; }

std::string why_no_cuda() { return "this version of Lamina has CPU kernels only"; }

Device parse_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "cuda" || name.starts_with("cuda:"))
    fail<StateError>("device", "'", name, "' is not available: ", why_no_cuda());
  fail("device", "unknown device '", name, "'; expected 'cpu' or 'cuda'");
}

}  // namespace lamina
