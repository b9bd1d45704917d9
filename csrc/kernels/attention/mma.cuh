// Attention on the matrix units, for 16-bit elements and up to 128 features in rows of whole 16 bytes, without dropout: more
// sums, or the numbers of Philox beside them, do not fit the registers.
//
// A block of 4 warps has 64 rows of its own in shared memory, of which each warp multiplies 16 with all rows of the other
// operand that pass by. The scores of a warp are fragments of 16 x 8, and after exp they are, rounded, the first operand
// of the next product where they lie: no score leaves the registers.
//
//   forward            own: query          pass by: key, value     sums: y
//   backward of keys   own: key, value     pass by: query, dy      sums: dkey, dvalue, from transposed scores
//   backward of query  own: query, dy      pass by: key, value     sums: dquery
//
// Copies by cp.async. Forward: values come while scores are computed, the next keys while values are multiplied.
// Rows have D = 64 or 128 features in shared memory, of which those that do not exist are zero.
#pragma once

#include "base/launch.h"
#include "kernels/attention/head.cuh"
#include "kernels/gemm/mma_loop.cuh"

namespace lamina::LAMINA_DEVICE {

constexpr int own_rows = 64, mma_warps = 4, mma_threads = mma_warps * prim::warp_size;

// Rows x D elements in shared memory: summed along features, or along rows.
template <int Rows, int D>
using AlongFeatures = MmaOperand<Rows, D, true>;
template <int Rows, int D>
using AlongRows = MmaOperand<D, Rows, false>;

template <int Rows, int D>
struct RowTile {
  alignas(16) char bytes[Rows * D * 2];

  // Copies the first `rows` rows of `columns` elements; the others become zero.
  template <class T>
  LAMINA_PRIM void load(const T* from, int64_t row_stride, int64_t rows, int64_t columns) {
    constexpr int chunks = D / 8;
#pragma unroll 4
    for (int at = prim::thread(); at < Rows * chunks; at += mma_threads) {
      const int row = at / chunks, chunk = at % chunks;
      const bool exists = row < rows && chunk * 8 < columns;
      prim::copy_async<16>(bytes + AlongFeatures<Rows, D>::offset(row, chunk),
                           exists ? from + row * row_stride + chunk * 8 : from, exists ? 16 : 0);
    }
  }
};

// A warp's fragments of 16 rows x `Columns`.
template <int Columns>
using Fragments = float[Columns / 8][4];

// Scores of the warp's 16 rows of `own` with all rows of `other`.
template <class T, int Rows, int D>
LAMINA_PRIM void multiply_rows(const RowTile<own_rows, D>& own, const RowTile<Rows, D>& other,
                               Fragments<Rows>& scores) {
#pragma unroll
  for (int j = 0; j < Rows / 8; ++j)
#pragma unroll
    for (int c = 0; c < 4; ++c) scores[j][c] = 0;
#pragma unroll 1  // unrolled, the addresses of all exchanged chunks would stay in registers
  for (int k = 0; k < D; k += 16) {
    uint32_t a[4];
    load_fragment<AlongFeatures<own_rows, D>, true>(a, own.bytes, prim::warp() * 16, k);
#pragma unroll
    for (int j = 0; j < Rows; j += 16) {
      uint32_t b[4];
      load_fragment<AlongFeatures<Rows, D>, false>(b, other.bytes, j, k);
      prim::mma<T>(scores[j / 8], a, {b[0], b[1]});
      prim::mma<T>(scores[j / 8 + 1], a, {b[2], b[3]});
    }
  }
}

// sums += weights x.
template <class T, int Rows, int D>
LAMINA_PRIM void multiply_weights(const Fragments<Rows>& weights, const RowTile<Rows, D>& x,
                                  Fragments<D>& sums) {
  const int first = prim::opaque(0);  // likewise
#pragma unroll
  for (int k = 0; k < Rows; k += 16) {
    const auto& left = weights[k / 8];
    const auto& right = weights[k / 8 + 1];
    const auto pair = [](float first, float second) {
      return prim::bit_cast<uint32_t>(prim::narrow_pair<T>(first, second));
    };
    const uint32_t a[4] = {pair(left[0], left[1]), pair(left[2], left[3]), pair(right[0], right[1]),
                           pair(right[2], right[3])};
#pragma unroll
    for (int n = 0; n < D; n += 16) {
      uint32_t b[4];
      load_fragment<AlongRows<Rows, D>, false>(b, x.bytes, first + n, k);
      prim::mma<T>(sums[n / 8], a, {b[0], b[1]});
      prim::mma<T>(sums[n / 8 + 1], a, {b[2], b[3]});
    }
  }
}

// Where element c of fragment j of the warp lies: its row among those of the block, and its column.
LAMINA_PRIM int row_of(int c) { return prim::warp() * 16 + prim::lane() / 4 + c / 2 * 8; }
LAMINA_PRIM int column_of(int j, int c) { return j * 8 + prim::lane() % 4 * 2 + c % 2; }

// factor[0] times row g and factor[1] times row g + 8 of the sums, to the rows and columns that exist.
template <class T, int F>
LAMINA_PRIM void store_sums(const View& y, int64_t head, int64_t row, const float (&factor)[2],
                            const float (&sums)[F][4]) {
  T* out = y.as<T>() + offset_of_head(y, head);
#pragma unroll
  for (int j = 0; j < F; ++j)
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      const int64_t i = row + row_of(c), e = column_of(j, c);
      if (i < rows_of(y) && e < columns_of(y))
        prim::store_vector(out + i * row_stride_of(y) + e,
                           prim::narrow_pair<T>(factor[c / 2] * sums[j][c], factor[c / 2] * sums[j][c + 1]));
    }
}

