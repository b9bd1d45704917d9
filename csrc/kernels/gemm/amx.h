// Products of bfloat16 matrices by AMX tiles, with the epilogue of gemm.h: y = finish(sum_k A[m, k] * B[k, n]).
//
// A tile register holds 16 rows of 16 words. tdpbf16ps adds to a tile of C (words are float) the product of a tile of A
// and one of B, whose words are pairs of neighbours in k, the even k in the low half: 16 * 16 * 32 multiply-adds, one
// such instruction every 16 cycles.
//
//   A: word (i, k / 2) = {A[i, k], A[i, k + 1]}           B: word (k / 2, j) = {B[k, j], B[k + 1, j]}
//
// A tile of B is thus the transpose, in words, of the tile that has B's columns as its rows, and pack_tile serves both.
//
// Plan: four tiles of C, 32 x 32 sums, take two tiles of A and two of B for each 32 k: a load per multiplication, which
// takes half as long. Blocks of C wait in scratch memory between blocks of k; the last one finishes them.
//
//                 tmm6  tmm7     B (kc x nc): panels of 32 columns, 16 KiB each, of which one stays in L1
//          tmm4   tmm0  tmm1
//          tmm5   tmm2  tmm3     A (M x kc): bands of 32 rows, which stay in L2
//
// Packing takes any strides and pads edges with zeros, so tiles are always whole. An element costs 0.3 to 0.9 cycles
// (measured with AVX2; 2 to 3 where neither stride is 1), a multiplication of tiles 16: packing weighs less than the
// products once the other side has more than about 500 lines.
//
// Numbers: sums and products are float32, rounded to nearest even. The instruction ignores MXCSR: denormal operands
// count as zero, and denormal products and sums become zero. NaN and Inf propagate. Each element is summed in the order
// of k alone: even and odd k apart inside a tile, then tile after tile, whatever kc, nc and the chunks are.
//
// The tile operations are a struct with two implementations: the instructions, and an emulation with the same numbers,
// with which tests/native/amx_check.cpp runs everything else on machines without AMX.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, LDTILECFG, TILELOADD, TDPBF16PS.
#pragma once

#include "base/isa.h"
#include "base/scratch.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/pack.h"
#include "simd/transpose.h"

namespace lamina::LAMINA_ISA {

inline constexpr int64_t amx_lines = 16, amx_depth = 32;  // rows of a tile, and k in one
inline constexpr int64_t amx_tile = amx_lines * amx_depth;
inline constexpr int64_t amx_side = 2 * amx_lines;  // of a block of C

#if defined(__x86_64__)
// Palette 1: eight tiles of 16 rows of 64 bytes.
struct alignas(64) AmxConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(AmxConfig) == 64);
inline constexpr AmxConfig amx_config{};

// Tile registers are configured while an object lives: the state is the thread's, and libraries that use tiles leave
// it released. No compiler flag is needed for inline assembly, and no compiler then touches tiles on its own.
struct AmxTiles {
  // The operand is the whole struct: GCC 12's _tile_loadconfig declares 8 bytes of it, and its stores may vanish.
  LAMINA_INLINE AmxTiles() { asm volatile("ldtilecfg %0" : : "m"(amx_config)); }
  LAMINA_INLINE ~AmxTiles() { asm volatile("tilerelease"); }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

  template <int tile>
  LAMINA_INLINE void zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(tile));
  }
  template <int tile>
  LAMINA_INLINE void load(const void* p, int64_t row_bytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(row_bytes), "i"(tile) : "memory");
  }
  template <int tile>
  LAMINA_INLINE void store(void* p, int64_t row_bytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(row_bytes), "i"(tile) : "memory");
  }
  // c += a * b; the three must differ.
  template <int c, int a, int b>
  LAMINA_INLINE void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(c), "i"(a), "i"(b));
  }
};
#endif

struct EmulatedTiles {
  float words[8][amx_lines][amx_lines];

