#include "kernels/gemm/gemm.h"

#include "kernels/gemm/product.cuh"
#include "kernels/gemm/simt.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Launches take the tiles of larger products in turns.
constexpr int64_t most_blocks = 1 << 24;

// --- what to launch ------------------------------------------------------------------------------------------------

// A kernel that choose_tile may pick. `rate`: multiply-adds per cycle that it keeps up on one SM. `slice_cycles`: what a
// step of `k` along K takes at least, by the latency of what it waits for.
struct Candidate {
  GemmPath path;
  int64_t m, n, k;
  double rate, slice_cycles;
};

using SmallTile = SimtTile<32, 64, 4, 4>;
using LargeTile = SimtTile<128, 64, 8, 8>;

// Multiply-adds per cycle of the ordinary cores of an SM: tables of throughput in the CUDA programming guide.
double core_rate(Dtype t, int architecture) {
  const bool is_data_centre = architecture == 80 || architecture == 90 || architecture == 100;
  if (t == Dtype::float64) return !is_data_centre ? 2 : architecture == 80 ? 32 : 64;
  return architecture == 80 ? 64 : 128;
}

// The tile of the kernel with the least estimated time, and into how many ranges it cuts K: only so far that each range
// is worth its own block and the sums of the ranges fit a scratch of 128 MiB.
GemmTile choose_tile(const GemmProblem& p) {
  constexpr double dram = 20, l2 = 40;    // bytes per cycle and SM, of H200 and similar
  constexpr double launch_cycles = 3000;  // what a further launch costs
  constexpr double block_cycles = 1500;   // from its start to its first product, and its epilogue
  constexpr int64_t least_range = 256;
  constexpr double most_scratch = 128 << 20;
  const double rate = core_rate(p.dtype, p.architecture);
  // Small tiles read 3 wavefronts of shared memory per 4 cycles of multiply-adds, large ones 1.
  const Candidate candidates[] = {
      {GemmPath::simt, LargeTile::M, LargeTile::N, LargeTile::K, 0.8 * rate, 300},
      {GemmPath::simt, SmallTile::M, SmallTile::N, SmallTile::K, 0.5 * rate, 300},
  };
  const double output = double(p.M) * double(p.N) * double(p.batch);
  const double bytes =
      ((double(p.M) + double(p.N)) * double(p.K) * double(p.batch) + output) * double(p.element_size);

  GemmTile best{};
  for (const Candidate& c : candidates) {
    if (c.m == LargeTile::M && p.dtype != Dtype::float32) continue;
    const int64_t tiles = ceil_div(p.M, c.m) * ceil_div(p.N, c.n) * p.batch;
    for (int64_t splits = 1; splits <= 64; splits *= 2) {
      const int64_t range = std::max(c.k, ceil_div(ceil_div(p.K, splits), c.k) * c.k);
      if (splits > 1 && (range < least_range || double(splits * p.compute_size) * output > most_scratch))
        break;
      const double blocks = double(tiles * splits), waves = double(ceil_div(tiles * splits, p.sm_count));
      const double slice = std::max(c.slice_cycles, double(c.m * c.n * c.k) / c.rate);
      const double products = waves * (slice * double(range / c.k) + block_cycles);
      const double traffic = blocks * double((c.m + c.n) * range * p.element_size);
      const double sums = splits == 1 ? 0 : 2 * double(splits * p.compute_size) * output;
      const double memory = std::max((bytes + sums) / dram, traffic / l2) / p.sm_count;
      const double cycles = std::max(products, memory) + (splits == 1 ? 0 : launch_cycles);
      if (best.mc && cycles >= best.cycles) continue;
      best = {.path = c.path, .mc = c.m, .nc = c.n, .kc = range, .bytes = bytes + sums, .cycles = cycles};
    }
  }
  return best;
}

// --- products ------------------------------------------------------------------------------------------------------

