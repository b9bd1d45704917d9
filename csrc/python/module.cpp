// The extension module lamina._C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/isa.h"
#include "base/parallel.h"
#include "base/precision.h"
#include "ops/roofline.h"
#include "python/tensor_type.h"

namespace py = pybind11;
using namespace lamina;

namespace {

void set_threads(int n) {
  check(n >= 1, "set_num_threads", "n is ", n, "; expected at least 1");
  set_num_threads(n);
}

void set_float32_precision(const std::string& name) {
  const std::optional<Float32Precision> precision = parse_float32_precision(name);
  check(bool(precision), "set_float32_precision", "precision is '", name,
        "'; expected 'highest', 'ieee', 'high' or 'medium'");
  float32_precision = *precision;
}

py::dict memory_stats(const std::string& device) {
  const Arena& arena = root_arena(parse_device(device));
  const MemoryStats s = arena.stats();
  return py::dict(py::arg("bytes_in_use") = s.bytes_in_use, py::arg("bytes_cached") = s.bytes_cached,
                  py::arg("peak_bytes_in_use") = s.peak_bytes_in_use, py::arg("allocations") = s.allocations,
                  py::arg("system_allocations") = s.system_allocations,
                  py::arg("cache_limit") = arena.cache_limit());
}

// allocate(device, bytes) gives an address or 0; free(device, address). They may be called on any thread.
void set_device_pool_of(py::object allocate, py::object free) {
  if (allocate.is_none()) return set_device_pool({});
  // Held for ever: blocks may be freed while the interpreter ends.
  set_device_pool({[f = allocate.release()](Device device, int64_t bytes) {
                     const py::gil_scoped_acquire gil;
                     return reinterpret_cast<void*>(f(name_of(device), bytes).cast<intptr_t>());
                   },
                   [f = free.release()](Device device, void* block) {
                     if (!Py_IsInitialized()) return;
                     const py::gil_scoped_acquire gil;
                     f(name_of(device), reinterpret_cast<intptr_t>(block));
                   }});
}

// 0 where there is no such device, for whatever reason.
int device_count(const std::string& type) {
  if (type == "cpu") return 1;
  std::string why;
  DeviceLibrary* library = find_device_library(type == "sim" ? DeviceType::sim : DeviceType::cuda, &why);
  return library ? library->count() : 0;
}

// A point in the work of this thread on a device.
class Event {
 public:
  explicit Event(const std::string& device)
      : device_(parse_device(device)),
        library_(device_library_of(device_)),
        event_(library_.create_event(device_.index)) {}
  ~Event() { library_.destroy_event(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record() { library_.record_event(event_, current_stream(device_).handle()); }
  void synchronize() { library_.synchronize_event(event_); }
  double elapsed(const Event& end) { return library_.elapsed(event_, end.event_); }

 private:
  static DeviceLibrary& device_library_of(Device device) {
    check(!device.is_cpu(), "Event", "device is cpu; expected a GPU");
    return device_library(device.type);
  }
  Device device_;
  DeviceLibrary& library_;
  void* event_;
};

py::dict build_info() {
  py::list built, supported;
  for (Isa level : isa_levels) {
    if (is_built(level)) built.append(name_of(level));
    if (is_supported(level)) supported.append(name_of(level));
  }
  return py::dict(py::arg("compiler") = LAMINA_COMPILER, py::arg("isa") = name_of(isa()),
                  py::arg("isa_built") = built, py::arg("isa_supported") = supported,
                  py::arg("threads") = num_threads(), py::arg("threads_source") = num_threads_source(),
                  py::arg("cuda_built") = LAMINA_CUDA_BUILT, py::arg("why_no_cuda") = why_no_cuda());
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const TypeError& e) {
      PyErr_SetString(PyExc_TypeError, e.what());
    }
  });
  isa();  // an impossible LAMINA_ISA is an error of the import, not of the first op
  python::bind_tensor(m);
  python::bind_arrays(m);
  python::bind_ops(m);
  python::bind_autograd(m);
  python::bind_exchange(m);
  python::bind_xla(m);

  m.attr("__version__") = LAMINA_VERSION;
  m.def("build_info", build_info);
  m.def("get_num_threads", num_threads);
  m.def("set_num_threads", set_threads, py::arg("n"));
  m.def(
      "use_team",
      [](uintptr_t run) { return reinterpret_cast<uintptr_t>(use_team(reinterpret_cast<TeamRun>(run))); },
      py::arg("run"));
  m.def("get_float32_precision", [] { return name_of(float32_precision); });
  m.def("set_float32_precision", set_float32_precision, py::arg("precision"));
  m.def("memory_stats", memory_stats, py::arg("device") = "cpu");
  m.def(
      "empty_cache", [](const std::string& device) { root_arena(parse_device(device)).empty_cache(); },
      py::arg("device") = "cpu");
  m.def(
      "set_cache_limit",
      [](int64_t bytes) {
        check(bytes >= 0, "set_cache_limit", "bytes is ", bytes, "; expected at least 0");
        root_arena().set_cache_limit(bytes);
      },
      py::arg("bytes"));
  m.def(
      "bench_fma_peak", [](py::object dtype) { return fma_peak(python::parse_dtype(dtype)); },
      py::arg("dtype") = "float32");
  m.def("set_canaries", set_canaries);
  m.def("overwritten_canaries", overwritten_canaries);
  // The name of the device as tensors report it: 'cuda' is 'cuda:0'.
  m.def("check_device", [](const std::string& name) { return name_of(parse_device(name)); });
  m.def("current_device", [] { return name_of(current_device()); });
  m.def("set_current_device", [](const std::string& name) { set_current_device(parse_device(name)); });
  py::class_<Event>(m, "Event")
      .def(py::init<const std::string&>())
      .def("record", &Event::record)
      .def("synchronize", &Event::synchronize, py::call_guard<py::gil_scoped_release>())
      .def("elapsed", &Event::elapsed);
  m.def("device_count", device_count);
  m.def("set_device_pool", set_device_pool_of);
  m.def("describe_device", [](const std::string& name) {
    const Device device = parse_device(name);
    return device.is_cpu() ? std::string("cpu") : device_library(device.type).describe(device.index);
  });
  m.def(
      "synchronize", [](const std::string& name) { current_stream(parse_device(name)).synchronize(); },
      py::call_guard<py::gil_scoped_release>());
  m.def("stream_handle", [](const std::string& name) {
    return reinterpret_cast<intptr_t>(current_stream(parse_device(name)).handle());
  });
  m.def("stream_is_own", [](const std::string& name) { return current_stream(parse_device(name)).is_own(); });
  // Sends this thread's work on that device to another's stream; None: back to Lamina's own.
  m.def("use_stream", [](const std::string& name, std::optional<intptr_t> handle) {
    current_stream(parse_device(name)).use_handle(reinterpret_cast<void*>(handle.value_or(0)));
  });
}
