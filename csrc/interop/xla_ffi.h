// XLA's foreign function interface (https://openxla.org/xla/custom_call), own declarations of the C structures of its
// call frame; a test compares their sizes and offsets with jaxlib's header where that is installed.
//
// They are those of API version 0.1 (jaxlib 0.6.1); later ones append fields. XLA refuses a handler that says it is
// newer than the runtime, so ours gives back the runtime's own version.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lamina::xla {

enum class ExtensionType : int32_t { metadata = 1 };
enum class Stage : int32_t { instantiate, prepare, initialize, execute };
enum class ErrorCode : int32_t { invalid_argument = 3, resource_exhausted = 8, internal = 13 };
enum class AttrType : int32_t { string = 4 };

// As XLA numbers the dtypes that Lamina has.
enum class DataType : int32_t {
  boolean = 1,
  int32 = 4,
  int64 = 5,
  uint8 = 6,
  float16 = 10,
  float32 = 11,
  float64 = 12,
  bfloat16 = 16
};

struct Error;
struct ExecutionContext;

struct Extension {
  size_t struct_size;
  ExtensionType type;
  Extension* next;
};
struct Version {
  size_t struct_size;
  Extension* extensions;
  int major, minor;
};
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};
struct MetadataExtension {  // its presence asks for the metadata, and for nothing to be run
  Extension base;
  Metadata* metadata;
};

struct ErrorCreateArgs {
  size_t struct_size;
  Extension* extensions;
  const char* message;
  ErrorCode code;
};
struct StreamGetArgs {
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  void* stream;  // out: CUstream
};
struct DeviceOrdinalGetArgs {
  size_t struct_size;
  Extension* extensions;
  ExecutionContext* context;
  int32_t ordinal;  // out
};

struct Api {
  size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*error_create)(ErrorCreateArgs*);
  void (*unused_before_stream_get[3])();
  Error* (*stream_get)(StreamGetArgs*);
  void (*unused_before_device_ordinal_get[12])();
  Error* (*device_ordinal_get)(DeviceOrdinalGetArgs*);
};

struct Buffer {  // row-major
  size_t struct_size;
  Extension* extensions;
  DataType dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct ByteSpan {
  const char* data;
  size_t size;
};
struct Buffers {
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  int32_t* types;
  Buffer** buffers;
};
struct Attributes {  // in the order of their names
  size_t struct_size;
  Extension* extensions;
  int64_t size;
  AttrType* types;
  ByteSpan** names;
  void** values;  // of a string: a ByteSpan
};

struct CallFrame {
  size_t struct_size;
  Extension* extensions;
  const Api* api;  // null in the metadata call of some versions
  ExecutionContext* context;
  Stage stage;
  Buffers arguments;
  Buffers results;
  Attributes attributes;
};

using Handler = Error*(CallFrame*);

// The handlers of all ops, one per platform, for the function that their attribute `call` describes: see
// xla_handler.cpp.
Handler cpu_handler, cuda_handler;

}  // namespace lamina::xla
