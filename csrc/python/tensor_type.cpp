#include "python/tensor_type.h"

#include <structmember.h>

#include <new>

namespace py = pybind11;

namespace lamina::python {

PyTypeObject* tensor_type = nullptr;

PyObject* wrap(Tensor tensor) {
  PyObject* self = tensor_type->tp_alloc(tensor_type, 0);
  if (!self) throw py::error_already_set();
  new (&tensor_of(self)) Tensor(std::move(tensor));
  return self;
}

void set_python_error(std::exception_ptr error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (py::error_already_set& e) {
    e.restore();
  } catch (const TypeError& e) {
    PyErr_SetString(PyExc_TypeError, e.what());
  } catch (const std::invalid_argument& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError, "lamina: the system has no memory of that size");
  } catch (const std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, e.what());
  }
}

void check_readable(const char* what) {
  check<StateError>(
      !Stream::is_recording(), what,
      "values cannot be read while a program is recorded; return the tensor from the recorded function "
      "and read it there");
}

Array on_host(const Array& a) {
  return a.device().is_cpu() ? a : eval<"to_device">({a}, {{"device", std::string("cpu")}});
}

Array scalar_array(PyObject* o, Dtype dtype, Device device) {
  double real = 0;
  int64_t integer = 0;
  if (PyFloat_Check(o)) {
    real = PyFloat_AS_DOUBLE(o);
    integer = int64_t(real);
    if (!is_floating(dtype)) dtype = Dtype::float32;
  } else if (PyLong_Check(o) || (PyIndex_Check(o) && !PyObject_HasAttrString(o, "__dlpack__"))) {
    integer = PyNumber_AsSsize_t(o, PyExc_OverflowError);
    if (integer == -1 && PyErr_Occurred()) throw py::error_already_set();
    real = double(integer);
    if (dtype == Dtype::boolean && !PyBool_Check(o)) dtype = Dtype::int64;
  } else if (PyNumber_Check(o) && PyObject_HasAttrString(o, "dtype") &&
             !PyObject_HasAttrString(o, "__len__")) {
    py::object as_float = py::reinterpret_steal<py::object>(PyNumber_Float(o));  // a NumPy scalar
    if (!as_float) throw py::error_already_set();
    return scalar_array(as_float.ptr(), dtype, device);
  } else {
    return {};
  }
  const DeviceScope scope(device);
  if (!device.is_cpu()) return eval<"full">({}, {{"value", real}, {"dtype", dtype}});
  Array a(Spec{dtype, {}});
  dispatch_any(dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    if constexpr (dtype_of<T> >= Dtype::float16)
      *a.view().as<T>() = narrow<T>(Compute<T>(real));
    else
      *a.view().as<T>() = T(integer);
  });
  current_stream().retain(Ref<RefCounted>(a.storage().get()));
  return a;
}

