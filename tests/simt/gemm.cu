// Pipelined matrix products on matrix units, and their mutants.
#include "mutants.h"

namespace lamina::LAMINA_DEVICE {
namespace {

// --- c (M, N) = a (M, K) b (K, N), bf16: cp.async into three stages, ldmatrix, mma.sync ---------------------------
//
// 64 x 64 tiles of c by 2 x 2 warps of 32 x 32; 32 elements of k in a stage. Chunks of 16 bytes are permuted within
// their rows, so that the eight rows of a matrix lie in different banks.

constexpr int mma_stages = 3;

struct MmaShared {
  bf16 a[mma_stages][64][32];
  bf16 b[mma_stages][32][64];
};

__global__ void __launch_bounds__(128)
    mma_kernel(const bf16* a, const bf16* b, float* c, int M, int N, int K, Number mutant) {
  auto& s = prim::shared_memory<MmaShared>();
  const int t = int(threadIdx.x), lane = prim::lane(), warp_m = prim::warp() / 2 * 32,
            warp_n = prim::warp() % 2 * 32;
  const int m0 = int(blockIdx.y) * 64, n0 = int(blockIdx.x) * 64;
  auto at_a = [&](int stage, int row, int chunk) { return &s.a[stage][row][8 * (chunk ^ (row / 2 % 4))]; };
  auto at_b = [&](int stage, int row, int chunk) { return &s.b[stage][row][8 * (chunk ^ (row % 8))]; };
  auto load = [&](int k0, int stage) {
    for (int i = t; i < 256; i += 128) {
      const int row = i / 4, chunk = i % 4, m = m0 + row, k = k0 + 8 * chunk;
      const bool is_inside = m < M && (k < K || mutant == 1);
      bf16* to = mutant == 2 ? &s.a[stage][row][8 * chunk] : at_a(stage, row, chunk);
      prim::copy_async<16>(to, is_inside ? a + m * K + k : a, is_inside ? 16 : mutant == 3 ? 8 : 0);
    }
    if (mutant == 12) prim::copy_commit();
    for (int i = t; i < 256; i += 128) {
      const int row = i / 8, chunk = i % 8, k = k0 + row, n = n0 + 8 * chunk;
      const bool is_inside = k < K && n < N;
      prim::copy_async<16>(at_b(stage, row, chunk), is_inside ? b + k * N + n : b,
                           is_inside     ? 16
                           : mutant == 3 ? 8
                                         : 0);
    }
  };
  const int tiles = (K + 31) / 32;
  for (int i = 0; i < mma_stages - 1; ++i) {
    if (i < tiles) load(32 * i, i);
    if (mutant != 12) prim::copy_commit();
  }
  float sum[2][4][4] = {};
  for (int i = 0; i < tiles; ++i) {
    if (mutant == 4)
      prim::copy_wait<mma_stages - 1>();
    else if (mutant != 5 && mutant != 13)
      prim::copy_wait<mma_stages - 2>();
    if (mutant != 6)
      prim::block_sync();  // the tile is there for all, and nobody reads the one before any more
    const int next = i + mma_stages - 1;
    if (next < tiles && mutant != 14) load(32 * next, mutant == 7 ? i % mma_stages : next % mma_stages);
    if ((mutant != 8 || next < tiles) && mutant != 12) prim::copy_commit();  // empty groups keep the count
    const int stage = mutant == 9 ? (i + 1) % mma_stages : i % mma_stages;
    for (int k = 0; k < 32; k += 16) {
      uint32_t fragment_a[2][4], fragment_b[2][4];
      for (int j = 0; j < 2; ++j)
        prim::load_matrices(
            fragment_a[j],
            at_a(stage, warp_m + 16 * j + (mutant == 15 ? lane % 8 : lane % 16), k / 8 + lane / 16));
      for (int j = 0; j < 2; ++j) {
        const bf16* row = at_b(stage, k + lane % 16, (warp_n + 16 * j) / 8 + lane / 16);
        if (mutant == 10)
          prim::load_matrices(fragment_b[j], row);
        else
          prim::load_matrices<4, true>(fragment_b[j], row);
      }
      for (int m = 0; m < 2; ++m)
        for (int n = 0; n < 4; ++n) {
          const uint32_t columns[2] = {fragment_b[n / 2][2 * (n % 2)], fragment_b[n / 2][2 * (n % 2) + 1]};
          prim::mma<bf16>(sum[m][n], fragment_a[m], columns);
        }
    }
  }
  for (int m = 0; m < 2; ++m)
    for (int n = 0; n < 4; ++n)
      for (int r = 0; r < 4; ++r) {
        const int row = m0 + warp_m + 16 * m + lane / 4 + (mutant == 11 ? r / 2 : 8 * (r / 2));
        const int column = n0 + warp_n + 8 * n + 2 * (lane % 4) + r % 2;
        if (row < M && column < N) c[row * N + column] = sum[m][n][r];
      }
}

std::string run_mma(int mutant) {
  constexpr int M = 70, N = 72, K = 232;
  Guarded<bf16> a(M * K), b(K * N);
  Guarded<float> c(M * N);
  a.fill_with_integers(1);
  b.fill_with_integers(2);
  launch("mma_gemm", mma_kernel, {.grid = {2, 2}, .block = {128}, .shared = sizeof(MmaShared)}, a.data(),
         b.data(), c.data(), M, N, K, Number(mutant));
  return compare_product(c, a, b, M, N, K, N, 1);
}

// --- c (M, N) = a (M, K) b (N, K)^T, bf16: TMA into four stages, wgmma, TMA store ---------------------------------
//
// A warp group produces, two consume, each 64 rows of tiles of 128 x 64. Blocks take tiles in turn; the ring of stages
// goes on from tile to tile.

constexpr int wgmma_stages = 4;

struct WgmmaShared {
  alignas(1024) bf16 a[wgmma_stages][128][64];
  alignas(1024) bf16 b[wgmma_stages][64][64];
  alignas(1024) float c[2][64][64];
  prim::Mbarrier full[wgmma_stages], empty[wgmma_stages];
};

struct WgmmaArgs {
  prim::TensorMap a, b, c;
  int M, N, K;
  Number mutant;
};

__global__ void __launch_bounds__(384, 1) wgmma_kernel(const __grid_constant__ WgmmaArgs args) {
  auto& s = prim::shared_memory<WgmmaShared>();
  const Number mutant = args.mutant;
  const int group = prim::warp() / 4, lane = prim::lane();
  if (threadIdx.x == 0) {
    for (int i = 0; i < wgmma_stages; ++i) {
      prim::mbarrier_init(&s.full[i], mutant == 27 ? 2 : 1);
      prim::mbarrier_init(&s.empty[i], mutant == 1 ? 4 : 8);  // warps of the consumers
    }
    if (mutant != 2) prim::fence_mbarrier_init();
  }
  if (mutant != 3) prim::block_sync();
  const int tiles_n = (args.N + 63) / 64, tiles = (args.M + 127) / 128 * tiles_n, steps = (args.K + 63) / 64;
  prim::PhaseRing<wgmma_stages> ring;
  auto advance = [&] {
    ring.advance();
    if (mutant == 4) ring.phase = 0;
  };
  if (group == 0) {
    prim::give_up_registers<40>();
    if (threadIdx.x != 0 && (mutant != 35 || threadIdx.x != 32)) return;
    for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x))
      for (int k = 0; k < steps; ++k, advance()) {
        prim::Mbarrier* full = &s.full[ring.stage];
        if (mutant != 5)
          prim::mbarrier_wait(&s.empty[ring.stage], mutant == 6 ? ring.parity() : ring.parity() ^ 1);
        const int bytes = sizeof(s.a[0]) + sizeof(s.b[0]);
        prim::mbarrier_arrive_expect(full, mutant == 7 ? bytes / 2 : mutant == 8 ? bytes + 64 : bytes);
        if (mutant == 34 && k == steps - 1) prim::mbarrier_expect(full, -16);
        const int column = mutant == 9 ? 64 * (k + 1) : 64 * k;
        prim::tensor_load(s.a[ring.stage], args.a, {column, tile / tiles_n * 128}, full);
        prim::tensor_load(s.b[ring.stage], args.b, {64 * k, tile % tiles_n * 64}, full);
      }
    return;
  }
  if (mutant == 10)
    prim::take_registers<256>();
  else
    prim::take_registers<208>();
  const int consumer = group - 1;
  float sum[32];
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    if (mutant == 28) ring = {};
    for (int k = 0; k < steps; ++k, advance()) {
      if (mutant != 11 && (mutant != 29 || prim::warp() % 4 == 0))
        prim::mbarrier_wait(&s.full[ring.stage], mutant == 12 ? ring.parity() ^ 1 : ring.parity());
      if (mutant == 13 && lane == 0) prim::mbarrier_arrive(&s.empty[ring.stage]);
      const uint64_t a =
          prim::wgmma_descriptor_k(&s.a[ring.stage][mutant == 30 ? 0 : 64 * consumer][0], Swizzle::b128);
      const uint64_t b =
          prim::wgmma_descriptor_k(&s.b[ring.stage][0][0], mutant == 14 ? Swizzle::b64 : Swizzle::b128);
      if constexpr (prim::has_wgmma) {
        if (mutant != 15) prim::wgmma_fence(sum);
        for (int i = 0; i < 4; ++i)
          prim::wgmma<bf16, 64>(sum, prim::advance(a, 32 * i), prim::advance(b, (mutant == 16 ? 64 : 32) * i),
                                mutant == 17 || k > 0 || i > 0);
        if (mutant != 18) prim::wgmma_commit();
        if (mutant == 31) prim::wgmma_wait<1>(sum);
        if (mutant != 19 && mutant != 31) prim::wgmma_wait<0>(sum);
      }
      if (mutant != 13 && lane == 0) prim::mbarrier_arrive(&s.empty[ring.stage]);
    }
    // The tile of c, once the store before has read its own.
    const int barrier = mutant == 32 ? 1 : 1 + consumer;
    const bool is_leader = int(threadIdx.x) % 128 == 0;
    if (is_leader && mutant == 23) prim::bulk_wait_read<1>();
    if (is_leader && mutant != 20 && mutant != 23) prim::bulk_wait_read<0>();
    if (mutant != 20) prim::barrier_sync(barrier, 128);
    for (int i = 0; i < 32; ++i) {
      const int row = prim::warp() % 4 * 16 + lane / 4 + 8 * (i / 2 % 2),
                column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      s.c[consumer][row][column] = sum[i];
    }
    if (mutant != 21 && mutant != 26 && (mutant != 22 || is_leader)) prim::fence_async();
    if (mutant != 24) prim::barrier_sync(barrier, 128);
    if (is_leader) {
      if (mutant == 26) prim::fence_async();
      prim::tensor_store(args.c, {tile % tiles_n * 64, tile / tiles_n * 128 + 64 * consumer}, s.c[consumer]);
      if (mutant != 33) prim::bulk_commit();
    }
  }
  if (int(threadIdx.x) % 128 == 0 && mutant != 25) prim::bulk_wait<0>();
}

