#include "kernels/reduce/reduce.h"

#include "base/integer.h"
#include "base/parallel.h"
#include "base/scratch.h"
#include "kernels/reduce/axes.h"
#include "simd/convert.h"
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

// sums[c] = step(sums[c], x[0][c]) ... step(sums[c], x[rows - 1][c]), rows = 1 or 4.
template <class M, class S, class V, int rows>
LAMINA_INLINE void add_rows(S* sums, const S* const* x, int64_t n, const S* shift) {
  const auto columns = [&](auto load, int64_t c) __attribute__((always_inline)) {
    V sum = load(sums + c);
    const V s = load(shift + c);
    for (int r = 0; r < rows; ++r) sum = M::step(sum, load(x[r] + c), s);
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

template <class M, class S, class V>
[[gnu::noinline]] void combine_rows(S* sums, const S* others, int64_t n) {
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
    for (int d = n - 1; d >= 0; --d) {
      x += axes.x[d];
      y += axes.y[d];
      if (++index[d] < axes.shape[d]) return;
      x -= index[d] * axes.x[d];
      y -= index[d] * axes.y[d];
      index[d] = 0;
    }
  }
};

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
[[gnu::noinline]] void inner_task(const Plan& plan, const Results& results, int64_t begin, int64_t end,
                                  const S* shift, S* sums) {
  using V = typename VectorOf<S>::type;
  alignas(64) S buffer[block];
  const int last = plan.reduced.n - 1;
  const int64_t stride = plan.reduced.x[last];
  Odometer kept(plan.kept, plan.kept.n, results.first);
  for (int64_t k = 0; k < results.n; ++k, kept.advance()) {
    const S shift_value = shift ? shift[k] : S(0);
    Odometer reduced(plan.reduced, last, begin / larger(1, plan.run));
    V tree[48];  // sums of 2^i leaves, largest first
    int height = 0;
    int64_t leaves = 0;
    for (int64_t at = begin; at < end;) {
      const int64_t in_run = at % plan.run;
      const int64_t n = smaller(smaller(block, plan.run - in_run), end - at);
      const char* from = plan.x + (kept.x + reduced.x + in_run * stride) * plan.x_item;
      if (!plan.is_direct) plan.load(from, stride, buffer, n);
      tree[height++] =
          leaf_of_run<M, S, V>(plan.is_direct ? reinterpret_cast<const S*>(from) : buffer, n, shift_value);
      for (int64_t c = leaves++; c & 1; c >>= 1, --height)
        tree[height - 2] = M::combine(tree[height - 2], tree[height - 1]);
      at += n;
      if (in_run + n == plan.run) reduced.advance();
    }
    for (; height > 1; --height) tree[height - 2] = M::combine(tree[height - 2], tree[height - 1]);
    sums[k] = height ? M::fold(tree[0]) : M::template identity<S>();
  }
}

// How many narrow rows that are neighbours in memory, such as the pixels of an RGB image, are added up as one wide row.
LAMINA_INLINE int64_t rows_to_fold(const Plan& plan, int64_t rows) {
  const Axes &kept = plan.kept, &reduced = plan.reduced;
  const int64_t fold = folded_columns / kept.size;
  const bool is_dense = kept.n == 1 && kept.x[0] == 1 && reduced.n == 1 && reduced.x[0] == kept.size;
  return is_dense && fold >= 8 && rows >= 4 * fold ? fold : 1;
}

template <class M, class S>
[[gnu::noinline]] void outer_task(const Plan& plan, const Results& results, int64_t begin, int64_t end,
                                  const S* shift, S* sums) {
  using V = typename VectorOf<S>::type;
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
    outer_task<M>(wide, {0, fold * n}, 0, wide_rows, shift ? wide_shift : nullptr, wide_sums);
    outer_task<M>(plan, results, begin + wide_rows * fold, end, shift, sums);
    for (int64_t i = 0; i < fold; ++i) combine_rows<M, S, V>(sums, wide_sums + i * n, n);
    return;
  }
  const Odometer kept(plan.kept, plan.kept.n, results.first);
  const auto clear = [&](S* row) {
    for (int64_t c = 0; c < n; ++c) row[c] = M::template identity<S>();
  };
  // Rows of the tree of leaves, then 4 rows for what is converted.
  constexpr int most_height = 48;
  S* const tree = scratch<S>(Scratch::row, (most_height + 4) * block);
  S* const converted_rows = tree + most_height * block;
  if (!shift) clear(sums), shift = sums;  // not read: only Squares has a shift
  int height = 0;
  int64_t leaves = 0;
  Odometer reduced(plan.reduced, plan.reduced.n, begin);
  for (int64_t at = begin; at < end;) {
    S* const leaf = tree + height++ * block;
    clear(leaf);
    for (const int64_t leaf_end = smaller(end, at + leaf_rows); at < leaf_end;) {
      const int rows = leaf_end - at >= 4 ? 4 : 1;
      const S* x[4];
      for (int r = 0; r < rows; ++r, reduced.advance()) {
        const char* from = plan.x + (kept.x + reduced.x) * plan.x_item;
        if (!plan.is_direct) plan.load(from, stride, converted_rows + r * block, n);
        x[r] = plan.is_direct ? reinterpret_cast<const S*>(from) : converted_rows + r * block;
      }
      if (rows == 4)
        add_rows<M, S, V, 4>(leaf, x, n, shift);
      else
        add_rows<M, S, V, 1>(leaf, x, n, shift);
      at += rows;
    }
    for (int64_t c = leaves++; c & 1; c >>= 1, --height)
      combine_rows<M, S, V>(tree + (height - 2) * block, tree + (height - 1) * block, n);
  }
  for (; height > 1; --height)
    combine_rows<M, S, V>(tree + (height - 2) * block, tree + (height - 1) * block, n);
  if (height)
    __builtin_memcpy(sums, tree, size_t(n) * sizeof(S));
  else
    clear(sums);
}

