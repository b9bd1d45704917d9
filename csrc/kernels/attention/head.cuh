// What the device kernels of attention.h share: a head's mask, its dropout, and which keys a query sees.
#pragma once

#include "kernels/attention/attention.h"
#include "kernels/random/philox.cuh"

namespace lamina::LAMINA_DEVICE {

// What is subtracted before exp: the maximum, but 0 in a row of -inf, whose exponentials then are 0, not NaN.
template <class S>
LAMINA_PRIM S shift_of(S max) {
  return max == -S(INFINITY) ? S(0) : max;
}

template <class T>
struct Head {
  using S = Compute<T>;
  const AttentionArgs& a;
  int64_t n, L, keys;
  const char* mask;

  LAMINA_PRIM Head(const AttentionArgs& a, int64_t n)
      : a(a), n(n), L(rows_of(a.query)), keys(rows_of(a.key)), mask(nullptr) {
    if (a.mask) mask = a.mask.as<char>() + offset_of_head(a.mask, n) * size_of(a.mask.dtype);
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

  // The counter of Philox whose words decide about query i and the keys j + 16 e, e < 8, of one tile.
  LAMINA_PRIM int64_t counter(int64_t i, int64_t j) const {
    const int64_t tile = (n * L + i) * dropout_tiles(keys) + j / dropout_elements_per_tile;
    return tile * counters_per_tile + j % counters_per_tile;
  }
};

// keep / (1 - dropout_p), from the words of a key's counter.
struct DeviceDropout {
  Philox philox;
  uint32_t threshold;
  double scale;

  LAMINA_PRIM DeviceDropout(const AttentionArgs& a)
      : philox(a.pair.as<const int64_t>()),
        threshold(uint32_t(a.dropout_p * 65536.0 + 0.5)),
        scale(a.dropout_p < 1 ? 1 / (1 - a.dropout_p) : 0.0) {}

  // Of key number e of those that share a counter.
  LAMINA_PRIM double factor(const prim::Pack<uint32_t, 4>& words, int e) const {
    const uint32_t word = e < 4 ? e < 2 ? words[0] : words[1] : e < 6 ? words[2] : words[3];
    const uint32_t draw = e % 2 ? word >> 16 : word & 0xffff;
    return draw >= threshold ? scale : 0;
  }
};

// keep / (1 - dropout_p) of one score.
template <class T>
LAMINA_PRIM Compute<T> keep_factor(const Head<T>& head, const DeviceDropout& dropout, int64_t i, int64_t j) {
  const prim::Pack<uint32_t, 4> words = dropout.philox(head.counter(i, j));
  return dropout.factor(words, int(j % dropout_elements_per_tile) / counters_per_tile);
}

}  // namespace lamina::LAMINA_DEVICE
