// DeviceLibrary: what a device other than the CPU does for the runtime, as a shared library of its own.
//
// The CUDA library (nvcc, cudart linked statically) lies beside the Python module and is loaded when CUDA is first
// asked for, so `import lamina` needs no driver and pays nothing. The simulator is never installed: tests build it and
// name it in LAMINA_SIM_LIBRARY. Both hold the kernel tables (base/kernel_table.h) and one function,
// `lamina_device_library`, that gives the interface below.
#pragma once

#include <cstdint>
#include <string>

#include "base/device.h"
#include "base/export.h"
#include "base/launch_context.h"

namespace lamina {

// Errors are thrown as StateError with the call and the device's own text.
class DeviceLibrary {
 public:
  virtual ~DeviceLibrary() = default;
  virtual int count() = 0;  // 0: no driver or no device; why_none says which
  virtual std::string why_none() = 0;
  virtual std::string describe(int device) = 0;  // name, architecture and memory, for people
  virtual bool is_host_memory() const = 0;       // true iff the CPU may read and write device memory

  virtual void set_launch_context(const LaunchContext&) = 0;  // of this thread

  virtual void* allocate(int device, int64_t bytes) = 0;  // null: out of memory
  virtual void free(int device, void* memory) = 0;
  virtual void memory_info(int device, int64_t* free_bytes, int64_t* total_bytes) = 0;
  // Ordered on the stream; to the host, or between devices, complete when it returns.
  enum class Copy { to_device, to_host, on_device };
  virtual void copy(void* to, const void* from, int64_t bytes, Copy direction, void* stream) = 0;

  virtual void* create_stream(int device) = 0;
  virtual void destroy_stream(void* stream) = 0;
  virtual void synchronize(int device, void* stream) = 0;
  // Host memory that copies to and from a device reach directly, while the CPU goes on.
  virtual void* allocate_pinned(int64_t bytes) = 0;
  virtual void free_pinned(void* memory) = 0;

  // A point in the work of a stream, with its time.
  virtual void* create_event(int device) = 0;
  virtual void destroy_event(void* event) = 0;
  virtual void record_event(void* event, void* stream) = 0;
  virtual void synchronize_event(void* event) = 0;
  virtual double elapsed(void* start, void* end) = 0;  // seconds, of two events that have happened

  // Later work on `waiting` starts after the work so far on `signalling`.
  virtual void wait_for(void* waiting, void* signalling) = 0;

  // A graph of what `enqueue` puts on the stream; null iff the device has no graphs (its list is replayed instead).
  virtual void* capture(int device, void* stream, void (*enqueue)(void* context), void* context) = 0;
  virtual void launch_graph(void* graph, void* stream) = 0;
  virtual void destroy_graph(void* graph) = 0;
};

// The library of a device, loaded at first use; null with the reason and the remedy in `why` if it cannot be had.
LAMINA_EXPORT DeviceLibrary* find_device_library(DeviceType device, std::string* why);
// The same for a device that arrays already live on.
LAMINA_EXPORT DeviceLibrary& device_library(DeviceType device);

}  // namespace lamina
