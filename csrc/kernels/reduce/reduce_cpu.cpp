#include "kernels/reduce/reduce.h"

#include <initializer_list>

#include "base/integer.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/elementwise/convert.h"
#include "kernels/reduce/axes.h"
#include "simd/lane.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t block =
    1024;  // elements of a leaf along a run, columns of a leaf of rows, results of a task
constexpr int64_t leaf_rows = 64;    // 16 groups of 4
constexpr int64_t task = 64 * 1024;  // elements of x that are worth a hand-over to another thread
constexpr int64_t max_segments = 64;
constexpr int64_t folded_columns =
    256;  // of narrow rows side by side: the addresses of 4 rows cost as much as 64 sums

template <class S>
struct VectorOf {
  using type = Vec<S>;
};
template <>
struct VectorOf<int64_t> {
  using type = Lane<int64_t>;
};

template <class S>
constexpr S lowest() {
  if constexpr (is_floating(dtype_of<S>))
    return -__builtin_inf();
  else
    return S(int64_t(1) << 63);
}
template <class S>
constexpr S highest() {
  if constexpr (is_floating(dtype_of<S>))
    return __builtin_inf();
  else
    return ~lowest<S>();
}

// Monoids: the identity, one step of the accumulation of x (shift: see Squares), the sum of two accumulators, and of the
// lanes of one.
struct Sum {
  template <class S>
  static constexpr S identity() {
    return 0;
  }
  template <class V>
  LAMINA_INLINE static V step(V sum, V x, V) {
    return sum + x;
  }
  template <class V>
  LAMINA_INLINE static V combine(V a, V b) {
    return a + b;
  }
  template <class V>
  LAMINA_INLINE static auto fold(V a) {
    return reduce_add(a);
  }
};
struct Squares : Sum {
  template <class V>
  LAMINA_INLINE static V step(V sum, V x, V shift) {
    const V d = x - shift;
    return sum + d * d;
  }
};
struct Prod {
  template <class S>
  static constexpr S identity() {
    return 1;
  }
  template <class V>
  LAMINA_INLINE static V step(V product, V x, V) {
    return product * x;
  }
  template <class V>
  LAMINA_INLINE static V combine(V a, V b) {
    return a * b;
  }
  template <class V>
  LAMINA_INLINE static auto fold(V a) {
    decltype(reduce_add(a)) lanes[V::N], product = 1;
    a.store(lanes);
    for (auto lane : lanes) product *= lane;
    return product;
  }
};
struct Max {
  template <class S>
  static constexpr S identity() {
    return lowest<S>();
  }
  template <class V>
  LAMINA_INLINE static V step(V most, V x, V) {
    return max(most, x);
  }
  template <class V>
  LAMINA_INLINE static V combine(V a, V b) {
    return max(a, b);
  }
  template <class V>
  LAMINA_INLINE static auto fold(V a) {
    return reduce_max(a);
  }
};
struct Min {
  template <class S>
  static constexpr S identity() {
    return highest<S>();
  }
  template <class V>
  LAMINA_INLINE static V step(V least, V x, V) {
    return min(least, x);
  }
  template <class V>
  LAMINA_INLINE static V combine(V a, V b) {
    return min(a, b);
  }
  template <class V>
  LAMINA_INLINE static auto fold(V a) {
    return reduce_min(a);
  }
};
struct Any : Max {
  template <class S>
  static constexpr S identity() {
    return 0;
  }
  template <class V>
  LAMINA_INLINE static V step(V is_any, V x, V) {
    return select(ne(x, V::zero()), V::set1(1), is_any);
  }
};
struct All : Min {
  template <class S>
  static constexpr S identity() {
    return 1;
  }
  template <class V>
  LAMINA_INLINE static V step(V are_all, V x, V) {
    return select(ne(x, V::zero()), are_all, V::zero());
  }
};

// --- leaves ------------------------------------------------------------------------------------------------------

// 4 accumulators hide the latency of an addition (4 cycles at one addition per load and cycle).
template <class M, class S, class V>
LAMINA_INLINE V leaf_of_run(const S* x, int64_t n, S shift_value) {
  const V shift = V::set1(shift_value);
  V a[4];
  for (V& v : a) v = V::set1(M::template identity<S>());
  int64_t i = 0;
  for (; i + 4 * V::N <= n; i += 4 * V::N)
    for (int j = 0; j < 4; ++j) a[j] = M::step(a[j], V::load(x + i + j * V::N), shift);
  for (; i + V::N <= n; i += V::N) a[0] = M::step(a[0], V::load(x + i), shift);
  if constexpr (V::N > 1) {
    const int tail = int(n - i);
    if (tail > 0) a[1] = select(V::first(tail), M::step(a[1], V::load(x + i, tail), shift), a[1]);
  }
  return M::combine(M::combine(a[0], a[1]), M::combine(a[2], a[3]));
}

