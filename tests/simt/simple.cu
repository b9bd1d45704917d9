// A block reduction, a tiled matrix product, sums over a cluster and over a grid; and their mutants.
#include "mutants.h"

namespace lamina::LAMINA_DEVICE {
namespace {

// --- y[row] = sum of x[row, :]: one block takes rows in turn -----------------------------------------------------

struct ReductionShared {
  float lanes[4][32];
  float partial[32];
};

__global__ void __launch_bounds__(128)
    reduction_kernel(const float* x, float* y, int rows, int n, Number mutant) {
  auto& s = prim::shared_memory<ReductionShared>();
  const int lane = prim::lane(), warp = prim::warp();
  for (int row = int(blockIdx.x); row < rows; row += int(gridDim.x)) {
    float sum = 0;
    const int end = mutant == 1 ? n - 1 : mutant == 2 ? n + 1 : n;
    for (int i = int(threadIdx.x); i < end; i += int(blockDim.x)) sum += x[row * n + i];
    // Pairs and eights exchange through shared memory, the others by shuffles, which order no memory.
    s.lanes[warp][lane] = sum;
    if (mutant != 3) prim::warp_sync();
    sum += s.lanes[warp][lane ^ 1];
    sum += prim::shuffle_xor(sum, 2);
    if (mutant != 4) prim::warp_sync();
    s.lanes[warp][lane] = sum;
    prim::warp_sync();
    sum += s.lanes[warp][lane ^ 4];
    for (int bits = mutant == 5 ? 8 : 16; bits > 4; bits /= 2) sum += prim::shuffle_xor(sum, bits);
    if (mutant != 6) prim::block_sync();  // the partial sums of the row before have been read
    if (lane == 0) s.partial[warp] = sum;
    if (mutant != 7 && (mutant != 8 || warp < 2)) prim::block_sync();
    if (warp == 0) {
      sum = prim::warp_sum(lane < (mutant == 9 ? 5 : 4) ? s.partial[lane] : 0.0f);
      if (lane == 0) y[mutant == 10 ? row + 1 : row] = sum;
    }
    if (mutant == 11 && warp == 3) return;
  }
}

std::string run_reduction(int mutant) {
  constexpr int rows = 7, n = 300;
  Guarded<float> x(rows * n), y(rows);
  x.fill_with_integers(1);
  launch("reduction", reduction_kernel, {.grid = {2}, .block = {128}, .shared = sizeof(ReductionShared)},
         x.data(), y.data(), rows, n, Number(mutant));
  if (!y.is_intact()) return "wrote outside of an array";
  for (int row = 0; row < rows; ++row) {
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += x[row * n + i];
    if (!(y[row] == sum)) return cat("row ", row, " is ", y[row], ", expected ", sum);
  }
  return "";
}

// --- c (M, N) = a (M, K) b (K, N) in float32: tiles of 16 x 16 in two buffers ------------------------------------

struct SgemmShared {
  float a[2][16][17], b[2][16][17];
};

__global__ void __launch_bounds__(256)
    sgemm_kernel(const float* a, const float* b, float* c, int M, int N, int K, Number mutant) {
  auto& s = prim::shared_memory<SgemmShared>();
  const int x = int(threadIdx.x), y = int(threadIdx.y);
  const int m = int(mutant == 1 ? blockIdx.x : blockIdx.y) * 16 + y, n = int(blockIdx.x) * 16 + x;
  auto load = [&](int k, int buffer) {
    const int last = mutant == 2 ? K + 1 : K;
    s.a[buffer][y][x] = (m < M && k + x < last) ? a[m * K + k + x] : 0.0f;
    s.b[buffer][y][x] = (n < N && k + y < last) ? b[(k + y) * N + n] : 0.0f;
  };
  float sum = 0;
  load(0, 0);
  int buffer = 0;
  for (int k = 0; k < (mutant == 3 ? K / 16 * 16 : K); k += 16) {
    if (mutant != 4 && (mutant != 9 || k % 32 == 0))
      prim::block_sync();  // the buffer is full, and nobody reads the other one
    if (k + 16 < K) load(k + 16, mutant == 5 ? buffer : buffer ^ 1);
    for (int i = 0; i < 16; ++i)
      sum += s.a[buffer][y][i] * (mutant == 6 ? s.b[buffer][x][i] : s.b[buffer][i][x]);
    if (mutant != 7) buffer ^= 1;
  }
  if (m < M && n < (mutant == 8 ? N + 1 : N)) c[m * N + n] = sum;
}

std::string run_sgemm(int mutant) {
  constexpr int M = 37, N = 21, K = 75;
  Guarded<float> a(M * K), b(K * N), c(M * N);
  a.fill_with_integers(1);
  b.fill_with_integers(2);
  launch("sgemm", sgemm_kernel, {.grid = {2, 3}, .block = {16, 16}, .shared = sizeof(SgemmShared)}, a.data(),
         b.data(), c.data(), M, N, K, Number(mutant));
  return compare_product(c, a, b, M, N, K, N, 1);
}

// --- y[row] = sum of x[row, :]: a cluster of four blocks for each row, whose blocks send their sums to the first --

struct ClusterShared {
  float partial[32];
  float from[4];
};

__global__ void __launch_bounds__(64) cluster_kernel(const float* x, float* y, int n, Number mutant) {
  auto& s = prim::shared_memory<ClusterShared>();
  const int rank = prim::cluster_rank(), size = prim::cluster_size(), row = int(blockIdx.x) / size;
  float sum = 0;
  for (int i = rank * int(blockDim.x) + int(threadIdx.x); i < n; i += size * int(blockDim.x))
    sum += x[row * n + i];
  sum = prim::block_sum(sum, s.partial);
  if (mutant == 1 && rank == 3) return;
  if (threadIdx.x == 0) prim::map_shared(s.from, mutant == 2 ? 1 : 0)[mutant == 3 ? rank / 2 : rank] = sum;
  if (mutant != 4) prim::cluster_arrive();
  if (mutant == 9 && rank == 1) prim::cluster_arrive();
  if (mutant != 4 && mutant != 5) prim::cluster_wait();
  if (rank == 0 && threadIdx.x == 0) {
    float total = 0;
    for (int i = 0; i < (mutant == 6 ? size + 1 : size); ++i) total += s.from[i];
    y[row] = total;
  }
  // The other way round: all blocks read the sum of the first, which must not end before.
  float* first = prim::map_shared(s.from, 0);
  if (rank == 0 && threadIdx.x == 0) s.from[0] = y[row];
  if (mutant != 7) prim::cluster_sync();
  if (threadIdx.x == 0 && rank > 0)
    y[gridDim.x / 4 + blockIdx.x] = *(mutant == 8 ? prim::map_shared(s.from, 0) : first);
  if (mutant != 8) prim::cluster_sync();
}

std::string run_cluster(int mutant) {
  constexpr int rows = 3, n = 1000;
  Guarded<float> x(rows * n), y(rows + 4 * rows);
  x.fill_with_integers(3);
  launch("cluster_sum", cluster_kernel,
         {.grid = {4 * rows}, .block = {64}, .shared = sizeof(ClusterShared), .cluster = {4}}, x.data(),
         y.data(), n, mutant);
  if (!y.is_intact()) return "wrote outside of an array";
  for (int row = 0; row < rows; ++row) {
    float sum = 0;
    for (int i = 0; i < n; ++i) sum += x[row * n + i];
    for (int rank = 0; rank < 4; ++rank) {
      const float got = y[rank ? rows + 4 * row + rank : row];
      if (!(got == sum)) return cat("row ", row, " of rank ", rank, " is ", got, ", expected ", sum);
    }
  }
  return "";
}

// --- y[i] = x[i] / sum of x, x positive: blocks leave their sums in global memory and meet ------------------------

struct GridShared {
  float partial[32];
};

__global__ void __launch_bounds__(64)
    grid_kernel(const float* x, float* y, float* sums, uint32_t* blocks_done, prim::GridBarrier* barrier,
                int n, Number mutant) {
  auto& s = prim::shared_memory<GridShared>();
  float sum = 0;
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x))
    sum += x[i];
  sum = prim::block_sum(sum, s.partial);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = sum;
    if (mutant == 1)
      *blocks_done += 1;  // not atomic
    else
      prim::atomic_add(blocks_done, 1u);
  }
  if (mutant == 2) {
    prim::block_sync();
  } else if (mutant == 3) {  // without the barrier before: the last to arrive need not be the last to write
    if (threadIdx.x == 32) prim::atomic_add(&barrier->arrived, 1u);
    while (prim::load_acquire(&barrier->arrived) < gridDim.x) prim::spin();
  } else if (mutant == 4) {  // waits for one block too many
    if (threadIdx.x == 0) prim::atomic_add(&barrier->arrived, 1u);
    while (prim::load_acquire(&barrier->arrived) <= gridDim.x) prim::spin();
  } else if (mutant == 6) {  // the generation is read when the barrier may have been passed already
    prim::block_sync();
    if (threadIdx.x == 0) {
      const bool is_last = prim::atomic_add_acquire_release(&barrier->arrived, 1) == gridDim.x - 1;
      if (is_last) prim::atomic_add(&barrier->generation, 1u);
      if (!is_last) prim::spin();
      const uint32_t generation = prim::load_acquire(&barrier->generation);
      while (!is_last && prim::load_acquire(&barrier->generation) == generation) prim::spin();
    }
    prim::block_sync();
  } else if (mutant == 7) {  // thread 0 knows, the others go on
    if (threadIdx.x == 0) {
      prim::atomic_add_acquire_release(&barrier->arrived, 1);
      while (prim::load_acquire(&barrier->arrived) < gridDim.x) prim::spin();
    }
  } else {
    prim::grid_sync(barrier);
  }
  sum = 0;
  for (uint32_t i = 0; i < gridDim.x; ++i) sum += sums[i];
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x))
    y[i] = x[i] / sum;
}

