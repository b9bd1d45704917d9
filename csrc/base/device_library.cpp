#include "base/device_library.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "base/check.h"
#include "base/kernel_table.h"

namespace lamina {
namespace {

struct Loaded {
  void* handle = nullptr;
  DeviceLibrary* library = nullptr;
  std::string why;  // there is none
};

constexpr const char* cuda_file = "liblamina_cuda.so";

std::string path_of(DeviceType device) {
  if (device == DeviceType::sim) {
    const char* path = std::getenv("LAMINA_SIM_LIBRARY");
    return path ? path : "";
  }
  Dl_info here{};
  dladdr(reinterpret_cast<void*>(&path_of), &here);
  const std::string module = here.dli_fname ? here.dli_fname : "";
  return module.substr(0, module.rfind('/') + 1) + cuda_file;
}

Loaded load(DeviceType device) {
  Loaded loaded;
  const std::string path = path_of(device);
  if (path.empty()) {
    loaded.why =
        "the simulator is a test tool; build it and name it in LAMINA_SIM_LIBRARY (see CONTRIBUTING.md)";
    return loaded;
  }
  loaded.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!loaded.handle) {
    const std::string reason = dlerror();
    const std::string built_without = LAMINA_WHY_NO_CUDA;
    loaded.why = device == DeviceType::cuda && !built_without.empty()
                     ? "this build of Lamina has CPU kernels only: " + built_without
                     : reason;
    return loaded;
  }
  const auto open = reinterpret_cast<DeviceLibrary* (*)()>(dlsym(loaded.handle, "lamina_device_library"));
  if (!open) {
    loaded.why = path + " is no device library of Lamina";
    return loaded;
  }
  DeviceLibrary* library = open();
  if (library->count() == 0) {
    loaded.why = library->why_none();
    return loaded;
  }
  loaded.library = library;
  return loaded;
}

const Loaded& loaded(DeviceType device) {
  static std::once_flag once[device_type_count];
  static Loaded libraries[device_type_count];
  std::call_once(once[int(device)], [&] { libraries[int(device)] = load(device); });
  return libraries[int(device)];
}

}  // namespace

DeviceLibrary* find_device_library(DeviceType device, std::string* why) {
  const Loaded& found = loaded(device);
  *why = found.why;
  return found.library;
}

DeviceLibrary& device_library(DeviceType device) { return *loaded(device).library; }

// The tables are constants with C++ names: lamina::cuda::foo_kernels is _ZN6lamina4cuda11foo_kernelsE.
const void* find_kernel_table(DeviceType device, const char* name, const void*& found) {
  const std::atomic_ref<const void*> table(found);
  if (!table.load()) {
    const std::string space = device == DeviceType::cuda ? "4cuda" : "3sim";
    table.store(dlsym(loaded(device).handle,
                      cat("_ZN6lamina", space, std::string_view(name).size(), name, "E").c_str()));
  }
  return table.load();
}

}  // namespace lamina
