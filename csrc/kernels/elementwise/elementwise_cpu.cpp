#include "base/parallel.h"
#include "kernels/elementwise/convert.h"
#include "kernels/elementwise/rows.h"

namespace lamina::LAMINA_ISA {
namespace {

constexpr int64_t grain = 32768;  // elements that one thread takes at a time
constexpr int64_t block =
    512;  // elements of a buffer: four of them, in float64, are half of a first-level cache
constexpr int64_t short_row = 128;

constexpr int most_operands = 4;  // three inputs and the output, which is the last

// The iteration space: axes of extent 1 dropped, axes ordered by the strides of y (the last varies fastest),
// and neighbours merged where every operand runs through both without a jump.
struct Space {
  int ndim = 0;
  int64_t shape[max_ndim];
  int64_t strides[most_operands][max_ndim];
};

Space make_space(const View* const* views, int count) {
  Space space;
  const View& y = *views[count - 1];
  const auto jump_free = [&](int axis) {  // true iff `axis` may be merged into the one before it
    for (int k = 0; k < count; ++k)
      if (space.strides[k][axis - 1] != space.strides[k][axis] * space.shape[axis]) return false;
    return true;
  };
  for (int d = 0; d < y.ndim; ++d) {
    if (y.shape[d] == 1) continue;
    int at = space.ndim++;
    for (; at > 0 && space.strides[count - 1][at - 1] < y.strides[d]; --at) {
      space.shape[at] = space.shape[at - 1];
      for (int k = 0; k < count; ++k) space.strides[k][at] = space.strides[k][at - 1];
    }
    space.shape[at] = y.shape[d];
    for (int k = 0; k < count; ++k) {
      const int axis = d - (y.ndim - views[k]->ndim);
      space.strides[k][at] = axis >= 0 && views[k]->shape[axis] != 1 ? views[k]->strides[axis] : 0;
    }
  }
  int last = 0;
  for (int d = 1; d < space.ndim; ++d) {
    // Bring axis d next to the last one kept, then merge the two if they allow it.
    const int next = last + 1;
    space.shape[next] = space.shape[d];
    for (int k = 0; k < count; ++k) space.strides[k][next] = space.strides[k][d];
    if (!jump_free(next)) {
      last = next;
      continue;
    }
    space.shape[last] *= space.shape[next];
    for (int k = 0; k < count; ++k) space.strides[k][last] = space.strides[k][next];
  }
  space.ndim = space.ndim ? last + 1 : 0;
  if (space.ndim == 0) {
    space.ndim = 1;
    space.shape[0] = 1;
    for (int k = 0; k < count; ++k) space.strides[k][0] = 0;
  }
  return space;
}

// How a block of an operand reaches the row.
enum class Access : uint8_t {
  direct,   // in place
  once,     // the same for every block: gathered before the first
  gathered  // through a buffer, for each block
};

struct Operand {
  char* data;
  int64_t item;  // bytes of an element in memory
  Access access;
  Load load;
  Store store;
  const int64_t* strides;
};

struct Plan {
  Space space;
  Operand operands[most_operands];
  int count;
  int64_t item;         // bytes of an element in the compute dtype
  int64_t inner, rows;  // extent of the last axis and number of runs along it
  int64_t chunk;        // elements that a block holds: part of one run, or `group` whole runs
  int64_t group;        // 0: blocks are parts of runs
  Row row;
  const double* p;
};

// Element offset of the start of a run.
LAMINA_INLINE int64_t offset_of(const Plan& plan, const Operand& operand, int64_t run) {
  int64_t offset = 0;
  for (int d = plan.space.ndim - 2; d >= 0; --d) {
    offset += run % plan.space.shape[d] * operand.strides[d];
    run /= plan.space.shape[d];
  }
  return offset;
}

// Calls f(element offset, first index in the block, n) for the pieces of runs that make up a block.
template <class F>
LAMINA_INLINE void for_pieces(const Plan& plan, const Operand& operand, int64_t run, int64_t begin, int64_t n,
                              F f) {
  const int last = plan.space.ndim - 1;
  if (!plan.group) return f(offset_of(plan, operand, run) + begin * operand.strides[last], int64_t(0), n);
  int64_t index[max_ndim], offset = 0, rest = run;
  for (int d = last - 1; d >= 0; --d) {
    index[d] = rest % plan.space.shape[d];
    rest /= plan.space.shape[d];
    offset += index[d] * operand.strides[d];
  }
  for (int64_t done = 0; done < n; done += plan.inner) {
    f(offset, done, plan.inner);
    for (int d = last - 1; d >= 0; --d) {  // the next run
      offset += operand.strides[d];
      if (++index[d] < plan.space.shape[d]) break;
      offset -= index[d] * operand.strides[d];
      index[d] = 0;
    }
  }
}

LAMINA_INLINE void gather(const Plan& plan, const Operand& operand, char* buffer, int64_t run, int64_t begin,
                          int64_t n) {
  const int64_t stride = operand.strides[plan.space.ndim - 1];
  for_pieces(plan, operand, run, begin, n, [&](int64_t offset, int64_t at, int64_t length) {
    operand.load(operand.data + offset * operand.item, stride, buffer + at * plan.item, length);
  });
}

LAMINA_INLINE void scatter(const Plan& plan, const Operand& operand, const char* buffer, int64_t run,
                           int64_t begin, int64_t n) {
  const int64_t stride = operand.strides[plan.space.ndim - 1];
  for_pieces(plan, operand, run, begin, n, [&](int64_t offset, int64_t at, int64_t length) {
    operand.store(buffer + at * plan.item, operand.data + offset * operand.item, stride, length);
  });
}

// Runs the elements [first, last) of the flattened space, which start and end at block boundaries.
void run_range(const Plan& plan, int64_t first_block, int64_t last_block) {
  alignas(64) char buffers[most_operands][block * 8];
  const int64_t per_run = plan.group ? 1 : (plan.inner + plan.chunk - 1) / plan.chunk;
  const int y = plan.count - 1;
  bool is_first = true;
  for (int64_t b = first_block; b < last_block; ++b) {
    int64_t run, begin, n;
    if (plan.group) {
      run = b * plan.group;
      begin = 0;
      n = (plan.rows - run < plan.group ? plan.rows - run : plan.group) * plan.inner;
    } else {
      run = b / per_run;
      begin = b % per_run * plan.chunk;
      n = plan.inner - begin < plan.chunk ? plan.inner - begin : plan.chunk;
    }
    const void* x[most_operands];
    char* out = nullptr;
    for (int k = 0; k < plan.count; ++k) {
      const Operand& operand = plan.operands[k];
      char* at = buffers[k];
      if (operand.access == Access::direct) {
        // Whole runs of a direct operand of a grouped plan follow each other without a gap.
        const int64_t offset = plan.group ? run * plan.inner : offset_of(plan, operand, run) + begin;
        at = operand.data + offset * operand.item;
      } else if (k != y && (operand.access == Access::gathered || is_first)) {
        gather(plan, operand, at, run, begin, operand.access == Access::once ? plan.chunk : n);
      }
      x[k] = at;
      out = at;
    }
    is_first = false;
    plan.row(x, out, n, plan.p);
    if (plan.operands[y].access != Access::direct) scatter(plan, plan.operands[y], out, run, begin, n);
  }
}

void run_general(Row row, Dtype compute, const View* const* views, int count, const double* p) {
  Plan plan;
  plan.space = make_space(views, count);
  plan.count = count;
  plan.row = row;
  plan.p = p;
  plan.item = size_of(compute);
  const int last = plan.space.ndim - 1;
  plan.inner = plan.space.shape[last];
  plan.rows = 1;
  for (int d = 0; d < last; ++d) plan.rows *= plan.space.shape[d];
  plan.group = plan.rows > 1 && plan.inner < short_row ? block / plan.inner : 0;

  bool is_buffered = false;
  for (int k = 0; k < count; ++k) {
    const View& view = *views[k];
    Operand& operand = plan.operands[k];
    operand.data = view.as<char>();
    operand.item = size_of(view.dtype);
    operand.strides = plan.space.strides[k];
    operand.load = load_function(view.dtype, compute);
    operand.store = store_function(view.dtype, compute);
    bool is_gapless = operand.strides[last] == 1, is_constant = true;
    for (int d = last - 1; d >= 0; --d) {
      if (operand.strides[d] != 0) is_constant = false;
      if (plan.group && operand.strides[d] != operand.strides[d + 1] * plan.space.shape[d + 1])
        is_gapless = false;
    }
    // Within one block per run or group, what does not vary over runs is the same for all of them; so is a
    // scalar.
    const bool is_same = is_constant && (plan.group || operand.strides[last] == 0);
    operand.access = view.dtype == compute && is_gapless ? Access::direct
                     : is_same                           ? Access::once
                                                         : Access::gathered;
    is_buffered |= operand.access != Access::direct;
  }
  plan.chunk = plan.group ? plan.group * plan.inner : is_buffered ? block : grain;
  if (!plan.group && plan.chunk > plan.inner) plan.chunk = plan.inner;
  if (plan.group > plan.rows) {
    plan.group = plan.rows;
    plan.chunk = plan.rows * plan.inner;
  }
  const int64_t blocks = plan.group ? (plan.rows + plan.group - 1) / plan.group
                                    : plan.rows * ((plan.inner + plan.chunk - 1) / plan.chunk);
  const int64_t blocks_per_task = plan.chunk < grain ? grain / plan.chunk : 1;
  parallel_ranges(blocks, blocks_per_task, [&](int64_t first, int64_t end) { run_range(plan, first, end); });
}

// Contiguous operands and single elements, the frequent cases, go straight to the row; a single element fills a buffer
// that serves every block.
LAMINA_INLINE void run_elementwise(const Rows& rows, const ElementwiseArgs& args, int arity) {
  const Row row = rows.at(args.compute);
  const int64_t n = args.y.size(), item = size_of(args.compute);
  if (n == 0) return;
  const View* views[most_operands];  // the inputs, then y
  for (int k = 0; k < arity; ++k) views[k] = &args.x[k];
  views[arity] = &args.y;
  alignas(64) char buffers[most_operands - 1][block * 8];
  int64_t steps[most_operands] = {};  // bytes from an element to the next
  int64_t step = grain;
  for (int k = 0; k <= arity; ++k) {
    const View& view = *views[k];
    if (view.dtype == args.compute && view.size() == n && view.is_contiguous()) {
      steps[k] = item;
    } else if (k < arity && view.size() == 1) {
      load_function(view.dtype, args.compute)(view.data, 0, buffers[k], n < block ? n : block);
      step = block;
    } else {
      return run_general(row, args.compute, views, arity + 1, args.p);
    }
  }
  parallel_ranges(n, grain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += step) {
      const void* x[most_operands];
      for (int k = 0; k < arity; ++k) x[k] = steps[k] ? views[k]->as<char>() + at * item : buffers[k];
      row(x, args.y.as<char>() + at * item, end - at < step ? end - at : step, args.p);
    }
  });
}

void unary(const ElementwiseArgs& args) { run_elementwise(unary_rows.rows[args.op], args, 1); }
void unary_backward(const ElementwiseArgs& args) {
  run_elementwise(unary_backward_rows.rows[args.op], args, 2);
}
void binary(const ElementwiseArgs& args) { run_elementwise(binary_rows.rows[args.op], args, 2); }
void ternary(const ElementwiseArgs& args) { run_elementwise(ternary_rows.rows[args.op], args, 3); }

template <class S>
void copy_row(const void* const* x, void* y, int64_t n, const double*) {
  __builtin_memcpy(y, x[0], size_t(n) * sizeof(S));
}
constexpr Rows copy_rows = {copy_row<float>, copy_row<double>, copy_row<int32_t>, copy_row<int64_t>};

void cast(const ElementwiseArgs& args) { run_elementwise(copy_rows, args, 1); }

}  // namespace

const ElementwiseKernels elementwise_kernels = {unary, unary_backward, binary, ternary, cast};

}  // namespace lamina::LAMINA_ISA
