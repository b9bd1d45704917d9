// The engine: runs the threads of a grid as fibers on one OS thread. This is what the primitives of prim/ call.
//
// Blocks run one after the other, each to its end, but for those that must be resident together: the blocks of a
// cluster, and all of a cooperative grid. Within them a thread runs until it waits.
#pragma once

#include <cstdint>

#include "base/launch.h"

namespace lamina::simt {

inline constexpr int warp_size = 32;

void* shared_memory();  // of the running thread's block; 1024-byte aligned

// Waits until all threads of the block that have not ended wait here.
void block_sync();

// A collective operation of a warp. Each lane of `mask` brings `operands`; when the last of them has arrived,
// complete(operands of all lanes, mask) runs once, and all go on. Lanes that meet at different operations, or with
// different masks, are an error.
using WarpOperation = void (*)(void* const* operands, uint32_t mask);
void warp_collective(const char* name, uint32_t mask, void* operands, WarpOperation complete);

// Fails the launch if p is not a multiple of `bytes`.
void check_aligned(const void* p, int64_t bytes);

// Lets the others run: for loops that wait for memory to change.
void yield();

}  // namespace lamina::simt
