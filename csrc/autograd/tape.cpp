#include "autograd/tape.h"

#include <algorithm>

namespace lamina {
namespace {

constexpr int slot_bits = 24;  // of Leaf::registration; a tape with more slots registers further leaves anew
std::atomic<uint64_t> next_tape_id{1}, next_pass{1};

thread_local Tape* recording = nullptr;
thread_local int keepers = 0;
thread_local std::vector<Tape*> open_tapes;  // outermost first
thread_local std::vector<Tape*> live_tapes;  // created by this thread, alive
// The memory of the last tape's entries, for the next one: training steps are alike.
thread_local std::vector<Tape::Entry> spare_entries;
thread_local Ref<Tape> last_closed;  // keeps `with Tape():` usable by loss.backward() after the block

Array ones_like(const Array& y) { return eval<"fill_like">({y}, {{"value", 1.0}}); }

}  // namespace

Tape::Tape() : id_(next_tape_id++), entries_(std::move(spare_entries)) { live_tapes.push_back(this); }

Tape::~Tape() {
  std::erase(live_tapes, this);
  entries_.clear();
  spare_entries = std::move(entries_);
}

Tape* Tape::current() { return recording; }

void Tape::open() {
  check<StateError>(std::find(open_tapes.begin(), open_tapes.end(), this) == open_tapes.end(), "tape",
                    "it is open already");
  last_closed = {};
  retain();
  open_tapes.push_back(this);
  recording = this;
}

void Tape::close() {
  check<StateError>(!open_tapes.empty() && open_tapes.back() == this, "tape",
                    "it is not the innermost open tape of this thread");
  open_tapes.pop_back();
  recording = open_tapes.empty() ? nullptr : open_tapes.back();
  last_closed = Ref<Tape>(this);
  release();
}

Ref<Tape> Tape::find(uint64_t id) {
  for (Tape* tape : live_tapes)
    if (tape->id_ == id) return Ref<Tape>(tape);
  return {};
}

KeepForBackward::KeepForBackward() { ++keepers; }
KeepForBackward::~KeepForBackward() { --keepers; }
bool keeps_for_backward() { return recording || keepers > 0; }

PauseRecording::PauseRecording() : previous_(std::exchange(recording, nullptr)) {}
PauseRecording::~PauseRecording() { recording = previous_; }

void Tape::watch(Tensor& tensor) {
  check<TypeError>(is_floating(tensor.array.dtype()), "watch", "the tensor is ", tensor.array.dtype(),
                   "; expected a floating dtype");
  if (tensor.leaf && !tensor.leaf->is_frozen) return;
  if (!tensor.leaf) {
    tensor.leaf = make_ref<Leaf>();
    tensor.leaf->is_frozen = true;  // for other tapes
  }
  if (tensor.tape != id_) {
    tensor.tape = id_;
    tensor.slot = slots_++;
  }
  leaves_.push_back({tensor.leaf, tensor.slot});
}

int64_t Tape::slot_of(const Tensor& tensor) {
  if (tensor.tape == id_) return tensor.slot;
  Leaf* leaf = tensor.leaf.get();
  if (!leaf || leaf->is_frozen) return -1;
  const uint64_t registration = leaf->registration.load(std::memory_order_relaxed);
  if (registration >> slot_bits == id_) return int64_t(registration & ((1u << slot_bits) - 1));
  const int64_t slot = slots_++;
  leaves_.push_back({tensor.leaf, slot});
  if (slot < (1 << slot_bits))
    leaf->registration.store(id_ << slot_bits | uint64_t(slot), std::memory_order_relaxed);
  return slot;
}

const Tape::Slots& Tape::append(const Op& op, const Attrs& attrs, Arrays in, Slots in_slots, Inputs out,
                                Ref<RefCounted> payload) {
  // A small operand is kept whole: a copy of its description would cost more than it saves.
  constexpr int64_t small = 1024;
  const auto is_dropped = [](const Array& a, uint32_t kept, size_t i) {
    return a && (kept >> std::min<size_t>(i, 31) & 1) == 0 && a.bytes() > small;
  };
  Entry& entry = entries_.emplace_back(
      Entry{&op, attrs, std::move(in), {}, std::move(in_slots), {}, std::move(payload)});
  for (size_t i = 0; i < entry.in.size(); ++i)
    if (is_dropped(entry.in[i], op.kept_inputs, i)) entry.in[i] = entry.in[i].without_data();
  for (size_t i = 0; i < out.size(); ++i) {
    entry.out.push_back(is_dropped(out[i], op.kept_outputs, i) ? out[i].without_data() : out[i]);
    entry.out_slots.push_back(is_floating(out[i].dtype()) ? slots_++ : -1);
  }
  return entry.out_slots;
}

// The gradient table after the walk, indexed by slot: complete for the leaves, for y and for xs; other gradients are
// dropped as soon as the entry that computed their value has used them.
std::vector<Array> Tape::walk(const Tensor& y, Array seed, std::span<const Tensor> xs) {
  const int64_t start = slot_of(y);
  check(start >= 0, "backward",
        "the tensor was not computed from watched inputs on this tape; open the tape before computing it");
  if (!seed) {
    check(y.array.size() == 1, "backward", "the tensor has shape ", y.array.view(),
          "; expected one element, or a gradient of the same shape");
    seed = ones_like(y.array);
  }
  check(seed.shape() == y.array.shape() && seed.dtype() == y.array.dtype(), "backward", "the gradient is ",
        seed.view(), " ", seed.dtype(), "; expected ", y.array.view(), " ", y.array.dtype(),
        " as the tensor");

  PauseRecording pause;
  const DeviceScope scope(current_device());  // entries move this thread to their device
  std::vector<Array> grads{size_t(slots_)};
  std::vector<bool> is_retained(size_t(slots_), false);
  is_retained[size_t(start)] = true;
  for (const auto& [leaf, slot] : leaves_) is_retained[size_t(slot)] = true;
  for (const Tensor& x : xs)
    if (x.tape == id_ && x.slot >= 0) is_retained[size_t(x.slot)] = true;
  grads[size_t(start)] = std::move(seed);

  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    SmallVector<Array, 4> dy;
    bool is_needed = false;
    for (int64_t slot : entry->out_slots) {
      Array& grad = dy.emplace_back();
      if (slot >= 0) grad = is_retained[size_t(slot)] ? grads[size_t(slot)] : std::move(grads[size_t(slot)]);
      is_needed |= bool(grad);
    }
    if (!is_needed) continue;
    if (entry->out[0].device() != current_device()) set_current_device(entry->out[0].device());
    const Saved saved{entry->in, entry->out, entry->attrs, entry->in_slots, entry->payload.get()};
    Gradients dx = entry->op->vjp(saved, dy);
    for (size_t i = 0; i < dx.size(); ++i) {
      const int64_t slot = entry->in_slots[i];
      if (slot < 0 || !dx[i]) continue;
      Array& total = grads[size_t(slot)];
      total = total ? eval<"add">({total, dx[i]}) : std::move(dx[i]);
    }
  }
  return grads;
}

