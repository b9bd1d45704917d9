#include "kernels/dropout/dropout.h"

#include "base/parallel.h"
#include "kernels/dropout/tile.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t tile_elements = dropout_elements_per_tile;
constexpr int64_t tiles_per_chunk = 128;  // 16k elements: 128 KB of float32 traffic

template <class T>
void apply_typed(const DropoutArgs& a) {
  const Dropout dropout(a.pair, a.p);
  const T* x = a.x.as<const T>();
  T* y = a.y.as<T>();
  const int64_t n = a.y.size();
  parallel_ranges(dropout_tiles(n), tiles_per_chunk, [&](int64_t begin, int64_t end) {
    T last[tile_elements] = {};
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i = tile * tile_elements, count = n - i;
      const bool is_partial = count < tile_elements;
      if (is_partial) __builtin_memcpy(last, x + i, size_t(count) * sizeof(T));
      dropout.apply(tile, is_partial ? last : x + i, is_partial ? last : y + i);
      if (is_partial) __builtin_memcpy(y + i, last, size_t(count) * sizeof(T));
    }
  });
}

void apply(const DropoutArgs& a) {
  dispatch_float(a.y.dtype, [&](auto t) { apply_typed<typename decltype(t)::type>(a); });
}

}  // namespace

const DropoutKernels dropout_kernels = {apply};

}  // namespace lamina::LAMINA_ISA
