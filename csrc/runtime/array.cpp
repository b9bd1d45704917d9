#include "runtime/array.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/stream.h"

namespace lamina {
namespace {

constexpr int64_t canary_bytes = 64;
constexpr unsigned char canary_value = 0xa5;
std::atomic<bool> canaries_on{false};
std::atomic<int64_t> damaged_blocks{0};

bool is_host_memory(Device device) { return device.is_cpu() || device_library(device.type).is_host_memory(); }

void set_dense_strides(View& v, std::span<const int> order) {
  int64_t stride = 1;
  for (int axis : order) {
    v.strides[axis] = stride;
    stride *= v.shape[axis];
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Shape& s) { return out << Tuple{s.dims, s.ndim}; }

View Spec::view() const {
  View v{.dtype = dtype, .ndim = shape.ndim};
  std::copy_n(shape.dims, shape.ndim, v.shape);
  if (layout == Layout::channels_last) {
    set_dense_strides(v, std::array{1, 3, 2, 0});
  } else {
    int64_t stride = 1;
    for (int i = v.ndim - 1; i >= 0; --i) {
      v.strides[i] = stride;
      stride *= v.shape[i];
    }
  }
  return v;
}

View Spec::like(const View& x, Dtype dtype) {
  View v = x;
  v.data = nullptr;
  v.dtype = dtype;
  if (x.is_contiguous()) return v;
  // Innermost first: axes by rising stride; a broadcast axis (stride 0) has no place in memory and goes outermost.
  int order[max_ndim];
  for (int i = 0; i < x.ndim; ++i) order[i] = x.ndim - 1 - i;
  const auto rank = [&](int axis) { return x.strides[axis] == 0 ? INT64_MAX : x.strides[axis]; };
  std::stable_sort(order, order + x.ndim, [&](int a, int b) { return rank(a) < rank(b); });
  set_dense_strides(v, std::span<const int>(order, size_t(x.ndim)));
  return v;
}

// In a recording no array is guarded: a replay writes the temporaries again, and rightly overwrites the guard words
// of an array that came to lie over one of them and outlives the recording.
Storage::Storage(int64_t bytes, Arena& arena)
    : bytes_(bytes),
      arena_(&arena),
      is_guarded_(canaries_on && &arena == &root_arena(arena.device()) && is_host_memory(arena.device())) {
  if (!is_guarded_) {
    data_ = arena_->allocate(bytes);
    return;
  }
  auto* block = static_cast<unsigned char*>(arena_->allocate(bytes + 2 * canary_bytes));
  std::memset(block, canary_value, size_t(bytes + 2 * canary_bytes));
  data_ = block + canary_bytes;
  std::memset(data_, 0xff,
              size_t(bytes));  // NaN in every floating dtype: an element that nobody writes is seen
}

Storage::Storage(void* data, int64_t bytes, std::function<void()> release)
    : data_(data), bytes_(bytes), release_(std::move(release)) {}

Storage::~Storage() {
  if (!arena_) {
    if (release_) release_();
    return;
  }
  if (!is_guarded_) {
    arena_->free(data_, bytes_);
    return;
  }
  auto* data = static_cast<unsigned char*>(data_);
  const auto is_canary = [](unsigned char c) { return c == canary_value; };
  if (!std::all_of(data - canary_bytes, data, is_canary) ||
      !std::all_of(data + bytes_, data + bytes_ + canary_bytes, is_canary))
    ++damaged_blocks;
  arena_->free(data - canary_bytes, bytes_ + 2 * canary_bytes);
}

Array::Array(const View& dense_view) : Array(dense_view, current_arena()) {}

Array::Array(const View& dense_view, Arena& arena) : body_(make_ref<Body>()) {
  body_->view = dense_view;
  body_->device = arena.device();
  body_->storage = make_ref<Storage>(dense_view.size() * size_of(dense_view.dtype), arena);
  body_->view.data = body_->storage->data();
}

Array::Array(const View& view, Ref<Storage> storage, Device device) : body_(make_ref<Body>()) {
  body_->view = view;
  body_->device = device;
  body_->storage = std::move(storage);
}

Array Array::without_data() const {
  View v = view();
  v.data = nullptr;
  return Array(v, {}, device());
}

void set_canaries(bool on) { canaries_on = on; }
int64_t overwritten_canaries() { return damaged_blocks; }

}  // namespace lamina