std::string run_wgmma(int mutant) {
  constexpr int M = 200, N = 136, K = 584;  // more than two rounds of the ring, and no multiple of a tile
  Guarded<bf16> a(M * K), b(N * K);
  Guarded<float> c(M * N);
  a.fill_with_integers(1);
  b.fill_with_integers(2);
  auto map = [](auto& x, Dtype dtype, int64_t rows, int64_t columns, int box, Swizzle swizzle) {
    return prim::encode({.data = x.data(),
                         .dtype = dtype,
                         .rank = 2,
                         .dims = {columns, rows},
                         .strides = {0, columns * size_of(dtype)},
                         .box = {64, box},
                         .swizzle = swizzle});
  };
  const WgmmaArgs args = {.a = map(a, Dtype::bfloat16, M, K, 128, Swizzle::b128),
                          .b = map(b, Dtype::bfloat16, N, K, 64, Swizzle::b128),
                          .c = map(c, Dtype::float32, M, N, 64, Swizzle::none),
                          .M = M,
                          .N = N,
                          .K = K,
                          .mutant = mutant};
  launch("wgmma_gemm", wgmma_kernel, {.grid = {2}, .block = {384}, .shared = sizeof(WgmmaShared)}, args);
  return compare_product(c, a, b, M, N, K, 1, K);
}

