// Attention by multiply-adds of the ordinary cores: any dtype, any number of features.
//
// A block of 16 x 16 threads holds I x J scores, a patch of I / 16 x J / 16 per thread: those of a row lie in 16 neighbouring
// lanes. Operands pass by in slices of 16 along the axis that is summed, in compute precision, that axis outermost; then the
// probabilities, which go to shared memory, are the first operand of the next product, and rows of values, dy, keys or
// queries its slices. A block sums C columns of its results; where they have more, other blocks take them, and compute the
// scores again: twice for heads of 256 in float32, four times in 16 bits.
//
// forward: a block per I queries.   dkey, dvalue: a block per J keys, past which queries go.   dquery: one per I queries.
#pragma once

#include "base/launch.h"
#include "kernels/attention/head.cuh"

namespace lamina::LAMINA_DEVICE {

constexpr int attention_threads = 256, slice_depth = 16;

// Thread patches of R rows x R columns of scores, and of R rows x W columns of results.
template <class T, int Rows, int Columns>
struct AttentionTile {
  using S = Compute<T>;
  static constexpr int R = Rows, W = Columns;
  static constexpr int I = 16 * R, J = I, C = 16 * W;
  static constexpr int wide = C > I ? C : I;
  // Four more keep vectors aligned and spread columns over the banks.
  struct Shared {
    S a[slice_depth][I + 4], b[slice_depth][wide + 4];
    S weights[I][J + 4];  // the axis that is summed outermost
    KeptWeights<I> kept;
  };
};

// The block's tile of results: rows of a head from `row` on, columns from `column` on.
template <class Tile>
struct TilePlace {
  int64_t head, row, column;

