// The engine: runs the threads of a grid as fibers on one OS thread. This is what the primitives of prim/ call; what
// an operation means is said there, next to the instruction.
//
// Blocks run one after the other, each to its end, but for those that must be resident together: the blocks of a
// cluster, and all of a cooperative grid. Within them a thread runs until it waits, and then the schedule says who is
// next. What a kernel may not rely on is made as unkind as it can be:
//   - shared memory starts as 0xff (NaN), as does the destination of an asynchronous copy until it lands
//   - asynchronous operations land early (at once), late (when someone waits for them) or at random
//   - blocks and threads go in order, in reverse, or at random
//   - wgmma and TMA stores see only those generic writes to shared memory that a proxy fence has published
// Breaking a rule fails the launch with a StateError that says who waits where.
//
// What this cannot show: weak memory order between blocks, missing fence.mbarrier_init, which thread made a proxy fence;
// a __launch_bounds__ smaller than the block; spills and occupancy; what the tensor-map encoder of a driver refuses beyond
// the rules in base/tensor_layout.h; and errors in our idea of an instruction, which kernel and engine share until
// bench/conformance.cu has run on a GPU. A program that ThreadSanitizer watches is also told of races that no schedule
// brings about.
#pragma once

#include <cstdint>

#include "base/launch.h"
#include "base/tensor_layout.h"

namespace lamina::simt {

inline constexpr int warp_size = 32;

// Runs `thread` once for every thread of the grid. `name` appears in errors.
void run(const char* name, const Launch& launch, const std::function<void()>& thread);

[[noreturn]] void fail(const char* what);
// Fails the launch if p is not a multiple of `bytes`.
void check_aligned(const void* p, int64_t bytes);

// --- threads, warps, blocks ---------------------------------------------------------------------------------------

void* shared_memory();  // of the running thread's block
void yield();           // lets the others run: for loops that wait for memory to change
void block_sync();
void barrier_sync(int id, int threads);    // bar.sync
void barrier_arrive(int id, int threads);  // bar.arrive
void warp_sync(uint32_t mask);
void warp_converge(const char* name);  // of instructions that are .sync.aligned
uint64_t shuffle(const char* name, uint64_t value, int source,
                 uint32_t mask);  // poison from outside the mask
uint32_t ballot(bool predicate, uint32_t mask);
void set_registers(int count);  // setmaxnreg
void dependency_wait();         // griddepcontrol.wait

int cluster_rank();
int cluster_size();
void cluster_arrive();
void cluster_wait();
void* map_shared(const void* p,
                 int rank);  // the same place in the shared memory of another block of the cluster

// --- mbarriers: 8 bytes of shared memory, or another block's through map_shared() --------------------------------

void mbarrier_init(void* barrier, int count);
void mbarrier_invalidate(void* barrier);
void mbarrier_arrive(void* barrier, int count);
void mbarrier_expect(void* barrier, int64_t bytes);
bool mbarrier_test(void* barrier, int parity);
void mbarrier_wait(void* barrier, int parity);

// --- asynchronous copies -------------------------------------------------------------------------------------------

void copy_async(void* shared, const void* global, int bytes, int valid);
void copy_commit();
void copy_wait(int pending);

void bulk_load(void* shared, const void* global, int64_t bytes, void* barrier);
void bulk_store(void* global, const void* shared, int64_t bytes);
void bulk_copy(void* remote, const void* shared, int64_t bytes, void* remote_barrier);
void bulk_commit();
void bulk_wait(int pending, bool only_reads);
void fence_async();

void tensor_load(void* shared, const TensorLayout& map, const int* coordinates, const int* offsets,
                 void* barrier,
                 uint32_t multicast);  // multicast 0: this block alone
enum class Reduction { none, add };
void tensor_store(const TensorLayout& map, const int* coordinates, const void* shared, Reduction reduction);

// --- matrices ------------------------------------------------------------------------------------------------------

void load_matrices(uint32_t* registers, const void* row, int count, bool is_transposed);   // ldmatrix
void store_matrices(const uint32_t* registers, void* row, int count, bool is_transposed);  // stmatrix
void mma(Dtype dtype, float* accumulators, const uint32_t* a,
         const uint32_t* b);  // m16n8k16; float32: tf32, k8

uint64_t wgmma_descriptor(const void* shared, Swizzle swizzle, int64_t leading, int64_t stride);
struct WgmmaShape {
  Dtype dtype;  // float32: tf32
  int n;
  bool is_a_mn_major, is_b_mn_major;
};
// a_registers: null if A is in shared memory.
void wgmma(WgmmaShape shape, float* accumulators, uint64_t a, const uint32_t* a_registers, uint64_t b,
           bool accumulates);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

}  // namespace lamina::simt

// How kernels are to be run from now on. schedule: "fifo", "lifo" or "random"; async: "early", "late" or "random".
// At start: LAMINA_SIM_SCHEDULE, LAMINA_SIM_ASYNC, LAMINA_SIM_SEED, else "fifo", "late", 0. Returns whether it knows
// the names.
extern "C" __attribute__((visibility("default"))) bool simt_configure(const char* schedule, const char* async,
                                                                      uint64_t seed);
