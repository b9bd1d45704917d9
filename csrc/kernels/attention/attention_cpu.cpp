// attention.h on the CPU: the products of a block run in the register tile of gemm/micro.h, on packed operands.
//
// A task is a part of the queries of one head (backward: of the keys). Scores of query_rows x key_columns lie in the
// nearest caches between the products; packed keys and values stay in the second-level cache while queries pass by.
#include "kernels/attention/attention.h"

#include <array>
#include <optional>

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/dropout/tile.h"
#include "kernels/elementwise/convert.h"
#include "kernels/gemm/block.h"
#include "kernels/softmax/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t key_columns = dropout_elements_per_tile;
constexpr int64_t query_rows = 48;              // whole bands at every level; 24 KB of scores
constexpr int64_t query_part = 8 * query_rows;  // packing a key costs 2 % of what so many queries do with it
static_assert(query_rows % tile_rows == 0);

// Arrays of so many elements in the thread's scratch memory, each on lines of its own.
template <class S, class... Sizes>
std::array<S*, sizeof...(Sizes)> scratch_arrays(Sizes... sizes) {
  const auto padded = [](int64_t n) { return round_up(n, 64 / int64_t(sizeof(S))); };
  S* next = scratch<S>(Scratch::tile, (padded(sizes) + ...));
  const auto take = [&](int64_t n) {
    S* p = next;
    next += padded(n);
    return p;
  };
  return {take(sizes)...};
}

template <class S>
void clear(S* x, int64_t n) {
  for_vectors<Vec<S>>(n, [&](int64_t i, auto lanes) { lanes.store(x + i, Vec<S>::zero()); });
}

template <class S>
struct Rows {
  S* data;
  int64_t ld;
  LAMINA_INLINE S* at(int64_t i, int64_t j) const { return data + i * ld + j; }
  LAMINA_INLINE void done(int64_t, int64_t, int, int) const {}
};

// B in panels, as pack_b leaves it.
template <class S>
struct Panels {
  const S* data;
  int64_t stride;
};
template <class S, class T>
Panels<S> pack_panels(Matrix<const T> b, int64_t K, int64_t N, S* out) {
  pack_b(b, K, N, out);
  return {out, K * tile_columns<S>};
}

// C = A B, or C += A B.
template <bool adds, class S>
void multiply(int64_t M, int64_t N, int64_t K, Bands<S> a, Panels<S> b, Rows<S> c) {
  const Start<S> start = adds ? Start<S>{c.data, c.ld} : Start<S>{};
  multiply_block(M, N, K, a, b.data, b.stride, tile_columns<S>, start, c);
}

// The same bands from a row on, which begins one.
template <class S>
Bands<S> bands_from(Bands<S> a, int64_t row) {
  a.data += row / tile_rows * a.band_stride;
  return a;
}

template <class T>
Matrix<const T> matrix_of(const View& v, int64_t head) {
  return {v.as<const T>() + offset_of_head(v, head), row_stride_of(v), 1};
}

// Rows of query times scale: the factor then is in the scores and in dkey.
template <class T>
Bands<Compute<T>> pack_query(Matrix<const T> query, int64_t rows, int64_t E, double scale, Compute<T>* out) {
  using V = VecOf<T>;
  const auto bands = pack_a_rows(query, rows, E, out);
  const V factor = V::set1(Compute<T>(scale));
  for (int64_t i = 0; i < rows; ++i, out += bands.row_stride)
    for_vectors<V>(E, [&](int64_t e, auto lanes) { lanes.store(out + e, lanes.load(out + e) * factor); });
  return bands;
}

// e^x for x <= 0; 0 where that is no normal number.
template <class S>
LAMINA_INLINE Vec<S> exp_or_zero(Vec<S> x) {
  using V = Vec<S>;
  const V low = V::set1(S(V::min_exponent * 0.69314718055994530942));
  return select(lt(x, low), V::zero(), exp_normal(max_fast(low, x)));
}

// What is added to the scores of a head, and multiplied with its probabilities.
template <class T>
class Head {
  using S = Compute<T>;
  using V = Vec<S>;

