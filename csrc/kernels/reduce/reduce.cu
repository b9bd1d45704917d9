// Device kernels of reduce.h.
//
//   state[k] = combine over r of step(x[k, r]),   y[k] = result(state[k])
//
// Every reduction is a monoid with a step: sums, products and extrema keep a value; argmax and argmin a value and its
// index, so that any order of combination finds the first extremum.
//
// Plan. A block of up to 256 threads owns a tile of k_threads x r_threads (choose_tile): its threads share the R
// elements of each result and combine their states as a binary tree in shared memory. Packs of V = 16 bytes run along
// the last axis of x where it is dense:
//
//   inner (last axis reduced)             outer (last axis kept)
//     k0: r0 r1 r2 r3 | r0 r1 ...           r0: k0 k0 k0 k0 | k1 k1 ...    <- memory
//     k1: r0 r1 ...                         r1: k0 k0 k0 k0 | k1 k1 ...
//   neighbouring threads share a result     a thread has V results, neighbours the next V
//
// Four packs are in flight per thread; their sum is a leaf, so chains of additions are a fourth as long as the run of
// a thread. Where the tiles are fewer than 1024, R is cut into segments: a first launch leaves the states of all
// segments in scratch memory, a second one combines them. Variance runs twice, the second time over squares of
// deviations from the mean. Traffic: x once (variance: twice).
//
// Running sums: threads of a tile own 8 neighbours along the axis each, add them up, scan the sums of the threads
// (Hillis, Steele 1986) and write; a block goes on from where its last tile ended. Where the sequences are few and long
// they are cut into segments whose totals a first launch finds. Traffic: x once or twice, y once.
#include "kernels/reduce/reduce.h"

#include <algorithm>
#include <type_traits>

#include "base/launch.h"
#include "kernels/reduce/axes.h"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int block_threads = 256;
constexpr int64_t wanted_tiles = 1024;  // some 8 blocks of 256 threads for each of 132 multiprocessors
constexpr int64_t grid_limit = 65535;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// The smallest power of two that is at least n, from 1 to `limit`, itself a power of two.
int power_of_two(int64_t n, int64_t limit) {
  int64_t power = 1;
  while (power < n && power < limit) power *= 2;
  return int(power);
}

template <class T>
using Accumulate = std::conditional_t<is_floating(dtype_of<T>), Compute<T>, int64_t>;

// Where element i of the flattened axes lies, in x and in y.
struct Place {
  int64_t x, y;
};
template <class Index>
LAMINA_PRIM Place place_by(const Axes& axes, Index i) {
  Place at = {0, 0};
#pragma unroll 1
  for (int d = axes.n - 1; d >= 0; --d) {
    const Index extent = Index(axes.shape[d]), rest = i / extent, in_axis = i - rest * extent;
    at.x += int64_t(in_axis) * axes.x[d];
    at.y += int64_t(in_axis) * axes.y[d];
    i = rest;
  }
  return at;
}
LAMINA_PRIM Place place_of(const Axes& axes, int64_t i) {
  if (axes.n == 1) return {i * axes.x[0], i * axes.y[0]};
  return axes.size <= INT32_MAX ? place_by(axes, uint32_t(i))
                                : place_by(axes, i);  // short divisions are fast
}

// A place in x that moves on by `step` elements of the flattened axes without divisions, but where there are more than
// two axes.
struct Cursor {
  const Axes& axes;
  int64_t row, column;  // of the axes seen as rows of their last one
  int64_t row_step, column_step, row_at;

  LAMINA_PRIM Cursor(const Axes& axes, int64_t first, int64_t step) : axes(axes) {
    const int64_t run = axes.shape[axes.n - 1];
    row = column = row_step = column_step = row_at = 0;
    if (axes.n == 1) {
      column = first;
      column_step = step;
    } else if (run > 0) {
      row = first / run;
      column = first - row * run;
      row_step = step / run;
      column_step = step - row_step * run;
      find_row();
    }
  }
  LAMINA_PRIM void find_row() {
    row_at = row * axes.x[axes.n - 2];
    if (axes.n == 2) return;
    row_at = 0;
    int64_t rest = row;
#pragma unroll 1
    for (int d = axes.n - 2; d >= 0; --d) {
      row_at += rest % axes.shape[d] * axes.x[d];
      rest /= axes.shape[d];
    }
  }
  LAMINA_PRIM int64_t at() const { return row_at + column * axes.x[axes.n - 1]; }
  LAMINA_PRIM void advance() {
    column += column_step;
    if (axes.n == 1) return;
    row += row_step;
    const int64_t run = axes.shape[axes.n - 1];
    const bool is_beyond = column >= run;
    if (is_beyond) column -= run, ++row;
    if (is_beyond || row_step > 0) find_row();
  }
};

