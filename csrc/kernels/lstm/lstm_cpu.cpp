#include "kernels/lstm/lstm.h"

#include "base/parallel.h"
#include "kernels/gemm/gemm.h"
#include "kernels/lstm/panels.h"
#include "simd/math.h"

namespace lamina::LAMINA_ISA {
namespace {

// Rows of a chunk: enough for the products over all its steps to run at full speed, few enough that its gates
// stay in the cache between those products and the steps (512 x 4 x 256 floats are 2 MB).
constexpr int64_t chunk_rows = 512;
// Sequences that a thread takes through a chunk together, which read the weights once per step. Few leave work for
// more threads, but large weights come from the last cache and want more use: at H = 512, of 101 GFLOP/s, 16 sequences
// reach 76 and 32 reach 89; at H = 256 they reach 88 and 93.
int64_t block_sequences(int64_t H) { return 4 * H * H * 4 <= (int64_t(2) << 20) ? 16 : 32; }
// So few rows do not repay packing: their products are dot products with the weights as they lie.
constexpr int64_t most_rows_of_dots = 4;

// The smallest odd number of cache lines that hold n elements: consecutive rows then spread over all sets of
// the cache.
template <class S>
int64_t padded(int64_t n) {
  constexpr int64_t line = 64 / int64_t(sizeof(S));
  return (ceil_div(n, line) | 1) * line;
}

// Units in whole vectors; four vectors of one such run, one per gate, are a group of columns.
template <class S>
int64_t groups_of(int64_t H) {
  return ceil_div(H, Vec<S>::N);
}
template <class S>
int64_t gate_columns(int64_t H) {
  return groups_of<S>(H) * 4 * Vec<S>::N;
}
template <class S>
int64_t reserve_columns_of(int64_t H) {
  return padded<S>(gate_columns<S>(H) + groups_of<S>(H) * Vec<S>::N);
}

// Groups or panels of a step that a thread takes at a time, of `count` that each bring `weights` weights to `rows`
// rows: work for 20 us or more, where a weight costs as much to read as 4 multiply-adds.
int64_t part_of_step(int64_t count, int64_t weights, int64_t rows) {
  return equal_part(count, larger(1, (int64_t(1) << 20) / larger(weights * (rows + 4), 1)));
}

int64_t steps_of_chunk(int64_t T, int64_t B) { return larger(1, smaller(T, chunk_rows / larger(B, 1))); }

// Hands out the parts of a workspace; from a null base it only counts them.
struct Carver {
  char* base;
  int64_t used = 0;
  template <class U>
  U* take(int64_t n) {
    U* part = base ? reinterpret_cast<U*>(base + used) : nullptr;
    used += ceil_div(n * int64_t(sizeof(U)), 64) * 64;
    return part;
  }
};

// The order of the rows (t, b). Sequences take places by falling length, so those that take part in step s
// are the first count[s] places. The rows of a step are neighbours, and lie in the order of x where no
// lengths are given.
struct Order {
  int64_t T, B;
  bool reverse;
  int64_t *batch, *length;  // of each place: its index b, its length
  int64_t *count, *first;  // of each step, and of one more: sequences that take part, number of the first row

  Order(Carver& carver, const LstmSize& z)
      : T(z.T),
        B(z.B),
        batch(carver.take<int64_t>(z.B)),
        length(carver.take<int64_t>(z.B)),
        count(carver.take<int64_t>(z.T + 1)),
        first(carver.take<int64_t>(z.T + 1)) {}

  void fill(const View& lengths, bool is_reverse) {
    reverse = is_reverse;
    if (!lengths) {
      for (int64_t j = 0; j < B; ++j) batch[j] = j, length[j] = T;
      for (int64_t s = 0; s < T; ++s) count[s] = B, first[s] = (reverse ? T - 1 - s : s) * B;
      count[T] = 0;
      return;
    }
    // A counting sort: count[s] sequences are longer than s, so those of length s come after them.
    const auto clamped = [&](int64_t b) {
      return larger(0, smaller(lengths.as<const int64_t>()[b * lengths.strides[0]], T));
    };
    for (int64_t s = 0; s <= T; ++s) count[s] = 0;
    for (int64_t b = 0; b < B; ++b)
      if (clamped(b) > 0) ++count[clamped(b) - 1];
    for (int64_t s = T - 1; s >= 0; --s) count[s] += count[s + 1];
    for (int64_t s = 0; s <= T; ++s) first[s] = count[s];
    for (int64_t b = 0; b < B; ++b) {
      const int64_t place = first[clamped(b)]++;
      batch[place] = b, length[place] = clamped(b);
    }
    first[0] = 0;
    for (int64_t s = 0; s < T; ++s) first[s + 1] = first[s] + count[s];
  }