// sums[c] = step(sums[c], x[0][c]) ... step(sums[c], x[rows - 1][c]).
template <class M, class S, int rows>
LAMINA_INLINE void add_few_rows(S* sums, const S* const* x, int64_t n, const S* shift) {
  using V = typename VectorOf<S>::type;
  const S* row[rows];  // in registers
  for (int r = 0; r < rows; ++r) row[r] = x[r];
  const auto columns = [&](auto load, int64_t c) __attribute__((always_inline)) {
    V sum = load(sums + c);
    const V s = load(shift + c);
    for (int r = 0; r < rows; ++r) sum = M::step(sum, load(row[r] + c), s);
    return sum;
  };
  int64_t c = 0;
  for (; c + V::N <= n; c += V::N)
    columns([](const S* at) __attribute__((always_inline)) { return V::load(at); }, c).store(sums + c);
  if constexpr (V::N > 1) {
    const int tail = int(n - c);
    if (tail > 0)
      columns([&](const S* at) __attribute__((always_inline)) { return V::load(at, tail); }, c)
          .store(sums + c, tail);
  }
}
template <class M, class S>
void add_rows(S* sums, const S* const* x, int64_t rows, int64_t n, const S* shift) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) add_few_rows<M, S, 4>(sums, x + r, n, shift);
  for (; r < rows; ++r) add_few_rows<M, S, 1>(sums, x + r, n, shift);
}

template <class M, class S>
void combine_rows(S* sums, const S* others, int64_t n) {
  using V = typename VectorOf<S>::type;
  int64_t c = 0;
  for (; c + V::N <= n; c += V::N) M::combine(V::load(sums + c), V::load(others + c)).store(sums + c);
  if constexpr (V::N > 1) {
    const int tail = int(n - c);
    if (tail > 0) M::combine(V::load(sums + c, tail), V::load(others + c, tail)).store(sums + c, tail);
  }
}

// --- the iteration space -----------------------------------------------------------------------------------------

// A position in axes [0, n), advancing by one in row-major order.
struct Odometer {
  const Axes& axes;
  int n;
  int64_t index[max_ndim], x = 0, y = 0;

  Odometer(const Axes& axes, int n, int64_t position) : axes(axes), n(n) {
    for (int d = n - 1; d >= 0; --d) {
      index[d] = position % axes.shape[d];
      position /= axes.shape[d];
      x += index[d] * axes.x[d];
      y += index[d] * axes.y[d];
    }
  }
  LAMINA_INLINE void advance() {
#pragma GCC unroll 1
    for (int d = n - 1; d >= 0; --d) {
      x += axes.x[d];
      y += axes.y[d];
      if (++index[d] < axes.shape[d]) [[likely]]
        return;
      x -= index[d] * axes.x[d];
      y -= index[d] * axes.y[d];
      index[d] = 0;
    }
  }
};

// Calls f(x, y, done, n) for the runs along the last axis of `count` elements from `first` on: the offsets of a run, how
// many elements came before it, and its length.
template <class F>
LAMINA_INLINE void for_runs(const Axes& axes, int64_t first, int64_t count, const F& f) {
  const int last = axes.n - 1;
  int64_t in_run = first % axes.shape[last];
  Odometer outer(axes, last, first / axes.shape[last]);
  for (int64_t done = 0, n; done < count; done += n, in_run = 0, outer.advance()) {
    n = smaller(axes.shape[last] - in_run, count - done);
    f(outer.x + in_run * axes.x[last], outer.y + in_run * axes.y[last], done, n);
  }
}

struct Plan {
  const char* x;
  char* y;
  int64_t x_item, y_item;
  Load load;
  Store store;
  Axes kept, reduced;
  bool is_outer;     // the last axis is kept
  bool is_direct;    // x is read in place
  int64_t run;       // extent of the last axis
  int64_t results;   // of a task: consecutive kept elements, in an outer reduction of one run
  int64_t tasks;     // over the kept elements
  int64_t segments;  // of the reduced ones
};