  template <int tile>
  void zero() {
    __builtin_memset(words[tile], 0, sizeof words[tile]);
  }
  template <int tile>
  void load(const void* p, int64_t row_bytes) {
    for (int64_t i = 0; i < amx_lines; ++i)
      __builtin_memcpy(words[tile][i], static_cast<const char*>(p) + i * row_bytes, sizeof words[tile][i]);
  }
  template <int tile>
  void store(void* p, int64_t row_bytes) const {
    for (int64_t i = 0; i < amx_lines; ++i)
      __builtin_memcpy(static_cast<char*>(p) + i * row_bytes, words[tile][i], sizeof words[tile][i]);
  }
  static float flush(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x; }
  static float half(const float& word, int odd) {
    bf16 pair[2];
    __builtin_memcpy(pair, &word, sizeof pair);
    return flush(to_float(pair[odd]));
  }
  template <int c, int a, int b>
  void multiply() {
    for (int64_t i = 0; i < amx_lines; ++i) {
      float sum[2][amx_lines] = {};
      for (int64_t k = 0; k < amx_lines; ++k)
        for (int odd = 0; odd < 2; ++odd)
          for (int64_t j = 0; j < amx_lines; ++j)
            sum[odd][j] =
                flush(__builtin_fmaf(half(words[a][i][k], odd), half(words[b][k][j], odd), sum[odd][j]));
      for (int64_t j = 0; j < amx_lines; ++j)
        words[c][i][j] = flush(flush(words[c][i][j]) + flush(sum[0][j] + sum[1][j]));
    }
  }
};

#if defined(LAMINA_EMULATE_AMX)  // by tests/native/amx_check.cpp
using Tiles = EmulatedTiles;
LAMINA_INLINE bool has_tiles() { return true; }
#elif defined(__AVX512F__)
using Tiles = AmxTiles;
LAMINA_INLINE bool has_tiles() { return has_amx(); }
#else
using Tiles = EmulatedTiles;  // never run
LAMINA_INLINE constexpr bool has_tiles() { return false; }
#endif

// A tile from m(line, k), of whose 16 lines and 32 k `lines` and `K` exist. Its rows are the lines where by_line, else
// the pairs of k.
inline void pack_tile(Matrix<const bf16> m, int64_t lines, int64_t K, bool by_line, bf16* out) {
  alignas(64) bf16 turned[amx_tile];
  const bool is_whole = lines == amx_lines && K == amx_depth;
  const bool reads_pairs = m.row_stride == 1 && m.column_stride != 1;  // along memory
  bf16* tile = reads_pairs == by_line ? turned : out;
  if (!is_whole) __builtin_memset(tile, 0, sizeof turned);
  if (reads_pairs) {
    for (int64_t k = 0; k < K; k += 2) {
      const bf16 *even = m.at(0, k).data, *odd = m.at(0, k + 1).data;
      bf16* row = tile + k / 2 * amx_depth;
      if (is_whole) {
        uint32_t words[amx_lines];  // a local, so that the compiler sees no overlap and uses vectors
        for (int64_t i = 0; i < amx_lines; ++i) words[i] = even[i].bits | uint32_t(odd[i].bits) << 16;
        __builtin_memcpy(row, words, sizeof words);
      } else {
        for (int64_t i = 0; i < lines; ++i) {
          row[2 * i] = even[i];
          if (k + 1 < K) row[2 * i + 1] = odd[i];
        }
      }
    }
  } else {
    for (int64_t i = 0; i < lines; ++i, tile += amx_depth) {
      const bf16* line = m.at(i, 0).data;
      if (is_whole && m.column_stride == 1)
        __builtin_memcpy(tile, line, amx_depth * sizeof(bf16));
      else
        for (int64_t k = 0; k < K; ++k) tile[k] = line[k * m.column_stride];
    }
  }
  if (reads_pairs != by_line) return;

  // Words turn in registers, as floats: vectors move any bits unchanged.
  constexpr int64_t N = Vec<float>::N;
  const float* from = reinterpret_cast<const float*>(turned);
  float* to = reinterpret_cast<float*>(out);
  for (int64_t i = 0; i < amx_lines; i += N) {
    for (int64_t j = 0; j < amx_lines; j += N) {
      Vec<float> r[N];
#pragma GCC unroll 16
      for (int64_t l = 0; l < N; ++l) r[l] = Vec<float>::load(from + (i + l) * amx_lines + j);
      transpose(r);
#pragma GCC unroll 16
      for (int64_t l = 0; l < N; ++l) r[l].store(to + (j + l) * amx_lines + i);
    }
  }
}