std::string run_grid(int mutant) {
  constexpr int n = 1000, blocks = 4;
  Guarded<float> x(n), y(n), sums(blocks);
  Guarded<uint32_t> counters(3);
  x.fill_with_integers(4);
  for (int i = 0; i < 3; ++i) counters[i] = 0;
  const int launches = mutant ? 1 : 2;  // the barrier serves again and again
  for (int i = 0; i < launches; ++i)
    launch("grid_barrier", grid_kernel,
           {.grid = {blocks}, .block = {64}, .shared = sizeof(GridShared), .is_cooperative = mutant != 5},
           x.data(), y.data(), sums.data(), counters.data(),
           reinterpret_cast<prim::GridBarrier*>(counters.data() + 1), n, mutant);
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  for (int i = 0; i < n; ++i)
    if (!(y[i] == x[i] / sum)) return cat("element ", i, " is ", y[i], ", expected ", x[i] / sum);
  return counters[0] == uint32_t(launches * blocks) ? "" : "a block is missing";
}

}  // namespace

const MutatedKernel reduction = {
    "reduction",
    run_reduction,
    {{"the last element is left out"},
     {"an element too many is read"},
     {"no warp_sync between a lane's write and its neighbour's read"},
     // The shuffle in between makes the lanes meet here, as it mostly does on a GPU.
     {"no warp_sync before the lanes' values are overwritten", Seen::tsan},
     {"the shuffles begin with half of the width"},
     {"no barrier before the partial sums are overwritten"},
     {"no barrier before the partial sums are read"},
     {"a barrier that two of four warps skip"},
     {"a partial sum too many, which nobody wrote"},
     {"the row after is written"},
     {"a warp leaves the loop after its first row"}}};

