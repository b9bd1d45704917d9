// Device kernels of optim.h.
//
// Plan. A step is one launch. It sees all tensors as one sequence of elements, cut into a piece per block: of 4096,
// or of more where that would be too many blocks. A block finds the first tensor of its piece by binary search in the
// table and goes through the tensors that lie in it, each in packs of 16 bytes. A pack that a tensor's or a piece's
// end cuts, or that is not aligned, is done element by element. Hence a thousand small tensors are one launch of a
// few blocks, and the host knows nothing but counts: learning rate, scale and step counts are read by the device at
// each replay.
//
// Adam's coefficients: a thread for each tensor of the piece, mostly one of a block, computes them in double. Powers
// by squaring are 2 log2(t) products, where `pow` takes hundreds of instructions, and GPUs for consumers begin two a
// clock. With u for half a unit in the last place, such a power is off by a factor of at most 1 + t u, hence 1 - b^t
// by t b^t u / (1 - b^t) <= b u / (1 - b) of itself: no more than the rounding of b has cost already.
//
// Steps are counted by the block that comes last, when all have read them; which one that is changes nothing. A
// launch before, for counts and coefficients, would cost some 3 us (estimated): on an H200 half of what the traffic
// of a million parameters takes.
//
// Norms: a block sums a chunk of 16384 elements (float within a thread's share of a tensor, double beyond), one block
// sums the chunks in a fixed order and writes norm and clip, and a third launch scales the gradients by what clip then
// holds. Traffic as in optim.h; the arrays of state pass the caches by, as nobody reads them before the next step.
#include "kernels/optim/optim.h"

#include <algorithm>
#include <type_traits>

#include "base/launch.h"
#include "prim/prim.cuh"