// --- monoids -----------------------------------------------------------------------------------------------------

template <class S>
struct Sum {
  static LAMINA_PRIM S identity() { return S(0); }
  static LAMINA_PRIM S step(S sum, S x, S) { return sum + x; }
  static LAMINA_PRIM S combine(S a, S b) { return a + b; }
};
template <class S>
struct Squares : Sum<S> {
  static LAMINA_PRIM S step(S sum, S x, S shift) { return sum + (x - shift) * (x - shift); }
};
template <class S>
struct Product {
  static LAMINA_PRIM S identity() { return S(1); }
  static LAMINA_PRIM S step(S product, S x, S) { return product * x; }
  static LAMINA_PRIM S combine(S a, S b) { return a * b; }
};
template <class S>
struct Max {
  static LAMINA_PRIM S identity() { return prim::lowest<S>(); }
  static LAMINA_PRIM S step(S most, S x, S) { return prim::max(most, x); }
  static LAMINA_PRIM S combine(S a, S b) { return prim::max(a, b); }
};
template <class S>
struct Min {
  static LAMINA_PRIM S identity() { return prim::highest<S>(); }
  static LAMINA_PRIM S step(S least, S x, S) { return prim::min(least, x); }
  static LAMINA_PRIM S combine(S a, S b) { return prim::min(a, b); }
};
template <class S>
struct Any : Max<S> {
  static LAMINA_PRIM S identity() { return S(0); }
  static LAMINA_PRIM S step(S is_any, S x, S) { return x != S(0) ? S(1) : is_any; }
};
template <class S>
struct All : Min<S> {
  static LAMINA_PRIM S identity() { return S(1); }
  static LAMINA_PRIM S step(S are_all, S x, S) { return x != S(0) ? are_all : S(0); }
};

enum class Monoid : uint8_t { sum, squares, product, max, min, any, all };

// A reduction to values: State is S. The monoid is chosen once per leaf, not per kernel: one loop serves all of them.
template <class S>
struct Values {
  using State = S;
  Monoid monoid;

  template <class F>
  LAMINA_PRIM void with(F f) const {
    switch (monoid) {
      case Monoid::sum:
        return f(Sum<S>{});
      case Monoid::squares:
        return f(Squares<S>{});
      case Monoid::product:
        return f(Product<S>{});
      case Monoid::max:
        return f(Max<S>{});
      case Monoid::min:
        return f(Min<S>{});
      case Monoid::any:
        return f(Any<S>{});
      case Monoid::all:
        return f(All<S>{});
    }
  }
  LAMINA_PRIM S identity() const {
    S e{};
    with([&]<class M>(M) { e = M::identity(); });
    return e;
  }
  LAMINA_PRIM S combine(S a, S b) const {
    with([&]<class M>(M) { a = M::combine(a, b); });
    return a;
  }
  // state[v] = combine(state[v], leaf of x[0 ... n][v]).
  template <int V, int n>
  LAMINA_PRIM void add(S (&state)[V], const S (&x)[n][V], const S (&shift)[V], int64_t, int64_t, bool) const {
    with([&]<class M>(M) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        S leaf = M::identity();
#pragma unroll
        for (int i = 0; i < n; ++i) leaf = M::step(leaf, x[i][v], shift[v]);
        state[v] = M::combine(state[v], leaf);
      }
    });
  }
  static LAMINA_PRIM S result(S a) { return a; }
};

template <class S>
struct Candidate {
  S value;
  int64_t index;
};
// argmax and argmin: the better value; NaN is better than any other; of equals the first.
template <class S>
struct Indices {
  using State = Candidate<S>;
  bool is_max;

