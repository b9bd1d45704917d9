// x[i, a:b:c]: the usual indices, integers and slices, without a line of Python. Everything else (None, ..., arrays of
// indices, wrong indices and their messages) is lamina/movement.py.
#include "python/tensor_type.h"

namespace py = pybind11;

namespace lamina::python {
namespace {

// One axis; false if the entry is none of the usual ones.
struct Range {
  Py_ssize_t start, size, step;
  bool is_dropped;  // of an integer

  bool read(PyObject* entry, Py_ssize_t extent) {
    if (PySlice_Check(entry)) {
      Py_ssize_t stop;
      if (PySlice_Unpack(entry, &start, &stop, &step) < 0) throw py::error_already_set();
      size = PySlice_AdjustIndices(extent, &start, &stop, step);
      if (size == 0) start = 0;
      is_dropped = false;
      return true;
    }
    if (!PyLong_Check(entry) || PyBool_Check(entry)) return false;
    start = PyLong_AsSsize_t(entry);
    if (start == -1 && PyErr_Occurred()) throw py::error_already_set();
    if (start < 0) start += extent;
    size = step = 1;
    is_dropped = true;
    return start >= 0 && start < extent;
  }
};

}  // namespace

PyObject* subscript(PyObject* self, PyObject* index) {
  return guarded([&]() -> PyObject* {
    const Array& x = tensor_of(self).array;
    const bool is_tuple = PyTuple_Check(index);
    const Py_ssize_t given = is_tuple ? PyTuple_GET_SIZE(index) : 1;
    Ints starts, sizes, steps, dropped;
    bool is_usual = given <= x.ndim();
    for (int axis = 0; is_usual && axis < x.ndim(); ++axis) {
      Range range{0, Py_ssize_t(x.dim(axis)), 1, false};
      if (axis < given) is_usual = range.read(is_tuple ? PyTuple_GET_ITEM(index, axis) : index, range.size);
      starts.push_back(range.start);
      sizes.push_back(range.size);
      steps.push_back(range.step);
      if (range.is_dropped) dropped.push_back(axis);
    }
    if (!is_usual) return PyObject_CallMethod(self, "_index_general", "(O)", index);
    static const Op& op = find_op("slice");
    const Attrs attrs(op.schema, {std::move(starts), std::move(sizes), std::move(steps), std::move(dropped)});
    const Tensor* input = &tensor_of(self);
    return wrap(std::move(apply(op, std::span(&input, 1), attrs)[0]));
  });
}

}  // namespace lamina::python