Plan make_plan(const View& x, const View& y, Dtype accumulate) {
  Plan plan;
  plan.x = x.as<char>();
  plan.y = y.as<char>();
  plan.x_item = size_of(x.dtype);
  plan.y_item = size_of(y.dtype);
  plan.load = load_function(x.dtype, accumulate);
  plan.store = store_function(y.dtype, accumulate);
  split_axes(x, y, plan.kept, plan.reduced);
  const Axes &kept = plan.kept, &reduced = plan.reduced;
  plan.is_outer = kept.size > 1 && kept.x[kept.n - 1] < reduced.x[reduced.n - 1];
  const Axes& last = plan.is_outer ? kept : reduced;
  plan.run = last.shape[last.n - 1];
  plan.is_direct = x.dtype == accumulate && (last.x[last.n - 1] == 1 || plan.run == 1);
  if (plan.is_outer) {
    plan.results = smaller(plan.run, block);
    plan.tasks = kept.size / plan.run * ceil_div(plan.run, block);
  } else {
    plan.results = smaller(kept.size, larger(1, smaller(block, task / larger(1, reduced.size))));
    plan.tasks = ceil_div(kept.size, plan.results);
  }
  const int64_t wanted = kept.size * reduced.size / task / larger(1, plan.tasks);
  plan.segments = smaller(larger(wanted, 1), max_segments);
  return plan;
}

// The kept elements of a task: the place of the first in the flattened kept axes, and their number.
struct Results {
  int64_t first, n;
};
LAMINA_INLINE Results results_of(const Plan& plan, int64_t t) {
  if (!plan.is_outer) {
    const int64_t first = t * plan.results;
    return {first, smaller(plan.results, plan.kept.size - first)};
  }
  const int64_t per_run = ceil_div(plan.run, plan.results);
  const int64_t begin = t % per_run * plan.results;
  return {t / per_run * plan.run + begin, smaller(plan.results, plan.run - begin)};
}

// --- the two kinds of tasks --------------------------------------------------------------------------------------

// sums[k] = the sum over reduced elements [begin, end) for the n results of a task.
template <class M, class S>
void inner_task(const Plan& plan, const Results& results, int64_t begin, int64_t end, const S* shift,
                S* sums) {
  using V = typename VectorOf<S>::type;
  alignas(64) S buffer[block];
  const int last = plan.reduced.n - 1;
  const int64_t stride = plan.reduced.x[last];
  const int64_t first_run = begin / larger(1, plan.run), first_in_run = begin % larger(1, plan.run);
  Odometer kept(plan.kept, plan.kept.n, results.first);
  for (int64_t k = 0; k < results.n; ++k, kept.advance()) {
    const S shift_value = shift ? shift[k] : S(0);
    Odometer reduced(plan.reduced, last, first_run);
    V tree[48];  // sums of 2^i leaves, largest first
    int height = 0;
    int64_t leaves = 0;
    for (int64_t at = begin, in_run = first_in_run; at < end;) {
      const int64_t n = smaller(smaller(block, plan.run - in_run), end - at);
      const char* from = plan.x + (kept.x + reduced.x + in_run * stride) * plan.x_item;
      if (!plan.is_direct) plan.load(from, stride, buffer, n);
      tree[height++] =
          leaf_of_run<M, S, V>(plan.is_direct ? reinterpret_cast<const S*>(from) : buffer, n, shift_value);
      for (int64_t c = leaves++; c & 1; c >>= 1, --height)
        tree[height - 2] = M::combine(tree[height - 2], tree[height - 1]);
      at += n;
      in_run += n;
      if (in_run == plan.run) in_run = 0, reduced.advance();
    }
    for (; height > 1; --height) tree[height - 2] = M::combine(tree[height - 2], tree[height - 1]);
    sums[k] = height ? M::fold(tree[0]) : M::template identity<S>();
  }
}

// All that a reduction needs of its monoid: the rest is compiled once per S.
template <class S>
struct Monoid {
  S identity;
  void (*inner_task)(const Plan& plan, const Results& results, int64_t begin, int64_t end, const S* shift,
                     S* sums);
  void (*add_rows)(S* sums, const S* const* x, int64_t rows, int64_t n, const S* shift);
  void (*combine_rows)(S* sums, const S* others, int64_t n);
};
template <class M, class S>
constexpr Monoid<S> monoid = {M::template identity<S>(), inner_task<M, S>, add_rows<M, S>,
                              combine_rows<M, S>};