// y from the sums of each range of K, partial (splits, batch, M, N), added in the order of the ranges.
template <class T>
__global__ void __launch_bounds__(256) gemm_finish_kernel(Product p, Cut cut, const Compute<T>* partial) {
  using S = Compute<T>;
  constexpr int run = prim::vector_of<T>;
  const int64_t runs = (p.N + run - 1) / run, size = p.M * p.N;
  for (int64_t e = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; e < cut.batch * p.M * runs;
       e += int64_t(gridDim.x) * blockDim.x) {
    const int64_t j = e % runs * run, i = e / runs % p.M, index = e / (runs * p.M);
    const int n = int(p.N - j < run ? p.N - j : run);
    prim::Pack<S, run> sum = {};
    for (int64_t split = 0; split < cut.splits; ++split) {
      const Matrix<const S> part = {partial + (split * cut.batch + index) * size, p.N, 1};
      const prim::Pack<S, run> v = fetch<run>(part, i, j, n);
#pragma unroll
      for (int k = 0; k < run; ++k) sum[k] += v[k];
    }
    epilogue_of<T>(p, index)(i, j, sum);
  }
}

template <class T, class Tile>
void launch_simt(const Product& p, const Cut& cut, Compute<T>* partial) {
  launch("gemm_simt", gemm_simt_kernel<T, Tile>,
         {.grid = {std::min(cut.blocks(), most_blocks)},
          .block = {Tile::threads},
          .shared = sizeof(SimtShared<T, Tile>)},
         p, cut, partial);
}

template <class T>
void gemm_typed(const GemmArgs& args) {
  using S = Compute<T>;
  const Product p = product_of(args);
  if (p.M * p.N * p.batch == 0) return;
  const DeviceProperties& device = device_properties();
  const GemmTile t = choose_tile({.M = p.M,
                                  .N = p.N,
                                  .K = p.K,
                                  .batch = p.batch,
                                  .a_row_stride = p.a.row_stride,
                                  .a_column_stride = p.a.column_stride,
                                  .b_row_stride = p.b.row_stride,
                                  .b_column_stride = p.b.column_stride,
                                  .element_size = sizeof(T),
                                  .compute_size = sizeof(S),
                                  .dtype = dtype_of<T>,
                                  .sm_count = device.sm_count,
                                  .architecture = device.architecture});
  const Cut cut = {.m = t.mc,
                   .n = t.nc,
                   .k_range = t.kc,
                   .m_tiles = ceil_div(p.M, t.mc),
                   .n_tiles = ceil_div(p.N, t.nc),
                   .splits = std::max(int64_t(1), ceil_div(p.K, t.kc)),
                   .batch = p.batch};
  const DeviceScratch<S> partial(cut.splits == 1 ? 0 : cut.splits * p.batch * p.M * p.N);
  if constexpr (dtype_of<T> == Dtype::float32)
    t.mc == LargeTile::M ? launch_simt<T, LargeTile>(p, cut, partial)
                         : launch_simt<T, SmallTile>(p, cut, partial);
  else
    launch_simt<T, SmallTile>(p, cut, partial);
  if (!partial.data()) return;
  const int64_t runs = p.batch * p.M * ceil_div(p.N, prim::vector_of<T>);
  launch("gemm_finish", gemm_finish_kernel<T>,
         {.grid = {std::min(ceil_div(runs, 256), most_blocks)}, .block = {256}}, p, cut, partial.data());
}

void gemm(const GemmArgs& args) {
  dispatch_device_float(args.y.dtype, [&](auto t) { gemm_typed<typename decltype(t)::type>(args); });
}

// --- backward of the epilogue --------------------------------------------------------------------------------------

// A block takes a strip of columns, a run of them per lane, and a chunk of rows, every fourth per warp. The sums of
// the chunks, partial (chunks, N), are added by a second launch; one chunk's are dbias.
template <class S, int Columns>
struct BackwardShared {
  S sums[4][Columns];
};