namespace {

// --- operators ---------------------------------------------------------------------------------------------------

PyObject* apply1(const Op& op, PyObject* x, const Attrs& attrs) {
  return guarded([&] {
    const Tensor* input = &tensor_of(x);
    return wrap(std::move(apply(op, std::span(&input, 1), attrs)[0]));
  });
}

PyObject* apply2(const Op& op, PyObject* a, PyObject* b, const Attrs& attrs) {
  return guarded([&]() -> PyObject* {
    Tensor scalar;
    const Tensor* in[2];
    for (int i = 0; i < 2; ++i) {
      PyObject* o = i == 0 ? a : b;
      if (is_tensor(o)) {
        in[i] = &tensor_of(o);
        continue;
      }
      const Array& other = tensor_of(i == 0 ? b : a).array;
      scalar.array = scalar_array(o, other.dtype(), other.device());
      if (!scalar.array) {
        Py_INCREF(Py_NotImplemented);
        return Py_NotImplemented;
      }
      in[i] = &scalar;
    }
    Tensors out;
    if (in[0]->array.bytes() + in[1]->array.bytes() > gil_release_bytes) {
      py::gil_scoped_release release;
      out = apply(op, in, attrs);
    } else {
      out = apply(op, in, attrs);
    }
    return wrap(std::move(out[0]));
  });
}

template <OpName name>
PyObject* unary(PyObject* x) {
  static const Op& op = find_op(name.text);
  static const Attrs defaults = make_attrs(op, {});
  return apply1(op, x, defaults);
}
template <OpName name>
PyObject* binary(PyObject* a, PyObject* b) {
  static const Op& op = find_op(name.text);
  static const Attrs defaults = make_attrs(op, {});
  return apply2(op, a, b, defaults);
}
PyObject* power(PyObject* a, PyObject* b, PyObject*) { return binary<"pow">(a, b); }

PyObject* positive(PyObject* x) { return Py_NewRef(x); }

PyObject* compare(PyObject* a, PyObject* b, int how) {
  switch (how) {
    case Py_EQ:
      return binary<"eq">(a, b);
    case Py_NE:
      return binary<"ne">(a, b);
    case Py_LT:
      return binary<"lt">(a, b);
    case Py_LE:
      return binary<"le">(a, b);
    case Py_GT:
      return binary<"gt">(a, b);
    default:
      return binary<"ge">(a, b);
  }
}

// --- values ------------------------------------------------------------------------------------------------------

PyObject* item_of(const Array& array) {
  check_readable("item");
  check(array.size() == 1, "item", "the tensor has shape ", array.view(), "; expected one element");
  const Array a = on_host(array);
  PyObject* result = nullptr;
  dispatch_any(a.dtype(), [&](auto t) {
    using T = typename decltype(t)::type;
    const auto value = widen(*a.view().as<T>());
    if constexpr (std::is_same_v<T, bool>)
      result = PyBool_FromLong(value);
    else if constexpr (std::is_floating_point_v<decltype(value + 0)>)
      result = PyFloat_FromDouble(double(value));
    else
      result = PyLong_FromLongLong(value);
  });
  return result;
}

PyObject* item(PyObject* self, PyObject*) {
  return guarded([&] { return item_of(tensor_of(self).array); });
}
PyObject* as_float(PyObject* self) {
  return guarded([&] {
    py::object value = py::reinterpret_steal<py::object>(item_of(tensor_of(self).array));
    return PyNumber_Float(value.ptr());
  });
}
PyObject* as_int(PyObject* self) {
  return guarded([&] {
    py::object value = py::reinterpret_steal<py::object>(item_of(tensor_of(self).array));
    return PyNumber_Long(value.ptr());
  });
}
PyObject* as_index(PyObject* self) {
  return guarded([&] {
    const Array& a = tensor_of(self).array;
    check<TypeError>(!is_floating(a.dtype()), "index", "the tensor is ", a.dtype(), "; expected an integer");
    return item_of(a);
  });
}
int as_bool(PyObject* self) {
  py::object value = py::reinterpret_steal<py::object>(item(self, nullptr));
  return value ? PyObject_IsTrue(value.ptr()) : -1;
}

// Comparison is by element, so sets and dictionaries of tensors go by identity.
Py_hash_t hash_by_identity(PyObject* self) { return PyBaseObject_Type.tp_hash(self); }

Py_ssize_t length(PyObject* self) {
  const Array& a = tensor_of(self).array;
  if (a.ndim() > 0) return Py_ssize_t(a.dim(0));
  PyErr_SetString(PyExc_TypeError, "len: the tensor is 0-d; expected at least one axis");
  return -1;
}

// --- attributes --------------------------------------------------------------------------------------------------

PyObject* tuple_of(const int64_t* values, int n) {
  PyObject* t = PyTuple_New(n);
  for (int i = 0; t && i < n; ++i) PyTuple_SET_ITEM(t, i, PyLong_FromLongLong(values[i]));
  return t;
}
PyObject* get_shape(PyObject* self, void*) {
  const View& v = tensor_of(self).array.view();
  return tuple_of(v.shape, v.ndim);
}
PyObject* get_strides(PyObject* self, void*) {
  const View& v = tensor_of(self).array.view();
  return tuple_of(v.strides, v.ndim);
}
PyObject* get_ndim(PyObject* self, void*) { return PyLong_FromLong(tensor_of(self).array.ndim()); }
PyObject* get_size(PyObject* self, void*) { return PyLong_FromLongLong(tensor_of(self).array.size()); }
PyObject* get_nbytes(PyObject* self, void*) { return PyLong_FromLongLong(tensor_of(self).array.bytes()); }
PyObject* get_data_ptr(PyObject* self, void*) {
  return PyLong_FromVoidPtr(tensor_of(self).array.view().data);
}
PyObject* get_dtype(PyObject* self, void*) {
  return guarded([&] { return dtype_object(tensor_of(self).array.dtype()).release().ptr(); });
}
PyObject* get_device(PyObject* self, void*) {
  return PyUnicode_FromString(name_of(tensor_of(self).array.device()).c_str());
}
PyObject* get_transposed(PyObject* self, void*) {
  return guarded([&] {
    static const Op& op = find_op("permute");
    const int n = tensor_of(self).array.ndim();
    Ints dims;
    for (int i = n - 1; i >= 0; --i) dims.push_back(i);
    return apply1(op, self, make_attrs(op, {{"dims", dims}}));
  });
}
PyObject* get_grad(PyObject* self, void*) {
  const Ref<Leaf>& leaf = tensor_of(self).leaf;
  if (!leaf || !leaf->grad) Py_RETURN_NONE;
  return guarded([&] {
    Tensor grad;
    grad.array = leaf->grad;
    return wrap(std::move(grad));
  });
}
int set_grad(PyObject* self, PyObject* value, void*) {
  PyObject* done = guarded([&] {
    Tensor& tensor = tensor_of(self);
    check<StateError>(bool(tensor.leaf), "grad",
                      "the tensor is not a parameter and not watched; expected one that is");
    if (!value || value == Py_None) {
      tensor.leaf->grad = {};
    } else {
      check<TypeError>(is_tensor(value), "grad", "the value is a ", Py_TYPE(value)->tp_name,
                       "; expected a Tensor or None");
      const Array& grad = tensor_of(value).array;
      check(grad.shape() == tensor.array.shape() && grad.dtype() == tensor.array.dtype(), "grad",
            "the value is ", grad.view(), " ", grad.dtype(), "; expected ", tensor.array.view(), " ",
            tensor.array.dtype());
      tensor.leaf->grad = grad;
    }
    return Py_NewRef(Py_None);
  });
  Py_XDECREF(done);
  return done ? 0 : -1;
}
PyObject* get_is_watched(PyObject* self, void*) {
  const Tensor& t = tensor_of(self);
  Tape* tape = Tape::current();
  return PyBool_FromLong((t.leaf && !t.leaf->is_frozen) || (tape && t.tape == tape->id()));
}
PyObject* get_is_frozen(PyObject* self, void*) {
  const Ref<Leaf>& leaf = tensor_of(self).leaf;
  return PyBool_FromLong(leaf && leaf->is_frozen);
}
int set_is_frozen(PyObject* self, PyObject* value, void*) {
  Tensor& tensor = tensor_of(self);
  if (!tensor.leaf) tensor.leaf = make_ref<Leaf>();
  const int truth = value ? PyObject_IsTrue(value) : 0;
  if (truth >= 0) tensor.leaf->is_frozen = truth;
  return truth < 0 ? -1 : 0;
}

PyObject* is_contiguous(PyObject* self, PyObject*) {
  return PyBool_FromLong(tensor_of(self).array.is_contiguous());
}
PyObject* is_channels_last(PyObject* self, PyObject*) {
  return PyBool_FromLong(tensor_of(self).array.is_channels_last());
}
PyObject* detach(PyObject* self, PyObject*) {
  return guarded([&] {
    Tensor t;
    t.array = tensor_of(self).array;
    return wrap(std::move(t));
  });
}
PyObject* backward_of(PyObject* self, PyObject* args, PyObject* kwargs) {
  return guarded([&]() -> PyObject* {
    PyObject* gradient = Py_None;
    int accumulate = 0;
    static const char* names[] = {"gradient", "accumulate", nullptr};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$p", const_cast<char**>(names), &gradient, &accumulate))
      throw py::error_already_set();
    const Tensor tensor = tensor_of(self);
    Ref<Tape> tape = Tape::find(tensor.tape);
    check<StateError>(
        bool(tape), "backward",
        "no tape holds the tensor; compute it inside `with lamina.Tape():` from watched tensors");
    check<TypeError>(gradient == Py_None || is_tensor(gradient), "backward", "the gradient is a ",
                     Py_TYPE(gradient)->tp_name, "; expected a Tensor or None");
    Array seed = gradient == Py_None ? Array{} : tensor_of(gradient).array;
    py::gil_scoped_release release;
    tape->backward(tensor, seed, accumulate, {}, false);
    py::gil_scoped_acquire acquire;
    return Py_NewRef(Py_None);
  });
}

// --- life --------------------------------------------------------------------------------------------------------

// Tensor(x) shares the memory of the tensor x; subclasses (Parameter) build on it.
PyObject* create(PyTypeObject* type, PyObject* args, PyObject*) {
  return guarded([&]() -> PyObject* {
    PyObject* data = PyTuple_Size(args) == 1 ? PyTuple_GetItem(args, 0) : nullptr;
    check<TypeError>(data && is_tensor(data), "Tensor",
                     "expected one Tensor; lamina.tensor(data) makes one from data");
    PyObject* self = type->tp_alloc(type, 0);
    if (!self) throw py::error_already_set();
    new (&tensor_of(self)) Tensor();
    tensor_of(self).array = tensor_of(data).array;
    return self;
  });
}

void destroy_tensor(PyObject* self) {
  PyTypeObject* type = Py_TYPE(self);
  if (reinterpret_cast<PyTensor*>(self)->weak_references) PyObject_ClearWeakRefs(self);
  tensor_of(self).~Tensor();
  type->tp_free(self);
  Py_DECREF(type);
}

// The buffer protocol, for every dtype that has a format letter.
int get_buffer(PyObject* self, Py_buffer* buffer, int flags) {
  PyObject* done = guarded([&] {
    check_readable("buffer");
    const Array& a = tensor_of(self).array;
    check<StateError>(a.device().is_cpu(), "buffer", "the tensor is on ", name_of(a.device()),
                      "; expected the CPU (Tensor.numpy() copies it there)");
    static const char* formats[dtype_count] = {"?", "B", "i", "q", "e", nullptr, "f", "d"};
    const char* format = formats[int(a.dtype())];
    if (!format) fail<TypeError>("buffer", "bfloat16 has no buffer format; use Tensor.numpy()");
    const bool wants_strides = (flags & PyBUF_STRIDES) == PyBUF_STRIDES;
    if (!a.is_contiguous() && !wants_strides) {
      PyErr_SetString(PyExc_BufferError, "buffer: the tensor is not contiguous; ask for strides");
      throw py::error_already_set();
    }
    // Shape and strides in the sizes that the protocol wants, kept until release.
    const int n = a.ndim();
    auto* sizes = new Py_ssize_t[size_t(2 * n + 1)];
    for (int i = 0; i < n; ++i) {
      sizes[i] = Py_ssize_t(a.dim(i));
      sizes[n + i] = Py_ssize_t(a.view().strides[i] * size_of(a.dtype()));
    }
    static char nothing;
    buffer->buf = a.view().data ? a.view().data : &nothing;
    buffer->obj = Py_NewRef(self);
    buffer->len = Py_ssize_t(a.bytes());
    buffer->itemsize = Py_ssize_t(size_of(a.dtype()));
    buffer->readonly = 0;
    buffer->ndim = n;
    buffer->format = (flags & PyBUF_FORMAT) ? const_cast<char*>(format) : nullptr;
    buffer->shape = (flags & PyBUF_ND) ? sizes : nullptr;
    buffer->strides = wants_strides ? sizes + n : nullptr;
    buffer->suboffsets = nullptr;
    buffer->internal = sizes;
    return Py_NewRef(Py_None);
  });
  Py_XDECREF(done);
  if (!done) buffer->obj = nullptr;
  return done ? 0 : -1;
}
void release_buffer(PyObject*, Py_buffer* buffer) { delete[] static_cast<Py_ssize_t*>(buffer->internal); }

PyMethodDef methods[] = {
    {"item", item, METH_NOARGS, "The value of a one-element tensor as a Python number."},
    {"is_contiguous", is_contiguous, METH_NOARGS, "True iff elements lie in row-major order without gaps."},
    {"is_channels_last", is_channels_last, METH_NOARGS,
     "True iff the tensor is (N, C, H, W) and lies as N, H, W, C."},
    {"detach", detach, METH_NOARGS, "The same memory as a tensor that no tape watches."},
    {"backward", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(backward_of)),
     METH_VARARGS | METH_KEYWORDS,
     "backward(gradient=None, *, accumulate=False): stores the gradients of this tensor in the `grad` of the "
     "leaves "
     "of the tape that computed it. Same as tape.backward(self)."},
    {nullptr, nullptr, 0, nullptr}};

