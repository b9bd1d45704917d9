// The main loop of products on the matrix units by mma.sync: sums[m, n] = sum_k A[m, k] B[k, n] of a block's tile, for
// products of matrices and for convolutions alike, which differ only in where their operands come from.
//
//   using Tile = MmaTile<bf16, MmaShape{.m = 128, .n = 128, .warp_m = 64, .warp_n = 64}, AIsKMajor, BIsKMajor>;
//   auto& shared = prim::shared_memory<MmaShared<Tile>>();             launched with Tile::threads threads
//   float sums[Tile::fragments_m][Tile::fragments_n][4] = {};
//   multiply<Tile>(shared, slices, a, b, sums);                        slices of Tile::K elements of K; visit(stage), if
//                                                                      given, sees each when it is there
//   finish_fragments<T, Tile>(shared, sums, row, column, epilogue);    epilogue(i, j, Pack<float, vector_of<T>>)
//
// `a` and `b` are loaders. loader.load(tiles, slice) issues this thread's cp.async copies of slice 0, 1, 2, … of K into
// `tiles`, one per plane, of Tile::A or Tile::B. What lies outside the matrix becomes zero. Loaders of matrices are
// below (MatrixLoader); one for an implicit matrix, as of a convolution, is any other struct with that function, and
// usually loops as they do: thread t has chunk t % chunks of the rows t / chunks + i * rows_per_pass.
//
// A tile in shared memory (MmaOperand) is `rows` rows of `chunks` chunks of eight elements, 16 bytes. K-major: a row is
// a line (row m of A, column n of B) and runs along K. MN-major: a row is an element of K and runs along the lines. Both
// are read by ldmatrix, the second transposed, so no operand is ever copied to be transposed. Chunks are exchanged
// within rows, chunk ^ f(row), so that eight rows of one chunk lie on different banks.
//
// Planes: float32 operands as sums of bf16 numbers, x = x0 + x1 + x2 to 24 bits, are multiplied as the products x_i y_j
// with i + j < planes, the small ones first. The unit cuts its sums instead of rounding them, which would lose what the
// planes gained; so they go into a second set of sums, rounded, after every 64 elements of K. (Ootomo and Yokota, "Recovering
// single precision accuracy from Tensor Cores", arXiv 2203.03341, for both effects.)
//
// Pipeline: while a slice is multiplied, the copies of the next stages - 1 are under way. One barrier per slice.
#pragma once

#include "kernels/gemm/epilogue.cuh"

namespace lamina::LAMINA_DEVICE {

template <int Lines, int K, bool IsKMajor_>
struct MmaOperand {
  static constexpr bool is_k_major = IsKMajor_;
  static constexpr int lines = Lines, rows = IsKMajor_ ? Lines : K, chunks = (IsKMajor_ ? K : Lines) / 8;
  static constexpr int bytes = Lines * K * 2;

