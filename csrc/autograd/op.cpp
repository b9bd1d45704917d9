#include "autograd/op.h"

#include <algorithm>
#include <charconv>
#include <map>

namespace lamina {
namespace {

// --- schema parser -----------------------------------------------------------------------------------------------

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text), rest_(text) {}

  Schema parse() {
    Schema schema;
    schema.name = word();
    expect("(");
    bool in_attrs = false;
    while (!accept(")")) {
      if (accept("*"))
        in_attrs = true;
      else if (in_attrs)
        schema.attrs.push_back(attr());
      else
        schema.inputs.push_back(input());
      if (!accept(",") && !rest_.starts_with(")")) broken();
    }
    expect("->");
    if (!accept("()")) do
        schema.outputs.push_back(word());
      while (accept(","));
    if (!rest_.empty()) broken();
    return schema;
  }

  // name=value, …: every attribute of the schema, in its order.
  AttrList values(const Schema& schema) {
    AttrList list;
    for (const AttrSpec& spec : schema.attrs) {
      if (!list.empty()) expect(",");
      if (word() != spec.name) broken();
      expect("=");
      list.push_back(value(spec));
    }
    if (!rest_.empty()) broken();
    return list;
  }

 private:
  InputSpec input() {
    InputSpec spec{.name = word()};
    if (accept("...")) spec.is_variadic = true;
    if (accept("!")) spec.is_written = true;
    if (accept("?")) spec.is_optional = true;
    return spec;
  }

  AttrSpec attr() {
    using Kind = AttrSpec::Kind;
    static const std::map<std::string, Kind, std::less<>> kinds = {
        {"int", Kind::integer}, {"float", Kind::real},  {"bool", Kind::boolean},
        {"str", Kind::string},  {"dtype", Kind::dtype}, {"ints", Kind::ints}};
    AttrSpec spec;
    spec.name = word();
    expect(":");
    const auto kind = kinds.find(word());
    if (kind == kinds.end()) broken();
    spec.kind = kind->second;
    if (accept("[")) {
      spec.kind = Kind::ints;
      spec.count = int(number<int64_t>());
      expect("]");
    }
    spec.is_optional = accept("?");
    expect("=");
    spec.default_value = value(spec);
    return spec;
  }

  Attr value(const AttrSpec& spec) {
    using Kind = AttrSpec::Kind;
    if (accept("None")) return None{};
    switch (spec.kind) {
      case Kind::integer:
        return number<int64_t>();
      case Kind::real:
        return number<double>();
      case Kind::boolean: {
        const std::string w = word();
        return w == "True";
      }
      case Kind::string: {
        expect("'");
        const size_t end = rest_.find('\'');
        std::string s(rest_.substr(0, end));
        rest_.remove_prefix(end + 1);
        skip_blanks();
        return s;
      }
      case Kind::dtype: {
        if (const std::optional<Dtype> dtype = find_dtype(word())) return *dtype;
        broken();
      }
      case Kind::ints: {
        Ints values;
        if (accept("(")) {
          while (!accept(")")) {
            values.push_back(number<int64_t>());
            accept(",");
          }
        } else {
          const int64_t each = number<int64_t>();
          for (int i = 0; i < std::max(1, spec.count); ++i) values.push_back(each);
        }
        return values;
      }
    }
    broken();
  }

  template <class T>
  T number() {
    T n{};
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), n);
    if (error != std::errc{}) broken();
    rest_.remove_prefix(size_t(end - rest_.data()));
    skip_blanks();
    return n;
  }
  std::string word() {
    size_t n = 0;
    while (n < rest_.size() && (std::isalnum(static_cast<unsigned char>(rest_[n])) || rest_[n] == '_')) ++n;
    if (n == 0) broken();
    std::string w(rest_.substr(0, n));
    rest_.remove_prefix(n);
    skip_blanks();
    return w;
  }
  bool accept(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    skip_blanks();
    return true;
  }
  void expect(std::string_view token) {
    if (!accept(token)) broken();
  }
  void skip_blanks() {
    while (rest_.starts_with(' ')) rest_.remove_prefix(1);
  }
  [[noreturn]] void broken() { fail("schema", "cannot read '", text_, "' at '", rest_, "'"); }

  std::string_view text_, rest_;
};

std::map<std::string, Op, std::less<>>& registry() {
  static std::map<std::string, Op, std::less<>> ops;
  return ops;
}

uint32_t mask_of(std::string_view keeps, auto const& names) {
  uint32_t mask = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string padded = " " + std::string(keeps) + " ";
    if (padded.find(" " + names[i] + " ") != std::string::npos) mask |= 1u << i;
  }
  return mask;
}

}  // namespace

std::optional<Dtype> find_dtype(std::string_view name) {
  for (int i = 0; i < dtype_count; ++i)
    if (name == name_of(Dtype(i))) return Dtype(i);
  return std::nullopt;
}

Schema Schema::parse(std::string_view text) { return Parser(text).parse(); }

int Schema::attr_index(std::string_view attr) const {
  for (size_t i = 0; i < attrs.size(); ++i)
    if (attrs[i].name == attr) return int(i);
  fail<TypeError>(name, "no attribute '", attr, "'");
}

