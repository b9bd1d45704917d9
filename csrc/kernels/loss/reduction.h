// How a loss over many elements becomes the value that is returned.
#pragma once

#include <cstdint>

namespace lamina {

enum class LossReduction : int { none, sum, mean };

// Elements of work per task, and so per partial sum: tasks depend on shapes only, partial sums are added in
// their order.
constexpr int64_t loss_chunk_elements = 8192;

// A sum that keeps what its additions round off (Neumaier 1974): as exact as if it were rounded once, for any number
// of terms, so that a mean loss is as good as the losses it is made of.
struct CompensatedSum {
  double sum = 0, rest = 0;

  [[gnu::always_inline]] void add(double x) {
    const double t = sum + x;
    rest += __builtin_fabs(sum) >= __builtin_fabs(x) ? (sum - t) + x : (x - t) + sum;
    sum = t;
  }
  // Where the sum is infinite or NaN, the rest is NaN and does not count.
  [[gnu::always_inline]] double value() const { return sum - sum == 0 ? sum + rest : sum; }
};

}  // namespace lamina
