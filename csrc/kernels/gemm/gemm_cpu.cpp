#include "kernels/gemm/gemm.h"

#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/gemm/amx.h"
#include "kernels/gemm/block.h"
#include "kernels/gemm/epilogue.h"
#include "kernels/gemm/skinny.h"

namespace lamina::LAMINA_ISA {
namespace {

// A panel of B (kc rows) takes half of L1, a block of A (mc x kc) under half of L2, a block of B (kc x nc) a part of L3.
// Tiles of four 512-bit vectors have panels four times as wide, which then live in L2 as well.
constexpr int64_t kc_default = 256;
constexpr int64_t block_a_bytes = 192 << 10, block_b_bytes = 1 << 20;

// Products of up to this many multiply-adds leave B in place: the caches hold it as it is (measured: 1.1 to 1.2 times
// as fast as packed up to 200^3, 0.9 times at 250^3).
constexpr int64_t small_work = 200 * 200 * 200;

// Products narrower than a tile of 16, or with less work than one block of C over two tiles of k, would mostly multiply
// padding and wait for the tile configuration.
constexpr int64_t amx_work = 32 * 32 * 64;

// A chunk is worth handing to another thread from about 5 us.
constexpr double chunk_cycles = 16000;

LAMINA_INLINE GemmTile choose_tile(const GemmProblem& p) {
  const int64_t M = p.M, N = p.N, K = p.K;
  const int64_t lanes = int64_t(sizeof(Vec<float>)) / p.compute_size;
  const bool b_has_rows = p.b_column_stride == 1, b_has_columns = p.b_row_stride == 1;
  const bool b_is_large = K * N * p.element_size > (256 << 10);  // more than half of L2

  // Rows a multiple of 1 KiB apart share cache sets.
  const auto crowds_sets = [&](int64_t stride) { return stride * p.element_size % 1024 == 0; };
  // Measured in cycles: dots lose 6 per element of C to the sums of lanes and 1 % to loads; packing B by its columns
  // costs 1.2 per element.
  const double dots_loss = double(M) * N * (6 + 0.01 * double(K)), pack_cost = 1.2 * double(K) * N;

  GemmTile t{};
  t.kc = kc_default;
  if (p.has_tiles && M >= amx_lines && N >= amx_lines && M * N * K >= amx_work) {
    t.path = GemmPath::amx;
  } else if (b_has_rows && (M == 1 || (M <= rows_max_rows && b_is_large))) {
    t.path = GemmPath::rows;
  } else if (b_has_columns && !b_has_rows && (M == 1 || dots_loss < pack_cost)) {
    t.path = GemmPath::dots;
    t.kc = 4 * kc_default;  // four columns of B and three rows of A in L1
  } else if (b_has_rows && (M * N * K <= small_work || M <= 4 * tile_rows ||
                            (M <= 16 * tile_rows && !crowds_sets(p.b_row_stride)))) {
    t.path = GemmPath::in_place;
  } else {
    t.path = GemmPath::packed;
  }

  const bool is_amx = t.path == GemmPath::amx, packs = is_amx || t.path == GemmPath::packed;
  const int64_t rows = is_amx ? amx_side : tile_rows, columns = is_amx ? amx_side : tile_vectors * lanes;

  // Equal blocks, so that none is a sliver.
  const auto equal = [](int64_t n, int64_t block, int64_t step) {
    return larger(1, round_up(equal_part(n, block), step));
  };
  t.kc = equal(K, t.kc, is_amx ? amx_depth : 8);
  const auto fitting = [&](int64_t n, int64_t bytes, int64_t step) {
    const int64_t each = t.kc * p.compute_size;
    return equal(n, n * each <= bytes ? n : larger(step, bytes / each), step);
  };
  t.mc = fitting(M, block_a_bytes, rows);
  t.nc = fitting(N, block_b_bytes, columns);
  // Columns of A would touch a line for each element.
  const bool a_reads_well = p.a_column_stride == 1 && !crowds_sets(p.a_row_stride);
  t.copy_a = p.element_size != p.compute_size ||
             (t.path == GemmPath::dots ? p.a_column_stride != 1
                                       : t.path == GemmPath::packed && (N > 128 || !a_reads_well));

  const double packs_a = t.copy_a ? double(M) * K : 0, packs_b = packs ? double(K) * N : 0;
  t.cycles = is_amx ? double(M) * N * K / 512 + (packs_a + packs_b) / 2
                    : double(M) * N * K / double(2 * lanes) + packs_a + packs_b;
  t.bytes = (double(M) * K + double(K) * N + double(M) * N) * double(p.element_size) +
            2 * (packs_a + packs_b) * double(is_amx ? p.element_size : p.compute_size);
  const double time =
      larger(int64_t(t.cycles), int64_t(t.bytes / 8)) + 1;  // 8 bytes per cycle from beyond L2

  // Four chunks per thread balance the load. Whole products first; then C is cut so that least is packed
  // twice: each column of chunks packs A anew, each row of chunks packs B anew.
  const int64_t wanted =
      p.threads == 1 ? 1 : larger(1, smaller(4 * p.threads, int64_t(time * double(p.batch) / chunk_cycles)));
  t.chunk_batch = wanted == 1 ? p.batch : ceil_div(p.batch, wanted);
  t.chunk_m = larger(M, 1);
  t.chunk_n = larger(N, 1);
  if (p.batch < wanted) {
    const int64_t cuts = ceil_div(wanted, p.batch);
    double best = -1;
    for (int64_t m_cuts = 1; m_cuts <= cuts; ++m_cuts) {
      const int64_t n_cuts = ceil_div(cuts, m_cuts);
      if (!packs && m_cuts > 1) break;  // few rows: only columns are worth cutting
      const double cost = packs_a * double(n_cuts) + packs_b * double(m_cuts);
      if (best >= 0 && cost >= best) continue;
      best = cost;
      t.chunk_m = equal(M, ceil_div(M, m_cuts), rows);
      t.chunk_n = equal(N, ceil_div(N, n_cuts), columns);
    }
  }
  if (!p.sums_in_y) {  // sums wait in a scratch block of chunk_m x nc: 2 MiB at most, 1 MiB beside packed strips in L2
    const int64_t side = is_amx ? 512 : 768;
    t.chunk_m = smaller(t.chunk_m, equal(t.chunk_m, side, rows));
    t.nc = smaller(t.nc, larger(columns, side / columns * columns));
  }
  return t;
}

// One product of the batch.
template <class T>
struct Product {
  int64_t M, N, K;
  Matrix<T> a, b;
  Epilogue<T> epilogue;
  Start<T> start{};  // of the sums, out of the epilogue
};

// Where the sums of a chunk lie: in y itself, in a scratch block, or, where one block of k is all, in a
// scratch tile.
template <class T>
struct ChunkSink {
  using S = Compute<T>;
  S* base;
  int64_t ld;
  bool is_tile;
  bool is_last;
  const Epilogue<T>* epilogue;  // null where y is complete as it is stored
  int64_t row, column;          // of the block in y

