// Attention on the matrix units, for 16-bit elements and up to 128 features in rows of whole 16 bytes: more sums do not fit
// the registers. What dropout keeps does not lie there either: the block draws it into shared memory (head.cuh).
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
    constexpr int chunks = D / 8, rows_per_pass = mma_threads / chunks;
    const int first = prim::thread() / chunks, chunk = prim::thread() % chunks;
    const T* next = from + first * row_stride + chunk * 8;
#pragma unroll 2  // more would keep the addresses of all in registers
    for (int row = first; row < Rows; row += rows_per_pass, next += rows_per_pass * row_stride) {
      const bool exists = row < rows && chunk * 8 < columns;
      prim::copy_async<16>(bytes + AlongFeatures<Rows, D>::offset(row, chunk), exists ? next : from,
                           exists ? 16 : 0);
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
  T* out = row_at<T>(y, head);
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
  const int64_t i_stride = head.mask ? row_stride_of(a.mask) : 0;
  const int64_t j_stride = head.mask ? a.mask.strides[a.mask.ndim - 1] : 0;
  const int64_t row_stride = IsTransposed ? j_stride : i_stride;
  const int64_t column_stride = IsTransposed ? i_stride : j_stride;
  const auto apply = [&](auto masked) {
    int64_t at = i * i_stride + j * j_stride + row_of(0) * row_stride + column_of(0, 0) * column_stride;
#pragma unroll
    for (int f = 0; f < F; ++f) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const int column = column_of(f, c);
        const bool exists = column >= begin[c / 2] && column < end[c / 2];
        const int64_t element = at + c / 2 * 8 * row_stride + c % 2 * column_stride;
        scores[f][c] = exists ? masked(scores[f][c], element) : -INFINITY;
      }
      at = prim::opaque(at + 8 * column_stride);  // the addresses of all elements would take the registers
    }
  };
  if (!head.mask)
    apply([](float s, int64_t) { return s; });
  else if (a.mask.dtype == Dtype::boolean)
    apply([&](float s, int64_t at) { return reinterpret_cast<const bool*>(head.mask)[at] ? s : -INFINITY; });
  else if (a.mask.dtype == dtype_of<T>)
    apply([&](float s, int64_t at) { return s + prim::widen(reinterpret_cast<const T*>(head.mask)[at]); });
  else
    apply([&](float s, int64_t at) { return s + reinterpret_cast<const float*>(head.mask)[at]; });
}

// Keys that pass by: the scores of 64 are 32 registers, beside the D / 2 of y.
template <int D>
constexpr int forward_rows = D < 128 ? 64 : 32;

template <int D>
struct ForwardShared {
  RowTile<own_rows, D> query;
  RowTile<forward_rows<D>, D> key, value;
  KeptWeights<own_rows> kept;
};

template <class T, int D>
__global__ __launch_bounds__(mma_threads, 2) void forward_mma_kernel(AttentionArgs a, int64_t tiles) {
  constexpr int J = forward_rows<D>;
  auto& shared = prim::shared_memory<ForwardShared<D>>();
  const int64_t block = prim::block(), L = rows_of(a.query), i_tiles = ceil_div(L, own_rows);
  if (block >= tiles) return;
  const int64_t i0 = block % i_tiles * own_rows, n = block / i_tiles, m = n / a.group;
  const Head<T> head(a, n);
  const int64_t E = columns_of(a.query), Ev = columns_of(a.value), last = smaller(i0 + own_rows, L) - 1;
  const int64_t keys = head.keys_seen(last);
  const T* key = row_at<T>(a.key, m);
  const T* value = row_at<T>(a.value, m);
  const auto load_key = [&](int64_t j0) {
    if (j0 < keys) shared.key.load(key + j0 * row_stride_of(a.key), row_stride_of(a.key), head.keys - j0, E);
    prim::copy_commit();
  };
  shared.query.load(row_at<T>(a.query, n, i0), row_stride_of(a.query), L - i0, E);
  load_key(0);

  float max[2] = {-INFINITY, -INFINITY}, sum[2] = {};
  Fragments<D> y = {};
  for (int64_t j0 = 0; j0 < keys; j0 += J) {
    shared.value.load(value + j0 * row_stride_of(a.value), row_stride_of(a.value), head.keys - j0, Ev);
    prim::copy_commit();
    if (a.dropout_p > 0 && j0 % dropout_elements_per_tile == 0) shared.kept.draw(head, i0, j0);
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
    if (a.dropout_p > 0) {
#pragma unroll
      for (int j = 0; j < J / 8; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if (!shared.kept.at(row_of(c), j0, column_of(j, c))) p[j][c] = 0;
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
    factor[r] = sum[r] == 0 ? 0.0f : head.dropout_scale() / sum[r];  // a sum of 0 has only zeros above it
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
  KeptWeights<IsOfKeys ? backward_rows<D, IsOfKeys> : own_rows> kept;
};

// Rows of a head: query and dy, or key and value.
template <class T>
struct RowPair {
  const T* data[2];
  int64_t stride[2], columns[2], rows;

  LAMINA_PRIM RowPair(const View& x, const View& y, int64_t head)
      : data{row_at<T>(x, head), row_at<T>(y, head)},
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
__global__ __launch_bounds__(mma_threads, 2) void backward_mma_kernel(AttentionBackwardArgs b,
                                                                      int64_t tiles) {
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

  const float dropout_scale = Head<T>(a, first_head).dropout_scale();
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
      const int64_t i0 = IsOfKeys ? row : own, j0 = IsOfKeys ? own : row;
      if (a.dropout_p > 0 && (IsOfKeys || j0 % dropout_elements_per_tile == 0))
        shared.kept.draw(head, i0, j0);
      prim::copy_wait<0>();
      prim::block_sync();  // all rows are there
      Fragments<P> weights, ds;
      multiply_rows<T>(shared.own[0], shared.other[0], weights);
      multiply_rows<T>(shared.own[1], shared.other[1], ds);
#pragma unroll
      for (int f = 0; f < P / 8; ++f)
#pragma unroll
        for (int c = 0; c < 4; ++c) weights[f][c] *= float(a.scale);
      mask_scores<T, IsOfKeys>(head, i0, j0, weights);
      const auto differentiate = [&](auto is_kept) {
#pragma unroll
        for (int f = 0; f < P / 8; ++f)
#pragma unroll
          for (int c = 0; c < 4; ++c) {
            const int row = row_of(c), column = column_of(f, c);
            const int64_t i = i0 + (IsOfKeys ? column : row);
            const float shift = i < L ? shift_of(logsumexp[i]) : 0, dot = i < L ? dots[i] : 0;
            const float p = prim::exp(weights[f][c] - shift);
            const bool keeps = is_kept(row, column);
            weights[f][c] = keeps ? p : 0;
            ds[f][c] = p * ((keeps ? dropout_scale * ds[f][c] : 0) - dot);
          }
      };
      if (a.dropout_p > 0)
        differentiate([&](int row, int column) {
          return IsOfKeys ? shared.kept.at(column, j0, row) : shared.kept.at(row, j0, column);
        });
      else
        differentiate([](int, int) { return true; });
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
  const float scale[2] = {float(a.scale), float(a.scale)}, of_values[2] = {dropout_scale, dropout_scale};
  store_sums<T>(IsOfKeys ? b.dkey : b.dquery, own_head, own, scale, sums[0]);
  if constexpr (IsOfKeys) store_sums<T>(b.dvalue, own_head, own, of_values, sums[1]);
}

}  // namespace lamina::LAMINA_DEVICE
