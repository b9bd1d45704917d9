// Elements chosen by an index on a GPU.
//
// Forward: a thread takes a unit of y (select: 16 bytes of a row where rows allow it) and reads x where the index says.
//
// The derivatives are one kernel. Each element of the index is an entry (place in dx, its own number); for `select` the
// places are rows of dx, for `gather` elements. A sort (sort.cuh) brings the entries of one place together, in their
// order. The first of them then adds up all of its place's dy in float32 (float64), 16 bytes of a row a thread, and writes
// the sum; what no entry names was zeroed before. Entries of a row that is skipped are given a place past the end, which
// has no sum. Every element of dx is written by one thread, so nothing depends on the order of threads. Traffic: dx, dy,
// and some log2(n) passes over 16 bytes an entry, n entries; bound by the latency of the sort where n is small, by the
// longest sum where one place has most of the entries.
#include "kernels/layout/index.h"

#include "kernels/layout/layout.h"
#include "kernels/layout/sort.cuh"
#include "kernels/layout/space.cuh"
#include "kernels/layout/unit.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

// The elements of an index, clamped to [0, n).
struct Indices {
  const void* data;
  bool is_int32;
  int64_t n;
  Indices(const View& index, int64_t n) : data(index.data), is_int32(index.dtype == Dtype::int32), n(n) {}

  LAMINA_PRIM int64_t operator[](int64_t j) const {
    const int64_t i = is_int32 ? static_cast<const int32_t*>(data)[j] : static_cast<const int64_t*>(data)[j];
    return i < 0 ? 0 : i < n ? i : n - 1;
  }
};

// --- select ------------------------------------------------------------------------------------------------------

// x (O, N, I), y (O, M, I) in units.
template <class E>
__global__ __launch_bounds__(spread_threads) void select_kernel(const E* x, Indices index, E* y, int64_t size,
                                                                prim::Divider M, prim::Divider I) {
  for_items(size, [&](int64_t at) {
    const int64_t row = I.quotient(at), o = M.quotient(row), j = row - o * M.divisor;
    y[at] = x[(o * index.n + index[j]) * I.divisor + at - row * I.divisor];
  });
}

void select(const SelectArgs& a) {
  if (a.y.size() == 0) return;
  const int64_t element = size_of(a.x.dtype), row = a.x.shape[2] * element;
  int64_t unit = widest_unit;
  while (unit > element &&
         (row % unit || !prim::is_aligned(a.x.as<char>(), unit) || !prim::is_aligned(a.y.as<char>(), unit)))
    unit /= 2;
  dispatch_unit(unit, [&](auto e) {
    using E = typename decltype(e)::type;
    const int64_t size = a.y.size() * element / unit;
    launch("select", select_kernel<E>, spread(size), a.x.as<const E>(), Indices(a.index, a.x.shape[1]),
           a.y.as<E>(), size, prim::Divider(a.y.shape[1]), prim::Divider(row / unit));
  });
}

// --- sums --------------------------------------------------------------------------------------------------------

// dx[o, place, i] = sum of dy[o, source, i] over the entries of the place, if it is below N. dx (O, N, I) and
// dy (O, M, I) in packs of V elements.
template <class T, int V>
__global__ __launch_bounds__(spread_threads) void sum_entries_kernel(const T* dy, const Entry* entries, T* dx,
                                                                     int64_t size, int64_t N, prim::Divider M,
                                                                     prim::Divider I) {
  for_items(size, [&](int64_t at) {
    const int64_t row = I.quotient(at), o = M.quotient(row), k = row - o * M.divisor,
                  i = at - row * I.divisor;
    const int64_t place = entries[k].place;
    if (place >= N || (k > 0 && entries[k - 1].place == place)) return;
    const int64_t end = find_entry(entries, k, M.divisor, {place, INT64_MAX});
    const T* from = dy + (o * M.divisor * I.divisor + i) * V;
    Compute<T> sum[V] = {};
#pragma unroll 4
    for (int64_t m = k; m < end; ++m) {
      const prim::Pack<T, V> x = prim::load_vector<V>(from + entries[m].source * I.divisor * V);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += prim::widen(x[v]);
    }
    prim::Pack<T, V> y;
#pragma unroll
    for (int v = 0; v < V; ++v) y[v] = prim::narrow<T>(sum[v]);
    prim::store_vector(dx + ((o * N + place) * I.divisor + i) * V, y);
  });
}

