// Operations that land later than they are issued: copies, and what waits for them.
#include <cstring>

#include "simt/state.h"

namespace lamina::simt {

// --- when operations land ----------------------------------------------------------------------------------------

namespace {

// Runs a step of an operation as `identity`.
void run_as(void* identity, std::function<void()>& step) {
  if (!step) return;
  struct Return {
    void* caller = tsan::current();
    ~Return() { tsan::switch_to(caller); }
  } after;
  tsan::switch_to(identity);
  step();
  step = nullptr;
}

}  // namespace

void Operation::run_begin(std::shared_ptr<void> as) {
  identity = std::move(as);
  tsan::precede(identity.get());
  run_as(identity.get(), begin);
}

void Operation::run_fetch() { run_as(identity.get(), fetch); }

void Operation::run_land() {
  run_fetch();
  std::function<void()> last = [this] {
    land();
    tsan::release(&engine().end_of_launch);
  };
  run_as(identity.get(), last);
}

void Groups::issue(Operation op) {
  if (!identity) identity = engine().new_identity();
  op.run_begin(identity);
  op.group = committed;
  if (engine().async == Async::early) {
    op.run_land();
  } else {
    pending.push_back(std::move(op));
  }
}

void Groups::wait(int groups_left, bool only_reads) {
  for (size_t i = 0; i < pending.size() && pending[i].group < committed - groups_left; ++i)
    pending[i].run_fetch();
  if (only_reads) return;
  size_t landed = 0;
  while (landed < pending.size() && pending[landed].group < committed - groups_left)
    pending[landed++].run_land();
  pending.erase(pending.begin(), pending.begin() + ptrdiff_t(landed));
  tsan::acquire(&order);
}

void Groups::land_all() {
  committed = pending.empty() ? committed : pending.back().group + 1;
  wait(0);
}

void Groups::commit(bool lands_in_order) {
  land_at_random(lands_in_order);
  ++committed;
  identity = nullptr;
}

void Groups::land_at_random(bool in_order) {
  if (pending.empty() || engine().async != Async::random || engine().random(4)) return;
  const size_t i = in_order ? 0 : engine().random(pending.size());
  pending[i].run_land();
  pending.erase(pending.begin() + ptrdiff_t(i));
}

void Engine::issue(Operation op) {
  op.run_begin(new_identity());
  if (async == Async::early) {
    op.run_land();
  } else {
    transactions_.push_back(std::move(op));
  }
}

void Engine::land_transaction(size_t i) {
  Operation op = std::move(transactions_[i]);
  transactions_.erase(transactions_.begin() + ptrdiff_t(i));
  idle_yields_ = 0;
  try {
    op.run_land();
  } catch (const std::exception& error) {
    fail_soon(cat(op.name, ": ", error.what()));
  }
}

// --- memory ------------------------------------------------------------------------------------------------------

void copy(void* to, const void* from, int64_t bytes) {
  tsan::read(from, size_t(bytes));
  tsan::write(to, size_t(bytes));
  const tsan::Ignore ignore;
  std::memcpy(to, from, size_t(bytes));
}

// A generic write is seen here only after a proxy fence.
void read_published(void* to, const Block& block, int64_t offset, int64_t bytes) {
  tsan::read(block.shared.data() + offset, size_t(bytes));
  const tsan::Ignore ignore;
  std::memcpy(to, const_cast<Block&>(block).published_memory() + offset, size_t(bytes));
}

void write_published(Block& block, int64_t offset, const void* from, int64_t bytes) {
  tsan::write(block.shared.data() + offset, size_t(bytes));
  const tsan::Ignore ignore;
  std::memcpy(block.shared.data() + offset, from, size_t(bytes));
  std::memcpy(block.published_memory() + offset, from, size_t(bytes));
}

void poison(Block& block, int64_t offset, int64_t bytes) {
  tsan::write(block.shared.data() + offset, size_t(bytes));
  const tsan::Ignore ignore;
  std::memset(block.shared.data() + offset, 0xff, size_t(bytes));
  std::memset(block.published_memory() + offset, 0xff, size_t(bytes));
}

void check_global(const void* p, int64_t bytes, const char* what) {
  if (bytes && asan::is_bad(p, size_t(bytes)))
    throw StateError(cat(what, " outside of an array: ", bytes, " bytes at ", p));
}

void fence_async() {
  const tsan::Ignore ignore;
  Block& b = engine().block();
  std::memcpy(b.published_memory(), b.shared.data(), size_t(b.shared.bytes()));
}

// --- cp.async ----------------------------------------------------------------------------------------------------

void copy_async(void* shared, const void* global, int bytes, int valid) {
  const tsan::Ignore ignore;
  if (bytes != 4 && bytes != 8 && bytes != 16) fail("cp.async copies 4, 8 or 16 bytes");
  if (valid < 0 || valid > bytes) fail("cp.async copies no more than its size");
  check_aligned(shared, bytes);
  check_aligned(global, bytes);
  locate(shared, bytes, "cp.async");
  check_global(global, valid, "cp.async reads");
  char* order = &engine().running().copies.order;
  engine().running().copies.issue({.name = "cp.async",
                                   .begin =
                                       [=] {
                                         tsan::write(shared, size_t(bytes));
                                         const tsan::Ignore inner;
                                         std::memset(shared, 0xff, size_t(bytes));
                                       },
                                   .land =
                                       [=] {
                                         copy(shared, global, valid);
                                         tsan::write(shared, size_t(bytes));
                                         tsan::release(order);
                                         const tsan::Ignore inner;
                                         std::memset(static_cast<char*>(shared) + valid, 0,
                                                     size_t(bytes - valid));
                                       }});
}

void copy_commit() {
  const tsan::Ignore ignore;
  engine().running().copies.commit(false);
}

void copy_wait(int pending) {
  const tsan::Ignore ignore;
  engine().running().copies.wait(pending);
}

// --- cp.async.bulk -----------------------------------------------------------------------------------------------

namespace {

void check_bulk(const void* a, const void* b, int64_t bytes) {
  check_aligned(a, 16);
  check_aligned(b, 16);
  if (bytes < 0 || bytes % 16) fail("cp.async.bulk copies multiples of 16 bytes");
}

// Issues a copy into shared memory whose bytes an mbarrier counts.
void issue_load(const char* name, Place to, void* barrier, int64_t bytes, std::function<void(char*)> read) {
  mbarrier_at(barrier);
  engine().issue({.name = name,
                  .begin = [=] { poison(*to.block, to.offset, bytes); },
                  .land =
                      [=] {
                        std::vector<char> data(static_cast<size_t>(bytes));
                        read(data.data());
                        write_published(*to.block, to.offset, data.data(), bytes);
                        const tsan::Ignore inner;
                        mbarrier_at(barrier).complete(bytes);
                      }});
}

}  // namespace

void bulk_load(void* shared, const void* global, int64_t bytes, void* barrier) {
  const tsan::Ignore ignore;
  check_bulk(shared, global, bytes);
  check_global(global, bytes, "a bulk load reads");
  issue_load("bulk load", locate(shared, bytes, "bulk load"), barrier, bytes,
             [=](char* data) { copy(data, global, bytes); });
}

void bulk_copy(void* remote, const void* shared, int64_t bytes, void* remote_barrier) {
  const tsan::Ignore ignore;
  check_bulk(remote, shared, bytes);
  const Place from = locate(shared, bytes, "bulk copy");
  issue_load("bulk copy", locate(remote, bytes, "bulk copy"), remote_barrier, bytes,
             [=](char* data) { read_published(data, *from.block, from.offset, bytes); });
}

void bulk_store(void* global, const void* shared, int64_t bytes) {
  const tsan::Ignore ignore;
  require(90, "a bulk store");
  check_bulk(global, shared, bytes);
  check_global(global, bytes, "a bulk store writes");
  const Place from = locate(shared, bytes, "bulk store");
  auto data = std::make_shared<std::vector<char>>(size_t(bytes));
  char* order = &engine().running().stores.order;
  engine().running().stores.issue({.name = "bulk store",
                                   .fetch =
                                       [=] {
                                         read_published(data->data(), *from.block, from.offset, bytes);
                                         tsan::release(order);
                                       },
                                   .land = [=] { copy(global, data->data(), bytes); }});
}

void bulk_commit() {
  const tsan::Ignore ignore;
  engine().running().stores.commit(false);
}

void bulk_wait(int pending, bool only_reads) {
  const tsan::Ignore ignore;
  Groups& stores = engine().running().stores;
  stores.wait(pending, only_reads);
  tsan::acquire(&stores.order);
}

// --- tensor maps -------------------------------------------------------------------------------------------------

namespace {

// Where byte `offset` of shared memory lies in a swizzled tile: bits 4 to 6 of the address are changed by bits 7 to 9.
int64_t swizzled(int64_t offset, Swizzle s) {
  const int64_t bits = s == Swizzle::b128 ? 7 : s == Swizzle::b64 ? 3 : s == Swizzle::b32 ? 1 : 0;
  return offset ^ ((offset >> 7 & bits) << 4);
}

// Copies between a tile in order and its swizzled image, whose first byte is at `offset` of shared memory.
void swizzle(char* image, char* tile, int64_t bytes, int64_t offset, Swizzle s, bool to_image) {
  for (int64_t i = 0; i < bytes; i += 16) {
    char* there = image + swizzled(offset + i, s) - offset;
    const int64_t n = bytes - i < 16 ? bytes - i : 16;
    to_image ? std::memcpy(there, tile + i, size_t(n)) : std::memcpy(tile + i, there, size_t(n));
  }
}

// Calls visit(global address or null, offset in the tile, bytes) for the pieces of a box; null: outside of the tensor.
template <class F>
void for_pieces(const TensorLayout& m, const int* coordinates, const int* offsets, F visit) {
  const int64_t element = size_of(m.dtype);
  auto row = [&](const int64_t* at, int count,
                 int64_t offset) {  // at: coordinates of the row's first element
    bool is_inside = true;
    int64_t address = 0;
    for (int d = 1; d < m.rank; ++d) {
      is_inside = is_inside && at[d] >= 0 && at[d] < m.dims[d];
      address += at[d] * m.strides[d];
    }
    const int64_t below = std::min<int64_t>(count, std::max<int64_t>(0, -at[0]));
    const int64_t above = std::max<int64_t>(below, std::min<int64_t>(count, m.dims[0] - at[0]));
    if (!is_inside || below == above) return visit(static_cast<char*>(nullptr), offset, count * element);
    if (below) visit(static_cast<char*>(nullptr), offset, below * element);
    visit(static_cast<char*>(m.data) + address + (at[0] + below) * element, offset + below * element,
          (above - below) * element);
    if (above < count)
      visit(static_cast<char*>(nullptr), offset + above * element, (count - above) * element);
  };
  if (m.is_im2col) {
    int64_t at[5], pixel[5];
    for (int d = 0; d < m.rank; ++d) pixel[d] = coordinates[d];
    for (int p = 0; p < m.pixels; ++p) {
      for (int d = 0; d < m.rank; ++d) at[d] = pixel[d] + (d >= 1 && d < m.rank - 1 ? offsets[d - 1] : 0);
      row(at, m.channels, p * m.channels * element);
      int d = 1;
      for (; d < m.rank - 1; ++d) {  // the next pixel of the bounding box, row by row
        pixel[d] += m.steps[d];
        if (pixel[d] < m.dims[d] + m.upper[d - 1]) break;
        pixel[d] = m.lower[d - 1];
      }
      if (d == m.rank - 1) ++pixel[d];
    }
    return;
  }
  int count[5] = {1, 1, 1, 1, 1}, i[5] = {};
  for (int d = 0; d < m.rank; ++d) count[d] = (m.box[d] + m.steps[d] - 1) / m.steps[d];
  for (int64_t offset = 0;; offset += count[0] * element) {
    int64_t at[5];
    for (int d = 0; d < m.rank; ++d) at[d] = coordinates[d] + int64_t(i[d]) * m.steps[d];
    row(at, count[0], offset);
    int d = 1;
    while (d < m.rank && ++i[d] == count[d]) i[d++] = 0;
    if (d >= m.rank) return;
  }
}

int64_t tile_bytes(const TensorLayout& m) {
  int64_t elements = int64_t(m.channels) * m.pixels;
  if (!m.is_im2col) {
    elements = 1;
    for (int d = 0; d < m.rank; ++d) elements *= (m.box[d] + m.steps[d] - 1) / m.steps[d];
  }
  return elements * size_of(m.dtype);
}

// The tile in shared memory; a swizzled one begins where the pattern does.
Place locate_tile(const TensorLayout& m, const void* shared, const char* name) {
  if (!m.rank) throw StateError(cat(name, ": the tensor map was not encoded"));
  const int64_t alignment = m.swizzle == Swizzle::none ? 128 : 128 << int(m.swizzle);
  const Place place = locate(shared, tile_bytes(m), name);
  if (place.offset % alignment)
    throw StateError(
        cat(name, ": the tile at shared + ", place.offset, " is not ", alignment, "-byte aligned"));
  return place;
}

template <class T>
void add_elements(char* to, const char* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += sizeof(T)) {
    T a, b;
    __builtin_memcpy(&a, to + i, sizeof(T));
    __builtin_memcpy(&b, from + i, sizeof(T));
    a = narrow<T>(widen(a) + widen(b));
    __builtin_memcpy(to + i, &a, sizeof(T));
  }
}

}  // namespace