std::string to_text(const Schema& schema, const Attrs& attrs) {
  std::ostringstream out;
  for (size_t i = 0; i < schema.attrs.size(); ++i) {
    out << (i ? ", " : "") << schema.attrs[i].name << '=';
    std::visit(
        [&](const auto& value) {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, None>) {
            out << "None";
          } else if constexpr (std::is_same_v<T, bool>) {
            out << (value ? "True" : "False");
          } else if constexpr (std::is_same_v<T, double>) {
            char text[32];  // the shortest that reads back as the same number
            out.write(text, std::to_chars(text, text + sizeof text, value).ptr - text);
          } else if constexpr (std::is_same_v<T, std::string>) {
            out << '\'' << value << '\'';
          } else if constexpr (std::is_same_v<T, Ints>) {
            out << Tuple{value.data(), int(value.size())};
          } else {
            out << value;
          }
        },
        attrs.at(i));
  }
  return out.str();
}

Attrs parse_attrs(const Schema& schema, std::string_view text) {
  return schema.attrs.empty() ? Attrs{} : Attrs(schema, Parser(text).values(schema));
}

Register::Register(const OpDefinition& d) {
  Op op;
  op.schema_text = d.schema;
  op.infer = d.infer;
  op.run = d.run;
  op.vjp = d.vjp;
  op.promotes = d.promotes;
  op.promotes_from = d.promotes_from;
  op.schema = Schema::parse(d.schema);
  std::vector<std::string> inputs;
  for (const InputSpec& input : op.schema.inputs) inputs.push_back(input.name);
  op.kept_inputs = mask_of(d.keeps, inputs);
  // A variadic input is kept as a whole: it is the last one, and its bit extends upwards.
  if (!op.schema.inputs.empty() && op.schema.inputs.back().is_variadic) {
    const uint32_t last = 1u << (inputs.size() - 1);
    if (op.kept_inputs & last) op.kept_inputs |= ~(last - 1);
  }
  op.kept_outputs = mask_of(d.keeps, op.schema.outputs);
  const std::string name = op.schema.name;
  if (!registry().emplace(name, std::move(op)).second) fail("schema", "op '", name, "' is registered twice");
}

const Op& find_op(std::string_view name) {
  const auto found = registry().find(name);
  check(found != registry().end(), name, "there is no such op");
  return found->second;
}

const std::vector<const Op*>& all_ops() {
  static const std::vector<const Op*> ops = [] {
    std::vector<const Op*> list;
    for (const auto& [name, op] : registry()) list.push_back(&op);
    return list;
  }();
  return ops;
}

namespace {

// Where an op runs: on the device of its inputs, which must be one.
Device device_of(const Op& op, const Inputs& in, Device otherwise) {
  const Array* first = nullptr;
  for (const Array& x : in) {
    if (!x) continue;
    if (!first) first = &x;
    if (x.device() == first->device()) [[likely]]
      continue;
    const auto name = [&](const Array& a) {
      return op.schema.inputs[std::min(size_t(&a - in.data()), op.schema.inputs.size() - 1)].name;
    };
    fail<StateError>(op.name(), name(*first), " is on ", name_of(first->device()), " but ", name(x),
                     " is on ", name_of(x.device()), "; expected one device (Tensor.to moves a tensor)");
  }
  return first ? first->device() : otherwise;
}

// The message of a device says what it could not do; it becomes that of the op, with its operands.
[[noreturn]] void device_error(const Op& op, const Inputs& in, const StateError& error) {
  std::ostringstream operands;
  for (size_t i = 0; i < in.size(); ++i)
    if (in[i]) operands << (i ? ", " : "") << in[i].view() << ' ' << in[i].dtype();
  fail<StateError>(op.name(), error.what(), " (operands: ", operands.str(), ")");
}

}  // namespace

Device device_of(const Op& op, const Inputs& in) { return device_of(op, in, current_device()); }

Inference infer(const Op& op, const Inputs& in, const Attrs& attrs) {
  Inference inference;
  inference.device = current_device();
  op.infer(in, attrs, inference);
  return inference;
}

void run(const Op& op, const Inputs& in, const Attrs& attrs, int64_t workspace_bytes, Outputs& out) {
  ThreadState& thread = this_thread();
  Array workspace;
  if (workspace_bytes > 0) {
    workspace = Array(Spec{Dtype::uint8, {workspace_bytes}}.view(), thread.arena(thread.device));
    out.workspace = workspace.view().data;
  }
  Stream& stream = thread.stream(thread.device);
  if (thread.device.is_cpu()) {
    op.run(stream, in, attrs, out);
  } else {
    try {
      op.run(stream, in, attrs, out);
    } catch (const StateError& error) {
      device_error(op, in, error);
    }
  }
  out.workspace = nullptr;
}

void evaluate(const Op& op, const Inputs& in, const Attrs& attrs, Outputs& out) {
  ThreadState& thread = this_thread();
  const Device device = device_of(op, in, thread.device);
  if (device != thread.device) {
    const DeviceScope scope(device);
    return evaluate(op, in, attrs, out);
  }
  const Inference inference = infer(op, in, attrs);
  if (inference.is_alias) {
    out.push_back(in[0].with_view(inference.views[0]));
    return;
  }
  Arena& arena = thread.arena(inference.device);
  for (const View& view : inference.views) out.push_back(Array(view, arena));
  run(op, in, attrs, inference.workspace, out);
}

Attrs make_attrs(const Op& op, std::initializer_list<NamedAttr> values) {
  const Schema& schema = op.schema;
  if (schema.attrs.empty()) return {};
  AttrList list;
  list.reserve(schema.attrs.size());
  for (const AttrSpec& spec : schema.attrs) list.push_back(spec.default_value);
  for (const NamedAttr& named : values) list[size_t(schema.attr_index(named.name))] = named.value;
  return Attrs(schema, std::move(list));
}

}  // namespace lamina