// How many narrow rows that are neighbours in memory, such as the pixels of an RGB image, are added up as one wide row.
LAMINA_INLINE int64_t rows_to_fold(const Plan& plan, int64_t rows) {
  const Axes &kept = plan.kept, &reduced = plan.reduced;
  const int64_t fold = folded_columns / kept.size;
  const bool is_dense = kept.n == 1 && kept.x[0] == 1 && reduced.n == 1 && reduced.x[0] == kept.size;
  return is_dense && fold >= 8 && rows >= 4 * fold ? fold : 1;
}

template <class S>
void outer_task(const Plan& plan, const Monoid<S>& monoid, const Results& results, int64_t begin, int64_t end,
                const S* shift, S* sums) {
  const int64_t n = results.n, stride = plan.kept.x[plan.kept.n - 1];
  if (const int64_t fold = rows_to_fold(plan, end - begin); fold > 1) {
    const int64_t wide_rows = (end - begin) / fold;
    Plan wide = plan;
    wide.x += begin * n * plan.x_item;
    wide.kept.shape[0] = wide.kept.size = fold * n;
    wide.reduced.shape[0] = wide.reduced.size = wide_rows;
    wide.reduced.x[0] = fold * n;
    alignas(64) S wide_shift[folded_columns], wide_sums[folded_columns];
    for (int64_t c = 0; shift && c < fold * n; ++c) wide_shift[c] = shift[c % n];
    outer_task(wide, monoid, {0, fold * n}, 0, wide_rows, shift ? wide_shift : nullptr, wide_sums);
    outer_task(plan, monoid, results, begin + wide_rows * fold, end, shift, sums);
    for (int64_t i = 0; i < fold; ++i) monoid.combine_rows(sums, wide_sums + i * n, n);
    return;
  }
  const Odometer kept(plan.kept, plan.kept.n, results.first);
  const auto clear = [&](S* row) {
    for (int64_t c = 0; c < n; ++c) row[c] = monoid.identity;
  };
  // Rows of the tree of leaves, then 4 blocks for what is converted.
  constexpr int64_t most_height = 48;
  S* const tree = scratch<S>(Scratch::row, (most_height + 4) * block);
  S* const converted = tree + most_height * block;
  const int64_t at_once = plan.is_direct ? leaf_rows : smaller(leaf_rows, larger(4, block / n));
  if (!shift) clear(sums), shift = sums;  // not read: only Squares has a shift
  int height = 0;
  int64_t leaves = 0;
  const auto combine_last = [&] {
    --height;
    monoid.combine_rows(tree + (height - 1) * block, tree + height * block, n);
  };
  Odometer reduced(plan.reduced, plan.reduced.n, begin);
  for (int64_t at = begin; at < end;) {
    S* const leaf = tree + height++ * block;
    clear(leaf);
    for (const int64_t leaf_end = smaller(end, at + leaf_rows); at < leaf_end;) {
      const int64_t rows = smaller(leaf_end - at, at_once);
      const S* x[leaf_rows];
      for (int64_t r = 0; r < rows; ++r, reduced.advance()) {
        const char* from = plan.x + (kept.x + reduced.x) * plan.x_item;
        if (!plan.is_direct) plan.load(from, stride, converted + r * n, n);
        x[r] = plan.is_direct ? reinterpret_cast<const S*>(from) : converted + r * n;
      }
      monoid.add_rows(leaf, x, rows, n, shift);
      at += rows;
    }
    for (int64_t c = leaves++; c & 1; c >>= 1) combine_last();
  }
  while (height > 1) combine_last();
  if (height)
    __builtin_memcpy(sums, tree, size_t(n) * sizeof(S));
  else
    clear(sums);
}

template <class S>
LAMINA_INLINE void run_task(const Plan& plan, const Monoid<S>& monoid, const Results& results, int64_t begin,
                            int64_t end, const S* shift, S* sums) {
  if (plan.is_outer)
    outer_task(plan, monoid, results, begin, end, shift, sums);
  else
    monoid.inner_task(plan, results, begin, end, shift, sums);
}

// --- whole reductions --------------------------------------------------------------------------------------------

// One pass over x: the sums, and what turns n of them into results. A second pass is shifted by the results of the first.
template <class S>
struct Pass {
  Monoid<S> monoid;
  void (*finish)(S* sums, int64_t n, S by);
  S by = 0;
};

