// The arguments of a product as its kernels take them: matrices of any strides, and batches of them.
#pragma once

#include <utility>

#include "base/launch.h"
#include "kernels/gemm/epilogue.cuh"

namespace lamina::LAMINA_DEVICE {

// One matrix of each product of the batch; its element (i, j) in the product at `index` (one number per batch axis) lies
// at data + i * row_stride + j * column_stride + sum_axis index[axis] * batch_strides[axis].
struct Operand {
  void* data = nullptr;  // null iff absent
  int64_t row_stride = 0, column_stride = 0;
  int64_t batch_strides[max_ndim - 2] = {};

  LAMINA_HD explicit operator bool() const { return data != nullptr; }
};

struct Batch {
  int axes = 0;  // innermost first
  int64_t extents[max_ndim - 2] = {};
  int64_t count = 1;
};

struct Product {
  int64_t M = 0, N = 0, K = 0;
  Batch batch{};
  Operand a{}, b{}, c{}, bias{}, residual{}, y{}, pre{};
  double alpha = 1, beta = 0;
  Activation activation = Activation::none;
};

// The matrix of product `index` of the batch.
template <class T>
LAMINA_PRIM Matrix<T> matrix_of(const Batch& batch, const Operand& o, int64_t index) {
  T* data = static_cast<T*>(o.data);
  if (!data) return {data, o.row_stride, o.column_stride};
#pragma unroll 1  // one, mostly, and the divisions are long
  for (int axis = 0; axis < batch.axes; ++axis) {
    const int64_t outer = index / batch.extents[axis];
    data += (index - outer * batch.extents[axis]) * o.batch_strides[axis];
    index = outer;
  }
  return {data, o.row_stride, o.column_stride};
}

template <class T>
LAMINA_PRIM Epilogue<T> epilogue_of(const Product& p, int64_t index) {
  using S = Compute<T>;
  return {.alpha = S(p.alpha),
          .beta = S(p.beta),
          .activation = p.activation,
          .c = matrix_of<const T>(p.batch, p.c, index),
          .bias = matrix_of<const T>(p.batch, p.bias, index),
          .residual = matrix_of<const T>(p.batch, p.residual, index),
          .y = matrix_of<T>(p.batch, p.y, index),
          .pre = matrix_of<T>(p.batch, p.pre, index),
          .M = p.M,
          .N = p.N};
}

// How the blocks of a launch share the products: each takes a tile of m x n sums over k_range elements of K. Tiles of
// eight rows of tiles lie together, so that the operands of the blocks that run at a time stay in the L2 cache.
struct Cut {
  int64_t m, n, k_range;
  int64_t m_tiles, n_tiles, splits, batch;
  LAMINA_HD int64_t blocks() const { return m_tiles * n_tiles * splits * batch; }
};

struct BlockTile {
  int64_t row, column;  // of the tile's first sum
  int64_t k_begin, k_end;
  int64_t split, index;  // which cut of K, which product of the batch
};

LAMINA_PRIM BlockTile tile_of(const Cut& cut, int64_t K, int64_t block) {
  constexpr int64_t group = 8;
  const int64_t tiles = cut.m_tiles * cut.n_tiles, tile = block % tiles, rest = block / tiles;
  const int64_t first_row = tile / (group * cut.n_tiles) * group;
  const int64_t rows = cut.m_tiles - first_row < group ? cut.m_tiles - first_row : group;
  const int64_t in_group = tile % (group * cut.n_tiles), split = rest % cut.splits;
  const int64_t k_begin = split * cut.k_range;
  return {.row = (first_row + in_group % rows) * cut.m,
          .column = in_group / rows * cut.n,
          .k_begin = k_begin,
          .k_end = k_begin + cut.k_range < K ? k_begin + cut.k_range : K,
          .split = split,
          .index = rest / cut.splits};
}

// Where a block's sums go: y, or where K is cut the sums of that cut. `partial` (splits, batch, M, N).
template <class T>
LAMINA_PRIM Epilogue<T> epilogue_of(const Product& p, const Cut& cut, const BlockTile& tile,
                                    Compute<T>* partial) {
  if (!partial) return epilogue_of<T>(p, tile.index);
  return {.partial = partial + (tile.split * cut.batch + tile.index) * p.M * p.N, .M = p.M, .N = p.N};
}

// The arguments as a product: batch axes joined to the rows or to each other where all operands go on in step, and
// transposed, y^T = B^T A^T, where y is a column or its columns are contiguous in memory and its rows are not: the
// epilogue stores runs along rows.
inline Product product_of(const GemmArgs& args) {
  enum { op_a, op_b, op_c, op_bias, op_residual, op_y, op_pre, operand_count };
  const View* views[operand_count] = {&args.a,        &args.b, &args.c,  &args.bias,
                                      &args.residual, &args.y, &args.pre};
  const int matrix_axis = args.y.ndim - 2;
  Product p{.M = args.y.shape[matrix_axis],
            .N = args.y.shape[matrix_axis + 1],
            .K = args.a.shape[matrix_axis + 1],
            .alpha = args.alpha,
            .beta = args.beta,
            .activation = args.activation};
  Operand* operands[operand_count] = {&p.a, &p.b, &p.c, &p.bias, &p.residual, &p.y, &p.pre};
  for (int i = 0; i < operand_count; ++i) {
    operands[i]->data = views[i]->data;
    operands[i]->row_stride = views[i]->strides[matrix_axis];
    operands[i]->column_stride = views[i]->strides[matrix_axis + 1];
  }
  const auto in_step = [&](int axis, int64_t extent, auto stride_of, int left_out) {
    for (int i = 0; i < operand_count; ++i)
      if (i != left_out && *views[i] && views[i]->strides[axis] != extent * stride_of(*operands[i]))
        return false;
    return true;
  };
  for (int axis = matrix_axis - 1; axis >= 0; --axis) {
    const int64_t extent = args.y.shape[axis];
    if (extent == 1) continue;
    int& axes = p.batch.axes;
    const auto row_stride = [](const Operand& o) { return o.row_stride; };
    const auto last_stride = [&](const Operand& o) { return o.batch_strides[axes - 1]; };
    if (axes == 0 && args.b.strides[axis] == 0 && (p.M == 1 || in_step(axis, p.M, row_stride, op_b))) {
      for (int i = 0; i < operand_count; ++i)
        if (i != op_b && p.M == 1) operands[i]->row_stride = views[i]->strides[axis];
      p.M *= extent;
    } else if (axes > 0 && in_step(axis, p.batch.extents[axes - 1], last_stride, -1)) {
      p.batch.extents[axes - 1] *= extent;
    } else {
      for (int i = 0; i < operand_count; ++i) operands[i]->batch_strides[axes] = views[i]->strides[axis];
      p.batch.extents[axes++] = extent;
    }
  }
  for (int axis = 0; axis < p.batch.axes; ++axis) p.batch.count *= p.batch.extents[axis];
  if (p.M > 1 && p.y.row_stride == 1 && (p.N == 1 || p.y.column_stride != 1)) {
    for (Operand* o : operands) std::swap(o->row_stride, o->column_stride);
    std::swap(p.a, p.b);
    std::swap(p.M, p.N);
  }
  return p;
}

}  // namespace lamina::LAMINA_DEVICE