  LAMINA_PRIM TilePlace(int64_t rows, int64_t slices) {
    const int64_t block = prim::block(), row_tiles = ceil_div(rows, Tile::I);
    head = block / slices / row_tiles;
    row = block / slices % row_tiles * Tile::I;
    column = block % slices * Tile::C;
  }
};

// slice[k][line] = m(line, k) for k of the slice and lines of the block; 0 where there is none. Threads take neighbouring k,
// which are neighbours in memory.
template <class T, class S, int Pitch>
LAMINA_PRIM void load_columns(S (&slice)[slice_depth][Pitch], const T* m, int64_t row_stride, int64_t lines,
                              int64_t ks, int count) {
  const int k = prim::thread() % slice_depth;
  for (int line = prim::thread() / slice_depth; line < count; line += attention_threads / slice_depth)
    slice[k][line] = line < lines && k < ks ? prim::widen(m[line * row_stride + k]) : S(0);
}

// slice[k][column] = m(k, column): rows as they lie in memory.
template <class T, class S, int Pitch>
LAMINA_PRIM void load_rows(S (&slice)[slice_depth][Pitch], const T* m, int64_t row_stride, int64_t ks,
                           int64_t columns, int count) {
  for (int at = prim::thread(); at < slice_depth * count; at += attention_threads) {
    const int k = at / count, column = at % count;
    slice[k][column] = k < ks && column < columns ? prim::widen(m[k * row_stride + column]) : S(0);
  }
}

// sum[u][v] += sum_k a[k][row u] b[k][column v], for the patch of the thread.
template <int U, int V, class S, int PitchA, int PitchB>
LAMINA_PRIM void multiply_slices(S (&sum)[U][V], const S (*a)[PitchA], const S (*b)[PitchB]) {
  const int row = prim::thread() / 16 * U, column = prim::thread() % 16 * V;
#pragma unroll 4  // the whole slice takes nvcc twice as long
  for (int k = 0; k < slice_depth; ++k) {
    const auto x = prim::load_vector<U>(&a[k][row]);
    const auto y = prim::load_vector<V>(&b[k][column]);
#pragma unroll
    for (int u = 0; u < U; ++u)
#pragma unroll
      for (int v = 0; v < V; ++v) sum[u][v] = prim::fma(x[u], y[v], sum[u][v]);
  }
}

// The products of the rows of x and y over `depth` features.
template <class Tile, class T>
LAMINA_PRIM void multiply_rows(typename Tile::Shared& shared, const T* x, int64_t x_stride, int64_t x_rows,
                               const T* y, int64_t y_stride, int64_t y_rows, int64_t depth,
                               typename Tile::S (&sum)[Tile::R][Tile::R]) {
#pragma unroll
  for (int u = 0; u < Tile::R; ++u)
#pragma unroll
    for (int v = 0; v < Tile::R; ++v) sum[u][v] = 0;
  for (int64_t e = 0; e < depth; e += slice_depth) {
    prim::block_sync();  // who still reads the slices before
    load_columns(shared.a, x + e, x_stride, x_rows, depth - e, Tile::I);
    load_columns(shared.b, y + e, y_stride, y_rows, depth - e, Tile::J);
    prim::block_sync();
    multiply_slices(sum, shared.a, shared.b);
  }
}

// sum += weights^T x, for `depth` rows of x, which are summed by themselves first: many terms would round more.
template <class Tile, class T>
LAMINA_PRIM void multiply_weights(typename Tile::Shared& shared, const T* x, int64_t x_stride, int64_t depth,
                                  int64_t columns, typename Tile::S (&sum)[Tile::R][Tile::W]) {
  typename Tile::S own[Tile::R][Tile::W] = {};
  for (int k = 0; k < smaller(depth, Tile::J); k += slice_depth) {
    prim::block_sync();  // who still reads the slice before; and weights are complete
    load_rows(shared.b, x + k * x_stride, x_stride, depth - k, columns, Tile::C);
    prim::block_sync();
    multiply_slices(own, shared.weights + k, shared.b);
  }
#pragma unroll
  for (int u = 0; u < Tile::R; ++u)
#pragma unroll
    for (int w = 0; w < Tile::W; ++w) sum[u][w] += own[u][w];
}

// weights[k][line]: k counts rows of the patch or, transposed, its columns.
template <bool IsTransposed, class Tile>
LAMINA_PRIM void store_weights(typename Tile::Shared& shared, const typename Tile::S (&w)[Tile::R][Tile::R]) {
  constexpr int R = Tile::R;
  const int row = prim::thread() / 16 * R, column = prim::thread() % 16 * R;
  prim::block_sync();  // who still reads the weights before
#pragma unroll
  for (int k = 0; k < R; ++k) {
    prim::Pack<typename Tile::S, R> line;
#pragma unroll
    for (int i = 0; i < R; ++i) line[i] = IsTransposed ? w[i][k] : w[k][i];
    prim::store_vector(IsTransposed ? &shared.weights[column + k][row] : &shared.weights[row + k][column],
                       line);
  }
}

// factor * sum to the rows and columns that exist.
template <class Tile, class T>
LAMINA_PRIM void store_sums(const View& y, const TilePlace<Tile>& place,
                            const typename Tile::S (&factor)[Tile::R],
                            const typename Tile::S (&sum)[Tile::R][Tile::W]) {
  const int64_t first_row = place.row + prim::thread() / 16 * Tile::R,
                first_column = place.column + prim::thread() % 16 * Tile::W;
  T* out = row_at<T>(y, place.head);
#pragma unroll
  for (int u = 0; u < Tile::R; ++u)
#pragma unroll
    for (int w = 0; w < Tile::W; ++w)
      if (first_row + u < rows_of(y) && first_column + w < columns_of(y))
        out[(first_row + u) * row_stride_of(y) + first_column + w] = prim::narrow<T>(factor[u] * sum[u][w]);
}

template <class T, class Tile>
__global__ __launch_bounds__(attention_threads, 1) void forward_kernel(AttentionArgs a, int64_t tiles,
                                                                       int64_t slices) {
  using S = Compute<T>;
  constexpr int R = Tile::R, W = Tile::W, I = Tile::I, J = Tile::J;
  auto& shared = prim::shared_memory<typename Tile::Shared>();
  if (prim::block() >= tiles) return;
  const int64_t L = rows_of(a.query);
  const TilePlace<Tile> place(L, slices);
  const int64_t n = place.head, i0 = place.row;
  const Head<T> head(a, n);
  const T* query = row_at<T>(a.query, n, i0);
  const T* key = row_at<T>(a.key, n / a.group);
  const T* value = row_at<T>(a.value, n / a.group) + place.column;
  const int thread_row = prim::thread() / 16 * R, thread_column = prim::thread() % 16 * R;
  const int64_t row = i0 + thread_row;

  S max[R], sum[R], y[R][W] = {};
#pragma unroll
  for (int u = 0; u < R; ++u) max[u] = -S(INFINITY), sum[u] = 0;
  const int64_t keys = head.keys_seen(smaller(i0 + I, L) - 1);
  for (int64_t j0 = 0; j0 < keys; j0 += J) {
    if (a.dropout_p > 0 && j0 % dropout_elements_per_tile == 0) {
      prim::block_sync();  // who still asks for the tile before
      shared.kept.draw(head, i0, j0);
    }
    S p[R][R];
    multiply_rows<Tile>(shared, query, row_stride_of(a.query), L - i0, key + j0 * row_stride_of(a.key),
                        row_stride_of(a.key), head.keys - j0, columns_of(a.query), p);
#pragma unroll
    for (int u = 0; u < R; ++u) {
      S top = max[u];
#pragma unroll
      for (int v = 0; v < R; ++v) {
        p[u][v] = head.masked(p[u][v] * S(a.scale), row + u, j0 + thread_column + v);
        top = prim::max(top, p[u][v]);
      }
      for (int bits = 8; bits > 0; bits /= 2) top = prim::max(top, prim::shuffle_xor(top, bits));
      const S shift = shift_of(top), factor = prim::exp(max[u] - shift);
      max[u] = top;
      S total = 0;
#pragma unroll
      for (int v = 0; v < R; ++v) total += p[u][v] = prim::exp(p[u][v] - shift);
      for (int bits = 8; bits > 0; bits /= 2) total += prim::shuffle_xor(total, bits);
      sum[u] = sum[u] * factor + total;
#pragma unroll
      for (int w = 0; w < W; ++w) y[u][w] *= factor;
    }
    if (a.dropout_p > 0) {
      prim::block_sync();  // what was drawn is there
#pragma unroll
      for (int u = 0; u < R; ++u)
#pragma unroll
        for (int v = 0; v < R; ++v)
          if (!shared.kept.at(thread_row + u, j0, thread_column + v)) p[u][v] = 0;
    }
    store_weights<true, Tile>(shared, p);
    multiply_weights<Tile>(shared, value + j0 * row_stride_of(a.value), row_stride_of(a.value),
                           head.keys - j0, columns_of(a.value) - place.column, y);
  }

  S factor[R];
#pragma unroll
  for (int u = 0; u < R; ++u) {
    factor[u] = sum[u] == 0 ? S(0) : head.dropout_scale() / sum[u];  // a sum of 0 has only zeros above it
    if (place.column == 0 && thread_column == 0 && row + u < L)
      a.logsumexp.as<S>()[n * L + row + u] = shift_of(max[u]) + prim::log(sum[u]);
  }
  store_sums<Tile, T>(a.y, place, factor, y);
}

// A patch of scores: weights are keep * p, and ds as in attention.h.
template <class T, class Tile>
struct ScorePatch {
  typename Tile::S weights[Tile::R][Tile::R], ds[Tile::R][Tile::R];

