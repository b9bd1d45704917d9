// Products by multiply-adds of the ordinary cores: any strides, float32 as IEEE defines it, float64, and short types
// where their operands do not suit the matrix units.
//
//   sums[m, n] = sum_k A[m, k] B[k, n]     for a tile of M x N per block
//
// The block walks over K in steps of 16. Both operands' slices come to shared memory in compute precision, k outermost,
// so that a thread reads its rows and columns as vectors; the slice after the next comes to registers meanwhile:
//
//        B  n ->                     A thread's TM x TN sums lie in sub-tiles of 4 x 4, so that neighbouring threads
//      +---------+                   read neighbouring vectors. 8 x 8 sums read 16 numbers for 64 multiply-adds; 32 of
//  A   | . | . | |                   each are what shared memory delivers to one SM per cycle against 128.
//  m   |---+---| |
//  |   | . | . | |
//  v   +---------+
//
// Sums of 256 products go into a second set of sums, so that rounding errors grow with 256 + K / 256 and not with K.
// Each element is summed in an order that depends on K and the cut of K alone.
#pragma once

#include "kernels/gemm/product.cuh"

namespace lamina::LAMINA_DEVICE {

template <int Rows, int Columns, int RowsPerThread, int ColumnsPerThread>
struct SimtTile {
  static constexpr int M = Rows, N = Columns, K = 16, TM = RowsPerThread, TN = ColumnsPerThread;
  static constexpr int threads_m = M / TM, threads_n = N / TN, threads = threads_m * threads_n;
  // A warp has whole rows of threads; with one sub-tile each they are a patch.
  static constexpr int patch_rows = 4 * prim::warp_size / threads_n;
};

// A slice of K x Lines numbers. Four more per row keep the vectors aligned and spread columns over the banks.
template <class S, int K, int Lines>
struct Slice {
  S at[K][Lines + 4];
};

template <class T, class Tile>
struct SimtShared {
  using S = Compute<T>;
  struct Slices {
    Slice<S, Tile::K, Tile::M> a;
    Slice<S, Tile::K, Tile::N> b;
  };
  union {
    Slices slices[2];
    Patch<S, Tile::patch_rows, Tile::N> patches[Tile::threads / prim::warp_size];  // after the last slice
  };
};

// A thread's part of the slices of one operand, of `Lines` rows of A or columns of B: `count` elements of one line or of
// one k, evenly spaced along the other axis. Neighbouring threads take neighbouring elements of the axis along which the
// operand lies in memory.
template <class T, int K, int Lines, int Threads>
struct SliceLoader {
  static constexpr int count = K * Lines / Threads, pitch = Lines + 4;
  static constexpr int line_step = Threads / K, k_step = Threads / Lines;
  static_assert(Threads % K == 0 && Threads % Lines == 0);

  const T* next;  // the first element in the next slice
  int64_t step, k_stride;
  bool is_one_k;  // and `line_step` lines from one element to the next; or one line
  int k, place;   // of the first element, and where it lies in a slice
  int lines;      // how many of the thread's lines exist
  Compute<T> v[count] = {};

  LAMINA_PRIM SliceLoader(const T* data, int64_t line_stride, int64_t k_stride, int64_t lines)
      : k_stride(k_stride), is_one_k(k_stride < line_stride) {
    const int line = is_one_k ? prim::thread() / K : prim::thread() % Lines;
    k = is_one_k ? prim::thread() % K : prim::thread() / Lines;
    place = k * pitch + line;
    this->lines = (int(smaller(lines, Lines)) - line + line_step - 1) / line_step;
    next = data + line * line_stride + k * k_stride;
    step = is_one_k ? line_step * line_stride : k_step * k_stride;
  }
  // Of the next slice, the first `ks` elements of K.
  LAMINA_PRIM void load(int64_t ks) {
    const int left = int(smaller(ks, K)) - k;
    const int exist = is_one_k ? (left > 0 ? lines : 0) : (lines > 0 ? (left + k_step - 1) / k_step : 0);
    const T* p = next;
#pragma unroll
    for (int i = 0; i < count; ++i, p += step) v[i] = i < exist ? prim::widen(*p) : Compute<T>(0);
    next += K * k_stride;
  }
  LAMINA_PRIM void store(Slice<Compute<T>, K, Lines>& slice) const {
    Compute<T>* p = &slice.at[0][place];
#pragma unroll
    for (int i = 0; i < count; ++i) p[i * (is_one_k ? line_step : k_step * pitch)] = v[i];
  }
};

// The four neighbouring numbers of each sub-tile of 4 that belong to `thread`.
template <int Count, class S>
LAMINA_PRIM void load_fragment(const S* row, int thread, int threads, S (&v)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; i += 4) {
    const prim::Pack<S, 4> four = prim::load_vector<4>(row + (i * threads + thread * 4));
#pragma unroll
    for (int k = 0; k < 4; ++k) v[i + k] = four[k];
  }
}

// The sums of a thread.
template <class T, class Tile>
using SimtSums = Compute<T>[Tile::TM][Tile::TN];

