// Ops on the tensors of a framework. Gradients are the framework's: lamina/torch/ connects these calls to its autograd;
// eager.cpp has the way of a call from Python.
//
//   lamina._C.exchanged.<op>(inputs..., attributes..., keep=False)    all positional, in the order of the schema
//   lamina._C.registered.<op>(inputs..., attributes..., keep=False)   the same, writing none of its operands
//
// `keep` asks for the outputs that a backward pass needs (as an open tape does for Lamina's own tensors).
#include "python/exchange.h"

#include <pybind11/stl.h>

namespace py = pybind11;

namespace lamina::python {

Framework framework;

Call::Call(const Op& op, PyObject* const* args, size_t given) {
  const std::vector<InputSpec>& inputs = op.schema.inputs;
  check<TypeError>(given <= inputs.size() + op.schema.attrs.size(), op.name(), given, " arguments; expected ",
                   op.schema_text);
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i >= given) {
      check<TypeError>(inputs[i].is_optional, op.name(), inputs[i].name, " is missing; expected ",
                       op.schema_text);
      operands.push_back(Py_None);
    } else if (inputs[i].is_variadic) {
      check<TypeError>(PyTuple_Check(args[i]) || PyList_Check(args[i]), op.name(), inputs[i].name, " is a ",
                       Py_TYPE(args[i])->tp_name, "; expected a list or tuple of tensors");
      for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(args[i]); ++k)
        operands.push_back(PySequence_Fast_GET_ITEM(args[i], k));
    } else {
      operands.push_back(args[i]);
    }
  }
  attrs = args + inputs.size();
  attr_count = given > inputs.size() ? given - inputs.size() : 0;
}

namespace {

// Whether memory holds the negatives of a tensor's elements. PyTorch leaves it so in the imaginary parts of conjugated
// numbers, which are every other real number: only a view whose strides are all even is asked.
bool is_negated(PyObject* tensor, const View& v) {
  for (int i = 0; i < v.ndim; ++i)
    if (v.shape[i] > 1 && v.strides[i] % 2) return false;
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  PyObject* const answer = PyObject_CallMethodNoArgs(tensor, is_neg);
  if (!answer) raise_python_error();
  return py::reinterpret_steal<py::object>(answer).ptr() == Py_True;
}

}  // namespace

bool read(PyObject* tensor, Array* array) {
  dlpack::Tensor d{};
  if (framework.api->view_of_object(tensor, &d) != 0) {
    PyErr_Clear();
    return false;
  }
  const std::optional<Dtype> dtype = find_dlpack_dtype(d.dtype);
  if (!dtype || d.ndim > max_ndim ||
      (d.device.type != dlpack::device_cpu && d.device.type != dlpack::device_cuda))
    return false;
  View v{.data = static_cast<char*>(d.data) + d.byte_offset, .dtype = *dtype, .ndim = d.ndim};
  std::copy_n(d.shape, d.ndim, v.shape);
  int64_t expected = 1;
  for (int i = d.ndim - 1; i >= 0; --i) {
    v.strides[i] = d.strides ? d.strides[i] : expected;
    expected *= v.shape[i];
  }
  if ((!v.data && v.size() > 0) || is_negated(tensor, v)) return false;
  // The caller holds the object for as long as the array lives.
  static const auto borrowed = make_ref<Storage>(nullptr, 0, nullptr);
  *array = Array(v, borrowed, from_dlpack_device(d.device.type, d.device.id));
  return true;
}

namespace {

const std::string& name_of_operand(const Op& op, size_t i) {
  return op.schema.inputs[std::min(i, op.schema.inputs.size() - 1)].name;
}

[[noreturn]] void unreadable(const Op& op, size_t i, const std::string& dtype, size_t ndim,
                             const std::string& place) {
  fail<TypeError>(op.name(), name_of_operand(op, i), " is a tensor of ", dtype, " with ", ndim, " axes",
                  place, "; expected at most ", max_ndim,
                  " axes of bool, uint8, int32, int64, float16, bfloat16, ",
                  "float32 or float64, in memory of the CPU or a CUDA device");
}

[[noreturn]] void unreadable(const Op& op, size_t i, py::handle o) {
  if (!py::isinstance(o, framework.tensor_type))
    fail<TypeError>(op.name(), name_of_operand(op, i), " is a ", Py_TYPE(o.ptr())->tp_name,
                    "; expected a torch.Tensor");
  unreadable(op, i, py::str(o.attr("dtype")), o.attr("ndim").cast<size_t>(),
             " on " + std::string(py::str(o.attr("device"))));
}

}  // namespace

