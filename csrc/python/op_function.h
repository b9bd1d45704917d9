// Ops as Python callables: how their positional arguments are read, for every kind of caller.
#pragma once

#include <optional>

#include "interop/dlpack.h"
#include "python/tensor_type.h"

namespace lamina::python {

struct OpFunction {
  PyObject_HEAD vectorcallfunc call;
  const Op* op;
};

// Adds one function per op to a module, all called through `call`.
void add_op_functions(pybind11::module_& m, vectorcallfunc call);

// The attributes of a call, in the order of the schema; the last ones may be left out. Schemas of PyTorch cannot write
// every default, such as infinity: there None stands for it.
enum class NoneMeans { none, default_value };
Attrs attrs_of(const Op& op, PyObject* const* args, size_t given, NoneMeans none_means = NoneMeans::none);

// DLPack's view of dtypes and devices.
dlpack::DataType dlpack_dtype(Dtype dtype);
std::optional<Dtype> find_dlpack_dtype(dlpack::DataType d);
Dtype from_dlpack_dtype(dlpack::DataType d);
dlpack::Device dlpack_device(Device device);
Device from_dlpack_device(int type, int index);
// The array for another owner, who calls its deleter.
dlpack::ManagedVersioned* export_managed(const Array& array);

}  // namespace lamina::python
