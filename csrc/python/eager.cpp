// A call of an op from Python on the tensors of a framework, by the shortest way that does what is asked:
//
//   lamina._C.eager.<op>(inputs..., attributes...)
//
// runs the kernel, unless more is wanted than that. Then it calls one of the functions that lamina/torch/dispatch.py
// connected: `prepare` gives other operands (of one dtype, or as autocast wants them), `gradient` records for autograd,
// `general` goes through the framework's dispatcher.
//
//   lamina._C.recorded.<op>(operands..., attributes) -> (result, tensors to save, RecordedCall)
//
// is what `gradient` calls; RecordedCall.gradients is the way back. Operands are opened lists, attributes one tuple.
#include <unordered_map>

#include "python/exchange.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

struct Ways {
  py::handle prepare, gradient, general;
};
std::unordered_map<const Op*, Ways> ways;

bool is_true(const py::object& o) {
  return o.ptr() == Py_True || (o.ptr() != Py_False && PyObject_IsTrue(o.ptr()) == 1);
}

py::object checked(PyObject* fresh) {
  if (!fresh) raise_python_error();
  return py::reinterpret_steal<py::object>(fresh);
}

bool ask(py::handle question) { return is_true(checked(PyObject_CallNoArgs(question.ptr()))); }

bool requires_grad(PyObject* tensor) {
  static PyObject* const property = py::getattr(framework.tensor_type, "requires_grad").release().ptr();
  return is_true(checked(Py_TYPE(property)->tp_descr_get(property, tensor, nullptr)));
}

bool is_plain_tensor(PyObject* o) {
  return Py_TYPE(o) == framework.plain_types[0] || Py_TYPE(o) == framework.plain_types[1];
}

bool are_transforms_active() {
  static PyObject* const level_name = PyUnicode_InternFromString("_current_level");
  PyObject* const level = PyDict_GetItemWithError(framework.forward_mode.ptr(), level_name);
  if (level && PyLong_AsLong(level) >= 0) return true;
  for (py::handle question : framework.are_transforms_active)
    if (ask(question)) return true;
  return false;
}

// Whether a Python number can stand for an element of that dtype.
bool holds(Dtype dtype, PyObject* number) {
  if (is_floating(dtype)) return PyFloat_Check(number) || PyLong_Check(number);
  return dtype == Dtype::boolean ? PyBool_Check(number) : PyLong_Check(number);
}

// Whether operands can be used as they are: tensors, which meet in one dtype where the op promotes, and there also
// numbers that this dtype holds.
bool fit(const Op& op, const Call& call, const Arrays& in) {
  const Array* first = nullptr;
  if (op.promotes != Promotion::none)
    for (size_t i = op.promotes_from; i < in.size() && !first; ++i)
      if (in[i]) first = &in[i];
  if (first && op.promotes == Promotion::floating && !is_floating(first->dtype())) return false;
  for (size_t i = 0; i < in.size(); ++i) {
    const bool meets = first && i >= op.promotes_from;
    if (in[i] ? meets && in[i].dtype() != first->dtype()
              : call.operands[i] != Py_None && !(meets && holds(first->dtype(), call.operands[i])))
      return false;
  }
  return true;
}

py::object vector_call(py::handle function, PyObject* const* args, size_t n) {
  return checked(PyObject_Vectorcall(function.ptr(), args, n, nullptr));
}

py::tuple attributes_of(const Call& call) {
  py::tuple attrs(call.attr_count);
  for (size_t i = 0; i < call.attr_count; ++i)
    PyTuple_SET_ITEM(attrs.ptr(), Py_ssize_t(i), Py_NewRef(call.attrs[i]));
  return attrs;
}

py::object run_eagerly(const Op& op, PyObject* const* args, size_t given, bool is_prepared) {
  const Call call(op, args, given);
  const auto general = [&] { return vector_call(ways.at(&op).general, args, given); };
  if (are_transforms_active()) return general();
  Arrays in;
  bool wants_gradient = false;
  for (PyObject* o : call.operands) {
    Array& x = in.emplace_back();
    if (is_plain_tensor(o)) {
      if (!read(o, &x)) return general();
      wants_gradient |= op.vjp && requires_grad(o);
    } else if (o != Py_None && py::isinstance(o, framework.tensor_type)) {
      return general();
    }
  }
  if (!is_prepared && (!fit(op, call, in) || ask(framework.is_autocast_enabled))) {
    const size_t inputs = std::min(given, op.schema.inputs.size());
    const py::tuple prepared = vector_call(ways.at(&op).prepare, args, inputs);
    SmallVector<PyObject*, 8> again;
    for (py::handle o : prepared) again.push_back(o.ptr());
    for (size_t i = 0; i < call.attr_count; ++i) again.push_back(call.attrs[i]);
    return run_eagerly(op, again.data(), again.size(), true);
  }
  if (wants_gradient && ask(framework.is_grad_enabled)) {
    const py::tuple attrs = attributes_of(call);
    SmallVector<PyObject*, 8> operands = call.operands;
    operands.push_back(attrs.ptr());
    return vector_call(ways.at(&op).gradient, operands.data(), operands.size());
  }
  add_numbers(op, std::span<PyObject* const>(call.operands.data(), call.operands.size()), in);
  Outputs out;
  return execute(op, Inputs(in.data(), in.size()), attrs_of(op, call.attrs, call.attr_count), false, out);
}

