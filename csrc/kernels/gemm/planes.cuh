// Operands as the matrix units take them: from any strides to lines (rows of A, columns of B) that run along K, aligned
// to 16 bytes; float32 cut into planes of bf16.
//
//   x = x0 + x1 + x2,   x0 = bf16(x), x1 = bf16(x - x0), x2 = bf16(x - x0 - x1)
//
// The differences are exact, and three planes hold the 24 bits of a float32, but for numbers below 2^-110, whose last
// bits lie under the smallest bf16. Short types have one plane, a copy.
//
// Reads 4 bytes and writes 2 per plane and element. A block moves squares of 64 x 64 elements through shared memory, so
// that both sides go along their own contiguous axis.
#pragma once

#include "kernels/gemm/product.cuh"

namespace lamina::LAMINA_DEVICE {

struct PackArgs {
  Operand from;  // rows: lines; columns: K
  void* to;      // (planes, batch, lines, pitch)
  int64_t lines, K, pitch;
  Batch batch;
};

// Where the lines of an operand, (rows, columns) = (lines, K), go: `operand` takes its place in the product, with planes
// `plane_stride` elements apart. Batch axes along which it is broadcast have one matrix. planes = 0: nowhere.
struct PackedOperand {
  PackArgs args;
  Operand operand;
  int64_t plane_stride;
  DeviceScratch<uint16_t> scratch;

  PackedOperand(const Batch& batch, const Operand& from, int64_t lines, int64_t K, int planes)
      : args{.from = from,
             .to = nullptr,
             .lines = lines,
             .K = K,
             .pitch = (K + 7) / 8 * 8,
             .batch = distinct(batch, from)},
        plane_stride(args.batch.count * lines * args.pitch),
        scratch(planes * plane_stride) {
    args.to = operand.data = scratch.data();
    operand.row_stride = args.pitch;
    operand.column_stride = 1;
    int64_t stride = lines * args.pitch;
    for (int axis = 0; axis < batch.axes; stride *= args.batch.extents[axis++])
      operand.batch_strides[axis] = from.batch_strides[axis] == 0 ? 0 : stride;
  }

  static Batch distinct(Batch batch, const Operand& from) {
    batch.count = 1;
    for (int axis = 0; axis < batch.axes; ++axis) {
      if (from.batch_strides[axis] == 0) batch.extents[axis] = 1;
      batch.count *= batch.extents[axis];
    }
    return batch;
  }
};

inline constexpr int pack_side = 64;
struct PackShared {
  float at[pack_side][pack_side + 1];  // odd: columns lie on different banks
};

template <class From, class To, int Planes>
__global__ void __launch_bounds__(256) gemm_pack_kernel(PackArgs p) {
  auto& shared = prim::shared_memory<PackShared>();
  const int64_t line_squares = (p.lines + pack_side - 1) / pack_side,
                k_squares = (p.pitch + pack_side - 1) / pack_side;
  const bool runs_along_k = p.from.column_stride < p.from.row_stride;
  for (int64_t square = blockIdx.x; square < p.batch.count * line_squares * k_squares; square += gridDim.x) {
    const int64_t k0 = square % k_squares * pack_side, line0 = square / k_squares % line_squares * pack_side;
    const int64_t index = square / (k_squares * line_squares);
    const Matrix<const From> from = matrix_of<const From>(p.batch, p.from, index);
    for (int e = prim::thread(); e < pack_side * pack_side; e += prim::threads()) {
      const int fast = e % pack_side, slow = e / pack_side;
      const int line = runs_along_k ? slow : fast, k = runs_along_k ? fast : slow;
      const bool exists = line0 + line < p.lines && k0 + k < p.K;
      shared.at[line][k] = exists ? prim::widen(*from.at(line0 + line, k0 + k)) : 0;
    }
    prim::block_sync();  // the square is there
    for (int e = prim::thread(); e < pack_side * pack_side / 2; e += prim::threads()) {
      const int line = e / (pack_side / 2), k = e % (pack_side / 2) * 2;
      if (line0 + line >= p.lines || k0 + k >= p.pitch) continue;
      float x = shared.at[line][k], y = shared.at[line][k + 1];
      To* to = static_cast<To*>(p.to) + (index * p.lines + line0 + line) * p.pitch + k0 + k;
#pragma unroll
      for (int plane = 0; plane < Planes; ++plane, to += p.batch.count * p.lines * p.pitch) {
        const prim::Pack<To, 2> pair = prim::narrow_pair<To>(x, y);
        prim::store_vector(to, pair);
        x -= prim::widen(pair[0]);
        y -= prim::widen(pair[1]);
      }
    }
    prim::block_sync();  // the square is free
  }
}

}  // namespace lamina::LAMINA_DEVICE
