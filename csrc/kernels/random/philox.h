// Philox4x32-10 on registers: see random.h for the definition and the order of words.
#pragma once

#include "base/view.h"
#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

struct Philox {
  using U = Vec<uint32_t>;
  using Register = decltype(U::v);  // bare: GCC 12 keeps copies of the struct in memory
  static constexpr int counters_per_tile = 16, rounds = 10;
  static constexpr int vectors = counters_per_tile / U::N;

  U key0[rounds], key1[rounds];
  uint64_t offset;

  LAMINA_INLINE explicit Philox(const View& state) : offset(uint64_t(state.as<const int64_t>()[1])) {
    const uint64_t seed = uint64_t(state.as<const int64_t>()[0]);
    for (uint32_t i = 0; i < rounds; ++i) {
      key0[i] = U::set1(uint32_t(seed) + i * 0x9E3779B9u);
      key1[i] = U::set1(uint32_t(seed >> 32) + i * 0xBB67AE85u);
    }
  }

  // words[w][v]: output w of the counters v * U::N … of `tile`. Its chains of multiplications run side by
  // side, which hides their latency. Tiles are aligned, so c0 never carries into c1.
  LAMINA_INLINE void generate(int64_t tile, U words[4][vectors]) const {
    const uint64_t first = (offset + uint64_t(tile)) * counters_per_tile;
    const U m0 = U::set1(0xD2511F53u), m1 = U::set1(0xCD9E8D57u);
    Register c0[vectors], c1[vectors], c2[vectors], c3[vectors];
    for (int v = 0; v < vectors; ++v) {
      c0[v] = (U::set1(uint32_t(first) + uint32_t(v * U::N)) + U::iota()).v;
      c1[v] = U::set1(uint32_t(first >> 32)).v;
      c2[v] = c3[v] = U::set1(0).v;
    }
    for (int i = 0; i < rounds; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) {
        U lo0, hi0, lo1, hi1;
        mul_wide(U{c0[v]}, m0, &lo0, &hi0);
        mul_wide(U{c2[v]}, m1, &lo1, &hi1);
        c0[v] = (hi1 ^ U{c1[v]} ^ key0[i]).v;
        c1[v] = lo1.v;
        c2[v] = (hi0 ^ U{c3[v]} ^ key1[i]).v;
        c3[v] = lo0.v;
      }
    }
    for (int v = 0; v < vectors; ++v) {
      words[0][v] = {c0[v]};
      words[1][v] = {c1[v]};
      words[2][v] = {c2[v]};
      words[3][v] = {c3[v]};
    }
  }
};

}  // namespace lamina::LAMINA_ISA