// --- y (rows, 64) = x (rows, 64) + bias (1, 64): blocks of a cluster share the bias by multicast ------------------
//
// Block 0 loads one row of `bias` at a time for both blocks, into a ring of two stages; each block sums its rows over
// all biases. Its empty barrier collects the arrivals of both.

struct MulticastShared {
  alignas(128) float bias[2][64];
  prim::Mbarrier full[2], empty[2];
};

struct MulticastArgs {
  prim::TensorMap bias;
  float* y;
  int rows;
  Number mutant;
};

__global__ void __launch_bounds__(64) multicast_kernel(const __grid_constant__ MulticastArgs args) {
  auto& s = prim::shared_memory<MulticastShared>();
  const Number mutant = args.mutant;
  const int rank = prim::cluster_rank();
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      prim::mbarrier_init(&s.full[i], mutant == 27 ? 2 : 1);
      prim::mbarrier_init(&s.empty[i], mutant == 1 ? 1 : 2);
    }
    prim::fence_mbarrier_init();
  }
  if (mutant != 2)
    prim::cluster_sync();
  else
    prim::block_sync();
  prim::PhaseRing<2> ring;
  float sum = 0;
  for (int row = 0; row < args.rows; ++row, ring.advance()) {
    if (threadIdx.x == 0) {
      if (rank == 0 && mutant != 3) prim::mbarrier_wait_cluster(&s.empty[ring.stage], ring.parity() ^ 1);
      if (mutant != 4 || rank == 0)
        prim::mbarrier_arrive_expect(&s.full[ring.stage], mutant == 8 ? 128 : int(sizeof(s.bias[0])));
      if (rank == 0)
        prim::tensor_load_multicast(s.bias[ring.stage], args.bias, {0, row}, &s.full[ring.stage],
                                    mutant == 5 ? 1 : 3);
    }
    if (mutant != 9 || threadIdx.x < 32) prim::mbarrier_wait(&s.full[ring.stage], ring.parity());
    sum += s.bias[ring.stage][threadIdx.x];
    if (mutant != 10) prim::block_sync();
    if (threadIdx.x == 0) prim::mbarrier_arrive_remote(&s.empty[ring.stage], mutant == 6 ? rank : 0);
  }
  if (mutant != 7) prim::cluster_sync();  // block 0 stays while block 1 arrives at its barrier
  args.y[blockIdx.x * 64 + threadIdx.x] = sum;
}

