// Where threads meet: barriers, mbarriers, operations of a warp, clusters.
#include <cstring>

#include "simt/state.h"

namespace lamina::simt {

// --- barriers ----------------------------------------------------------------------------------------------------

std::string Barrier::describe() const {
  return cat(name, ", where ", arrived, " of ", expected, " have arrived");
}

unsigned Barrier::arrive() {
  tsan::release(&order[phase & 1]);
  const unsigned mine = phase;
  ++arrived;
  end_phase_if_full();
  return mine;
}

void Barrier::end_phase_if_full() {
  if (!arrived || arrived < expected) return;
  arrived = 0;
  ++phase;
  wake_all();
}

void Barrier::wait_for(unsigned which) {
  while (phase == which) engine().wait(*this);
  tsan::acquire(&order[which & 1]);
}

void block_sync() {
  const tsan::Ignore ignore;
  Block& b = engine().block();
  b.barriers[0].expected = b.live;
  b.barriers[0].wait_for(b.barriers[0].arrive());
}

namespace {

Barrier& named_barrier(int id, int threads) {
  if (id < 0 || id > 15) fail("barriers are numbered 0 to 15");
  if (threads <= 0 || threads % warp_size) fail("a barrier is for whole warps");
  Barrier& b = engine().block().barriers[size_t(id)];
  if (b.arrived && b.expected != threads)
    throw StateError(cat(b.name, " is for ", b.expected, " threads and for ", threads));
  b.expected = threads;
  return b;
}

}  // namespace

void barrier_sync(int id, int threads) {
  const tsan::Ignore ignore;
  Barrier& b = named_barrier(id, threads);
  b.wait_for(b.arrive());
}

void barrier_arrive(int id, int threads) {
  const tsan::Ignore ignore;
  named_barrier(id, threads).arrive();
}

// --- warps -------------------------------------------------------------------------------------------------------

std::string Meeting::describe() const {
  std::string lanes;
  for (int i = 0; i < warp_size; ++i)
    if ((mask & ~arrived) >> i & 1) lanes += cat(' ', i);
  return cat(name, ", where these lanes are missing:", lanes);
}

void meet(const char* name, uint32_t mask, void* operands, const Completion& complete, bool orders_memory) {
  Thread& t = engine().running();
  Warp& w = *t.warp;
  if (w.lanes.size() < warp_size) mask &= (1u << w.lanes.size()) - 1;  // lanes beyond the block do not count
  if (!(mask >> t.lane & 1)) throw StateError(cat(name, ": lane ", t.lane, " is not in its own mask"));
  for (Thread* lane : w.lanes)
    if ((mask >> lane->lane & 1) && lane->has_ended)
      throw StateError(cat(name, ": lane ", lane->lane, " has ended"));
  Meeting* m = nullptr;
  for (auto& other : w.meetings) {
    if (other->mask == mask) m = other.get();
    if (other->arrived && (other->mask & mask) &&
        (other->mask != mask || (other->name != name && std::strcmp(other->name, name) != 0)))
      throw StateError(cat("lanes of a warp meet at ", other->name, " and at ", name));
  }
  if (!m) {
    m = w.meetings.emplace_back(std::make_unique<Meeting>()).get();
    m->mask = mask;
  }
  m->name = name;
  m->arrived |= 1u << t.lane;
  m->operands[t.lane] = operands;
  const unsigned phase = m->phase;
  char* order = &m->order[phase & 1];
  if (orders_memory) tsan::release(order);
  if (m->arrived == mask) {
    if (complete) complete(m->operands, mask);
    m->arrived = 0;
    ++m->phase;
    m->wake_all();
  }
  while (m->phase == phase) engine().wait(*m);
  if (orders_memory) tsan::acquire(order);
}

void warp_sync(uint32_t mask) {
  const tsan::Ignore ignore;
  meet("warp_sync", mask, nullptr, nullptr, true);
}

void warp_converge(const char* name) {
  const tsan::Ignore ignore;
  meet(name, 0xffffffffu, nullptr, nullptr);
}

namespace {

struct Exchange {
  uint64_t value, result;
  int source;
};

Exchange& exchange(void* const* operands, int lane) { return *static_cast<Exchange*>(operands[lane]); }

}  // namespace

uint64_t shuffle(const char* name, uint64_t value, int source, uint32_t mask) {
  const tsan::Ignore ignore;
  Exchange x = {.value = value, .result = ~uint64_t(0), .source = source};
  meet(name, mask, &x, [](void* const* operands, uint32_t lanes) {
    for (int i = 0; i < warp_size; ++i)
      if (lanes >> i & 1) {
        Exchange& mine = exchange(operands, i);
        if (lanes >> mine.source & 1) mine.result = exchange(operands, mine.source).value;
      }
  });
  return x.result;
}

uint32_t ballot(bool predicate, uint32_t mask) {
  const tsan::Ignore ignore;
  Exchange x = {.value = predicate, .result = 0, .source = 0};
  meet("ballot", mask, &x, [](void* const* operands, uint32_t lanes) {
    uint32_t votes = 0;
    for (int i = 0; i < warp_size; ++i)
      if (lanes >> i & 1) votes |= uint32_t(exchange(operands, i).value) << i;
    for (int i = 0; i < warp_size; ++i)
      if (lanes >> i & 1) exchange(operands, i).result = votes;
  });
  return uint32_t(x.result);
}

// A warp's registers count from its first setmaxnreg on; 64 K of 32 bits are there for all.
void set_registers(int count) {
  const tsan::Ignore ignore;
  require(90, "setmaxnreg");
  if (count < 24 || count > 256 || count % 8) fail("setmaxnreg takes 24 to 256 registers in steps of 8");
  int lane = engine().running().lane;
  meet("setmaxnreg", 0xffffffffu, &lane, nullptr);
  engine().running().warp->registers = count;
  int used = 0;
  for (const Warp& w : engine().block().warps) used += w.registers * warp_size;
  if (used > 65536) throw StateError(cat("the warps have set ", used, " registers of 65536"));
}

void dependency_wait() { engine().block().has_waited_for_dependency = true; }

// --- clusters ----------------------------------------------------------------------------------------------------

int cluster_rank() { return engine().block().rank; }
int cluster_size() { return int(engine().block().cluster->blocks.size()); }

void cluster_arrive() {
  const tsan::Ignore ignore;
  Thread& t = engine().running();
  t.cluster_phase = t.block->cluster->barrier.arrive();
}

void cluster_wait() {
  const tsan::Ignore ignore;
  Thread& t = engine().running();
  t.block->cluster->barrier.wait_for(t.cluster_phase);
}

void* map_shared(const void* p, int rank) {
  const tsan::Ignore ignore;
  if (rank < 0 || rank >= cluster_size()) throw StateError(cat("the cluster has no block ", rank));
  const Place mine = locate(p, 1, "map_shared");
  Block& other = *engine().block().cluster->blocks[size_t(rank)];
  if (!other.live) throw StateError(cat("map_shared: ", other.describe(), " has ended"));
  return other.shared.data() + mine.offset;
}

// --- mbarriers ---------------------------------------------------------------------------------------------------

namespace {

// What the 8 bytes hold, so that a barrier that was overwritten, or never made, is noticed.
constexpr uint64_t magic = 0x7265697272616221;

}  // namespace

std::string Mbarrier::describe() const {
  return cat("mbarrier at ", block->describe(), " shared + ", offset, ", in phase ", phase, ", where ",
             pending, " of ", count, " arrivals and ", bytes, " bytes are missing");
}

Mbarrier& mbarrier_at(const void* p) {
  const Place place = locate(p, 8, "mbarrier");
  const auto found = place.block->mbarriers.find(place.offset);
  uint64_t word;
  __builtin_memcpy(&word, p, 8);
  if (found == place.block->mbarriers.end() || word != magic)
    throw StateError(
        cat("the mbarrier at shared + ", place.offset, " was not initialised, or was overwritten"));
  return found->second;
}

void mbarrier_init(void* barrier, int count) {
  tsan::write(barrier, 8);
  const tsan::Ignore ignore;
  require(90, "an mbarrier that counts bytes");
  check_aligned(barrier, 8);
  if (count < 1 || count >= 1 << 20) fail("an mbarrier counts 1 to 2^20 - 1 arrivals");
  const Place place = locate(barrier, 8, "mbarrier");
  Mbarrier& b = place.block->mbarriers[place.offset];
  if (!b.waiters.empty()) fail("mbarrier_init of one that threads wait for");
  b = {};
  b.block = place.block;
  b.offset = place.offset;
  b.count = b.pending = count;
  __builtin_memcpy(barrier, &magic, 8);
}

void mbarrier_invalidate(void* barrier) {
  tsan::write(barrier, 8);
  const tsan::Ignore ignore;
  mbarrier_at(barrier);
  const Place place = locate(barrier, 8, "mbarrier");
  place.block->mbarriers.erase(place.offset);
  std::memset(barrier, 0xff, 8);
}

void Mbarrier::arrive(int n) {
  tsan::release(&order[phase & 3]);
  pending -= n;
  if (pending < 0) throw StateError("more arrivals than expected at " + describe());
  end_phase_if_complete();
}

void Mbarrier::expect(int64_t n) {
  bytes += n;
  if (bytes >= 1 << 20 || bytes <= -(1 << 20)) fail("an mbarrier counts less than 2^20 bytes");
}

void Mbarrier::complete(int64_t n) {
  tsan::release(&order[phase & 3]);
  expect(-n);
  end_phase_if_complete();
}

void Mbarrier::end_phase_if_complete() {
  if (pending || bytes) return;
  pending = count;
  ++phase;
  wake_all();
}

void mbarrier_arrive(void* barrier, int count) {
  tsan::read(barrier, 8);
  const tsan::Ignore ignore;
  mbarrier_at(barrier).arrive(count);
}

void mbarrier_expect(void* barrier, int64_t bytes) {
  tsan::read(barrier, 8);
  const tsan::Ignore ignore;
  mbarrier_at(barrier).expect(bytes);
}

bool mbarrier_test(void* barrier, int parity) {
  tsan::read(barrier, 8);
  const tsan::Ignore ignore;
  Mbarrier& b = mbarrier_at(barrier);
  if (int(b.phase & 1) == parity) {
    yield();
    return false;
  }
  tsan::acquire(&b.order[(b.phase - 1) & 3]);
  return true;
}

void mbarrier_wait(void* barrier, int parity) {
  tsan::read(barrier, 8);
  const tsan::Ignore ignore;
  Mbarrier& b = mbarrier_at(barrier);
  while (int(b.phase & 1) == parity) engine().wait(b);
  tsan::acquire(&b.order[(b.phase - 1) & 3]);
}

}  // namespace lamina::simt
