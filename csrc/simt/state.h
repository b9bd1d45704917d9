// The engine's state, shared by its sources. See engine.h.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/check.h"
#include "simt/builtin.h"
#include "simt/engine.h"
#include "simt/fiber.h"
#include "simt/sanitizer.h"

namespace lamina::simt {

struct Block;
struct Thread;

// Something that threads wait for.
struct Waitable {
  std::vector<Thread*> waiters;
  virtual std::string describe() const = 0;
  void wake_all();

 protected:
  ~Waitable() = default;
};

// Counts threads; its n-th phase ends when all of them have arrived. What happened before the arrivals of a phase
// happened before those who wait for it go on: one object for each of two phases, because a fast thread may arrive at
// the next one before a slow waiter has left this one.
struct Barrier : Waitable {
  std::string name;
  int expected = 0, arrived = 0;
  unsigned phase = 0;
  char order[2] = {};

  std::string describe() const override;
  unsigned arrive();  // returns the phase
  void wait_for(unsigned phase);
  void end_phase_if_full();
};

struct Mbarrier : Waitable {
  Block* block;
  int64_t offset;
  int count, pending;
  int64_t bytes = 0;
  unsigned phase = 0;
  char order[4] = {};

  std::string describe() const override;
  void arrive(int n);
  void expect(int64_t n);
  void complete(int64_t n);

 private:
  void end_phase_if_complete();
};

// Lanes of a warp that meet at an operation.
struct Meeting : Waitable {
  const char* name;
  uint32_t mask, arrived = 0;
  unsigned phase = 0;
  void* operands[warp_size] = {};
  char order[2] = {};

  std::string describe() const override;
};

// An operation that is issued now and lands later. `begin`, where there is one, poisons what it will write; `fetch`, where
// there is one, reads a source that must stay as it is until then; `land` does the rest. To ThreadSanitizer they run as a
// thread of their own, which knows what its issuer has done.
struct Operation {
  const char* name;
  std::function<void()> begin = nullptr, fetch = nullptr, land = nullptr;
  int group = 0;
  std::shared_ptr<void> identity = nullptr;

  void run_begin(std::shared_ptr<void> as);
  void run_fetch();
  void run_land();
};

// Operations of a thread or a warp, in groups that are waited for in order.
struct Groups {
  int committed = 0;
  std::vector<Operation> pending;
  std::shared_ptr<void> identity = nullptr;  // of the group that is being issued
  char order = 0;

  void issue(Operation op);
  void commit(bool lands_in_order);
  void wait(int groups_left, bool only_reads = false);
  void land_all();

 private:
  void land_at_random(bool in_order);
};

// Accumulators of a warp that wgmmas are writing: NaN in the registers until the last of them has landed.
struct Accumulators {
  float* registers[warp_size];
  int n, in_flight = 0;
  std::vector<float> values;  // (16, n)
};

struct Warp {
  Block* block;
  int index;
  std::vector<Thread*> lanes;
  uint32_t ended = 0;  // lanes
  std::vector<std::unique_ptr<Meeting>> meetings;
  Groups wgmmas;
  std::map<float*, Accumulators> accumulators;  // by the registers of its first lane
  bool is_fenced = false;
  int registers = 0;
};

struct Thread {
  Fiber* fiber = nullptr;
  Block* block = nullptr;
  Warp* warp = nullptr;
  Index index;
  int number = 0, lane = 0;
  Waitable* waits_for = nullptr;  // null iff ready, running or ended
  bool has_ended = false;
  unsigned cluster_phase = 0;
  Groups copies, stores;
};

struct Cluster {
  std::vector<Block*> blocks;
  Barrier barrier;
};

// Shared memory and what lies behind it: bytes that nobody may write, and a page that nobody may touch.
class SharedMemory {
 public:
  explicit SharedMemory(int64_t bytes);
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory();

