// Launches of device kernels, and what a launch needs from the runtime.
//
//   launch("scale", scale_kernel<T>, {.grid = {blocks}, .block = {256}, .shared = sizeof(ScaleShared)}, args);
//
// The one way to run a kernel, on the CUDA device as on `sim`, which executes the same source on the CPU. Asynchronous
// on the thread's stream, hence recordable. An empty grid or block is no launch.
#pragma once

#include <cstdint>

#include "base/integer.h"
#include "base/launch_context.h"

#if defined(LAMINA_SIM)
#include <functional>
#endif

namespace lamina {

struct Extent {
  int64_t x = 1, y = 1, z = 1;
  int64_t size() const { return x * y * z; }
};
template <class Stream>
Stream& operator<<(Stream& out, Extent e) {
  out << '(' << e.x << ", " << e.y << ", " << e.z << ')';
  return out;
}

struct Launch {
  Extent grid = {}, block = {};
  int64_t shared = 0;           // bytes of shared memory
  Extent cluster = {};          // blocks per cluster; the grid is a multiple of it
  bool is_cooperative = false;  // all blocks are resident at once, so the grid may synchronise
  bool is_dependent = false;    // may start while the launch before it drains: the kernel waits for it itself
};

// Blocks along y and z at most, and as many as are wanted along x where blocks go through several tiles.
inline constexpr int64_t grid_limit = 65535;

// A block for each of `tiles`, which is the kernel's prim::block(): along x, and along y where x has no more, so that the
// last row may have blocks without a tile.
inline Extent grid_of(int64_t tiles) { return {smaller(tiles, INT32_MAX), ceil_div(tiles, INT32_MAX)}; }

struct DeviceProperties {
  int sm_count;
  int architecture;    // 80, 86, 89, 90, 100, 120
  int64_t max_shared;  // bytes of shared memory that a block may ask for
};

namespace LAMINA_DEVICE {

// Of devices/cuda.cpp and devices/sim.cpp.
LaunchContext& launch_context();              // the calling thread's
const DeviceProperties& device_properties();  // the current device's
#if defined(LAMINA_SIM)
void submit(const char* name, const Launch&, const std::function<void()>& thread);
#else
void submit(const char* name, const Launch&, const void* kernel, void** arguments);
#endif

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const Launch& l, const Args&... args) {
#if defined(LAMINA_SIM)
  submit(name, l, [&] { kernel(args...); });
#else
  const auto with_addresses = [&](Params... params) {
    void* arguments[] = {const_cast<void*>(static_cast<const void*>(&params))...};
    submit(name, l, reinterpret_cast<const void*>(kernel), arguments);
  };
  with_addresses(args...);
#endif
}

// Scratch memory for the launches made during its life.
template <class T>
class DeviceScratch {
 public:
  explicit DeviceScratch(int64_t n)
      : bytes_(n * int64_t(sizeof(T))),
        data_(n ? static_cast<T*>(launch_context().allocate(bytes_)) : nullptr) {}
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  ~DeviceScratch() {
    if (data_) launch_context().free(data_, bytes_);
  }
  T* data() const { return data_; }
  operator T*() const { return data_; }

 private:
  int64_t bytes_;
  T* data_;
};

}  // namespace LAMINA_DEVICE
}  // namespace lamina
