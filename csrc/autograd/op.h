// Op: the record that ties a name, shapes, kernels and derivatives. Whatever is the same for all ops is a loop over
// the records: the Python entry, the tape, replay, tests, benchmarks and the bridges to other frameworks.
//
// An op is written as plain functions and registered by its schema (see csrc/ops/ for every one of them):
//
//   const Register softmax{{
//       .schema = "softmax(x, *, dim: int = -1) -> y",
//       .infer = infer, .run = run, .vjp = vjp, .keeps = "y"}};
//
// Schema grammar. Inputs are arrays: `x`; `x?` may be absent; `x!` is also written in place; `xs...` (last) takes any
// number. After `*`, attributes: `name: type = default`, where type is int, float, bool, str, dtype, ints, or int[k]
// (k integers; one integer stands for k equal ones); a type with `?` also takes None. Strings are quoted with '.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/check.h"
#include "base/small_vector.h"
#include "runtime/array.h"
#include "runtime/stream.h"

namespace lamina {

// --- attributes --------------------------------------------------------------------------------------------------

using Ints = SmallVector<int64_t, 4>;
inline std::ostream& operator<<(std::ostream& out, const Ints& v) {
  return out << Tuple{v.data(), int(v.size())};
}
using None = std::monostate;
using Attr = std::variant<None, bool, int64_t, double, Dtype, std::string, Ints>;
using AttrList = SmallVector<Attr, 4>;

struct AttrSpec {
  enum class Kind { integer, real, boolean, string, dtype, ints };
  std::string name;
  Kind kind = Kind::integer;
  int count = 0;             // of int[k]; 0: any number
  bool is_optional = false;  // None is allowed
  Attr default_value;
};

struct InputSpec {
  std::string name;
  bool is_optional = false, is_written = false, is_variadic = false;
};

struct Schema {
  std::string name;
  std::vector<InputSpec> inputs;
  std::vector<AttrSpec> attrs;
  std::vector<std::string> outputs;

  static Schema parse(std::string_view text);
  int attr_index(std::string_view attr) const;  // fails if there is none of that name
};

// The values of an op's attributes, in the order of its schema; shared, never changed after the call is made.
class Attrs {
 public:
  Attrs() = default;
  Attrs(const Schema& schema, AttrList values) : body_(make_ref<Body>(schema, std::move(values))) {}

  const Attr& operator[](std::string_view name) const { return at(size_t(body_->schema.attr_index(name))); }
  const Attr& at(size_t position) const { return body_->values[position]; }
  int64_t integer(std::string_view name) const { return std::get<int64_t>((*this)[name]); }
  double real(std::string_view name) const { return std::get<double>((*this)[name]); }
  bool boolean(std::string_view name) const { return std::get<bool>((*this)[name]); }
  Dtype dtype(std::string_view name) const { return std::get<Dtype>((*this)[name]); }
  const std::string& string(std::string_view name) const { return std::get<std::string>((*this)[name]); }
  const Ints& ints(std::string_view name) const { return std::get<Ints>((*this)[name]); }
  bool is_none(std::string_view name) const { return std::holds_alternative<None>((*this)[name]); }

 private:
  struct Body : RefCounted, Pooled<Body> {
    Body(const Schema& of, AttrList list) : schema(of), values(std::move(list)) {}
    const Schema& schema;
    const AttrList values;
  };
  Ref<Body> body_;
};

std::optional<Dtype> find_dtype(std::string_view name);  // none: there is no dtype of that name

// Attributes as text, in the words of the schema, and back: `stride=(1, 1), padding=(0, 0, 0, 0)`. All are written.
std::string to_text(const Schema& schema, const Attrs& attrs);
Attrs parse_attrs(const Schema& schema, std::string_view text);

// --- what an op's functions see ----------------------------------------------------------------------------------

using Inputs = std::span<const Array>;    // an absent operand is an empty Array
using Gradients = SmallVector<Array, 4>;  // one per input; empty: none

struct Inference {
  SmallVector<View, 4>
      views;  // dense, to be allocated, unless data is set: then a view on the first input's storage
  int64_t workspace = 0;  // bytes that run needs besides its outputs
  Device device;          // of the outputs: where the inputs lie, unless infer says otherwise