  void poison();
  char* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  bool has(const void* p) const { return p >= data_ && p < data_ + bytes_; }
  void check_canary() const;

 private:
  int64_t bytes_, mapped_;
  char* data_;
};

struct Block {
  Block(Index index, int rank, Cluster* cluster, std::unique_ptr<SharedMemory> memory, int live);

  Index index;
  int rank;  // in the cluster
  Cluster* cluster;
  std::unique_ptr<SharedMemory> memory;
  SharedMemory& shared;
  std::vector<char>
      published;  // shared memory as the asynchronous proxy sees it; empty until it is first used
  std::deque<Warp> warps;
  std::deque<Thread> threads;
  std::deque<Barrier> barriers;
  std::map<int64_t, Mbarrier> mbarriers;
  std::deque<Thread*> ready;
  int live;
  bool has_waited_for_dependency = false;

  char* published_memory();
  std::string describe() const;
  void end();
};

enum class Schedule { fifo, lifo, random };
enum class Async { early, late, random };

class Engine {
 public:
  Engine();
  void run(const char* name, const Launch& launch, const std::function<void()>& body);

  Thread& running() { return *running_; }
  Block& block() { return *running_->block; }
  Block* block_of(const void* shared);  // whose shared memory it is; null if no resident block's
  void wait(Waitable& what);
  void wake(Thread& t);
  void yield();
  void fail_soon(std::string error);     // once the running thread gives way
  void issue(Operation op);              // of the block, signalled by an mbarrier
  std::shared_ptr<void> new_identity();  // of operations, to ThreadSanitizer
  uint64_t random(uint64_t n);           // below n

  Schedule schedule = Schedule::fifo;
  Async async = Async::late;
  uint64_t seed = 0;
  char end_of_launch = 0;  // everything happens before it, to ThreadSanitizer

 private:
  static void entry();
  void go_on();
  Block* pick_block();
  Thread* pick();
  void land_transaction(size_t i);
  void run_group(const std::vector<Index>& clusters);
  void forget_group();
  std::unique_ptr<SharedMemory> make_shared_memory(int64_t bytes);
  std::string report() const;

  std::mutex mutex_;
  const Launch* launch_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  Fiber main_;
  void* main_identity_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;  // threads take them in turns
  size_t next_fiber_ = 0;
  std::deque<void*> resting_identities_;  // of operations that have landed, the oldest first
  std::vector<std::unique_ptr<SharedMemory>> spare_memory_;
  std::deque<std::unique_ptr<Cluster>> clusters_;
  std::deque<std::unique_ptr<Block>> blocks_;
  std::deque<Thread*> yielded_;
  std::deque<Operation> transactions_;
  Thread* running_ = nullptr;
  std::string error_;
  Block* favourite_ = nullptr;  // at random schedule, the block that goes on for a while
  int64_t idle_yields_ = 0;
};

Engine& engine();

// Runs complete(operands of all lanes, mask) once when all lanes of `mask` have brought theirs. Orders no memory.
using Completion = std::function<void(void* const* operands, uint32_t mask)>;
void meet(const char* name, uint32_t mask, void* operands, const Completion& complete,
          bool orders_memory = false);

// Memory accesses of operations, which ThreadSanitizer is told of.
void copy(void* to, const void* from, int64_t bytes);
void read_published(void* to, const Block& block, int64_t offset, int64_t bytes);
void write_published(Block& block, int64_t offset, const void* from, int64_t bytes);
void poison(Block& block, int64_t offset, int64_t bytes);
void check_global(const void* p, int64_t bytes, const char* what);
// Fails on earlier architectures.
void require(int architecture, const char* what);
// Fails unless `bytes` bytes at p are shared memory of a block that has not ended; returns it and the offset in it.
struct Place {
  Block* block;
  int64_t offset;
};
Place locate(const void* p, int64_t bytes, const char* what);

Mbarrier& mbarrier_at(const void* p);

}  // namespace lamina::simt
