// How a loss over many elements becomes the value that is returned.
#pragma once

#include <cstdint>

namespace lamina {

enum class Reduction : int { none, sum, mean };

// Elements of work per task, and so per partial sum: tasks depend on shapes only, partial sums are added in
// their order.
constexpr int64_t loss_chunk_elements = 8192;

}  // namespace lamina
