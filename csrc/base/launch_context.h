// LaunchContext: what the launches of a thread need from the runtime.
#pragma once

#include <cstdint>

namespace lamina {

// Where the launches of a thread go, and where kernels take short-lived device memory from. Set before every kernel.
// Memory from `allocate` is used in stream order: it may be handed to a later launch as soon as it was freed.
struct LaunchContext {
  int device = 0;
  void* stream = nullptr;  // cudaStream_t
  void* (*allocate)(int64_t bytes) = nullptr;
  void (*free)(void* memory, int64_t bytes) = nullptr;
};

}  // namespace lamina