  void add(const Spec& spec) { views.push_back(spec.view()); }
  void add(const View& dense_view) { views.push_back(dense_view); }
  // The output is this view on the storage of the first input; run is not called.
  void alias(const View& view) {
    views.push_back(view);
    is_alias = true;
  }
  bool is_alias = false;
};

struct Outputs : SmallVector<Array, 4> {
  void* workspace = nullptr;
};

// What the tape kept of a call.
struct Saved {
  Inputs in, out;
  const Attrs& attrs;
  std::span<const int64_t> in_slots;
  RefCounted* payload;  // of a Python Function
  bool needs(size_t input) const { return in_slots[input] >= 0; }
};

// none: operands must have the dtypes that infer asks for; common: they meet in one dtype (`promote`); floating: they
// meet in one dtype, and integers count as float32.
enum class Promotion { none, common, floating };

struct Op {
  std::string_view schema_text;
  // Shapes and dtypes of the outputs, and every user error, before anything is allocated or written.
  void (*infer)(const Inputs&, const Attrs&, Inference&) = nullptr;
  // Submits kernels that write the outputs. Never reads array values: a recorded program replays the kernels only.
  void (*run)(Stream&, const Inputs&, const Attrs&, const Outputs&) = nullptr;
  // Gradients of the inputs from those of the outputs (empty where an output has none). Null: not differentiable.
  Gradients (*vjp)(const Saved&, const Inputs& dy) = nullptr;
  // Bit masks of the inputs and outputs whose data vjp reads; of the others it sees shape and dtype only.
  uint32_t kept_inputs = 0, kept_outputs = 0;
  // Whether operands from number `promotes_from` on are cast to one dtype first, and Python numbers are operands too.
  Promotion promotes = Promotion::none;
  size_t promotes_from = 0;
  Schema schema;

  const std::string& name() const { return schema.name; }
};

struct OpDefinition {
  std::string_view schema;
  decltype(Op::infer) infer;
  decltype(Op::run) run = nullptr;
  decltype(Op::vjp) vjp = nullptr;
  std::string_view keeps = "";
  Promotion promotes = Promotion::none;
  size_t promotes_from = 0;
};

struct Register {
  Register(const OpDefinition& definition);
};

const Op& find_op(std::string_view name);
const std::vector<const Op*>& all_ops();  // in order of their names

// --- running ops on Arrays, without recording --------------------------------------------------------------------

void evaluate(const Op& op, const Inputs& in, const Attrs& attrs, Outputs& out);

// The two halves of evaluate, for callers that bring the memory of the outputs. Both work on the current device, which
// must be that of the inputs (device_of); `out` has an array for every view that infer gave.
Device device_of(const Op& op, const Inputs& in);
Inference infer(const Op& op, const Inputs& in, const Attrs& attrs);
void run(const Op& op, const Inputs& in, const Attrs& attrs, int64_t workspace_bytes, Outputs& out);

struct NamedAttr {
  std::string_view name;
  Attr value;
};
Attrs make_attrs(const Op& op, std::initializer_list<NamedAttr> values);

template <size_t N>
struct OpName {
  char text[N];
  constexpr OpName(const char (&name)[N]) { std::copy_n(name, N, text); }
};

// eval_all<"op">({inputs}, {{"attribute", value}}) gives all outputs; eval gives the first.
template <OpName name>
Outputs eval_all(std::initializer_list<Array> in, std::initializer_list<NamedAttr> attrs = {}) {
  static const Op& op = find_op(name.text);
  Outputs out;
  evaluate(op, Inputs(in.begin(), in.size()), make_attrs(op, attrs), out);
  return out;
}
template <OpName name>
Array eval(std::initializer_list<Array> in, std::initializer_list<NamedAttr> attrs = {}) {
  return eval_all<name>(in, attrs)[0];
}

// x if it is dense in that layout, else a copy that is.
inline Array contiguous(const Array& x) { return x.is_contiguous() ? x : eval<"contiguous">({x}); }
inline Array channels_last(const Array& x) { return x.is_channels_last() ? x : eval<"channels_last">({x}); }

}  // namespace lamina
