#include "runtime/stream.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "runtime/array.h"

namespace lamina {
namespace {

// Kernels take short-lived memory from the arena of the device they run on: whoever gets it next is queued behind.
void* allocate_scratch(int64_t bytes) { return current_arena().allocate(bytes); }
void free_scratch(void* memory, int64_t bytes) { current_arena().free(memory, bytes); }

// One CUDA stream per device, never destroyed.
void* own_handle(Device device) {
  static std::array<std::atomic<void*>, device_type_count * max_devices> handles;
  std::atomic<void*>& handle = handles[size_t(int(device.type) * max_devices + device.index)];
  void* current = handle.load(std::memory_order_acquire);
  if (current) return current;
  DeviceLibrary& library = device_library(device.type);
  void* made = library.create_stream(device.index);
  if (handle.compare_exchange_strong(current, made)) return made;
  library.destroy_stream(made);
  return current;
}

// Device memory of a program or a pending launch.
class Block : public RefCounted {
 public:
  explicit Block(int64_t bytes) : arena_(&current_arena()), bytes_(bytes), data_(arena_->allocate(bytes)) {}
  ~Block() override { arena_->free(data_, bytes_); }
  void* data() const { return data_; }

 private:
  Ref<Arena> arena_;
  int64_t bytes_;
  void* data_;
};

}  // namespace

// --- programs ----------------------------------------------------------------------------------------------------

Program::~Program() {
  if (graph_) device_library(commands_[0].device.type).destroy_graph(graph_);
}

void Program::run() const {
  if (!graph_) return run_commands();
  Stream& stream = current_stream(commands_[0].device);
  device_library(stream.device().type).launch_graph(graph_, stream.handle());
}

// The bits of a signalling NaN, which no number among the arguments has, neither floating nor integer; then eight of the
// operand's number and forty of an offset in it.
constexpr uint64_t operand_bits = uint64_t{0x7ff4} << 48;

constexpr size_t temporaries = Program::max_operands;  // as an operand

void* Program::operand(size_t i) { return reinterpret_cast<void*>(operand_bits | uint64_t(i) << 40); }

void Program::find_operands() {
  for (size_t c = 0; c < chunks_.size(); ++c) {
    const int64_t used = c + 1 < chunks_.size() ? chunks_[c].size : chunk_used_;
    auto* const words = reinterpret_cast<uint64_t*>(chunks_[c].bytes.get());
    for (uint64_t* word = words; word < words + used / 8; ++word)
      if (*word >> 48 == operand_bits >> 48)
        places_.push_back({word, *word >> 40 & 0xff, *word & ((uint64_t{1} << 40) - 1)});
  }
  for (const Ref<Arena>& arena : arenas_) temporary_bytes_ += arena->addressed_bytes();
}

void Program::run_on(std::span<void* const> operands) {
  Ref<Storage> memory;
  if (temporary_bytes_ > 0) memory = make_ref<Storage>(temporary_bytes_, root_arena());
  for (const Place& p : places_) {
    void* const base = p.operand == temporaries ? memory->data() : operands[p.operand];
    *p.address = reinterpret_cast<uint64_t>(base) + p.offset;
  }
  run_commands();
}

void Program::run_commands() const {
  Device device;
  const DeviceScope scope(device);
  for (const Command& command : commands_) {
    if (command.device != device) {
      set_current_device(device = command.device);
      if (!command.device.is_cpu()) current_stream().enter();
    }
    command.invoke(command.kernel, command.args);
  }
}

void Program::lower() {
  if (commands_.empty()) return;
  const Device device = commands_[0].device;
  const auto is_here = [&](const Command& c) { return c.device == device; };
  if (device.is_cpu() || !std::all_of(commands_.begin(), commands_.end(), is_here)) return;
  // Scratch memory of the kernels becomes part of the graph, so it comes from the program's arena, which has blocks of
  // these sizes from the recording: nothing is asked of the driver while the stream is captured.
  const DeviceScope scope(device);
  ThreadState& thread = this_thread();
  thread.recording = Ref<Program>(this);
  const auto replay = [](void* program) { static_cast<const Program*>(program)->run_commands(); };
  try {
    graph_ = device_library(device.type).capture(device.index, thread.stream(device).handle(), replay, this);
  } catch (...) {
    thread.recording = {};
    throw;
  }
  thread.recording = {};
}

void* Program::keep(const void* bytes, int64_t size) {
  constexpr int64_t alignment = 16, first_chunk = 1024, largest_chunk = 64 * 1024;
  const int64_t padded = (size + alignment - 1) / alignment * alignment;
  const int64_t last = chunks_.empty() ? 0 : chunks_.back().size;
  if (chunk_used_ + padded > last) {
    const int64_t next = std::max(padded, std::clamp(2 * last, first_chunk, largest_chunk));
    chunks_.push_back({std::make_unique<std::byte[]>(size_t(next)), next});
    chunk_used_ = 0;
  }
  void* copy = chunks_.back().bytes.get() + chunk_used_;
  chunk_used_ += padded;
  if (size) std::memcpy(copy, bytes, size_t(size));
  return copy;
}

Arena& Program::arena(Device device) {
  for (const Ref<Arena>& arena : arenas_)
    if (arena->device() == device) return *arena;
  arenas_.push_back(is_traced_ ? make_ref<Arena>(device, static_cast<char*>(operand(temporaries)))
                               : make_ref<Arena>(device, Ref<Arena>(&root_arena(device))));
  return *arenas_.back();
}

int64_t Program::memory_bytes() const {
  int64_t bytes = 0;
  for (const Ref<Arena>& arena : arenas_) bytes += arena->stats().peak_bytes_in_use;
  return bytes;
}

Arena& ThreadState::arena(Device device) { return recording ? recording->arena(device) : root_arena(device); }

// --- streams -----------------------------------------------------------------------------------------------------

ThreadState& this_thread() {
  thread_local ThreadState state;
  return state;
}

Device current_device() { return this_thread().device; }
void set_current_device(Device device) { this_thread().device = device; }

void Stream::begin_recording(Ref<Program> program) {
  check<StateError>(!is_recording(), "record", "a program is being recorded already; recordings do not nest");
  this_thread().recording = std::move(program);
}

void Stream::end_recording() {
  const Ref<Program> program = std::move(this_thread().recording);
  if (program) program->is_traced_ ? program->find_operands() : program->lower();
}

bool Stream::can_check_values() {
  if (!program()) return true;
  program()->has_unchecked_values_ = true;
  return false;
}

void* Stream::handle() const { return foreign_ ? foreign_ : own_handle(device_); }

void Stream::use_handle(void* foreign) {
  if (foreign == foreign_) return;
  void* const before = handle();
  foreign_ = foreign;
  device_library(device_.type).wait_for(handle(), before);
}

void Stream::enter() {
  device_library(device_.type).set_launch_context({device_.index, handle(), allocate_scratch, free_scratch});
}

const void* Stream::upload(const void* table, int64_t bytes) {
  if (device_.is_cpu()) return program() ? program()->keep(table, bytes) : table;
  auto block = make_ref<Block>(bytes);
  device_library(device_.type).copy(block->data(), table, bytes, DeviceLibrary::Copy::to_device, handle());
  const void* data = block->data();
  if (program())
    retain(Ref<RefCounted>(block.get()));
  else
    uploads_.push_back(Ref<RefCounted>(block.get()));
  return data;
}

void Stream::copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes) {
  check<StateError>(!is_recording(), "record",
                    "tensors cannot move between devices while a program is recorded; move them before");
  if (bytes == 0) return;
  using Copy = DeviceLibrary::Copy;
  const Copy direction = to_device.is_cpu()     ? Copy::to_host
                         : from_device.is_cpu() ? Copy::to_device
                                                : Copy::on_device;
  device_library(device_.type).copy(to, from, bytes, direction, handle());
}

void Stream::synchronize() {
  if (!device_.is_cpu()) device_library(device_.type).synchronize(device_.index, handle());
}

void Stream::no_kernel() const {
  fail<StateError>(name_of(device_),
                   "there is no such kernel on this device; move the operands with .to('cpu')");
}

Stream& ThreadState::other_stream(Device device) {
  for (const std::unique_ptr<Stream>& stream : others)
    if (stream->device() == device) return *stream;
  return *others.emplace_back(std::make_unique<Stream>(device));
}

}  // namespace lamina
