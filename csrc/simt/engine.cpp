// Scheduling: grids, blocks and threads; who runs next; what is said when nobody can.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "simt/state.h"

namespace lamina::simt {

Index thread_index, block_index, block_extent, grid_extent;

namespace {

constexpr int64_t page = 4096, canary_bytes = 1024;
constexpr int64_t max_idle_yields = 1000000;  // of threads that spin, with nothing else going on
constexpr size_t least_identities = 1024;     // of threads: four blocks of 256 in a row are strangers
constexpr size_t least_resting = 256;         // identities of operations

Index index_of(Extent e) { return {uint32_t(e.x), uint32_t(e.y), uint32_t(e.z)}; }

std::string text(Index i) { return cat('(', i.x, ", ", i.y, ", ", i.z, ')'); }

// "0-31, 64": the numbers of threads.
std::string ranges(const std::vector<int>& numbers) {
  std::string out;
  for (size_t i = 0; i < numbers.size();) {
    size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    out += cat(out.empty() ? "" : ", ", numbers[i]);
    if (last > i) out += cat('-', numbers[last]);
    i = last + 1;
  }
  return out;
}

}  // namespace

Engine& engine() {
  static Engine e;
  return e;
}

void fail(const char* what) { throw StateError(what); }

void require(int architecture, const char* what) {
  const int ours = sim::device_properties().architecture;
  if (ours < architecture) throw StateError(cat(what, " needs sm_", architecture, "; this is sm_", ours));
}

// --- shared memory, blocks ---------------------------------------------------------------------------------------

SharedMemory::SharedMemory(int64_t bytes)
    : bytes_(bytes), mapped_((bytes + canary_bytes + page - 1) / page * page + page) {
  void* p = mmap(nullptr, size_t(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(static_cast<char*>(p) + mapped_ - page, page, PROT_NONE);
  data_ = static_cast<char*>(p);
  poison();
}

void SharedMemory::poison() {
  asan::unpoison(data_, size_t(mapped_ - page));
  std::memset(data_, 0xff, size_t(mapped_ - page));
  asan::poison(data_ + bytes_, size_t(mapped_ - page - bytes_));
}

SharedMemory::~SharedMemory() {
  asan::unpoison(data_, size_t(mapped_ - page));
  munmap(data_, size_t(mapped_));
}

void SharedMemory::check_canary() const {
  asan::unpoison(data_ + bytes_, size_t(mapped_ - page - bytes_));
  const char* end = data_ + mapped_ - page;
  if (std::any_of(data_ + bytes_, const_cast<char*>(end), [](char c) { return c != char(0xff); }))
    fail("a thread wrote beyond its shared memory");
}

Block::Block(Index index_, int rank_, Cluster* cluster_, std::unique_ptr<SharedMemory> memory_, int live_)
    : index(index_),
      rank(rank_),
      cluster(cluster_),
      memory(std::move(memory_)),
      shared(*memory),
      live(live_) {
  for (int id = 0; id < 16; ++id) {
    barriers.emplace_back();
    barriers.back().name = id ? cat("barrier ", id) : "block_sync";
  }
}

std::string Block::describe() const { return "block " + text(index); }

char* Block::published_memory() {
  if (published.empty()) published.assign(size_t(shared.bytes()), char(0xff));
  return published.data();
}

void Block::end() {
  shared.check_canary();
  for (Thread& t : threads)
    for (Operation& op : t.stores.pending)
      if (op.fetch)
        throw StateError(cat("the block has ended while a ", op.name, " still reads its shared memory"));
  for (Thread& t : threads) t.stores.land_all();
  if (cluster->blocks.size() > 1) shared.poison();  // for those who kept a pointer to it
}

Block* Engine::block_of(const void* p) {
  if (block().shared.has(p)) return &block();
  for (auto& b : blocks_)
    if (b->shared.has(p)) return b.get();
  return nullptr;
}

Place locate(const void* p, int64_t bytes, const char* what) {
  Block* b = engine().block_of(p);
  if (!b) throw StateError(cat(what, ": ", p, " is not shared memory"));
  const int64_t offset = static_cast<const char*>(p) - b->shared.data();
  if (offset + bytes > b->shared.bytes())
    throw StateError(cat(what, ": bytes ", offset, " to ", offset + bytes, " of ", b->shared.bytes(),
                         " bytes of shared memory"));
  if (!b->live) throw StateError(cat(what, ": ", b->describe(), " has ended"));
  return {b, offset};
}

void* shared_memory() { return engine().block().shared.data(); }

void check_aligned(const void* p, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(p) % uintptr_t(bytes))
    throw StateError(cat(p, " is not ", bytes, "-byte aligned"));
}

// --- threads -----------------------------------------------------------------------------------------------------

void Waitable::wake_all() {
  for (Thread* t : waiters) engine().wake(*t);
  waiters.clear();
}

void Engine::wake(Thread& t) {
  idle_yields_ = 0;
  t.waits_for = nullptr;
  t.block->ready.push_back(&t);
}

void Engine::wait(Waitable& what) {
  running_->waits_for = &what;
  what.waiters.push_back(running_);
  go_on();
}

void Engine::yield() {
  ++idle_yields_;
  (schedule == Schedule::random ? running_->block->ready : yielded_).push_back(running_);
  go_on();
}

void yield() {
  const tsan::Ignore ignore;
  engine().yield();
}

uint64_t Engine::random(uint64_t n) {  // splitmix64 (Steele, Lea, Flood 2014)
  uint64_t z = seed += 0x9e3779b97f4a7c15;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return (z ^ (z >> 31)) % n;
}

void Engine::fail_soon(std::string error) {
  if (error_.empty()) error_ = std::move(error);
}

// Goes back when the last operation that has it is gone.
std::shared_ptr<void> Engine::new_identity() {
  void* identity = nullptr;
  if (resting_identities_.size() > least_resting) {
    identity = resting_identities_.front();
    resting_identities_.pop_front();
  } else {
    identity = tsan::create();
  }
  if (!identity) return nullptr;
  return {identity, [this](void* p) { resting_identities_.push_back(p); }};
}

// The block whose threads go on, if any of them can: one runs as far ahead of the others as it gets.
Block* Engine::pick_block() {
  if (schedule == Schedule::random) {
    if (favourite_ && !favourite_->ready.empty() && random(64)) return favourite_;
    const size_t first = random(blocks_.size());
    for (size_t i = 0; i < blocks_.size(); ++i) {
      favourite_ = blocks_[(first + i) % blocks_.size()].get();
      if (!favourite_->ready.empty()) return favourite_;
    }
    return nullptr;
  }
  const bool is_lifo = schedule == Schedule::lifo;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    Block* b = blocks_[is_lifo ? blocks_.size() - 1 - i : i].get();
    if (!b->ready.empty()) return b;
  }
  return nullptr;
}

// The next thread to run; null if none can, or the launch has failed.
Thread* Engine::pick() {
  for (;;) {
    if (async == Async::random && !transactions_.empty() && !random(4))
      land_transaction(random(transactions_.size()));
    if (!error_.empty() || idle_yields_ > max_idle_yields) return nullptr;
    if (Block* b = pick_block()) {
      std::deque<Thread*>& ready = b->ready;
      if (schedule == Schedule::random) std::swap(ready.front(), ready[random(ready.size())]);
      const bool is_lifo = schedule == Schedule::lifo;
      Thread* next = is_lifo ? ready.back() : ready.front();
      is_lifo ? ready.pop_back() : ready.pop_front();
      return next;
    }
    if (!transactions_.empty()) {
      land_transaction(async == Async::random ? random(transactions_.size()) : 0);
    } else {
      if (yielded_.empty()) return nullptr;
      for (Thread* t : yielded_) t->block->ready.push_back(t);
      yielded_.clear();
    }
  }
}

// Leaves the running thread for the next one, or for run_group() if there is none.
void Engine::go_on() {
  Thread* from = running_;
  Thread* next = pick();
  if (next && next == from) return;
  running_ = next;
  if (next) {
    thread_index = next->index;
    block_index = next->block->index;
  }
  tsan::switch_to(next ? next->fiber->identity() : main_identity_);
  Fiber::switch_to(from ? *from->fiber : main_, next ? *next->fiber : main_);
}

void Engine::entry() {
  Engine& e = engine();
  try {
    (*e.body_)();
  } catch (const std::exception& error) {
    e.fail_soon(cat(error.what(), "\n  in thread ", text(e.running().index), " of ", e.block().describe()));
  }
  Thread& t = e.running();
  tsan::release(&e.end_of_launch);
  tsan::switch_to(e.main_identity_);  // which ignores all that follows
  t.has_ended = true;
  t.warp->ended |= 1u << t.lane;
  e.idle_yields_ = 0;
  Block& b = *t.block;
  --b.live;
  try {
    if (e.error_.empty()) {
      b.barriers[0].expected = b.live;
      b.barriers[0].end_phase_if_full();
      --b.cluster->barrier.expected;
      b.cluster->barrier.end_phase_if_full();
      if (!b.live) b.end();
    }
  } catch (const std::exception& error) {
    e.fail_soon(cat(error.what(), "\n  in ", b.describe()));
  }
  e.go_on();
}

void Engine::run_group(const std::vector<Index>& firsts) {
  const Extent extent = launch_->cluster;
  const int threads = int(launch_->block.size());
  for (const Index& first : firsts) {
    Cluster& cluster = *clusters_.emplace_back(std::make_unique<Cluster>());
    cluster.barrier.name = "cluster barrier";
    cluster.barrier.expected = threads * int(extent.size());
    for (int rank = 0; rank < int(extent.size()); ++rank) {
      const uint32_t x = uint32_t(rank % extent.x), y = uint32_t(rank / extent.x % extent.y),
                     z = uint32_t(rank / (extent.x * extent.y));
      const Index index = {first.x + x, first.y + y, first.z + z};
      blocks_.push_back(
          std::make_unique<Block>(index, rank, &cluster, make_shared_memory(launch_->shared), threads));
      cluster.blocks.push_back(blocks_.back().get());
    }
  }
  const size_t ring = std::max(blocks_.size() * size_t(threads), tsan::is_on() ? least_identities : 0);
  while (fibers_.size() < ring) fibers_.push_back(std::make_unique<Fiber>());
  for (auto& block : blocks_) {
    Block& b = *block;
    b.barriers[0].expected = threads;
    b.warps.resize(size_t(threads + warp_size - 1) / warp_size);
    for (int i = 0; i < threads; ++i) {
      Thread& t = b.threads.emplace_back();
      t.fiber = fibers_[next_fiber_++ % ring].get();
      t.block = &b;
      t.number = i;
      t.lane = i % warp_size;
      t.warp = &b.warps[size_t(i / warp_size)];
      t.warp->block = &b;
      t.warp->index = i / warp_size;
      t.warp->lanes.push_back(&t);
      const int x = int(launch_->block.x), y = int(launch_->block.y);
      t.index = {uint32_t(i % x), uint32_t(i / x % y), uint32_t(i / (x * y))};
      t.fiber->start(entry);
      b.ready.push_back(&t);
    }
  }
  go_on();
  if (error_.empty() && std::any_of(blocks_.begin(), blocks_.end(), [](auto& b) { return b->live > 0; }))
    error_ = report();
  if (error_.empty() && !transactions_.empty())
    error_ = cat("the block has ended before its ", transactions_.front().name, " landed");
  if (error_.empty() && launch_->is_dependent)
    for (auto& b : blocks_)
      if (!b->has_waited_for_dependency)
        error_ = "launched as dependent, but never waits for the launch before";
  forget_group();
}

void Engine::forget_group() {
  transactions_.clear();
  yielded_.clear();
  favourite_ = nullptr;
  if (!tsan::is_on())  // which would remember who used the memory before
    for (auto& b : blocks_) spare_memory_.push_back(std::move(b->memory));
  blocks_.clear();
  clusters_.clear();
  running_ = nullptr;
  idle_yields_ = 0;
}

// Mapping pages for every block would take as long as many a block.
std::unique_ptr<SharedMemory> Engine::make_shared_memory(int64_t bytes) {
  while (!spare_memory_.empty()) {
    std::unique_ptr<SharedMemory> memory = std::move(spare_memory_.back());
    spare_memory_.pop_back();
    if (memory->bytes() != bytes) continue;
    memory->poison();
    return memory;
  }
  return std::make_unique<SharedMemory>(bytes);
}

// Who waits where.
std::string Engine::report() const {
  std::string out = "deadlock";
  for (auto& b : blocks_) {
    std::map<std::string, std::vector<int>> places;
    for (const Thread& t : b->threads)
      if (!t.has_ended)
        places[t.waits_for ? t.waits_for->describe() : "a loop that yields"].push_back(t.number);
    for (auto& [place, numbers] : places)
      out += cat("\n  ", b->describe(), ", thread ", ranges(numbers), ": ", place);
    if (b->live && b->live < int(b->threads.size()))
      out += cat("\n  ", b->describe(), ": ", int(b->threads.size()) - b->live, " threads have ended");
  }
  return out;
}

void Engine::run(const char* name, const Launch& launch, const std::function<void()>& body) {
  const std::lock_guard lock(mutex_);
  const tsan::Ignore ignore;
  launch_ = &launch;
  body_ = &body;
  error_.clear();
  forget_group();
  main_identity_ = tsan::current();
  block_extent = index_of(launch.block);
  grid_extent = index_of(launch.grid);
  const Extent c = launch.cluster;
  std::vector<Index> firsts;
  for (uint32_t z = 0; z < grid_extent.z; z += uint32_t(c.z))
    for (uint32_t y = 0; y < grid_extent.y; y += uint32_t(c.y))
      for (uint32_t x = 0; x < grid_extent.x; x += uint32_t(c.x)) firsts.push_back({x, y, z});
  if (schedule == Schedule::lifo) std::reverse(firsts.begin(), firsts.end());
  if (schedule == Schedule::random)
    for (size_t i = firsts.size(); i > 1; --i) std::swap(firsts[i - 1], firsts[random(i)]);
  if (launch.is_cooperative) {
    run_group(firsts);
  } else {
    for (size_t i = 0; i < firsts.size() && error_.empty(); ++i) run_group({firsts[i]});
  }
  tsan::acquire(&end_of_launch);
  if (error_.empty()) return;
  fibers_.clear();  // threads that were given up left theirs in the middle of something
  throw StateError(cat(name, ": ", error_, "\n  grid ", launch.grid, ", block ", launch.block, ", cluster ",
                       launch.cluster, ", ", launch.shared, " bytes of shared memory"));
}

void run(const char* name, const Launch& launch, const std::function<void()>& body) {
  engine().run(name, launch, body);
}

// --- settings ----------------------------------------------------------------------------------------------------

Engine::Engine() {
  auto setting = [](const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value ? value : otherwise;
  };
  const char* random_seed = setting("LAMINA_SIM_SEED", "0");
  seed = std::strtoull(random_seed, nullptr, 10);
  const std::string_view order = setting("LAMINA_SIM_SCHEDULE", "fifo"),
                         landing = setting("LAMINA_SIM_ASYNC", "late");
  schedule = order == "lifo" ? Schedule::lifo : order == "random" ? Schedule::random : Schedule::fifo;
  async = landing == "early" ? Async::early : landing == "random" ? Async::random : Async::late;
}

}  // namespace lamina::simt

bool simt_configure(const char* schedule, const char* async, uint64_t seed) {
  using namespace lamina::simt;
  static const std::map<std::string_view, Schedule> schedules = {
      {"fifo", Schedule::fifo}, {"lifo", Schedule::lifo}, {"random", Schedule::random}};
  static const std::map<std::string_view, Async> asyncs = {
      {"early", Async::early}, {"late", Async::late}, {"random", Async::random}};
  const auto s = schedules.find(schedule);
  const auto a = asyncs.find(async);
  if (s == schedules.end() || a == asyncs.end()) return false;
  engine().schedule = s->second;
  engine().async = a->second;
  engine().seed = seed;
  return true;
}