PyGetSetDef attributes[] = {
    {"shape", get_shape, nullptr, "Extents, a tuple of ints.", nullptr},
    {"strides", get_strides, nullptr, "Strides in elements.", nullptr},
    {"ndim", get_ndim, nullptr, "Number of axes.", nullptr},
    {"size", get_size, nullptr, "Number of elements.", nullptr},
    {"nbytes", get_nbytes, nullptr, "Bytes of all elements.", nullptr},
    {"data_ptr", get_data_ptr, nullptr, "Address of the first element.", nullptr},
    {"dtype", get_dtype, nullptr, "The element type, such as lamina.float32.", nullptr},
    {"device", get_device, nullptr, "Where the memory lies, such as 'cpu'.", nullptr},
    {"T", get_transposed, nullptr, "A view with the axes in reverse order.", nullptr},
    {"grad", get_grad, set_grad, "The gradient that backward stored, or None.", nullptr},
    {"is_watched", get_is_watched, nullptr,
     "True iff the open tape, or any tape, records what is done to it.", nullptr},
    {"is_frozen", get_is_frozen, set_is_frozen, "True iff a parameter is excluded from tapes.", nullptr},
    {nullptr, nullptr, nullptr, nullptr, nullptr}};

PyMemberDef tensor_members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(PyTensor, weak_references), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr}};

