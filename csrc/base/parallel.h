// parallel_for: the one way in which CPU kernels use more than one core.
//
// Work is cut into chunks by shape only, never by thread count, so results have the same bits for any number of
// threads. The caller takes part and never waits for a worker that has not started; a nested or concurrent call runs
// inline on the thread that made it. Bodies must not throw.
#pragma once

#include <cstdint>

#include "base/export.h"

namespace lamina {

// Number of threads that parallel_for may use, and where the number came from ("LAMINA_NUM_THREADS", "OMP_NUM_THREADS",
// "affinity", "cgroup quota" or "set_num_threads").
LAMINA_EXPORT int num_threads();
LAMINA_EXPORT const char* num_threads_source();
LAMINA_EXPORT void set_num_threads(int n);  // n >= 1

// OpenMP's way to run body(context) on every thread of the caller's team (GOMP_parallel; 0 threads: as many as the caller
// has set). Given that of another library, kernels run on its threads: two pools whose workers spin between calls would
// take the cores from each other. Null goes back to the own pool, as a forked child does: the team did not survive.
using TeamRun = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);
LAMINA_EXPORT TeamRun use_team(TeamRun run);  // gives the one before

LAMINA_EXPORT void parallel_run(int64_t chunks, void (*body)(const void* context, int64_t chunk),
                                const void* context);

// Runs body(chunk) once for every chunk in [0, chunks), in any order. The body is compiled once, as a function of its own.
template <class F>
[[gnu::always_inline]] inline void parallel_for(int64_t chunks, const F& body) {
  const auto run = [](const void* context, int64_t chunk)
                       __attribute__((noinline)) { (*static_cast<const F*>(context))(chunk); };
  if (chunks == 1) return run(&body, 0);
  parallel_run(chunks, run, &body);
}

// Cuts [0, n) into ranges of `grain` elements (the last may be shorter) and runs body(begin, end) for each.
template <class F>
[[gnu::always_inline]] inline void parallel_ranges(int64_t n, int64_t grain, const F& body) {
  if (n <= 0) return;
  parallel_for(n <= grain ? 1 : (n + grain - 1) / grain, [&](int64_t chunk) {
    const int64_t begin = chunk * grain, end = begin + grain < n ? begin + grain : n;
    body(begin, end);
  });
}

}  // namespace lamina