 public:
  Head(const AttentionArgs& a, int64_t n)
      : L_(rows_of(a.query)), keys_(rows_of(a.key)), n_(n), is_causal_(a.is_causal), mask_(a.mask) {
    if (a.dropout_p > 0) dropout_.emplace(a.pair, a.dropout_p);
    if (!mask_) return;
    load_mask_ = load_function(mask_.dtype, dtype_of<S>);
    mask_.data = mask_at(offset_of_head(mask_, n));
  }

  // How many keys of the block from j0 on any of the queries [i0, i0 + rows) sees; none if not positive.
  int64_t columns_seen(int64_t i0, int64_t rows, int64_t j0) const {
    const int64_t left = smaller(key_columns, keys_ - j0);
    return is_causal_ ? smaller(left, i0 + rows - j0) : left;
  }

  void mask(S* scores, int64_t i0, int64_t rows, int64_t j0, int64_t columns) const {
    S added[key_columns];
    for (int64_t i = 0; i < rows; ++i, scores += key_columns) {
      if (mask_) {
        const int64_t row_stride = row_stride_of(mask_), stride = mask_.strides[mask_.ndim - 1];
        if (i == 0 || row_stride != 0)
          load_mask_(mask_at((i0 + i) * row_stride + j0 * stride), stride, added, columns);
        const bool is_boolean = mask_.dtype == Dtype::boolean;
        for_vectors<V>(columns, [&](int64_t j, auto lanes) {
          const V s = lanes.load(scores + j), m = lanes.load(added + j);
          lanes.store(scores + j, is_boolean ? select(eq(m, V::zero()), V::set1(-infinity<S>), s) : s + m);
        });
      }
      if (is_causal_)
        for (int64_t j = larger(0, i0 + i + 1 - j0); j < columns; ++j) scores[j] = -infinity<S>;
    }
  }

  bool has_dropout() const { return dropout_.has_value(); }
  // keep / (1 - dropout_p) of query i and the block of keys from j0 on.
  void draw(int64_t i, int64_t j0, S (&factors)[key_columns]) const {
    for (S& factor : factors) factor = 1;
    dropout_->apply((n_ * L_ + i) * dropout_tiles(keys_) + j0 / key_columns, factors, factors);
  }

 private:
  void* mask_at(int64_t i) const { return mask_.as<char>() + i * size_of(mask_.dtype); }

  int64_t L_, keys_, n_;
  bool is_causal_;
  View mask_;
  Load load_mask_ = nullptr;
  std::optional<Dropout> dropout_;
};

// --- forward -----------------------------------------------------------------------------------------------------

// A row of scores becomes exponentials; y of the row is scaled where its maximum grows.
template <class S>
LAMINA_INLINE void exponentiate(S* scores, int64_t columns, S* max, S* sum, S* y, int64_t Ev) {
  using V = Vec<S>;
  const S block_max = row_max(scores, columns);
  if (block_max > *max) {
    const S factor = exp_of(*max - block_max);
    *max = block_max;
    *sum *= factor;
    for_vectors<V>(Ev,
                   [&](int64_t e, auto lanes) { lanes.store(y + e, lanes.load(y + e) * V::set1(factor)); });
  }
  const V shift = V::set1(shift_of(*max));
  *sum += row_sum<V>(columns, [&](int64_t j, auto lanes) {
    const V p = exp_or_zero(lanes.load(scores + j) - shift);
    lanes.store(scores + j, p);
    return p;
  });
}