template <class F>
PyType_Slot slot(int id, F* function) {
  return {id, reinterpret_cast<void*>(function)};
}

}  // namespace

void bind_tensor(py::module_& m) {
  PyType_Slot slots[] = {
      slot(Py_tp_new, create),
      slot(Py_tp_dealloc, destroy_tensor),
      {Py_tp_methods, methods},
      {Py_tp_getset, attributes},
      {Py_tp_members, tensor_members},
      {Py_tp_doc, const_cast<char*>(
                      "An n-dimensional array that a Tape can follow. Made by lamina.tensor and friends.")},
      slot(Py_tp_richcompare, compare),
      slot(Py_tp_hash, hash_by_identity),
      slot(Py_nb_add, binary<"add">),
      slot(Py_nb_subtract, binary<"sub">),
      slot(Py_nb_multiply, binary<"mul">),
      slot(Py_nb_true_divide, binary<"div">),
      slot(Py_nb_power, power),
      slot(Py_nb_matrix_multiply, binary<"matmul">),
      slot(Py_nb_negative, unary<"neg">),
      slot(Py_nb_positive, positive),
      slot(Py_nb_absolute, unary<"abs">),
      slot(Py_nb_invert, unary<"logical_not">),
      slot(Py_nb_and, binary<"logical_and">),
      slot(Py_nb_or, binary<"logical_or">),
      slot(Py_nb_xor, binary<"logical_xor">),
      slot(Py_nb_float, as_float),
      slot(Py_nb_int, as_int),
      slot(Py_nb_index, as_index),
      slot(Py_nb_bool, as_bool),
      slot(Py_mp_length, length),
      slot(Py_mp_subscript, subscript),
      slot(Py_bf_getbuffer, get_buffer),
      slot(Py_bf_releasebuffer, release_buffer),
      {0, nullptr}};
  PyType_Spec spec = {"lamina.Tensor", sizeof(PyTensor), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, slots};
  tensor_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
  if (!tensor_type) throw py::error_already_set();
  m.attr("Tensor") = py::handle(reinterpret_cast<PyObject*>(tensor_type));
}

}  // namespace lamina::python