template <class T>
__global__ void __launch_bounds__(128)
    epilogue_backward_kernel(EpilogueBackwardArgs a, int64_t chunk, Compute<T>* partial) {
  using S = Compute<T>;
  constexpr int run = prim::vector_of<T>, strip = run * prim::warp_size;
  auto& shared = prim::shared_memory<BackwardShared<S, strip>>();
  const auto matrix = [](const View& v) {
    return Matrix<const T>{v.as<const T>(), v.strides[0], v.strides[1]};
  };
  const Matrix<const T> dy = matrix(a.dy), saved = matrix(a.saved);
  const Matrix<T> g = {a.g.as<T>(), a.g.strides[0], a.g.strides[1]};
  const int64_t M = a.dy.shape[0], N = a.dy.shape[1];
  const int64_t first = int64_t(blockIdx.y) * chunk, end = first + chunk < M ? first + chunk : M;
  const int64_t j = int64_t(blockIdx.x) * strip + prim::lane() * run;
  const int n = j >= N ? 0 : int(N - j < run ? N - j : run);

  prim::Pack<S, run> sum = {};
  for (int64_t i = first + prim::warp(); i < end && n; i += 4) {
    prim::Pack<S, run> v = fetch<run>(dy, i, j, n);
    if (saved.data) {
      const prim::Pack<S, run> x = fetch<run>(saved, i, j, n);
#pragma unroll
      for (int k = 0; k < run; ++k) {
        const S y = a.saved_is_y ? x[k] : prim::activate(a.activation, x[k]);
        v[k] *= prim::activation_slope(a.activation, x[k], y);
      }
    }
    if (g.data) put<run>(g, i, j, n, v);
#pragma unroll
    for (int k = 0; k < run; ++k) sum[k] += v[k];
  }
  prim::store_vector(&shared.sums[prim::warp()][prim::lane() * run], sum);
  prim::block_sync();  // the warps' sums are there
  for (int k = prim::thread(); k < strip; k += prim::threads()) {
    const int64_t column = int64_t(blockIdx.x) * strip + k;
    if (column >= N) break;
    const S total = (shared.sums[0][k] + shared.sums[1][k]) + (shared.sums[2][k] + shared.sums[3][k]);
    if (partial)
      partial[blockIdx.y * N + column] = total;
    else if (a.dbias)
      a.dbias.as<T>()[column] = prim::narrow<T>(total);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    sum_chunks_kernel(const Compute<T>* partial, int64_t chunks, int64_t N, T* sums) {
  const int64_t j = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= N) return;
  Compute<T> sum = 0;
  for (int64_t i = 0; i < chunks; ++i) sum += partial[i * N + j];
  sums[j] = prim::narrow<T>(sum);
}

template <class T>
void epilogue_backward_typed(const EpilogueBackwardArgs& args) {
  using S = Compute<T>;
  constexpr int64_t strip = prim::vector_of<T> * prim::warp_size;
  const int64_t M = args.dy.shape[0], N = args.dy.shape[1];
  // 256 chunks of 64 rows or more: with one strip of columns already two blocks for each SM.
  const int64_t chunk = std::max(int64_t(64), ceil_div(M, 256)),
                chunks = std::max(int64_t(1), ceil_div(M, chunk));
  const DeviceScratch<S> partial(args.dbias && chunks > 1 ? chunks * N : 0);
  launch("epilogue_backward", epilogue_backward_kernel<T>,
         {.grid = {ceil_div(N, strip), chunks}, .block = {128}, .shared = sizeof(BackwardShared<S, strip>)},
         args, chunk, partial.data());
  if (partial.data())
    launch("sum_chunks", sum_chunks_kernel<T>, {.grid = {ceil_div(N, 256)}, .block = {256}}, partial.data(),
           chunks, N, args.dbias.as<T>());
}

void epilogue_backward(const EpilogueBackwardArgs& args) {
  dispatch_device_float(args.dy.dtype,
                        [&](auto t) { epilogue_backward_typed<typename decltype(t)::type>(args); });
}

}  // namespace

const GemmKernels gemm_kernels = {gemm, epilogue_backward, choose_tile};

}  // namespace lamina::LAMINA_DEVICE
