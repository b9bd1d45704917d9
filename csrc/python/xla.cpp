// What lamina/jax/ needs of the module: the handlers as XLA takes them, and attributes as text.
#include "interop/xla_ffi.h"
#include "python/op_function.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

py::dict xla_handlers() {
  const auto capsule = [](xla::Handler* handler) {
    return py::capsule(reinterpret_cast<void*>(handler), "xla._CUSTOM_CALL_TARGET");
  };
  return py::dict(py::arg("cpu") = capsule(xla::cpu_handler), py::arg("CUDA") = capsule(xla::cuda_handler));
}

// The attributes of a call as the text of the record's words: checked, with defaults filled in.
std::string attributes_text(const std::string& name, const py::tuple& attributes) {
  const Op& op = find_op(name);
  std::vector<PyObject*> raw;
  for (py::handle a : attributes) raw.push_back(a.ptr());
  check<TypeError>(raw.size() <= op.schema.attrs.size(), name, raw.size(), " attributes; expected ",
                   op.schema_text);
  return to_text(op.schema, attrs_of(op, raw.data(), raw.size()));
}

}  // namespace

void bind_xla(py::module_& m) {
  m.def("xla_handlers", xla_handlers);
  m.def("attributes_text", attributes_text);
}

}  // namespace lamina::python
