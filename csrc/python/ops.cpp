// The call entry of every op, derived from its record: lamina._C.<name>(inputs..., attributes...), all positional, in
// the order of the schema. lamina/functional.py gives each a signature and a docstring.
#include <pybind11/stl.h>
#include <structmember.h>

#include "python/op_function.h"
#include "python/tensor_type.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

Attr to_attr(const Op& op, const AttrSpec& spec, PyObject* o) {
  using Kind = AttrSpec::Kind;
  if (o == Py_None && spec.is_optional) return None{};
  const auto wrong_kind = [&](const char* expected) {
    fail<TypeError>(op.name(), spec.name, " is ", std::string(py::str(py::repr(o))), "; expected ", expected);
  };
  const auto integer = [&](PyObject* i, const char* expected) {
    if (!PyIndex_Check(i)) wrong_kind(expected);
    const int64_t value = PyNumber_AsSsize_t(i, PyExc_OverflowError);
    if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
    return value;
  };
  switch (spec.kind) {
    case Kind::integer:
      return integer(o, "an integer");
    case Kind::boolean:
      if (!PyBool_Check(o)) wrong_kind("True or False");
      return o == Py_True;
    case Kind::real: {
      if (!PyFloat_Check(o) && !PyNumber_Check(o)) wrong_kind("a number");
      const double value = PyFloat_AsDouble(o);
      if (value == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        wrong_kind("a number");
      }
      return value;
    }
    case Kind::string: {
      const char* text = PyUnicode_Check(o) ? PyUnicode_AsUTF8(o) : nullptr;
      if (!text) wrong_kind("a string");
      return std::string(text);
    }
    case Kind::dtype:
      return parse_dtype(o);
    case Kind::ints: {
      const char* expected =
          spec.count ? "an integer or a tuple of integers, one per axis" : "a tuple of integers";
      Ints values;
      if (PyTuple_Check(o) || PyList_Check(o)) {
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(o); ++i)
          values.push_back(integer(PySequence_Fast_GET_ITEM(o, i), expected));
        check(!spec.count || int(values.size()) == spec.count, op.name(), spec.name, " has ", values.size(),
              " integers; expected ", spec.count);
      } else {
        const int64_t value = integer(o, expected);
        for (int i = 0; i < std::max(1, spec.count); ++i) values.push_back(value);
      }
      return values;
    }
  }
  __builtin_unreachable();
}

}  // namespace

Attrs attrs_of(const Op& op, PyObject* const* args, size_t given, NoneMeans none_means) {
  const Schema& schema = op.schema;
  if (schema.attrs.empty()) return {};
  AttrList values;
  values.reserve(schema.attrs.size());
  for (size_t i = 0; i < schema.attrs.size(); ++i) {
    const AttrSpec& spec = schema.attrs[i];
    const bool is_default =
        i >= given || (none_means == NoneMeans::default_value && args[i] == Py_None && !spec.is_optional);
    values.push_back(is_default ? spec.default_value : to_attr(op, spec, args[i]));
  }
  return Attrs(schema, std::move(values));
}

namespace {

// The arguments of one call; scalars have storage of their own here.
struct Arguments {
  SmallVector<const Tensor*, 8> inputs;
  SmallVector<Tensor, 2> scalars;
  int64_t bytes = 0;