template <class M, class S>
LAMINA_INLINE void run_task(const Plan& plan, const Results& results, int64_t begin, int64_t end,
                            const S* shift, S* sums) {
  if (plan.is_outer)
    outer_task<M>(plan, results, begin, end, shift, sums);
  else
    inner_task<M>(plan, results, begin, end, shift, sums);
}

// Rounds the results of a task to y, run by run of the last kept axis.
template <class S>
void store_results(const Plan& plan, const Results& results, const S* sums) {
  const int last = plan.kept.n - 1;
  const int64_t run = plan.kept.shape[last], stride = plan.kept.y[last];
  int64_t in_run = results.first % run;
  Odometer outer(plan.kept, last, results.first / run);
  for (int64_t done = 0, n; done < results.n; done += n, in_run = 0, outer.advance()) {
    n = smaller(run - in_run, results.n - done);
    plan.store(sums + done, plan.y + (outer.y + in_run * stride) * plan.y_item, stride, n);
  }
}

// --- whole reductions --------------------------------------------------------------------------------------------

// All K results at sums[0, K), where R is cut into segments. sums has room for segments * K.
template <class M, class S>
void reduce_segments(const Plan& plan, const S* shift, S* sums) {
  const int64_t K = plan.kept.size, R = plan.reduced.size;
  parallel_for(plan.tasks * plan.segments, [&](int64_t i) {
    const int64_t segment = i / plan.tasks;
    const Results results = results_of(plan, i % plan.tasks);
    run_task<M>(plan, results, R * segment / plan.segments, R * (segment + 1) / plan.segments,
                shift ? shift + results.first : nullptr, sums + segment * K + results.first);
  });
  for (int64_t step = 1; step < plan.segments; step *= 2)
    for (int64_t s = 0; s + step < plan.segments; s += 2 * step)
      combine_rows<M, S, typename VectorOf<S>::type>(sums + s * K, sums + (s + step) * K, K);
}

// Calls f(task) for all tasks, several to a thread where they are small.
template <class F>
LAMINA_INLINE void for_tasks(const Plan& plan, F f) {
  const int64_t elements = larger(1, plan.results * plan.reduced.size);
  parallel_ranges(plan.tasks, larger(1, task / elements), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(results_of(plan, t));
  });
}

// finish(sums, n) turns sums into results.
template <class M, class S, class Finish>
void reduce_with(const Plan& plan, Finish finish) {
  if (plan.segments > 1) {
    S* const sums = scratch<S>(Scratch::plane, plan.segments * plan.kept.size);
    reduce_segments<M, S>(plan, nullptr, sums);
    finish(sums, plan.kept.size);
    for_tasks(plan, [&](const Results& results) { store_results(plan, results, sums + results.first); });
    return;
  }
  for_tasks(plan, [&](const Results& results) {
    alignas(64) S sums[block];
    run_task<M>(plan, results, 0, plan.reduced.size, static_cast<const S*>(nullptr), sums);
    finish(sums, results.n);
    store_results(plan, results, sums);
  });
}

template <class S>
void variance(const Plan& plan, double ddof) {
  const S R = S(plan.reduced.size),
          degrees = S(double(plan.reduced.size) - ddof > 0 ? double(plan.reduced.size) - ddof : 0);
  const auto divide = [](S* x, int64_t n, S by) {
    for (int64_t i = 0; i < n; ++i) x[i] /= by;
  };
  if (plan.segments > 1) {
    const int64_t K = plan.kept.size;
    S* const means = scratch<S>(Scratch::plane, (1 + plan.segments) * K);
    S* const sums = means + K;
    reduce_segments<Sum, S>(plan, nullptr, sums);
    divide(sums, K, R);
    __builtin_memcpy(means, sums, size_t(K) * sizeof(S));
    reduce_segments<Squares, S>(plan, means, sums);
    divide(sums, K, degrees);
    for_tasks(plan, [&](const Results& results) { store_results(plan, results, sums + results.first); });
    return;
  }
  for_tasks(plan, [&](const Results& results) {
    alignas(64) S means[block], sums[block];
    run_task<Sum>(plan, results, 0, plan.reduced.size, static_cast<const S*>(nullptr), means);
    divide(means, results.n, R);
    run_task<Squares>(plan, results, 0, plan.reduced.size, static_cast<const S*>(means), sums);
    divide(sums, results.n, degrees);
    store_results(plan, results, sums);
  });
}