// y and logsumexp of the queries [begin, end) of head n.
template <class T>
void forward_part(const AttentionArgs& a, int64_t n, int64_t begin, int64_t end) {
  using S = Compute<T>;
  using V = Vec<S>;
  const int64_t L = rows_of(a.query), keys = rows_of(a.key), E = columns_of(a.query),
                Ev = columns_of(a.value);
  const int64_t rows = end - begin;
  const auto [packed_query, packed_key, packed_value, scores, y] =
      scratch_arrays<S>(packed_a_size<S>(rows, E), packed_b_size<S>(E, key_columns),
                        packed_b_size<S>(key_columns, Ev), query_rows * key_columns, rows * Ev);
  S max[query_part], sum[query_part] = {};
  for (S& m : max) m = -infinity<S>;
  clear(y, rows * Ev);

  const Matrix<const T> key = matrix_of<T>(a.key, n / a.group), value = matrix_of<T>(a.value, n / a.group);
  const auto query = pack_query(matrix_of<T>(a.query, n).at(begin, 0), rows, E, a.scale, packed_query);
  const Head<T> head(a, n);
  for (int64_t j0 = 0; j0 < keys && head.columns_seen(begin, rows, j0) > 0; j0 += key_columns) {
    const int64_t block = smaller(key_columns, keys - j0);
    const Panels<S> keys_t = pack_panels(key.at(j0, 0).transposed(), E, block, packed_key),
                    values = pack_panels(value.at(j0, 0), block, Ev, packed_value);
    for (int64_t r = 0; r < rows; r += query_rows) {
      const int64_t i0 = begin + r, count = smaller(query_rows, rows - r),
                    columns = head.columns_seen(i0, count, j0);
      if (columns <= 0) continue;
      multiply<false>(count, columns, E, bands_from(query, r), keys_t, Rows<S>{scores, key_columns});
      head.mask(scores, i0, count, j0, columns);
      for (int64_t i = 0; i < count; ++i)
        exponentiate(scores + i * key_columns, columns, max + r + i, sum + r + i, y + (r + i) * Ev, Ev);
      for (int64_t i = 0; i < count && head.has_dropout(); ++i) {
        S* p = scores + i * key_columns;
        S factors[key_columns];
        head.draw(i0 + i, j0, factors);
        for_vectors<V>(columns, [&](int64_t j, auto lanes) {
          lanes.store(p + j, lanes.load(p + j) * lanes.load(factors + j));
        });
      }
      const Bands<S> p{scores, tile_rows * key_columns, key_columns, 1};
      multiply<true>(count, Ev, columns, p, values, Rows<S>{y + r * Ev, Ev});
    }
  }

  const Matrix<T> out{a.y.as<T>() + offset_of_head(a.y, n), row_stride_of(a.y), 1};
  for (int64_t i = 0; i < rows; ++i) {
    const V factor = V::set1(sum[i] == 0 ? S(0) : 1 / sum[i]);  // a sum of 0 has only zeros above it
    const S* from = y + i * Ev;
    T* to = out.at(begin + i, 0).data;
    for_vectors<V>(Ev, [&](int64_t e, auto lanes) { lanes.store(to + e, lanes.load(from + e) * factor); });
  }
  S* logsumexp = a.logsumexp.as<S>() + n * L + begin;
  for_vectors<V>(rows, [&](int64_t i, auto lanes) {
    lanes.store(logsumexp + i, shift_of(lanes.load(max + i)) + log(lanes.load(sum + i)));
  });
}

void forward(const AttentionArgs& a) {
  const int64_t L = rows_of(a.query), parts = ceil_div(L, query_part);
  dispatch_float(a.y.dtype, [&](auto t) {
    parallel_for(heads_of(a.y) * parts, [&](int64_t task) {
      const int64_t begin = task % parts * query_part;
      forward_part<typename decltype(t)::type>(a, task / parts, begin, smaller(begin + query_part, L));
    });
  });
}

// --- backward ----------------------------------------------------------------------------------------------------

