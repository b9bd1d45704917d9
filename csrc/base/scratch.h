// Scratch memory for kernels: packed panels and per-thread tiles that no op needs to declare.
#pragma once

#include <cstdint>

#include "base/export.h"

namespace lamina {

// 64-byte aligned memory of at least `bytes` bytes, on huge pages where large, owned by the calling thread and kept
// for its next call. `slot` names one of several buffers that a thread may hold at once; a call with the same slot
// may move it. Contents are undefined.
enum class Scratch : int { pack_a, pack_b, tile, row, plane, count };
LAMINA_EXPORT void* scratch_bytes(Scratch slot, int64_t bytes);

template <class T>
[[gnu::always_inline]] inline T* scratch(Scratch slot, int64_t elements) {
  return static_cast<T*>(scratch_bytes(slot, elements * int64_t(sizeof(T))));
}

}  // namespace lamina
