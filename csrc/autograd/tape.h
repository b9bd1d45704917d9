// Tape: the record of what was computed, in order, and its walk backwards.
//
// A watched value has a slot: an index into the tape's table of gradients. Leaves (parameters, watched tensors) get
// one at first use, results of ops on watched inputs when they are computed. Entries are appended in execution order,
// so every entry's outputs are used only by later entries: walking from the end, all contributions to a gradient are
// there before it is needed, without a sort and without a search.
//
// What it does not do: second derivatives (vjps run on Arrays, which have no slots) and in-place changes of tensors.
#pragma once

#include <optional>

#include "autograd/op.h"

namespace lamina {

// The gradient of a parameter or watched tensor, shared between the tensor and the tapes that met it.
struct Leaf : RefCounted {
  Array grad;
  bool is_frozen = false;
  // Tape and slot of the latest registration, in one word. Two threads with tapes of their own may overwrite each
  // other's: then a leaf is registered again, and backward adds its slots up.
  std::atomic<uint64_t> registration{0};
  uint64_t backward_pass = 0;  // the latest pass that wrote grad
};

struct Tensor {
  Array array;
  Ref<Leaf> leaf;     // of a parameter or watched tensor
  uint64_t tape = 0;  // id of the tape that computed this tensor; 0: none
  int64_t slot = -1;
};

class Tape : public RefCounted {
 public:
  Tape();
  ~Tape() override;

  void open();  // records what this thread computes; tapes nest, the innermost records
  void close();
  static Tape* current();              // of this thread; null: none open, or paused
  static Ref<Tape> find(uint64_t id);  // a tape of this thread that is still alive, or the last one closed

  // Asks for the gradient of a tensor that is not a parameter, on this tape only.
  void watch(Tensor& tensor);

  // The slot of a tensor on this tape, registering leaves at first use; -1: not watched.
  int64_t slot_of(const Tensor& tensor);

  // Adds a call; gives the slots of its outputs (-1: not differentiable).
  using Arrays = SmallVector<Array, 4>;
  using Slots = SmallVector<int64_t, 4>;
  const Slots& append(const Op& op, const Attrs& attrs, Arrays in, Slots in_slots, Inputs out,
                      Ref<RefCounted> payload = {});

  // Walks back from y, whose gradient is seed (empty: y must have one element, and the gradient is 1).
  // backward stores into the leaves: all of this tape, or `only` those; `accumulate` adds to what they hold.
  void backward(const Tensor& y, Array seed, bool accumulate, std::span<Leaf* const> only,
                bool is_restricted);
  // Gradients of y for each of xs, stored nowhere; empty where y does not depend on x.
  std::vector<Array> gradient(const Tensor& y, Array seed, std::span<const Tensor> xs);

  uint64_t id() const { return id_; }
  size_t size() const { return entries_.size(); }

  // One call of an op, with what its vjp needs.
  struct Entry {
    const Op* op;
    Attrs attrs;
    Arrays in, out;
    Slots in_slots, out_slots;
    Ref<RefCounted> payload;
  };

 private:
  struct Registered {
    Ref<Leaf> leaf;
    int64_t slot;
  };
  std::vector<Array> walk(const Tensor& y, Array seed, std::span<const Tensor> xs);

  const uint64_t id_;
  int64_t slots_ = 0;
  std::vector<Entry> entries_;
  std::vector<Registered> leaves_;
};

// Suspends recording on this thread while it lives.
class PauseRecording {
 public:
  PauseRecording();
  ~PauseRecording();

 private:
  Tape* previous_;
};

// Makes forward passes fill what a backward pass will read, as an open tape does, for callers that have a tape of their
// own.
class KeepForBackward {
 public:
  KeepForBackward();
  ~KeepForBackward();
};
// Whether ops are to fill it: a tape records on this thread, or KeepForBackward lives.
bool keeps_for_backward();

// The one path of every op: infer, allocate, run, and an entry if a tape is open and an input is watched.
using Tensors = SmallVector<Tensor, 4>;
Tensors apply(const Op& op, std::span<const Tensor* const> inputs, const Attrs& attrs);

}  // namespace lamina
