// Ops inside XLA: one handler for all of them. What is to be done comes as text in the attribute `call`,
//
//   run linear: _ _ - -; activation='relu'         the outputs
//   keep linear: _ _ - -; activation='relu'        the outputs, with what a backward pass reads
//   vjp linear: _ _ - - | _ float32[8,8] | _ - | 1 1 0 0; activation='relu'
//                                                  gradients, from the inputs, the outputs and their gradients
//
// with operands in the order of the schema: `_` is the next buffer, `int64` the next buffer, widened (JAX has int32 only,
// unless asked), `-` none, and `float32[8,8]` an operand of which the vjp reads no values. The results of run and keep
// are the op's outputs, then the new values of the operands that it writes; those of vjp are the gradients of the inputs
// that have a 1. The text holds all that there is to know, so compiled programs may be stored.
//
// Calls are executed again and again on buffers of the same types. On the CPU one is traced the first time, and where its
// kernels are all that there is to it, those alone run from then on, wherever in a program the same call stands.
#include "interop/xla_ffi.h"

#include <algorithm>
#include <charconv>
#include <list>
#include <new>
#include <unordered_map>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "autograd/tape.h"

namespace lamina::xla {
namespace {

// --- what a call asks for ----------------------------------------------------------------------------------------

struct Operand {
  enum class Kind { buffer, widened, absent, described };
  Kind kind;
  View view{};  // if described
};
using Operands = std::vector<Operand>;
using Arrays = SmallVector<Array, 8>;

// Calls f with each buffer of a call: the arguments, then the results.
template <class F>
void for_buffers(const CallFrame& frame, const F& f) {
  for (const Buffers* some : {&frame.arguments, &frame.results})
    for (int64_t i = 0; i < some->size; ++i) f(*some->buffers[i]);
}

size_t buffer_count(const CallFrame& frame) { return size_t(frame.arguments.size + frame.results.size); }

struct BufferType {
  DataType dtype;
  SmallVector<int64_t, 4> dims;

  bool is_of(const Buffer& b) const {
    if (b.dtype != dtype || size_t(b.rank) != dims.size()) return false;
    for (size_t i = 0; i < dims.size(); ++i)  // std::equal calls memcmp, which costs more
      if (b.dims[i] != dims[i]) return false;
    return true;
  }
};

struct Call {
  const Op* op = nullptr;
  Attrs attrs;
  bool is_vjp = false, keeps = false;
  Operands in, out, dy;        // out and dy: of a vjp
  std::vector<int64_t> slots;  // of a vjp: -1 where an input needs no gradient

  std::string_view text;  // lives with the call
  std::vector<BufferType> buffers;
  bool is_traced = false;
  Ref<Program> program;  // of its kernels; null where there is more to do