  int64_t time(int64_t s, int64_t place) const { return reverse ? length[place] - 1 - s : s; }
  // Rows of steps [s0, s1): they are [low(s0, s1), low(s0, s1) + rows(s0, s1)).
  int64_t low(int64_t s0, int64_t s1) const { return smaller(first[s0], first[s1 - 1]); }
  int64_t rows(int64_t s0, int64_t s1) const {
    const int64_t a = first[s0], b = first[s1 - 1];
    return a < b ? b - a + count[s1 - 1] : a - b + count[s0];
  }
};

// Elements (t, b, 0) of a (T, B, n) view.
template <class T>
T* row_of(const View& v, int64_t t, int64_t b) {
  return v.as<T>() + t * v.strides[0] + b * v.strides[1];
}

// The rows of x for steps [s0, s1), one after the other: in place where they lie so, else copied.
template <class T, class S = Compute<T>>
Matrix<const S> rows_of_x(const View& x, const Order& order, bool has_lengths, int64_t s0, int64_t s1,
                          S* copy) {
  const int64_t low = order.low(s0, s1), I = x.shape[2];
  if constexpr (sizeof(T) == sizeof(S)) {
    const int64_t ld = order.B > 1 ? x.strides[1] : x.strides[0];
    if (!has_lengths && (order.T == 1 || order.B == 1 || x.strides[0] == order.B * ld))
      return {x.as<const S>() + low * ld, ld, 1};
  }
  const int64_t ld = padded<S>(I);
  for (int64_t s = s0; s < s1; ++s)
    for (int64_t j = 0; j < order.count[s]; ++j)
      copy_rows<S>(Matrix<const T>{row_of<const T>(x, order.time(s, j), order.batch[j]), 0, 1}, 1, I,
                   ceil_div(I, Vec<S>::N) * Vec<S>::N, copy + (order.first[s] - low + j) * ld, ld);
  return {copy, ld, 1};
}

// The first `lanes` lanes; masked stores are slow on some machines, so whole vectors go without.
template <class V, class T>
LAMINA_INLINE void store_lanes(V v, T* to, int lanes) {
  if (lanes == V::N)
    v.store(to);
  else
    v.store(to, lanes);
}

// Rows to and from views (B, H) in the caller's order of sequences.
template <class T, class S>
void load_states(const View& v, const Order& order, int64_t H, S* rows, int64_t ld) {
  for (int64_t j = 0; j < order.B; ++j)
    for (int64_t u = 0; u < ld; ++u)
      rows[j * ld + u] =
          v && u < H ? S(widen(v.as<const T>()[order.batch[j] * v.strides[0] + u * v.strides[1]])) : S(0);
}
template <class T, class S>
void store_state(const View& v, const Order& order, int64_t H, const S* rows, int64_t ld, int64_t place) {
  if (!v) return;
  for (int64_t u = 0; u < H; ++u)
    v.as<T>()[order.batch[place] * v.strides[0] + u] = narrow<T>(rows[place * ld + u]);
}

// The weights of all gates (4H, K) as panels, interleaved: vector v of the columns holds gate v % 4 of group
// v / 4.
template <class S, class T>
void pack_gates(const T* w, int64_t H, int64_t K, int panel_width, S* panels) {
  constexpr int N = Vec<S>::N;
  parallel_ranges(
      groups_of<S>(H), larger(1, 16384 / (4 * N * larger(K, 1))), [&](int64_t begin, int64_t end) {
        for (int64_t v = begin * 4; v < end * 4; ++v) {
          const int64_t unit = v / 4 * N, gate = v % 4;
          copy_rows<S>(Matrix<const T>{w + (gate * H + unit) * K, 1, K}, K, smaller(N, H - unit), N,
                       panels + (v / panel_width * K * panel_width + v % panel_width) * N, panel_width * N);
        }
      });
}

// C = start + A * W for the columns of groups [q0, q1), W as pack_gates leaves it.
template <class S>
void multiply_groups(int64_t q0, int64_t q1, int panel_width, int64_t rows, int64_t K, Matrix<const S> a,
                     const S* panels, const S* start, int64_t start_stride, S* c, int64_t ldc) {
  dispatch_panel(panel_width, [&](auto width) {
    constexpr int NV = sizeof(typename decltype(width)::type) / sizeof(int);
    for (int64_t column = q0 * 4 * Vec<S>::N; column < q1 * 4 * Vec<S>::N; column += NV * Vec<S>::N)
      multiply_panel<S, NV>(rows, K, a.data, a.row_stride, panels + column * K, start + column, start_stride,
                            c + column, ldc);
  });
}

// The same with weights w (4H, K) as they lie: each column is a dot product.
template <class S, class T>
void dot_groups(int64_t q0, int64_t q1, int64_t rows, int64_t K, Matrix<const S> a, const T* w, int64_t H,
                const S* start, int64_t start_stride, S* c, int64_t ldc) {
  using V = Vec<S>;
  const int64_t whole = K / V::N * V::N;
  const int rest = int(K - whole);
  for (int64_t unit = q0 * V::N; unit < q1 * V::N; ++unit)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t column = unit / V::N * 4 * V::N + unit % V::N;
      if (unit >= H) {
        for (int gate = 0; gate < 4; ++gate) c[r * ldc + column + gate * V::N] = 0;
        continue;
      }
      const S* x = a.data + r * a.row_stride;
      V sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      for (int64_t k = 0; k < whole; k += V::N)
#pragma GCC unroll 4
        for (int gate = 0; gate < 4; ++gate)
          sum[gate] = fma(V::load(w + (gate * H + unit) * K + k), V::load(x + k), sum[gate]);
      for (int gate = 0; gate < 4; ++gate) {
        if (rest)
          sum[gate] =
              fma(V::load(w + (gate * H + unit) * K + whole, rest), V::load(x + whole, rest), sum[gate]);
        const int64_t at = column + gate * V::N;
        c[r * ldc + at] = start[r * start_stride + at] + reduce_add(sum[gate]);
      }
    }
}

template <class T>
struct Forward {
  using S = Compute<T>;
  using V = Vec<S>;
  const LstmArgs* args = nullptr;
  LstmSize z;
  Carver carver;
  bool has_dots = z.T * z.B <= most_rows_of_dots;
  int64_t Q = groups_of<S>(z.H), columns = gate_columns<S>(z.H), steps = steps_of_chunk(z.T, z.B);
  int64_t ldh = padded<S>(Q * V::N);
  int input_width = panel_vectors(steps * z.B),
      hidden_width = panel_vectors(smaller(z.B, block_sequences(z.H)));