void Tape::backward(const Tensor& y, Array seed, bool accumulate, std::span<Leaf* const> only,
                    bool is_restricted) {
  std::vector<Array> grads = walk(y, std::move(seed), {});
  const uint64_t pass = next_pass++;
  for (const auto& [leaf, slot] : leaves_) {
    if (is_restricted && std::find(only.begin(), only.end(), leaf.get()) == only.end()) continue;
    Array grad = std::move(grads[size_t(slot)]);
    const bool adds = accumulate || leaf->backward_pass == pass;
    leaf->backward_pass = pass;
    if (adds && leaf->grad) {
      if (grad) leaf->grad = eval<"add">({leaf->grad, grad});
      continue;
    }
    // Gradients are changed in place (clipping), so each has memory of its own: a vjp may have passed dy on as it
    // was, or a broadcast view of it.
    const bool is_own = !grad || (grad.is_unique() && grad.bytes() <= grad.storage()->bytes());
    leaf->grad = is_own ? std::move(grad) : eval<"clone">({grad});
  }
}

std::vector<Array> Tape::gradient(const Tensor& y, Array seed, std::span<const Tensor> xs) {
  const std::vector<Array> grads = walk(y, std::move(seed), xs);
  std::vector<Array> result;
  for (const Tensor& x : xs) {
    Array total;
    const int64_t own = x.tape == id_ ? x.slot : -1;
    if (own >= 0) total = grads[size_t(own)];
    for (const auto& [leaf, slot] : leaves_) {
      const Array& grad = grads[size_t(slot)];
      if (leaf.get() == x.leaf.get() && slot != own && grad)
        total = total ? eval<"add">({total, grad}) : grad;
    }
    result.push_back(total);
  }
  return result;
}

namespace {

// Casts operands to the dtype in which they meet, through the tape.
Tensors apply_promoted(const Op& op, std::span<const Tensor* const> inputs, const Attrs& attrs,
                       Dtype common) {
  static const Op& cast = find_op("cast");
  const Attrs to_common = make_attrs(cast, {{"dtype", common}});
  Tensors converted;
  converted.reserve(inputs.size());
  SmallVector<const Tensor*, 4> operands(inputs.begin(), inputs.end());
  for (size_t i = op.promotes_from; i < inputs.size(); ++i) {
    if (inputs[i]->array.dtype() == common) continue;
    converted.push_back(apply(cast, inputs.subspan(i, 1), to_common)[0]);
    operands[i] = &converted.back();
  }
  return apply(op, std::span<const Tensor* const>(operands.data(), operands.size()), attrs);
}

}  // namespace

Tensors apply(const Op& op, std::span<const Tensor* const> inputs, const Attrs& attrs) {
  if (op.promotes != Promotion::none) {
    const std::span<const Tensor* const> operands = inputs.subspan(op.promotes_from);
    Dtype common = operands[0]->array.dtype();
    for (const Tensor* x : operands) common = promote(common, x->array.dtype());
    if (op.promotes == Promotion::floating && !is_floating(common)) common = Dtype::float32;
    for (const Tensor* x : operands)
      if (x->array.dtype() != common) return apply_promoted(op, inputs, attrs, common);
  }
  Tape::Arrays in;
  Tape::Slots in_slots;
  Tape* tape = op.vjp ? Tape::current() : nullptr;
  bool is_watched = false;
  for (const Tensor* input : inputs) {
    in.push_back(input ? input->array : Array{});
    in_slots.push_back(tape && input ? tape->slot_of(*input) : -1);
    is_watched |= in_slots.back() >= 0;
  }
  Outputs out;
  evaluate(op, in, attrs, out);
  Tensors results;
  results.resize(out.size());
  if (is_watched) {
    const Tape::Slots& slots = tape->append(op, attrs, std::move(in), std::move(in_slots), out);
    for (size_t i = 0; i < out.size(); ++i) {
      if (slots[i] < 0) continue;
      results[i].tape = tape->id();
      results[i].slot = slots[i];
    }
  }
  for (size_t i = 0; i < out.size(); ++i) results[i].array = std::move(out[i]);
  return results;
}

}  // namespace lamina