  bool takes(const CallFrame& frame) const {
    if (buffers.size() != buffer_count(frame)) return false;
    bool is_same = true;
    const BufferType* type = buffers.data();
    for_buffers(frame, [&](const Buffer& b) { is_same &= (type++)->is_of(b); });
    return is_same;
  }
};

// The part of `rest` before the next separator, which is taken away with it.
std::string_view cut(std::string_view& rest, std::string_view separator) {
  const size_t end = rest.find(separator);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == rest.npos ? rest.size() : end + separator.size());
  return part;
}

Dtype parse_dtype(std::string_view name) {
  if (const std::optional<Dtype> dtype = find_dtype(name)) return *dtype;
  fail("xla", "there is no dtype '", name, "'");
}

Operand parse_operand(std::string_view word) {
  using Kind = Operand::Kind;
  if (word == "_") return {Kind::buffer};
  if (word == "-") return {Kind::absent};
  if (word == "int64") return {Kind::widened};
  Spec spec{.dtype = parse_dtype(cut(word, "[")), .shape = {}};
  for (std::string_view extents = cut(word, "]"); !extents.empty(); ++spec.shape.ndim) {
    check(spec.shape.ndim < max_ndim, "xla", "an operand has more than ", max_ndim, " axes");
    const std::string_view extent = cut(extents, ",");
    std::from_chars(extent.data(), extent.data() + extent.size(), spec.shape[spec.shape.ndim]);
  }
  return {Kind::described, spec.view()};
}

Operands parse_operands(std::string_view words) {
  Operands operands;
  while (!words.empty())
    if (const std::string_view word = cut(words, " "); !word.empty()) operands.push_back(parse_operand(word));
  return operands;
}

Call parse_call(std::string_view text) {
  Call call;
  const std::string_view mode = cut(text, " ");
  check(mode == "run" || mode == "keep" || mode == "vjp", "xla", "a call starts with '", mode, "'");
  call.is_vjp = mode == "vjp";
  call.keeps = mode == "keep";
  call.op = &find_op(cut(text, ": "));
  std::string_view operands = cut(text, "; ");
  call.in = parse_operands(cut(operands, "|"));
  call.out = parse_operands(cut(operands, "|"));
  call.dy = parse_operands(cut(operands, "|"));
  for (char c : operands)
    if (c != ' ') call.slots.push_back(c == '1' ? 0 : -1);
  call.attrs = parse_attrs(call.op->schema, text);
  return call;
}

Call parse_call(std::string_view text, const CallFrame& frame) {
  Call call = parse_call(text);
  call.text = text;
  for_buffers(frame, [&](const Buffer& b) { call.buffers.push_back({b.dtype, {b.dims, b.dims + b.rank}}); });
  return call;
}

// The calls that a thread has read, of some KB each. They are found by the place of their text, which XLA gives the same
// each time; it may reuse the memory of the text of a program that is gone. When there are thousands, most are of such
// programs, and all are forgotten.
struct KnownCalls {
  static constexpr size_t most = 4096;
  std::unordered_map<const char*, Call*> by_place;
  std::unordered_map<std::string, std::list<Call>> by_text;
  size_t count = 0;

  Call& find(std::string_view text, const CallFrame& frame) {
    const auto place = by_place.find(text.data());
    if (place != by_place.end() && place->second->text == text && place->second->takes(frame))
      return *place->second;
    if (count == most || by_place.size() == most) *this = {};
    auto& [known, calls] = *by_text.try_emplace(std::string(text)).first;
    auto call = std::find_if(calls.begin(), calls.end(), [&](const Call& c) { return c.takes(frame); });
    if (call == calls.end()) {
      call = calls.insert(call, parse_call(known, frame));
      ++count;
    }
    return *(by_place[text.data()] = &*call);
  }
};

Call& call_of(const CallFrame& frame) {
  thread_local KnownCalls calls;
  check(frame.attributes.size == 1 && frame.attributes.types[0] == AttrType::string, "xla", "a call has ",
        frame.attributes.size, " attributes; expected one string");
  const auto* span = static_cast<const ByteSpan*>(frame.attributes.values[0]);
  return calls.find({span->data, span->size}, frame);
}

// --- buffers -----------------------------------------------------------------------------------------------------

Dtype dtype_of(DataType t) {
  switch (t) {
    case DataType::boolean:
      return Dtype::boolean;
    case DataType::uint8:
      return Dtype::uint8;
    case DataType::int32:
      return Dtype::int32;
    case DataType::int64:
      return Dtype::int64;
    case DataType::float16:
      return Dtype::float16;
    case DataType::bfloat16:
      return Dtype::bfloat16;
    case DataType::float32:
      return Dtype::float32;
    case DataType::float64:
      return Dtype::float64;
  }
  fail<TypeError>("xla", "a buffer has dtype number ", int(t), "; expected a dtype that Lamina has");
}

// The buffers of a call, one after the other. XLA keeps them alive until the call's work is done. While a program is
// traced, addresses stand for them: those of its operands from `first_operand` on.
class Reader {
 public:
  Reader(const Buffers& buffers, Device device, std::optional<int64_t> first_operand = {})
      : buffers_(buffers), device_(device), first_operand_(first_operand) {}

  Device device() const { return device_; }

  Array next() {
    check(next_ < buffers_.size, "xla", "a call has ", buffers_.size, " buffers; expected more");
    const Buffer& b = *buffers_.buffers[next_];
    check(b.rank <= max_ndim, "xla", "a buffer has ", b.rank, " axes; expected at most ", max_ndim);
    void* const data = first_operand_ ? Program::operand(size_t(*first_operand_ + next_)) : b.data;
    ++next_;
    View v{.data = data, .dtype = dtype_of(b.dtype), .ndim = int(b.rank)};
    int64_t stride = 1;
    for (int i = v.ndim - 1; i >= 0; --i) {
      v.shape[i] = b.dims[i];
      v.strides[i] = stride;
      stride *= b.dims[i];
    }
    return Array(v, Ref<Storage>{}, device_);
  }

