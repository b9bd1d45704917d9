// DLPack (https://dmlc.github.io/dlpack), own declarations of version 1.0's C structures; a test compares their sizes
// and offsets with a framework's header where one is installed.
#pragma once

#include <cstdint>

namespace lamina::dlpack {

struct Version {
  uint32_t major, minor;
};
struct Device {
  int32_t type, id;
};
struct DataType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null: row-major
  uint64_t byte_offset;
};
struct Managed {
  Tensor tensor;
  void* context;
  void (*deleter)(Managed*);
};
struct ManagedVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedVersioned*);
  uint64_t flags;
  Tensor tensor;
};

// The exchange API of DLPack 1.3: how a framework lets others read its tensors and make new ones without Python. Found
// as a capsule "dlpack_exchange_api" in `__dlpack_c_exchange_api__` of its tensor type. Functions return 0, or -1 with
// a Python error set; nothing synchronises.
struct ExchangeApi {
  Version version;
  const void* previous;
  int (*allocate)(Tensor* prototype, ManagedVersioned** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*managed_from_object)(void* object, ManagedVersioned** out);
  int (*object_from_managed)(ManagedVersioned* stolen, void** out);
  int (*view_of_object)(void* object, Tensor* out);  // valid for as long as the object is; may be null
  int (*current_stream)(int32_t device_type, int32_t device_id, void** out);
};

inline constexpr uint64_t flag_read_only = 1, flag_is_copied = 2;
inline constexpr int32_t device_cpu = 1, device_cuda = 2;
inline constexpr uint8_t code_int = 0, code_uint = 1, code_float = 2, code_bfloat = 4, code_bool = 6;

}  // namespace lamina::dlpack