void tensor_load(void* shared, const TensorLayout& map, const int* coordinates, const int* offsets,
                 void* barrier, uint32_t multicast) {
  const tsan::Ignore ignore;
  const Place mine = locate_tile(map, shared, "tensor load");
  const Place signal = locate(barrier, 8, "tensor load");
  const int64_t bytes = tile_bytes(map);
  struct Origin {
    int coordinates[5] = {}, offsets[3] = {};
  } origin;
  for (int d = 0; d < map.rank; ++d) origin.coordinates[d] = coordinates[d];
  for (int d = 0; map.is_im2col && d < map.rank - 2; ++d) origin.offsets[d] = offsets[d];
  auto load_into = [&](Block& block) {
    issue_load("tensor load", {&block, mine.offset}, block.shared.data() + signal.offset, bytes,
               [=, m = map](char* data) {
                 std::vector<char> tile(static_cast<size_t>(bytes));
                 for_pieces(m, origin.coordinates, origin.offsets,
                            [&](char* global, int64_t offset, int64_t n) {
                              if (!global) return;
                              check_global(global, n, "a tensor load reads");
                              copy(tile.data() + offset, global, n);
                            });
                 const tsan::Ignore inner;
                 swizzle(data, tile.data(), bytes, mine.offset, m.swizzle, true);
               });
  };
  if (!multicast) return load_into(*mine.block);
  Cluster& cluster = *mine.block->cluster;
  for (size_t rank = 0; rank < 32; ++rank)
    if (multicast >> rank & 1) {
      if (rank >= cluster.blocks.size())
        throw StateError(cat("tensor load: the cluster has no block ", rank));
      if (!cluster.blocks[rank]->live) throw StateError("tensor load: a block of the multicast has ended");
      load_into(*cluster.blocks[rank]);
    }
}

