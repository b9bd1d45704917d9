// Tensors of a framework that has the DLPack exchange API (PyTorch), as Arrays and back: operands are read where they
// lie, results are allocated by the framework, and work on a GPU goes to its current stream.
#pragma once

#include <optional>

#include "python/op_function.h"

namespace lamina::python {

struct Framework {
  const dlpack::ExchangeApi* api = nullptr;
  pybind11::handle tensor_type;
  // Tensors that are memory and nothing else: no subclass with ways of its own.
  PyTypeObject* plain_types[2] = {};
  // What to ask with every call, as callables without arguments.
  pybind11::handle is_grad_enabled, is_autocast_enabled;
  std::vector<pybind11::handle> are_transforms_active;
  // The globals in which `_current_level` is not negative while tensors may carry tangents; read here, because a call
  // of a Python function for it would cost a twentieth of the op.
  pybind11::handle forward_mode;
};
extern Framework framework;

[[noreturn]] inline void raise_python_error() { throw pybind11::error_already_set(); }

// The positional arguments of a call, in the order of the schema; missing operands are None, lists are opened.
struct Call {
  Call(const Op& op, PyObject* const* args, size_t given);
  SmallVector<PyObject*, 8> operands;
  PyObject* const* attrs;
  size_t attr_count;  // the last ones may be left out
};

using Arrays = SmallVector<Array, 8>;

// A tensor's memory, for as long as the object lives; false where Lamina cannot read it, or it does not hold the elements.
bool read(PyObject* tensor, Array* array);
Array array_of(const Op& op, size_t operand, PyObject* tensor);  // empty for None
// Gives Python numbers among the operands, so far empty arrays, the dtype and device of the tensors.
void add_numbers(const Op& op, std::span<PyObject* const> operands, Arrays& in);

// Work of this thread goes to the device of the operands, there to the framework's current stream, while this lives.
class Placement {
 public:
  explicit Placement(Device device);
  ~Placement();

 private:
  DeviceScope scope_;
};

// Runs an op into memory of the framework. The result is one tensor, a tuple of them, or None; `out` has their arrays.
pybind11::object execute(const Op& op, const Inputs& in, const Attrs& attrs, bool keeps_for_backward,
                         Outputs& out);

// Whether the vjp reads the data of operand or result i.
inline bool is_kept(uint32_t mask, size_t i) { return mask >> std::min<size_t>(i, 31) & 1; }

// Calls the vjp; gradients[i] is asked for where needs[i].
Gradients call_vjp(const Op& op, const Inputs& in, const Inputs& out, const Attrs& attrs,
                   std::span<const bool> needs, const Inputs& dys);

// A gradient as a tensor of the framework, whose memory is its own: one that a vjp passed on, gave twice or broadcast is
// copied.
pybind11::object give(const Array& array);

void bind_eager(pybind11::module_& m);

}  // namespace lamina::python
