#include "kernels/gemm/gemm.h"

#include "kernels/gemm/matrix_launch.cuh"
#include "kernels/gemm/planes.cuh"
#include "kernels/gemm/rates.h"
#include "kernels/gemm/simt.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

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

// The tile of the kernel with the least estimated time, and into how many ranges it cuts K: only so far that each range
// is worth its own block and the sums of the ranges fit a scratch of 128 MiB.
GemmTile choose_tile(const GemmProblem& p) {
  constexpr double dram = 20, l2 = 40;    // bytes per cycle and SM, of H200 and similar
  constexpr double launch_cycles = 3000;  // what a further launch costs
  constexpr double block_cycles = 1500;   // from its start to its first product, and its epilogue
  constexpr int64_t least_range = 256;
  constexpr double most_scratch = 128 << 20;

  const bool is_short = p.element_size == 2;
  const int planes = is_short ? 1 : p.dtype == Dtype::float32 ? planes_of(p.precision) : 0;
  const bool copy_a = !is_short || !p.a_is_aligned, copy_b = !is_short || !p.b_is_aligned;
  const double core = core_rate(p.dtype, p.architecture);
  const double matrix = planes ? matrix_rate(p.architecture) / (planes * (planes + 1) / 2) : 0;
  // Hopper's units by wgmma, 2048 per cycle; planes have the narrow tile only.
  const double hopper =
      planes && p.architecture == 90 && p.suits_tma ? 2048.0 / (planes * (planes + 1) / 2) : 0;
  // In 4 cycles of multiply-adds small SIMT tiles read 3 wavefronts of shared memory, large ones 1.
  const Candidate candidates[] = {
      {GemmPath::wgmma, wgmma_m, wgmma_wide, wgmma_k, is_short ? 0.8 * hopper : 0, 300},
      {GemmPath::wgmma, wgmma_m, wgmma_narrow, wgmma_k, 0.7 * hopper, 300},
      {GemmPath::mma, mma_large, mma_large, mma_k, 0.9 * matrix, 150},
      {GemmPath::mma, mma_small, mma_small, mma_k, 0.6 * matrix, 150},
      {GemmPath::simt, LargeTile::M, LargeTile::N, LargeTile::K, p.dtype == Dtype::float32 ? 0.8 * core : 0,
       300},
      {GemmPath::simt, SmallTile::M, SmallTile::N, SmallTile::K, 0.5 * core, 300},
  };

  const double M = double(p.M), N = double(p.N), K = double(p.K), batch = double(p.batch);
  const double output = M * N * batch;
  GemmTile best{};
  for (const Candidate& c : candidates) {
    if (c.rate == 0) continue;
    GemmTile t{.path = c.path, .mc = c.m, .nc = c.n};
    double bytes = ((M + N) * K * batch + output) * double(p.element_size), launches = 0;
    int64_t element_size = p.element_size;  // as the kernel reads it
    if (c.path != GemmPath::simt) {
      t.planes = planes;
      t.copy_a = copy_a;
      t.copy_b = copy_b;
      element_size = 2 * planes;
      bytes += 2 * double(element_size) * K * batch * (copy_a * M + copy_b * N);
      launches += copy_a + copy_b;
    }
    const int64_t tiles = ceil_div(p.M, c.m) * ceil_div(p.N, c.n) * p.batch;
    for (int64_t splits = 1; splits <= 64; splits *= 2) {
      t.kc = std::max(c.k, ceil_div(ceil_div(p.K, splits), c.k) * c.k);
      const double partial = splits == 1 ? 0 : double(splits * p.compute_size) * output;
      if (splits > 1 && (t.kc < least_range || partial > most_scratch)) break;
      const double waves = double(ceil_div(tiles * splits, p.sm_count));
      const double slice = std::max(c.slice_cycles, double(c.m * c.n * c.k) / c.rate);
      const double products = waves * (slice * double(t.kc / c.k) + block_cycles);
      const double traffic = double(tiles * splits) * double((c.m + c.n) * t.kc * element_size);
      t.bytes = bytes + 2 * partial;
      t.cycles = std::max(products, std::max(t.bytes / dram, traffic / l2) / p.sm_count) +
                 launch_cycles * (launches + (splits > 1));
      if (!best.mc || t.cycles < best.cycles) best = t;
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
          .shared = sizeof(GemmSimtShared<T, Tile>)},
         p, cut, partial);
}

template <class From, class To>
void launch_pack(const PackArgs& p, int planes) {
  const int64_t squares = p.batch.count * ceil_div(p.lines, pack_side) * ceil_div(p.pitch, pack_side);
  auto kernel = gemm_pack_kernel<From, To, 1>;
  if constexpr (dtype_of<From> == Dtype::float32) {
    if (planes == 2) kernel = gemm_pack_kernel<From, To, 2>;
    if (planes == 3) kernel = gemm_pack_kernel<From, To, 3>;
  }
  launch("gemm_pack", kernel,
         {.grid = {std::min(squares, most_blocks)}, .block = {256}, .shared = sizeof(PackShared)}, p);
}

Operand transposed(Operand o) {
  std::swap(o.row_stride, o.column_stride);
  return o;
}