void tensor_store(const TensorLayout& map, const int* coordinates, const void* shared, Reduction reduction) {
  const tsan::Ignore ignore;
  require(90, "a tensor store");
  if (map.is_im2col) fail("tensor store: im2col maps are for loads here");
  const Place from = locate_tile(map, shared, "tensor store");
  const int64_t bytes = tile_bytes(map);
  auto tile = std::make_shared<std::vector<char>>(size_t(bytes));
  char* order = &engine().running().stores.order;
  std::vector<int> origin(coordinates, coordinates + map.rank);
  engine().running().stores.issue(
      {.name = "tensor store",
       .fetch =
           [=, m = map] {
             std::vector<char> image(static_cast<size_t>(bytes));
             read_published(image.data(), *from.block, from.offset, bytes);
             tsan::release(order);
             const tsan::Ignore inner;
             swizzle(image.data(), tile->data(), bytes, from.offset, m.swizzle, false);
           },
       .land =
           [=, m = map] {
             for_pieces(m, origin.data(), nullptr, [&](char* global, int64_t offset, int64_t n) {
               if (!global) return;
               check_global(global, n, "a tensor store writes");
               if (reduction == Reduction::none) return copy(global, tile->data() + offset, n);
               tsan::write(global, size_t(n));
               if (m.dtype == Dtype::float32) add_elements<float>(global, tile->data() + offset, n);
               if (m.dtype == Dtype::bfloat16) add_elements<bf16>(global, tile->data() + offset, n);
               if (m.dtype == Dtype::float16) add_elements<f16>(global, tile->data() + offset, n);
             });
           }});
}

}  // namespace lamina::simt
