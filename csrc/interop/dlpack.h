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

inline constexpr uint64_t flag_read_only = 1, flag_is_copied = 2;
inline constexpr int32_t device_cpu = 1, device_cuda = 2;
inline constexpr uint8_t code_int = 0, code_uint = 1, code_float = 2, code_bfloat = 4, code_bool = 6;

}  // namespace lamina::dlpack