  Order order{carver, z};
  S* input_panels = carver.take<S>(has_dots ? 0 : columns * z.I);
  S* hidden_panels = carver.take<S>(has_dots ? 0 : columns * z.H);
  S* bias = carver.take<S>(columns);
  S* h[2] = {carver.take<S>(z.B * ldh),
             carver.take<S>(z.B * ldh)};  // after an even and an odd number of steps
  S* c = carver.take<S>(z.B * ldh);
  S* x_copy = carver.take<S>(steps * z.B * padded<S>(z.I));
  S* chunk_gates = carver.take<S>(steps * z.B * padded<S>(columns));
  // The gates of the current chunk, in the reserve or in chunk_gates; the first row is row `low`.
  S* gates = chunk_gates;
  int64_t ld = padded<S>(columns), low = 0;

  void prepare() {
    order.fill(args->lengths, args->reverse);
    if (!has_dots) {
      pack_gates(args->w_ih.as<const T>(), z.H, z.I, input_width, input_panels);
      pack_gates(args->w_hh.as<const T>(), z.H, z.H, hidden_width, hidden_panels);
    }
    for (int64_t at = 0; at < columns; ++at) {
      const int64_t unit = at / (4 * V::N) * V::N + at % V::N, row = at / V::N % 4 * z.H + unit;
      bias[at] = 0;
      for (const View& b : {args->b_ih, args->b_hh})
        if (b && unit < z.H) bias[at] += widen(b.as<const T>()[row]);
    }
    load_states<T>(args->h0, order, z.H, h[0], ldh);
    load_states<T>(args->c0, order, z.H, c, ldh);
    if (args->y && args->lengths)
      for (int64_t j = 0; j < z.B; ++j)
        for (int64_t t = order.length[j]; t < z.T; ++t)
          __builtin_memset(row_of<T>(args->y, t, order.batch[j]), 0, size_t(z.H) * sizeof(T));
    end_sequences(0, 0, z.B);
  }

