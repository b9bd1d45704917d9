// Stream: the only door to a device. Program: what went through it, to be replayed.
//
// submit(kernel, args) runs the kernel. While a Program records, the command is also appended to it: a kernel, a copy
// of its arguments and nothing else, so replay needs neither Python nor shapes. Every address in the arguments stays
// valid because the recording thread allocates from the program's own arena.
#pragma once

#include <memory>
#include <type_traits>
#include <vector>

#include "runtime/arena.h"

namespace lamina {

class Program : public RefCounted {
 public:
  void run() const;  // replays all commands in order
  size_t size() const { return commands_.size(); }
  const Arena& arena() const { return *arena_; }

 private:
  friend class Stream;
  struct Command {
    void (*invoke)(void (*kernel)(), const void* args);
    void (*kernel)();
    const void* args;
  };
  void* keep(const void* bytes, int64_t size);  // a copy that lives as long as the program

  Ref<Arena> arena_ = make_ref<Arena>(Ref<Arena>(&root_arena()));
  std::vector<Command> commands_;
  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::vector<Ref<RefCounted>> retained_;
  int64_t chunk_used_ = 0, chunk_size_ = 0;
};

class Stream {
 public:
  template <class Args>
  void submit(void (*kernel)(const Args&), const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>, "arguments are copied into programs as bytes");
    kernel(args);
    if (!program_) return;
    program_->commands_.push_back({[](void (*k)(), const void* a) {
                                     reinterpret_cast<void (*)(const Args&)>(k)(*static_cast<const Args*>(a));
                                   },
                                   reinterpret_cast<void (*)()>(kernel), program_->keep(&args, sizeof args)});
  }

  // A copy in device memory of a table that a kernel reads: valid for the next submit, and in a recording for as long
  // as the program lives.
  const void* upload(const void* table, int64_t bytes) {
    return program_ ? program_->keep(table, bytes) : table;
  }

  // Keeps memory that was written by the host from being reused while the program that reads it lives.
  void retain(Ref<RefCounted> memory) {
    if (program_) program_->retained_.push_back(std::move(memory));
  }

  bool is_recording() const { return bool(program_); }
  void begin_recording(Ref<Program> program);
  void end_recording();

 private:
  Ref<Program> program_;
};

Stream& current_stream();  // of this thread

}  // namespace lamina