// All lines and k of m in strips of 32 lines: per 32 k, the tiles of the first and of the second 16 lines. Memory is
// read along lines, or along k.
inline void pack_strips(Matrix<const bf16> m, int64_t lines, int64_t K, bool by_line, bf16* out) {
  const int64_t tiles = 2 * ceil_div(lines, amx_side), steps = ceil_div(K, amx_depth);
  const bool along_k = m.row_stride != 1;
  for (int64_t n = 0; n < tiles * steps; ++n) {
    const int64_t tile = along_k ? n / steps : n % tiles, step = along_k ? n % steps : n / tiles;
    const int64_t i = tile * amx_lines, k = step * amx_depth;
    pack_tile(m.at(i, k), larger(0, smaller(amx_lines, lines - i)), smaller(amx_depth, K - k), by_line,
              out + ((tile / 2 * steps + step) * 2 + tile % 2) * amx_tile);
  }
}

// c (32 x 32, dense) = or += a strip of A times a strip of B, of `steps` times 32 k each.
LAMINA_INLINE void multiply_strips(Tiles& t, int64_t steps, const bf16* a, const bf16* b, float* c,
                                   bool is_sum) {
  constexpr int64_t row = amx_lines * sizeof(float), c_row = amx_side * sizeof(float);
  float* lower = c + amx_lines * amx_side;
  if (is_sum) {
    t.load<0>(c, c_row), t.load<1>(c + amx_lines, c_row);
    t.load<2>(lower, c_row), t.load<3>(lower + amx_lines, c_row);
  } else {
    t.zero<0>(), t.zero<1>(), t.zero<2>(), t.zero<3>();
  }
  for (int64_t step = 0; step < steps; ++step, a += 2 * amx_tile, b += 2 * amx_tile) {
    t.load<6>(b, row), t.load<4>(a, row);
    t.multiply<0, 4, 6>();
    t.load<7>(b + amx_tile, row), t.load<5>(a + amx_tile, row);
    t.multiply<1, 4, 7>(), t.multiply<2, 5, 6>(), t.multiply<3, 5, 7>();
  }
  t.store<0>(c, c_row), t.store<1>(c + amx_lines, c_row);
  t.store<2>(lower, c_row), t.store<3>(lower + amx_lines, c_row);
}

// Rows and columns of y from (i0, j0) on, from the rows of a and the columns of b that belong to them. K > 0.
inline void multiply_amx(int64_t M, int64_t N, int64_t K, Matrix<const bf16> a, Matrix<const bf16> b,
                         int64_t kc, int64_t nc, const Epilogue<bf16>& epilogue, int64_t i0, int64_t j0) {
  constexpr int64_t block = amx_side * amx_side;
  Tiles tiles;
  const bool is_single = K <= kc;  // one block of k: sums are finished at once
  for (int64_t jc = 0; jc < N; jc += nc) {
    const int64_t columns = smaller(nc, N - jc);
    const int64_t bands = ceil_div(M, amx_side), panels = ceil_div(columns, amx_side);
    float* sums = scratch<float>(Scratch::tile, block * (is_single ? 1 : bands * panels));
    for (int64_t pc = 0; pc < K; pc += kc) {
      const int64_t k = smaller(kc, K - pc), steps = ceil_div(k, amx_depth), strip = 2 * amx_tile * steps;
      bf16* packed_a = scratch<bf16>(Scratch::pack_a, bands * strip);
      bf16* packed_b = scratch<bf16>(Scratch::pack_b, panels * strip);
      pack_strips(a.at(0, pc), M, k, true, packed_a);
      pack_strips(b.at(pc, jc).transposed(), columns, k, false, packed_b);
      for (int64_t panel = 0; panel < panels; ++panel) {
        for (int64_t band = 0; band < bands; ++band) {
          float* c = is_single ? sums : sums + (panel * bands + band) * block;
          multiply_strips(tiles, steps, packed_a + band * strip, packed_b + panel * strip, c, pc > 0);
          if (pc + k < K) continue;
          const int64_t i = band * amx_side, j = panel * amx_side;
          finish(epilogue, {c, amx_side, i0 + i, j0 + jc + j, smaller(amx_side, M - i),
                            smaller(amx_side, columns - j)});
        }
      }
    }
  }
}

}  // namespace lamina::LAMINA_ISA
