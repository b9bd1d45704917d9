// Reductions over a block; every thread gets the result.
//
// `partial`: 32 values of shared memory, which may be used again at once. A block is whole warps. Any associative
// combination with an identity will do: `combine(a, b)` and `combine.identity<T>()`.
#pragma once

#include "prim/warp.cuh"

namespace lamina::LAMINA_DEVICE::prim {

template <class T, class F>
LAMINA_PRIM T block_reduce(T value, T* partial, F combine) {
  value = warp_reduce(value, combine);
  if (warps() == 1) return value;
  block_sync();  // who still reads the partial values of an earlier call
  if (lane() == 0) partial[warp()] = value;
  block_sync();
  return warp_reduce(lane() < warps() ? partial[lane()] : F::template identity<T>(), combine);
}

template <class T>
LAMINA_PRIM T block_sum(T value, T* partial) {
  return block_reduce(value, partial, Sum{});
}
template <class T>
LAMINA_PRIM T block_max(T value, T* partial) {
  return block_reduce(value, partial, Max{});
}
template <class T>
LAMINA_PRIM T block_min(T value, T* partial) {
  return block_reduce(value, partial, Min{});
}

}  // namespace lamina::LAMINA_DEVICE::prim
