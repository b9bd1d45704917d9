// What a launch must keep to on any device.
#pragma once

#include <cstdint>

#include "base/check.h"
#include "base/launch.h"

namespace lamina {

[[noreturn]] inline void fail_launch(const char* name, const Launch& l, std::string_view what) {
  fail<StateError>(name, what, " (grid ", l.grid, ", block ", l.block, ", cluster ", l.cluster, ", ",
                   l.shared, " bytes of shared memory)");
}

inline void check_launch(const char* name, const Launch& l, const DeviceProperties& device) {
  if (l.grid.x > INT32_MAX || l.grid.y > grid_limit || l.grid.z > grid_limit)
    fail_launch(name, l, "the grid is too large");
  if (l.block.size() > 1024 || l.block.z > 64) fail_launch(name, l, "a block has more than 1024 threads");
  if (l.grid.x % l.cluster.x || l.grid.y % l.cluster.y || l.grid.z % l.cluster.z)
    fail_launch(name, l, "the grid is not whole clusters");
  if (l.cluster.size() > 1 && device.architecture < 90) fail_launch(name, l, "the device has no clusters");
  if (l.shared > device.max_shared) fail_launch(name, l, "too much shared memory");
}

}  // namespace lamina
