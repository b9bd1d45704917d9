// What the device kernels of softmax and cross_entropy share: how threads walk along the class axis of (O, C, I), and
// sums of exponentials.
//
// A result is a row (I = 1) or a column. The tile (reduce/tile.cuh) is inner for rows, with packs of V classes, and
// outer for columns, with packs of V columns. A unit is a pack (rows) or a class (columns); a step is 4 units of a
// thread, all loaded before they are used.
#pragma once

#include <type_traits>

#include "kernels/reduce/tile.cuh"

namespace lamina::LAMINA_DEVICE {

constexpr int step_packs = 4;
template <class T, int V>
using Step = prim::Pack<T, V>[step_packs];

struct ClassTile {
  Tile tile;
  int64_t C, I, steps;

  Launch launch(int V, int64_t state_size) const {
    return tile.launch((tile.is_outer ? V : 1) * tile_threads * state_size);
  }
};
inline ClassTile choose_class_tile(int64_t O, int64_t C, int64_t I, int V) {
  const Tile tile = I == 1 ? choose_threads(false, O, C / V) : choose_threads(true, O * (I / V), C);
  return {tile, C, I, ceil_div(tile.r_units, step_packs * tile.r_threads)};
}

// Calls f(std::integral_constant<int, V>{}) for the elements in a pack, which depend on the shape alone.
template <class T, class F>
void dispatch_pack(int64_t C, int64_t I, F f) {
  constexpr int V = small_pack<T>;
  if ((I == 1 ? C : I) % V == 0)
    f(std::integral_constant<int, V>{});
  else
    f(std::integral_constant<int, 1>{});
}

// The part of a thread in its result: where its elements lie, and their classes.
template <int V>
struct ClassWalk {
  const ClassTile& t;
  int64_t at;     // position of the (first) result in (O, I); is_inside: there is one
  int64_t first;  // its element of class 0
  int r;
  bool is_inside;

  LAMINA_PRIM ClassWalk(const ClassTile& t, int64_t k_tile) : t(t) {
    const TilePlace place = place_in(t.tile);
    const int64_t k = k_tile * t.tile.k_threads + place.k;
    r = place.r;
    is_inside = k < t.tile.k_units;
    at = k;
    first = k * t.C;
    if (t.tile.is_outer) {
      const int64_t packs = t.I / V, o = k / packs;
      at = k * V;
      first = o * t.C * t.I + (k - o * packs) * V;
    }
  }
  // Where a unit lies, and the class of its element v.
  LAMINA_PRIM int64_t element(int64_t u) const { return first + u * (t.tile.is_outer ? t.I : V); }
  LAMINA_PRIM int64_t class_of(int64_t u, int v) const { return t.tile.is_outer ? u : u * V + v; }

  template <class T>
  LAMINA_PRIM prim::Pack<Compute<T>, V> load(const T* x, int64_t u) const {
    return prim::widen(load_pack<V>(x + element(u), prim::is_aligned(x, V * int64_t(sizeof(T)))));
  }
  template <class T>
  LAMINA_PRIM void store(T* y, int64_t u, const prim::Pack<Compute<T>, V>& pack) const {
    store_pack(y + element(u), prim::narrow<T>(pack), prim::is_aligned(y, V * int64_t(sizeof(T))));
  }

  // Unit i of a step of this thread, and if there is one.
  LAMINA_PRIM int64_t unit_of(int64_t step, int i) const {
    return (step * step_packs + i) * t.tile.r_threads + r;
  }
  LAMINA_PRIM bool has(int64_t step, int i) const { return is_inside && unit_of(step, i) < t.tile.r_units; }
  // Packs beyond the end become `filler`.
  template <class T>
  LAMINA_PRIM void load_step(const T* x, int64_t step, Step<T, V>& packs, T filler) const {
    const bool is_aligned = prim::is_aligned(x, V * int64_t(sizeof(T)));
#pragma unroll
    for (int i = 0; i < step_packs; ++i) {
#pragma unroll
      for (int v = 0; v < V; ++v) packs[i][v] = filler;
      if (has(step, i)) packs[i] = load_pack<V>(x + element(unit_of(step, i)), is_aligned);
    }
  }

  // Sums over all threads of a result. Inner: of all V values of a thread, which all get it.
  template <class S>
  LAMINA_PRIM void sum(S (&value)[V], S* shared) const {
    const auto add = [](S a, S b) { return a + b; };
    if (t.tile.is_outer) return combine_threads(t.tile, value, shared, add);
    S total[1] = {value[0]};
#pragma unroll
    for (int v = 1; v < V; ++v) total[0] += value[v];
    combine_threads(t.tile, total, shared, add);
#pragma unroll
    for (int v = 0; v < V; ++v) value[v] = total[0];
  }
};

// sum_c exp(x[c]) = sum * exp(shift_of(max)).
template <class S>
struct ExpSum {
  S max, sum;
};

// What is subtracted before exp: the maximum, but 0 in a row of -inf, whose exponentials then are 0, not NaN.
template <class S>
LAMINA_PRIM S shift_of(S max) {
  return max == -S(INFINITY) ? S(0) : max;
}

// The sums of the results of this thread (inner: V times the same), in the online form: a sum is rescaled when its
// maximum grows (Milakov and Gimelshein, arXiv:1805.02867). `packs` holds the last step.
template <class T, int V>
LAMINA_PRIM void exp_sums(const ClassWalk<V>& walk, const T* x, Step<T, V>& packs, ExpSum<Compute<T>>* shared,
                          ExpSum<Compute<T>> (&state)[V]) {
  using S = Compute<T>;
  const S low = -S(INFINITY);
  const bool is_outer = walk.t.tile.is_outer;
#pragma unroll
  for (int v = 0; v < V; ++v) state[v] = {low, S(0)};
  for (int64_t step = 0; step < walk.t.steps; ++step) {
    walk.load_step(x, step, packs, prim::narrow<T>(low));
    S max[V], row_max = low;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      max[v] = state[v].max;
#pragma unroll
      for (int i = 0; i < step_packs; ++i) max[v] = prim::max(max[v], prim::widen(packs[i][v]));
      row_max = prim::max(row_max, max[v]);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (!is_outer) max[v] = row_max;
      const S shift = shift_of(max[v]);
      S sum = step > 0 ? state[v].sum * prim::exp(state[v].max - shift) : S(0);
#pragma unroll
      for (int i = 0; i < step_packs; ++i) sum += prim::exp(prim::widen(packs[i][v]) - shift);
      state[v] = {max[v], sum};
    }
  }
  const auto combine = [](ExpSum<S> a, ExpSum<S> b) {
    const S max = prim::max(a.max, b.max), shift = shift_of(max);
    return ExpSum<S>{max, a.sum * prim::exp(a.max - shift) + b.sum * prim::exp(b.max - shift)};
  };
  if (is_outer) return combine_threads(walk.t.tile, state, shared, combine);
  ExpSum<S> row[1] = {state[0]};
#pragma unroll
  for (int v = 1; v < V; ++v) row[0].sum += state[v].sum;
  combine_threads(walk.t.tile, row, shared, combine);
#pragma unroll
  for (int v = 0; v < V; ++v) state[v] = row[0];
}

}  // namespace lamina::LAMINA_DEVICE
