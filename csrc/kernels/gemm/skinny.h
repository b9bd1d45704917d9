// Products with few rows, bound by the bytes of B: each element of B is read once, where it lies, along memory.
#pragma once

#include "kernels/gemm/pack.h"

namespace lamina::LAMINA_ISA {

// C[i, j] = start[i, j] + sum_k A[i, k] * B[k, j] for MR rows of A and NR columns of B, both contiguous in k: a vector
// runs along k in each of MR * NR accumulators, and its lanes are summed at the end.
template <int MR, int NR, class S, class B>
[[gnu::noinline]] void dot_tile(int64_t K, const S* a, int64_t row_stride, const B* b, int64_t column_stride,
                                S* c, int64_t ld, Start<S> start) {
  constexpr int N = Vec<S>::N;
  Accumulators<S, MR, NR> acc;
  acc.clear();
  const auto step = [&](auto load) {
    Vec<S> row[MR];
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) row[i] = load(a + i * row_stride);
#pragma GCC unroll 8
    for (int j = 0; j < NR; ++j) {
      const Vec<S> column = load(b + j * column_stride);
#pragma GCC unroll 8
      for (int i = 0; i < MR; ++i) acc.v[i][j] = fma(row[i], column, acc.v[i][j]);
    }
  };
  int64_t k = 0;
  for (; k + N <= K; k += N, a += N, b += N) step([](const auto* p) { return Vec<S>::load(p); });
  if (k < K) step([&](const auto* p) { return Vec<S>::load(p, int(K - k)); });
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NR; ++j) {
      const S sum = reduce_add(acc.v[i][j]);
      c[i * ld + j] = start.data ? start.data[i * start.row_stride + j] + sum : sum;
    }
}

// Rows and columns of dot products in flight: 3 x 4 accumulators, three rows and a column fit 16 registers.
inline constexpr int dot_rows = 3, dot_columns = 4;

template <class S, class B>
void dot_products(int64_t M, int64_t N, int64_t K, Bands<S> a, Matrix<const B> b, S* c, int64_t ld,
                  Start<S> start) {
  for (int64_t j = 0; j < N;) {
    const bool is_wide = j + dot_columns <= N;
    for (int64_t i = 0; i < M; i += dot_rows) {
      const S* rows = a.data + i * a.row_stride;
      const B* columns = b.data + j * b.column_stride;
      const auto run = [&](auto dot) {
        dot(K, rows, a.row_stride, columns, b.column_stride, c + i * ld + j, ld, start.at(i, j));
      };
      switch (M - i) {
        case 1:
          run(is_wide ? dot_tile<1, dot_columns, S, B> : dot_tile<1, 1, S, B>);
          break;
        case 2:
          run(is_wide ? dot_tile<2, dot_columns, S, B> : dot_tile<2, 1, S, B>);
          break;
        default:
          run(is_wide ? dot_tile<3, dot_columns, S, B> : dot_tile<3, 1, S, B>);
      }
    }
    j += is_wide ? dot_columns : 1;
  }
}

// C (MR, N; rows ld apart) += A (MR, KR) * B (KR, N).
template <int MR, int KR, class S, class B>
[[gnu::noinline]] void add_rows(int64_t N, Matrix<const S> a, Matrix<const B> b, S* c, int64_t ld) {
  Vec<S> scale[MR][KR];
#pragma GCC unroll 8
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 8
    for (int k = 0; k < KR; ++k) scale[i][k] = Vec<S>::set1(*a.at(i, k).data);
  const auto step = [&](int64_t j, auto load, auto store) {
    Vec<S> row[KR];
#pragma GCC unroll 8
    for (int k = 0; k < KR; ++k) row[k] = load(b.data + k * b.row_stride + j);
#pragma GCC unroll 8
    for (int i = 0; i < MR; ++i) {
      Vec<S> sum = load(c + i * ld + j);
#pragma GCC unroll 8
      for (int k = 0; k < KR; ++k) sum = fma(scale[i][k], row[k], sum);
      store(c + i * ld + j, sum);
    }
  };
  int64_t j = 0;
  for (; j + Vec<S>::N <= N; j += Vec<S>::N)
    step(j, [](const auto* p) { return Vec<S>::load(p); }, [](S* p, Vec<S> v) { v.store(p); });
  if (const int n = int(N - j); n > 0)
    step(j, [n](const auto* p) { return Vec<S>::load(p, n); }, [n](S* p, Vec<S> v) { v.store(p, n); });
}

// C (M, N) = start + A (M, K) * B (K, N) with contiguous rows of B, for up to rows_max_rows rows. KR rows of B at a time are
// KR streams; MR * KR scalars of A stay in registers, and a block of sums in L1. The sums begin at zero, so that their
// rounding errors grow with K and the number of calls, not with their product.
inline constexpr int64_t rows_max_rows = 4;

template <class S, class B>
void sums_of_rows(int64_t M, int64_t N, int64_t K, Matrix<const S> a, Matrix<const B> b, S* c, int64_t ld,
                  Start<S> start) {
  constexpr int64_t block = 512;
  S sums[rows_max_rows * block];
  const auto sweep = [&](auto add, auto add_one, int64_t rows, int64_t n, int64_t j) {
    int64_t k = 0;
    for (; k + rows <= K; k += rows) add(n, a.at(0, k), b.at(k, j), sums, block);
    for (; k < K; ++k) add_one(n, a.at(0, k), b.at(k, j), sums, block);
  };
  for (int64_t j = 0; j < N; j += block) {
    const int64_t n = smaller(block, N - j);
    __builtin_memset(sums, 0, size_t(M * block) * sizeof(S));
    switch (M) {
      case 1:
        sweep(add_rows<1, 8, S, B>, add_rows<1, 1, S, B>, 8, n, j);
        break;
      case 2:
        sweep(add_rows<2, 4, S, B>, add_rows<2, 1, S, B>, 4, n, j);
        break;
      case 3:
        sweep(add_rows<3, 3, S, B>, add_rows<3, 1, S, B>, 3, n, j);
        break;
      default:
        sweep(add_rows<4, 2, S, B>, add_rows<4, 1, S, B>, 2, n, j);
    }
    for (int64_t i = 0; i < M; ++i)
      for (int64_t l = 0; l < n; ++l) {
        const S sum = sums[i * block + l];
        c[i * ld + j + l] = start.data ? start.data[i * start.row_stride + j + l] + sum : sum;
      }
  }
}

}  // namespace lamina::LAMINA_ISA