// dx of all entries; `fill_entries(buffer)` launches what writes them, unsorted.
template <class F>
void sum_entries(const View& dy, const View& dx, int64_t O, int64_t N, int64_t M, int64_t I, F fill_entries) {
  layout_kernels.fill({.dst = dx, .bits = 0});
  if (O * M * I == 0) return;
  const DeviceScratch<Entry> unsorted(M), spare(M);
  fill_entries(unsorted.data());
  const Entry* entries = sort_entries(unsorted, spare, M);
  dispatch_device_float(dx.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const auto sum = [&]<int V>(std::integral_constant<int, V>) {
      launch("sum_entries", sum_entries_kernel<T, V>, spread(O * M * I / V), dy.as<const T>(), entries,
             dx.as<T>(), O * M * I / V, N, prim::Divider(M), prim::Divider(I / V));
    };
    constexpr int wide = prim::vector_of<T>;
    if (I % wide == 0 && prim::is_aligned(dy.as<T>()) && prim::is_aligned(dx.as<T>()))
      sum(std::integral_constant<int, wide>{});
    else
      sum(std::integral_constant<int, 1>{});
  });
}

__global__ __launch_bounds__(spread_threads) void row_entries_kernel(Indices index, int64_t skipped,
                                                                     Entry* entries, int64_t M) {
  for_items(M, [&](int64_t j) {
    const int64_t n = index[j];
    entries[j] = {n == skipped ? index.n : n, j};
  });
}

void select_backward(const SelectBackwardArgs& a) {
  const int64_t O = a.dx.shape[0], N = a.dx.shape[1], I = a.dx.shape[2], M = a.dy.shape[1];
  if (a.dx.size() == 0) return;
  sum_entries(a.dy, a.dx, O, N, M, I, [&](Entry* entries) {
    launch("row_entries", row_entries_kernel, spread(M), Indices(a.index, N), a.skipped, entries, M);
  });
}

// --- gather ------------------------------------------------------------------------------------------------------

// Where the elements of x lie that an index of its rank names: x with coordinate 0 along the axis, over the points of
// the index, and the axis's stride.
struct Chosen {
  Space<2> space;
  Indices index;
  int64_t stride;
  Chosen(View x, const View& index, int axis)
      : space({along(x, index, axis), index}), index(index, x.shape[axis]), stride(x.strides[axis]) {}

  LAMINA_PRIM int64_t operator[](int64_t i) const { return space.offset(0, i) + index[i] * stride; }

 private:
  static View along(View x, const View& index, int axis) {
    for (int d = 0; d < x.ndim; ++d) x.shape[d] = index.shape[d];
    x.strides[axis] = 0;
    return x;
  }
};

template <class E>
__global__ __launch_bounds__(spread_threads) void gather_kernel(const E* x, Chosen chosen, E* y) {
  for_items(chosen.space.size, [&](int64_t i) { y[i] = x[chosen[i]]; });
}

void gather(const GatherArgs& a) {
  if (a.y.size() == 0) return;
  dispatch_element(a.x.dtype, [&](auto e) {
    using E = typename decltype(e)::type;
    launch("gather", gather_kernel<E>, spread(a.y.size()), a.x.as<const E>(), Chosen(a.x, a.index, a.axis),
           a.y.as<E>());
  });
}

__global__ __launch_bounds__(spread_threads) void element_entries_kernel(Chosen chosen, Entry* entries) {
  for_items(chosen.space.size, [&](int64_t i) { entries[i] = {chosen[i], i}; });
}

void gather_backward(const GatherBackwardArgs& a) {
  if (a.dx.size() == 0) return;
  sum_entries(a.dy, a.dx, 1, a.dx.size(), a.index.size(), 1, [&](Entry* entries) {
    launch("element_entries", element_entries_kernel, spread(a.index.size()), Chosen(a.dx, a.index, a.axis),
           entries);
  });
}

// --- one_hot -----------------------------------------------------------------------------------------------------

template <class E>
__global__ __launch_bounds__(spread_threads) void one_hot_kernel(Indices index, E one, E* y, int64_t size,
                                                                 prim::Divider N) {
  for_items(size, [&](int64_t at) {
    const int64_t j = N.quotient(at);
    y[at] = index[j] == at - j * N.divisor ? one : E(0);
  });
}

void one_hot(const OneHotArgs& a) {
  if (a.y.size() == 0) return;
  uint64_t bits = 0;
  dispatch_any(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    const T one = lamina::narrow<T>(Compute<T>(1));
    std::memcpy(&bits, &one, sizeof one);
  });
  dispatch_element(a.y.dtype, [&](auto e) {
    using E = typename decltype(e)::type;
    launch("one_hot", one_hot_kernel<E>, spread(a.y.size()), Indices(a.index, a.y.shape[1]), E(bits),
           a.y.as<E>(), a.y.size(), prim::Divider(a.y.shape[1]));
  });
}

}  // namespace

const IndexKernels index_kernels = {select, select_backward, gather, gather_backward, one_hot};

}  // namespace lamina::LAMINA_DEVICE
