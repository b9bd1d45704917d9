// lamina.Tensor as a CPython type. It is written against the C API because the cost of a tiny op is the cost of its
// Python objects: a pybind11 class would take three times as long to create.
#pragma once

#include <pybind11/pybind11.h>

#include "autograd/tape.h"

namespace lamina::python {

struct PyTensor {
  PyObject_HEAD Tensor tensor;
  PyObject* weak_references;
};

extern PyTypeObject* tensor_type;

inline bool is_tensor(PyObject* o) { return PyObject_TypeCheck(o, tensor_type); }
inline Tensor& tensor_of(PyObject* o) { return reinterpret_cast<PyTensor*>(o)->tensor; }
PyObject* wrap(Tensor tensor);  // new reference

// Refuses to let Python read values while a program is recorded: the replay would not read them again.
void check_readable(const char* what);

// A 0-d tensor of that dtype and device from a Python or NumPy number; an empty Array if `o` is not one.
Array scalar_array(PyObject* o, Dtype dtype, Device device);

// The same values in memory that the CPU reads: a itself, or a copy.
Array on_host(const Array& a);

// Runs f and turns C++ exceptions into Python ones; f returns a new reference.
template <class F>
PyObject* guarded(F&& f) noexcept;
void set_python_error(std::exception_ptr error) noexcept;

template <class F>
PyObject* guarded(F&& f) noexcept {
  try {
    return f();
  } catch (...) {
    set_python_error(std::current_exception());
    return nullptr;
  }
}

PyObject* subscript(PyObject* self, PyObject* index);  // x[index]

// dtypes
pybind11::object dtype_object(Dtype dtype);  // lamina.float32 ...
Dtype parse_dtype(pybind11::handle o);       // from a lamina dtype, its name, or anything numpy.dtype takes
pybind11::object numpy_dtype(Dtype dtype);   // numpy.dtype, ml_dtypes.bfloat16 included

// Releases the GIL for work of at least so many bytes.
inline constexpr int64_t gil_release_bytes = 64 * 1024;

void bind_tensor(pybind11::module_& m);
void bind_ops(pybind11::module_& m);
void bind_arrays(pybind11::module_& m);
void bind_autograd(pybind11::module_& m);
void bind_exchange(pybind11::module_& m);
void bind_xla(pybind11::module_& m);

}  // namespace lamina::python

// Lets pybind11 functions take and return Tensors.
namespace pybind11::detail {
template <>
struct type_caster<lamina::Tensor> {
  PYBIND11_TYPE_CASTER(lamina::Tensor, const_name("Tensor"));
  bool load(handle src, bool) {
    if (!lamina::python::is_tensor(src.ptr())) return false;
    value = lamina::python::tensor_of(src.ptr());
    return true;
  }
  static handle cast(lamina::Tensor tensor, return_value_policy, handle) {
    return lamina::python::wrap(std::move(tensor));
  }
};
}  // namespace pybind11::detail
