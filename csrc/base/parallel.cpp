#include "base/parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lamina {
namespace {

// Pauses before a thread sleeps: 2000 are 20 to 50 us, about the gap between two kernels of one layer.
constexpr int spin_limit = 2000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Moves this thread to another of its CPUs. Linux wakes a worker on the CPU of its caller where it takes no other for idle,
// as in virtual machines, whose idle CPUs their hosts have put to sleep. There it would wait for milliseconds, behind a
// caller that computes alone and lets nobody in. So a caller that wakes workers yields once, and a worker that then finds
// itself on the caller's CPU leaves it (measured: half of all calls after a pause ran on one thread of two, now none).
void leave_cpu(int cpu) {
  cpu_set_t all;
  if (sched_getaffinity(0, sizeof all, &all) != 0) return;
  cpu_set_t others = all;
  CPU_CLR(cpu, &others);
  if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
  sched_setaffinity(0, sizeof all, &all);
}

// The floating-point control word (rounding, flush-to-zero) of the caller holds in its workers too.
#if defined(__x86_64__)
unsigned float_control() { return _mm_getcsr(); }
void set_float_control(unsigned word) { _mm_setcsr(word); }
#else
unsigned float_control() { return 0; }
void set_float_control(unsigned) {}
#endif

thread_local bool is_inside = false;  // true iff this thread is running a chunk

// The chunks of one parallel_run, claimed by whichever thread comes.
struct Job {
  void (*body)(const void*, int64_t);
  const void* context;
  int64_t chunks;
  unsigned control = float_control();
  std::atomic<int64_t> next{0};

  void claim() {
    const unsigned own = float_control();
    set_float_control(control);
    is_inside = true;
    for (int64_t chunk; (chunk = next.fetch_add(1)) < chunks;) body(context, chunk);
    is_inside = false;
    set_float_control(own);
  }
};

class Pool {
 public:
  explicit Pool(int workers) : workers_(workers) {
    for (int i = 0; i < workers; ++i) std::thread([this] { work(); }).detach();
  }

  int workers() const { return workers_; }

  // False iff another caller has the pool.
  bool try_run(Job& job) {
    std::unique_lock lock(caller_, std::try_to_lock);
    if (!lock) return false;
    job_ = &job;
    caller_cpu_.store(sched_getcpu());
    is_open_.store(true);
    epoch_.fetch_add(1);
    if (sleepers_.load() > 0) {
      epoch_.notify_all();
      sched_yield();  // see leave_cpu
    }
    job.claim();
    // Close, then wait for those inside: a worker that enters later sees the closed door and touches nothing.
    is_open_.store(false);
    while (inside_.load() != 0) pause();
    return true;
  }

  void retire() {
    std::lock_guard lock(caller_);
    is_retired_.store(true);
    epoch_.fetch_add(1);
    epoch_.notify_all();
  }

 private:
  void work() {
    uint32_t seen = 0;
    while (!is_retired_.load()) {
      for (int i = 0; i < spin_limit && epoch_.load() == seen; ++i) pause();
      if (epoch_.load() == seen) {
        sleepers_.fetch_add(1);
        epoch_.wait(seen);
        sleepers_.fetch_sub(1);
      }
      seen = epoch_.load();
      const int cpu = sched_getcpu();
      if (is_open_.load() && cpu == caller_cpu_.load()) leave_cpu(cpu);
      inside_.fetch_add(1);
      if (is_open_.load()) job_->claim();
      inside_.fetch_sub(1);
    }
  }

  const int workers_;
  std::mutex caller_;
  Job* job_ = nullptr;
  std::atomic<bool> is_open_{false}, is_retired_{false};
  std::atomic<int> inside_{0}, sleepers_{0}, caller_cpu_{0};
  std::atomic<uint32_t> epoch_{0};
};

struct Count {
  int threads;
  const char* source;
};

int from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text ? std::max(0, std::atoi(text))
              : 0;  // OMP_NUM_THREADS may be a list "4,2": the first entry counts
}

// cgroup v2 cpu.max is "quota period" in microseconds, or "max period".
int cgroup_quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  return file >> quota >> period && period > 0 ? std::max(1, int(std::ceil(quota / period))) : 0;
}

Count default_count() {
  for (const char* name : {"LAMINA_NUM_THREADS", "OMP_NUM_THREADS"})
    if (int n = from_environment(name)) return {n, name};
  cpu_set_t set;
  CPU_ZERO(&set);
  const int allowed = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  const int quota = cgroup_quota();
  return quota && quota < allowed ? Count{quota, "cgroup quota"} : Count{std::max(1, allowed), "affinity"};
}

// Never destroyed: workers may outlive static destruction.
struct State {
  std::mutex mutex;
  Count count = default_count();
  std::atomic<int> threads{count.threads};
  std::atomic<Pool*> pool{nullptr};
  std::atomic<TeamRun> team{nullptr};
};

State*& state_slot() {
  static State* state = [] {
    // A forked child has none of the parent's threads: it starts over with a pool of its own, made at first use.
    pthread_atfork(nullptr, nullptr, [] {
      State* old = state_slot();
      State* fresh = new State;
      fresh->count = old->count;
      fresh->threads.store(old->threads.load());
      state_slot() = fresh;
      is_inside = false;
    });
    return new State;
  }();
  return state;
}

Pool* pool_of(State& state) {
  Pool* pool = state.pool.load();
  if (pool) return pool;
  std::lock_guard lock(state.mutex);
  if (!state.pool.load()) state.pool.store(new Pool(state.count.threads - 1));
  return state.pool.load();
}

}  // namespace

int num_threads() { return state_slot()->threads.load(std::memory_order_relaxed); }

const char* num_threads_source() {
  State& state = *state_slot();
  std::lock_guard lock(state.mutex);
  return state.count.source;
}

void set_num_threads(int n) {
  State& state = *state_slot();
  std::lock_guard lock(state.mutex);
  state.count = {n, "set_num_threads"};
  state.threads.store(n);
  if (Pool* old = state.pool.load(); old && old->workers() != n - 1) {
    state.pool.store(nullptr);
    old->retire();  // its workers leave; the object stays, as a late worker may still look at it
  }
}

TeamRun use_team(TeamRun run) {
#if defined(__SANITIZE_THREAD__)
  // The sanitizer does not see how threads of a library that it has not built wait for each other.
  run = nullptr;
#endif
  return state_slot()->team.exchange(run);
}

void parallel_run(int64_t chunks, void (*body)(const void*, int64_t), const void* context) {
  if (chunks > 1 && !is_inside && num_threads() > 1) {
    Job job{body, context, chunks};
    if (const TeamRun team = state_slot()->team.load())
      return team([](void* shared) { static_cast<Job*>(shared)->claim(); }, &job, 0, 0);
    if (pool_of(*state_slot())->try_run(job)) return;
  }
  for (int64_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
}

}  // namespace lamina
