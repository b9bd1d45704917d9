// CUDA as a device: the runtime API behind base/device_library.h.
#include <map>
#include <mutex>

#include "base/device_library.h"
#include "devices/check_cuda.h"
#include "devices/check_launch.h"

#define LAMINA_CHECK_CUDA(call) check_cuda(call, #call)

namespace lamina {
namespace cuda {
namespace {

int current_device() {
  int device = 0;
  LAMINA_CHECK_CUDA(cudaGetDevice(&device));
  return device;
}

// Lets a kernel have more than the 48 KiB of shared memory and 8 blocks in a cluster that are everyone's, once for
// each device.
void permit(const char* name, const void* kernel, const Launch& l) {
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

dim3 dim(Extent e) { return dim3(unsigned(e.x), unsigned(e.y), unsigned(e.z)); }

}  // namespace

LaunchContext& launch_context() {
  thread_local LaunchContext context = {
      .allocate =
          [](int64_t bytes) {
            void* data = nullptr;
            LAMINA_CHECK_CUDA(cudaMallocAsync(&data, size_t(bytes), cudaStream_t(launch_context().stream)));
            return data;
          },
      .free = [](void* data, int64_t) { cudaFreeAsync(data, cudaStream_t(launch_context().stream)); }};
  return context;
}

const DeviceProperties& device_properties() {
  static std::mutex mutex;
  static std::map<int, DeviceProperties> known;
  const int device = current_device();
  const std::lock_guard lock(mutex);
  auto [entry, is_new] = known.try_emplace(device);
  if (is_new) {
    auto attribute = [&](cudaDeviceAttr a) {
      int value = 0;
      LAMINA_CHECK_CUDA(cudaDeviceGetAttribute(&value, a, device));
      return value;
    };
    entry->second = {.sm_count = attribute(cudaDevAttrMultiProcessorCount),
                     .architecture = 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
                                     attribute(cudaDevAttrComputeCapabilityMinor),
                     .max_shared = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)};
  }
  return entry->second;
}

void submit(const char* name, const Launch& l, const void* kernel, void** arguments) {
  if (!l.grid.size() || !l.block.size()) return;
  check_launch(name, l, device_properties());
  permit(name, kernel, l);
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
  const cudaError_t status = cudaLaunchKernelExC(&config, kernel, arguments);
  if (status != cudaSuccess)
    fail_launch(name, l, cat(cudaGetErrorName(status), ": ", cudaGetErrorString(status)));
}

}  // namespace cuda

namespace {

// Makes a device current while it lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    LAMINA_CHECK_CUDA(cudaGetDevice(&previous_));
    if (device != previous_) LAMINA_CHECK_CUDA(cudaSetDevice(device));
  }
  ~OnDevice() { cudaSetDevice(previous_); }

 private:
  int previous_ = 0;
};

cudaStream_t stream_of(void* handle) { return static_cast<cudaStream_t>(handle); }

