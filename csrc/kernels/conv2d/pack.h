// Weights to panels and back, and sources in the form the kernels read: copies between layouts.
#pragma once

#include "base/parallel.h"
#include "kernels/conv2d/geometry.h"
#include "kernels/gemm/micro.h"
#include "kernels/layout/layout.h"

namespace lamina::LAMINA_ISA {

// One pass from one element type to another, rounding once.
template <class From, class To>
void convert(const From* from, To* to, int64_t n) {
  parallel_ranges(n, 16 << 10, [&](int64_t begin, int64_t end) {
    using V = VecOf<From>;
    int64_t i = begin;
    for (; i + V::N <= end; i += V::N) V::load(from + i).store(to + i);
    V::load(from + i, int(end - i)).store(to + i, int(end - i));
  });
}

// A view of dense or strided elements, axes outermost first.
struct AxisSpec {
  int64_t n, stride;
};
template <int Ndim>
LAMINA_INLINE View make_view(void* data, Dtype dtype, const AxisSpec (&axes)[Ndim]) {
  View v;
  v.data = data;
  v.dtype = dtype;
  v.ndim = Ndim;
  for (int i = 0; i < Ndim; ++i) v.shape[i] = axes[i].n, v.strides[i] = axes[i].stride;
  return v;
}

// Packed weights: panels[g][column / width][r][s][k][column % width]. Columns are the filters and k the channels of a
// group, or the reverse (`transposed`, for dx).
struct PanelShape {
  int64_t groups, columns, depth, R, S, width;
  bool transposed;

  LAMINA_INLINE int64_t per_group() const { return ceil_div(columns, width); }
  LAMINA_INLINE int64_t lines() const { return groups * per_group() * width; }  // columns and their padding
  LAMINA_INLINE int64_t elements() const { return lines() * R * S * depth; }
};

LAMINA_INLINE PanelShape panel_shape(const Conv2dArgs& a, bool transposed, int64_t width) {
  const int64_t filters = a.weight.shape[0] / a.groups, channels = a.weight.shape[1];
  return {a.groups,
          transposed ? channels : filters,
          transposed ? filters : channels,
          a.weight.shape[2],
          a.weight.shape[3],
          width,
          transposed};
}

// Calls f(view of weight, view of panels) for pieces that together are all of it: whole panels and the last one of a
// group, if it is narrower, cut along k where neighbours in k lie far apart in weight (`transposed`): 16 of them are as
// many streams as prefetchers follow.
template <class T, class F>
LAMINA_INLINE void for_panel_views(const PanelShape& p, const View& weight, T* panels, const F& f) {
  const int64_t* const s = weight.strides;
  const int64_t group = weight.shape[0] / p.groups * s[0];
  const int64_t column = p.transposed ? s[1] : s[0], k = p.transposed ? s[0] : s[1];
  const int64_t panel = p.R * p.S * p.depth * p.width, whole = p.columns / p.width,
                rest = p.columns % p.width;
  const int64_t step = p.transposed ? 16 : larger(1, p.depth);
  const auto views = [&](int64_t first, int64_t count, int64_t width) {
    if (count == 0 || width == 0) return;
    for (int64_t k0 = 0; k0 < p.depth; k0 += step) {
      const int64_t n = smaller(step, p.depth - k0);
      f(make_view(weight.as<T>() + first * p.width * column + k0 * k, dtype_of<T>,
                  {{p.groups, group},
                   {count, p.width * column},
                   {width, column},
                   {p.R, s[2]},
                   {p.S, s[3]},
                   {n, k}}),
        make_view(panels + first * panel + k0 * p.width, dtype_of<T>,
                  {{p.groups, p.per_group() * panel},
                   {count, panel},
                   {width, 1},
                   {p.R, p.S * p.depth * p.width},
                   {p.S, p.depth * p.width},
                   {n, p.width}}));
    }
  };
  views(0, whole, p.width);
  views(whole, 1, rest);
}

// `staging` (as many elements of T as the panels) is used when T is not the compute type.
template <class T>
void pack_panels(const PanelShape& p, const View& weight, Compute<T>* panels, T* staging) {
  constexpr bool direct = sizeof(T) == sizeof(Compute<T>);
  if constexpr (direct) staging = panels;
  if (p.columns % p.width != 0) {  // unused columns of the last panels are zero
    const int64_t panel = p.R * p.S * p.depth * p.width;
    for (int64_t g = 0; g < p.groups; ++g)
      __builtin_memset(staging + ((g + 1) * p.per_group() - 1) * panel, 0, size_t(panel) * sizeof(T));
  }
  for_panel_views(p, weight, staging,
                  [](const View& weight, const View& panels) { layout_kernels.copy({weight, panels}); });
  if constexpr (!direct) convert(staging, panels, p.elements());
}

template <class T>
void unpack_panels(const PanelShape& p, const Compute<T>* panels, T* staging, const View& weight) {
  constexpr bool direct = sizeof(T) == sizeof(Compute<T>);
  if constexpr (direct)
    staging = const_cast<T*>(panels);
  else
    convert(panels, staging, p.elements());
  for_panel_views(p, weight, staging,
                  [](const View& weight, const View& panels) { layout_kernels.copy({panels, weight}); });
}

// The zero-padded, channels-last copy of x that merged taps read: (N, H + top + bottom, W + left + right, C), with just
// as much padding at the bottom and on the right as the last filter position reads.
struct PaddedPlane {
  int64_t H, W, C;

  LAMINA_INLINE int64_t elements(int64_t images) const { return images * H * W * C; }
};

LAMINA_INLINE PaddedPlane padded_plane(const Conv2dArgs& a) {
  const auto extent = [&](int d) {
    const int64_t reads =
        (a.y.shape[2 + d] - 1) * a.stride[d] + (a.weight.shape[2 + d] - 1) * a.dilation[d] + 1;
    return larger(reads, a.padding[d] + a.x.shape[2 + d]);
  };
  return {extent(0), extent(1), a.x.shape[1]};
}

template <class T>
void pad_source(const Conv2dArgs& a, Compute<T>* plane, T* staging) {
  constexpr bool direct = sizeof(T) == sizeof(Compute<T>);
  if constexpr (direct) staging = plane;
  const PaddedPlane p = padded_plane(a);
  const int64_t images = a.x.shape[0], image = p.H * p.W * p.C;
  parallel_for(images,
               [&](int64_t n) { __builtin_memset(staging + n * image, 0, size_t(image) * sizeof(T)); });
  layout_kernels.copy(
      {a.x, make_view(staging + (a.padding[0] * p.W + a.padding[1]) * p.C, dtype_of<T>,
                      {{images, image}, {p.C, 1}, {a.x.shape[2], p.W * p.C}, {a.x.shape[3], p.C}})});
  if constexpr (!direct) convert(staging, plane, p.elements(images));
}

}  // namespace lamina::LAMINA_ISA