  // Rows of a head from i0 and j0 on, where `query` and `key` begin.
  LAMINA_PRIM ScorePatch(const AttentionBackwardArgs& b, const Head<T>& head, typename Tile::Shared& shared,
                         const T* query, const T* dy, const T* key, const T* value, int64_t i0, int64_t j0) {
    using S = Compute<T>;
    const AttentionArgs& a = b.forward;
    if (a.dropout_p > 0) {
      prim::block_sync();  // who still asks for the tile before
      shared.kept.draw(head, i0, j0);
    }
    multiply_rows<Tile>(shared, query, row_stride_of(a.query), head.L - i0, key, row_stride_of(a.key),
                        head.keys - j0, columns_of(a.query), weights);
    multiply_rows<Tile>(shared, dy, row_stride_of(b.dy), head.L - i0, value, row_stride_of(a.value),
                        head.keys - j0, columns_of(a.value), ds);
    if (a.dropout_p > 0) prim::block_sync();  // what was drawn is there
    const S* D = static_cast<const S*>(b.workspace) + head.n * head.L;
    const S* logsumexp = a.logsumexp.as<S>() + head.n * head.L;
    const int thread_row = prim::thread() / 16 * Tile::R, thread_column = prim::thread() % 16 * Tile::R;
#pragma unroll
    for (int u = 0; u < Tile::R; ++u) {
      const int64_t i = i0 + thread_row + u;
      const S shift = i < head.L ? shift_of(logsumexp[i]) : S(0), subtracted = i < head.L ? D[i] : S(0);
#pragma unroll
      for (int v = 0; v < Tile::R; ++v) {
        const int column = thread_column + v;
        const S p = prim::exp(head.masked(weights[u][v] * S(a.scale), i, j0 + column) - shift);
        const bool is_kept = !(a.dropout_p > 0) || shared.kept.at(thread_row + u, j0, column);
        weights[u][v] = is_kept ? p : S(0);
        ds[u][v] = p * ((is_kept ? head.dropout_scale() * ds[u][v] : S(0)) - subtracted);
      }
    }
  }
};

template <class T, class Tile>
__global__ __launch_bounds__(attention_threads, 1) void key_backward_kernel(AttentionBackwardArgs b,
                                                                            int64_t tiles, int64_t slices) {
  using S = Compute<T>;
  constexpr int R = Tile::R;
  const AttentionArgs& a = b.forward;
  auto& shared = prim::shared_memory<typename Tile::Shared>();
  if (prim::block() >= tiles) return;
  const TilePlace<Tile> place(rows_of(a.key), slices);
  const int64_t m = place.head, j0 = place.row, L = rows_of(a.query);
  const T* key = row_at<T>(a.key, m, j0);
  const T* value = row_at<T>(a.value, m, j0);
  S dkey[R][Tile::W] = {}, dvalue[R][Tile::W] = {};
  for (int64_t n = m * a.group; n < (m + 1) * a.group; ++n) {
    const Head<T> head(a, n);
    for (int64_t i0 = a.is_causal ? j0 : 0; i0 < L; i0 += Tile::I) {
      const T* query = row_at<T>(a.query, n, i0);
      const T* dy = row_at<T>(b.dy, n, i0);
      const ScorePatch<T, Tile> patch(b, head, shared, query, dy, key, value, i0, j0);
      store_weights<false, Tile>(shared, patch.weights);
      multiply_weights<Tile>(shared, dy + place.column, row_stride_of(b.dy), L - i0,
                             columns_of(a.value) - place.column, dvalue);
      store_weights<false, Tile>(shared, patch.ds);
      multiply_weights<Tile>(shared, query + place.column, row_stride_of(a.query), L - i0,
                             columns_of(a.query) - place.column, dkey);
    }
  }
  S of_key[R], of_value[R];
  const S dropout_scale = Head<T>(a, 0).dropout_scale();
#pragma unroll
  for (int u = 0; u < R; ++u) of_key[u] = S(a.scale), of_value[u] = dropout_scale;
  store_sums<Tile, T>(b.dkey, place, of_key, dkey);
  store_sums<Tile, T>(b.dvalue, place, of_value, dvalue);
}

// A patch of ds to dmask.
template <class S, class M, int R>
LAMINA_PRIM void store_dmask(const View& dmask, int64_t n, int64_t i0, int64_t j0, const S (&ds)[R][R]) {
  M* out = row_at<M>(dmask, n);
#pragma unroll
  for (int u = 0; u < R; ++u)
#pragma unroll
    for (int v = 0; v < R; ++v) {
      const int64_t i = i0 + prim::thread() / 16 * R + u, j = j0 + prim::thread() % 16 * R + v;
      if (i < rows_of(dmask) && j < columns_of(dmask))
        out[i * row_stride_of(dmask) + j] = prim::narrow<M>(ds[u][v]);
    }
}

template <class T, class Tile>
__global__ __launch_bounds__(attention_threads, 1) void query_backward_kernel(AttentionBackwardArgs b,
                                                                              int64_t tiles, int64_t slices) {
  using S = Compute<T>;
  constexpr int R = Tile::R, I = Tile::I, J = Tile::J;
  const AttentionArgs& a = b.forward;
  auto& shared = prim::shared_memory<typename Tile::Shared>();
  if (prim::block() >= tiles) return;
  const int64_t L = rows_of(a.query);
  const TilePlace<Tile> place(L, slices);
  const int64_t n = place.head, i0 = place.row;
  const Head<T> head(a, n);
  const T* query = row_at<T>(a.query, n, i0);
  const T* dy = row_at<T>(b.dy, n, i0);
  const bool writes_dmask = b.dmask && place.column == 0;
  const int64_t keys = head.keys_seen(smaller(i0 + I, L) - 1);
  S dquery[R][Tile::W] = {};
  for (int64_t j0 = 0; j0 < (writes_dmask ? head.keys : keys); j0 += J) {
    if (j0 >= keys) {
      const S zeros[R][R] = {};
      b.dmask.dtype == dtype_of<T> ? store_dmask<S, T>(b.dmask, n, i0, j0, zeros)
                                   : store_dmask<S, S>(b.dmask, n, i0, j0, zeros);
      continue;
    }
    const T* key = row_at<T>(a.key, n / a.group, j0);
    const T* value = row_at<T>(a.value, n / a.group, j0);
    const ScorePatch<T, Tile> patch(b, head, shared, query, dy, key, value, i0, j0);
    store_weights<true, Tile>(shared, patch.ds);
    multiply_weights<Tile>(shared, key + place.column, row_stride_of(a.key), head.keys - j0,
                           columns_of(a.key) - place.column, dquery);
    if (writes_dmask)
      b.dmask.dtype == dtype_of<T> ? store_dmask<S, T>(b.dmask, n, i0, j0, patch.ds)
                                   : store_dmask<S, S>(b.dmask, n, i0, j0, patch.ds);
  }
  S scale[R];
#pragma unroll
  for (int u = 0; u < R; ++u) scale[u] = S(a.scale);
  store_sums<Tile, T>(b.dquery, place, scale, dquery);
}

// Calls f(Tile) for the tile that suits so many columns of results.
template <class T, class F>
void dispatch_attention_tile(int64_t columns, F f) {
  if constexpr (sizeof(T) == 8)  // half as many in the same registers
    f(Type<AttentionTile<T, 2, 4>>{});
  else if (sizeof(T) == 2 ||
           columns <= 64)  // 16-bit elements come here seldom: one tile builds faster than two
    f(Type<AttentionTile<T, 4, 4>>{});
  else if constexpr (sizeof(T) == 4)
    f(Type<AttentionTile<T, 4, 8>>{});
}

// A block for each tile of rows of each head and each slice of its results.
template <class Tile, class Args, class Kernel>
void launch_attention(const char* name, Kernel kernel, int64_t heads, int64_t rows, int64_t columns,
                      const Args& args) {
  const int64_t slices = larger(1, ceil_div(columns, Tile::C)),
                tiles = heads * ceil_div(rows, Tile::I) * slices;
  launch(name, kernel,
         {.grid = grid_of(tiles), .block = {attention_threads}, .shared = sizeof(typename Tile::Shared)},
         args, tiles, slices);
}

}  // namespace lamina::LAMINA_DEVICE
