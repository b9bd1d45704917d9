// Arrays in and out: dtypes, NumPy, the buffer protocol, DLPack.
#include <pybind11/numpy.h>

#include "interop/dlpack.h"
#include "python/op_function.h"
#include "python/tensor_type.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

// --- dtypes ------------------------------------------------------------------------------------------------------

struct PyDtype {
  Dtype dtype;
};
py::handle dtype_objects[dtype_count];

}  // namespace

py::object dtype_object(Dtype dtype) { return py::reinterpret_borrow<py::object>(dtype_objects[int(dtype)]); }

py::object numpy_dtype(Dtype dtype) {
  static py::handle cache[dtype_count];
  py::handle& cached = cache[int(dtype)];
  if (!cached) {
    py::object spec = dtype == Dtype::bfloat16 ? py::module_::import("ml_dtypes").attr("bfloat16")
                                               : py::object(py::str(name_of(dtype)));
    cached = py::module_::import("numpy").attr("dtype")(spec).release();
  }
  return py::reinterpret_borrow<py::object>(cached);
}

Dtype parse_dtype(py::handle o) {
  if (py::isinstance<PyDtype>(o)) return o.cast<PyDtype>().dtype;
  std::string name;
  if (py::isinstance<py::str>(o)) {
    name = o.cast<std::string>();
  } else {
    if (o.ptr() == reinterpret_cast<PyObject*>(&PyFloat_Type)) return Dtype::float32;
    name = py::str(o);
    constexpr std::string_view torch = "torch.";  // torch.float32, which numpy does not know
    if (name.starts_with(torch)) {
      name.erase(0, torch.size());
    } else
      try {
        name = py::str(py::module_::import("numpy").attr("dtype")(o).attr("name"));
      } catch (py::error_already_set&) {
        fail<TypeError>("dtype", std::string(py::repr(o)),
                        " is no dtype; expected one such as lamina.float32");
      }
  }
  if (const std::optional<Dtype> dtype = find_dtype(name)) return *dtype;
  fail<TypeError>(
      "dtype", "'", name,
      "' is not supported; expected bool, uint8, int32, int64, float16, bfloat16, float32 or float64");
}

