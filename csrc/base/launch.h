// Launches of device kernels, and what a launch needs from the runtime.
//
//   launch("scale", scale_kernel<T>, {.grid = {blocks}, .block = {256}, .shared = sizeof(ScaleShared)}, args);
//
// The one way to run a kernel, on the CUDA device as on `sim`, which executes the same source on the CPU. Asynchronous
// on the thread's stream, hence recordable. An empty grid or block is no launch.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <functional>

#include "base/check.h"
#include "base/device_library.h"
#include "base/integer.h"

#if !defined(LAMINA_SIM)
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#endif

namespace lamina {

struct Extent {
  int64_t x = 1, y = 1, z = 1;
  int64_t size() const { return x * y * z; }
};
inline std::ostream& operator<<(std::ostream& out, Extent e) {
  return out << '(' << e.x << ", " << e.y << ", " << e.z << ')';
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

struct DeviceProperties {
  int sm_count;
  int architecture;    // 80, 86, 89, 90, 100, 120
  int64_t max_shared;  // bytes of shared memory that a block may ask for
};

#if defined(LAMINA_SIM)
namespace simt {
// Runs `thread` once for every thread of the grid. `name` appears in errors.
void run(const char* name, const Launch& launch, const std::function<void()>& thread);
}  // namespace simt
#endif

namespace LAMINA_DEVICE {

LaunchContext& launch_context();              // the calling thread's
const DeviceProperties& device_properties();  // the current device's

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

[[noreturn]] inline void fail_launch(const char* name, const Launch& l, std::string_view what) {
  fail<StateError>(name, what, " (grid ", l.grid, ", block ", l.block, ", cluster ", l.cluster, ", ",
                   l.shared, " bytes of shared memory)");
}

inline void check_launch(const char* name, const Launch& l) {
  if (l.grid.x > INT32_MAX || l.grid.y > grid_limit || l.grid.z > grid_limit)
    fail_launch(name, l, "the grid is too large");
  if (l.block.size() > 1024 || l.block.z > 64) fail_launch(name, l, "a block has more than 1024 threads");
  if (l.grid.x % l.cluster.x || l.grid.y % l.cluster.y || l.grid.z % l.cluster.z)
    fail_launch(name, l, "the grid is not whole clusters");
  if (l.cluster.size() > 1 && device_properties().architecture < 90)
    fail_launch(name, l, "the device has no clusters");
  if (l.shared > device_properties().max_shared) fail_launch(name, l, "too much shared memory");
}

#if defined(LAMINA_SIM)

inline LaunchContext& launch_context() {
  thread_local LaunchContext context = {
      .stream = nullptr,
      .allocate = [](int64_t bytes) { return std::aligned_alloc(256, size_t((bytes + 255) / 256 * 256)); },
      .free = [](void* data, int64_t) { std::free(data); }};
  return context;
}

// LAMINA_SIM_ARCHITECTURE: what `sim` passes for, 90 unless set. Instructions of later ones fail.
inline const DeviceProperties& device_properties() {
  static const DeviceProperties properties = [] {
    const char* set = std::getenv("LAMINA_SIM_ARCHITECTURE");
    const int architecture = set ? std::atoi(set) : 90;
    const int64_t kib = architecture == 90 || architecture == 100 ? 227 : architecture == 80 ? 163 : 99;
    return DeviceProperties{.sm_count = 8, .architecture = architecture, .max_shared = kib * 1024};
  }();
  return properties;
}

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const Launch& l, const Args&... args) {
  if (!l.grid.size() || !l.block.size()) return;
  check_launch(name, l);
  simt::run(name, l, [&] { kernel(args...); });
}

#else

inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    fail<StateError>(call, cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

inline LaunchContext& launch_context() {
  thread_local LaunchContext context = {
      .stream = nullptr,
      .allocate =
          [](int64_t bytes) {
            void* data = nullptr;
            check_cuda(cudaMallocAsync(&data, size_t(bytes), cudaStream_t(launch_context().stream)),
                       "cudaMallocAsync");
            return data;
          },
      .free = [](void* data, int64_t) { cudaFreeAsync(data, cudaStream_t(launch_context().stream)); }};
  return context;
}

inline int current_device() {
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  return device;
}

inline const DeviceProperties& device_properties() {
  static std::mutex mutex;
  static std::map<int, DeviceProperties> known;
  const int device = current_device();
  const std::lock_guard lock(mutex);
  auto [entry, is_new] = known.try_emplace(device);
  if (is_new) {
    auto attribute = [&](cudaDeviceAttr a) {
      int value = 0;
      check_cuda(cudaDeviceGetAttribute(&value, a, device), "cudaDeviceGetAttribute");
      return value;
    };
    entry->second = {.sm_count = attribute(cudaDevAttrMultiProcessorCount),
                     .architecture = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
                                     attribute(cudaDevAttrComputeCapabilityMinor),
                     .max_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  }
  return entry->second;
}

// Lets a kernel have more than the 48 KiB of shared memory and 8 blocks in a cluster that are everyone's, once for
// each device.
inline void permit(const char* name, const void* kernel, const Launch& l) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int64_t> permitted;
  const bool is_large_cluster = l.cluster.size() > 8;
  if (l.shared <= 48 * 1024 && !is_large_cluster) return;
  const std::lock_guard lock(mutex);
  int64_t& shared = permitted[{current_device(), kernel}];
  if (l.shared <= shared && !is_large_cluster) return;
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(l.shared)), name);
  if (is_large_cluster)
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  shared = l.shared;
}

template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const Launch& l, const Args&... args) {
  if (!l.grid.size() || !l.block.size()) return;
  check_launch(name, l);
  permit(name, reinterpret_cast<const void*>(kernel), l);
  auto dim = [](Extent e) { return dim3(unsigned(e.x), unsigned(e.y), unsigned(e.z)); };
  cudaLaunchAttribute attributes[3] = {};
  cudaLaunchConfig_t config = {.gridDim = dim(l.grid),
                               .blockDim = dim(l.block),
                               .dynamicSmemBytes = size_t(l.shared),
                               .stream = cudaStream_t(launch_context().stream),
                               .attrs = attributes,
                               .numAttrs = 0};
  auto attribute = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[config.numAttrs].id = id;
    return attributes[config.numAttrs++].val;
  };
  if (l.cluster.size() > 1) {
    const dim3 cluster = dim(l.cluster);
    attribute(cudaLaunchAttributeClusterDimension).clusterDim = {cluster.x, cluster.y, cluster.z};
  }
  if (l.is_cooperative) attribute(cudaLaunchAttributeCooperative).cooperative = 1;
  if (l.is_dependent && device_properties().architecture >= 90)
    attribute(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed = 1;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel, Params(args)...);
  if (status != cudaSuccess)
    fail_launch(name, l, cat(cudaGetErrorName(status), ": ", cudaGetErrorString(status)));
}

#endif

}  // namespace LAMINA_DEVICE
}  // namespace lamina
