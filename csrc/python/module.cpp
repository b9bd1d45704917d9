// The extension module lamina._C.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "base/isa.h"
#include "base/parallel.h"
#include "ops/roofline.h"
#include "python/tensor_type.h"

namespace py = pybind11;
using namespace lamina;

namespace {

void set_threads(int n) {
  check(n >= 1, "set_num_threads", "n is ", n, "; expected at least 1");
  set_num_threads(n);
}

py::dict memory_stats() {
  const MemoryStats s = root_arena().stats();
  return py::dict(py::arg("bytes_in_use") = s.bytes_in_use, py::arg("bytes_cached") = s.bytes_cached,
                  py::arg("peak_bytes_in_use") = s.peak_bytes_in_use, py::arg("allocations") = s.allocations,
                  py::arg("system_allocations") = s.system_allocations,
                  py::arg("cache_limit") = root_arena().cache_limit());
}

py::dict build_info() {
  py::list built, supported;
  for (Isa level : isa_levels_built()) {
    built.append(name_of(level));
    if (is_supported(level)) supported.append(name_of(level));
  }
  return py::dict(py::arg("compiler") = LAMINA_COMPILER, py::arg("isa") = name_of(isa()),
                  py::arg("isa_built") = built, py::arg("isa_supported") = supported,
                  py::arg("threads") = num_threads(), py::arg("threads_source") = num_threads_source(),
                  py::arg("why_no_cuda") = why_no_cuda());
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

  m.attr("__version__") = LAMINA_VERSION;
  m.def("build_info", build_info);
  m.def("get_num_threads", num_threads);
  m.def("set_num_threads", set_threads, py::arg("n"));
  m.def("memory_stats", memory_stats);
  m.def("empty_cache", [] { root_arena().empty_cache(); });
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
  m.def("check_device", [](const std::string& name) { return name_of(parse_device(name)); });
}