  LAMINA_PRIM State identity() const { return {is_max ? prim::lowest<S>() : prim::highest<S>(), INT64_MAX}; }
  LAMINA_PRIM State combine(State a, State b) const {
    const bool a_is_nan = prim::is_nan(a.value), b_is_nan = prim::is_nan(b.value);
    if (a_is_nan != b_is_nan) return a_is_nan ? a : b;
    if (a.value == b.value || a_is_nan) return a.index < b.index ? a : b;
    return (is_max ? a.value > b.value : a.value < b.value) ? a : b;
  }
  // Element x[i][v] has index first + i * step, and + v where packs run along the reduced axis.
  template <int V, int n>
  LAMINA_PRIM void add(State (&state)[V], const S (&x)[n][V], const S (&)[V], int64_t first, int64_t step,
                       bool is_outer) const {
#pragma unroll
    for (int i = 0; i < n; ++i)
#pragma unroll
      for (int v = 0; v < V; ++v)
        state[v] = combine(state[v], {x[i][v], first + i * step + (is_outer ? 0 : v)});
  }
  static LAMINA_PRIM int64_t result(State a) { return a.index; }
};

// --- reductions --------------------------------------------------------------------------------------------------

struct Tile {
  bool is_outer;              // the last axis of x is kept
  int vector;                 // elements that a thread loads at once, of the last axis
  int k_threads, r_threads;   // of a block; powers of two
  int64_t k_units, r_units;   // results and reduced elements, in packs where packs run along them
  int64_t k_tiles, segments;  // blocks that share the results, and the elements of each
  int64_t segment_units;      // of r_units
};

bool is_outer_reduction(const Axes& kept, const Axes& reduced) {
  return kept.size > 1 && kept.x[kept.n - 1] < reduced.x[reduced.n - 1];
}

Tile choose_tile(const Axes& kept, const Axes& reduced, int vector) {
  Tile t;
  t.is_outer = is_outer_reduction(kept, reduced);
  t.vector = vector;
  t.k_units = t.is_outer ? kept.size / vector : kept.size;
  t.r_units = t.is_outer ? reduced.size : reduced.size / vector;
  const int64_t r_wanted = ceil_div(t.r_units, 4);  // 4 loads are in flight per thread
  if (t.is_outer) {
    t.k_threads = power_of_two(t.k_units, 32);
    t.r_threads = power_of_two(r_wanted, block_threads / t.k_threads);
  } else {
    t.r_threads = power_of_two(r_wanted, block_threads);
    t.k_threads = power_of_two(t.k_units, block_threads / t.r_threads);
  }
  t.k_tiles = ceil_div(t.k_units, t.k_threads);
  const int64_t steps = t.r_units / t.r_threads;  // a segment is worth 16 of them
  const int64_t wanted = std::clamp<int64_t>(wanted_tiles / std::max<int64_t>(t.k_tiles, 1), 1,
                                             std::max<int64_t>(steps / 16, 1));
  t.segment_units = ceil_div(t.r_units, wanted);
  t.segments = t.r_units > 0 ? ceil_div(t.r_units, t.segment_units) : 1;
  return t;
}

struct Problem {
  const void* x;
  Axes kept, reduced;
  Tile tile;
  bool is_aligned;  // packs may be loaded as one
};

// Where results go: into an array, or as states of segments into scratch memory.
struct Destination {
  void* y;
  Dtype dtype;
  double divisor = 1;  // of floating results
  bool is_root = false;
};

template <class T, class R>
LAMINA_PRIM void store_result(const Destination& to, int64_t at, R value) {
  if constexpr (is_floating(dtype_of<R>)) {
    value = value / R(to.divisor);
    if (to.is_root) value = prim::sqrt(value);
  }
  if (to.dtype == dtype_of<R>)
    static_cast<R*>(to.y)[at] = value;
  else if (to.dtype == Dtype::boolean)
    static_cast<bool*>(to.y)[at] = value != R(0);
  else if constexpr (is_floating(dtype_of<T>))
    static_cast<T*>(to.y)[at] = prim::narrow<T>(Compute<T>(value));
  else
    static_cast<T*>(to.y)[at] = T(value);
}

