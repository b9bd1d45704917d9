// CUDA as a device: the runtime API behind base/device_library.h.
#include <cuda_runtime.h>

#include "base/device_library.h"
#include "base/launch.h"

namespace lamina {
namespace {

#define LAMINA_CHECK_CUDA(call) cuda::check_cuda(call, #call)

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
    cuda::check_cuda(status, "cudaMalloc");
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
    cuda::check_cuda(status, "cudaGraphInstantiate");
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