PyObject* call_eager(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject*) {
  return guarded([&] {
    const size_t given = size_t(PyVectorcall_NARGS(flagged_count));
    return run_eagerly(*reinterpret_cast<OpFunction*>(self)->op, args, given, false).release().ptr();
  });
}

// --- with a gradient ---------------------------------------------------------------------------------------------

// True iff both are the same elements in the same places.
bool is_same(const Array& a, const Array& b) {
  return a.view().data == b.view().data && a.shape() == b.shape() &&
         std::equal(a.view().strides, a.view().strides + a.ndim(), b.view().strides);
}

// What a backward pass needs of a call besides the saved tensors. Arrays of tensors have no data here; those of Python
// numbers do.
struct RecordedCall {
  const Op* op;
  Attrs attrs;
  Arrays in;
  Outputs out;

  // The gradients of what forward was called with; None where there is none or none is needed.
  py::tuple gradients(const py::tuple& saved, const py::tuple& given_dys, const py::tuple& needs) const {
    Arrays inputs = in, outputs;
    for (const Array& y : out) outputs.push_back(y);
    size_t next = 0;
    for (auto [arrays, mask] : {std::pair(&inputs, op->kept_inputs), std::pair(&outputs, op->kept_outputs)})
      for (size_t i = 0; i < arrays->size(); ++i)
        if ((*arrays)[i] && !(*arrays)[i].storage() && is_kept(mask, i))
          (*arrays)[i] = array_of(*op, i, PyTuple_GET_ITEM(saved.ptr(), Py_ssize_t(next++)));
    py::tuple dys = given_dys;
    Arrays dy;
    for (py::handle o : given_dys) {
      Array& x = dy.emplace_back();
      if (o.is_none() || read(o.ptr(), &x)) continue;
      if (dys.is(given_dys)) dys = py::tuple(py::list(given_dys));  // a copy
      const py::object in_memory = o.attr("resolve_neg")().attr("clone")();
      dys[dy.size() - 1] = in_memory;
      x = array_of(*op, 0, in_memory.ptr());
    }
    SmallVector<bool, 8> is_needed;
    for (size_t i = 0; i < in.size(); ++i)
      is_needed.push_back(PyTuple_GET_ITEM(needs.ptr(), Py_ssize_t(i)) == Py_True);
    const Gradients dx =
        call_vjp(*op, Inputs(inputs.data(), inputs.size()), Inputs(outputs.data(), outputs.size()), attrs,
                 std::span<const bool>(is_needed.data(), is_needed.size()), Inputs(dy.data(), dy.size()));
    py::tuple result(needs.size());
    for (size_t i = 0; i < result.size(); ++i)
      result[i] = i < dx.size() && is_needed[i] && dx[i] ? gradient_object(dx[i], dy, dys) : py::none();
    return result;
  }

 private:
  // A vjp may pass dy on as it was.
  static py::object gradient_object(const Array& dx, const Arrays& dy, const py::tuple& dys) {
    for (size_t i = 0; i < dy.size(); ++i)
      if (dy[i] && is_same(dx, dy[i])) return dys[i];
    return give(dx);
  }
};

PyObject* call_recorded(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject*) {
  return guarded([&] {
    const Op& op = *reinterpret_cast<OpFunction*>(self)->op;
    const size_t n = size_t(PyVectorcall_NARGS(flagged_count)) - 1;
    RecordedCall call{
        &op, attrs_of(op, PySequence_Fast_ITEMS(args[n]), size_t(PyTuple_GET_SIZE(args[n]))), {}, {}};
    py::list kept;
    for (size_t i = 0; i < n; ++i) {
      call.in.push_back(is_plain_tensor(args[i]) ? array_of(op, i, args[i]) : Array{});
      if (call.in[i] && is_kept(op.kept_inputs, i)) kept.append(py::handle(args[i]));
    }
    add_numbers(op, std::span<PyObject* const>(args, n), call.in);
    const py::object result = execute(op, Inputs(call.in.data(), n), call.attrs, true, call.out);
    for (size_t i = 0; i < call.out.size(); ++i)
      if (is_kept(op.kept_outputs, i))
        kept.append(call.out.size() == 1 ? py::handle(result)
                                         : PyTuple_GET_ITEM(result.ptr(), Py_ssize_t(i)));
    for (size_t i = 0; i < n; ++i)
      if (is_plain_tensor(args[i])) call.in[i] = call.in[i].without_data();
    for (Array& y : call.out) y = y.without_data();
    return py::make_tuple(result, kept, std::move(call)).release().ptr();
  });
}

}  // namespace

void bind_eager(py::module_& m) {
  py::module_ eager = m.def_submodule("eager"), recorded = m.def_submodule("recorded");
  add_op_functions(eager, call_eager);
  add_op_functions(recorded, call_recorded);
  py::class_<RecordedCall>(m, "RecordedCall").def("gradients", &RecordedCall::gradients);
  m.def("connect", [](const std::string& name, py::object prepare, py::object gradient, py::object general) {
    ways[&find_op(name)] = {prepare.release(), gradient.release(), general.release()};
  });
}

}  // namespace lamina::python