namespace lamina::LAMINA_DEVICE {
namespace {

constexpr int block_threads = 256;
constexpr int64_t least_piece = 4096;             // elements: 16 floats per thread
constexpr int64_t pieces_per_multiprocessor = 8;  // two are resident, the others even out which are slow

LAMINA_PRIM double read_scalar(const View& v, double absent) {
  if (!v) return absent;
  return v.dtype == Dtype::float64 ? *v.as<double>() : double(*v.as<float>());
}

LAMINA_PRIM void write_scalar(const View& v, double value) {
  if (v.dtype == Dtype::float64)
    *v.as<double>() = value;
  else
    *v.as<float>() = float(value);
}

// The last tensor that begins at or before element `at` of the sequence.
LAMINA_PRIM int64_t tensor_at(const OptimTable& table, int64_t at) {
  int64_t low = 0, high = table.count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (table.tensors[middle].begin <= at ? low : high) = middle;
  }
  return low;
}
// True iff there is a tensor i, and it begins before element `end`.
LAMINA_PRIM bool begins_before(const OptimTable& table, int64_t i, int64_t end) {
  return i < table.count && table.tensors[i].begin < end;
}

// Calls piece(Type<T>{}, i, from, to) for the parts of tensors i in [first, last) that lie in elements [begin, end) of
// the sequence.
template <class F>
LAMINA_PRIM void for_pieces(const OptimTable& table, int64_t first, int64_t last, int64_t begin, int64_t end,
                            F piece) {
  for (int64_t i = first; i < last && begins_before(table, i, end); ++i) {
    const OptimTensor& t = table.tensors[i];
    const int64_t from = begin > t.begin ? begin - t.begin : 0,
                  to = end - t.begin < t.n ? end - t.begin : t.n;
    if (from >= to) continue;
    switch (t.dtype) {
      case Dtype::float32:
        piece(Type<float>{}, i, from, to);
        break;
      case Dtype::bfloat16:
        piece(Type<bf16>{}, i, from, to);
        break;
      case Dtype::float16:
        piece(Type<f16>{}, i, from, to);
        break;
      default:
        piece(Type<double>{}, i, from, to);
    }
  }
}

template <class F>
LAMINA_PRIM void for_pieces(const OptimTable& table, int64_t begin, int64_t end, F piece) {
  for_pieces(table, tensor_at(table, begin), table.count, begin, end, piece);
}

template <int N>
using Count = std::integral_constant<int, N>;

// Calls body(Count<N>{}, at) for packs of N elements at `at` that make up [from, to): whole ones where they are
// aligned, else single elements.
template <int V, class F>
LAMINA_PRIM void for_packs(int64_t from, int64_t to, bool is_aligned, F body) {
  for (int64_t first = (from / V + prim::thread()) * V; first < to; first += prim::threads() * V) {
    if (is_aligned && first >= from && first + V <= to) {
      body(Count<V>{}, first);
      continue;
    }
#pragma unroll 1
    for (int64_t at = first < from ? from : first; at < first + V && at < to; ++at) body(Count<1>{}, at);
  }
}

template <int N, class T>
LAMINA_PRIM auto load(const void* data, int64_t at) {
  return prim::widen(prim::load_vector_streaming<N>(static_cast<const T*>(data) + at));
}
template <class T, class S, int N>
LAMINA_PRIM void store(void* data, int64_t at, const prim::Pack<S, N>& pack) {
  prim::store_vector_streaming(static_cast<T*>(data) + at, prim::narrow<T>(pack));
}

// Elements of a block: what it does once, search and count, it does for thousands of them.
int64_t piece_of(const OptimTable& table) {
  const int64_t most = device_properties().sm_count * pieces_per_multiprocessor;
  return std::max<int64_t>(1, ceil_div(table.elements, most * least_piece)) * least_piece;
}
// At least one block: where no tensor has elements, steps are counted still.
Launch per_piece(const OptimTable& table) {
  return {.grid = {std::max<int64_t>(1, ceil_div(table.elements, piece_of(table)))},
          .block = {block_threads}};
}

// Coefficients of the tensors of a piece, block_threads at a time.
struct StepShared {
  double step_size[block_threads], correction[block_threads];
  bool is_last;
};

Launch per_step(const OptimTable& table) {
  Launch pieces = per_piece(table);
  pieces.shared = sizeof(StepShared);
  return pieces;
}

// Counts the step of every tensor, once no block reads them any more.
LAMINA_PRIM void count_steps(const OptimTable& table) {
  bool& is_last = prim::shared_memory<StepShared>().is_last;
  prim::block_sync();  // all threads of the block have read steps
  if (prim::thread() == 0) is_last = prim::atomic_add_acquire_release(table.arrived, 1) == gridDim.x - 1;
  prim::block_sync();  // is_last is there
  if (!is_last) return;
  for (int64_t i = prim::thread(); i < table.count; i += prim::threads()) count_step(table.tensors[i]);
  if (prim::thread() == 0) *table.arrived = 0;
}

// --- Adam --------------------------------------------------------------------------------------------------------

// What t's elements are multiplied with: lr / (1 - b1^t) and 1 / sqrt(1 - b2^t).
LAMINA_PRIM void compute_coefficients(const AdamArgs& a, double lr, int64_t step, double& step_size,
                                      double& correction) {
  double power1 = 1, power2 = 1;
  for (double b1 = a.beta1, b2 = a.beta2; step > 0; step /= 2, b1 *= b1, b2 *= b2) {
    if (step % 2 == 0) continue;
    power1 *= b1;
    power2 *= b2;
  }
  step_size = lr / (1 - power1);
  correction = 1 / prim::sqrt(1 - power2);
}

__global__ __launch_bounds__(block_threads, 2) void adam_kernel(AdamArgs a, int64_t piece) {
  const double lr = read_scalar(a.lr, 0), scale = read_scalar(a.scale, 1) * (a.maximize ? -1 : 1);
  const double keep = a.is_decoupled ? 1 - lr * a.weight_decay : 1;
  const bool has_coupled_decay = !a.is_decoupled && a.weight_decay != 0;
  auto& s = prim::shared_memory<StepShared>();
  const int64_t begin = blockIdx.x * piece, end = begin + piece;
  for (int64_t first = tensor_at(a.table, begin); begins_before(a.table, first, end);
       first += block_threads) {
    prim::block_sync();  // the coefficients of the tensors before have been read
    if (const int64_t i = first + prim::thread(); begins_before(a.table, i, end))
      compute_coefficients(a, lr, step_of(a.table.tensors[i]), s.step_size[prim::thread()],
                           s.correction[prim::thread()]);
    prim::block_sync();  // those of these tensors are there
    for_pieces(a.table, first, first + block_threads, begin, end,
               [&]<class T>(Type<T>, int64_t i, int64_t from, int64_t to) {
                 using S = Compute<T>;
                 const OptimTensor& t = a.table.tensors[i];
                 const S step_size = S(s.step_size[i - first]), correction = S(s.correction[i - first]);
                 const S b1 = S(a.beta1), c1 = S(1 - a.beta1), b2 = S(a.beta2), c2 = S(1 - a.beta2);
                 const S gscale = S(scale), pscale = S(keep), decay = S(a.weight_decay), eps = S(a.eps);
                 const bool is_aligned = prim::is_aligned(t.param) && prim::is_aligned(t.grad) &&
                                         prim::is_aligned(t.m) && prim::is_aligned(t.v) &&
                                         prim::is_aligned(t.vmax);
                 for_packs<prim::vector_of<T>>(from, to, is_aligned, [&]<int N>(Count<N>, int64_t at) {
                   auto p = load<N, T>(t.param, at), g = load<N, T>(t.grad, at);
                   auto m = load<N, S>(t.m, at), v = load<N, S>(t.v, at);
                   auto vmax = v;
                   if (a.has_amsgrad) vmax = load<N, S>(t.vmax, at);
#pragma unroll
                   for (int k = 0; k < N; ++k) {
                     p[k] *= pscale;
                     g[k] *= gscale;
                     if (has_coupled_decay) g[k] = prim::fma(decay, p[k], g[k]);
                     m[k] = prim::fma(b1, m[k], c1 * g[k]);
                     v[k] = prim::fma(c2 * g[k], g[k], b2 * v[k]);
                     vmax[k] = a.has_amsgrad ? prim::max(vmax[k], v[k]) : v[k];
                     p[k] -= step_size * m[k] / prim::fma(prim::sqrt(vmax[k]), correction, eps);
                   }
                   store<T>(t.param, at, p);
                   store<S>(t.m, at, m);
                   store<S>(t.v, at, v);
                   if (a.has_amsgrad) store<S>(t.vmax, at, vmax);
                 });
               });
  }
  count_steps(a.table);
}

void adam(const AdamArgs& a) { launch("adam", adam_kernel, per_step(a.table), a, piece_of(a.table)); }

// --- SGD ---------------------------------------------------------------------------------------------------------

__global__ __launch_bounds__(block_threads, 2) void sgd_kernel(SgdArgs a, int64_t piece) {
  const double lr = read_scalar(a.lr, 0), scale = read_scalar(a.scale, 1) * (a.maximize ? -1 : 1);
  const bool has_momentum = a.momentum != 0;
  const int64_t begin = blockIdx.x * piece;
  for_pieces(a.table, begin, begin + piece, [&]<class T>(Type<T>, int64_t i, int64_t from, int64_t to) {
    using S = Compute<T>;
    const OptimTensor& t = a.table.tensors[i];
    const S gscale = S(scale), decay = S(a.weight_decay), step_size = S(lr), mu = S(a.momentum);
    const bool is_first = has_momentum && step_of(t) == 1;
    const S keep = is_first ? S(0) : mu, add = is_first ? S(1) : S(1 - a.dampening);
    const bool is_aligned = prim::is_aligned(t.param) && prim::is_aligned(t.grad) && prim::is_aligned(t.m);
    for_packs<prim::vector_of<T>>(from, to, is_aligned, [&]<int N>(Count<N>, int64_t at) {
      auto p = load<N, T>(t.param, at), g = load<N, T>(t.grad, at);
      auto buffer = g;
      if (has_momentum) buffer = load<N, S>(t.m, at);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        g[k] *= gscale;
        if (a.weight_decay != 0) g[k] = prim::fma(decay, p[k], g[k]);
        if (has_momentum) {
          buffer[k] = prim::fma(add, g[k], keep * buffer[k]);
          g[k] = a.is_nesterov ? prim::fma(mu, buffer[k], g[k]) : buffer[k];
        }
        p[k] = prim::fma(-step_size, g[k], p[k]);
      }
      store<T>(t.param, at, p);
      if (has_momentum) store<S>(t.m, at, buffer);
    });
  });
  if (has_momentum) count_steps(a.table);
}