// Combines the states of the r_threads threads that lie `stride` apart, into that of the first.
template <int V, class Kind>
LAMINA_PRIM void combine_threads(const Kind& kind, typename Kind::State (&state)[V],
                                 typename Kind::State* shared, int r, int r_threads, int stride) {
  if (r_threads == 1) return;
  const int t = prim::thread();
#pragma unroll
  for (int v = 0; v < V; ++v) shared[v * block_threads + t] = state[v];
  for (int half = r_threads / 2; half > 0; half /= 2) {
    prim::block_sync();  // the states of the upper half
    if (r >= half) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = kind.combine(state[v], shared[v * block_threads + t + half * stride]);
      shared[v * block_threads + t] = state[v];
    }
  }
  prim::block_sync();  // before the next tile writes
}

// `partial`: the states of all segments, [segment][k]; null if there is only one.
template <class T, int V, class Kind>
__global__ __launch_bounds__(block_threads, 2) void reduce_kernel(Problem p, Kind kind,
                                                                  const Accumulate<T>* shift, Destination to,
                                                                  typename Kind::State* partial) {
  using S = Accumulate<T>;
  using State = typename Kind::State;
  State* shared = &prim::shared_memory<State>();
  const Tile& tile = p.tile;
  const int t = prim::thread();
  const int k_local = tile.is_outer ? t % tile.k_threads : t / tile.r_threads;
  const int r_local = tile.is_outer ? t / tile.k_threads : t % tile.r_threads;
  const int64_t begin = tile.segment_units * blockIdx.y;
  const int64_t end = begin + tile.segment_units < tile.r_units ? begin + tile.segment_units : tile.r_units;
  const int k_step = tile.is_outer ? V : 1, r_step = tile.is_outer ? 1 : V;

  for (int64_t k_tile = blockIdx.x; k_tile < tile.k_tiles; k_tile += gridDim.x) {
    const int64_t unit = k_tile * tile.k_threads + k_local, k = unit * k_step;
    const bool is_inside = unit < tile.k_units;
    State state[V];
#pragma unroll
    for (int v = 0; v < V; ++v) state[v] = kind.identity();
    if (is_inside) {
      const T* from = static_cast<const T*>(p.x) + place_of(p.kept, k).x;
      S centre[V];
#pragma unroll
      for (int v = 0; v < V; ++v) centre[v] = shift ? shift[tile.is_outer ? k + v : k] : S(0);
      int64_t r = begin + r_local;
      Cursor cursor(p.reduced, r * r_step, tile.r_threads * r_step);
      const auto load = [&](int64_t at) {
        if (p.is_aligned) return prim::load_vector<V>(from + at);
        prim::Pack<T, V> pack;
#pragma unroll
        for (int v = 0; v < V; ++v) pack[v] = from[at + v];
        return pack;
      };
      const auto add = [&](auto packs) {  // as many at a time as packs has elements
        constexpr int n = sizeof(packs) / sizeof(packs[0]);
#pragma unroll
        for (int i = 0; i < n; ++i, cursor.advance()) packs[i] = load(cursor.at());
        S x[n][V];
#pragma unroll
        for (int i = 0; i < n; ++i)
#pragma unroll
          for (int v = 0; v < V; ++v) x[i][v] = S(prim::widen(packs[i][v]));
        kind.add(state, x, centre, r * r_step, tile.r_threads * r_step, tile.is_outer);
        r += n * tile.r_threads;
      };
      while (r + 3 * tile.r_threads < end) add(prim::Pack<prim::Pack<T, V>, 4>{});
      while (r < end) add(prim::Pack<prim::Pack<T, V>, 1>{});
    }
    const auto store = [&](int64_t at, State s) {
      if (partial)
        partial[blockIdx.y * p.kept.size + at] = s;
      else
        store_result<T>(to, place_of(p.kept, at).y, Kind::result(s));
    };
    if (tile.is_outer) {
      combine_threads(kind, state, shared, r_local, tile.r_threads, tile.k_threads);
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (is_inside && r_local == 0) store(k + v, state[v]);
    } else {
      State sum[1] = {state[0]};
#pragma unroll
      for (int v = 1; v < V; ++v) sum[0] = kind.combine(sum[0], state[v]);
      combine_threads(kind, sum, shared, r_local, tile.r_threads, 1);
      if (is_inside && r_local == 0) store(k, sum[0]);
    }
  }
}

