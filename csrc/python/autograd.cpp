// Tape, Program and Python Functions.
#include <pybind11/stl.h>

#include "python/tensor_type.h"

namespace py = pybind11;

// Intrusive pointers as pybind11 holders.
PYBIND11_DECLARE_HOLDER_TYPE(T, lamina::Ref<T>, true);

namespace lamina::python {
namespace {

Array seed_of(const py::object& gradient) {
  if (gradient.is_none()) return {};
  return gradient.cast<Tensor>().array;
}

void backward(Tape& tape, const Tensor& y, const py::object& gradient, bool accumulate,
              const py::object& params) {
  std::vector<Leaf*> only;
  if (!params.is_none())
    for (py::handle p : params) {
      check<TypeError>(is_tensor(p.ptr()), "backward", "params holds a ", Py_TYPE(p.ptr())->tp_name,
                       "; expected parameters or watched tensors");
      only.push_back(tensor_of(p.ptr()).leaf.get());
    }
  Array seed = seed_of(gradient);
  py::gil_scoped_release release;
  tape.backward(y, std::move(seed), accumulate, only, !params.is_none());
}

py::list gradient(Tape& tape, const Tensor& y, const std::vector<Tensor>& xs, const py::object& dy) {
  Array seed = seed_of(dy);
  std::vector<Array> grads;
  {
    py::gil_scoped_release release;
    grads = tape.gradient(y, std::move(seed), xs);
  }
  py::list result;
  for (Array& grad : grads) {
    if (!grad) {
      result.append(py::none());
      continue;
    }
    Tensor t;
    t.array = std::move(grad);
    result.append(std::move(t));
  }
  return result;
}

// The vjp of a Function written in Python: a callable that takes and gives tensors or None.
struct Callable : RefCounted {
  explicit Callable(py::object f) : function(std::move(f)) {}
  ~Callable() override {
    py::gil_scoped_acquire gil;
    function = {};
  }
  py::object function;
};

Gradients call_python_vjp(const Saved& saved, const Inputs& dy) {
  py::gil_scoped_acquire gil;
  py::tuple args(dy.size());
  for (size_t i = 0; i < dy.size(); ++i) {
    Tensor t;
    t.array = dy[i];
    args[i] = dy[i] ? py::cast(t) : py::none();
  }
  py::object result = static_cast<Callable*>(saved.payload)->function(*args);
  py::tuple grads = py::isinstance<py::tuple>(result) ? result.cast<py::tuple>() : py::make_tuple(result);
  check(grads.size() == saved.in.size(), "Function", "vjp returned ", grads.size(), " gradients; expected ",
        saved.in.size(), ", one per input");
  Gradients dx;
  for (size_t i = 0; i < grads.size(); ++i) {
    if (grads[i].is_none()) {
      dx.push_back({});
      continue;
    }
    const Array& g = grads[i].cast<Tensor>().array;
    check(g.shape() == saved.in[i].shape() && g.dtype() == saved.in[i].dtype(), "Function", "gradient ", i,
          " is ", g.view(), " ", g.dtype(), "; expected ", saved.in[i].view(), " ", saved.in[i].dtype(),
          " as the input");
    dx.push_back(g);
  }
  return dx;
}

// Appends a call of a Python Function to the open tape; gives the outputs as tensors on the tape.
std::vector<Tensor> record_function(const std::vector<Tensor>& inputs, std::vector<Tensor> outputs,
                                    py::object vjp) {
  static const Op op = [] {
    Op o;
    o.schema_text = "function(xs...) -> ys";
    o.vjp = call_python_vjp;
    o.schema = Schema::parse(o.schema_text);
    return o;
  }();
  for (Tensor& y : outputs) {  // fresh tensors: the memory of y, nothing else of it
    Array array = y.array;
    y = {};
    y.array = std::move(array);
  }
  Tape* tape = Tape::current();
  if (!tape) return outputs;
  Tape::Arrays in, out;
  Tape::Slots in_slots;
  bool is_watched = false;
  for (const Tensor& x : inputs) {
    in.push_back(x.array);
    in_slots.push_back(tape->slot_of(x));
    is_watched |= in_slots.back() >= 0;
  }
  if (!is_watched) return outputs;
  for (const Tensor& y : outputs) out.push_back(y.array);
  const Tape::Slots& slots =
      tape->append(op, {}, std::move(in), std::move(in_slots), out, make_ref<Callable>(std::move(vjp)));
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (slots[i] < 0) continue;
    outputs[i].tape = tape->id();
    outputs[i].slot = slots[i];
  }
  return outputs;
}

}  // namespace

void bind_autograd(py::module_& m) {
  py::class_<Tape, Ref<Tape>>(m, "Tape")
      .def(py::init([] { return make_ref<Tape>(); }))
      .def("__enter__",
           [](py::object self) {
             self.cast<Tape&>().open();
             return self;
           })
      .def("__exit__", [](Tape& tape, const py::args&) { tape.close(); })
      .def("__len__", &Tape::size)
      .def(
          "watch",
          [](Tape& tape, py::handle x) {
            check<TypeError>(is_tensor(x.ptr()), "watch", "x is a ", Py_TYPE(x.ptr())->tp_name,
                             "; expected a lamina.Tensor");
            tape.watch(tensor_of(x.ptr()));
          },
          py::arg("x"))
      .def("backward", backward, py::arg("y"), py::arg("gradient") = py::none(), py::kw_only(),
           py::arg("accumulate") = false, py::arg("params") = py::none())
      .def("gradient", gradient, py::arg("y"), py::arg("xs"), py::arg("dy") = py::none());
  m.def("watch_as_parameter", [](py::handle x) {
    Tensor& t = tensor_of(x.ptr());
    check<TypeError>(is_floating(t.array.dtype()), "Parameter", "the tensor is ", t.array.dtype(),
                     "; expected a floating dtype");
    t.leaf = make_ref<Leaf>();
  });
  // Replaces what a parameter holds: shape and dtype may change, its identity and frozen state do not.
  m.def("rebind", [](py::handle x, const Tensor& data) {
    Tensor& t = tensor_of(x.ptr());
    t.array = data.array;
    t.tape = 0;
    t.slot = -1;
    if (t.leaf) t.leaf->grad = {};
  });
  m.def("record_function", record_function);

  py::class_<PauseRecording, std::unique_ptr<PauseRecording>>(m, "PauseRecording").def(py::init<>());

  py::class_<Program, Ref<Program>>(m, "Program")
      .def(py::init([] { return make_ref<Program>(); }))
      .def("__len__", &Program::size)
      .def("begin", [](py::object self) { Stream::begin_recording(self.cast<Ref<Program>>()); })
      .def("end", [](Program&) { Stream::end_recording(); })
      .def("run", &Program::run, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("memory_bytes", [](const Program& p) { return p.memory_bytes(); });
  m.def("is_recording", [] { return Stream::is_recording(); });
}

}  // namespace lamina::python