// True iff the operand can be copied in aligned chunks of 16 bytes along its lines or along K, and along which. Strides of
// axes with one element are replaced by what suits.
bool is_aligned_operand(const Product& p, const Operand& o, int64_t lines, int64_t& line_stride,
                        int64_t& k_stride, bool* is_k_major) {
  constexpr int64_t chunk = 8;
  if (p.K == 1) k_stride = line_stride == 1 ? 0 : 1;
  if (lines == 1) line_stride = k_stride == 1 ? 0 : 1;
  *is_k_major = k_stride == 1;
  if (!prim::is_aligned(static_cast<char*>(o.data))) return false;
  for (int axis = 0; axis < p.batch.axes; ++axis)
    if (o.batch_strides[axis] % chunk) return false;
  return (k_stride == 1 && line_stride % chunk == 0) || (line_stride == 1 && k_stride % chunk == 0);
}

// True iff TMA can describe the operand: rows that do not overlap, strides below 2^40 bytes.
bool suits_tma(int64_t K, int64_t lines, int64_t line_stride, int64_t k_stride) {
  const int64_t inner = k_stride == 1 ? K : lines, outer = k_stride == 1 ? lines : K;
  const int64_t pitch = k_stride == 1 ? line_stride : k_stride;
  return outer == 1 || (pitch >= inner && pitch < int64_t(1) << 39);
}

template <class T>
void gemm_typed(const GemmArgs& args) {
  using S = Compute<T>;
  Product p = product_of(args);
  const int64_t batch = p.batch.count;
  if (p.M * p.N * batch == 0) return;
  const DeviceProperties& device = device_properties();
  bool a_is_k_major = true, b_is_k_major = true;
  const bool a_is_aligned = is_aligned_operand(p, p.a, p.M, p.a.row_stride, p.a.column_stride, &a_is_k_major);
  const bool b_is_aligned = is_aligned_operand(p, p.b, p.N, p.b.column_stride, p.b.row_stride, &b_is_k_major);
  constexpr int64_t most = INT32_MAX / 4;  // of coordinates
  const bool tma = p.batch.axes <= 1 && p.M < most && p.N < most && p.K > 0 && p.K < most &&
                   ceil_div(p.M, wgmma_m) * ceil_div(p.N, wgmma_narrow) * batch < INT32_MAX / 64 &&
                   (!a_is_aligned || suits_tma(p.K, p.M, p.a.row_stride, p.a.column_stride)) &&
                   (!b_is_aligned || suits_tma(p.K, p.N, p.b.column_stride, p.b.row_stride));
  const GemmTile t = choose_tile({.M = p.M,
                                  .N = p.N,
                                  .K = p.K,
                                  .batch = batch,
                                  .a_row_stride = p.a.row_stride,
                                  .a_column_stride = p.a.column_stride,
                                  .b_row_stride = p.b.row_stride,
                                  .b_column_stride = p.b.column_stride,
                                  .element_size = sizeof(T),
                                  .compute_size = sizeof(S),
                                  .dtype = dtype_of<T>,
                                  .precision = args.precision,
                                  .a_is_aligned = a_is_aligned,
                                  .b_is_aligned = b_is_aligned,
                                  .suits_tma = tma,
                                  .sm_count = device.sm_count,
                                  .architecture = device.architecture});
  const Cut cut = {.m = t.mc,
                   .n = t.nc,
                   .k_range = t.kc,
                   .m_tiles = ceil_div(p.M, t.mc),
                   .n_tiles = ceil_div(p.N, t.nc),
                   .splits = std::max(int64_t(1), ceil_div(p.K, t.kc)),
                   .batch = batch};
  const DeviceScratch<S> partial(cut.splits == 1 ? 0 : cut.splits * batch * p.M * p.N);
  if (t.path == GemmPath::simt) {
    const bool is_large = t.mc == LargeTile::M;
    if constexpr (dtype_of<T> == Dtype::float32)
      is_large ? launch_simt<T, LargeTile>(p, cut, partial) : launch_simt<T, SmallTile>(p, cut, partial);
    else
      launch_simt<T, SmallTile>(p, cut, partial);
  } else if constexpr (sizeof(S) == 4) {
    using Element = std::conditional_t<sizeof(T) == 2, T, bf16>;
    const PackedOperand a(p.batch, p.a, p.M, p.K, t.copy_a ? t.planes : 0);
    const PackedOperand b(p.batch, transposed(p.b), p.N, p.K, t.copy_b ? t.planes : 0);
    if (t.copy_a) launch_pack<T, Element>(a.args, t.planes);
    if (t.copy_b) launch_pack<T, Element>(b.args, t.planes);
    MatrixLaunch launch = {.p = p,
                           .cut = cut,
                           .exact = {p.a, p.b},
                           .planes = t.planes,
                           .a_plane_stride = a.plane_stride,
                           .b_plane_stride = b.plane_stride,
                           .a_is_k_major = t.copy_a || a_is_k_major,
                           .b_is_k_major = t.copy_b || b_is_k_major,
                           .dtype = dtype_of<T>,
                           .partial = partial};
    if (t.copy_a) launch.p.a = a.operand;
    if (t.copy_b) launch.p.b = transposed(b.operand);
    t.path == GemmPath::wgmma ? launch_wgmma(launch) : launch_mma(launch);
  }
  if (!partial.data()) return;
  const int64_t runs = batch * p.M * ceil_div(p.N, prim::vector_of<T>);
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