  // Places of [begin, end) that have taken their s steps.
  void end_sequences(int64_t s, int64_t begin, int64_t end) {
    for (int64_t j = larger(begin, order.count[s]); j < end && order.length[j] == s; ++j) {
      store_state<T>(args->h_n, order, z.H, h[s % 2], ldh, j);
      store_state<T>(args->c_n, order, z.H, c, ldh, j);
    }
  }

  // gates = bias + x W_ih^T for the steps [s0, s1).
  void project(int64_t s0, int64_t s1) {
    const int64_t rows = order.rows(s0, s1);
    const Matrix<const S> x = rows_of_x<T>(args->x, order, bool(args->lengths), s0, s1, x_copy);
    if (has_dots) {
      dot_groups(0, Q, rows, z.I, x, args->w_ih.as<const T>(), z.H, bias, 0, gates, ld);
    } else {
      parallel_ranges(rows, 96, [&](int64_t begin, int64_t end) {
        multiply_groups(0, Q, input_width, end - begin, z.I, x.at(begin, 0), input_panels, bias, 0,
                        gates + begin * ld, ld);
      });
    }
  }

  // Step s of the places [begin, end).
  void step(int64_t s, int64_t begin, int64_t end) {
    const int64_t rows = end - begin;
    S* g = gates + (order.first[s] - low + begin) * ld;
    const Matrix<const S> h_last{h[s % 2] + begin * ldh, ldh, 1};
    parallel_ranges(Q, part_of_step(Q, 4 * V::N * z.H, rows), [&](int64_t q0, int64_t q1) {
      for (int64_t q = q0; q < q1; ++q) {
        if (has_dots)
          dot_groups(q, q + 1, rows, z.H, h_last, args->w_hh.as<const T>(), z.H, g, ld, g, ld);
        else
          multiply_groups(q, q + 1, hidden_width, rows, z.H, h_last, hidden_panels, g, ld, g, ld);
        cell(s, begin, rows, q, g);
      }
    });
    end_sequences(s + 1, begin, end);
  }

  // The units of group q, from their pre-activations in g.
  void cell(int64_t s, int64_t begin, int64_t rows, int64_t q, S* g) {
    const int64_t unit = q * V::N;
    const int lanes = int(smaller(V::N, z.H - unit));
    S* c_row = c + begin * ldh + unit;
    S* h_row = h[(s + 1) % 2] + begin * ldh + unit;
    g += unit * 4;
    for (int64_t r = 0; r < rows; ++r, g += ld, c_row += ldh, h_row += ldh) {
      const V i = sigmoid(V::load(g)), f = sigmoid(V::load(g + V::N));
      const V n = tanh(V::load(g + 2 * V::N)), o = sigmoid(V::load(g + 3 * V::N));
      const V c_new = fma(f, V::load(c_row), i * n), h_new = o * tanh(c_new);
      c_new.store(c_row);
      h_new.store(h_row);
      if (args->y)
        store_lanes(h_new, row_of<T>(args->y, order.time(s, begin + r), order.batch[begin + r]) + unit,
                    lanes);
      if (args->reserve) {
        i.store(g), f.store(g + V::N), n.store(g + 2 * V::N), o.store(g + 3 * V::N);
        c_new.store(g + columns - 3 * unit);
      }
    }
  }

  void run() {
    prepare();
    const int64_t blocks = ceil_div(z.B, block_sequences(z.H));
    for (int64_t s0 = 0; s0 < z.T && order.count[s0] > 0; s0 += steps) {
      const int64_t s1 = smaller(s0 + steps, z.T);
      low = order.low(s0, s1);
      if (args->reserve) {
        ld = args->reserve.shape[1];
        gates = args->reserve.as<S>() + low * ld;
      }
      project(s0, s1);
      parallel_for(blocks, [&](int64_t block) {
        const int64_t begin = z.B * block / blocks, end = z.B * (block + 1) / blocks;
        for (int64_t s = s0; s < s1 && order.count[s] > begin; ++s)
          step(s, begin, smaller(end, order.count[s]));
      });
    }
  }
};

template <class T>
struct Backward {
  using S = Compute<T>;
  using V = Vec<S>;
  const LstmBackwardArgs* args = nullptr;
  LstmSize z;
  Carver carver;
  static constexpr bool is_narrow = sizeof(T) != sizeof(S);
  int64_t Q = groups_of<S>(z.H), columns = gate_columns<S>(z.H), steps = steps_of_chunk(z.T, z.B);
  int64_t ldh = padded<S>(ceil_div(Q, wide_panel) * wide_panel * V::N), ldg = padded<S>(4 * z.H),
          ldx = padded<S>(z.I);
  int hidden_width = panel_vectors(smaller(z.B, block_sequences(z.H)));