// A block of `rows` x `columns` scores: p = exp(s - logsumexp) becomes keep / (1 - dropout_p) * p, and dp becomes ds.
template <class T>
void differentiate(const AttentionBackwardArgs& b, const Head<T>& head, int64_t n, int64_t i0, int64_t rows,
                   int64_t j0, int64_t columns, Compute<T>* p, Compute<T>* ds) {
  using S = Compute<T>;
  using V = Vec<S>;
  const AttentionArgs& a = b.forward;
  const int64_t Ev = columns_of(a.value);
  const Matrix<const T> y = matrix_of<T>(a.y, n), dy = matrix_of<T>(b.dy, n);
  const S* logsumexp = a.logsumexp.as<S>() + n * rows_of(a.query);
  for (int64_t i = i0; i < i0 + rows; ++i, p += key_columns, ds += key_columns) {
    const T *y_row = y.at(i, 0).data, *dy_row = dy.at(i, 0).data;
    const S D =
        row_sum<V>(Ev, [&](int64_t e, auto lanes) { return lanes.load(y_row + e) * lanes.load(dy_row + e); });
    const V shift = V::set1(shift_of(logsumexp[i])), subtracted = V::set1(D);
    if (head.has_dropout()) {
      S factors[key_columns];
      head.draw(i, j0, factors);
      for_vectors<V>(columns, [&](int64_t j, auto lanes) {
        const V r = lanes.load(factors + j), exact = exp_or_zero(lanes.load(p + j) - shift);
        lanes.store(p + j, exact * r);
        lanes.store(ds + j, exact * (r * lanes.load(ds + j) - subtracted));
      });
    } else {
      for_vectors<V>(columns, [&](int64_t j, auto lanes) {
        const V exact = exp_or_zero(lanes.load(p + j) - shift);
        lanes.store(p + j, exact);
        lanes.store(ds + j, exact * (lanes.load(ds + j) - subtracted));
      });
    }
  }
}

// dmask of a block: ds where it was computed, else 0.
template <class S>
void store_dmask(const View& dmask, int64_t n, int64_t i0, int64_t rows, int64_t j0, int64_t columns,
                 int64_t block, const S* ds) {
  const Store store = store_function(dmask.dtype, dtype_of<S>);
  const S zeros[key_columns] = {};
  const int64_t size = size_of(dmask.dtype);
  char* to = dmask.as<char>() + (offset_of_head(dmask, n) + i0 * row_stride_of(dmask) + j0) * size;
  for (int64_t i = 0; i < rows; ++i, to += row_stride_of(dmask) * size, ds += key_columns) {
    store(ds, to, 1, columns);
    store(zeros, to + columns * size, 1, block - columns);
  }
}

// Rows of sums, times scale, to rows of T.
template <class S, class T>
void store_rows(const S* from, int64_t rows, int64_t columns, double scale, Matrix<T> to) {
  using V = Vec<S>;
  const V factor = V::set1(S(scale));
  for (int64_t i = 0; i < rows; ++i, from += columns, to.data += to.row_stride)
    for_vectors<V>(columns,
                   [&](int64_t e, auto lanes) { lanes.store(to.data + e, lanes.load(from + e) * factor); });
}

