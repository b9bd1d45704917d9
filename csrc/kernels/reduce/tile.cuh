// A block of threads as a tile: k_threads results, r_threads threads for each of them.
//
//   inner: neighbouring threads share a result       outer: neighbouring threads have neighbouring results
//     k0: t0 t1 t2 t3                                  r0: t0 t1 t2 t3   (k0 k1 k2 k3)
//     k1: t4 t5 t6 t7                                  r1: t4 t5 t6 t7
//
// Inner where the reduced elements are neighbours in memory, outer where the results are.
#pragma once

#include "base/launch.h"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {

constexpr int tile_threads = 256;

// The smallest power of two that is at least n, from 1 to `limit`, itself a power of two.
inline int power_of_two(int64_t n, int64_t limit) {
  int64_t power = 1;
  while (power < n && power < limit) power *= 2;
  return int(power);
}

struct Tile {
  bool is_outer;
  int k_threads, r_threads;  // powers of two
  int64_t k_units, r_units;  // results, and what is reduced for each of them; either may count packs
  int64_t k_tiles;           // blocks for the results

  Launch launch(int64_t shared) const {
    return {.grid = {k_tiles < grid_limit ? k_tiles : grid_limit},
            .block = {k_threads * r_threads},
            .shared = shared};
  }
};

// Threads take 4 of the r_units each, as long as there are threads.
inline Tile choose_threads(bool is_outer, int64_t k_units, int64_t r_units) {
  Tile t = {is_outer, 1, 1, k_units, r_units, 0};
  if (is_outer) t.k_threads = power_of_two(k_units, 32);
  t.r_threads = power_of_two(ceil_div(r_units, 4), tile_threads / t.k_threads);
  if (!is_outer) t.k_threads = power_of_two(k_units, tile_threads / t.r_threads);
  t.k_tiles = ceil_div(k_units, t.k_threads);
  return t;
}

// The place of a thread in its tile.
struct TilePlace {
  int k, r;
};
LAMINA_PRIM TilePlace place_in(const Tile& tile) {
  const int t = prim::thread();
  if (tile.is_outer) return {t % tile.k_threads, t / tile.k_threads};
  return {t / tile.r_threads, t % tile.r_threads};
}

// Elements in a pack where a thread keeps several values for each of them: 8 would take too many registers.
template <class T>
inline constexpr int small_pack = prim::vector_of<T> < 4 ? prim::vector_of<T> : 4;

// N neighbouring elements, as one where their address allows it.
template <int N, class T>
LAMINA_PRIM prim::Pack<T, N> load_pack(const T* p, bool is_aligned) {
  if (is_aligned) return prim::load_vector<N>(p);
  prim::Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack[i] = p[i];
  return pack;
}
template <int N, class T>
LAMINA_PRIM void store_pack(T* p, const prim::Pack<T, N>& pack, bool is_aligned) {
  if (is_aligned) return prim::store_vector(p, pack);
#pragma unroll
  for (int i = 0; i < N; ++i) p[i] = pack[i];
}

// Combines the V states of the threads of a result as a binary tree; all of them get what comes out. `shared`: V *
// tile_threads states of shared memory, which may be used again at once.
template <int V, class State, class F>
LAMINA_PRIM void combine_threads(const Tile& tile, State (&state)[V], State* shared, F combine) {
  if (tile.r_threads == 1) return;
  const int t = prim::thread(), r = place_in(tile).r, stride = tile.is_outer ? tile.k_threads : 1;
#pragma unroll
  for (int v = 0; v < V; ++v) shared[v * tile_threads + t] = state[v];
  for (int half = tile.r_threads / 2; half > 0; half /= 2) {
    prim::block_sync();  // the states of the upper half
    if (r >= half) continue;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      state[v] = combine(state[v], shared[v * tile_threads + t + half * stride]);
      shared[v * tile_threads + t] = state[v];
    }
  }
  prim::block_sync();  // the result
#pragma unroll
  for (int v = 0; v < V; ++v) state[v] = shared[v * tile_threads + t - r * stride];
  prim::block_sync();  // before `shared` is written again
}

}  // namespace lamina::LAMINA_DEVICE
