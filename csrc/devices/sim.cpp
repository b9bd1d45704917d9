// The simulator as a device: memory is the CPU's, and a kernel has ended when its launch returns.
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "base/device_library.h"
#include "devices/check_launch.h"
#include "simt/engine.h"

namespace lamina {
namespace sim {

LaunchContext& launch_context() {
  thread_local LaunchContext context = {
      .allocate = [](int64_t bytes) { return std::aligned_alloc(256, size_t(round_up(bytes, 256))); },
      .free = [](void* data, int64_t) { std::free(data); }};
  return context;
}

// LAMINA_SIM_ARCHITECTURE: what `sim` passes for, 90 unless set. Instructions of later ones fail.
const DeviceProperties& device_properties() {
  static const DeviceProperties properties = [] {
    const char* set = std::getenv("LAMINA_SIM_ARCHITECTURE");
    const int architecture = set ? std::atoi(set) : 90;
    const int64_t kib = architecture == 90 || architecture == 100 ? 227 : architecture == 80 ? 163 : 99;
    return DeviceProperties{.sm_count = 8, .architecture = architecture, .max_shared = kib * 1024};
  }();
  return properties;
}

void submit(const char* name, const Launch& l, const std::function<void()>& thread) {
  if (!l.grid.size() || !l.block.size()) return;
  check_launch(name, l, device_properties());
  simt::run(name, l, thread);
}

}  // namespace sim

namespace {

class Simulator final : public DeviceLibrary {
 public:
  int count() override { return 1; }
  std::string why_none() override { return {}; }
  std::string describe(int) override { return "CUDA kernels executed on the CPU, for tests"; }
  bool is_host_memory() const override { return true; }

  void set_launch_context(const LaunchContext& c) override { sim::launch_context() = c; }

  void* allocate(int, int64_t bytes) override {
    // As aligned as a GPU's memory, and not by more, so that a sanitizer sees the end of the block.
    void* block = nullptr;
    return posix_memalign(&block, 512, size_t(bytes)) == 0 ? block : nullptr;
  }
  void free(int, void* memory) override { std::free(memory); }
  void memory_info(int, int64_t* free_bytes, int64_t* total_bytes) override {
    *free_bytes = *total_bytes = 0;
  }

  void copy(void* to, const void* from, int64_t bytes, Copy, void*) override {
    std::memcpy(to, from, size_t(bytes));
  }
  void* create_stream(int) override { return this; }
  void destroy_stream(void*) override {}
  void synchronize(int, void*) override {}
  void wait_for(void*, void*) override {}

  void* allocate_pinned(int64_t bytes) override { return allocate(0, bytes); }
  void free_pinned(void* memory) override { std::free(memory); }

  using Time = std::chrono::steady_clock::time_point;
  void* create_event(int) override { return new Time; }
  void destroy_event(void* event) override { delete static_cast<Time*>(event); }
  void record_event(void* event, void*) override {
    *static_cast<Time*>(event) = std::chrono::steady_clock::now();
  }
  void synchronize_event(void*) override {}
  double elapsed(void* start, void* end) override {
    return std::chrono::duration<double>(*static_cast<Time*>(end) - *static_cast<Time*>(start)).count();
  }

  void* capture(int, void*, void (*)(void*), void*) override { return nullptr; }
  void launch_graph(void*, void*) override {}
  void destroy_graph(void*) override {}
};

}  // namespace
}  // namespace lamina

extern "C" __attribute__((visibility("default"))) lamina::DeviceLibrary* lamina_device_library() {
  static lamina::Simulator simulator;
  return &simulator;
}
