// Philox4x32-10 on a GPU: a thread takes a counter, hence four words. See random.h for the definition and the order of
// words: the 16 counters of a tile belong to neighbouring threads, which so write neighbouring elements.
#pragma once

#include "kernels/layout/space.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {

inline constexpr int counters_per_tile = 16;

struct Philox {
  uint64_t seed, first;  // counter of tile 0

  LAMINA_PRIM explicit Philox(const int64_t* state)
      : seed(uint64_t(state[0])), first(uint64_t(state[1]) * counters_per_tile) {}

  // The four outputs of a counter, numbered from tile 0.
  LAMINA_PRIM prim::Pack<uint32_t, 4> operator()(int64_t counter) const {
    const uint64_t at = first + uint64_t(counter);
    uint32_t c0 = uint32_t(at), c1 = uint32_t(at >> 32), c2 = 0, c3 = 0;
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
      c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
      c1 = uint32_t(p1);
      c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
      c3 = uint32_t(p0);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }
};

// Calls f(i, words) for the counters of this thread, where tiles serve `per_tile` of n numbers each, and word 0 of the
// counter the number i.
template <int per_tile, class F>
LAMINA_PRIM void for_counters(int64_t n, const int64_t* state, F f) {
  const Philox philox(state);
  for_items((n + per_tile - 1) / per_tile * counters_per_tile, [&](int64_t counter) {
    f(counter / counters_per_tile * per_tile + counter % counters_per_tile, philox(counter));
  });
}

// Threads for that.
template <int per_tile>
Launch spread_counters(int64_t n) {
  return spread((n + per_tile - 1) / per_tile * counters_per_tile);
}

}  // namespace lamina::LAMINA_DEVICE