const MutatedKernel sgemm = {"sgemm",
                             run_sgemm,
                             {{"blockIdx.x for blockIdx.y"},
                              {"k runs one element too far"},
                              {"the last, partial tile of k is left out"},
                              {"no barrier"},
                              {"the next tile goes into the buffer that is being read"},
                              {"the tile of b is read transposed"},
                              {"the buffers are not swapped"},
                              {"a column too many is written"},
                              {"a barrier for every second tile only"}}};

const MutatedKernel cluster_sum = {"cluster_sum",
                                   run_cluster,
                                   {{"a block ends before the cluster's barrier"},
                                    {"the sums go to the wrong block"},
                                    {"the sums go to the wrong place"},
                                    {"no cluster barrier before the sums are read"},
                                    {"arrives at the cluster barrier and does not wait"},
                                    {"a sum too many, which nobody wrote"},
                                    {"no cluster barrier before the total is read"},
                                    {"the first block ends while others read its memory"},
                                    {"a block arrives twice at the cluster barrier"}}};

const MutatedKernel grid_barrier = {
    "grid_barrier",
    run_grid,
    {// Blocks switch where they wait, which is never between the load and the store of one +=.
     {"a counter of all blocks without an atomic", Seen::tsan},
     {"no grid barrier"},
     {"the grid barrier without the block's before it"},
     {"waits for a block too many"},
     {"the grid waits for blocks that are not resident"},
     {"a thread waits for a generation that has come already"},
     {"no barrier of the block after its thread has waited for the grid"}}};

}  // namespace lamina::LAMINA_DEVICE