std::string run_multicast(int mutant) {
  constexpr int rows = 9, blocks = 4;
  Guarded<float> bias(rows * 64), y(blocks * 64);
  bias.fill_with_integers(5);
  const MulticastArgs args = {.bias = prim::encode({.data = bias.data(),
                                                    .dtype = Dtype::float32,
                                                    .rank = 2,
                                                    .dims = {64, rows},
                                                    .strides = {0, 256},
                                                    .box = {64, 1}}),
                              .y = y.data(),
                              .rows = rows,
                              .mutant = mutant};
  launch("multicast", multicast_kernel,
         {.grid = {blocks}, .block = {64}, .shared = sizeof(MulticastShared), .cluster = {2}}, args);
  for (int block = 0; block < blocks; ++block)
    for (int i = 0; i < 64; ++i) {
      float sum = 0;
      for (int row = 0; row < rows; ++row) sum += bias[row * 64 + i];
      if (!(y[block * 64 + i] == sum))
        return cat("element ", i, " of block ", block, " is ", y[block * 64 + i]);
    }
  return "";
}

}  // namespace

const MutatedKernel mma_gemm = {"mma_gemm",
                                run_mma,
                                {{"k is not bounded: the next row is read instead of zeros"},
                                 {"tiles are stored unpermuted and read permuted"},
                                 {"half a chunk is copied where zeros belong"},
                                 {"waits for one group too few"},
                                 {"does not wait for copies"},
                                 {"no barrier after the wait"},
                                 {"loads into the stage that is being read"},
                                 {"no empty groups at the end"},
                                 {"reads the stage after"},
                                 {"the fragments of b are not transposed"},
                                 {"rows of the accumulators in the wrong place"},
                                 {"the copies of b are in the group after"},
                                 {"the barrier before the wait"},
                                 {"loads before the barrier"},
                                 {"lanes name the wrong rows of a"}}};

