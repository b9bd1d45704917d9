// Matrix products with a fused epilogue:
//
//   pre[m, n] = alpha * sum_k A[m, k] * B[k, n] + beta * C[m, n] + bias[m, n]
//   y[m, n]   = act(pre[m, n]) + residual[m, n]
//
// a (..., M, K), b (..., K, N), y (..., M, N). Every operand has any strides: a transposed matrix is a view
// with swapped strides, a broadcast batch or bias has strides 0 (bias per column: row stride 0; per row:
// column stride 0). All views have y's number of axes and, but for M, N and K, its shape. c and residual may
// be y itself, as for accumulation (c = y, beta = 1); other operands do not overlap y.
//
// Elements are float32, bfloat16 or float64; bfloat16 is summed in float32 and rounded once, at the store. K = 0
// gives act(beta * C + bias) + residual. Each element is summed in an order that depends on the shapes
// and strides alone: over k inside blocks of kc, then over blocks; K is never cut among threads.
//
// Backward of y = act(A B + bias) + residual, with g = dy * act'(pre):
//   dA = g B^T,   dB = A^T g,   dbias[n] = sum_m g[m, n],   dresidual = dy.
// The products are this kernel on transposed views; g and dbias come in one pass from `epilogue_backward`.
// act' is taken from y for relu, sigmoid and tanh, and from pre for gelu and silu.
// On devices a tile of C is summed by one thread block; where that leaves multiprocessors idle, K is cut into ranges,
// whose sums a second launch adds in their order. Elements may be float16 there.
//
// Work: 2 M N K flops; bytes: the operands once, plus one write and one read of each packed block.
// Multiply-adds bound it when M, N and K exceed about 50; skinny products are bound by the bytes of their
// large operand.
//
// Plan (`choose_tile` decides by shape and strides, with its estimates in the struct):
//   packed     blocks of B (kc x nc) become panels, blocks of A (mc x kc) bands, and register tiles of C pass over
//              them (block.h): for each nc: for each kc: pack B; for each mc: pack A; multiply_block.
//   in_place   few rows or a small product: as packed, but B is read where it lies; its rows lie in memory
//   dots       few rows and B's columns lie in memory: vectors run along K, and lanes are summed at the end
//   rows       very few rows and B's rows lie in memory: y += sum of a[k] * B[k, :], several k at a time
//   amx        bfloat16 on machines with AMX, from 16 rows and columns on: tile instructions (amx.h)
//   simt       devices: register tiles per thread, slices of the operands in shared memory (simt.cuh)
//   mma        devices, short types, and float32 as planes of bfloat16: matrix units by mma.sync (mma_loop.cuh)
//   wgmma      the same on Hopper, for operands that TMA can copy (wgmma.cuh)
// Products whose y is column-major, or has few columns and many rows, are computed transposed: y^T = B^T A^T.
//
// Sources: Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), for the loops;
// Van Zee and van de Geijn, "BLIS" (2015), for tiles 6 x 16 and blocks that fit the caches.
#pragma once

#include <ostream>

#include "base/activation.h"
#include "base/kernel_table.h"
#include "base/precision.h"
#include "base/view.h"

namespace lamina {

struct GemmArgs {
  View a{}, b{};
  View c{};         // optional
  View bias{};      // optional
  View residual{};  // optional
  View y{};
  View pre{};  // optional output
  double alpha = 1, beta = 0;
  Activation activation = Activation::none;
  Float32Precision precision = Float32Precision::highest;
};

// g = dy * act'(pre) and dbias = column sums of g; g, dy, saved (M, N) with any strides, dbias (N).
struct EpilogueBackwardArgs {
  View dy{};
  View saved{};  // pre, or y = act(pre) where saved_is_y; absent for Activation::none
  View g{};      // optional output
  View dbias{};  // optional output, contiguous
  Activation activation = Activation::none;
  bool saved_is_y = false;
};

enum class GemmPath : int32_t { packed, in_place, dots, rows, amx, simt, mma, wgmma };

constexpr const char* name_of(GemmPath p) {
  constexpr const char* names[] = {"packed", "in_place", "dots", "rows", "amx", "simt", "mma", "wgmma"};
  return names[static_cast<int>(p)];
}

// What choose_tile looks at: one matrix product of the batch.
struct GemmProblem {
  int64_t M, N, K, batch;
  int64_t a_row_stride, a_column_stride, b_row_stride, b_column_stride;
  int64_t element_size, compute_size;  // bytes
  bool sums_in_y = false;              // y can hold unfinished sums
  bool has_tiles = false;              // elements are bfloat16, and tile instructions may be used
  int threads = 1;
  Dtype dtype = Dtype::float32;  // this and what follows: on devices
  Float32Precision precision = Float32Precision::highest;
  bool a_is_aligned = false, b_is_aligned = false;  // may be copied in 16 bytes along one axis
  bool suits_tma = false;                           // but for the alignment of operands that may be copied
  int sm_count = 0, architecture = 0;
};

struct GemmTile {
  GemmPath path = GemmPath::packed;
  bool copy_a = false, copy_b = false;  // A is copied into bands; on devices A and B into aligned lines
  int planes = 0;                       // devices: of which an operand of the matrix units is the sum
  int64_t mc = 0, nc = 0, kc = 0;       // blocks of the loops; devices: what a thread block sums
  int64_t chunk_m = 0, chunk_n = 0;     // what a thread takes at a time
  int64_t chunk_batch = 0;              // whole products per chunk; 1 where a product has several chunks
  double bytes = 0, cycles = 0;         // estimates: memory traffic with copies; time of products and copies
};
inline std::ostream& operator<<(std::ostream& out, const GemmTile& t) {
  return out << name_of(t.path) << ' ' << t.mc << " x " << t.nc << " x " << t.kc
             << (t.copy_a ? ", copies A" : "") << (t.copy_b ? ", copies B" : "") << ", " << t.planes
             << " planes, " << t.bytes << " bytes, " << t.cycles << " cycles";
}

struct GemmKernels {
  void (*gemm)(const GemmArgs&);
  void (*epilogue_backward)(const EpilogueBackwardArgs&);
  GemmTile (*choose_tile)(const GemmProblem&);
};

LAMINA_KERNEL_TABLE(GemmKernels, gemm_kernels)

}  // namespace lamina
