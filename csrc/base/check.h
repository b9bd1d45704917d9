// Errors in one format: `op: what is wrong, with the values; what was expected`.
//
//   check(x.ndim() == 4, "conv2d", "x is ", x, "; expected (N, C, H, W)");
//
// A View prints as its shape. ValueError: shapes and values; TypeError: dtype or kind; StateError: device or state.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "base/view.h"

namespace lamina {

struct ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct TypeError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
struct StateError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::ostream& operator<<(std::ostream& out, Dtype t) { return out << name_of(t); }

// Prints n integers as Python prints a tuple.
struct Tuple {
  const int64_t* values;
  int n;
};
inline std::ostream& operator<<(std::ostream& out, Tuple t) {
  out << '(';
  for (int i = 0; i < t.n; ++i) out << (i ? ", " : "") << t.values[i];
  return out << (t.n == 1 ? ",)" : ")");
}
inline std::ostream& operator<<(std::ostream& out, const View& v) { return out << Tuple{v.shape, v.ndim}; }

template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class Error = ValueError, class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void fail(std::string_view op, const Parts&... parts) {
  throw Error(cat(op, ": ", parts...));
}

template <class Error = ValueError, class... Parts>
[[gnu::always_inline]] inline void check(bool ok, std::string_view op, const Parts&... parts) {
  if (!ok) [[unlikely]]
    fail<Error>(op, parts...);
}

}  // namespace lamina