template <class S>
void reduce_typed(const ReduceArgs& args) {
  const Plan plan = make_plan(args.x, args.y, accumulate_dtype(args.x.dtype));
  const auto as_is = [](S*, int64_t) {};
  switch (args.op) {
    case Reduction::sum:
      return reduce_with<Sum, S>(plan, as_is);
    case Reduction::prod:
      return reduce_with<Prod, S>(plan, as_is);
    case Reduction::max:
      return reduce_with<Max, S>(plan, as_is);
    case Reduction::min:
      return reduce_with<Min, S>(plan, as_is);
    case Reduction::any:
      return reduce_with<Any, S>(plan, as_is);
    case Reduction::all:
      return reduce_with<All, S>(plan, as_is);
    default:
      break;
  }
  if constexpr (is_floating(dtype_of<S>)) {
    switch (args.op) {
      case Reduction::mean:
        return reduce_with<Sum, S>(plan, [&](S* sums, int64_t n) {
          for (int64_t i = 0; i < n; ++i) sums[i] /= S(plan.reduced.size);
        });
      case Reduction::norm:
        return reduce_with<Squares, S>(plan, [](S* sums, int64_t n) {
          for (int64_t i = 0; i < n; ++i) sums[i] = reduce_add(sqrt(Vec<S>::set1(sums[i]))) / Vec<S>::N;
        });
      default:
        return variance<S>(plan, args.ddof);
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

// --- argmax, argmin ----------------------------------------------------------------------------------------------

// The index along the axis of the first extremum; the first NaN, if there is one, is the extremum.
template <class T, bool is_max>
void arg_reduce_typed(const ArgReduceArgs& args) {
  const View &x = args.x, &y = args.y;
  const int64_t n = x.shape[args.axis], stride = x.strides[args.axis];
  const Axes kept = axes_beside(x, y, args.axis);
  parallel_ranges(kept.size, larger(1, task / larger(1, n)), [&](int64_t begin, int64_t end) {
    Odometer at(kept, kept.n, begin);
    for (int64_t k = begin; k < end; ++k, at.advance()) {
      const T* from = x.as<T>() + at.x;
      Compute<T> best = widen(from[0]);
      int64_t where = 0;
      for (int64_t i = 1; i < n && best == best; ++i) {
        const Compute<T> value = widen(from[i * stride]);
        if ((is_max ? value > best : value < best) || value != value) {
          best = value;
          where = i;
        }
      }
      y.as<int64_t>()[at.y] = where;
    }
  });
}

void arg_reduce(const ArgReduceArgs& args) {
  dispatch_any(args.x.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    args.is_max ? arg_reduce_typed<T, true>(args) : arg_reduce_typed<T, false>(args);
  });
}

// --- cumsum ------------------------------------------------------------------------------------------------------

// Floating dtypes add up in double, integers in int64: the chain is sequential, so its error would grow with n.
template <class T>
void cumsum_typed(const CumsumArgs& args) {
  using Wide = std::conditional_t<is_floating(dtype_of<T>), double, int64_t>;
  using Result = std::conditional_t<is_floating(dtype_of<T>), T, int64_t>;
  const View &x = args.x, &y = args.y;
  const int64_t n = x.shape[args.axis], x_stride = x.strides[args.axis], y_stride = y.strides[args.axis];
  const Axes kept = axes_beside(x, y, args.axis);
  parallel_ranges(kept.size, larger(1, task / larger(1, n)), [&](int64_t begin, int64_t end) {
    Odometer at(kept, kept.n, begin);
    for (int64_t k = begin; k < end; ++k, at.advance()) {
      const T* from = x.as<T>() + at.x;
      Result* to = y.as<Result>() + at.y;
      Wide sum = 0;
      for (int64_t j = 0; j < n; ++j) {
        const int64_t i = args.is_reverse ? n - 1 - j : j;
        sum += Wide(widen(from[i * x_stride]));
        to[i * y_stride] = converted<Result>(sum);
      }
    }
  });
}

void cumsum(const CumsumArgs& args) {
  if (args.x.size() == 0) return;
  dispatch_any(args.x.dtype, [&](auto t) { cumsum_typed<typename decltype(t)::type>(args); });
}

}  // namespace

const ReduceKernels reduce_kernels = {reduce, arg_reduce, cumsum};

}  // namespace lamina::LAMINA_ISA
