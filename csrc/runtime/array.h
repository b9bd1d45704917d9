// Array: shared storage, a View of it and a Device. Value semantics: copying an Array copies a pointer.
#pragma once

#include <functional>
#include <span>

#include "base/ref.h"
#include "base/small_vector.h"
#include "base/view.h"
#include "runtime/arena.h"
#include "runtime/device.h"

namespace lamina {

struct Shape {
  int ndim = 0;
  int64_t dims[max_ndim] = {};

  Shape() = default;
  Shape(std::initializer_list<int64_t> values) {
    for (int64_t v : values) dims[ndim++] = v;
  }
  explicit Shape(std::span<const int64_t> values) {
    for (int64_t v : values) dims[ndim++] = v;
  }
  int64_t operator[](int i) const { return dims[i]; }
  int64_t& operator[](int i) { return dims[i]; }
  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < ndim; ++i) n *= dims[i];
    return n;
  }
  bool operator==(const Shape& other) const {
    if (ndim != other.ndim) return false;
    for (int i = 0; i < ndim; ++i)  // std::equal calls memcmp, which costs more than four comparisons
      if (dims[i] != other.dims[i]) return false;
    return true;
  }
};
std::ostream& operator<<(std::ostream&, const Shape&);

// The order of axes in memory of an array without gaps.
enum class Layout { contiguous, channels_last };

// What an op writes: infer declares it, the runtime allocates it.
struct Spec {
  Dtype dtype = Dtype::float32;
  Shape shape;
  Layout layout = Layout::contiguous;

  View view() const;  // dense strides, no data
  // The spec of a result of the same shape as x, dense and with its axes in the order that x has in memory.
  static View like(const View& x, Dtype dtype);
};

class Storage : public RefCounted, public Pooled<Storage> {
 public:
  Storage(int64_t bytes, Arena& arena);
  Storage(void* data, int64_t bytes, std::function<void()> release);  // foreign memory
  ~Storage() override;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  bool is_foreign() const { return !arena_; }

 private:
  void* data_;
  int64_t bytes_;
  Ref<Arena> arena_;  // null iff foreign
  std::function<void()> release_;
  bool is_guarded_ = false;
};

class Array {
 public:
  Array() = default;                       // no array: an absent optional operand
  explicit Array(const View& dense_view);  // allocates on the current device; dense_view.data is ignored
  Array(const View& dense_view, Arena& arena);
  explicit Array(const Spec& spec) : Array(spec.view()) {}
  Array(const View& view, Ref<Storage> storage, Device device);  // a view on existing storage
  Array with_view(const View& view) const { return Array(view, storage(), device()); }  // on the same storage

  explicit operator bool() const { return bool(body_); }
  const View& view() const { return body_->view; }
  const Ref<Storage>& storage() const { return body_->storage; }
  Device device() const { return body_->device; }
  Dtype dtype() const { return view().dtype; }
  int ndim() const { return view().ndim; }
  int64_t dim(int i) const { return view().shape[i]; }
  Shape shape() const { return Shape(std::span(view().shape, size_t(ndim()))); }
  int64_t size() const { return view().size(); }
  int64_t bytes() const { return size() * size_of(dtype()); }
  bool is_contiguous() const { return view().is_contiguous(); }
  bool is_channels_last() const { return view().is_channels_last(); }
  // True iff no other Array shares this object or its storage.
  bool is_unique() const { return body_.get()->is_unique() && storage() && storage()->is_unique(); }

  // The same shape, strides and dtype without data: what the tape keeps of an operand that its vjp does not read.
  Array without_data() const;

 private:
  struct Body : RefCounted, Pooled<Body> {
    View view;
    Device device;
    Ref<Storage> storage;
  };
  Ref<Body> body_;
};

// Guard words around the memory of every array allocated while this is on; checked when the memory is freed.
void set_canaries(bool on);
int64_t overwritten_canaries();  // damaged blocks found since the start

}  // namespace lamina
