#include "runtime/stream.h"

#include <cstring>

#include "base/check.h"

namespace lamina {

void Program::run() const {
  for (const Command& command : commands_) command.invoke(command.kernel, command.args);
}

void* Program::keep(const void* bytes, int64_t size) {
  constexpr int64_t alignment = 16, default_chunk = 64 * 1024;
  const int64_t padded = (size + alignment - 1) / alignment * alignment;
  if (chunk_used_ + padded > chunk_size_) {
    chunk_size_ = std::max(padded, default_chunk);
    chunk_used_ = 0;
    chunks_.push_back(std::make_unique<std::byte[]>(size_t(chunk_size_)));
  }
  void* copy = chunks_.back().get() + chunk_used_;
  chunk_used_ += padded;
  if (size) std::memcpy(copy, bytes, size_t(size));
  return copy;
}

void Stream::begin_recording(Ref<Program> program) {
  check<StateError>(!program_, "record", "a program is being recorded already; recordings do not nest");
  program_ = std::move(program);
  set_current_arena(program_->arena_.get());
}

void Stream::end_recording() {
  set_current_arena(nullptr);
  program_ = {};
}

Stream& current_stream() {
  thread_local Stream stream;
  return stream;
}

}  // namespace lamina