  void add(const Tensor* tensor) {
    inputs.push_back(tensor);
    if (tensor) bytes += tensor->array.bytes();
  }
};

// An operand that is no Tensor: perhaps an array of another library (lamina/foreign.py).
struct Stranger {
  const InputSpec& spec;
  PyObject* operand;
};

void add_input(const Op& op, const InputSpec& spec, PyObject* o, Arguments& arguments) {
  if (is_tensor(o)) return arguments.add(&tensor_of(o));
  if (o == Py_None && spec.is_optional) return arguments.add(nullptr);
  if (op.promotes != Promotion::none)
    arguments.scalars.back().array =
        scalar_array(o, arguments.scalars.back().array.dtype(), arguments.scalars.back().array.device());
  if (op.promotes == Promotion::none || !arguments.scalars.back().array) throw Stranger{spec, o};
  arguments.add(&arguments.scalars.back());
}

PyObject* call_on_tensors(const Op& op, PyObject* const* args, size_t flagged_count, PyObject* keywords) {
  const Schema& schema = op.schema;
  const size_t given = size_t(PyVectorcall_NARGS(flagged_count));
  check<TypeError>(!keywords || PyTuple_GET_SIZE(keywords) == 0, op.name(),
                   "keywords are for lamina.functional; expected positional arguments");
  check<TypeError>(given <= schema.inputs.size() + schema.attrs.size(), op.name(), given,
                   " arguments; expected ", op.schema_text);

  Arguments arguments;
  // A Python number among the inputs takes the dtype and device of the first tensor.
  Dtype scalar_dtype = Dtype::float32;
  Device scalar_device;
  if (op.promotes != Promotion::none) {
    for (size_t i = 0; i < given && i < schema.inputs.size(); ++i)
      if (is_tensor(args[i])) {
        scalar_dtype = tensor_of(args[i]).array.dtype();
        scalar_device = tensor_of(args[i]).array.device();
        break;
      }
    arguments.scalars.reserve(schema.inputs.size());
  }
  for (size_t i = 0; i < schema.inputs.size(); ++i) {
    const InputSpec& spec = schema.inputs[i];
    if (i >= given) {
      check<TypeError>(spec.is_optional, op.name(), spec.name, " is missing; expected ", op.schema_text);
      arguments.add(nullptr);
    } else if (spec.is_variadic) {
      check<TypeError>(PyTuple_Check(args[i]) || PyList_Check(args[i]), op.name(), spec.name, " is a ",
                       Py_TYPE(args[i])->tp_name, "; expected a list or tuple of lamina.Tensor");
      for (Py_ssize_t k = 0; k < PySequence_Fast_GET_SIZE(args[i]); ++k)
        add_input(op, spec, PySequence_Fast_GET_ITEM(args[i], k), arguments);
    } else {
      if (op.promotes != Promotion::none && !is_tensor(args[i])) {
        Tensor number;  // of the right dtype and device; its value comes with add_input
        number.array = Array(View{.dtype = scalar_dtype}, {}, scalar_device);
        arguments.scalars.push_back(std::move(number));
      }
      add_input(op, spec, args[i], arguments);
    }
  }
  const size_t n = schema.inputs.size();
  const Attrs attrs = attrs_of(op, args + n, given > n ? given - n : 0);

  const std::span<const Tensor* const> inputs(arguments.inputs.data(), arguments.inputs.size());
  Tensors out;
  if (arguments.bytes > gil_release_bytes) {
    py::gil_scoped_release release;
    out = apply(op, inputs, attrs);
  } else {
    out = apply(op, inputs, attrs);
  }
  if (out.size() == 1) return wrap(std::move(out[0]));
  if (out.empty()) return Py_NewRef(Py_None);
  py::tuple results(out.size());
  for (size_t i = 0; i < out.size(); ++i)
    PyTuple_SET_ITEM(results.ptr(), Py_ssize_t(i), wrap(std::move(out[i])));
  return results.release().ptr();
}

PyObject* call_on_strangers(PyObject* self, const Op& op, PyObject* const* args, size_t given,
                            const Stranger& stranger) {
  static const py::handle foreign = py::module_::import("lamina.foreign").release();
  if (foreign.attr("kind_of")(py::handle(stranger.operand)).is_none())
    fail<TypeError>(op.name(), stranger.spec.name, " is a ", Py_TYPE(stranger.operand)->tp_name,
                    "; expected a lamina.Tensor", stranger.spec.is_optional ? " or None" : "",
                    " (lamina.tensor(data) makes one)");
  py::tuple arguments(given), written(op.schema.inputs.size());
  for (size_t i = 0; i < given; ++i) arguments[i] = py::reinterpret_borrow<py::object>(args[i]);
  for (size_t i = 0; i < written.size(); ++i) written[i] = op.schema.inputs[i].is_written;
  return foreign.attr("call")(py::handle(self), op.name(), arguments, written).release().ptr();
}

PyObject* call(PyObject* self, PyObject* const* args, size_t flagged_count, PyObject* keywords) {
  return guarded([&] {
    const Op& op = *reinterpret_cast<OpFunction*>(self)->op;
    try {
      return call_on_tensors(op, args, flagged_count, keywords);
    } catch (const Stranger& stranger) {
      return call_on_strangers(self, op, args, size_t(PyVectorcall_NARGS(flagged_count)), stranger);
    }
  });
}

PyObject* represent(PyObject* self) {
  const std::string_view text = reinterpret_cast<OpFunction*>(self)->op->schema_text;
  return PyUnicode_FromFormat("<op %.*s>", int(text.size()), text.data());
}

void destroy_op(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  type->tp_free(self);
  Py_DECREF(type);
}

PyMemberDef op_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(OpFunction, call), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

py::object to_python(const Attr& attr) {
  return std::visit(
      [](const auto& value) -> py::object {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, None>)
          return py::none();
        else if constexpr (std::is_same_v<T, Dtype>)
          return dtype_object(value);
        else if constexpr (std::is_same_v<T, Ints>)
          return py::tuple(py::cast(std::vector<int64_t>(value.begin(), value.end())));
        else
          return py::cast(value);
      },
      attr);
}