// total += A B over `left` elements of K. load(left) of the loaders takes the next slice to registers, with zeros from
// element `left` of K on, and store(slice) to shared memory.
template <class T, class Tile, class LoadA, class LoadB>
LAMINA_PRIM void multiply(SimtShared<T, Tile>& shared, int64_t left, LoadA& a, LoadB& b,
                          SimtSums<T, Tile>& total) {
  using S = Compute<T>;
  constexpr int TM = Tile::TM, TN = Tile::TN, slices_per_sum = 256 / Tile::K;
  const int thread_m = prim::thread() / Tile::threads_n, thread_n = prim::thread() % Tile::threads_n;
  S sum[TM][TN] = {};
  const auto add_to_total = [&] {
#pragma unroll
    for (int i = 0; i < TM; ++i)
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        total[i][j] += sum[i][j];
        sum[i][j] = 0;
      }
  };

  if (left > 0) {
    a.load(left);
    b.load(left);
  }
  for (int slice = 0; left > 0; left -= Tile::K, ++slice) {
    auto& slices = shared.slices[slice % 2];
    a.store(slices.a);
    b.store(slices.b);
    // The slice is there; and all have left the other one, which the next round overwrites.
    prim::block_sync();
    if (left > Tile::K) {
      a.load(left - Tile::K);
      b.load(left - Tile::K);
    }
#pragma unroll 4
    for (int k = 0; k < Tile::K; ++k) {
      S av[TM], bv[TN];
      load_fragment(slices.a.at[k], thread_m, Tile::threads_m, av);
      load_fragment(slices.b.at[k], thread_n, Tile::threads_n, bv);
#pragma unroll
      for (int i = 0; i < TM; ++i)
#pragma unroll
        for (int j = 0; j < TN; ++j) sum[i][j] = prim::fma(av[i], bv[j], sum[i][j]);
    }
    if (slice % slices_per_sum == slices_per_sum - 1) add_to_total();
  }
  add_to_total();
}

// For __launch_bounds__: how many blocks an SM's registers are to suffice for. Two sets of 64 numbers as sums leave room for
// 256 threads of 255 registers, of 16 doubles for 384 of 168, and of 16 floats for `threads`, as the loaders let it.
template <class T, class Tile>
constexpr int blocks_per_sm(int threads) {
  return (Tile::TM * Tile::TN > 16 ? 256 : sizeof(Compute<T>) == 8 ? 384 : threads) / Tile::threads;
}

// Gives the sums of a tile, whose first is (row, column), to the epilogue.
template <class T, class Tile, class E>
LAMINA_PRIM void finish_tile(SimtShared<T, Tile>& shared, const SimtSums<T, Tile>& total, int64_t row,
                             int64_t column, const E& epilogue) {
  const int thread_m = prim::thread() / Tile::threads_n, thread_n = prim::thread() % Tile::threads_n;
  prim::block_sync();  // all have left the slices, where the patches lie
  auto& patch = shared.patches[prim::warp()];
#pragma unroll 1
  for (int part = 0; part < Tile::TM / 4; ++part) {
#pragma unroll
    for (int i = 0; i < Tile::TM; ++i)
#pragma unroll
      for (int j = 0; j < Tile::TN; j += 4)
        if (i / 4 == part)
          prim::store_vector(
              &patch.at[thread_m * 4 % Tile::patch_rows + i % 4][j * Tile::threads_n + thread_n * 4],
              prim::Pack<Compute<T>, 4>{{total[i][j], total[i][j + 1], total[i][j + 2], total[i][j + 3]}});
    finish<T>(patch, row + part * 4 * Tile::threads_m + prim::warp() * Tile::patch_rows, column, epilogue);
  }
  prim::block_sync();  // the patches are free
}

template <class T, class Tile>
struct GemmSimtShared {
  SimtShared<T, Tile> slices;
  BlockTile tile;  // here, what only the epilogue needs takes no registers while the sums are made
};

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, blocks_per_sm<T, Tile>(640))
    gemm_simt_kernel(Product p, Cut cut, Compute<T>* partial) {
  auto& shared = prim::shared_memory<GemmSimtShared<T, Tile>>();
  for (int64_t block = blockIdx.x; block < cut.blocks(); block += gridDim.x) {
    if (prim::thread() == 0) shared.tile = tile_of(cut, p.K, block);
    prim::block_sync();  // the tile is there
    const BlockTile& tile = shared.tile;
    const Matrix<const T> am = matrix_of<const T>(p.batch, p.a, tile.index),
                          bm = matrix_of<const T>(p.batch, p.b, tile.index);
    SliceLoader<T, Tile::K, Tile::M, Tile::threads> a(am.at(tile.row, tile.k_begin), am.row_stride,
                                                      am.column_stride, p.M - tile.row);
    SliceLoader<T, Tile::K, Tile::N, Tile::threads> b(bm.at(tile.k_begin, tile.column), bm.column_stride,
                                                      bm.row_stride, p.N - tile.column);
    SimtSums<T, Tile> total = {};
    multiply<T, Tile>(shared.slices, tile.k_end - tile.k_begin, a, b, total);
    finish_tile<T, Tile>(shared.slices, total, tile.row, tile.column, epilogue_of<T>(p, cut, tile, partial));
  }
}

}  // namespace lamina::LAMINA_DEVICE