// Combines the states of the segments. A block has k_threads results.
template <class T, class Kind>
__global__ __launch_bounds__(block_threads, 2) void combine_kernel(Axes kept, int64_t segments, int k_threads,
                                                                   Kind kind, Destination to,
                                                                   const typename Kind::State* partial) {
  using State = typename Kind::State;
  State* shared = &prim::shared_memory<State>();
  const int k_local = prim::thread() % k_threads, r_local = prim::thread() / k_threads;
  const int r_threads = prim::threads() / k_threads;
  for (int64_t first = int64_t(blockIdx.x) * k_threads; first < kept.size;
       first += int64_t(gridDim.x) * k_threads) {
    const int64_t k = first + k_local;
    State state[1] = {kind.identity()};
    if (k < kept.size)
      for (int64_t s = r_local; s < segments; s += r_threads)
        state[0] = kind.combine(state[0], partial[s * kept.size + k]);
    combine_threads(kind, state, shared, r_local, r_threads, k_threads);
    if (k < kept.size && r_local == 0) store_result<T>(to, place_of(kept, k).y, Kind::result(state[0]));
  }
}

template <class T, int V, class Kind>
void run_reduction(const Problem& p, const Kind& kind, const Accumulate<T>* shift, const Destination& to) {
  using State = typename Kind::State;
  const Tile& tile = p.tile;
  DeviceScratch<State> partial(tile.segments > 1 ? tile.segments * p.kept.size : 0);
  launch("reduce", reduce_kernel<T, V, Kind>,
         {.grid = {std::min(tile.k_tiles, grid_limit), tile.segments},
          .block = {tile.k_threads * tile.r_threads},
          .shared = int64_t(block_threads * (tile.is_outer ? V : 1) * sizeof(State))},
         p, kind, shift, to, partial.data());
  if (tile.segments == 1) return;
  const int k_threads = power_of_two(p.kept.size, 32);
  const int r_threads = power_of_two(tile.segments, block_threads / k_threads);
  launch("reduce_segments", combine_kernel<T, Kind>,
         {.grid = {std::min(ceil_div(p.kept.size, k_threads), grid_limit)},
          .block = {k_threads * r_threads},
          .shared = int64_t(block_threads * sizeof(State))},
         p.kept, tile.segments, k_threads, kind, to, partial.data());
}

// Elements in a pack along the last axis of x. It depends on shape and strides only, as the order of additions does.
template <class T>
int vector_along(const Axes& kept, const Axes& reduced) {
  const Axes& along = is_outer_reduction(kept, reduced) ? kept : reduced;
  const int V = is_floating(dtype_of<T>) ? prim::vector_of<T> : 1;
  return along.x[along.n - 1] == 1 && along.shape[along.n - 1] % V == 0 ? V : 1;
}

// True iff all packs lie on multiples of their size.
template <class T>
bool has_aligned_packs(const void* x, const Axes& kept, const Axes& reduced, int V) {
  const Axes& along = is_outer_reduction(kept, reduced) ? kept : reduced;
  bool is_aligned = prim::is_aligned(static_cast<const T*>(x), V * int64_t(sizeof(T)));
  for (const Axes* axes : {&kept, &reduced})
    for (int d = 0; d < axes->n; ++d)
      is_aligned &= (axes == &along && d == axes->n - 1) || axes->x[d] % V == 0;
  return is_aligned;
}

template <class T>
void reduce_to(const View& x, const Axes& kept, const Axes& reduced, Monoid monoid,
               const Accumulate<T>* shift, const Destination& to) {
  const Values<Accumulate<T>> kind = {monoid};
  const int V = vector_along<T>(kept, reduced);
  const Problem p = {.x = x.data,
                     .kept = kept,
                     .reduced = reduced,
                     .tile = choose_tile(kept, reduced, V),
                     .is_aligned = has_aligned_packs<T>(x.data, kept, reduced, V)};
  if constexpr (is_floating(dtype_of<T>))
    if (V > 1) return run_reduction<T, prim::vector_of<T>>(p, kind, shift, to);
  run_reduction<T, 1>(p, kind, shift, to);
}