// Scores without a pair, and those that the mask forbids, become -inf; an additive mask is added. Query and key of the
// first element of the block are i and j; transposed, rows are keys and columns queries.
template <class T, bool IsTransposed = false, int F>
LAMINA_PRIM void mask_scores(const Head<T>& head, int64_t i, int64_t j, float (&scores)[F][4]) {
  const AttentionArgs& a = head.a;
  int begin[2], end[2];  // of the columns that have a pair, in rows g and g + 8
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t row = (IsTransposed ? j : i) + row_of(2 * r), first = IsTransposed ? i : j;
    const int64_t rows = IsTransposed ? head.keys : head.L, columns = IsTransposed ? head.L : head.keys;
    const int64_t low = IsTransposed && a.is_causal ? row : 0;
    const int64_t high = !IsTransposed && a.is_causal ? smaller(columns, row + 1) : columns;
    begin[r] = int(larger(0, smaller(low - first, 8 * F)));
    end[r] = row < rows ? int(larger(0, smaller(high - first, 8 * F))) : 0;
  }
  const auto apply = [&](auto masked) {
#pragma unroll
    for (int f = 0; f < F; ++f)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = column_of(f, c);
        const bool exists = column >= begin[c / 2] && column < end[c / 2];
        scores[f][c] = exists ? masked(scores[f][c], row_of(c), column) : -INFINITY;
      }
  };
  if (!head.mask) return apply([](float s, int, int) { return s; });
  const int64_t i_stride = prim::opaque(row_stride_of(a.mask));
  const int64_t j_stride = prim::opaque(a.mask.strides[a.mask.ndim - 1]);
  const int64_t first = i * i_stride + j * j_stride;
  const auto at = [&](int row, int column) {
    return first + (IsTransposed ? column : row) * i_stride + (IsTransposed ? row : column) * j_stride;
  };
  if (a.mask.dtype == Dtype::boolean)
    apply([&](float s, int row, int column) {
      return reinterpret_cast<const bool*>(head.mask)[at(row, column)] ? s : -INFINITY;
    });
  else if (a.mask.dtype == dtype_of<T>)
    apply([&](float s, int row, int column) {
      return s + prim::widen(reinterpret_cast<const T*>(head.mask)[at(row, column)]);
    });
  else
    apply([&](float s, int row, int column) {
      return s + reinterpret_cast<const float*>(head.mask)[at(row, column)];
    });
}

// Keys that pass by: the scores of 64 are 32 registers, beside the D / 2 of y.
template <int D>
constexpr int forward_rows = D < 128 ? 64 : 32;

template <int D>
struct ForwardShared {
  RowTile<own_rows, D> query;
  RowTile<forward_rows<D>, D> key, value;
};

