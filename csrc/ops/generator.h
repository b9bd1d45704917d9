// The state of a generator as an operand: int64[2], {seed, offset}.
#pragma once

#include "autograd/op.h"
#include "kernels/random/random.h"

namespace lamina {

inline void check_state(std::string_view op, const Array& state) {
  check<TypeError>(bool(state), op, "state is None; expected the state of a generator");
  check<TypeError>(state.dtype() == Dtype::int64, op, "state is ", state.dtype(), "; expected int64");
  check(state.ndim() == 1 && state.dim(0) == 2 && state.is_contiguous(), op, "state is ", state.view(),
        "; expected (2,), {seed, offset}");
}

// Moves the state past the tiles that a kernel uses up; `before` receives the state as it was.
inline void advance(Stream& stream, const Array& state, int64_t tiles, const View& before = {}) {
  stream.submit(&RandomKernels::advance,
                AdvanceArgs{.state = state.view(), .before = before, .tiles = tiles});
}

}  // namespace lamina