  Order order{carver, z};
  S* hidden_panels = carver.take<S>(4 * z.H * ldh);
  S* h0 = carver.take<S>(z.B * ldh);
  S* c0 = carver.take<S>(z.B * ldh);
  S* dh = carver.take<S>(z.B * ldh);
  S* dc = carver.take<S>(z.B * ldh);
  S* tanh_c = carver.take<S>(z.B * ldh);  // of the step that each place comes to
  // One row per (t, b) of the chunk: gradients of the pre-activations (4H in plain order), h[t-1], x and dx.
  S* dgates = carver.take<S>(steps * z.B * ldg);
  S* h_last = carver.take<S>(steps * z.B * ldh);
  S* x_copy = carver.take<S>(steps * z.B * ldx);
  S* dx_copy = carver.take<S>(steps * z.B * ldx);
  // What bfloat16 needs besides: the weights in float, and sums in float.
  S* w_ih = carver.take<S>(is_narrow ? 4 * z.H * z.I : 0);
  S* dw_ih = carver.take<S>(is_narrow ? 4 * z.H * z.I : 0);
  S* dw_hh = carver.take<S>(is_narrow ? 4 * z.H * z.H : 0);
  S* db = carver.take<S>(is_narrow ? 4 * z.H : 0);
  int64_t low = 0;

  void prepare() {
    order.fill(args->lengths, args->reverse);
    const T* w = args->w_hh.as<const T>();
    const int64_t width = hidden_width * V::N;
    parallel_ranges(
        ceil_div(z.H, width), larger(1, 16384 / larger(4 * z.H * width, 1)), [&](int64_t begin, int64_t end) {
          for (int64_t p = begin; p < end; ++p)
            copy_rows<S>(Matrix<const T>{w + p * width, z.H, 1}, 4 * z.H, smaller(width, z.H - p * width),
                         width, hidden_panels + p * 4 * z.H * width, width);
        });
    load_states<T>(args->h0, order, z.H, h0, ldh);
    load_states<T>(args->c0, order, z.H, c0, ldh);
    load_states<T>(args->dh_n, order, z.H, dh, ldh);
    load_states<T>(args->dc_n, order, z.H, dc, ldh);
    for (int64_t j = 0; j < z.B && order.length[j] > 0; ++j) {
      const int64_t last = order.first[order.length[j] - 1] + j;
      const S* c = args->reserve.as<const S>() + last * args->reserve.shape[1] + columns;
      for (int64_t unit = 0; unit < Q * V::N; unit += V::N)
        tanh(V::load(c + unit)).store(tanh_c + j * ldh + unit);
    }
    if constexpr (is_narrow) {
      for (int64_t e = 0; e < 4 * z.H * z.I; ++e) w_ih[e] = widen(args->w_ih.as<const T>()[e]);
    } else {
      w_ih = args->w_ih.as<S>();
      dw_ih = args->dw_ih.as<S>(), dw_hh = args->dw_hh.as<S>(), db = args->db.as<S>();
    }
    clear(args->dw_ih, dw_ih);
    clear(args->dw_hh, dw_hh);
    clear(args->db, db);
    if (args->dx && args->lengths && !args->adds_to_dx)
      for (int64_t j = 0; j < z.B; ++j)
        for (int64_t t = order.length[j]; t < z.T; ++t)
          __builtin_memset(row_of<T>(args->dx, t, order.batch[j]), 0, size_t(z.I) * sizeof(T));
  }

  static void clear(const View& v, S* sum) {
    if (v) __builtin_memset(sum, 0, size_t(v.size()) * sizeof(S));
  }