void sgd(const SgdArgs& a) { launch("sgd", sgd_kernel, per_step(a.table), a, piece_of(a.table)); }

// --- gradient norms ----------------------------------------------------------------------------------------------

struct NormShared {
  double partial[32];
};

// The sum, or for the infinite order the maximum, of the threads' values; NaN wins a maximum.
LAMINA_PRIM double join_threads(NormOrder order, double value) {
  double* partial = prim::shared_memory<NormShared>().partial;
  return order == NormOrder::infinity ? prim::block_max(value, partial) : prim::block_sum(value, partial);
}
template <class S>
LAMINA_PRIM S join(NormOrder order, S a, S b) {
  return order == NormOrder::infinity ? prim::max(a, b) : a + b;
}

__global__ __launch_bounds__(block_threads, 2) void partial_norm_kernel(GradNormArgs a) {
  for (int64_t chunk = blockIdx.x; chunk < optim_chunks(a.table.elements); chunk += gridDim.x) {
    const int64_t begin = chunk * optim_chunk_elements, end = begin + optim_chunk_elements;
    double total = 0;
    for_pieces(a.table, begin, end, [&]<class T>(Type<T>, int64_t i, int64_t from, int64_t to) {
      using S = Compute<T>;
      const void* grad = a.table.tensors[i].grad;
      S sum = 0;
      for_packs<prim::vector_of<T>>(from, to, prim::is_aligned(grad), [&]<int N>(Count<N>, int64_t at) {
        const auto g = load<N, T>(grad, at);
#pragma unroll
        for (int k = 0; k < N; ++k)
          sum = join(a.order, sum, a.order == NormOrder::two ? g[k] * g[k] : prim::abs(g[k]));
      });
      total = join(a.order, total, double(sum));
    });
    total = join_threads(a.order, total);
    if (prim::thread() == 0) a.partial[chunk] = total;
  }
}

