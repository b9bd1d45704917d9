// transpose(r): N registers of N lanes become their transpose, in registers.
//
// Two stages, each round one shuffle per register (24 for 8 x 8 floats on AVX2):
//   1. log2(E) rounds interleave the registers i and i + E/2 of each group of E, where E elements fill a 128-bit lane
//      (punpckl and punpckh): they transpose the E x E blocks in each lane;
//   2. log2(N/E) rounds swap whole lanes across the diagonal, as one transposes a matrix of blocks.
#pragma once

#include <utility>

#include "simd/vec.h"

namespace lamina::LAMINA_ISA {

// Integer lanes as wide as those of Vec<S>: the type of a shuffle's index.
template <class S>
struct ShuffleIndex;
template <>
struct ShuffleIndex<float> {
  typedef int32_t type __attribute__((vector_size(Vec<float>::N * 4)));
};
template <>
struct ShuffleIndex<double> {
  typedef int64_t type __attribute__((vector_size(Vec<double>::N * 8)));
};

template <class S, class Lanes = std::make_integer_sequence<int, Vec<S>::N>>
struct Transposer;

template <class S, int... J>
struct Transposer<S, std::integer_sequence<int, J...>> {
  static constexpr int N = sizeof...(J), E = 16 / sizeof(S);
  using Index = typename ShuffleIndex<S>::type;

  // Elements offset, offset + 1 ... of both registers' 128-bit lanes, alternating.
  template <int offset>
  LAMINA_INLINE static Vec<S> interleave(Vec<S> a, Vec<S> b) {
    Vec<S> r;
    r.v = __builtin_shuffle(a.v, b.v, Index{(J / E * E + J % E / 2 + offset + (J & 1 ? N : 0))...});
    return r;
  }
  // Swaps the right half of each 2d columns of a with the left half of b.
  template <int d>
  LAMINA_INLINE static void swap_blocks(Vec<S>& a, Vec<S>& b) {
    const Vec<S> x = a, y = b;
    a.v = __builtin_shuffle(x.v, y.v, Index{(J & d ? N + J - d : J)...});
    b.v = __builtin_shuffle(x.v, y.v, Index{(J & d ? N + J : J + d)...});
  }
  template <int d>
  LAMINA_INLINE static void swap_lanes(Vec<S> (&r)[N]) {
    if constexpr (d < N) {
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i)
        if (!(i & d)) swap_blocks<d>(r[i], r[i + d]);
      swap_lanes<2 * d>(r);
    }
  }
};

template <class S>
LAMINA_INLINE void transpose(Vec<S> (&r)[Vec<S>::N]) {
  using X = Transposer<S>;
#pragma GCC unroll 2
  for (int round = 1; round < X::E; round *= 2) {
    Vec<S> t[X::N];
#pragma GCC unroll 16
    for (int i = 0; i < X::N; i += 2) {
      const int row = i / X::E * X::E + i % X::E / 2;
      t[i] = X::template interleave<0>(r[row], r[row + X::E / 2]);
      t[i + 1] = X::template interleave<X::E / 2>(r[row], r[row + X::E / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < X::N; ++i) r[i] = t[i];
  }
  X::template swap_lanes<X::E>(r);
}

}  // namespace lamina::LAMINA_ISA
