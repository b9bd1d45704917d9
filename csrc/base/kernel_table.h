// Kernel tables: one struct of function pointers per family, filled once per instruction-set level and per device.
//
// LAMINA_KERNEL_TABLE(FooKernels, foo_kernels) at the end of kernels/foo/foo.h declares
//   lamina::<level>::foo_kernels   defined by foo_cpu.cpp, compiled once per level,
//   lamina::cuda::foo_kernels      defined by foo.cu, compiled by nvcc into the CUDA library,
//   lamina::sim::foo_kernels       defined by foo.cu, compiled by the host compiler into the simulator,
//   lamina::foo_kernels(device)    the table of that device; on the CPU of the level in use.
// The two libraries are loaded when their device is first asked for (base/device_library.h).
#pragma once

#include "base/device.h"
#include "base/export.h"
#include "base/isa.h"

namespace lamina {

// The table `name` in the library of a device; null if the library has no such kernels. Looked up once, then `found`.
LAMINA_EXPORT const void* find_kernel_table(DeviceType device, const char* name, const void*& found);

template <class Table>
const Table* device_kernel_table(DeviceType device, const char* name) {
  static const void* tables[device_type_count];
  return static_cast<const Table*>(find_kernel_table(device, name, tables[int(device)]));
}

}  // namespace lamina

#define LAMINA_KERNEL_TABLE(Table, table)                                             \
  namespace baseline {                                                                \
  LAMINA_EXPORT extern const Table table;                                             \
  }                                                                                   \
  LAMINA_IF_AVX2(namespace avx2 { LAMINA_EXPORT extern const Table table; })          \
  LAMINA_IF_AVX512(namespace avx512 { LAMINA_EXPORT extern const Table table; })      \
  namespace cuda {                                                                    \
  LAMINA_EXPORT extern const Table table;                                             \
  }                                                                                   \
  namespace sim {                                                                     \
  LAMINA_EXPORT extern const Table table;                                             \
  }                                                                                   \
  inline const Table* table(DeviceType device) {                                      \
    if (device != DeviceType::cpu) return device_kernel_table<Table>(device, #table); \
    static const Table* const chosen = [] {                                           \
      switch (isa()) {                                                                \
        LAMINA_IF_AVX512(case Isa::amx : case Isa::avx512 : return &avx512::table;)   \
        LAMINA_IF_AVX2(case Isa::avx2 : return &avx2::table;)                         \
        default:                                                                      \
          return &baseline::table;                                                    \
      }                                                                               \
    }();                                                                              \
    return chosen;                                                                    \
  }                                                                                   \
  inline const Table* table_of(const Table*, DeviceType device) { return table(device); }
