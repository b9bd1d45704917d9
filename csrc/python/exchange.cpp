// Ops on the tensors of a framework that has the DLPack exchange API (PyTorch): operands are read where they lie,
// results are allocated by the framework, and work on a GPU goes to its current stream. Gradients are the framework's:
// lamina/torch/ connects these calls to its autograd.
//
//   lamina._C.exchanged.<op>(inputs..., attributes..., keep=False)    all positional, in the order of the schema
//
// `keep` asks for the outputs that a backward pass needs (as an open tape does for Lamina's own tensors).
#include <pybind11/stl.h>

#include "interop/dlpack.h"
#include "python/op_function.h"
#include "python/tensor_type.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

const dlpack::ExchangeApi* api = nullptr;

[[noreturn]] void raise_python_error() { throw py::error_already_set(); }

Array array_of(const Op& op, PyObject* o) {
  dlpack::Tensor d{};
  if (api->view_of_object(o, &d) != 0) raise_python_error();
  check(d.ndim <= max_ndim, op.name(), "an operand has ", d.ndim, " axes; expected at most ", max_ndim);
  View v{.data = static_cast<char*>(d.data) + d.byte_offset,
         .dtype = from_dlpack_dtype(d.dtype),
         .ndim = d.ndim};
  std::copy_n(d.shape, d.ndim, v.shape);
  int64_t expected = 1;
  for (int i = d.ndim - 1; i >= 0; --i) {
    v.strides[i] = d.strides ? d.strides[i] : expected;
    expected *= v.shape[i];
  }
  // The caller holds the object for as long as the array lives.
  return Array(v, make_ref<Storage>(v.data, v.size() * size_of(v.dtype), [] {}),
               from_dlpack_device(d.device.type, d.device.id));
}

Array operand_of(const Op& op, PyObject* o) { return o == Py_None ? Array{} : array_of(op, o); }

// A result on its way to the framework: its memory is the framework's, its shape and strides are given by the view.
struct Result {
  dlpack::ManagedVersioned* managed;
  Array array;
};

Result allocate(const View& view, Device device) {
  // Dense memory of that size is asked for in the order that the view has in memory.
  int64_t extent = view.size();
  dlpack::Tensor prototype{nullptr, dlpack_device(device), 1, dlpack_dtype(view.dtype), &extent, nullptr, 0};
  dlpack::ManagedVersioned* managed = nullptr;
  const auto set_error = [](void*, const char*, const char* message) {
    PyErr_SetString(PyExc_RuntimeError, message);
  };
  if (api->allocate(&prototype, &managed, nullptr, set_error) != 0) raise_python_error();
  View v = view;
  v.data = static_cast<char*>(managed->tensor.data) + managed->tensor.byte_offset;
  return {managed, Array(v, make_ref<Storage>(v.data, v.size() * size_of(v.dtype), [] {}), device)};
}

PyObject* to_object(const Result& result) {
  View v = result.array.view();
  dlpack::Tensor& t = result.managed->tensor;
  t.ndim = v.ndim;
  t.shape = v.shape;
  t.strides = v.strides;
  void* object = nullptr;
  if (api->object_from_managed(result.managed, &object) != 0) raise_python_error();
  return static_cast<PyObject*>(object);
}

// Work of this thread on a GPU goes to the framework's current stream while this lives.
class OnItsStream {
 public:
  explicit OnItsStream(Device device) : device_(device) {
    if (device.is_cpu()) return;
    void* stream = nullptr;
    const dlpack::Device d = dlpack_device(device);
    if (api->current_stream(d.type, d.id, &stream) != 0) raise_python_error();
    current_stream(device).use_handle(stream);
  }
  ~OnItsStream() {
    if (!device_.is_cpu()) current_stream(device_).use_handle(nullptr);
  }

 private:
  Device device_;
};

PyObject* tuple_or_single(const std::vector<PyObject*>& results) {
  if (results.empty()) return Py_NewRef(Py_None);
  if (results.size() == 1) return results[0];
  PyObject* tuple = PyTuple_New(Py_ssize_t(results.size()));
  for (size_t i = 0; i < results.size(); ++i) PyTuple_SET_ITEM(tuple, Py_ssize_t(i), results[i]);
  return tuple;
}

