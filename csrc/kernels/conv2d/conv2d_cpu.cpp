#include "kernels/conv2d/conv2d.h"

#include "base/parallel.h"
#include "kernels/conv2d/depthwise.h"
#include "kernels/conv2d/pack.h"
#include "kernels/conv2d/tap_sum.h"
#include "kernels/conv2d/weight_gradient.h"

namespace lamina::LAMINA_ISA {
namespace {

// --- Choice ------------------------------------------------------------------------------------------------------

ConvAlgorithm algorithm_for(ConvPass pass, const Conv2dArgs& a) {
  const int64_t C = a.x.shape[1], O = a.y.shape[1], S = a.weight.shape[3];
  if (a.groups > 1 && a.groups == C && C == O) return ConvAlgorithm::depthwise;
  // With up to 16 channels, K = S C is still short enough for the copy to pay.
  const bool few = a.groups == 1 && C <= 16 && S > 1 && a.dilation[1] == 1;
  return few && pass != ConvPass::backward_input ? ConvAlgorithm::merged_taps : ConvAlgorithm::implicit_gemm;
}

// The packed form of the weights, which for depthwise is one panel as wide as there are channels.
template <class S>
PanelShape panels_for(ConvPass pass, const Conv2dArgs& a, ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::depthwise)
    return {1, a.x.shape[1], 1, a.weight.shape[2], a.weight.shape[3], a.x.shape[1], false};
  return panel_shape(a, pass == ConvPass::backward_input, tile_columns<S>);
}

template <class T>
Conv2dPlan plan_for(ConvPass pass, const Conv2dArgs& a) {
  using S = Compute<T>;
  constexpr bool direct = sizeof(T) == sizeof(S);
  Conv2dPlan plan = {};
  plan.algorithm = algorithm_for(pass, a);
  const bool merged = plan.algorithm == ConvAlgorithm::merged_taps;
  const bool depthwise = plan.algorithm == ConvAlgorithm::depthwise;
  const PanelShape p = panels_for<S>(pass, a, plan.algorithm);
  const View& source = pass == ConvPass::backward_input ? a.y : a.x;
  const View& result = pass == ConvPass::backward_input ? a.x : a.y;
  const int64_t pixels = result.shape[0] * result.shape[2] * result.shape[3];
  const int64_t per_panel = 2 * p.R * p.S * p.depth * p.width;  // flops per pixel

  // Tasks: enough of them for many cores, none below a million flops, panels together as long as blocks of pixels suffice.
  constexpr int64_t tasks = 32, task_flops = 1000000;
  plan.partials = 1;
  if (pass == ConvPass::backward_weight) {
    plan.block_pixels = 256;  // a panel of dy: 16 KB (avx2), half of L1
    plan.block_panels = larger(1, smaller(p.per_group(), 8));
    const int64_t cut = larger(1, p.groups * ceil_div(p.per_group(), plan.block_panels));
    const int64_t useful = pixels * per_panel * p.per_group() * p.groups / task_flops / cut;
    const int64_t affordable = (int64_t(1) << 20) / larger(1, p.elements());
    // Each part has four blocks at least, so that adding the parts costs little against making them.
    plan.partials = larger(
        1,
        smaller(smaller(ceil_div(tasks, cut), useful),
                smaller(affordable, smaller(pixels / (4 * plan.block_pixels), a.y.shape[0] * a.y.shape[2]))));
  } else {
    plan.block_pixels = 240;
    const int64_t blocks = larger(1, ceil_div(pixels, plan.block_pixels)) * p.groups;
    const int64_t splits = smaller(p.per_group(), ceil_div(tasks, blocks));
    const int64_t useful = ceil_div(task_flops, larger(1, per_panel * smaller(pixels, plan.block_pixels)));
    plan.block_panels =
        larger(1, larger(ceil_div(p.per_group(), larger(1, splits)), smaller(useful, p.per_group())));
  }

  int64_t end = 0;
  const auto region = [&](int64_t elements) {
    const int64_t begin = end;
    end += round_up(elements, 16) + 16;  // a spare line: vectors may read past the end
    return begin;
  };
  plan.zeros = region(depthwise ? 0 : merged ? p.S * p.depth : p.depth);
  plan.bias = region(p.lines());
  plan.panels = region(plan.partials * (p.elements() + p.lines()));
  const int64_t plane = merged ? padded_plane(a).elements(a.x.shape[0]) : 0;
  const bool widens = !direct && !depthwise && pass != ConvPass::backward_weight;
  plan.source = region(merged ? plane : widens ? source.size() : 0);
  plan.staging = region(direct ? 0 : larger(plane, p.elements()));
  plan.workspace_bytes = end * int64_t(sizeof(S));
  return plan;
}

// --- Forward, and backward to the input: sums over taps ----------------------------------------------------------

template <class T>
void fill_bias(const PanelShape& p, const View& bias, Compute<T>* to) {
  for (int64_t g = 0; g < p.groups; ++g)
    for (int64_t c = 0; c < p.per_group() * p.width; ++c)
      *to++ = bias && c < p.columns ? widen(bias.as<const T>()[(g * p.columns + c) * bias.strides[0]]) : 0;
}

template <class T>
void sum_over_taps(ConvPass pass, const Conv2dArgs& a) {
  using S = Compute<T>;
  constexpr bool direct = sizeof(T) == sizeof(S);
  const bool backward = pass == ConvPass::backward_input;
  const View &source = backward ? a.y : a.x, &result = backward ? a.x : a.y;
  if (result.size() == 0) return;
  const Conv2dPlan plan = plan_for<T>(pass, a);
  const PanelShape p = panels_for<S>(pass, a, plan.algorithm);
  S* const workspace = static_cast<S*>(a.workspace);
  T* const staging = reinterpret_cast<T*>(workspace + plan.staging);
  S* const panels = workspace + plan.panels;
  pack_panels<T>(p, a.weight, panels, staging);
  fill_bias<T>(p, a.bias, workspace + plan.bias);

  // Source and result are channels-last: strides follow from the shapes.
  const int64_t source_pixel = source.shape[1], source_row = source.shape[3] * source_pixel;
  const int64_t result_pixel = result.shape[1], result_row = result.shape[3] * result_pixel;
  const auto for_phases = [&](const auto& f) {
    if (!backward) return f(forward_axis(a, 0), forward_axis(a, 1));
    for (int64_t i = 0; i < smaller(a.stride[0], result.shape[2]); ++i)
      for (int64_t j = 0; j < smaller(a.stride[1], result.shape[3]); ++j)
        f(backward_axis(a, 0, i), backward_axis(a, 1, j));
  };

  if (plan.algorithm == ConvAlgorithm::depthwise) {
    return for_phases([&](const TapAxis& h, const TapAxis& w) {
      depthwise_sum<T>({.h = h,
                        .w = w,
                        .images = result.shape[0],
                        .channels = result.shape[1],
                        .source = source.as<const T>(),
                        .source_image = source.shape[2] * source_row,
                        .source_row = source_row,
                        .source_pixel = source_pixel,
                        .result = result.as<T>(),
                        .result_image = result.shape[2] * result_row,
                        .result_row = result_row,
                        .result_pixel = result_pixel,
                        .weights = panels,
                        .filter_width = p.S,
                        .bias = workspace + plan.bias});
    });
  }

  __builtin_memset(workspace + plan.zeros, 0, size_t(plan.bias - plan.zeros) * sizeof(S));
  TapSum<T> sum = {.h = {},
                   .w = {},
                   .images = result.shape[0],
                   .groups = p.groups,
                   .depth = p.depth,
                   .columns = p.columns,
                   .source = reinterpret_cast<const S*>(source.data),
                   .source_image = source.shape[2] * source_row,
                   .source_row = source_row,
                   .source_pixel = source_pixel,
                   .result = result.as<T>(),
                   .result_image = result.shape[2] * result_row,
                   .result_row = result_row,
                   .result_pixel = result_pixel,
                   .panels = panels,
                   .filter_width = p.S,
                   .filter_taps = p.R * p.S,
                   .bias = workspace + plan.bias,
                   .zeros = workspace + plan.zeros};
  if (plan.algorithm == ConvAlgorithm::merged_taps) {
    pad_source<T>(a, workspace + plan.source, staging);
    const PaddedPlane plane = padded_plane(a);
    sum.h = forward_axis(a, 0);
    sum.w = forward_axis(a, 1);
    sum.h.source = plane.H, sum.h.offset = 0;
    sum.w.source = plane.W, sum.w.offset = 0, sum.w.taps = 1;
    sum.source = workspace + plan.source;
    sum.source_pixel = plane.C, sum.source_row = plane.W * plane.C,
    sum.source_image = plane.H * sum.source_row;
    sum.depth = p.S * p.depth, sum.filter_width = 1, sum.filter_taps = p.R;
    return tap_sum(sum, plan);
  }
  if constexpr (!direct) {
    convert(source.as<const T>(), workspace + plan.source, source.size());
    sum.source = workspace + plan.source;
  }
  for_phases([&](const TapAxis& h, const TapAxis& w) {
    sum.h = h, sum.w = w;
    tap_sum(sum, plan);
  });
}

// --- Backward to weight and bias: sums over pixels ---------------------------------------------------------------

template <class T>
void store_bias(const PanelShape& p, const Compute<T>* from, const View& bias) {
  for (int64_t g = 0; g < p.groups; ++g, from += p.per_group() * p.width)
    for (int64_t c = 0; c < p.columns; ++c)
      bias.as<T>()[(g * p.columns + c) * bias.strides[0]] = narrow<T>(from[c]);
}

// Partial sum i lies at panels + i * (elements of the panels + their columns): dweight in panels, then dbias by columns.
template <class T>
void sum_over_pixels(const Conv2dArgs& a) {
  using S = Compute<T>;
  const Conv2dPlan plan = plan_for<T>(ConvPass::backward_weight, a);
  const PanelShape p = panels_for<S>(ConvPass::backward_weight, a, plan.algorithm);
  S* const workspace = static_cast<S*>(a.workspace);
  T* const staging = reinterpret_cast<T*>(workspace + plan.staging);
  S* const panels = workspace + plan.panels;
  const int64_t parts = plan.partials, weights = p.elements(), size = weights + (a.bias ? p.lines() : 0);
  const auto bias_of = [&](int64_t i) { return a.bias ? panels + i * size + weights : nullptr; };

  if (size == 0) return;
  if (a.y.size() == 0) {
    __builtin_memset(panels, 0, size_t(size) * sizeof(S));
  } else if (plan.algorithm == ConvAlgorithm::depthwise) {
    const TapAxis h = forward_axis(a, 0), w = forward_axis(a, 1);
    const int64_t rows = a.y.shape[0] * h.count;
    parallel_for(parts, [&](int64_t i) {
      depthwise_gradient<T>(a, h, w, i * rows / parts, (i + 1) * rows / parts, panels + i * size, bias_of(i));
    });
    add_partials(panels, parts, size);
  } else {
    const bool merged = plan.algorithm == ConvAlgorithm::merged_taps;
    if (merged) pad_source<T>(a, workspace + plan.source, staging);
    const WeightGradient<T> gradient = {a, merged ? workspace + plan.source : nullptr};
    const int64_t splits = ceil_div(gradient.panels, plan.block_panels),
                  blocks = gradient.blocks(plan.block_pixels);
    parallel_for(parts * a.groups * splits, [&](int64_t task) {
      const int64_t split = task % splits, g = task / splits % a.groups, i = task / splits / a.groups;
      const int64_t first = split * plan.block_panels,
                    last = smaller(gradient.panels, first + plan.block_panels);
      gradient.partial(plan.block_pixels, g, first, last, i * blocks / parts, (i + 1) * blocks / parts,
                       panels + i * size + (g * gradient.panels + first) * gradient.panel_elements,
                       a.bias ? bias_of(i) + (g * gradient.panels + first) * tile_columns<S> : nullptr);
    });
    add_partials(panels, parts, size);
  }
  unpack_panels<T>(p, panels, staging, a.weight);
  if (a.bias) store_bias<T>(p, bias_of(0), a.bias);
}

// --- Entries -----------------------------------------------------------------------------------------------------

Conv2dPlan choose_algorithm(ConvPass pass, const Conv2dArgs& a) {
  Conv2dPlan plan;
  dispatch_float(a.y.dtype, [&](auto t) {
    using T = typename decltype(t)::type;
    plan = plan_for<T>(pass, a);
  });
  return plan;
}

void forward(const Conv2dArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) { sum_over_taps<typename decltype(t)::type>(ConvPass::forward, a); });
}

void backward_input(const Conv2dArgs& a) {
  dispatch_float(a.x.dtype,
                 [&](auto t) { sum_over_taps<typename decltype(t)::type>(ConvPass::backward_input, a); });
}

void backward_weight(const Conv2dArgs& a) {
  dispatch_float(a.x.dtype, [&](auto t) { sum_over_pixels<typename decltype(t)::type>(a); });
}

}  // namespace

const Conv2dKernels conv2d_kernels = {choose_algorithm, forward, backward_input, backward_weight};

}  // namespace lamina::LAMINA_ISA