// One block.
__global__ __launch_bounds__(block_threads) void finish_norm_kernel(GradNormArgs a) {
  double norm = 0;
  for (int64_t i = prim::thread(); i < optim_chunks(a.table.elements); i += prim::threads())
    norm = join(a.order, norm, a.partial[i]);
  norm = join_threads(a.order, norm);
  if (prim::thread() != 0) return;
  if (a.order == NormOrder::two) norm = prim::sqrt(norm);
  double clip = a.max_norm / (norm + 1e-6);
  if (clip > 1) clip = 1;  // false for NaN, which stays
  write_scalar(a.norm, norm);
  write_scalar(a.clip, clip);
}

__global__ __launch_bounds__(block_threads, 2) void scale_kernel(GradNormArgs a, int64_t piece) {
  const double clip = read_scalar(a.clip, 1);
  if (clip == 1) return;
  const int64_t begin = blockIdx.x * piece;
  for_pieces(a.table, begin, begin + piece, [&]<class T>(Type<T>, int64_t i, int64_t from, int64_t to) {
    void* grad = a.table.tensors[i].grad;
    for_packs<prim::vector_of<T>>(from, to, prim::is_aligned(grad), [&]<int N>(Count<N>, int64_t at) {
      auto g = load<N, T>(grad, at);
#pragma unroll
      for (int k = 0; k < N; ++k) g[k] *= Compute<T>(clip);
      store<T>(grad, at, g);
    });
  });
}

void grad_norm(const GradNormArgs& a) {
  launch("grad_norm", partial_norm_kernel,
         {.grid = {std::min(optim_chunks(a.table.elements), grid_limit)},
          .block = {block_threads},
          .shared = sizeof(NormShared)},
         a);
  launch("grad_norm_finish", finish_norm_kernel,
         {.grid = {1}, .block = {block_threads}, .shared = sizeof(NormShared)}, a);
  if (a.clip_in_place) launch("grad_norm_clip", scale_kernel, per_piece(a.table), a, piece_of(a.table));
}

}  // namespace

const OptimKernels optim_kernels = {.adam = adam, .sgd = sgd, .grad_norm = grad_norm};

}  // namespace lamina::LAMINA_DEVICE