namespace {

// Releases the Python object that owns foreign memory; may run on any thread, also while the interpreter ends.
auto release_with_gil(py::object owner) {
  return [held = owner.release().ptr()] {
    if (!Py_IsInitialized()) return;
    const PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF(held);
    PyGILState_Release(state);
  };
}

Tensor tensor_from(Array array) {
  Tensor t;
  t.array = std::move(array);
  return t;
}

// --- NumPy -------------------------------------------------------------------------------------------------------

// Zero-copy where the array is writeable, aligned and without negative strides; else a copy.
Tensor from_numpy(py::array a) {
  const Dtype dtype = parse_dtype(a.dtype());
  const auto itemsize = size_of(dtype);
  bool is_usable = a.writeable() && (a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  check(a.ndim() <= max_ndim, "from_numpy", "the array has ", a.ndim(), " axes; expected at most ", max_ndim);
  for (py::ssize_t i = 0; i < a.ndim(); ++i) is_usable &= a.strides(i) >= 0 && a.strides(i) % itemsize == 0;
  const bool is_native = a.dtype().attr("isnative").cast<bool>();
  if (!is_usable || !is_native) {
    py::object native = is_native ? py::object(a.dtype()) : a.dtype().attr("newbyteorder")("=");
    a = py::module_::import("numpy").attr("array")(a, native, py::arg("copy") = true, py::arg("order") = "C");
  }
  View v{.data = a.mutable_data(), .dtype = dtype, .ndim = int(a.ndim())};
  for (int i = 0; i < v.ndim; ++i) {
    v.shape[i] = a.shape(i);
    v.strides[i] = a.strides(i) / itemsize;
  }
  const int64_t bytes = v.size() * itemsize;
  return tensor_from(Array(v, make_ref<Storage>(v.data, bytes, release_with_gil(a)), Device{}));
}

// A copy of x in host memory that copies to the device reach directly.
Tensor pin_memory(const Tensor& x, const std::string& device) {
  const Device where = parse_device(device);
  check<StateError>(x.array.device().is_cpu(), "pin_memory", "x is on ", name_of(x.array.device()),
                    "; expected the CPU");
  check(!where.is_cpu(), "pin_memory", "device is cpu; expected a GPU that the memory is for");
  DeviceLibrary* library = &device_library(where.type);
  View v = Spec::like(x.array.view(), x.array.dtype());
  v.data = library->allocate_pinned(std::max<int64_t>(x.array.bytes(), 1));
  const Ref<Storage> memory =
      make_ref<Storage>(v.data, x.array.bytes(), [library, data = v.data] { library->free_pinned(data); });
  const Array pinned(v, memory, Device{});
  eval_all<"copy_">({pinned, x.array});
  return tensor_from(pinned);
}

// A view of that shape on the memory of x; strides and offset in elements.
Tensor as_strided(const Tensor& x, const std::vector<int64_t>& shape, const std::vector<int64_t>& strides,
                  int64_t offset) {
  check(shape.size() == strides.size() && shape.size() <= max_ndim, "as_strided", shape.size(),
        " extents and ", strides.size(), " strides; expected as many, and at most ", max_ndim);
  View v{.data = x.array.view().data, .dtype = x.array.dtype(), .ndim = int(shape.size())};
  int64_t last = offset;
  for (int i = 0; i < v.ndim; ++i) {
    v.shape[i] = shape[size_t(i)];
    v.strides[i] = strides[size_t(i)];
    check(v.shape[i] >= 0 && v.strides[i] >= 0, "as_strided", "axis ", i, " has extent ", v.shape[i],
          " and stride ", v.strides[i], "; expected no negative one");
    last += (v.shape[i] - 1) * v.strides[i];
  }
  check(offset >= 0 && (v.size() == 0 || last < x.array.size()) && x.array.is_contiguous(), "as_strided",
        "the view ends at element ", last, "; expected at most ", x.array.size() - 1,
        " of a contiguous tensor");
  v.data = static_cast<char*>(v.data) + offset * size_of(v.dtype);
  return tensor_from(x.array.with_view(v));
}

py::object to_numpy(const Tensor& t) {
  check_readable("numpy");
  const Array array = on_host(t.array);
  const View& v = array.view();
  std::vector<py::ssize_t> shape(v.shape, v.shape + v.ndim), strides;
  for (int i = 0; i < v.ndim; ++i) strides.push_back(py::ssize_t(v.strides[i] * size_of(v.dtype)));
  // The capsule shares the memory with the tensor for as long as NumPy needs it.
  py::capsule owner(new Array(array), [](void* a) { delete static_cast<Array*>(a); });
  static char nothing[16];
  return py::array(py::reinterpret_borrow<py::dtype>(numpy_dtype(v.dtype)), shape, strides,
                   v.data ? v.data : nothing, owner);
}

// --- DLPack ------------------------------------------------------------------------------------------------------

}  // namespace

namespace {
constexpr dlpack::DataType dlpack_dtypes[] = {
    // in the order of Dtype
    {dlpack::code_bool, 8, 1},   {dlpack::code_uint, 8, 1},   {dlpack::code_int, 32, 1},
    {dlpack::code_int, 64, 1},   {dlpack::code_float, 16, 1}, {dlpack::code_bfloat, 16, 1},
    {dlpack::code_float, 32, 1}, {dlpack::code_float, 64, 1},
};
static_assert(std::size(dlpack_dtypes) == dtype_count);
}  // namespace

dlpack::DataType dlpack_dtype(Dtype dtype) { return dlpack_dtypes[int(dtype)]; }

std::optional<Dtype> find_dlpack_dtype(dlpack::DataType d) {
  for (int i = 0; i < dtype_count; ++i)
    if (dlpack_dtypes[i].code == d.code && dlpack_dtypes[i].bits == d.bits && d.lanes == 1) return Dtype(i);
  return std::nullopt;
}

Dtype from_dlpack_dtype(dlpack::DataType d) {
  const std::optional<Dtype> found = find_dlpack_dtype(d);
  check<TypeError>(found.has_value(), "from_dlpack", "type code ", int(d.code), " with ", int(d.bits),
                   " bits is not supported; expected a lamina dtype");
  return *found;
}

// The simulator's memory is the CPU's, but nobody else would look for it there.
dlpack::Device dlpack_device(Device device) {
  check<StateError>(device.type != DeviceType::sim, "__dlpack__",
                    "the tensor is on sim; expected the CPU or CUDA");
  return {device.is_cpu() ? dlpack::device_cpu : dlpack::device_cuda, device.index};
}

Device from_dlpack_device(int type, int index) {
  check<StateError>(type == dlpack::device_cpu || type == dlpack::device_cuda, "from_dlpack",
                    "the memory is on DLPack device type ", type, "; expected the CPU or CUDA");
  return type == dlpack::device_cpu ? Device{} : parse_device(cat("cuda:", index));
}

namespace {

// CUDA streams as the array API standard numbers them: 1 and 2 are the legacy and the per-thread default stream.
void* stream_handle(int64_t number) { return reinterpret_cast<void*>(number); }

// What a consumer gets, with the array that it holds.
template <class M>
struct Exported : Pooled<Exported<M>> {
  M managed{};
  Array array;
  int64_t shape[max_ndim], strides[max_ndim];
};

template <class M>
M* managed_as(const Array& array) {
  auto* exported = new Exported<M>;
  exported->array = array;
  const View& v = array.view();
  std::copy_n(v.shape, v.ndim, exported->shape);
  std::copy_n(v.strides, v.ndim, exported->strides);
  M& managed = exported->managed;
  managed.tensor = {v.data,
                    dlpack_device(array.device()),
                    v.ndim,
                    dlpack_dtype(v.dtype),
                    exported->shape,
                    exported->strides,
                    0};
  managed.context = exported;
  managed.deleter = [](M* self) { delete static_cast<Exported<M>*>(self->context); };
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) managed.version = {1, 0};
  return &managed;
}

template <class M>
py::capsule export_as(const Array& array, const char* name) {
  // A consumer renames the capsule and takes over the duty to delete; an unconsumed one deletes here.
  PyObject* capsule = PyCapsule_New(managed_as<M>(array), name, [](PyObject* self) {
    const char* unused = std::is_same_v<M, dlpack::ManagedVersioned> ? "dltensor_versioned" : "dltensor";
    if (!PyCapsule_IsValid(self, unused)) return;
    auto* m = static_cast<M*>(PyCapsule_GetPointer(self, unused));
    m->deleter(m);
  });
  if (!capsule) throw py::error_already_set();
  return py::reinterpret_steal<py::capsule>(capsule);
}

py::capsule to_dlpack(const Tensor& t, py::object stream, py::object max_version, py::object dl_device,
                      py::object copy) {
  check_readable("__dlpack__");
  Array array = t.array;
  const dlpack::Device own = dlpack_device(array.device());
  check(stream.is_none() || !array.device().is_cpu(), "__dlpack__", "stream is ",
        std::string(py::repr(stream)), "; expected None for CPU memory");
  if (!dl_device.is_none() && !dl_device.equal(py::make_tuple(own.type, own.id))) {
    check(dl_device.equal(py::make_tuple(dlpack::device_cpu, 0)) && (copy.is_none() || copy.cast<bool>()),
          "__dlpack__", "dl_device is ", std::string(py::repr(dl_device)), " and copy ",
          std::string(py::repr(copy)), "; expected the tensor's own device, or the CPU with a copy");
    array = on_host(array);
  } else if (!copy.is_none() && copy.cast<bool>()) {
    array = eval<"clone">({array});
  }
  // The consumer's stream waits for what was computed so far; -1 asks for no order.
  const int64_t consumer = stream.is_none() ? 1 : stream.cast<int64_t>();
  if (!array.device().is_cpu() && consumer != -1)
    device_library(array.device().type)
        .wait_for(stream_handle(consumer), current_stream(array.device()).handle());
  if (!max_version.is_none() && max_version.cast<py::tuple>()[0].cast<int>() >= 1)
    return export_as<dlpack::ManagedVersioned>(array, "dltensor_versioned");
  return export_as<dlpack::Managed>(array, "dltensor");
}

template <class M>
Tensor import_as(py::capsule capsule, const char* name, const char* used_name) {
  auto* managed = static_cast<M*>(PyCapsule_GetPointer(capsule.ptr(), name));
  const dlpack::Tensor& d = managed->tensor;
  bool must_copy = false;
  if constexpr (std::is_same_v<M, dlpack::ManagedVersioned>) {
    check(managed->version.major == 1, "from_dlpack", "the producer speaks DLPack ", managed->version.major,
          "; expected 1");
    must_copy = managed->flags & dlpack::flag_read_only;
  }
  check(d.ndim <= max_ndim, "from_dlpack", "the array has ", d.ndim, " axes; expected at most ", max_ndim);
  View v{.data = static_cast<char*>(d.data) + d.byte_offset,
         .dtype = from_dlpack_dtype(d.dtype),
         .ndim = d.ndim};
  std::copy_n(d.shape, d.ndim, v.shape);
  bool is_negative = false;
  int64_t expected = 1;
  for (int i = d.ndim - 1; i >= 0; --i) {
    v.strides[i] = d.strides ? d.strides[i] : expected;
    expected *= v.shape[i];
    is_negative |= v.strides[i] < 0 && v.shape[i] > 1;
    if (v.shape[i] <= 1 && v.strides[i] < 0) v.strides[i] = 0;
  }
  check(!is_negative, "from_dlpack", "the array has negative strides; expected none (copy it first)");
  PyCapsule_SetName(capsule.ptr(), used_name);
  Array array(v,
              make_ref<Storage>(v.data, v.size() * size_of(v.dtype),
                                [managed] {
                                  if (managed->deleter) managed->deleter(managed);
                                }),
              from_dlpack_device(d.device.type, d.device.id));
  return tensor_from(must_copy ? eval<"clone">({array}) : array);
}

Tensor from_dlpack(py::object o) {
  check<TypeError>(py::hasattr(o, "__dlpack__"), "from_dlpack", "a ", Py_TYPE(o.ptr())->tp_name,
                   " has no __dlpack__; expected an array of a framework that has");
  const auto device = o.attr("__dlpack_device__")().cast<py::tuple>();
  const Device where = from_dlpack_device(int(py::int_(device[0])), int(py::int_(device[1])));
  py::dict arguments;
  if (!where.is_cpu()) arguments["stream"] = reinterpret_cast<intptr_t>(current_stream(where).handle());
  py::object capsule;
  try {
    capsule = o.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0), **arguments);
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_TypeError)) throw;  // a producer older than DLPack 1.0 does not know the keyword
    capsule = o.attr("__dlpack__")(**arguments);
  }
  auto handle = py::reinterpret_borrow<py::capsule>(capsule);
  if (std::string_view(handle.name()) == "dltensor_versioned")
    return import_as<dlpack::ManagedVersioned>(handle, "dltensor_versioned", "used_dltensor_versioned");
  return import_as<dlpack::Managed>(handle, "dltensor", "used_dltensor");
}

}  // namespace

