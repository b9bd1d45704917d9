// Scaled dot-product attention.
#include "kernels/attention/attention.h"

#include <cmath>

#include "ops/generator.h"
#include "ops/operands.h"

namespace lamina {
namespace {

constexpr std::string_view op = "scaled_dot_product_attention";

// Kernels read matrices whose rows lie in memory.
bool has_rows(const View& x) { return columns_of(x) <= 1 || x.strides[x.ndim - 1] == 1; }
Array in_rows(const Array& x) { return has_rows(x.view()) ? x : contiguous(x); }

// A result with the axes of x in the order that they have in memory, but for rows of so many columns.
View rows_like(const View& x, int64_t columns) {
  View v = x;
  v.shape[v.ndim - 1] = columns;
  v.strides[v.ndim - 1] = 1;
  return has_rows(x) ? Spec::like(v, x.dtype) : Spec{x.dtype, Shape({v.shape, size_t(v.ndim)})}.view();
}

// Operands as kernels see them: the leading axes of all broadcast to common ones, of which the last may be heads.
struct Operands {
  View query, key, value, mask;
  int64_t group = 1;  // heads of query for each of key and value
};

// Query, key and value are in[first] and the following, and the mask comes after them.
Operands operands_of(const Inputs& in, size_t first, const Attrs& attrs) {
  const View &q = in[first].view(), &k = in[first + 1].view(), &v = in[first + 2].view();
  constexpr const char* names[] = {"query", "key", "value"};
  const View* given[] = {&q, &k, &v};
  const int own = attrs.boolean("enable_gqa") ? 3 : 2;  // axes that do not broadcast
  for (int i = 0; i < 3; ++i)
    check(given[i]->ndim >= own, op, names[i], " is ", *given[i], "; expected (",
          own == 3 ? "..., heads" : "...", ", sequence, features)");
  check(columns_of(k) == columns_of(q), op, "key is ", k, " but query is ", q, "; expected ", columns_of(q),
        " features");
  check(rows_of(v) == rows_of(k), op, "value is ", v, " but key is ", k, "; expected one value for each of ",
        rows_of(k), " keys");

  Operands seen;
  if (own == 3) {
    const int64_t heads = q.shape[q.ndim - 3], key_heads = k.shape[k.ndim - 3];
    check(v.shape[v.ndim - 3] == key_heads, op, "value is ", v, " but key is ", k, "; expected ", key_heads,
          " heads");
    check(key_heads > 0 && heads % key_heads == 0, op, "key is ", k, " but query is ", q,
          "; expected a number of heads that divides ", heads);
    seen.group = heads / key_heads;
  }
  Shape common;
  common.ndim = std::max({q.ndim, k.ndim, v.ndim});
  std::fill_n(common.dims, common.ndim, 1);
  for (const View* x : given)
    for (int axis = 0; axis < x->ndim - own; ++axis)
      if (x->shape[axis] != 1) common[axis + common.ndim - x->ndim] = x->shape[axis];
  View* results[] = {&seen.query, &seen.key, &seen.value};
  for (int i = 0; i < 3; ++i) {
    std::copy_n(given[i]->shape + given[i]->ndim - own, own, common.dims + common.ndim - own);
    check(broadcast(*given[i], common, results[i]), op, names[i], " is ", *given[i],
          "; expected it to broadcast to ", common);
  }
  if (const Array& mask = in[first + 3]) {
    Shape scores{{seen.query.shape, size_t(common.ndim)}};
    scores[common.ndim - 1] = rows_of(k);
    check(broadcast(mask.view(), scores, &seen.mask), op, "attn_mask is ", mask.view(),
          "; expected it to broadcast to ", scores);
  }
  return seen;
}

AttentionArgs arguments(const Operands& seen, const Attrs& attrs, const Array& y, const Array& logsumexp,
                        const Array& pair) {
  const int64_t E = columns_of(seen.query);
  return {.query = seen.query,
          .key = seen.key,
          .value = seen.value,
          .mask = seen.mask,
          .y = y.view(),
          .logsumexp = logsumexp.view(),
          .pair = pair.view(),
          .scale = !attrs.is_none("scale") ? attrs.real("scale")
                   : E > 0                 ? 1 / std::sqrt(double(E))
                                           : 1,
          .dropout_p = attrs.real("dropout_p"),
          .group = seen.group,
          .is_causal = attrs.boolean("is_causal")};
}

Array sum_where_needed(const Saved& s, size_t input, const Array& dx) {
  return s.needs(input) ? sum_to(dx, s.in[input]) : Array{};
}

const Register attention{{
    .schema =
        "scaled_dot_product_attention(query, key, value, attn_mask?, state!?, *, dropout_p: float = 0.0, "
        "is_causal: bool = False, scale: float? = None, enable_gqa: bool = False) -> y, logsumexp, pair",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Dtype t = in[0].dtype();
          check_kernel_dtype(op, "query", t);
          constexpr const char* names[] = {"query", "key", "value"};
          for (size_t i = 1; i < 3; ++i)
            check<TypeError>(in[i].dtype() == t, op, names[i], " is ", in[i].dtype(), " but query is ", t,
                             "; expected one dtype");
          const Operands seen = operands_of(in, 0, attrs);
          if (in[3]) {
            const Dtype mask = in[3].dtype();
            check<TypeError>(mask == Dtype::boolean || mask == t || mask == compute_dtype(t), op,
                             "attn_mask is ", mask, " but query is ", t, "; expected bool, ", t, " or ",
                             compute_dtype(t));
          }
          const double p = attrs.real("dropout_p");
          check(p >= 0 && p <= 1, op, "dropout_p is ", p, "; expected a probability from 0 to 1");
          if (p > 0) check_state(op, in[4]);
          Shape statistics({seen.query.shape, size_t(seen.query.ndim - 1)});
          out.add(rows_like(seen.query, columns_of(seen.value)));
          out.add({compute_dtype(t), statistics});
          out.add({Dtype::int64, {p > 0 ? 2 : 0}});
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array rows[] = {in_rows(in[0]), in_rows(in[1]), in_rows(in[2]), in[3]};
          const AttentionArgs a = arguments(operands_of(rows, 0, attrs), attrs, out[0], out[1], out[2]);
          if (a.dropout_p > 0) advance(stream, in[4], out[1].size() * dropout_tiles(rows_of(a.key)), a.pair);
          stream.submit(&AttentionKernels::forward, a);
        },
    .vjp = [](const Saved& s, const Inputs& dy) -> Gradients {
      const Outputs d = eval_all<"scaled_dot_product_attention_backward">(
          {dy[0], s.in[0], s.in[1], s.in[2], s.in[3], s.out[0], s.out[1], s.out[2]},
          {{"dropout_p", s.attrs["dropout_p"]},
           {"is_causal", s.attrs["is_causal"]},
           {"scale", s.attrs["scale"]},
           {"enable_gqa", s.attrs["enable_gqa"]},
           {"mask_gradient", s.needs(3)}});
      return {sum_where_needed(s, 0, d[0]), sum_where_needed(s, 1, d[1]), sum_where_needed(s, 2, d[2]),
              sum_where_needed(s, 3, d[3]), Array{}};
    },
    .keeps = "query key value attn_mask y logsumexp pair",
}};

// Gradients have the shapes to which their operands were broadcast.
const Register attention_backward{{
    .schema =
        "scaled_dot_product_attention_backward(dy, query, key, value, attn_mask?, y, logsumexp, pair, *, "
        "dropout_p: float = 0.0, is_causal: bool = False, scale: float? = None, enable_gqa: bool = False, "
        "mask_gradient: bool = False) -> dquery, dkey, dvalue, dmask",
    .infer =
        [](const Inputs& in, const Attrs& attrs, Inference& out) {
          const Operands seen = operands_of(in, 1, attrs);
          for (const View& x : {seen.query, seen.key, seen.value}) out.add(rows_like(x, columns_of(x)));
          const Shape scores({seen.mask.shape, size_t(seen.mask.ndim)});
          out.add({attrs.boolean("mask_gradient") ? Spec{in[4].dtype(), scores} : Spec{in[1].dtype(), {0}}});
          out.workspace = attention_workspace(seen.query, seen.key) * size_of(in[6].dtype());
        },
    .run =
        [](Stream& stream, const Inputs& in, const Attrs& attrs, const Outputs& out) {
          const Array dy = in_rows(in[0]), y = in_rows(in[5]), logsumexp = contiguous(in[6]);
          const Array rows[] = {in_rows(in[1]), in_rows(in[2]), in_rows(in[3]), in[4]};
          stream.submit(&AttentionKernels::backward,
                        AttentionBackwardArgs{
                            .forward = arguments(operands_of(rows, 0, attrs), attrs, y, logsumexp, in[7]),
                            .dy = dy.view(),
                            .dquery = out[0].view(),
                            .dkey = out[1].view(),
                            .dvalue = out[2].view(),
                            .dmask = attrs.boolean("mask_gradient") ? out[3].view() : View{},
                            .workspace = out.workspace});
        },
}};

}  // namespace
}  // namespace lamina