  LAMINA_INLINE S* at(int64_t i, int64_t j) const { return is_tile ? base : base + i * ld + j; }
  LAMINA_INLINE void done(int64_t i, int64_t j, int rows, int cols) const {
    if (is_last && epilogue) finish(*epilogue, {at(i, j), ld, row + i, column + j, rows, cols});
  }
  LAMINA_INLINE ChunkSink shifted(int64_t i, int64_t j) const {
    return {at(i, j), ld, is_tile, is_last, epilogue, row + i, column + j};
  }
};

// A as the path reads it: copied, or where it lies.
template <class T>
LAMINA_INLINE Bands<Compute<T>> bands(const GemmTile& t, Matrix<const T> a, int64_t M, int64_t K) {
  using S = Compute<T>;
  if constexpr (sizeof(T) == sizeof(S))
    if (!t.copy_a) return bands_of(a);
  S* copy = scratch<S>(Scratch::pack_a, packed_a_size<S>(M, K));
  return t.path == GemmPath::dots ? pack_a_rows(a, M, K, copy) : pack_a(a, M, K, copy);
}

// Rows [m0, m1) and columns [n0, n1) of a product.
template <class T>
void run_chunk(const Product<T>& p, const GemmTile& t, int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
  using S = Compute<T>;
  if constexpr (dtype_of<T> == Dtype::bfloat16)
    if (t.path == GemmPath::amx)
      return multiply_amx(m1 - m0, n1 - n0, p.K, p.a.at(m0, 0).readonly(), p.b.at(0, n0).readonly(), t.kc,
                          t.nc, p.epilogue, m0, n0);
  const bool sums_in_y = p.epilogue.holds_sums(), is_stored = sums_in_y && p.epilogue.is_plain();
  const bool is_tile =
      !sums_in_y && p.K <= t.kc && (t.path == GemmPath::packed || t.path == GemmPath::in_place);
  const int64_t M = m1 - m0;
  for (int64_t jc = n0; jc < n1; jc += t.nc) {
    const int64_t N = smaller(t.nc, n1 - jc);
    ChunkSink<T> sink{};
    if (sums_in_y) {
      const Matrix<T> y = p.epilogue.y.at(m0, jc);
      sink.base = reinterpret_cast<S*>(y.data);  // T is S here
      sink.ld = y.row_stride;
    } else {
      sink.ld = is_tile ? tile_columns<S> : ceil_div(N, tile_columns<S>) * tile_columns<S>;
      sink.base = scratch<S>(Scratch::tile, (is_tile ? tile_rows : M) * sink.ld);
      sink.is_tile = is_tile;
    }
    sink.epilogue = is_stored ? nullptr : &p.epilogue;
    sink.row = m0;
    sink.column = jc;

    int64_t pc = 0;
    do {  // once even where K = 0: the sums are then zeros
      const int64_t K = smaller(t.kc, p.K - pc);
      Start<S> start{};
      if (pc > 0)
        start = {sink.base, sink.ld};
      else if constexpr (std::is_same_v<S, T>)
        start = p.start.at(m0, jc);
      sink.is_last = pc + K >= p.K;
      const Matrix<const T> b = p.b.at(pc, jc).readonly();
      if (t.path == GemmPath::packed) {
        S* panels = scratch<S>(Scratch::pack_b, packed_b_size<S>(K, N));
        pack_b(b, K, N, panels);
        for (int64_t i = 0; i < M; i += t.mc) {
          const int64_t rows = smaller(t.mc, M - i);
          multiply_block<S>(rows, N, K, bands(t, p.a.at(m0 + i, pc).readonly(), rows, K), panels,
                            K * tile_columns<S>, tile_columns<S>, start.at(i, 0), sink.shifted(i, 0));
        }
      } else {
        const Bands<S> a = bands(t, p.a.at(m0, pc).readonly(), M, K);
        if (t.path == GemmPath::dots) {
          dot_products(M, N, K, a, b, sink.base, sink.ld, start);
        } else if (t.path == GemmPath::rows) {
          sums_of_rows(M, N, K, Matrix<const S>{a.data, a.row_stride, a.k_stride}, b, sink.base, sink.ld,
                       start);
        } else {
          // Whole vectors of B are read in place, the last columns from a padded panel.
          const int64_t whole = N / Vec<S>::N * Vec<S>::N;
          multiply_block<S>(M, whole, K, a, b.data, tile_columns<S>, b.row_stride, start, sink);
          if (whole < N) {
            S* panel = scratch<S>(Scratch::pack_b, packed_b_size<S>(K, N - whole));
            pack_b(b.at(0, whole), K, N - whole, panel);
            multiply_block<S>(M, N - whole, K, a, panel, 0, tile_columns<S>, start.at(0, whole),
                              sink.shifted(0, whole));
          }
        }
        if (t.path != GemmPath::in_place) sink.done(0, 0, int(M), int(N));
      }
      pc += t.kc;
    } while (pc < p.K);
  }
}

template <class T>
void gemm_typed(const GemmArgs& args) {
  using S = Compute<T>;
  const View &y = args.y, *a = &args.a, *b = &args.b;
  int axes = y.ndim - 2;
  const auto matrix = [axes](const View& v) {
    return v ? Matrix<T>{v.as<T>(), v.strides[axes], v.strides[axes + 1]} : Matrix<T>{};
  };
  Product<T> p{y.shape[axes],
               y.shape[axes + 1],
               a->shape[axes + 1],
               matrix(*a),
               matrix(*b),
               {S(args.alpha), S(args.beta), args.activation, matrix(args.c), matrix(args.bias),
                matrix(args.residual), matrix(y), matrix(args.pre)}};
  const auto for_operands = [&](Product<T>& of, const auto& f) {
    f(*a, of.a);
    f(*b, of.b);
    f(args.c, of.epilogue.c);
    f(args.bias, of.epilogue.bias);
    f(args.residual, of.epilogue.residual);
    f(y, of.epilogue.y);
    f(args.pre, of.epilogue.pre);
  };

  // Innermost batch axes join the rows where B is the same for all of them and the other operands go on in
  // step.
  const auto joins = [&](int axis) {
    bool is_in_step = b->strides[axis] == 0;
    for_operands(p, [&](const View& v, const Matrix<T>& m) {
      if (&m != &p.b && m.data && p.M != 1 && v.strides[axis] != p.M * m.row_stride) is_in_step = false;
    });
    return is_in_step;
  };
  for (; axes > 0 && (y.shape[axes - 1] == 1 || joins(axes - 1)); --axes) {
    if (y.shape[axes - 1] == 1) continue;
    if (p.M == 1)
      for_operands(p, [&](const View& v, Matrix<T>& m) {
        if (&m != &p.b && m.data) m.row_stride = v.strides[axes - 1];
      });
    p.M *= y.shape[axes - 1];
  }
  int64_t batch = 1;
  for (int i = 0; i < axes; ++i) batch *= y.shape[i];
  if (batch * p.M * p.N == 0) return;

  // Register tiles store vectors of columns: a column-major y is better computed as its transpose. One
  // column, or so few that most lanes would idle, is better computed as rows.
  const Matrix<T>& out = p.epilogue.y;
  if (p.M > 1 && (p.N == 1 || (p.N < Vec<S>::N / 2 && p.M > 4 * p.N) ||
                  (out.column_stride != 1 && out.row_stride == 1))) {
    const auto exchange = [](auto& x, auto& y) {
      const auto old = x;
      x = y, y = old;
    };
    for_operands(p, [&](const View&, Matrix<T>& m) { exchange(m.row_stride, m.column_stride); });
    exchange(p.M, p.N);
    exchange(p.a, p.b);
    exchange(a, b);
  }

  const auto product = [&](int64_t index) {
    Product<T> one = p;
    for (int axis = axes - 1; axis >= 0; index /= y.shape[axis--])
      for_operands(one, [&](const View& v, Matrix<T>& m) {
        if (m.data) m.data += index % y.shape[axis] * v.strides[axis];
      });
    one.start = one.epilogue.take_start();
    return one;
  };
  if (batch == 1) p.start = p.epilogue.take_start();
  const bool sums_in_y = batch == 1 ? p.epilogue.holds_sums() : product(0).epilogue.holds_sums();
  const GemmTile t = choose_tile({p.M, p.N, p.K, batch, p.a.row_stride, p.a.column_stride, p.b.row_stride,
                                  p.b.column_stride, sizeof(T), sizeof(S), sums_in_y,
                                  dtype_of<T> == Dtype::bfloat16 && has_tiles(), num_threads()});
  if (batch == 1 && t.chunk_m >= p.M && t.chunk_n >= p.N) return run_chunk(p, t, 0, p.M, 0, p.N);
  const int64_t m_chunks = ceil_div(p.M, t.chunk_m), n_chunks = ceil_div(p.N, t.chunk_n);
  parallel_for(ceil_div(batch, t.chunk_batch) * m_chunks * n_chunks, [&](int64_t chunk) {
    const int64_t m0 = chunk % m_chunks * t.chunk_m, n0 = chunk / m_chunks % n_chunks * t.chunk_n;
    const int64_t m1 = smaller(m0 + t.chunk_m, p.M), n1 = smaller(n0 + t.chunk_n, p.N);
    if (batch == 1) return run_chunk(p, t, m0, m1, n0, n1);
    const int64_t first = chunk / (m_chunks * n_chunks) * t.chunk_batch;
    for (int64_t i = first; i < smaller(first + t.chunk_batch, batch); ++i)
      run_chunk(product(i), t, m0, m1, n0, n1);
  });
}

void gemm(const GemmArgs& args) {
  dispatch_float(args.y.dtype, [&](auto t) { gemm_typed<typename decltype(t)::type>(args); });
}

void epilogue_backward(const EpilogueBackwardArgs& args) {
  dispatch_float(args.dy.dtype, [&](auto t) { epilogue_backward_typed<typename decltype(t)::type>(args); });
}

}  // namespace

const GemmKernels gemm_kernels = {gemm, epilogue_backward, choose_tile};

}  // namespace lamina::LAMINA_ISA