dlpack::ManagedVersioned* export_managed(const Array& array) {
  return managed_as<dlpack::ManagedVersioned>(array);
}

void bind_arrays(py::module_& m) {
  py::class_<PyDtype>(m, "dtype", "An element type: lamina.float32 and its like.")
      .def_property_readonly("name", [](const PyDtype& d) { return name_of(d.dtype); })
      .def_property_readonly(
          "itemsize", [](const PyDtype& d) { return size_of(d.dtype); }, "Bytes per element.")
      .def_property_readonly("is_floating_point", [](const PyDtype& d) { return is_floating(d.dtype); })
      .def_property_readonly(
          "numpy", [](const PyDtype& d) { return numpy_dtype(d.dtype); }, "The numpy.dtype.")
      .def("__repr__", [](const PyDtype& d) { return "lamina." + std::string(name_of(d.dtype)); })
      .def("__hash__", [](const PyDtype& d) { return int(d.dtype); })
      .def("__eq__",
           [](const PyDtype& d, py::object other) {
             try {
               return !other.is_none() && parse_dtype(other) == d.dtype;
             } catch (TypeError&) {
               return false;
             }
           })
      .def("__reduce__", [](const PyDtype& d) {
        return py::make_tuple(py::module_::import("lamina._C").attr("dtype_of"),
                              py::make_tuple(name_of(d.dtype)));
      });
  for (int i = 0; i < dtype_count; ++i) {
    dtype_objects[i] = py::cast(PyDtype{Dtype(i)}).release();
    m.attr(name_of(Dtype(i))) = dtype_objects[i];
  }
  m.def("dtype_of", [](py::object o) { return dtype_object(parse_dtype(o)); });
  m.def("from_numpy", from_numpy);
  m.def("to_numpy", to_numpy);
  m.def("as_strided", as_strided);
  m.def("pin_memory", pin_memory);
  m.def("from_dlpack", from_dlpack);
  m.def("to_dlpack", to_dlpack);
}

}  // namespace lamina::python