// dkey and dvalue of the keys [begin, end) of key head m, and their share of ds key.
template <class T>
void backward_part(const AttentionBackwardArgs& b, int64_t m, int64_t begin, int64_t end, Compute<T>* share) {
  using S = Compute<T>;
  const AttentionArgs& a = b.forward;
  const int64_t L = rows_of(a.query), E = columns_of(a.query), Ev = columns_of(a.value);
  constexpr int64_t I = query_rows, J = key_columns;
  const auto [key_rows, key_columns_, value_columns, query_bands, query_rows_, dy_bands, dy_rows, p, ds, dkey,
              dvalue] =
      scratch_arrays<S>(packed_b_size<S>(J, E), packed_b_size<S>(E, J), packed_b_size<S>(Ev, J),
                        packed_a_size<S>(I, E), packed_b_size<S>(I, E), packed_a_size<S>(I, Ev),
                        packed_b_size<S>(I, Ev), I * J, I * J, J * E, J * Ev);
  const int64_t first_head = m * a.group;
  clear(share + first_head * L * E, a.group * L * E);

  const Matrix<const T> key = matrix_of<T>(a.key, m), value = matrix_of<T>(a.value, m);
  for (int64_t j0 = begin; j0 < end; j0 += J) {
    const int64_t block = smaller(J, end - j0);
    const Panels<S> k = pack_panels(key.at(j0, 0), block, E, key_rows),
                    k_t = pack_panels(key.at(j0, 0).transposed(), E, block, key_columns_),
                    v_t = pack_panels(value.at(j0, 0).transposed(), Ev, block, value_columns);
    clear(dkey, block * E);
    clear(dvalue, block * Ev);
    for (int64_t n = first_head; n < first_head + a.group; ++n) {
      const Head<T> head(a, n);
      for (int64_t i0 = 0; i0 < L; i0 += I) {
        const int64_t rows = smaller(I, L - i0), columns = larger(0, head.columns_seen(i0, rows, j0));
        if (columns > 0) {
          const Bands<S> q = pack_query(matrix_of<T>(a.query, n).at(i0, 0), rows, E, a.scale, query_bands),
                         g = pack_a_rows(matrix_of<T>(b.dy, n).at(i0, 0), rows, Ev, dy_bands);
          multiply<false>(rows, columns, E, q, k_t, Rows<S>{p, J});
          multiply<false>(rows, columns, Ev, g, v_t, Rows<S>{ds, J});
          head.mask(p, i0, rows, j0, columns);
          differentiate(b, head, n, i0, rows, j0, columns, p, ds);
          const Panels<S> q_rows =
                              pack_panels(Matrix<const S>{q.data, q.row_stride, 1}, rows, E, query_rows_),
                          g_rows = pack_panels(Matrix<const S>{g.data, g.row_stride, 1}, rows, Ev, dy_rows);
          multiply<true>(columns, Ev, rows, Bands<S>{p, tile_rows, 1, J}, g_rows, Rows<S>{dvalue, Ev});
          multiply<true>(columns, E, rows, Bands<S>{ds, tile_rows, 1, J}, q_rows, Rows<S>{dkey, E});
          multiply<true>(rows, E, columns, Bands<S>{ds, tile_rows * J, J, 1}, k,
                         Rows<S>{share + (n * L + i0) * E, E});
        }
        if (b.dmask) store_dmask(b.dmask, n, i0, rows, j0, columns, block, ds);
      }
    }
    const Matrix<T> to_key{b.dkey.as<T>() + offset_of_head(b.dkey, m), row_stride_of(b.dkey), 1},
        to_value{b.dvalue.as<T>() + offset_of_head(b.dvalue, m), row_stride_of(b.dvalue), 1};
    store_rows(dkey, block, E, 1, to_key.at(j0, 0));
    store_rows(dvalue, block, Ev, 1, to_value.at(j0, 0));
  }
}

template <class T>
void backward_typed(const AttentionBackwardArgs& b) {
  using S = Compute<T>;
  using V = Vec<S>;
  const AttentionArgs& a = b.forward;
  const int64_t keys = rows_of(a.key), M = heads_of(a.key), L = rows_of(a.query), E = columns_of(a.query);
  const KeyParts parts = choose_key_parts(a.key);
  const int64_t share = M * a.group * L * E;
  S* shares = static_cast<S*>(b.workspace);
  parallel_for(M * parts.count, [&](int64_t task) {
    const int64_t part = task % parts.count, begin = part * parts.size;
    backward_part<T>(b, task / parts.count, begin, smaller(begin + parts.size, keys), shares + part * share);
  });
  // dquery: the shares in the order of the keys.
  constexpr int64_t grain = 32;
  parallel_ranges(M * a.group * L, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      S* row = shares + i * E;
      for (int64_t part = 1; part < parts.count; ++part)
        for_vectors<V>(E, [&](int64_t e, auto lanes) {
          lanes.store(row + e, lanes.load(row + e) + lanes.load(row + part * share + e));
        });
      T* to = b.dquery.as<T>() + offset_of_head(b.dquery, i / L) + i % L * row_stride_of(b.dquery);
      store_rows(row, 1, E, a.scale, Matrix<T>{to, E, 1});
    }
  });
}

void backward(const AttentionBackwardArgs& b) {
  dispatch_float(b.dy.dtype, [&](auto t) { backward_typed<typename decltype(t)::type>(b); });
}

}  // namespace

const AttentionKernels attention_kernels = {forward, backward};

}  // namespace lamina::LAMINA_ISA