template <class T>
void variance(const ReduceArgs& a, const Axes& kept, const Axes& reduced) {
  using S = Accumulate<T>;
  const double R = double(reduced.size);
  DeviceScratch<S> means(kept.size);
  Axes dense = kept;  // the means lie in the order of the kept axes
  for (int64_t d = dense.n - 1, stride = 1; d >= 0; stride *= dense.shape[d--]) dense.y[d] = stride;
  reduce_to<T>(a.x, dense, reduced, Monoid::sum, nullptr, {.y = means, .dtype = dtype_of<S>, .divisor = R});
  reduce_to<T>(a.x, kept, reduced, Monoid::squares, means,
               {.y = a.y.data, .dtype = a.y.dtype, .divisor = std::max(R - a.ddof, 0.0)});
}

void reduce(const ReduceArgs& a) {
  Axes kept, reduced;
  split_axes(a.x, a.y, kept, reduced);
  dispatch_any(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto run = [&](Monoid monoid, double divisor = 1, bool is_root = false) {
      reduce_to<T>(a.x, kept, reduced, monoid, nullptr, {a.y.data, a.y.dtype, divisor, is_root});
    };
    switch (a.op) {
      case Reduction::sum:
        return run(Monoid::sum);
      case Reduction::mean:
        return run(Monoid::sum, double(reduced.size));
      case Reduction::prod:
        return run(Monoid::product);
      case Reduction::max:
        return run(Monoid::max);
      case Reduction::min:
        return run(Monoid::min);
      case Reduction::any:
        return run(Monoid::any);
      case Reduction::all:
        return run(Monoid::all);
      case Reduction::norm:
        return run(Monoid::squares, 1, true);
      case Reduction::variance:
        if constexpr (is_floating(dtype_of<T>)) variance<T>(a, kept, reduced);
    }
  });
}

void arg_reduce(const ArgReduceArgs& a) {
  Axes kept = axes_beside(a.x, a.y, a.axis), reduced;
  if (kept.n == 0) kept.insert(1, 0, 0);
  reduced.insert(a.x.shape[a.axis], a.x.strides[a.axis], 0);
  dispatch_any(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    run_reduction<T, 1>({a.x.data, kept, reduced, choose_tile(kept, reduced, 1), true},
                        Indices<Accumulate<T>>{a.is_max}, nullptr, {.y = a.y.data, .dtype = Dtype::int64});
  });
}

// --- running sums ------------------------------------------------------------------------------------------------

constexpr int items = 8;  // neighbours along the axis that a thread owns: a sector of 32 bytes of float

struct Scan {
  const void* x;
  void* y;
  Axes kept;
  int64_t n, x_stride, y_stride;
  bool is_reverse, is_outer;  // outer: neighbouring threads have neighbouring sequences
  int k_threads, r_threads;
  int64_t k_tiles, segments, segment_length;
};

template <class Wide>
struct ScanShared {
  Wide sums[2][block_threads];
};

