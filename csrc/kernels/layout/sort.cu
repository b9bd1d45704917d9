#include "kernels/layout/sort.cuh"

#include <utility>

#include "kernels/layout/space.cuh"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int tile = 1024;  // entries that a block sorts: two copies are 32 KB
constexpr int entries_per_thread = tile / spread_threads;

// Where entry i goes when the sorted runs of `run` entries, a power of two, are merged in pairs.
LAMINA_PRIM int64_t merged_index(const Entry* entries, int64_t i, int64_t n, int64_t run) {
  const int64_t left = i & ~(2 * run - 1), right = left + run < n ? left + run : n,
                end = left + 2 * run < n ? left + 2 * run : n;
  if (i < right) return i + find_entry(entries, right, end, entries[i]) - right;
  return i - right + find_entry(entries, left, right, entries[i]);
}

struct SortShared {
  Entry entries[2][tile];
};

__global__ __launch_bounds__(spread_threads) void sort_tiles_kernel(Entry* entries, int64_t n) {
  auto& s = prim::shared_memory<SortShared>();
  for (int64_t first = int64_t(blockIdx.x) * tile; first < n; first += int64_t(gridDim.x) * tile) {
    const int count = n - first < tile ? int(n - first) : tile;
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) s.entries[0][i] = entries[first + i];
    prim::block_sync();  // the tile is there
    int now = 0;
    for (int run = 1; run < count; run *= 2) {
      for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
        s.entries[1 - now][merged_index(s.entries[now], i, count, run)] = s.entries[now][i];
      prim::block_sync();  // the pass is complete
      now = 1 - now;
    }
    for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) entries[first + i] = s.entries[now][i];
    prim::block_sync();  // the tile has been read
  }
}

__global__ __launch_bounds__(spread_threads) void merge_runs_kernel(const Entry* from, Entry* to, int64_t n,
                                                                    int64_t run) {
  for_items(n, [&](int64_t i) { to[merged_index(from, i, n, run)] = from[i]; });
}

}  // namespace

Entry* sort_entries(Entry* entries, Entry* spare, int64_t n) {
  Launch tiles = spread((n + entries_per_thread - 1) / entries_per_thread);
  launch("sort_tiles", sort_tiles_kernel,
         {.grid = tiles.grid, .block = tiles.block, .shared = sizeof(SortShared)}, entries, n);
  for (int64_t run = tile; run < n; run *= 2) {
    launch("merge_runs", merge_runs_kernel, spread(n), entries, spare, n, run);
    std::swap(entries, spare);
  }
  return entries;
}

}  // namespace lamina::LAMINA_DEVICE