  // Step s of the places [begin, end).
  void step(int64_t s, int64_t begin, int64_t end) {
    const int64_t rows = end - begin, row = order.first[s] - low + begin, width = hidden_width * V::N;
    parallel_ranges(Q, larger(1, 8192 / (V::N * rows)), [&](int64_t q0, int64_t q1) {
      for (int64_t q = q0; q < q1; ++q) cell(s, begin, rows, q);
    });
    constexpr S zeros[wide_panel * V::N] = {};
    const int64_t panels = ceil_div(z.H, width);
    parallel_ranges(panels, part_of_step(panels, 4 * z.H * width, rows), [&](int64_t p0, int64_t p1) {
      dispatch_panel(hidden_width, [&](auto constant) {
        constexpr int NV = sizeof(typename decltype(constant)::type) / sizeof(int);
        for (int64_t p = p0; p < p1; ++p)
          multiply_panel<S, NV>(rows, 4 * z.H, dgates + row * ldg, ldg, hidden_panels + p * 4 * z.H * width,
                                zeros, 0, dh + begin * ldh + p * width, ldh);
      });
    });
  }

  // The units of group q: dgates and h[t-1] of their rows, and dc for the step before.
  void cell(int64_t s, int64_t begin, int64_t rows, int64_t q) {
    const int64_t unit = q * V::N, ld = args->reserve.shape[1], H = z.H;
    const int lanes = int(smaller(V::N, H - unit));
    const S* g = args->reserve.as<const S>() + (order.first[s] + begin) * ld + unit * 4;
    // The same units one step before; before the first step there are h0 and c0 only.
    const S* g_last =
        s ? args->reserve.as<const S>() + (order.first[s - 1] + begin) * ld + unit * 4 : nullptr;
    const int64_t to_cell = columns - 3 * unit;
    const V one = V::set1(1);
    for (int64_t r = 0; r < rows; ++r, g += ld) {
      const int64_t place = begin + r, at = place * ldh + unit, row = order.first[s] - low + place;
      V c_last, h_row, tanh_last = V::zero();
      if (s) {
        c_last = V::load(g_last + to_cell);
        tanh_last = tanh(c_last);
        h_row = V::load(g_last + 3 * V::N) * tanh_last;
        g_last += ld;
      } else {
        c_last = V::load(c0 + at);
        h_row = V::load(h0 + at);
      }
      h_row.store(h_last + row * ldh + unit);

      const V i = V::load(g), f = V::load(g + V::N), n = V::load(g + 2 * V::N), o = V::load(g + 3 * V::N);
      const V tanh_now = V::load(tanh_c + at);
      tanh_last.store(tanh_c + at);
      V dh_row = V::load(dh + at), dc_row = V::load(dc + at);
      if (args->dy)
        dh_row = dh_row +
                 V::load(row_of<const T>(args->dy, order.time(s, place), order.batch[place]) + unit, lanes);
      dc_row = fma(dh_row * o, fnma(tanh_now, tanh_now, one), dc_row);
      (dc_row * f).store(dc + at);
      const V d[4] = {dc_row * n * i * (one - i), dc_row * c_last * f * (one - f),
                      dc_row * i * fnma(n, n, one), dh_row * tanh_now * o * (one - o)};
      for (int gate = 0; gate < 4; ++gate) store_lanes(d[gate], dgates + row * ldg + gate * H + unit, lanes);
    }
  }

  static View matrix(const S* data, int64_t rows, int64_t columns, int64_t row_stride,
                     int64_t column_stride) {
    View v{.data = const_cast<S*>(data), .dtype = dtype_of<S>, .ndim = 2};
    v.shape[0] = rows, v.shape[1] = columns;
    v.strides[0] = row_stride, v.strides[1] = column_stride;
    return v;
  }

  // y = a b, or y += a b.
  static void multiply(const View& a, const View& b, const View& y, bool is_sum) {
    GemmArgs g;
    g.a = a, g.b = b, g.y = y;
    if (is_sum) g.c = y, g.beta = 1;
    gemm_kernels.gemm(g);
  }

