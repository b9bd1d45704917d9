#pragma once

#include <cuda_runtime_api.h>

#include "base/check.h"

namespace lamina {

inline void check_cuda(cudaError_t status, const char* call) {
  if (status != cudaSuccess)
    fail<StateError>(call, cudaGetErrorName(status), ": ", cudaGetErrorString(status));
}

}  // namespace lamina
