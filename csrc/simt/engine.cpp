#include "simt/engine.h"

#include <sys/mman.h>

#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "simt/builtin.h"
#include "simt/fiber.h"

namespace lamina::simt {

Index thread_index, block_index, block_extent, grid_extent;

namespace {

struct Warp;
struct Block;

struct Thread {
  Fiber* fiber;
  Warp* warp;
  Index index;
  int lane;
  const char* waits_for = nullptr;  // null: ready or running
  bool has_ended = false;
};

struct Warp {
  Block* block;
  std::vector<Thread*> lanes;
  // The collective operation that lanes are meeting at.
  const char* operation = nullptr;
  uint32_t mask = 0, arrived = 0;
  void* operands[warp_size] = {};
};

struct Block {
  Index index;
  char* shared;
  std::vector<Warp> warps;
  std::vector<Thread> threads;
  int live = 0, at_barrier = 0;
};

struct Engine {
  std::mutex mutex;
  Fiber main;
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept for the next launch
  std::deque<Thread*> ready;
  Thread* running = nullptr;
  Block* block = nullptr;
  const std::function<void()>* body = nullptr;
  std::string error;

  void go_on();
  void wait(const char* what) {
    running->waits_for = what;
    go_on();
  }
  void wake(Thread* t) {
    t->waits_for = nullptr;
    ready.push_back(t);
  }
  void run_block(const Launch& launch, Index index, char* shared);
};

Engine& engine() {
  static Engine e;
  return e;
}

// Runs the next ready thread; without one, the caller of run().
void Engine::go_on() {
  Fiber& from = running ? *running->fiber : main;
  Thread* next = nullptr;
  if (error.empty() && !ready.empty()) {
    next = ready.front();
    ready.pop_front();
  }
  if (next == running && next) return;
  running = next;
  if (next) {
    thread_index = next->index;
    block_index = next->warp->block->index;
  }
  Fiber::switch_to(from, next ? *next->fiber : main);
}

constexpr const char* at_block_sync = "block_sync";

void release_barrier_if_complete(Block& b) {
  if (!b.live || b.at_barrier < b.live) return;
  b.at_barrier = 0;
  for (Thread& t : b.threads)
    if (t.waits_for == at_block_sync) engine().wake(&t);
}

void entry() {
  Engine& e = engine();
  try {
    (*e.body)();
  } catch (const std::exception& error) {
    e.error = error.what();
  }
  Thread& t = *e.running;
  t.has_ended = true;
  --t.warp->block->live;
  release_barrier_if_complete(*t.warp->block);
  e.go_on();
}

std::string describe(const Thread& t) {
  return cat("thread (", t.index.x, ", ", t.index.y, ", ", t.index.z, ") waits at ", t.waits_for);
}

void Engine::run_block(const Launch& launch, Index index, char* shared) {
  const auto threads = size_t(launch.block.size());
  std::memset(shared, 0xff, size_t(launch.shared));
  Block b = {.index = index,
             .shared = shared,
             .warps = std::vector<Warp>((threads + warp_size - 1) / warp_size),
             .threads = std::vector<Thread>(threads),
             .live = int(threads)};
  block = &b;
  while (fibers.size() < threads) fibers.push_back(std::make_unique<Fiber>());
  ready.clear();
  for (size_t i = 0; i < threads; ++i) {
    Warp& warp = b.warps[i / warp_size];
    warp.block = &b;
    const auto x = size_t(launch.block.x), y = size_t(launch.block.y);
    b.threads[i] = {.fiber = fibers[i].get(),
                    .warp = &warp,
                    .index = {uint32_t(i % x), uint32_t(i / x % y), uint32_t(i / (x * y))},
                    .lane = int(i % warp_size)};
    warp.lanes.push_back(&b.threads[i]);
    fibers[i]->start(entry);
    ready.push_back(&b.threads[i]);
  }
  go_on();
  if (error.empty() && b.live) {
    error = "deadlock";
    for (const Thread& t : b.threads)
      if (!t.has_ended) error += "\n  " + describe(t);
  }
}

}  // namespace

void* shared_memory() { return engine().block->shared; }

void block_sync() {
  Engine& e = engine();
  e.running->waits_for = at_block_sync;
  ++e.block->at_barrier;
  release_barrier_if_complete(*e.block);
  e.go_on();
}

void warp_collective(const char* name, uint32_t mask, void* operands, WarpOperation complete) {
  Engine& e = engine();
  Thread& t = *e.running;
  Warp& w = *t.warp;
  for (size_t lane = 0; lane < warp_size; ++lane)  // lanes beyond the block do not count
    if (lane >= w.lanes.size()) mask &= ~(1u << lane);
  if (w.arrived && (std::strcmp(w.operation, name) != 0 || w.mask != mask))
    throw StateError(cat("lanes of a warp meet at ", w.operation, " and ", name));
  w.operation = name;
  w.mask = mask;
  w.arrived |= 1u << t.lane;
  w.operands[t.lane] = operands;
  if (w.arrived != mask) return e.wait(name);
  complete(w.operands, mask);
  w.arrived = 0;
  for (Thread* lane : w.lanes)
    if (lane != &t && (mask >> lane->lane & 1)) e.wake(lane);
}

void check_aligned(const void* p, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % uintptr_t(bytes))
    throw StateError(cat(p, " is not ", bytes, "-byte aligned"));
}

void yield() {
  Engine& e = engine();
  e.wake(e.running);
  e.go_on();
}

void run(const char* name, const Launch& launch, const std::function<void()>& thread) {
  Engine& e = engine();
  const std::lock_guard lock(e.mutex);
  e.body = &thread;
  e.error.clear();
  auto extent = [](Extent x) { return Index{uint32_t(x.x), uint32_t(x.y), uint32_t(x.z)}; };
  block_extent = extent(launch.block);
  grid_extent = extent(launch.grid);
  const std::unique_ptr<char, decltype(&std::free)> shared(
      static_cast<char*>(std::aligned_alloc(1024, size_t(launch.shared + 1024) / 1024 * 1024)), std::free);
  for (uint32_t z = 0; z < grid_extent.z; ++z)
    for (uint32_t y = 0; y < grid_extent.y; ++y)
      for (uint32_t x = 0; x < grid_extent.x; ++x) {
        e.run_block(launch, {x, y, z}, shared.get());
        if (!e.error.empty())
          throw StateError(cat(name, ": ", e.error, " in block (", x, ", ", y, ", ", z, ") of grid ",
                               launch.grid, ", block ", launch.block));
      }
}

}  // namespace lamina::simt