  Array operand(const Operand& o) {
    switch (o.kind) {
      case Operand::Kind::absent:
        return {};
      case Operand::Kind::described:
        return Array(o.view, Ref<Storage>{}, device_);
      case Operand::Kind::widened:
        return eval<"cast">({next()}, {{"dtype", Dtype::int64}});
      case Operand::Kind::buffer:
        return next();
    }
    __builtin_unreachable();
  }

  Arrays operands(const Operands& list) {
    Arrays arrays;
    for (const Operand& o : list) arrays.push_back(operand(o));
    return arrays;
  }

 private:
  const Buffers& buffers_;
  Device device_;
  std::optional<int64_t> first_operand_;
  int64_t next_ = 0;
};

void check_result(const Op& op, const View& view, const Array& result) {
  check<StateError>(Shape(std::span(view.shape, size_t(view.ndim))) == result.shape(), op.name(),
                    "a result is ", view, "; expected ", result.view(),
                    ", which the program was compiled for");
}

// JAX has no dtypes of 64 bits unless asked, and gets the shorter ones.
void write(const Array& x, const Array& result) {
  if (x.view().data == result.view().data) return;
  const bool is_same = x.dtype() == result.dtype();
  eval_all<"copy_">({result, is_same ? x : eval<"cast">({x}, {{"dtype", result.dtype()}})});
}

// --- execution ---------------------------------------------------------------------------------------------------

void compute_outputs(const Call& call, Reader& arguments, Reader& results) {
  const Op& op = *call.op;
  const std::vector<InputSpec>& specs = op.schema.inputs;
  Arrays in = arguments.operands(call.in), targets;
  for (size_t i = 0; i < op.schema.outputs.size(); ++i) targets.push_back(results.next());

  // An operand that the op writes is one of ours: its value is copied into the result first.
  SmallVector<std::pair<Array, Array>, 4> written;
  for (size_t i = 0; i < in.size(); ++i) {
    if (!in[i] || !specs[std::min(i, specs.size() - 1)].is_written) continue;
    const Array result = results.next();
    check_result(op, in[i].view(), result);
    const Array value = result.dtype() == in[i].dtype() ? result : Array(Spec{in[i].dtype(), in[i].shape()});
    write(in[i], value);
    in[i] = value;
    written.push_back({value, result});
  }

  std::optional<KeepForBackward> keep;
  if (call.keeps) keep.emplace();
  const Inference inference = infer(op, in, call.attrs);
  Outputs out;
  for (size_t i = 0; i < inference.views.size(); ++i) {
    const View& view = inference.views[i];
    check_result(op, view, targets[i]);
    const bool is_direct = view.is_contiguous() && view.dtype == targets[i].dtype();
    out.push_back(inference.is_alias ? in[0].with_view(view) : is_direct ? targets[i] : Array(view));
  }
  if (!inference.is_alias) run(op, in, call.attrs, inference.workspace, out);
  for (size_t i = 0; i < out.size(); ++i) write(out[i], targets[i]);
  for (const auto& [value, result] : written) write(value, result);
}

void compute_gradients(const Call& call, Reader& arguments, Reader& results) {
  const Arrays in = arguments.operands(call.in), out = arguments.operands(call.out),
               dy = arguments.operands(call.dy);
  const Gradients dx = call.op->vjp(Saved{in, out, call.attrs, call.slots, nullptr}, dy);
  for (size_t i = 0; i < in.size(); ++i) {
    if (call.slots[i] < 0) continue;
    const Array result = results.next();
    if (i < dx.size() && dx[i]) {
      check_result(*call.op, dx[i].view(), result);
      write(dx[i], result);
    } else {
      write(eval<"fill_like">({result}, {{"value", 0.0}}), result);
    }
  }
}

void compute(const Call& call, Reader arguments, Reader results) {
  const DeviceScope scope(arguments.device());
  const PauseRecording pause;  // a tape of Lamina's that is open asks for nothing here
  call.is_vjp ? compute_gradients(call, arguments, results) : compute_outputs(call, arguments, results);
}

// Larger temporaries are taken one after the other, from blocks that all calls share.
constexpr int64_t most_temporaries = 1 << 20;

void trace(Call& call, const CallFrame& frame) {
  if (buffer_count(frame) <= Program::max_operands) {
    const auto submit = [&] {
      compute(call, Reader(frame.arguments, {}, 0), Reader(frame.results, {}, frame.arguments.size));
    };
    const Ref<Program> program = Stream::trace(submit);
    if (!program->has_unchecked_values() && program->temporary_bytes() <= most_temporaries)
      call.program = program;
  }
  call.is_traced = true;
}

// Work of this thread goes to XLA's stream while this lives.
class OnStreamOf {
 public:
  OnStreamOf(const CallFrame& frame, Device device) : device_(device) {
    StreamGetArgs args{sizeof(StreamGetArgs), nullptr, frame.context, nullptr};
    check<StateError>(!frame.api->stream_get(&args), "xla", "there is no stream on ", name_of(device));
    current_stream(device_).use_handle(args.stream);
  }
  ~OnStreamOf() { current_stream(device_).use_handle(nullptr); }