template <class S>
void keep(S*, int64_t, S) {}
template <class S>
void divide(S* sums, int64_t n, S by) {
  for (int64_t i = 0; i < n; ++i) sums[i] /= by;
}
template <class S>
void root(S* sums, int64_t n, S) {
  for (int64_t i = 0; i < n; ++i) sums[i] = reduce_add(sqrt(Vec<S>::set1(sums[i]))) / Vec<S>::N;
}

// All K results at sums[0, K), where R is cut into segments. sums has room for segments * K.
template <class S>
void reduce_segments(const Plan& plan, const Monoid<S>& monoid, const S* shift, S* sums) {
  const int64_t K = plan.kept.size, R = plan.reduced.size;
  parallel_for(plan.tasks * plan.segments, [&](int64_t i) {
    const int64_t segment = i / plan.tasks;
    const Results results = results_of(plan, i % plan.tasks);
    run_task(plan, monoid, results, R * segment / plan.segments, R * (segment + 1) / plan.segments,
             shift ? shift + results.first : nullptr, sums + segment * K + results.first);
  });
  for (int64_t step = 1; step < plan.segments; step *= 2)
    for (int64_t s = 0; s + step < plan.segments; s += 2 * step)
      monoid.combine_rows(sums + s * K, sums + (s + step) * K, K);
}

// Rounds the results of a task to y.
template <class S>
void store_results(const Plan& plan, const Results& results, const S* sums) {
  const int64_t stride = plan.kept.y[plan.kept.n - 1];
  for_runs(plan.kept, results.first, results.n, [&](int64_t, int64_t y, int64_t done, int64_t n) {
    plan.store(sums + done, plan.y + y * plan.y_item, stride, n);
  });
}

// Calls f(results) for all tasks, several to a thread where they are small.
template <class F>
LAMINA_INLINE void for_tasks(const Plan& plan, const F& f) {
  const int64_t elements = larger(1, plan.results * plan.reduced.size);
  parallel_ranges(plan.tasks, larger(1, task / elements), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(results_of(plan, t));
  });
}

template <class S>
void reduce_in_passes(const Plan& plan, std::initializer_list<Pass<S>> passes) {
  const int64_t K = plan.kept.size;
  const auto run_passes = [&](S* shift, S* sums, int64_t n, const auto& run_pass) {
    for (const Pass<S>& pass : passes) {
      const bool is_first = &pass == passes.begin();
      if (!is_first) __builtin_memcpy(shift, sums, size_t(n) * sizeof(S));
      run_pass(pass.monoid, is_first ? nullptr : shift);
      pass.finish(sums, n, pass.by);
    }
  };
  if (plan.segments > 1) {
    S* const shift = scratch<S>(Scratch::plane, (1 + plan.segments) * K);
    S* const sums = shift + K;
    run_passes(shift, sums, K,
               [&](const Monoid<S>& monoid, const S* shift) { reduce_segments(plan, monoid, shift, sums); });
    for_tasks(plan, [&](const Results& results) { store_results(plan, results, sums + results.first); });
    return;
  }
  for_tasks(plan, [&](const Results& results) {
    alignas(64) S shift[block], sums[block];
    run_passes(shift, sums, results.n, [&](const Monoid<S>& monoid, const S* shift) {
      run_task(plan, monoid, results, 0, plan.reduced.size, shift, sums);
    });
    store_results(plan, results, sums);
  });
}

template <class S>
void reduce_typed(const ReduceArgs& args) {
  const Plan plan = make_plan(args.x, args.y, accumulate_dtype(args.x.dtype));
  const auto one_pass = [&](const Monoid<S>& m) { reduce_in_passes<S>(plan, {{m, keep}}); };
  switch (args.op) {
    case Reduction::sum:
      return one_pass(monoid<Sum, S>);
    case Reduction::prod:
      return one_pass(monoid<Prod, S>);
    case Reduction::max:
      return one_pass(monoid<Max, S>);
    case Reduction::min:
      return one_pass(monoid<Min, S>);
    case Reduction::any:
      return one_pass(monoid<Any, S>);
    case Reduction::all:
      return one_pass(monoid<All, S>);
    default:
      break;
  }
  if constexpr (is_floating(dtype_of<S>)) {
    const double R = double(plan.reduced.size), degrees = R - args.ddof;
    const Pass<S> mean = {monoid<Sum, S>, divide, S(R)};
    switch (args.op) {
      case Reduction::mean:
        return reduce_in_passes<S>(plan, {mean});
      case Reduction::norm:
        return reduce_in_passes<S>(plan, {{monoid<Squares, S>, root}});
      default:
        return reduce_in_passes<S>(plan, {mean, {monoid<Squares, S>, divide, S(degrees > 0 ? degrees : 0)}});
    }
  }
}