  // The products over all rows of steps [s0, s1).
  void finish_chunk(int64_t s0, int64_t s1) {
    const int64_t rows = order.rows(s0, s1), H = z.H, I = z.I;
    const View da = matrix(dgates, rows, 4 * H, ldg, 1), da_transposed = matrix(dgates, 4 * H, rows, 1, ldg);
    if (args->dw_ih) {
      const Matrix<const S> x = rows_of_x<T>(args->x, order, bool(args->lengths), s0, s1, x_copy);
      multiply(da_transposed, matrix(x.data, rows, I, x.row_stride, 1), matrix(dw_ih, 4 * H, I, I, 1), true);
    }
    if (args->dw_hh)
      multiply(da_transposed, matrix(h_last, rows, H, ldh, 1), matrix(dw_hh, 4 * H, H, H, 1), true);
    if (args->db)
      parallel_ranges(4 * H, larger(V::N, 16384 / rows / V::N * V::N), [&](int64_t begin, int64_t end) {
        for (int64_t j = begin; j < end; j += V::N) {
          const int lanes = int(smaller(V::N, end - j));
          V sum[2] = {V::zero(), V::zero()};
          for (int64_t r = 0; r < rows; ++r) sum[r % 2] = sum[r % 2] + V::load(dgates + r * ldg + j, lanes);
          store_lanes(V::load(db + j, lanes) + (sum[0] + sum[1]), db + j, lanes);
        }
      });
    if (!args->dx) return;
    const View& dx = args->dx;
    const View w = matrix(w_ih, 4 * H, I, I, 1);
    if (!is_narrow && !args->lengths && dx.strides[0] == z.B * dx.strides[1]) {
      multiply(da, w, matrix(dx.as<S>() + low * dx.strides[1], rows, I, dx.strides[1], 1), args->adds_to_dx);
      return;
    }
    multiply(da, w, matrix(dx_copy, rows, I, ldx, 1), false);
    for (int64_t s = s0; s < s1; ++s)
      for (int64_t j = 0; j < order.count[s]; ++j) {
        const S* from = dx_copy + (order.first[s] - low + j) * ldx;
        T* to = row_of<T>(dx, order.time(s, j), order.batch[j]);
        for (int64_t k = 0; k < I; k += V::N) {
          const int lanes = int(smaller(V::N, I - k));
          V v = V::load(from + k);
          if (args->adds_to_dx) v = v + V::load(to + k, lanes);
          store_lanes(v, to + k, lanes);
        }
      }
  }

  static void round_to(const View& v, const S* sum) {
    if (v)
      for (int64_t e = 0; e < v.size(); ++e) v.as<T>()[e] = narrow<T>(sum[e]);
  }

  void run() {
    prepare();
    const int64_t blocks = ceil_div(z.B, block_sequences(z.H));
    for (int64_t s1 = z.T; s1 > 0; s1 = (s1 - 1) / steps * steps) {
      const int64_t s0 = (s1 - 1) / steps * steps;
      if (order.count[s0] == 0) continue;
      low = order.low(s0, s1);
      parallel_for(blocks, [&](int64_t block) {
        const int64_t begin = z.B * block / blocks, end = z.B * (block + 1) / blocks;
        for (int64_t s = s1 - 1; s >= s0; --s)
          if (order.count[s] > begin) step(s, begin, smaller(end, order.count[s]));
      });
      finish_chunk(s0, s1);
    }
    for (int64_t j = 0; j < z.B; ++j) {
      store_state<T>(args->dh0, order, z.H, dh, ldh, j);
      store_state<T>(args->dc0, order, z.H, dc, ldh, j);
    }
    if constexpr (is_narrow) {
      round_to(args->dw_ih, dw_ih);
      round_to(args->dw_hh, dw_hh);
      round_to(args->db, db);
    }
  }
};

template <class Args>
LstmSize size_of_args(const Args& a) {
  return {a.x.shape[0], a.x.shape[1], a.x.shape[2], a.w_hh.shape[1], a.x.dtype};
}

template <template <class> class Direction, class Args>
void run(const Args& a) {
  const LstmSize z = size_of_args(a);
  dispatch_float(z.dtype, [&](auto t) {
    Direction<typename decltype(t)::type>{&a, z, {static_cast<char*>(a.workspace)}}.run();
  });
}

template <template <class> class Direction>
int64_t workspace(const LstmSize& z) {
  int64_t bytes = 0;
  dispatch_float(z.dtype, [&](auto t) {
    bytes = Direction<typename decltype(t)::type>{nullptr, z, {nullptr}}.carver.used;
  });
  return bytes;
}

int64_t reserve_columns(const LstmSize& z) {
  return z.dtype == Dtype::float64 ? reserve_columns_of<double>(z.H) : reserve_columns_of<float>(z.H);
}

}  // namespace

const LstmKernels lstm_kernels = {run<Forward>, run<Backward>, reserve_columns, workspace<Forward>,
                                  workspace<Backward>};

}  // namespace lamina::LAMINA_ISA