class CudaLibrary final : public DeviceLibrary {
 public:
  CudaLibrary() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status == cudaErrorInsufficientDriver) {
      int runtime = 0;
      cudaRuntimeGetVersion(&runtime);
      why_none_ = cat("no NVIDIA driver, or one too old for CUDA ", runtime / 1000, ".", runtime % 1000 / 10,
                      "; install a current driver");
    } else if (status != cudaSuccess || devices == 0) {
      why_none_ = cat("the driver finds no GPU (", cudaGetErrorString(status), ")");
    } else {
      count_ = devices;
    }
  }

  int count() override { return count_; }
  std::string why_none() override { return why_none_; }
  std::string describe(int device) override {
    cudaDeviceProp properties;
    LAMINA_CHECK_CUDA(cudaGetDeviceProperties(&properties, device));
    return cat(properties.name, ", compute capability ", properties.major, ".", properties.minor, ", ",
               properties.multiProcessorCount, " SMs, ", properties.totalGlobalMem >> 20, " MiB");
  }
  bool is_host_memory() const override { return false; }

  void set_launch_context(const LaunchContext& c) override {
    LAMINA_CHECK_CUDA(cudaSetDevice(c.device));
    cuda::launch_context() = c;
  }

  void* allocate(int device, int64_t bytes) override {
    const OnDevice scope(device);
    void* block = nullptr;
    const cudaError_t status = cudaMalloc(&block, size_t(bytes));
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // clears it
      return nullptr;
    }
    check_cuda(status, "cudaMalloc");
    return block;
  }
  void free(int device, void* memory) override {
    const OnDevice scope(device);
    cudaFree(memory);  // also while the process ends and the driver is gone: nothing to report then
  }
  void memory_info(int device, int64_t* free_bytes, int64_t* total_bytes) override {
    const OnDevice scope(device);
    size_t free = 0, total = 0;
    LAMINA_CHECK_CUDA(cudaMemGetInfo(&free, &total));
    *free_bytes = int64_t(free);
    *total_bytes = int64_t(total);
  }

  void copy(void* to, const void* from, int64_t bytes, Copy direction, void* stream) override {
    constexpr cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDefault};
    LAMINA_CHECK_CUDA(cudaMemcpyAsync(to, from, size_t(bytes), kinds[int(direction)], stream_of(stream)));
    if (direction != Copy::to_device) LAMINA_CHECK_CUDA(cudaStreamSynchronize(stream_of(stream)));
  }

  void* create_stream(int device) override {
    const OnDevice scope(device);
    cudaStream_t stream = nullptr;
    LAMINA_CHECK_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
  }
  void destroy_stream(void* stream) override { cudaStreamDestroy(stream_of(stream)); }
  void synchronize(int device, void* stream) override {
    const OnDevice scope(device);
    LAMINA_CHECK_CUDA(cudaStreamSynchronize(stream_of(stream)));
  }
  void wait_for(void* waiting, void* signalling) override {
    cudaEvent_t event = nullptr;
    LAMINA_CHECK_CUDA(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    LAMINA_CHECK_CUDA(cudaEventRecord(event, stream_of(signalling)));
    LAMINA_CHECK_CUDA(cudaStreamWaitEvent(stream_of(waiting), event, 0));
    LAMINA_CHECK_CUDA(cudaEventDestroy(event));
  }

  void* allocate_pinned(int64_t bytes) override {
    void* memory = nullptr;
    LAMINA_CHECK_CUDA(cudaHostAlloc(&memory, size_t(bytes), cudaHostAllocPortable));
    return memory;
  }
  void free_pinned(void* memory) override { cudaFreeHost(memory); }

  void* create_event(int device) override {
    const OnDevice scope(device);
    cudaEvent_t event = nullptr;
    LAMINA_CHECK_CUDA(cudaEventCreate(&event));
    return event;
  }
  void destroy_event(void* event) override { cudaEventDestroy(static_cast<cudaEvent_t>(event)); }
  void record_event(void* event, void* stream) override {
    LAMINA_CHECK_CUDA(cudaEventRecord(static_cast<cudaEvent_t>(event), stream_of(stream)));
  }
  void synchronize_event(void* event) override {
    LAMINA_CHECK_CUDA(cudaEventSynchronize(static_cast<cudaEvent_t>(event)));
  }
  double elapsed(void* start, void* end) override {
    float milliseconds = 0;
    LAMINA_CHECK_CUDA(
        cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start), static_cast<cudaEvent_t>(end)));
    return 1e-3 * double(milliseconds);
  }

  void* capture(int device, void* stream, void (*enqueue)(void*), void* context) override {
    const OnDevice scope(device);
    LAMINA_CHECK_CUDA(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      enqueue(context);
    } catch (...) {
      cudaStreamEndCapture(stream_of(stream), &graph);
      if (graph) cudaGraphDestroy(graph);
      throw;
    }
    LAMINA_CHECK_CUDA(cudaStreamEndCapture(stream_of(stream), &graph));
    cudaGraphExec_t executable = nullptr;
    const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    check_cuda(status, "cudaGraphInstantiate");
    return executable;
  }
  void launch_graph(void* graph, void* stream) override {
    LAMINA_CHECK_CUDA(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(stream)));
  }
  void destroy_graph(void* graph) override { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

 private:
  int count_ = 0;
  std::string why_none_;
};

}  // namespace
}  // namespace lamina

extern "C" __attribute__((visibility("default"))) lamina::DeviceLibrary* lamina_device_library() {
  static auto* library = new lamina::CudaLibrary;  // never destroyed: arrays may outlive static destruction
  return library;
}