PyObject* call_exchanged(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject*) {
  return guarded([&]() -> PyObject* {
    const Op& op = *reinterpret_cast<OpFunction*>(self)->op;
    const Schema& schema = op.schema;
    const size_t given = size_t(PyVectorcall_NARGS(flagged_count));
    const size_t expected = schema.inputs.size() + schema.attrs.size();
    check<TypeError>(given == expected || given == expected + 1, op.name(), given, " arguments; expected ",
                     op.schema_text);
    SmallVector<Array, 8> in;
    for (size_t i = 0; i < schema.inputs.size(); ++i) {
      if (!schema.inputs[i].is_variadic) {
        in.push_back(operand_of(op, args[i]));
        continue;
      }
      for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(args[i]); ++k)
        in.push_back(operand_of(op, PySequence_Fast_GET_ITEM(args[i], k)));
    }
    const Attrs attrs = attrs_of(op, args + schema.inputs.size(), schema.attrs.size());
    const Inputs inputs(in.data(), in.size());
    std::optional<KeepForBackward> keep;
    if (given > expected && args[expected] == Py_True) keep.emplace();

    const DeviceScope scope(device_of(op, inputs));
    const OnItsStream stream(current_device());
    const Inference inference = infer(op, inputs, attrs);
    SmallVector<Result, 4> results;
    Outputs out;
    for (const View& view : inference.views) {
      results.push_back(allocate(inference.is_alias ? Spec::like(view, view.dtype) : view, inference.device));
      out.push_back(results.back().array);
    }
    int64_t bytes = 0;
    for (const Array& x : in) bytes += x ? x.bytes() : 0;
    const auto work = [&] {
      if (inference.is_alias)  // frameworks want results that share no memory with operands
        eval_all<"copy_">({out[0], in[0].with_view(inference.views[0])});
      else
        run(op, inputs, attrs, inference.workspace, out);
    };
    if (bytes > gil_release_bytes) {
      py::gil_scoped_release release;
      work();
    } else {
      work();
    }
    std::vector<PyObject*> objects;
    for (const Result& result : results) objects.push_back(to_object(result));
    return tuple_or_single(objects);
  });
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
    View v{.dtype = parse_dtype(py::str(dtype)), .ndim = int(shape.size())};
    check(v.ndim <= max_ndim, op.name(), "an operand has ", v.ndim, " axes; expected at most ", max_ndim);
    std::copy(shape.begin(), shape.end(), v.shape);
    std::copy(strides.begin(), strides.end(), v.strides);
    in.emplace_back(v, Ref<Storage>{}, Device{});
  }
  std::vector<PyObject*> raw;
  for (py::handle a : attributes) raw.push_back(a.ptr());
  const PauseRecording pause;  // a tape that is open asks for nothing here
  std::optional<KeepForBackward> keep;
  if (keeps) keep.emplace();
  const Inference inference = infer(op, in, attrs_of(op, raw.data(), raw.size()));
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
// the vjp does not read may be one element seen as many: `strides` holds the true ones, of all inputs, then outputs.
py::list vjp_exchanged(const std::string& name, const py::list& inputs, const py::list& outputs,
                       const py::list& dys, const std::vector<bool>& needs,
                       const std::vector<int64_t>& strides, const py::tuple& attributes) {
  const Op& op = find_op(name);
  const auto arrays = [&](const py::list& list) {
    std::vector<Array> result;
    for (py::handle o : list) result.push_back(operand_of(op, o.ptr()));
    return result;
  };
  std::vector<Array> in = arrays(inputs), out = arrays(outputs);
  const std::vector<Array> dy = arrays(dys);
  auto stride = strides.begin();
  for (std::vector<Array>* group : {&in, &out})
    for (Array& x : *group) {
      if (!x) continue;
      View v = x.view();
      check(strides.end() - stride >= v.ndim, op.name(), strides.size(), " strides; expected one per axis");
      std::copy_n(stride, v.ndim, v.strides);
      stride += v.ndim;
      x = x.with_view(v);
    }
  std::vector<PyObject*> raw;
  for (py::handle a : attributes) raw.push_back(a.ptr());
  const Attrs attrs = attrs_of(op, raw.data(), raw.size());
  std::vector<int64_t> slots;
  for (bool need : needs) slots.push_back(need ? 0 : -1);
  const DeviceScope scope(device_of(op, in));
  const OnItsStream stream(current_device());
  Gradients dx;
  {
    py::gil_scoped_release release;
    const PauseRecording pause;
    dx = op.vjp(Saved{in, out, attrs, slots, nullptr}, dy);
  }
  py::list result;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!needs[i] || i >= dx.size() || !dx[i]) {
      result.append(py::none());
      continue;
    }
    // A vjp may pass dy on as it was, whose memory is not ours to give away.
    const Array own = dx[i].storage()->is_foreign() ? eval<"clone">({dx[i]}) : dx[i];
    void* object = nullptr;
    if (api->object_from_managed(export_managed(own), &object) != 0) raise_python_error();
    result.append(py::reinterpret_steal<py::object>(static_cast<PyObject*>(object)));
  }
  return result;
}

void use_exchange_api(const py::capsule& capsule) {
  const auto* found =
      static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (!found) raise_python_error();
  check<StateError>(found->version.major == 1 && found->view_of_object, "exchange",
                    "the framework speaks DLPack ", found->version.major, ".", found->version.minor,
                    "; expected 1.3 or a later 1");
  api = found;
}

}  // namespace

void bind_exchange(py::module_& m) {
  py::module_ exchanged = m.def_submodule("exchanged");
  add_op_functions(exchanged, call_exchanged);
  m.def("use_exchange_api", use_exchange_api);
  m.def("infer_exchanged", infer_exchanged);
  m.def("vjp_exchanged", vjp_exchanged);
}

}  // namespace lamina::python