void reduce(const ReduceArgs& args) {
  if (args.y.size() == 0) return;
  switch (accumulate_dtype(args.x.dtype)) {
    case Dtype::float32:
      return reduce_typed<float>(args);
    case Dtype::float64:
      return reduce_typed<double>(args);
    default:
      return reduce_typed<int64_t>(args);
  }
}

// --- along one axis ----------------------------------------------------------------------------------------------

// n elements of x and of y, strides apart; their lines, `count` of them, are steps apart.
struct Lines {
  const void* x;
  void* y;
  int64_t n, x_stride, y_stride;
  int64_t count, x_step, y_step;
};

// Calls f(lines) for all lines of x along an axis.
void for_lines(const View& x, const View& y, int axis, bool is_reverse, void (*f)(const Lines&)) {
  const int64_t n = x.shape[axis];
  Axes kept = axes_beside(x, y, axis);
  if (kept.n == 0) kept.insert(1, 0, 0);
  Lines lines{nullptr,           nullptr, n, x.strides[axis], y.strides[axis], 0, kept.x[kept.n - 1],
              kept.y[kept.n - 1]};
  int64_t x_first = 0, y_first = 0;
  if (is_reverse) {
    x_first = (n - 1) * lines.x_stride, lines.x_stride = -lines.x_stride;
    y_first = (n - 1) * lines.y_stride, lines.y_stride = -lines.y_stride;
  }
  parallel_ranges(kept.size, larger(1, task / larger(1, n)), [&](int64_t begin, int64_t end) {
    for_runs(kept, begin, end - begin, [&](int64_t x_at, int64_t y_at, int64_t, int64_t count) {
      Lines run = lines;
      run.x = x.as<char>() + (x_first + x_at) * size_of(x.dtype);
      run.y = y.as<char>() + (y_first + y_at) * size_of(y.dtype);
      run.count = count;
      f(run);
    });
  });
}

// The index of the first extremum; the first NaN, if there is one, is the extremum.
template <class T, bool is_max>
void first_extrema(const Lines& lines) {
  for (int64_t k = 0; k < lines.count; ++k) {
    const T* from = static_cast<const T*>(lines.x) + k * lines.x_step;
    Compute<T> best = widen(from[0]);
    int64_t where = 0;
    for (int64_t i = 1; i < lines.n && best == best; ++i) {
      const Compute<T> value = widen(from[i * lines.x_stride]);
      if ((is_max ? value > best : value < best) || value != value) {
        best = value;
        where = i;
      }
    }
    static_cast<int64_t*>(lines.y)[k * lines.y_step] = where;
  }
}

void arg_reduce(const ArgReduceArgs& args) {
  dispatch_any(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    for_lines(args.x, args.y, args.axis, false,
              args.is_max ? first_extrema<T, true> : first_extrema<T, false>);
  });
}

// Floating dtypes add up in double, integers in int64: the chain is sequential, so its error would grow with n.
template <class T>
void running_sums(const Lines& lines) {
  using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
  using Result = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
  for (int64_t k = 0; k < lines.count; ++k) {
    const T* from = static_cast<const T*>(lines.x) + k * lines.x_step;
    Result* to = static_cast<Result*>(lines.y) + k * lines.y_step;
    Wide sum = 0;
    for (int64_t i = 0; i < lines.n; ++i) {
      sum += Wide(widen(from[i * lines.x_stride]));
      to[i * lines.y_stride] = converted<Result>(sum);
    }
  }
}

void cumsum(const CumsumArgs& args) {
  if (args.x.size() == 0) return;
  dispatch_any(args.x.dtype, [&](auto t) {
    for_lines(args.x, args.y, args.axis, args.is_reverse, running_sums<typename decltype(t)::type>);
  });
}

}  // namespace

const ReduceKernels reduce_kernels = {reduce, arg_reduce, cumsum};

}  // namespace lamina::LAMINA_ISA