// The running sums of a segment. `totals`: of all segments, [segment][k]; null if there is only one. The first launch
// finds them (`finds_totals`), the second starts each segment from the sum of those before it.
template <class T>
__global__ __launch_bounds__(block_threads, 2) void cumsum_kernel(Scan p, void* all_totals,
                                                                  bool finds_totals) {
  using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
  using Result = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
  auto& shared = prim::shared_memory<ScanShared<Wide>>();
  Wide* totals = static_cast<Wide*>(all_totals);
  const int t = prim::thread();
  const int k_local = p.is_outer ? t % p.k_threads : t / p.r_threads;
  const int r_local = p.is_outer ? t / p.k_threads : t % p.r_threads;
  const int stride = p.is_outer ? p.k_threads : 1;  // between the threads of a sequence
  const int last = t + (p.r_threads - 1 - r_local) * stride;
  const int64_t segment = blockIdx.y, begin = segment * p.segment_length;
  const int64_t end = begin + p.segment_length < p.n ? begin + p.segment_length : p.n;
  for (int64_t k_tile = blockIdx.x; k_tile < p.k_tiles; k_tile += gridDim.x) {
    const int64_t k = k_tile * p.k_threads + k_local;
    const bool is_inside = k < p.kept.size;
    const Place at = is_inside ? place_of(p.kept, k) : Place{0, 0};
    const T* x = static_cast<const T*>(p.x) + at.x;
    Result* y = static_cast<Result*>(p.y) + at.y;
    Wide carry = 0;
    if (is_inside && totals && !finds_totals)
      for (int64_t s = 0; s < segment; ++s) carry += totals[s * p.kept.size + k];
    for (int64_t first = begin; first < end; first += p.r_threads * items) {
      const int64_t own = first + r_local * items;
      const auto index = [&](int64_t i) { return p.is_reverse ? p.n - 1 - i : i; };
      Wide running[items], sum = 0;
#pragma unroll
      for (int i = 0; i < items; ++i) {
        if (is_inside && own + i < end) sum += Wide(prim::widen(x[index(own + i) * p.x_stride]));
        running[i] = sum;
      }
      // The sums up to each thread, doubling the reach; `sum` becomes what this thread sees.
      int side = 0;
      for (int reach = 1; reach < p.r_threads; reach *= 2, side ^= 1) {
        shared.sums[side][t] = sum;
        prim::block_sync();  // all sums are there; the other side is free again after the next one
        if (r_local >= reach) sum += shared.sums[side][t - reach * stride];
      }
      shared.sums[side][t] = sum;
      prim::block_sync();
      const Wide before = carry + (r_local > 0 ? shared.sums[side][t - stride] : Wide(0));
      carry += shared.sums[side][last];
      prim::block_sync();  // the sums are read before they are overwritten
#pragma unroll
      for (int i = 0; i < items; ++i) {
        if (finds_totals || !is_inside || own + i >= end) continue;
        const Wide value = before + running[i];
        Result& result = y[index(own + i) * p.y_stride];
        if constexpr (is_floating(dtype_of<T>))
          result = prim::narrow<T>(Compute<T>(value));
        else
          result = value;
      }
    }
    if (finds_totals && is_inside && r_local == 0) totals[segment * p.kept.size + k] = carry;
  }
}

void cumsum(const CumsumArgs& a) {
  if (a.x.size() == 0) return;
  Scan p{};
  p.x = a.x.data, p.y = a.y.data;
  p.kept = axes_beside(a.x, a.y, a.axis);
  p.n = a.x.shape[a.axis], p.x_stride = a.x.strides[a.axis], p.y_stride = a.y.strides[a.axis];
  p.is_reverse = a.is_reverse;
  const Axes& kept = p.kept;
  p.is_outer = kept.n > 0 && kept.x[kept.n - 1] < p.x_stride;
  p.k_threads = p.is_outer ? power_of_two(kept.size, 32) : 1;
  p.r_threads = power_of_two(ceil_div(p.n, items), block_threads / p.k_threads);
  if (!p.is_outer) p.k_threads = power_of_two(kept.size, block_threads / p.r_threads);
  p.k_tiles = ceil_div(kept.size, p.k_threads);
  const int64_t steps = p.n / (p.r_threads * items);
  const int64_t wanted = std::clamp<int64_t>(wanted_tiles / p.k_tiles, 1, std::max<int64_t>(steps / 4, 1));
  p.segment_length = ceil_div(p.n, wanted);
  p.segments = ceil_div(p.n, p.segment_length);
  dispatch_any(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
    const Launch shape = {.grid = {std::min(p.k_tiles, grid_limit), p.segments},
                          .block = {p.k_threads * p.r_threads},
                          .shared = sizeof(ScanShared<Wide>)};
    DeviceScratch<Wide> totals(p.segments > 1 ? p.segments * kept.size : 0);
    void* found = totals.data();
    if (found) launch("cumsum_totals", cumsum_kernel<T>, shape, p, found, true);
    launch("cumsum", cumsum_kernel<T>, shape, p, found, false);
  });
}

}  // namespace

const ReduceKernels reduce_kernels = {.reduce = reduce, .arg_reduce = arg_reduce, .cumsum = cumsum};

}  // namespace lamina::LAMINA_DEVICE