  // Where a chunk of a row lies, in bytes. Rows shorter than the 128 bytes of all banks share them.
  static LAMINA_PRIM int offset(int row, int chunk) {
    constexpr int rows_per_line = chunks < 8 ? 8 / chunks : 1, exchanged = chunks < 8 ? chunks : 8;
    return (row * chunks + (chunk ^ (row / rows_per_line % exchanged))) * 16;
  }
};

struct MmaShape {
  int m, n;            // of a block's tile
  int warp_m, warp_n;  // of a warp's part
  int planes = 1, stages = 3;
};

template <class T, MmaShape Shape, bool AIsKMajor, bool BIsKMajor>
struct MmaTile {
  using Element = T;
  static constexpr int M = Shape.m, N = Shape.n, K = 32, planes = Shape.planes, stages = Shape.stages;
  static constexpr int warp_m = Shape.warp_m, warp_n = Shape.warp_n, warps_n = N / warp_n;
  static constexpr int warps = M / warp_m * warps_n, threads = warps * prim::warp_size;
  static constexpr int fragments_m = warp_m / 16, fragments_n = warp_n / 8;
  // Blocks that an SM's registers are to suffice for: 32 sums of a thread leave room for 512 threads of 128 registers, 64
  // for 384 of 168, 128 for 256 of 255.
  static constexpr int sums = warp_m * warp_n / prim::warp_size * (planes == 1 ? 1 : 2);
  static constexpr int blocks = (sums <= 32 ? 512 : sums <= 64 ? 384 : 256) / threads;
  using A = MmaOperand<M, K, AIsKMajor>;
  using B = MmaOperand<N, K, BIsKMajor>;
};

template <class Tile>
struct MmaShared {
  struct Stage {
    char a[Tile::planes][Tile::A::bytes], b[Tile::planes][Tile::B::bytes];
  };
  union {
    Stage stages[Tile::stages];
    Patch<float, 16, Tile::warp_n> patches[Tile::warps];
  };
};

// The registers of a fragment of A (16 lines x 16 of K), or of two of B (8 lines each), from `line` and `k` on.
template <class Operand, bool IsA>
LAMINA_PRIM void load_fragment(uint32_t (&registers)[4], const char* tile, int line, int k) {
  const int matrix = prim::lane() / 8, row_of_matrix = prim::lane() % 8;
  const int line_half = IsA ? matrix % 2 : matrix / 2, k_half = IsA ? matrix / 2 : matrix % 2;
  const int offset = Operand::is_k_major
                         ? Operand::offset(line + line_half * 8 + row_of_matrix, k / 8 + k_half)
                         : Operand::offset(k + k_half * 8 + row_of_matrix, line / 8 + line_half);
  prim::load_matrices<4, !Operand::is_k_major>(registers, tile + offset);
}

// sums += A B of a fragment of A, 16 lines, and the fragments of B in pairs, over 16 elements of K.
template <class Element, int Planes, int FragmentsN, int Pairs>
LAMINA_PRIM void multiply_fragments(float (&sums)[FragmentsN][4], const uint32_t (&a)[Planes][4],
                                    const uint32_t (&b)[Planes][Pairs][4]) {
  static_assert(Pairs == (FragmentsN + 1) / 2);
#pragma unroll
  for (int order = Planes - 1; order >= 0; --order)
#pragma unroll
    for (int plane = 0; plane <= order; ++plane)
#pragma unroll
      for (int j = 0; j < FragmentsN; ++j) {
        const uint32_t (&pair)[4] = b[order - plane][j / 2];
        const uint32_t column_fragment[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
        prim::mma<Element>(sums[j], a[plane], column_fragment);
      }
}

// Of planes, the sums that the unit cuts go into rounded ones after so many slices.
template <int K>
inline constexpr int slices_per_sum = 64 / K;

template <int FragmentsM, int FragmentsN>
LAMINA_PRIM void add_recent(float (&sums)[FragmentsM][FragmentsN][4],
                            float (&recent)[FragmentsM][FragmentsN][4]) {
#pragma unroll
  for (int i = 0; i < FragmentsM; ++i)
#pragma unroll
    for (int j = 0; j < FragmentsN; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        sums[i][j][r] += recent[i][j][r];
        recent[i][j][r] = 0;
      }
}

// sums += A B over one slice.
template <class Tile>
LAMINA_PRIM void multiply_slice(const typename MmaShared<Tile>::Stage& stage,
                                float (&sums)[Tile::fragments_m][Tile::fragments_n][4]) {
  constexpr int planes = Tile::planes;
  const int row = prim::warp() / Tile::warps_n * Tile::warp_m,
            column = prim::warp() % Tile::warps_n * Tile::warp_n;
#pragma unroll
  for (int k = 0; k < Tile::K; k += 16) {
    uint32_t b[planes][Tile::fragments_n / 2][4];
#pragma unroll
    for (int plane = 0; plane < planes; ++plane)
#pragma unroll
      for (int j = 0; j < Tile::fragments_n / 2; ++j)
        load_fragment<typename Tile::B, false>(b[plane][j], stage.b[plane], column + j * 16, k);
#pragma unroll
    for (int i = 0; i < Tile::fragments_m; ++i) {
      uint32_t a[planes][4];
#pragma unroll
      for (int plane = 0; plane < planes; ++plane)
        load_fragment<typename Tile::A, true>(a[plane], stage.a[plane], row + i * 16, k);
      multiply_fragments<typename Tile::Element>(sums[i], a, b);
    }
  }
}

struct VisitNothing {
  LAMINA_PRIM void operator()(const auto&) const {}
};

// sums += A B over `slices` slices. The stages are free afterwards.
template <class Tile, class Int, class LoadA, class LoadB, class Visit = VisitNothing>
LAMINA_PRIM void multiply(MmaShared<Tile>& shared, Int slices, LoadA& a, LoadB& b,
                          float (&sums)[Tile::fragments_m][Tile::fragments_n][4], Visit visit = {}) {
  constexpr int stages = Tile::stages;
  const auto load = [&](Int slice) {
    if (slice < slices) {
      auto& stage = shared.stages[slice % stages];
      a.load(stage.a, slice);
      b.load(stage.b, slice);
    }
    prim::copy_commit();  // a group per slice, empty ones too, so that the groups can be counted
  };
  float recent[Tile::fragments_m][Tile::fragments_n][4] = {};  // unused with one plane
  for (Int slice = 0; slice < stages - 1; ++slice) load(slice);
  for (Int slice = 0; slice < slices; ++slice) {
    prim::copy_wait<stages - 2>();
    prim::block_sync();  // the slice is there for all; and all have left the stage that is loaded next
    load(slice + stages - 1);
    const auto& stage = shared.stages[slice % stages];
    visit(stage);
    if constexpr (Tile::planes == 1) {
      multiply_slice<Tile>(stage, sums);
    } else {
      multiply_slice<Tile>(stage, recent);
      if (slice % slices_per_sum<Tile::K> == slices_per_sum<Tile::K> - 1 || slice == slices - 1)
        add_recent(sums, recent);
    }
  }
  prim::copy_wait<0>();
  prim::block_sync();
}

// Gives a warp's fragments, 16 rows at a time, to the epilogue. `row` and `column`: of the warp's first sum.
template <class T, int FragmentsM, int FragmentsN, class E>
LAMINA_PRIM void finish_fragments(Patch<float, 16, 8 * FragmentsN>& patch,
                                  const float (&sums)[FragmentsM][FragmentsN][4], int64_t row, int64_t column,
                                  const E& epilogue) {
  const int patch_row = prim::lane() / 4, patch_column = prim::lane() % 4 * 2;
#pragma unroll 1
  for (int part = 0; part < FragmentsM; ++part) {
#pragma unroll
    for (int i = 0; i < FragmentsM; ++i)  // registers have no index at run time
#pragma unroll
      for (int j = 0; j < FragmentsN; ++j)
        if (i == part) {
          const auto& v = sums[i][j];
          prim::store_vector(&patch.at[patch_row][patch_column + j * 8], prim::Pack<float, 2>{{v[0], v[1]}});
          prim::store_vector(&patch.at[patch_row + 8][patch_column + j * 8],
                             prim::Pack<float, 2>{{v[2], v[3]}});
        }
    finish<T>(patch, row + part * 16, column, epilogue);
  }
}

// The block's tile, whose first sum is (row, column).
template <class T, class Tile, class E>
LAMINA_PRIM void finish_fragments(MmaShared<Tile>& shared,
                                  const float (&sums)[Tile::fragments_m][Tile::fragments_n][4], int64_t row,
                                  int64_t column, const E& epilogue) {
  finish_fragments<T>(shared.patches[prim::warp()], sums, row + prim::warp() / Tile::warps_n * Tile::warp_m,
                      column + prim::warp() % Tile::warps_n * Tile::warp_n, epilogue);
  prim::block_sync();  // the patches are free
}

// The slices of an operand that is a matrix. Its lines (rows of A, columns of B) are `line_stride` apart and elements of
// K `k_stride`; one of the two is 1, the axis along which tiles run. The other, and the address, are multiples of 16
// bytes. Planes are matrices `plane_stride` apart.
template <class T, class Operand, int Planes, int Threads>
struct MatrixLoader {
  static constexpr int rows_per_pass = Threads / Operand::chunks, passes = Operand::rows / rows_per_pass;
  static_assert(Threads % Operand::chunks == 0 && Operand::rows % rows_per_pass == 0);
  static constexpr int K = Operand::bytes / (2 * Operand::lines);

  const T* data;  // this thread's first chunk of slice 0
  int64_t row_stride, slice_stride, plane_stride;
  int64_t lines, k;  // how many there are from the thread's first chunk on

  // The first line of the tile and element of K lie at `first`; `lines` and `k` follow.
  LAMINA_PRIM MatrixLoader(const T* first, int64_t line_stride, int64_t k_stride, int64_t plane_stride,
                           int64_t lines, int64_t k)
      : row_stride(Operand::is_k_major ? line_stride : k_stride),
        slice_stride(K * k_stride),
        plane_stride(plane_stride) {
    const int row = prim::thread() / Operand::chunks, chunk = prim::thread() % Operand::chunks;
    data = first + row * row_stride + chunk * 8;
    this->lines = lines - (Operand::is_k_major ? row : chunk * 8);
    this->k = k - (Operand::is_k_major ? chunk * 8 : row);
  }

  LAMINA_PRIM void load(char (&tiles)[Planes][Operand::bytes], int64_t slice) const {
    const T* from = data + slice * slice_stride;
    const int64_t k_left = k - slice * K;
#pragma unroll
    for (int pass = 0; pass < passes; ++pass) {
      const int row = prim::thread() / Operand::chunks + pass * rows_per_pass;
      const int64_t in_run = Operand::is_k_major ? k_left : lines;
      const bool has_row = pass * rows_per_pass < (Operand::is_k_major ? lines : k_left);
      const int valid = !has_row || in_run <= 0 ? 0 : in_run < 8 ? int(in_run) * 2 : 16;
      const int offset = Operand::offset(row, prim::thread() % Operand::chunks);
#pragma unroll
      for (int plane = 0; plane < Planes; ++plane)
        prim::copy_async<16>(tiles[plane] + offset,
                             from + pass * rows_per_pass * row_stride + plane * plane_stride, valid);
    }
  }
};

}  // namespace lamina::LAMINA_DEVICE