template <class T, int D>
__global__ __launch_bounds__(mma_threads) void forward_mma_kernel(AttentionArgs a, int64_t tiles) {
  constexpr int J = forward_rows<D>;
  auto& shared = prim::shared_memory<ForwardShared<D>>();
  const int64_t block = prim::block(), L = rows_of(a.query), i_tiles = ceil_div(L, own_rows);
  if (block >= tiles) return;
  const int64_t i0 = block % i_tiles * own_rows, n = block / i_tiles, m = n / a.group;
  const Head<T> head(a, n);
  const int64_t E = columns_of(a.query), Ev = columns_of(a.value), last = smaller(i0 + own_rows, L) - 1;
  const int64_t keys = head.keys_seen(last);
  const T* key = a.key.as<T>() + offset_of_head(a.key, m);
  const T* value = a.value.as<T>() + offset_of_head(a.value, m);
  const auto load_key = [&](int64_t j0) {
    if (j0 < keys) shared.key.load(key + j0 * row_stride_of(a.key), row_stride_of(a.key), head.keys - j0, E);
    prim::copy_commit();
  };
  shared.query.load(a.query.as<T>() + offset_of_head(a.query, n) + i0 * row_stride_of(a.query),
                    row_stride_of(a.query), L - i0, E);
  load_key(0);

  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  Fragments<D> y = {};
  for (int64_t j0 = 0; j0 < keys; j0 += J) {
    shared.value.load(value + j0 * row_stride_of(a.value), row_stride_of(a.value), head.keys - j0, Ev);
    prim::copy_commit();
    prim::copy_wait<1>();
    prim::block_sync();  // the keys are there
    Fragments<J> p;
    multiply_rows<T>(shared.query, shared.key, p);
    prim::block_sync();  // and were read
    load_key(j0 + J);

    const bool is_plain = !a.mask && j0 + J <= (a.is_causal ? i0 + 1 : head.keys);
#pragma unroll
    for (int j = 0; j < J / 8; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) p[j][c] *= float(a.scale);
    if (!is_plain) mask_scores(head, i0, j0, p);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = max[r];
#pragma unroll
      for (int j = 0; j < J / 8; ++j) top = prim::max(top, prim::max(p[j][2 * r], p[j][2 * r + 1]));
      for (int bits = 2; bits > 0; bits /= 2) top = prim::max(top, prim::shuffle_xor(top, bits));
      const float shift = shift_of(top), factor = prim::exp(max[r] - shift);
      max[r] = top;
      sum[r] *= factor;  // of this thread's columns; threads are summed at the end
#pragma unroll
      for (int j = 0; j < J / 8; ++j)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) sum[r] += p[j][c] = prim::exp(p[j][c] - shift);
#pragma unroll
      for (int j = 0; j < D / 8; ++j)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; ++c) y[j][c] *= factor;
    }
    prim::copy_wait<1>();
    prim::block_sync();  // the values are there
    multiply_weights<T>(p, shared.value, y);
    prim::block_sync();  // and were read
  }

  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int bits = 2; bits > 0; bits /= 2) sum[r] += prim::shuffle_xor(sum[r], bits);
    factor[r] = sum[r] == 0 ? 0.0f : 1 / sum[r];  // a sum of 0 has only zeros above it
    const int64_t i = i0 + row_of(2 * r);
    if (prim::lane() % 4 == 0 && i < L)
      a.logsumexp.as<float>()[n * L + i] = shift_of(max[r]) + prim::log(sum[r]);
  }
  prim::copy_wait<0>();
  store_sums<T>(a.y, n, i0, factor, y);
}

// Rows that pass by: 128 features of dkey and dvalue are 128 registers, beside which scores and ds have 16.
template <int D, bool IsOfKeys>
constexpr int backward_rows = IsOfKeys && D == 128 ? 16 : 32;

template <int D, bool IsOfKeys>
struct BackwardShared {
  RowTile<own_rows, D> own[2];
  RowTile<backward_rows<D, IsOfKeys>, D> other[2];
};

// Rows of a head: query and dy, or key and value.
template <class T>
struct RowPair {
  const T* data[2];
  int64_t stride[2], columns[2], rows;

  LAMINA_PRIM RowPair(const View& x, const View& y, int64_t head)
      : data{x.as<T>() + offset_of_head(x, head), y.as<T>() + offset_of_head(y, head)},
        stride{row_stride_of(x), row_stride_of(y)},
        columns{columns_of(x), columns_of(y)},
        rows(rows_of(x)) {}
  template <int Rows, int D>
  LAMINA_PRIM void load(RowTile<Rows, D> (&tiles)[2], int64_t row) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) tiles[t].load(data[t] + row * stride[t], stride[t], rows - row, columns[t]);
    prim::copy_commit();
  }
};