Array array_of(const Op& op, size_t operand, PyObject* tensor) {
  Array array;
  if (tensor != Py_None && (!py::isinstance(tensor, framework.tensor_type) || !read(tensor, &array)))
    unreadable(op, operand, tensor);
  return array;
}

void add_numbers(const Op& op, std::span<PyObject* const> operands, Arrays& in) {
  const Array* like = nullptr;
  for (size_t i = op.promotes_from; i < in.size() && !like; ++i)
    if (in[i]) like = &in[i];
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] || operands[i] == Py_None) continue;
    if (op.promotes != Promotion::none && like)
      in[i] = scalar_array(operands[i], like->dtype(), like->device());
    if (!in[i]) unreadable(op, i, operands[i]);
  }
}

Placement::Placement(Device device) : scope_(device) {
  if (device.is_cpu()) return;
  void* stream = nullptr;
  const dlpack::Device d = dlpack_device(device);
  if (framework.api->current_stream(d.type, d.id, &stream) != 0) raise_python_error();
  current_stream(device).use_handle(stream);
}

Placement::~Placement() {
  if (!current_device().is_cpu()) current_stream().use_handle(nullptr);
}

// --- forward -----------------------------------------------------------------------------------------------------

namespace {

// Memory for a result. On a GPU it is the framework's, whose pool is to be the only one; on the CPU frameworks have no
// pool, and Lamina's spares the page faults of fresh memory.
Array allocate(const View& view, Device device) {
  if (device.is_cpu()) return Array(view);
  // Dense memory of that size is asked for in the order that the view has in memory.
  int64_t extent = view.size();
  dlpack::Tensor prototype{nullptr, dlpack_device(device), 1, dlpack_dtype(view.dtype), &extent, nullptr, 0};
  dlpack::ManagedVersioned* managed = nullptr;
  const auto set_error = [](void*, const char*, const char* message) {
    PyErr_SetString(PyExc_RuntimeError, message);
  };
  if (framework.api->allocate(&prototype, &managed, nullptr, set_error) != 0) raise_python_error();
  View v = view;
  v.data = static_cast<char*>(managed->tensor.data) + managed->tensor.byte_offset;
  return Array(v,
               make_ref<Storage>(v.data, extent * size_of(v.dtype), [managed] { managed->deleter(managed); }),
               device);
}

py::object to_object(const Array& array) {
  void* object = nullptr;
  if (framework.api->object_from_managed(export_managed(array), &object) != 0) raise_python_error();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

int64_t bytes_of(const Inputs& in) {
  int64_t bytes = 0;
  for (const Array& x : in) bytes += x ? x.bytes() : 0;
  return bytes;
}

// Without the GIL where the work is long enough to pay for it.
template <class Work>
void run_beside_python(const Inputs& in, const Work& work) {
  if (bytes_of(in) <= gil_release_bytes) return work();
  py::gil_scoped_release release;
  work();
}

}  // namespace

py::object execute(const Op& op, const Inputs& in, const Attrs& attrs, bool keeps_for_backward,
                   Outputs& out) {
  const PauseRecording pause;  // a tape of Lamina's that is open asks for nothing here
  std::optional<KeepForBackward> keep;
  if (keeps_for_backward) keep.emplace();
  const Placement placement(device_of(op, in));
  const Inference inference = infer(op, in, attrs);
  for (const View& view : inference.views)
    out.push_back(allocate(inference.is_alias ? Spec::like(view, view.dtype) : view, inference.device));
  run_beside_python(in, [&] {
    if (inference.is_alias)  // frameworks want results that share no memory with operands
      eval_all<"copy_">({out[0], in[0].with_view(inference.views[0])});
    else
      run(op, in, attrs, inference.workspace, out);
  });
  if (out.empty()) return py::none();
  if (out.size() == 1) return to_object(out[0]);
  py::tuple objects(out.size());
  for (size_t i = 0; i < out.size(); ++i) objects[i] = to_object(out[i]);
  return objects;
}

// --- backward ----------------------------------------------------------------------------------------------------

Gradients call_vjp(const Op& op, const Inputs& in, const Inputs& out, const Attrs& attrs,
                   std::span<const bool> needs, const Inputs& dys) {
  SmallVector<int64_t, 8> slots;
  for (bool need : needs) slots.push_back(need ? 0 : -1);
  const Placement placement(device_of(op, in));
  Gradients dx;
  run_beside_python(in, [&] {
    const PauseRecording pause;
    dx = op.vjp(Saved{in, out, attrs, std::span<const int64_t>(slots.data(), slots.size()), nullptr}, dys);
  });
  return dx;
}

py::object give(const Array& array) {
  const bool is_own = array.is_unique() && array.bytes() <= array.storage()->bytes();
  return to_object(is_own ? array : eval<"clone">({array}));
}

namespace {

// --- calls -------------------------------------------------------------------------------------------------------

struct Operands {
  Operands(const Op& op, PyObject* const* args, size_t given) {
    const bool has_keep = given == op.schema.inputs.size() + op.schema.attrs.size() + 1;
    keep = has_keep && args[given - 1] == Py_True;
    const Call call(op, args, given - has_keep);
    for (PyObject* o : call.operands) arrays.push_back(array_of(op, arrays.size(), o));
    attrs = attrs_of(op, call.attrs, call.attr_count, NoneMeans::default_value);
  }
  Inputs inputs() const { return Inputs(arrays.data(), arrays.size()); }
  Arrays arrays;
  Attrs attrs;
  bool keep;
};

PyObject* call_exchanged(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject*) {
  return guarded([&] {
    const Op& op = *reinterpret_cast<OpFunction*>(self)->op;
    const Operands operands(op, args, size_t(PyVectorcall_NARGS(flagged_count)));
    Outputs out;
    return execute(op, operands.inputs(), operands.attrs, operands.keep, out).release().ptr();
  });
}

// A registered op writes none of its operands, so that compilers and transforms can reorder it: instead of the state
// that the record updates, it gives the new state behind the outputs (empty where there is none).
PyObject* call_registered(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject*) {
  return guarded([&] {
    const Op& op = *reinterpret_cast<OpFunction*>(self)->op;
    Operands operands(op, args, size_t(PyVectorcall_NARGS(flagged_count)));
    Arrays& in = operands.arrays;
    std::vector<size_t> written;
    for (size_t i = 0; i < op.schema.inputs.size(); ++i)
      if (op.schema.inputs[i].is_written) written.push_back(i);
    if (!written.empty()) {
      const Placement placement(device_of(op, operands.inputs()));
      for (size_t i : written) in[i] = in[i] ? eval<"clone">({in[i]}) : Array{};
    }
    Outputs out;
    py::object results = execute(op, operands.inputs(), operands.attrs, operands.keep, out);
    if (written.empty()) return results.release().ptr();
    py::list all = py::isinstance<py::tuple>(results) ? py::list(results) : py::list(py::make_tuple(results));
    for (size_t i : written) all.append(give(in[i] ? std::move(in[i]) : Array(Spec{Dtype::float32, {0}})));
    return py::tuple(all).release().ptr();
  });
}

Attrs registered_attrs(const Op& op, const py::tuple& values) {
  return attrs_of(op, PySequence_Fast_ITEMS(values.ptr()), values.size(), NoneMeans::default_value);
}

// What `infer` says of operands that have no memory: (shape, strides, dtype name) of every output.
py::list infer_exchanged(const std::string& name, const py::list& operands, const py::tuple& attributes,
                         bool keeps) {
  const Op& op = find_op(name);
  std::vector<Array> in;
  for (py::handle o : operands) {
    if (o.is_none()) {
      in.emplace_back();
      continue;
    }
    const auto [shape, strides, dtype] =
        o.cast<std::tuple<std::vector<int64_t>, std::vector<int64_t>, std::string>>();
    const std::optional<Dtype> known = find_dtype(dtype);
    if (!known || shape.size() > max_ndim) unreadable(op, in.size(), dtype, shape.size(), "");
    View v{.dtype = *known, .ndim = int(shape.size())};
    std::copy(shape.begin(), shape.end(), v.shape);
    std::copy(strides.begin(), strides.end(), v.strides);
    in.emplace_back(v, Ref<Storage>{}, Device{});
  }
  const PauseRecording pause;  // a tape that is open asks for nothing here
  std::optional<KeepForBackward> keep;
  if (keeps) keep.emplace();
  const Inference inference = infer(op, in, registered_attrs(op, attributes));
  py::list result;
  for (View view : inference.views) {
    if (inference.is_alias) view = Spec::like(view, view.dtype);
    result.append(py::make_tuple(std::vector<int64_t>(view.shape, view.shape + view.ndim),
                                 std::vector<int64_t>(view.strides, view.strides + view.ndim),
                                 name_of(view.dtype)));
  }
  return result;
}

// The gradients of the inputs that `needs` names, in the order of the inputs; None: there is none. An operand whose data
// the vjp does not read may be one element seen as many: `strides` holds the true ones, of all inputs, then outputs; of
// the others they are not used.
py::list vjp_exchanged(const std::string& name, const py::list& inputs, const py::list& outputs,
                       const py::list& dys, const py::list& needs, const std::vector<int64_t>& strides,
                       const py::tuple& attributes) {
  const Op& op = find_op(name);
  const auto arrays = [&](const py::list& list) {
    Arrays result;
    for (py::handle o : list) result.push_back(array_of(op, result.size(), o.ptr()));
    return result;
  };
  Arrays in = arrays(inputs), out = arrays(outputs);
  const Arrays dy = arrays(dys);
  auto stride = strides.begin();
  for (auto [group, mask] : {std::pair(&in, op.kept_inputs), std::pair(&out, op.kept_outputs)})
    for (size_t i = 0; i < group->size(); ++i) {
      Array& x = (*group)[i];
      if (!x) continue;
      View v = x.view();
      check(strides.end() - stride >= v.ndim, op.name(), strides.size(), " strides; expected one per axis");
      std::copy_n(stride, v.ndim, v.strides);
      stride += v.ndim;
      if (!is_kept(mask, i)) x = x.with_view(v).without_data();
    }
  SmallVector<bool, 8> is_needed;
  for (py::handle need : needs) is_needed.push_back(need.ptr() == Py_True);
  const Gradients dx = call_vjp(
      op, Inputs(in.data(), in.size()), Inputs(out.data(), out.size()), registered_attrs(op, attributes),
      std::span<const bool>(is_needed.data(), is_needed.size()), Inputs(dy.data(), dy.size()));
  py::list result;
  for (size_t i = 0; i < in.size(); ++i)
    result.append(is_needed[i] && i < dx.size() && dx[i] ? give(dx[i]) : py::none());
  return result;
}

void use_framework(const py::capsule& exchange_api, const py::object& tensor_type,
                   const py::object& parameter_type, const py::object& is_grad_enabled,
                   const py::object& is_autocast_enabled,
                   const std::vector<py::object>& are_transforms_active, const py::dict& forward_mode) {
  const auto* api = static_cast<const dlpack::ExchangeApi*>(
      PyCapsule_GetPointer(exchange_api.ptr(), "dlpack_exchange_api"));
  if (!api) raise_python_error();
  check<StateError>(api->version.major == 1 && api->view_of_object, "exchange",
                    "the framework speaks DLPack ", api->version.major, ".", api->version.minor,
                    "; expected 1.3 or a later 1");
  const auto held = [](const py::object& o) { return py::object(o).release(); };  // as long as the process
  framework = {.api = api,
               .tensor_type = held(tensor_type),
               .plain_types = {reinterpret_cast<PyTypeObject*>(held(tensor_type).ptr()),
                               reinterpret_cast<PyTypeObject*>(held(parameter_type).ptr())},
               .is_grad_enabled = held(is_grad_enabled),
               .is_autocast_enabled = held(is_autocast_enabled),
               .are_transforms_active = {},
               .forward_mode = held(forward_mode)};
  for (const py::object& o : are_transforms_active) framework.are_transforms_active.push_back(held(o));
}

}  // namespace

void bind_exchange(py::module_& m) {
  py::module_ exchanged = m.def_submodule("exchanged"), registered = m.def_submodule("registered");
  add_op_functions(exchanged, call_exchanged);
  add_op_functions(registered, call_registered);
  m.def("use_framework", use_framework);
  m.def("infer_exchanged", infer_exchanged);
  m.def("vjp_exchanged", vjp_exchanged);
  bind_eager(m);
}

}  // namespace lamina::python
