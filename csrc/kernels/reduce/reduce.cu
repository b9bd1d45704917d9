// Device kernels of reduce.h.
//
//   state[k] = combine over r of step(x[k, r]),   y[k] = result(state[k])
//
// Every reduction is a monoid with a step: sums, products and extrema keep a value; argmax and argmin a value and its
// index, so that any order of combination finds the first extremum.
//
// Plan. A block is a tile of threads (tile.cuh): inner where the last axis of x is reduced, outer where it is kept. Packs
// of V elements, 16 bytes, run along that axis where it is dense: an inner thread folds them into its one state, an
// outer thread has V results.
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

#include "kernels/reduce/axes.h"
#include "kernels/reduce/tile.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int64_t wanted_tiles = 1024;  // some 8 blocks of 256 threads for each of 132 multiprocessors

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

bool is_outer_reduction(const Axes& kept, const Axes& reduced) {
  return kept.size > 1 && kept.x[kept.n - 1] < reduced.x[reduced.n - 1];
}

struct Problem {
  const void* x;
  Axes kept, reduced;
  bool is_aligned;          // packs may be loaded as one
  Tile tile;                // units are packs of V where packs run along them
  int64_t segments, units;  // parts into which r_units are cut, and the size of each
};

Problem make_problem(const void* x, const Axes& kept, const Axes& reduced, int V, bool is_aligned) {
  const bool is_outer = is_outer_reduction(kept, reduced);
  Problem p = {x, kept, reduced, is_aligned, {}, 1, 0};
  p.tile = choose_threads(is_outer, kept.size / (is_outer ? V : 1), reduced.size / (is_outer ? 1 : V));
  const int64_t r_units = p.tile.r_units,
                steps = r_units / p.tile.r_threads;  // a segment is worth 16 of them
  const int64_t most = std::max<int64_t>(wanted_tiles / std::max<int64_t>(p.tile.k_tiles, 1), 1);
  p.units = ceil_div(r_units, std::clamp<int64_t>(steps / 16, 1, most));
  if (r_units > 0) p.segments = ceil_div(r_units, p.units);
  return p;
}

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

// `partial`: the states of all segments, [segment][k]; null if there is only one.
template <class T, int V, class Kind>
__global__ __launch_bounds__(tile_threads, 2) void reduce_kernel(Problem p, Kind kind,
                                                                 const Accumulate<T>* shift, Destination to,
                                                                 typename Kind::State* partial) {
  using S = Accumulate<T>;
  using State = typename Kind::State;
  State* shared = &prim::shared_memory<State>();
  const Tile& tile = p.tile;
  const auto [k_local, r_local] = place_in(tile);
  const auto combine = [&](State a, State b) { return kind.combine(a, b); };
  const int64_t begin = p.units * blockIdx.y;
  const int64_t end = begin + p.units < tile.r_units ? begin + p.units : tile.r_units;
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
      const auto add = [&](auto packs) {  // as many at a time as packs has elements
        constexpr int n = sizeof(packs) / sizeof(packs[0]);
#pragma unroll
        for (int i = 0; i < n; ++i, cursor.advance())
          packs[i] = load_pack<V>(from + cursor.at(), p.is_aligned);
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
      combine_threads(tile, state, shared, combine);
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (is_inside && r_local == 0) store(k + v, state[v]);
    } else {
      State sum[1] = {state[0]};
#pragma unroll
      for (int v = 1; v < V; ++v) sum[0] = kind.combine(sum[0], state[v]);
      combine_threads(tile, sum, shared, combine);
      if (is_inside && r_local == 0) store(k, sum[0]);
    }
  }
}

// Combines the states of the segments.
template <class T, class Kind>
__global__ __launch_bounds__(tile_threads, 2) void combine_kernel(Axes kept, Tile tile, Kind kind,
                                                                  Destination to,
                                                                  const typename Kind::State* partial) {
  using State = typename Kind::State;
  const auto [k_local, r_local] = place_in(tile);
  const auto combine = [&](State a, State b) { return kind.combine(a, b); };
  for (int64_t k_tile = blockIdx.x; k_tile < tile.k_tiles; k_tile += gridDim.x) {
    const int64_t k = k_tile * tile.k_threads + k_local;
    State state[1] = {kind.identity()};
    if (k < kept.size)
      for (int64_t s = r_local; s < tile.r_units; s += tile.r_threads)
        state[0] = combine(state[0], partial[s * kept.size + k]);
    combine_threads(tile, state, &prim::shared_memory<State>(), combine);
    if (k < kept.size && r_local == 0) store_result<T>(to, place_of(kept, k).y, Kind::result(state[0]));
  }
}