// The records as Python data, for tests, documentation and bridges.
py::dict schemas() {
  py::dict result;
  for (const Op* op : all_ops()) {
    py::list inputs, attrs;
    for (const InputSpec& i : op->schema.inputs)
      inputs.append(py::dict(py::arg("name") = i.name, py::arg("optional") = i.is_optional,
                             py::arg("written") = i.is_written, py::arg("variadic") = i.is_variadic));
    for (const AttrSpec& a : op->schema.attrs) {
      static const char* kinds[] = {"int", "float", "bool", "str", "dtype", "ints"};
      attrs.append(py::dict(py::arg("name") = a.name, py::arg("type") = kinds[int(a.kind)],
                            py::arg("count") = a.count, py::arg("optional") = a.is_optional,
                            py::arg("default") = to_python(a.default_value)));
    }
    result[py::str(op->name())] =
        py::dict(py::arg("schema") = std::string(op->schema_text), py::arg("inputs") = inputs,
                 py::arg("attrs") = attrs, py::arg("outputs") = py::cast(op->schema.outputs),
                 py::arg("promotes") = op->promotes == Promotion::none     ? "none"
                                       : op->promotes_from > 0             ? "common after the first"
                                       : op->promotes == Promotion::common ? "common"
                                                                           : "floating",
                 py::arg("kept_inputs") = op->kept_inputs, py::arg("kept_outputs") = op->kept_outputs,
                 py::arg("differentiable") = op->vjp != nullptr);
  }
  return result;
}

PyTypeObject* op_function_type() {
  static PyTypeObject* const type = [] {
    PyType_Slot slots[] = {{Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                           {Py_tp_repr, reinterpret_cast<void*>(represent)},
                           {Py_tp_dealloc, reinterpret_cast<void*>(destroy_op)},
                           {Py_tp_members, op_members},
                           {0, nullptr}};
    PyType_Spec spec = {"lamina.OpFunction", sizeof(OpFunction), 0,
                        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
                        slots};
    return reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  }();
  if (!type) throw py::error_already_set();
  return type;
}

}  // namespace

void add_op_functions(py::module_& m, vectorcallfunc call) {
  PyTypeObject* type = op_function_type();
  for (const Op* op : all_ops()) {
    auto* function = reinterpret_cast<OpFunction*>(type->tp_alloc(type, 0));
    if (!function) throw py::error_already_set();
    function->call = call;
    function->op = op;
    m.attr(op->name().c_str()) = py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(function));
  }
}

void bind_ops(py::module_& m) {
  add_op_functions(m, call);
  m.def("schemas", schemas);
}

}  // namespace lamina::python