const MutatedKernel wgmma_gemm = {
    "wgmma_gemm",
    run_wgmma,
    {{"the empty barriers count half of the arrivals"},
     // The engine has one memory, in which an initialised barrier is initialised for all.
     {"no fence.mbarrier_init", Seen::nowhere},
     {"no barrier after the mbarriers are made"},
     {"the parity does not change with the round"},
     {"the producer does not wait for empty stages"},
     {"the producer waits for the wrong parity"},
     {"too few bytes expected"},
     {"too many bytes expected"},
     {"tiles of a are one step ahead"},
     {"more registers than there are"},
     {"the consumers do not wait for full stages"},
     {"the consumers wait for the wrong parity"},
     {"stages are released before they are read"},
     {"descriptor and tensor map differ in their swizzle"},
     {"no wgmma_fence"},
     {"the descriptor advances too far"},
     {"the first product adds to accumulators that nobody wrote"},
     {"no wgmma_commit"},
     {"no wgmma_wait"},
     {"the tile of c is written while the store before reads it"},
     {"no proxy fence before the tensor store"},
     {"only one thread makes the proxy fence"},
     {"waits for all stores but the last before it writes the next tile"},
     {"no barrier between the tile of c and its store"},
     {"the block ends before its store has read"},
     // A fence publishes all of shared memory here, and what its thread has seen is not told from what it wrote.
     {"only the storing thread makes the proxy fence, after the barrier", Seen::nowhere},
     {"the full barriers count an arrival too many"},
     {"the consumers begin the ring anew with each tile"},
     {"one warp of four waits for full stages"},
     {"both consumers read the first rows of a"},
     {"a wgmma is in flight when its stage is released, and its sums are used"},
     {"the consumers have one named barrier between them"},
     {"the store is not committed, so that the wait is for nothing"},
     {"the last step expects too few bytes"},
     {"two producers"}}};

const MutatedKernel multicast = {"multicast",
                                 run_multicast,
                                 {{"the empty barrier counts one block of two"},
                                  {"block 0 loads into block 1 before its barriers are made"},
                                  {"block 0 does not wait for the stages of block 1"},
                                  {"block 1 does not expect bytes"},
                                  {"block 1 is left out of the multicast"},
                                  {"blocks release their own barrier, not that of block 0"},
                                  {"block 0 ends while block 1 arrives at its barrier"},
                                  {"half of the bytes are expected"},
                                  {"one warp of two waits for the bias"},
                                  {"a stage is released while other threads read it"}}};

}  // namespace lamina::LAMINA_DEVICE