template <class T, int V, class Kind>
void run_reduction(const Problem& p, const Kind& kind, const Accumulate<T>* shift, const Destination& to) {
  using State = typename Kind::State;
  constexpr int64_t shared = tile_threads * sizeof(State);
  DeviceScratch<State> partial(p.segments > 1 ? p.segments * p.kept.size : 0);
  Launch segments = p.tile.launch(p.tile.is_outer ? V * shared : shared);
  segments.grid.y = p.segments;
  launch("reduce", reduce_kernel<T, V, Kind>, segments, p, kind, shift, to, partial.data());
  if (p.segments == 1) return;
  const Tile tile = choose_threads(true, p.kept.size, p.segments);
  launch("reduce_segments", combine_kernel<T, Kind>, tile.launch(shared), p.kept, tile, kind, to,
         partial.data());
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
  const Problem p = make_problem(x.data, kept, reduced, V, has_aligned_packs<T>(x.data, kept, reduced, V));
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
    run_reduction<T, 1>(make_problem(a.x.data, kept, reduced, 1, true), Indices<Accumulate<T>>{a.is_max},
                        nullptr, {.y = a.y.data, .dtype = Dtype::int64});
  });
}

// --- running sums ------------------------------------------------------------------------------------------------

constexpr int items = 8;  // neighbours along the axis that a thread owns: a sector of 32 bytes of float

struct Scan {
  const void* x;
  void* y;
  Axes kept;
  int64_t n, x_stride, y_stride;
  bool is_reverse;
  Tile tile;  // r_units: runs of `items` elements
  int64_t segments, segment_length;
};

template <class Wide>
struct ScanShared {
  Wide sums[2][tile_threads];
};

// The running sums of a segment. `totals`: of all segments, [segment][k]; null if there is only one. The first launch
// finds them (`finds_totals`), the second starts each segment from the sum of those before it.
template <class T>
__global__ __launch_bounds__(tile_threads, 2) void cumsum_kernel(Scan p, void* all_totals,
                                                                 bool finds_totals) {
  using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
  using Result = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
  auto& shared = prim::shared_memory<ScanShared<Wide>>();
  Wide* totals = static_cast<Wide*>(all_totals);
  const Tile& tile = p.tile;
  const int t = prim::thread();
  const auto [k_local, r_local] = place_in(tile);
  const int stride = tile.is_outer ? tile.k_threads : 1;  // between the threads of a sequence
  const int last = t + (tile.r_threads - 1 - r_local) * stride;
  const int64_t segment = blockIdx.y, begin = segment * p.segment_length;
  const int64_t end = begin + p.segment_length < p.n ? begin + p.segment_length : p.n;
  for (int64_t k_tile = blockIdx.x; k_tile < tile.k_tiles; k_tile += gridDim.x) {
    const int64_t k = k_tile * tile.k_threads + k_local;
    const bool is_inside = k < p.kept.size;
    const Place at = is_inside ? place_of(p.kept, k) : Place{0, 0};
    const T* x = static_cast<const T*>(p.x) + at.x;
    Result* y = static_cast<Result*>(p.y) + at.y;
    Wide carry = 0;
    if (is_inside && totals && !finds_totals)
      for (int64_t s = 0; s < segment; ++s) carry += totals[s * p.kept.size + k];
    for (int64_t first = begin; first < end; first += tile.r_threads * items) {
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
      for (int reach = 1; reach < tile.r_threads; reach *= 2, side ^= 1) {
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
  p.tile = choose_threads(kept.n > 0 && kept.x[kept.n - 1] < p.x_stride, kept.size, ceil_div(p.n, items));
  const int64_t steps = p.tile.r_units / p.tile.r_threads;  // a segment is worth 4 of them
  const int64_t most = std::max<int64_t>(wanted_tiles / p.tile.k_tiles, 1);
  p.segment_length = ceil_div(p.n, std::clamp<int64_t>(steps / 4, 1, most));
  p.segments = ceil_div(p.n, p.segment_length);
  dispatch_any(a.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
    Launch shape = p.tile.launch(sizeof(ScanShared<Wide>));
    shape.grid.y = p.segments;
    DeviceScratch<Wide> totals(p.segments > 1 ? p.segments * kept.size : 0);
    void* found = totals.data();
    if (found) launch("cumsum_totals", cumsum_kernel<T>, shape, p, found, true);
    launch("cumsum", cumsum_kernel<T>, shape, p, found, false);
  });
}

}  // namespace

const ReduceKernels reduce_kernels = {.reduce = reduce, .arg_reduce = arg_reduce, .cumsum = cumsum};

}  // namespace lamina::LAMINA_DEVICE
