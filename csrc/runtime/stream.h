// Stream: the only door to a device. Program: what went through it, to be replayed.
//
// submit(&FooKernels::forward, args) runs that kernel of the device's table. While a Program records, the command is
// also appended to it: a kernel, a copy of its arguments and nothing else, so replay needs neither Python nor shapes.
// Every address in the arguments stays valid because the recording thread allocates from the program's own arenas.
//
// A traced program is made without memory: addresses that stand for the operands and for temporaries are in the arguments
// of its kernels, which are kept and not run; each run puts those of that call in their place.
//
// On a GPU, a kernel is a host function that launches grids on the stream; a recorded list of them is run once more
// under stream capture, and replay is one launch of the resulting graph.
#pragma once

#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "base/kernel_table.h"
#include "runtime/arena.h"

namespace lamina {

class Program : public RefCounted {
 public:
  ~Program() override;
  void run() const;  // replays all commands in order

  static constexpr size_t max_operands = 255;
  static void* operand(size_t i);  // the address that stands for the i-th operand of a traced program
  void run_on(std::span<void* const> operands);
  int64_t temporary_bytes() const { return temporary_bytes_; }  // that a run takes for itself
  bool has_unchecked_values() const {
    return has_unchecked_values_;
  }  // whether a check of values was left out

  size_t size() const { return commands_.size(); }
  int64_t memory_bytes() const;  // held by its arenas at their peak

 private:
  friend class Stream;
  friend struct ThreadState;
  struct Command {
    void (*invoke)(void (*kernel)(), const void* args);
    void (*kernel)();
    const void* args;
    Device device;
  };
  struct Place {  // of an operand's address among the arguments
    uint64_t* address;
    size_t operand;
    uint64_t offset;  // bytes
  };
  struct Chunk {
    std::unique_ptr<std::byte[]> bytes;
    int64_t size;
  };
  void* keep(const void* bytes, int64_t size);  // a copy that lives as long as the program
  Arena& arena(Device device);
  void run_commands() const;
  void find_operands();
  void lower();  // to a graph, where all commands are of one device that has graphs

  std::vector<Ref<Arena>> arenas_;  // one per device
  std::vector<Command> commands_;
  std::vector<Chunk> chunks_;
  std::vector<Ref<RefCounted>> retained_;
  std::vector<Place> places_;
  int64_t chunk_used_ = 0, temporary_bytes_ = 0;
  void* graph_ = nullptr;
  bool is_traced_ = false, has_unchecked_values_ = false;
};

class Stream {
 public:
  explicit Stream(Device device) : device_(device) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  template <class Table, class Args>
  void submit(void (*Table::*kernel)(const Args&), const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>, "arguments are copied into programs as bytes");
    const Table* table = table_of(static_cast<const Table*>(nullptr), device_.type);
    void (*const function)(const Args&) = table ? table->*kernel : nullptr;
    if (!function) [[unlikely]]
      no_kernel();
    Program* const recording = program();
    if (!recording || !recording->is_traced_) {
      if (!device_.is_cpu()) enter();
      function(args);
      if (!uploads_.empty()) uploads_.clear();
    }
    if (!recording) return;
    recording->commands_.push_back(
        {[](void (*k)(), const void* a) {
           reinterpret_cast<void (*)(const Args&)>(k)(*static_cast<const Args*>(a));
         },
         reinterpret_cast<void (*)()>(function), recording->keep(&args, sizeof args), device_});
  }

  // A copy in device memory of a table that a kernel reads: valid for the next submit, and in a recording for as long
  // as the program lives.
  const void* upload(const void* table, int64_t bytes);

  // Copies dense memory between devices; `this` is the stream of the one that is not the CPU.
  void copy(void* to, Device to_device, const void* from, Device from_device, int64_t bytes);

  // Keeps memory that was written by the host from being reused while the program that reads it lives.
  void retain(Ref<RefCounted> memory) {
    if (program()) program()->retained_.push_back(std::move(memory));
  }

  void synchronize();  // waits until all submitted work is done

  Device device() const { return device_; }
  void* handle() const;  // cudaStream_t
  bool is_own() const { return !foreign_; }
  // This thread's work goes to a stream of someone else's from now on, ordered after what was submitted so far; null:
  // back to Lamina's own.
  void use_handle(void* foreign);
  void enter();  // makes it the target of this thread's launches

  static bool is_recording() { return program() != nullptr; }
  // Whether values may be looked at now, to refuse wrong ones. A program that is being recorded reads them later.
  static bool can_check_values();
  static void begin_recording(Ref<Program> program);
  static void end_recording();
  // What `submit` submits, traced.
  template <class Submit>
  static Ref<Program> trace(const Submit& submit) {
    auto program = make_ref<Program>();
    program->is_traced_ = true;
    begin_recording(program);
    try {
      submit();
    } catch (...) {
      end_recording();
      throw;
    }
    end_recording();
    return program;
  }
  static Program* program();  // that this thread records; null: none

 private:
  [[noreturn]] void no_kernel() const;

  const Device device_;
  void* foreign_ = nullptr;
  std::vector<Ref<RefCounted>> uploads_;
};

// What belongs to a thread: where it works, what it records, and its streams. In one place, because finding a
// thread-local variable costs as much as a tenth of a tiny op. On a GPU the threads' streams are one CUDA stream, so
// that what one thread made can be used by another without more ado.
struct ThreadState {
  Device device;
  Ref<Program> recording;
  Stream cpu{Device{}};
  std::vector<std::unique_ptr<Stream>> others;

  Stream& stream(Device d) { return d.is_cpu() ? cpu : other_stream(d); }
  Stream& other_stream(Device d);
  // Where arrays come from: the root arena of a device, or that of the program being recorded.
  Arena& arena(Device d);
};
ThreadState& this_thread();

inline Program* Stream::program() { return this_thread().recording.get(); }
inline Stream& current_stream(Device device) { return this_thread().stream(device); }
inline Stream& current_stream() {
  ThreadState& thread = this_thread();
  return thread.stream(thread.device);
}
inline Arena& current_arena() {
  ThreadState& thread = this_thread();
  return thread.arena(thread.device);
}

// The kernel table of the current device, for what infer asks of it.
template <class Table>
const Table& current_kernels() {
  const Table* table = table_of(static_cast<const Table*>(nullptr), current_device().type);
  check<StateError>(table, name_of(current_device()), "there are no such kernels on this device");
  return *table;
}

}  // namespace lamina
