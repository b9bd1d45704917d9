// What the device kernels of attention.h share: a head's mask, which keys a query sees, and which weights are kept.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/random/philox.cuh"

namespace lamina::LAMINA_DEVICE {

// What is subtracted before exp: the maximum, but 0 in a row of -inf, whose exponentials then are 0, not NaN.
template <class S>
LAMINA_PRIM S shift_of(S max) {
  return max == -S(INFINITY) ? S(0) : max;
}

// Row `row` of the matrix of a head.
template <class T>
LAMINA_PRIM T* row_at(const View& v, int64_t head, int64_t row = 0) {
  return v.as<T>() + offset_of_head(v, head) + row * row_stride_of(v);
}

template <class T>
struct Head {
  using S = Compute<T>;
  const AttentionArgs& a;
  int64_t n, L, keys;
  const char* mask;

  LAMINA_PRIM Head(const AttentionArgs& a, int64_t n)
      : a(a), n(n), L(rows_of(a.query)), keys(rows_of(a.key)), mask(nullptr) {
    if (!a.mask) return;
    const Dtype t = a.mask.dtype;  // size_of would have its table on the stack
    const int64_t bytes = t == Dtype::boolean ? 1 : t == dtype_of<T> ? sizeof(T) : sizeof(S);
    mask = a.mask.as<char>() + offset_of_head(a.mask, n) * bytes;
  }

  // The keys that some of the queries up to `last` see are the first so many.
  LAMINA_PRIM int64_t keys_seen(int64_t last) const { return a.is_causal ? smaller(keys, last + 1) : keys; }

  // The score of a product of query i and key j, times scale, with the mask; -inf where there is no such pair.
  LAMINA_PRIM S masked(S score, int64_t i, int64_t j) const {
    const S low = -S(INFINITY);
    if (i >= L || j >= keys || (a.is_causal && j > i)) return low;
    if (!mask) return score;
    const int64_t at = i * row_stride_of(a.mask) + j * a.mask.strides[a.mask.ndim - 1];
    if (a.mask.dtype == Dtype::boolean) return reinterpret_cast<const bool*>(mask)[at] ? score : low;
    if (a.mask.dtype == dtype_of<T>) return score + prim::widen(reinterpret_cast<const T*>(mask)[at]);
    return score + reinterpret_cast<const S*>(mask)[at];
  }

  // What weights that are kept are multiplied with: 1 without dropout.
  LAMINA_PRIM S dropout_scale() const { return a.dropout_p < 1 ? 1 / S(1 - a.dropout_p) : S(0); }
};

// Which weights dropout keeps, of `Rows` queries and a tile of keys: bit e of bits[row][k] is that of key k + 16 e of the
// tile, all eight from the words of one counter of Philox. In shared memory.
template <int Rows>
struct KeptWeights {
  uint8_t bits[Rows][counters_per_tile];

  // Of the queries from i on and the tile that has key j. The caller has a barrier between this and its readers, on both sides.
  template <class T>
  LAMINA_PRIM void draw(const Head<T>& head, int64_t i, int64_t j) {
    const Philox philox(head.a.pair.template as<const int64_t>());
    const uint32_t threshold = uint32_t(head.a.dropout_p * 65536.0 + 0.5);
    const int64_t tiles = dropout_tiles(prim::opaque(head.keys));  // nothing of this waits in registers
    const int64_t first = (head.n * head.L + i) * tiles + j / dropout_elements_per_tile;
#pragma unroll 1
    for (int at = prim::thread(); at < Rows * counters_per_tile; at += prim::threads()) {
      const int row = at / counters_per_tile, k = at % counters_per_tile;
      const auto words = philox((first + row * tiles) * counters_per_tile + k);
      uint32_t kept = 0;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        kept |= uint32_t((words[w] & 0xffff) >= threshold) << 2 * w;
        kept |= uint32_t((words[w] >> 16) >= threshold) << (2 * w + 1);
      }
      bits[row][k] = uint8_t(kept);
    }
  }

  // Of query i + row and key j + column, where j is a multiple of 16.
  LAMINA_PRIM bool at(int row, int64_t j, int column) const {
    const int e = int(j % dropout_elements_per_tile) / counters_per_tile + column / counters_per_tile;
    return bits[row][column % counters_per_tile] >> e & 1;
  }
};

}  // namespace lamina::LAMINA_DEVICE
