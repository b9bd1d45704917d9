// A stable sort, with which sums over equal indices and shuffles have one order in every run.
//
// An entry of one of two sorted runs goes, when they are merged, to its own index in its run plus the number of entries
// of the other run that come before it. A binary search finds that number, so a thread takes an entry and knows nothing
// of others. Of equal places the left run's come first. Runs up to 1024 entries grow in shared memory; each further
// doubling is a launch: log2(n / 1024) of them, each of n log2(run) reads, most of which the caches serve.
#pragma once

#include <cstdint>

#include "prim/thread.cuh"

namespace lamina::LAMINA_DEVICE {

struct alignas(16) Entry {
  int64_t place;   // sorted by
  int64_t source;  // whose it is
};

// The first entry in [low, high) of sorted ones whose place is not less than `place`; with `is_after`, is greater.
LAMINA_PRIM int64_t find_place(const Entry* entries, int64_t low, int64_t high, int64_t place,
                               bool is_after) {
  while (low < high) {
    const int64_t middle = (low + high) / 2, at = entries[middle].place;
    if (at < place || (is_after && at == place))
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// Sorts n entries in device memory. The result is in one of the two buffers, which is returned.
Entry* sort_entries(Entry* entries, Entry* spare, int64_t n);

}  // namespace lamina::LAMINA_DEVICE
