// The device primitives: one named function for each thing that a GPU thread can do beyond plain C++.
//
// Each has two bodies side by side: the instruction for the GPU, and what it means, for `sim`, which runs the same
// kernels on the CPU (simt/). Kernels call nothing else: no intrinsics, no assembly, no static shared memory.
#pragma once

#include "prim/activation.cuh"
#include "prim/atomic.cuh"
#include "prim/block.cuh"
#include "prim/cluster.cuh"
#include "prim/convert.cuh"
#include "prim/copy_async.cuh"
#include "prim/math.cuh"
#include "prim/mbarrier.cuh"
#include "prim/memory.cuh"
#include "prim/mma.cuh"
#include "prim/thread.cuh"
#include "prim/tma.cuh"
#include "prim/vector.cuh"
#include "prim/warp.cuh"
#include "prim/wgmma.cuh"