 private:
  Device device_;
};

Device device_of(const CallFrame& frame, DeviceType type) {
  DeviceOrdinalGetArgs args{sizeof(DeviceOrdinalGetArgs), nullptr, frame.context, 0};
  check<StateError>(!frame.api->device_ordinal_get(&args), "xla", "the device has no number");
  return {type, args.ordinal};
}

// XLA's threads take subnormal numbers for zero; Lamina's kernels give the same bits wherever they run.
class WithSubnormals {
#if defined(__x86_64__)
 public:
  WithSubnormals() : before_(_mm_getcsr()) {
    if (before_ & flushes) _mm_setcsr(before_ & ~flushes);
  }
  ~WithSubnormals() {
    if (before_ & flushes) _mm_setcsr(before_);
  }

 private:
  static constexpr unsigned flushes = _MM_FLUSH_ZERO_MASK | 0x40;  // results, and operands
  const unsigned before_;
#endif
};

void execute(const CallFrame& frame, DeviceType type) {
  check<StateError>(!Stream::is_recording(), "record", "JAX's work cannot be part of a recorded program");
  Call& call = call_of(frame);
  if (type == DeviceType::cpu) {
    [[maybe_unused]] const WithSubnormals with_subnormals;
    if (!call.is_traced) trace(call, frame);
    if (!call.program) return compute(call, {frame.arguments, {}}, {frame.results, {}});
    void* addresses[Program::max_operands];
    size_t n = 0;
    for_buffers(frame, [&](const Buffer& b) { addresses[n++] = b.data; });
    call.program->run_on({addresses, n});
  } else {
    const Device device = device_of(frame, type);
    const OnStreamOf stream(frame, device);
    compute(call, {frame.arguments, device}, {frame.results, device});
  }
}

Error* error_of(const CallFrame& frame, const char* message, ErrorCode code) {
  ErrorCreateArgs args{sizeof(ErrorCreateArgs), nullptr, message, code};
  return frame.api->error_create(&args);
}

Error* handle(CallFrame* frame, DeviceType type) {
  if (frame->extensions && frame->extensions->type == ExtensionType::metadata) {
    Metadata& metadata = *reinterpret_cast<MetadataExtension*>(frame->extensions)->metadata;
    metadata.version = {sizeof(Version), nullptr, 0, frame->api ? frame->api->version.minor : 1};
    metadata.traits = 0;
    return nullptr;
  }
  if (frame->stage != Stage::execute) return nullptr;
  try {
    execute(*frame, type);
    return nullptr;
  } catch (const std::bad_alloc& error) {
    return error_of(*frame, error.what(), ErrorCode::resource_exhausted);
  } catch (const std::invalid_argument& error) {
    return error_of(*frame, error.what(), ErrorCode::invalid_argument);
  } catch (const std::exception& error) {
    return error_of(*frame, error.what(), ErrorCode::internal);
  }
}

}  // namespace

Error* cpu_handler(CallFrame* frame) { return handle(frame, DeviceType::cpu); }
Error* cuda_handler(CallFrame* frame) { return handle(frame, DeviceType::cuda); }

}  // namespace lamina::xla
