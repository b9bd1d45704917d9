// A sort, with which sums over equal indices and shuffles have one order in every run.
//
// An entry of one of two sorted runs goes, when they are merged, to its own index in its run plus the number of entries
// of the other run that come before it. A binary search finds that number, so a thread takes an entry and knows nothing
// of others. Runs up to 1024 entries grow in shared memory; each further doubling is a launch: log2(n / 1024) of them,
// each of n log2(run) reads, most of which the caches serve.
#pragma once

#include <cstdint>

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE {

// Entries are different pairs, sorted by place and then by source.
struct alignas(16) Entry {
  int64_t place, source;
};

// The first of the sorted entries in [low, high) that does not come before `entry`; `high` if all do.
LAMINA_PRIM int64_t find_entry(const Entry* entries, int64_t low, int64_t high, Entry entry) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    const Entry e = entries[middle];
    if (e.place < entry.place || (e.place == entry.place && e.source < entry.source))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Sorts n entries in device memory. The result is in one of the two buffers, which is returned.
Entry* sort_entries(Entry* entries, Entry* spare, int64_t n);

}  // namespace lamina::LAMINA_DEVICE