// sums[0]: dkey or dquery; sums[1]: dvalue.
template <class T, int D, bool IsOfKeys>
__global__ __launch_bounds__(mma_threads) void backward_mma_kernel(AttentionBackwardArgs b, int64_t tiles) {
  constexpr int P = backward_rows<D, IsOfKeys>;
  const AttentionArgs& a = b.forward;
  auto& shared = prim::shared_memory<BackwardShared<D, IsOfKeys>>();
  const int64_t L = rows_of(a.query), keys = rows_of(a.key);
  const int64_t block = prim::block(), own_tiles = ceil_div(IsOfKeys ? keys : L, own_rows);
  if (block >= tiles) return;
  const int64_t own = block % own_tiles * own_rows, own_head = block / own_tiles;
  const int64_t first_head = IsOfKeys ? own_head * a.group : own_head,
                m = IsOfKeys ? own_head : own_head / a.group;
  const bool writes_dmask = !IsOfKeys && b.dmask;
  if constexpr (IsOfKeys)
    RowPair<T>(a.key, a.value, m).load(shared.own, own);
  else
    RowPair<T>(a.query, b.dy, own_head).load(shared.own, own);

  float sums[IsOfKeys ? 2 : 1][D / 8][4] = {};
  for (int64_t n = first_head; n < first_head + (IsOfKeys ? a.group : 1); ++n) {
    const Head<T> head(a, n);
    const RowPair<T> other = IsOfKeys ? RowPair<T>(a.query, b.dy, n) : RowPair<T>(a.key, a.value, m);
    const float* logsumexp = a.logsumexp.as<float>() + n * L;
    const float* dots = static_cast<const float*>(b.workspace) + n * L;
    const int64_t begin = IsOfKeys && a.is_causal ? own : 0;
    const int64_t end =
        IsOfKeys || writes_dmask ? other.rows : head.keys_seen(smaller(own + own_rows, L) - 1);
    for (int64_t row = begin; row < end; row += P) {
      other.load(shared.other, row);
      prim::copy_wait<0>();
      prim::block_sync();  // all rows are there
      Fragments<P> weights, ds;
      multiply_rows<T>(shared.own[0], shared.other[0], weights);
      multiply_rows<T>(shared.own[1], shared.other[1], ds);
      const int64_t i0 = IsOfKeys ? row : own, j0 = IsOfKeys ? own : row;
#pragma unroll
      for (int f = 0; f < P / 8; ++f)
#pragma unroll
        for (int c = 0; c < 4; ++c) weights[f][c] *= float(a.scale);
      mask_scores<T, IsOfKeys>(head, i0, j0, weights);
#pragma unroll
      for (int f = 0; f < P / 8; ++f)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int64_t i = i0 + (IsOfKeys ? column_of(f, c) : row_of(c));
          const float shift = i < L ? shift_of(logsumexp[i]) : 0, dot = i < L ? dots[i] : 0;
          const float p = prim::exp(weights[f][c] - shift);
          weights[f][c] = p;
          ds[f][c] = p * (ds[f][c] - dot);
        }
      if (writes_dmask) {
        const int64_t first = offset_of_head(b.dmask, n) + i0 * row_stride_of(b.dmask) + j0;
#pragma unroll
        for (int f = 0; f < P / 8; ++f)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            if (i0 + row_of(c) >= L || j0 + column_of(f, c) >= keys) continue;
            const int64_t at = first + row_of(c) * row_stride_of(b.dmask) + column_of(f, c);
            if (b.dmask.dtype == dtype_of<T>)
              b.dmask.as<T>()[at] = prim::narrow<T>(ds[f][c]);
            else
              b.dmask.as<float>()[at] = ds[f][c];
          }
      }
      multiply_weights<T>(ds, shared.other[0], sums[0]);
      if constexpr (IsOfKeys) multiply_weights<T>(weights, shared.other[1], sums[1]);
      prim::block_sync();  // all rows were read
    }
  }
  prim::copy_wait<0>();
  const float scale[2] = {float(a.scale), float(a.scale)}, one[2] = {1, 1};
  store_sums<T>(IsOfKeys ? b.dkey : b.dquery, own_head, own, scale, sums[0]);
  if constexpr (IsOfKeys) store_sums<T>(b.dvalue, own_head, own, one, sums[1]);
}

}  // namespace lamina::LAMINA_DEVICE
