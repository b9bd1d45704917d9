// Random numbers from a counter: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). Ten rounds of a keyed bijection turn the 128-bit counter c and the 64-bit key into
// four words:
//
//   round:  (hi0, lo0) = 0xD2511F53 * c0,  (hi1, lo1) = 0xCD9E8D57 * c2
//           c = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0),   k += (0x9E3779B9, 0xBB67AE85)
//
// A generator is an int64[2] array {seed, offset} in device memory. The seed is the key. The offset counts
// tiles: a tile is 16 counters, hence 64 words, and tile t of a kernel has the counters 16 * (offset + t) +
// l, l < 16, in (c0, c1); c2 = c3 = 0. Word 16 * w + l of the tile is output w of counter l, so that
// registers of 4, 8 or 16 lanes all write consecutive elements. Every number is a function of (seed, offset,
// its index) alone: the bits are the same for any number of threads and at any instruction-set level (this
// source is compiled without contraction to FMA). `advance` moves the offset, on the device, so a recorded
// program draws new numbers each time it runs.
//
//   uniform    low + (high - low) * u,     u = 24 bits * 2^-24 (bfloat16: 8, float16: 11, float64: 53), in [0, 1)
//   normal     mean + std * z              Box-Muller: words 0 and 1 of a counter give r cos and r sin; 2 and 3 too
//   randint    low + floor(u * (high - low)), u of 64 bits: no value is likelier than another by more than 2^-64
//   bernoulli  u < p[i], u of 24 bits
//   randperm   Fisher-Yates shuffle of 0 … n - 1 with one randint per swap
//
// Outputs are contiguous. Traffic is the output; at about 1.5 cycles a word Philox, not memory, bounds them
// all.
#pragma once

#include "base/kernel_table.h"
#include "base/view.h"

namespace lamina {

inline constexpr int64_t random_words_per_tile = 64;

// Tiles that a kernel uses up for n elements of `words` words each.
constexpr int64_t random_tiles(int64_t n, int64_t words) {
  return (n * words + random_words_per_tile - 1) / random_words_per_tile;
}

struct UniformArgs {
  View y, state;
  double low, high;
};

struct NormalArgs {
  View y, state;
  double mean, std;
};

struct RandintArgs {
  View y, state;  // y: int64, int32 or uint8
  int64_t low, high;
};

struct BernoulliArgs {
  View p, y, state;  // p, y: one floating dtype, contiguous
};

struct RandpermArgs {
  View y, state;  // y: (n) int64
};

struct AdvanceArgs {
  View state, before;  // before: optional int64[2], receives the state as it was
  int64_t tiles;
};

struct RandomKernels {
  void (*uniform)(const UniformArgs&);      // 1 word an element; float64: 2
  void (*normal)(const NormalArgs&);        // 1 word an element; float64: 2
  void (*randint)(const RandintArgs&);      // 2 words an element
  void (*bernoulli)(const BernoulliArgs&);  // 1 word an element
  void (*randperm)(const RandpermArgs&);    // 2 words an element
  void (*advance)(const AdvanceArgs&);
};

LAMINA_KERNEL_TABLE(RandomKernels, random_kernels)

}  // namespace lamina
