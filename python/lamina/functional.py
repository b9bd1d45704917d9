"""Every op as a function: inputs positional, attributes by keyword.

Each function is the record of the op (``csrc/ops/``) with a signature and a docstring. Shape letters: N batch,
C channels, H height, W width, O output channels, R×S kernel extents, T time, B batch of a sequence, I input features,
K summed extent, M×N result of a product.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamina import _C, random
from lamina._C import Tensor

# --- copies ------------------------------------------------------------------------------------------------------


def clone(x: Tensor) -> Tensor:
    """A copy of ``x`` in memory of its own, its axes in the same order in memory.

    Args: x: any shape and dtype.
    Returns: Tensor of the same shape and dtype, without gaps.
    """
    return _C.clone(x)


def to_device(x: Tensor, *, device: str = "cpu") -> Tensor:
    """The same elements on another device: a copy, or ``x`` itself if it is there already. Gradients move back.

    Args:
        x: any shape and dtype.
        device: "cpu", "cuda" or "cuda:<index>".
    Returns: Tensor of the same shape and dtype, its axes in the same order in memory, without gaps.
    Raises: ValueError for an unknown device; RuntimeError for one that is not available, and inside a recording.
    Note: a copy to a GPU is queued; one to the CPU waits for the work that makes ``x``.
    """
    return _C.to_device(x, device)


def contiguous(x: Tensor) -> Tensor:
    """``x`` in row-major order: itself where it is so already, else a copy.

    Args: x: any shape and dtype.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.contiguous(x)


def channels_last(x: Tensor) -> Tensor:
    """``x`` of shape (N, C, H, W) with memory in the order N, H, W, C: itself where it is so already, else a copy.

    Args: x: (N, C, H, W), any dtype.
    Returns: Tensor of the same shape and dtype.
    Raises: ValueError for other than four axes.
    """
    return _C.channels_last(x)


def full(*, shape: tuple[int, ...] = (), value: float = 0.0, dtype: Any = _C.float32) -> Tensor:
    """A tensor of one value.

    Args: shape: its extents. value: rounded to ``dtype``. dtype: any.
    Returns: Tensor of ``shape``, contiguous.
    Raises: ValueError for a negative extent or more than eight axes.
    """
    return _C.full(shape, value, dtype)


def fill_like(x: Tensor, *, value: float = 0.0, dtype: Any = None) -> Tensor:
    """A tensor of one value with the shape and memory order of ``x``.

    Args: x: any shape; its elements are not read. value: rounded to the dtype. dtype: that of ``x`` unless given.
    Returns: Tensor of the shape of ``x``, without gaps.
    """
    return _C.fill_like(x, value, dtype)


def _axis(op: str, dim: int, ndim: int) -> int:
    """The axis that ``dim`` names, counted from 0."""
    if not -ndim <= dim < ndim:
        raise ValueError(f"{op}: dim is {dim}; expected an axis of {ndim}, {-ndim} to {ndim - 1}")
    return dim % ndim


# --- shapes ------------------------------------------------------------------------------------------------------


def reshape(x: Tensor, *, shape: tuple[int, ...] = ()) -> Tensor:
    """The elements of ``x``, read row by row, in another shape: a view where strides allow it, else a copy.

    Args: x: any shape and dtype. shape: extents with the same product; one may be -1, which stands for the rest.
    Returns: Tensor of ``shape``.
    Raises: ValueError if the number of elements differs.

    >>> F.reshape(lamina.arange(6), shape=(2, -1)).shape
    (2, 3)
    """
    return _C.reshape(x, shape)


def flatten(x: Tensor, *, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """``x`` with the axes ``start_dim`` to ``end_dim`` (included) made one.

    Args: x: any shape. start_dim, end_dim: axes, negative ones counted from the end.
    Returns: Tensor with ``end_dim - start_dim`` axes less; a scalar becomes (1,).
    """
    if x.ndim == 0:
        return _C.reshape(x, (1,))
    first, last = _axis("flatten", start_dim, x.ndim), _axis("flatten", end_dim, x.ndim)
    extents = x.shape[first : last + 1]
    return _C.reshape(x, (*x.shape[:first], math.prod(extents), *x.shape[last + 1 :]))


def squeeze(x: Tensor, *, dim: int | None = None) -> Tensor:
    """``x`` without an axis of extent 1, or without all of them.

    Args: x: any shape. dim: the axis; one of another extent stays. None: all of extent 1.
    Returns: Tensor, a view.
    """
    drops = range(x.ndim) if dim is None else (_axis("squeeze", dim, x.ndim),)
    return _C.reshape(x, tuple(n for i, n in enumerate(x.shape) if n != 1 or i not in drops))


def unsqueeze(x: Tensor, *, dim: int = 0) -> Tensor:
    """``x`` with a new axis of extent 1.

    Args: x: any shape. dim: where the axis is in the result; negative ones count from its end.
    Returns: Tensor, a view.
    """
    at = _axis("unsqueeze", dim, x.ndim + 1)
    return _C.reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


def permute(x: Tensor, *, dims: tuple[int, ...] = ()) -> Tensor:
    """y with axis i being axis ``dims[i]`` of ``x``: a view.

    Args: x: any shape. dims: each axis once.
    Returns: Tensor of shape ``x.shape[dims[0]], x.shape[dims[1]], …``.
    Raises: ValueError if ``dims`` is no permutation.
    """
    return _C.permute(x, dims)


def transpose(x: Tensor, *, dim0: int = -2, dim1: int = -1) -> Tensor:
    """``x`` with two axes exchanged: a view.

    Args: x: any shape. dim0, dim1: the axes; by default the last two.
    Returns: Tensor.
    """
    dims = list(range(x.ndim))
    first, second = _axis("transpose", dim0, x.ndim), _axis("transpose", dim1, x.ndim)
    dims[first], dims[second] = second, first
    return _C.permute(x, dims)


def expand(x: Tensor, *, shape: tuple[int, ...] = ()) -> Tensor:
    """``x`` broadcast to a shape: a view in which repeated axes have stride 0.

    Args: x: its axes, aligned at the last, have the extents of ``shape`` or 1. shape: -1 keeps an extent.
    Returns: Tensor of ``shape``.
    Raises: ValueError if ``x`` does not broadcast to it.
    Note: the gradient is the sum over repeated axes.
    """
    return _C.expand(x, shape)


def slice(
    x: Tensor,
    *,
    starts: tuple[int, ...] = (),
    sizes: tuple[int, ...] = (),
    steps: tuple[int, ...] = (),
    squeeze: tuple[int, ...] = (),
) -> Tensor:
    """y[i, j, …] = x[starts[0] + i steps[0], starts[1] + j steps[1], …]; ``x[1:3, ::-1]`` is written with it.

    Args:
        x: any shape.
        starts, sizes, steps: one each per axis; steps may be negative.
        squeeze: axes (of size 1) that the result leaves out.

    Returns: Tensor of ``sizes`` without ``squeeze``: a view unless a step is negative.
    Raises: ValueError for elements outside of ``x``.
    """
    return _C.slice(x, starts, sizes, steps, squeeze)


def flip(x: Tensor, *, dims: tuple[int, ...] = ()) -> Tensor:
    """A copy of ``x`` with the order of elements reversed along some axes.

    Args: x: any shape. dims: the axes.
    Returns: Tensor of the same shape.
    """
    axes = {_axis("flip", d, x.ndim) for d in dims}
    steps = [-1 if i in axes else 1 for i in range(x.ndim)]
    starts = [builtins.max(n - 1, 0) if i in axes else 0 for i, n in enumerate(x.shape)]
    return _C.slice(x, starts, x.shape, steps, ())


def split(x: Tensor, *, split_size: int | tuple[int, ...] = 1, dim: int = 0) -> tuple[Tensor, ...]:
    """Views that follow each other along an axis.

    Args: x: any shape. split_size: elements of each, the last having what is left, or one size each. dim: the axis.
    Returns: tuple of Tensors.
    Raises: ValueError if sizes do not add up to the extent of the axis.
    """
    axis = _axis("split", dim, x.ndim)
    n = x.shape[axis]
    if isinstance(split_size, int):
        if split_size < 1:
            raise ValueError(f"split: split_size is {split_size}; expected at least 1")
        sizes = [builtins.min(split_size, n - at) for at in range(0, builtins.max(n, 1), split_size)]
    else:
        sizes = list(split_size)
        if builtins.sum(sizes) != n or builtins.min(sizes, default=0) < 0:
            raise ValueError(f"split: sizes {tuple(sizes)}; expected a sum of {n} (x {tuple(x.shape)}, dim {dim})")
    starts, extents, steps = [0] * x.ndim, list(x.shape), [1] * x.ndim
    parts = []
    for size in sizes:
        extents[axis] = size
        parts.append(_C.slice(x, [s if e else 0 for s, e in zip(starts, extents, strict=True)], extents, steps, ()))
        starts[axis] += size
    return tuple(parts)


def chunk(x: Tensor, *, chunks: int = 1, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` views of equal size along an axis; the last may be smaller.

    Args: x: any shape. chunks: at least 1. dim: the axis.
    Returns: tuple of Tensors.
    Raises: ValueError for fewer than one chunk.
    """
    if chunks < 1:
        raise ValueError(f"chunk: chunks is {chunks}; expected at least 1")
    axis = _axis("chunk", dim, x.ndim)
    return split(x, split_size=builtins.max(1, -(-x.shape[axis] // chunks)), dim=axis)


def concat(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Tensors one after the other along an axis.

    Args: xs: of one dtype, and of one shape except along ``dim``. dim: the axis.
    Returns: Tensor, its extent along ``dim`` the sum; channels-last if all of ``xs`` are.
    Raises: ValueError for no tensors or other shapes; TypeError for other dtypes.
    """
    return _C.concat(xs, dim)


def stack(xs: Sequence[Tensor], *, dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis.

    Args: xs: of one shape and dtype. dim: where the new axis is in the result.
    Returns: Tensor with one axis more, of extent ``len(xs)``.
    """
    return _C.concat([unsqueeze(x, dim=dim) for x in xs], dim)


def pad(x: Tensor, *, padding: tuple[int, ...] = (), mode: str = "constant", value: float = 0.0) -> Tensor:
    """``x`` with margins.

    Args:
        x: any shape.
        padding: (before, after) of the last axis, then of the one before it, …, as in PyTorch.
        mode: what margins hold: "constant" ``value``; "reflect" ``x`` mirrored at its edge elements; "replicate" the
            edge elements; "circular" ``x`` from its other end. The last three pad at most two axes.
        value: of mode "constant".

    Returns: Tensor; channels-last if ``x`` is.
    Raises: ValueError for a margin that is negative, or wider than the mode can fill.

    >>> F.pad(lamina.arange(3), padding=(2, 1), mode="reflect").tolist()
    [2, 1, 0, 1, 2, 1]
    """
    return _C.pad(x, padding, mode, value)


def tril(x: Tensor, *, diagonal: int = 0) -> Tensor:
    """y[…, i, j] = x[…, i, j] where j - i ≤ ``diagonal``, else 0.

    Args: x: (…, M, N). diagonal: 0 keeps the main diagonal, -1 begins below it.
    Returns: Tensor of the same shape.
    Raises: ValueError for fewer than two axes.
    """
    return _C.tril(x, diagonal)


def triu(x: Tensor, *, diagonal: int = 0) -> Tensor:
    """y[…, i, j] = x[…, i, j] where j - i ≥ ``diagonal``, else 0.

    Args: x: (…, M, N). diagonal: 0 keeps the main diagonal, 1 begins above it.
    Returns: Tensor of the same shape.
    Raises: ValueError for fewer than two axes.
    """
    return _C.triu(x, diagonal)


def progression(*, start: float = 0.0, step: float = 1.0, size: int = 0, dtype: Any = _C.float32) -> Tensor:
    """y[i] = start + i step.

    Args: start, step: computed in float64 and rounded once, or in integers for an integer dtype. size: at least 0.
        dtype: any.
    Returns: Tensor of shape (size,).
    Raises: ValueError for a negative size.
    """
    return _C.progression(start, step, size, dtype)


# --- elements chosen by indices ------------------------------------------------------------------------------------


def index_select(x: Tensor, index: Tensor, *, dim: int = 0) -> Tensor:
    """y[…, j, …] = x[…, index[j], …]: the slices of ``x`` along an axis that ``index`` names.

    Args:
        x: any shape.
        index: int64 or int32 in [0, x.shape[dim]), any shape, whose axes take the place of ``dim``.
        dim: the axis.

    Returns: Tensor.
    Raises: ValueError for an index out of range (inside a recording it is clamped); TypeError for other dtypes.
    Note: the gradient adds up, in the order of ``index``: the same bits in every run.
    """
    return _C.index_select(x, index, dim)


def embedding(indices: Tensor, weight: Tensor, *, padding_idx: int | None = None) -> Tensor:
    """y[…, d] = weight[indices[…], d]: the rows of a table that indices name.

    Args:
        indices: int64 or int32 in [0, V), any shape.
        weight: (V, D).
        padding_idx: a row that gets no gradient, in [-V, V), as it stands for the filling of short sequences.

    Returns: Tensor of the shape of ``indices`` with D behind.
    Raises: ValueError for a weight of another shape, an index out of range (inside a recording and on a GPU it is
        clamped) or a padding_idx that is no row; TypeError for indices of other dtypes.
    Note: the gradient of ``weight`` is dense; its rows are sums in the order of ``indices``, in float32 (float64): the
        same bits in every run.
    """
    return _C.embedding(indices, weight, padding_idx)


def gather(x: Tensor, index: Tensor, *, dim: int = 0) -> Tensor:
    """y[i, j, k] = x[index[i, j, k], j, k] for ``dim`` 0, and likewise for other axes.

    Args:
        x: any shape.
        index: int64 or int32 in [0, x.shape[dim]), with as many axes as ``x`` and no longer than it off ``dim``.
        dim: the axis.

    Returns: Tensor of the shape of ``index``.
    Raises: ValueError for other shapes or an index out of range (inside a recording it is clamped).
    Note: the gradient adds up, in the order of ``index``: the same bits in every run.
    """
    return _C.gather(x, index, dim)


def one_hot(index: Tensor, *, num_classes: int = 1, dtype: Any = _C.float32) -> Tensor:
    """y[…, n] = 1 where n = index[…], else 0.

    Args: index: int64 or int32 in [0, num_classes). num_classes: extent of the new axis. dtype: of the result.
    Returns: Tensor of the shape of ``index`` with ``num_classes`` behind.
    Raises: ValueError for an index out of range.
    """
    return _C.one_hot(index, num_classes, dtype)


# --- random numbers ------------------------------------------------------------------------------------------------
# `state` is that of a lamina.random.Generator: (2,) int64 {seed, offset}, advanced in place. Results are functions of
# it and of the index, on any number of threads and at any instruction-set level.


def uniform(
    state: Tensor,
    *,
    shape: tuple[int, ...] = (),
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = _C.float32,
) -> Tensor:
    """low + (high - low) u with u uniform in [0, 1): 24 random bits in float32, 8 in bfloat16, 53 in float64.

    Args: state: of a generator. shape: of the result. low, high: the range. dtype: float32, bfloat16 or float64.
    Returns: Tensor of ``shape``.
    Raises: ValueError if low > high; TypeError for other dtypes.
    """
    return _C.uniform(state, shape, low, high, dtype)


def normal(
    state: Tensor,
    *,
    shape: tuple[int, ...] = (),
    mean: float = 0.0,
    std: float = 1.0,
    dtype: Any = _C.float32,
) -> Tensor:
    """mean + std z with z normal, by the method of Box and Muller.

    Args: state: of a generator. shape: of the result. mean, std: real numbers. dtype: float32, bfloat16 or float64.
    Returns: Tensor of ``shape``.
    Raises: ValueError for a negative ``std``; TypeError for other dtypes.
    Note: in float32 \\|z\\| < 5.9, as u has 24 bits.
    """
    return _C.normal(state, shape, mean, std, dtype)


def randint(
    state: Tensor, *, shape: tuple[int, ...] = (), low: int = 0, high: int = 2, dtype: Any = _C.int64
) -> Tensor:
    """Integers from ``low`` up to ``high`` - 1, equally likely to within 2⁻⁶⁴.

    Args: state: of a generator. shape: of the result. low, high: the range. dtype: int64, int32 or uint8.
    Returns: Tensor of ``shape``.
    Raises: ValueError for an empty range or one that ``dtype`` does not hold; TypeError for other dtypes.
    """
    return _C.randint(state, shape, low, high, dtype)


def bernoulli(p: Tensor, state: Tensor) -> Tensor:
    """1 with probability p, else 0, element by element.

    Args: p: probabilities, float32, bfloat16 or float64; met to within 2⁻²⁴. state: of a generator.
    Returns: Tensor of the shape and dtype of ``p``.
    """
    return _C.bernoulli(p, state)


def randperm(state: Tensor, *, n: int = 0) -> Tensor:
    """The integers 0 … n - 1 in random order.

    Args: state: of a generator. n: at least 0.
    Returns: Tensor of shape (n,), int64.
    Raises: ValueError for a negative ``n``.
    """
    return _C.randperm(state, n)


def dropout(x: Tensor, state: Tensor | None = None, *, p: float = 0.5, training: bool = True) -> Tensor:
    """y = x m / (1 - p), each m being 0 with probability p and else 1; y = x when not training.

    Args:
        x: any shape; float32, bfloat16 or float64.
        state: of a generator; by default of ``lamina.random.default_generator``.
        p: probability of 0, met to within 2⁻¹⁷.
        training: False gives ``x``.

    Returns: Tensor of the shape and memory order of ``x``.
    Raises: ValueError unless 0 ≤ p ≤ 1.
    Note: for backward 16 bytes are kept, the state; the mask is drawn again.
    Source: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    if not training:
        return x
    return _C.dropout(x, random.state_of(None, getattr(x, "device", "cpu")) if state is None else state, p, training)[0]


def dropout2d(x: Tensor, state: Tensor | None = None, *, p: float = 0.5, training: bool = True) -> Tensor:
    """Dropout of whole channels: one m for all pixels of a channel of a sample.

    Args: x: (N, C, H, W). state, p, training: as in ``dropout``.
    Returns: Tensor of the same shape.
    Source: Tompson et al. 2015, https://arxiv.org/abs/1411.4280
    """
    if not training:
        return x
    channels = _C.fill_like(_C.contiguous(x[:, :, :1, :1]), 1.0, None)  # masks follow memory order
    return x * dropout(channels, state, p=p)


# --- elementwise --------------------------------------------------------------------------------------------


def neg(x: Tensor) -> Tensor:
    """−x.

    Args: x: any shape, any dtype.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.neg(x)


def abs(x: Tensor) -> Tensor:
    """|x|.

    Args: x: any shape, any dtype.
    Returns: Tensor of the same shape and dtype.
    Note: The gradient at 0 is 0.
    """
    return _C.abs(x)


def sign(x: Tensor) -> Tensor:
    """−1, 0 or 1 as x is negative, zero or positive; NaN where x is NaN.

    Args: x: any shape, any dtype.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.sign(x)


def square(x: Tensor) -> Tensor:
    """x².

    Args: x: any shape, any dtype.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.square(x)


def exp(x: Tensor) -> Tensor:
    """eˣ.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 1 ULP (unit in the last place).
    """
    return _C.exp(x)


def expm1(x: Tensor) -> Tensor:
    """eˣ − 1, exact for small x too.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 2 ULP.
    """
    return _C.expm1(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm; −inf at 0, NaN below.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 1 ULP.
    """
    return _C.log(x)


def log1p(x: Tensor) -> Tensor:
    """log(1 + x), exact for small x too.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 2 ULP.
    """
    return _C.log1p(x)


def sqrt(x: Tensor) -> Tensor:
    """√x; NaN where x is negative.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.sqrt(x)


def rsqrt(x: Tensor) -> Tensor:
    """1 / √x.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.rsqrt(x)


def reciprocal(x: Tensor) -> Tensor:
    """1 / x.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.reciprocal(x)


def sin(x: Tensor) -> Tensor:
    """sin x, x in radians.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 3 ULP.
    """
    return _C.sin(x)


def cos(x: Tensor) -> Tensor:
    """cos x, x in radians.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 3 ULP.
    """
    return _C.cos(x)


def tanh(x: Tensor) -> Tensor:
    """tanh x = (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ).

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 3 ULP.
    """
    return _C.tanh(x)


def sigmoid(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e⁻ˣ).

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 3 ULP, for large negative x too.
    """
    return _C.sigmoid(x)


def erf(x: Tensor) -> Tensor:
    """The error function 2/√π ∫₀ˣ exp(−t²) dt.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: Error below 2 ULP.
    """
    return _C.erf(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0).

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: NaN stays NaN. The gradient at 0 is 0.

    >>> F.relu(lamina.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return _C.relu(x)


def leaky_relu(x: Tensor, *, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else ``negative_slope`` · x.

    Args: x: any shape and dtype; integers count as float32. negative_slope: factor for the rest.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.leaky_relu(x, negative_slope)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else ``alpha`` (eˣ − 1).

    Args: x: any shape and dtype; integers count as float32. alpha: the limit at −∞, negated.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.elu(x, alpha)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x Φ(x) with the normal distribution function Φ(x) = (1 + erf(x / √2)) / 2.

    Args:
        x: any shape and dtype; integers count as float32.
        approximate: "none", or "tanh" for x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2.
    Returns: Tensor of the same shape and dtype.
    Raises: ValueError for another approximation.
    Source: Hendrycks and Gimpel, Gaussian error linear units, https://arxiv.org/abs/1606.08415
    """
    return _C.gelu(x, approximate)


def silu(x: Tensor) -> Tensor:
    """x σ(x), also called swish.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.silu(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + eˣ), a smooth max(x, 0).

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    """
    return _C.softplus(x)


def floor(x: Tensor) -> Tensor:
    """The largest integer that is not above x.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: The gradient is zero, and not recorded.
    """
    return _C.floor(x)


def ceil(x: Tensor) -> Tensor:
    """The smallest integer that is not below x.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: The gradient is zero, and not recorded.
    """
    return _C.ceil(x)


def round(x: Tensor) -> Tensor:
    """The integer next to x; of two equally near ones, the even one.

    Args: x: any shape and dtype; integers count as float32.
    Returns: Tensor of the same shape and dtype.
    Note: The gradient is zero, and not recorded.
    """
    return _C.round(x)


def clamp(x: Tensor, *, min: float = float("-inf"), max: float = float("inf")) -> Tensor:
    """x, raised to ``min`` and lowered to ``max`` where it lies beyond.

    Args: x: any shape and dtype. min: lower bound. max: upper bound, which wins where min > max.
    Returns: Tensor of the same shape and dtype.
    Note: NaN stays NaN. The gradient passes where min ≤ x ≤ max.
    """
    return _C.clamp(x, min, max)


def isnan(x: Tensor) -> Tensor:
    """True where x is NaN.

    Args: x: any shape and dtype; integers count as float32.
    Returns: bool Tensor of the same shape.
    """
    return _C.isnan(x)


def logical_not(x: Tensor) -> Tensor:
    """True where x is 0.

    Args: x: any shape, any dtype.
    Returns: bool Tensor of the same shape.
    """
    return _C.logical_not(x)


def add(a: Tensor | float, b: Tensor | float) -> Tensor:
    """a + b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.

    >>> F.add(lamina.tensor([[1], [2]]), lamina.tensor([10, 20]))
    tensor([[11, 21],
            [12, 22]])
    """
    return _C.add(a, b)


def sub(a: Tensor | float, b: Tensor | float) -> Tensor:
    """a − b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.sub(a, b)


def mul(a: Tensor | float, b: Tensor | float) -> Tensor:
    """a · b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.mul(a, b)


def div(a: Tensor | float, b: Tensor | float) -> Tensor:
    """a / b; a division of integers gives float32.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    Note: Division by zero gives inf or NaN, without a warning.
    """
    return _C.div(a, b)


def pow(a: Tensor | float, b: Tensor | float) -> Tensor:
    """aᵇ; integers give float32.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    Note: The gradient for b is 0 where a = 0.
    """
    return _C.pow(a, b)


def maximum(a: Tensor | float, b: Tensor | float) -> Tensor:
    """The larger of a and b; NaN where either is NaN.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    Note: Where a = b, each gets half of the gradient.
    """
    return _C.maximum(a, b)


def minimum(a: Tensor | float, b: Tensor | float) -> Tensor:
    """The smaller of a and b; NaN where either is NaN.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: Tensor of the broadcast shape and the wider dtype.
    Raises: ValueError if the shapes do not broadcast.
    Note: Where a = b, each gets half of the gradient.
    """
    return _C.minimum(a, b)


def eq(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a = b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, only ``ne`` is true.
    """
    return _C.eq(a, b)


def ne(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a ≠ b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, this is true.
    """
    return _C.ne(a, b)


def lt(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a < b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, only ``ne`` is true.
    """
    return _C.lt(a, b)


def le(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a ≤ b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, only ``ne`` is true.
    """
    return _C.le(a, b)


def gt(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a > b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, only ``ne`` is true.
    """
    return _C.gt(a, b)


def ge(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a ≥ b.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    Note: With NaN, only ``ne`` is true.
    """
    return _C.ge(a, b)


def logical_and(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where both a and b are not 0.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.logical_and(a, b)


def logical_or(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where a or b is not 0.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.logical_or(a, b)


def logical_xor(a: Tensor | float, b: Tensor | float) -> Tensor:
    """True where exactly one of a and b is not 0.

    Args: a, b: tensors of shapes that broadcast, any dtype; one may be a number, in the other's dtype.
    Returns: bool Tensor of the broadcast shape.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.logical_xor(a, b)


def where(condition: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    """a where ``condition`` is not 0, else b.

    Args:
        condition: any dtype, mostly bool.
        a, b: tensors of shapes that broadcast with it, any dtype; one of them may be a number.
    Returns: Tensor of the broadcast shape and the wider dtype of a and b.
    Raises: ValueError if the shapes do not broadcast.
    """
    return _C.where(condition, a, b)


def cast(x: Tensor, *, dtype: Any = _C.float32) -> Tensor:
    """x in another dtype.

    Args: x: any shape and dtype. dtype: a Lamina or NumPy dtype, or its name.
    Returns: Tensor of the same shape; always a copy.
    Note: To a floating dtype, to nearest even; to an integer, towards zero; to bool, x ≠ 0.

    >>> F.cast(lamina.tensor([0.5, -1.5]), dtype="int32").tolist()
    [0, -1]
    """
    return _C.cast(x, dtype)


# --- reductions ---------------------------------------------------------------------------------------------


def sum(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """Σ x over the axes ``dim``.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor of the dtype of x, int64 for integers and bool.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: Adds up pairwise in float32 at least, in the same order for any number of threads.

    >>> F.sum(lamina.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0)
    tensor([4., 6.])
    """
    return _C.sum(x, dim, keepdim)


def mean(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """The mean of x over the axes ``dim``.

    Args:
        x: any shape, any floating dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor without the axes ``dim``, or with extent 1 there if ``keepdim``.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: Adds up as ``sum`` does; NaN for no elements.
    """
    return _C.mean(x, dim, keepdim)


def prod(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """∏ x over the axes ``dim``.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor of the dtype of x, int64 for integers and bool.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: The gradient is right for zeros too.
    """
    return _C.prod(x, dim, keepdim)


def max(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """The largest element along the axes ``dim``; NaN if there is one.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor without the axes ``dim``, or with extent 1 there if ``keepdim``.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: Along one axis the gradient goes to the first largest element, as in PyTorch's ``max(dim)``; over
        several axes, or all, the largest elements share it equally, as in ``amax``.
    """
    return _C.max(x, dim, keepdim)


def min(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """The smallest element along the axes ``dim``; NaN if there is one.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor without the axes ``dim``, or with extent 1 there if ``keepdim``.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: Along one axis the gradient goes to the first smallest element, as in PyTorch's ``min(dim)``; over
        several axes, or all, the smallest elements share it equally, as in ``amin``.
    """
    return _C.min(x, dim, keepdim)


def any(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """True where some element along ``dim`` is not 0.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: bool Tensor.
    Raises: ValueError for an axis that x does not have, or named twice.
    """
    return _C.any(x, dim, keepdim)


def all(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """True where no element along ``dim`` is 0.

    Args:
        x: any shape, any dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: bool Tensor.
    Raises: ValueError for an axis that x does not have, or named twice.
    """
    return _C.all(x, dim, keepdim)


def var(x: Tensor, *, dim: int | tuple[int, ...] | None = None, correction: int = 1, keepdim: bool = False) -> Tensor:
    """Σ (x − mean)² / (n − ``correction``) over the n elements along ``dim``.

    Args:
        x: any shape, any floating dtype.
        dim: axis or axes to reduce; None for all.
        correction: 1 for the unbiased estimate from a sample, 0 for the variance of x itself.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor without the axes ``dim``, or with extent 1 there if ``keepdim``.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: Two passes: mean, then squares of deviations.
    """
    return _C.var(x, dim, correction, keepdim)


def norm(x: Tensor, *, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Tensor:
    """√Σ x², the Euclidean norm over the axes ``dim``.

    Args:
        x: any shape, any floating dtype.
        dim: axis or axes to reduce; None for all.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: Tensor without the axes ``dim``, or with extent 1 there if ``keepdim``.
    Raises: ValueError for an axis that x does not have, or named twice.
    Note: The gradient where the norm is 0 is 0.
    """
    return _C.norm(x, dim, keepdim)


def argmax(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first largest element along ``dim``; of the first NaN, if there is one.

    Args:
        x: any shape and dtype.
        dim: the axis; None for the index into the flattened x.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: int64 Tensor.
    Raises: ValueError for an axis that x does not have, or without elements.
    """
    return _C.argmax(x, dim, keepdim)


def argmin(x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The index of the first smallest element along ``dim``; of the first NaN, if there is one.

    Args:
        x: any shape and dtype.
        dim: the axis; None for the index into the flattened x.
        keepdim: True keeps the reduced axes, with extent 1.
    Returns: int64 Tensor.
    Raises: ValueError for an axis that x does not have, or without elements.
    """
    return _C.argmin(x, dim, keepdim)


def cumsum(x: Tensor, *, dim: int = 0, reverse: bool = False) -> Tensor:
    """Running sums along ``dim``: y[i] = x[0] + … + x[i].

    Args:
        x: at least one axis, any dtype.
        dim: the axis.
        reverse: True sums from the end, y[i] = x[i] + … + x[n − 1].
    Returns: Tensor of the same shape; of the dtype of x, int64 for integers and bool.
    Raises: ValueError for an axis that x does not have.
    Note: Adds up in float64.
    """
    return _C.cumsum(x, dim, reverse)


def sum_to(x: Tensor, *, shape: tuple[int, ...] = ()) -> Tensor:
    """Sums over the axes along which ``shape`` broadcasts to that of x: the adjoint of broadcasting.

    Args: x: any shape and dtype. shape: a shape that broadcasts to that of x.
    Returns: Tensor of ``shape``; of the dtype of x, int64 for integers and bool.
    Raises: ValueError if ``shape`` does not broadcast to that of x.
    """
    return _C.sum_to(x, shape)


# --- convolution -------------------------------------------------------------------------------------------------

IntOrPair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[int, int, int, int]


def _pair(value: IntOrPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _borders(padding: Padding) -> Padding:
    """Padding as the records take it: one integer, or (top, bottom, left, right)."""
    if isinstance(padding, int) or len(padding) != 2:
        return padding
    rows, columns = padding
    return rows, rows, columns, columns


def _named_padding(name: str, weight: Tensor, stride: IntOrPair, dilation: IntOrPair) -> Padding:
    if name == "valid":
        return 0
    if name != "same":
        raise ValueError(f"conv2d: padding is {name!r}; expected 'same', 'valid' or integers")
    if _pair(stride) != (1, 1):
        raise ValueError(f"conv2d: padding is 'same' but stride is {stride}; expected stride 1")
    borders: list[int] = []
    for extent, step in zip(weight.shape[2:], _pair(dilation), strict=True):
        total = step * (extent - 1)
        borders += [total // 2, total - total // 2]
    top, bottom, left, right = borders
    return top, bottom, left, right


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding | str = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """2-d convolution (cross-correlation) of zero-padded x with R×S filters.

    y[n, o, p, q] = bias[o] + Σ_{c, r, s} x[n, gC/G + c, p·sh + r·dh - top, q·sw + s·dw - left] · weight[o, c, r, s],
    where output channel o is in group g = o div (O/G).

    Args:
        x: (N, C, H, W) input. channels-last memory is read as it is; other layouts are copied once.
        weight: (O, C/G, R, S) filters.
        bias: (O,) or None.
        stride: (sh, sw), or one integer for both.
        padding: rows and columns of zeros around x: an integer, (rows, columns), (top, bottom, left, right), "valid"
            (none) or "same" (as many as make y as large as x, the odd one at the bottom and right; stride 1 only).
        dilation: (dh, dw) distance of the filter's elements, in pixels of x.
        groups: G; channels of x and y fall into G groups that do not see each other.
    Returns: (N, O, P, Q) in channels-last memory, P = (H + top + bottom - dh (R - 1) - 1) div sh + 1, Q alike.
    Raises:
        ValueError: shapes that do not fit, groups that do not divide the channels, a kernel larger than the padded
            input, "same" with a stride.
        TypeError: operands that are not all float32, all bfloat16 or all float64.
    Note: accumulates in float32 (float64 for float64) and rounds once; same bits for any number of threads. Keeps x and
        weight for backward.
    Source: agrees with torch.nn.functional.conv2d, which has no four-sided padding.
    Example:
        >>> x, w = lamina.ones((1, 3, 8, 8)), lamina.ones((16, 3, 3, 3))
        >>> F.conv2d(x, w, padding="same").shape
        (1, 16, 8, 8)
    """
    borders = _named_padding(padding, weight, stride, dilation) if isinstance(padding, str) else _borders(padding)
    return _C.conv2d(x, weight, bias, stride, borders, dilation, groups)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: IntOrPair = 1,
    padding: Padding = 0,
    output_padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    groups: int = 1,
) -> Tensor:
    """Transposed 2-d convolution: the gradient of a convolution with these attributes to its input.

    Every x[n, c, p, q] · weight[c, o, r, s] is added to y[n, gO/G + o, p·sh + r·dh - top, q·sw + s·dw - left], for the
    group g = c div (C/G); what falls outside y is dropped. y starts at bias[o].

    Args:
        x: (N, C, H, W) input.
        weight: (C, O/G, R, S) filters, input channels first.
        bias: (O,) or None.
        stride: (sh, sw) distance in y of neighbours in x, or one integer.
        padding: rows and columns cut off y: an integer, (rows, columns) or (top, bottom, left, right).
        output_padding: rows and columns added to y at the bottom and right, fewer than stride or dilation.
        dilation: (dh, dw) distance of the filter's elements, in pixels of y.
        groups: G.
    Returns: (N, O, P, Q) in channels-last memory, P = (H - 1) sh - top - bottom + dh (R - 1) + output_padding + 1.
    Raises:
        ValueError: shapes that do not fit, output_padding too large, a result without pixels.
        TypeError: operands that are not all float32, all bfloat16 or all float64.
    Note: accumulates in float32 (float64 for float64) and rounds once. No product with a stuffed zero is computed.
        Keeps x and weight for backward.
    Source: agrees with torch.nn.functional.conv_transpose2d.
    Example:
        >>> x, w = lamina.ones((1, 16, 4, 4)), lamina.ones((16, 3, 2, 2))
        >>> F.conv_transpose2d(x, w, stride=2).shape
        (1, 3, 8, 8)
    """
    return _C.conv_transpose2d(x, weight, bias, stride, _borders(padding), output_padding, dilation, groups)
    return _C.conv_transpose2d(x, weight, bias, stride, _borders(padding), output_padding, dilation, groups)


# --- pooling ------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Tensor,
    *,
    kernel_size: IntOrPair = 2,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """y[n, c, p, q] = max over (r, s) of x[n, c, p·sh + r·dh - ph, q·sw + s·dw - pw].

    Args:
        x: (N, C, H, W); float32, bfloat16 or float64.
        kernel_size: (R, S) extents of the window, or one integer for both.
        stride: (sh, sw) steps of the window; None: kernel_size, so that windows tile x.
        padding: (ph, pw) rows and columns of -inf on each side, at most half of a window.
        dilation: (dh, dw) distance of a window's elements.
        ceil_mode: also keep last windows that overhang, if they start inside x or its first padding.
        return_indices: also give where the maxima were.
    Returns: (N, C, P, Q), P = (H + 2 ph - dh (R - 1) - 1) div sh + 1 (rounded up for ceil_mode), Q alike, in the
        layout of x; with return_indices also int64 of the same shape, h·W + w of each maximum within its plane.
    Raises:
        ValueError: a shape that is not (N, C, H, W), windows larger than padded x, padding of more than half a window.
        TypeError: other dtypes.
    Note: of equal elements the first in row-major order wins (where 0 and −0 are equal, y may be the other zero); NaN
        wins over everything. For backward, where a tape is open, one byte per element of y is kept (four where
        R·S > 256), and neither x nor y.
    Source: agrees with torch.nn.functional.max_pool2d.
    Example:
        >>> F.max_pool2d(lamina.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), kernel_size=2)
        tensor([[[[4.]]]])
    """
    y, _, indices = _C.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    return (y, indices) if return_indices else y


def avg_pool2d(
    x: Tensor,
    *,
    kernel_size: IntOrPair = 2,
    stride: IntOrPair | None = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """y[n, c, p, q] = Σ over (r, s) of x[n, c, p·sh + r - ph, q·sw + s - pw], divided by the number of terms.

    Args:
        x: (N, C, H, W); float32, bfloat16 or float64.
        kernel_size: (R, S) extents of the window, or one integer for both.
        stride: (sh, sw) steps of the window; None: kernel_size, so that windows tile x.
        padding: (ph, pw) rows and columns of zeros on each side, at most half of a window.
        ceil_mode: also keep last windows that overhang, if they start inside x or its first padding.
        count_include_pad: whether padding counts as terms; what overhangs it never does.
        divisor_override: divide by this number instead.
    Returns: (N, C, P, Q), P = (H + 2 ph - R) div sh + 1 (rounded up for ceil_mode), Q alike, in the layout of x.
    Raises:
        ValueError: a shape that is not (N, C, H, W), windows larger than padded x, padding of more than half a window,
            divisor_override 0.
        TypeError: other dtypes.
    Note: sums in float32 (float64 for float64), columns first, and divides once. Backward keeps nothing.
    Source: agrees with torch.nn.functional.avg_pool2d.
    Example:
        >>> F.avg_pool2d(lamina.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), kernel_size=2)
        tensor([[[[2.5]]]])
    """
    return _C.avg_pool2d(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _grid(x: Tensor, size: int | tuple[int | None, int | None]) -> tuple[int, ...] | int:
    """An output size with the extents of x in the place of None."""
    if isinstance(size, int):
        return size
    kept = (*x.shape[2:], 1, 1)  # the op refuses an x with fewer axes
    return tuple(extent if n is None else n for n, extent in zip(size, kept, strict=False))


def adaptive_avg_pool2d(x: Tensor, *, output_size: int | tuple[int | None, int | None] = 1) -> Tensor:
    """Averages over a grid of P×Q bins that cover the plane.

    y[n, c, p, q] is the mean of rows p·H div P to ⌈(p + 1)·H / P⌉ - 1 and columns alike. Bins of unequal length
    overlap.

    Args:
        x: (N, C, H, W); float32, bfloat16 or float64.
        output_size: (P, Q), or one integer for both; None in it keeps the extent of x. 1 is the global average.
    Returns: (N, C, P, Q) in the layout of x.
    Raises:
        ValueError: a shape that is not (N, C, H, W), an output size below 1.
        TypeError: other dtypes.
    Note: sums in float32 (float64 for float64) and divides once. Backward keeps nothing.
    Source: agrees with torch.nn.functional.adaptive_avg_pool2d.
    Example:
        >>> F.adaptive_avg_pool2d(lamina.tensor([[[[1.0, 2.0], [4.0, 3.0]]]]), output_size=1)
        tensor([[[[2.5]]]])
    """
    return _C.adaptive_avg_pool2d(x, _grid(x, output_size))


def adaptive_max_pool2d(
    x: Tensor, *, output_size: int | tuple[int | None, int | None] = 1, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """Maxima over a grid of P×Q bins that cover the plane, the bins of adaptive_avg_pool2d.

    Args:
        x: (N, C, H, W); float32, bfloat16 or float64.
        output_size: (P, Q), or one integer for both; None in it keeps the extent of x. 1 is the global maximum.
        return_indices: also give where the maxima were.
    Returns: (N, C, P, Q) in the layout of x; with return_indices also int64 of the same shape, h·W + w of each maximum
        within its plane.
    Raises:
        ValueError: a shape that is not (N, C, H, W), an output size below 1.
        TypeError: other dtypes.
    Note: ties, NaN and what is kept for backward as for max_pool2d.
    Source: agrees with torch.nn.functional.adaptive_max_pool2d.
    """
    y, _, indices = _C.adaptive_max_pool2d(x, _grid(x, output_size), return_indices)
    return (y, indices) if return_indices else y


# --- normalisation ------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    num_batches_tracked: Tensor | None = None,
    *,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias, mean and variance per channel.

    Training takes them over the batch and moves the running ones, in place: running = (1 - momentum) · running +
    momentum · batch, with the unbiased variance. Evaluation takes the running ones.

    Args:
        x: (N, C), (N, C, L) or (N, C, H, W); float32, bfloat16 or float64.
        running_mean: (C,), written in training, or None (training only).
        running_var: (C,) like running_mean.
        weight: (C,) or None for ones.
        bias: (C,) or None for zeros.
        num_batches_tracked: int64 of one element, incremented in training, or None.
        training: whether to take the statistics of the batch.
        momentum: weight of the batch in the running statistics; None: 1 / num_batches_tracked, their plain average.
        eps: added to the variance.
    Returns: Tensor of the shape of x; channels-last where x is.
    Raises:
        ValueError: vectors that are not (C,), training on one value per channel, evaluation without running
            statistics, momentum None without num_batches_tracked.
        TypeError: other dtypes; vectors must have that of x or float32.
    Note: moments of 4096 elements (64 rows or more of channels-last memory) in float32, merged in float64 in an order
        that depends on the shape only; no square of a value that was not centred first. Backward keeps x, mean and
        1 / √(var + eps).
    Source: Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167; agrees with torch.nn.functional.batch_norm.
    Example:
        >>> F.batch_norm(lamina.tensor([[-1.0], [1.0]]), training=True, eps=0.0)
        tensor([[-1.],
                [ 1.]])
    """
    inputs = x, running_mean, running_var, weight, bias, num_batches_tracked
    return _C.batch_norm(*inputs, training, momentum, eps)[0]


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    normalized_shape: int | Sequence[int] = (),
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias, mean and biased variance over the last axes.

    Args:
        x: (..., *normalized_shape); float32, bfloat16 or float64, on GPUs also float16.
        weight: normalized_shape, of the dtype of x or that of its statistics, or None for ones.
        bias: like weight, or None for zeros.
        normalized_shape: the last extents of x, at least one; an integer stands for one.
        eps: added to the variance.

    Returns: Tensor of the shape and dtype of x, rows in its order in memory.
    Raises: ValueError for shapes, TypeError for dtypes.
    Note: statistics are float32, float64 for float64; no square of x itself is summed, so that a mean far from 0 costs
        no digits. Deterministic. Keeps x, weight and the statistics for backward.
    Source: Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450; agrees with torch.nn.functional.layer_norm.
    Example:
        >>> F.layer_norm(lamina.tensor([[1.0, 3.0]]), normalized_shape=2, eps=0.0)
        tensor([[-1.,  1.]])
    """
    return _C.layer_norm(x, weight, bias, normalized_shape, eps)[0]


def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    *,
    normalized_shape: int | Sequence[int] = (),
    eps: float | None = None,
) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight, the mean over the last axes.

    Args:
        x: (..., *normalized_shape); float32, bfloat16 or float64, on GPUs also float16.
        weight: normalized_shape, of the dtype of x or that of its statistics, or None for ones.
        normalized_shape: the last extents of x, at least one; an integer stands for one.
        eps: added to the mean of squares; None: the distance from 1 to the next number of the statistics' dtype.

    Returns: Tensor of the shape and dtype of x, rows in its order in memory.
    Raises: ValueError for shapes, TypeError for dtypes.
    Note: statistics are float32, float64 for float64. Deterministic. Keeps x, weight and 1 / √ for backward.
    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467; agrees with torch.nn.functional.rms_norm.
    Example:
        >>> F.rms_norm(lamina.tensor([[1.0, -7.0]]), normalized_shape=2)
        tensor([[ 0.2, -1.4]])
    """
    return _C.rms_norm(x, weight, normalized_shape, eps)[0]


def group_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_groups: int = 1,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean) / √(var + eps) · weight + bias, mean and biased variance per sample and group of channels.

    Args:
        x: (N, C, ...); float32, bfloat16 or float64, on GPUs also float16. Images may be channels-last.
        weight: (C,), of the dtype of x or that of its statistics, or None for ones.
        bias: like weight, or None for zeros.
        num_groups: G, a divisor of C; group g has the channels from g C / G on. C: instance normalisation.
        eps: added to the variance.

    Returns: Tensor of the shape and dtype of x, channels-last where x is.
    Raises: ValueError for shapes or a number of groups that does not divide C, TypeError for dtypes.
    Note: as layer_norm.
    Source: Wu and He 2018, https://arxiv.org/abs/1803.08494; agrees with torch.nn.functional.group_norm.
    Example:
        >>> F.group_norm(lamina.tensor([[1.0, 3.0, 5.0, 5.0]]), num_groups=2, eps=0.0625)[0, :2]
        tensor([-0.9701,  0.9701])
    """
    return _C.group_norm(x, weight, bias, num_groups, eps)[0]


# --- softmax ------------------------------------------------------------------------------------------------


def softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """y = exp(x − max x) / Σ exp(x − max x) along ``dim``.

    Args:
        x: any shape; float32, bfloat16 or float64.
        dim: axis of the sum.

    Returns: Tensor of the shape of ``x``; channels-last where ``x`` is and ``dim`` is 1.

    Raises: ValueError for an axis that x does not have; TypeError for other dtypes.

    Note: sums in float32 (float64 for float64), in an order that depends on the shape only. Backward keeps y.
    A row of nothing but −inf is NaN.

    Source: online form of long rows: https://arxiv.org/abs/1805.02867

    >>> F.softmax(lamina.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    return _C.softmax(x, dim)


def log_softmax(x: Tensor, *, dim: int = -1) -> Tensor:
    """y = (x − max x) − log Σ exp(x − max x) along ``dim``.

    Args:
        x: any shape; float32, bfloat16 or float64.
        dim: axis of the sum.

    Returns: Tensor of the shape of ``x``; channels-last where ``x`` is and ``dim`` is 1.

    Raises: ValueError for an axis that x does not have; TypeError for other dtypes.

    Note: as for ``softmax``; to train on its result, ``cross_entropy`` needs a third of the memory traffic.
    """
    return _C.log_softmax(x, dim)


# --- attention ----------------------------------------------------------------------------------------------


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    state: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """y = dropout(softmax(scale query keyᵀ + mask)) value, without the matrix of scores in memory.

    Args:
        query: (..., L, E); float32, bfloat16 or float64.
        key: (..., S, E); value: (..., S, V). Leading axes broadcast.
        attn_mask: broadcasts to (..., L, S). Of bool: True where a key takes part; else it is added to the scores, in
            the dtype of ``query`` or, for the short ones, float32.
        state: of a generator, read where ``dropout_p`` > 0; by default of ``lamina.random.default_generator``.
        dropout_p: probability with which a weight is 0; others are divided by 1 - ``dropout_p``.
        is_causal: query i does not see the keys j > i, whatever L and S are.
        scale: by default 1/√E.
        enable_gqa: axis -3 is of heads, and each of key and value serves several neighbouring ones of query, whose
            number theirs divides.

    Returns: (..., L, V), its axes in memory in the order of those of ``query``. A query that sees no key gives zeros.
    Raises: ValueError for shapes that do not fit, TypeError unless query, key and value have one dtype.
    Note: sums are float32 (float64 for float64), and the same for any number of threads. For backward a number is kept
        for each query; weights are computed, and dropout is drawn, again.
    Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762; Dao 2023, https://arxiv.org/abs/2307.08691;
        https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html
    """
    if dropout_p > 0 and state is None:
        state = random.state_of(None, getattr(query, "device", "cpu"))
    return _C.scaled_dot_product_attention(
        query, key, value, attn_mask, state, dropout_p, is_causal, scale, enable_gqa
    )[0]


# --- losses -------------------------------------------------------------------------------------------------


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """−(1 − ε) w[t] log p[t] − ε/C Σ_c w[c] log p[c], where p = softmax(x) over the classes and t = target.

    For probabilities q as target: −Σ_c w[c] q'[c] log p[c] with q' = (1 − ε) q + ε/C.

    Args:
        x: (N, C), (N, C, d1, ...) or (C,) logits; float32, bfloat16 or float64.
        target: class indices, int64 or int32, of the shape of ``x`` without C; or probabilities of the shape
            and dtype of ``x``.
        weight: (C,) weight w of each class, in the dtype of ``x``.
        ignore_index: a label that costs nothing and counts nothing.
        label_smoothing: ε in [0, 1].
        reduction: "none", "sum", or "mean": the sum over Σ w[t] of the labels not ignored (over N d1 ... for
            probabilities); NaN if there are none.

    Returns: Tensor of no axes, or of the shape of the labels for "none"; in the dtype of ``x``.

    Raises: ValueError for shapes, a label outside [0, C), label_smoothing or reduction; TypeError for dtypes.
        In a replayed program a bad label gives NaN.

    Note: log p is never stored: backward computes it again from two numbers per position and gives the
        gradient in one pass. Logits and probabilities have gradients, weights have none.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html

    >>> F.cross_entropy(lamina.tensor([[0.0, 0.0], [0.0, 0.0]]), lamina.tensor([0, 1]))
    tensor(0.6931)
    """
    return _C.cross_entropy(x, target, weight, ignore_index, label_smoothing, reduction)[0]


def nll_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """−w[t] x[t]: the negative log likelihood of labels t under given log-probabilities x.

    Args:
        x: (N, C), (N, C, d1, ...) or (C,) log-probabilities; float32, bfloat16 or float64.
        target: class indices, int64 or int32, of the shape of ``x`` without C.
        weight: (C,) weight w of each class, in the dtype of ``x``.
        ignore_index: a label that costs nothing and counts nothing.
        reduction: "none", "sum", or "mean": the sum over Σ w[t] of the labels not ignored.

    Returns: Tensor of no axes, or of the shape of ``target`` for "none"; in the dtype of ``x``.

    Raises: ValueError for shapes, a label outside [0, C) or reduction; TypeError for dtypes.

    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.nll_loss.html
    """
    return _C.nll_loss(x, target, weight, ignore_index, reduction)[0]


def mse_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """(x − target)².

    Args:
        x: any shape; float32, bfloat16 or float64.
        target: of the shape and dtype of ``x``: shapes are not broadcast, which in a loss is mostly a
            mistake.
        reduction: "none", "sum", or "mean" over all elements.

    Returns: Tensor of no axes, or of the shape of ``x`` for "none".

    Raises: ValueError for unequal shapes or reduction; TypeError for dtypes.

    >>> F.mse_loss(lamina.tensor([1.0, 2.0]), lamina.tensor([1.0, 4.0]))
    tensor(2.)
    """
    return _C.mse_loss(x, target, reduction)


def l1_loss(x: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """|x − target|.

    Args:
        x: any shape; float32, bfloat16 or float64.
        target: of the shape and dtype of ``x``.
        reduction: "none", "sum", or "mean" over all elements.

    Returns: Tensor of no axes, or of the shape of ``x`` for "none".

    Raises: ValueError for unequal shapes or reduction; TypeError for dtypes.

    Note: the derivative where x = target is 0.
    """
    return _C.l1_loss(x, target, reduction)


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """−w (u t log σ(x) + (1 − t) log(1 − σ(x))), with t = target and σ the sigmoid; it never overflows.

    Args:
        x: any shape; float32, bfloat16 or float64.
        target: of the shape and dtype of ``x``, values in [0, 1].
        weight: w, of a shape that broadcasts to that of ``x``, in its dtype.
        pos_weight: u, of a shape that broadcasts to that of ``x``, in its dtype; above 1 it favours recall.
        reduction: "none", "sum", or "mean" over all elements.

    Returns: Tensor of no axes, or of the shape of ``x`` for "none".

    Raises: ValueError for shapes or reduction; TypeError for dtypes.

    Note: x and target have gradients, the weights have none.

    >>> F.binary_cross_entropy_with_logits(lamina.tensor([0.0]), lamina.tensor([1.0]))
    tensor(0.6931)
    """
    return _C.binary_cross_entropy_with_logits(x, target, weight, pos_weight, reduction)


# --- gradient norms ------------------------------------------------------------------------------------------


def clip_factor(grads: Sequence[Tensor], *, max_norm: float = 1.0, norm_type: float = 2.0) -> tuple[Tensor, Tensor]:
    """The norm of all elements of all gradients together, and min(1, max_norm / (norm + 1e-6)).

    Given to an optimiser as ``step(scale=factor)``, clipping costs no pass over memory of its own.

    Args:
        grads: any number of tensors; float32, bfloat16 or float64.
        max_norm: largest norm that is left as it is.
        norm_type: 1, 2 or inf.

    Returns: the norm and the factor, each of no axes; float32 (float64 if a gradient is).

    Raises: ValueError for norm_type; TypeError for dtypes.

    Note: summed in float32 within 16384 elements and in float64 beyond, in an order that depends on shapes only.

    >>> F.clip_factor([lamina.tensor([3.0]), lamina.tensor([4.0])], max_norm=1.0)
    (tensor(5.), tensor(0.2))
    """
    return _C.clip_factor(grads, max_norm, norm_type)


# --- recurrent layers -------------------------------------------------------------------------------------


def lstm_cell(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: c' = f c + i g and h' = o tanh(c').

    The gates are i, f, o = σ(a_i), σ(a_f), σ(a_o) and g = tanh(a_g), where a = W_ih x + b_ih + W_hh h + b_hh
    holds the four of H units in the order i, f, g, o.

    Args:
        x: (B, I) input.
        h, c: (B, H) hidden state and cell.
        weight_ih, weight_hh: (4H, I) and (4H, H).
        bias_ih, bias_hh: (4H,), or None.
    Returns: (h', c'), both (B, H).
    Raises: ValueError where shapes do not fit; TypeError where dtypes differ, or are not float32, bfloat16 or
        float64.
    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 for f; agrees with ``torch.nn.LSTMCell``.
    """
    return _C.lstm_cell(x, h, c, weight_ih, weight_hh, bias_ih, bias_hh)[:2]


def lstm_layer(
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
    weight_ih_reverse: Tensor | None = None,
    weight_hh_reverse: Tensor | None = None,
    bias_ih_reverse: Tensor | None = None,
    bias_hh_reverse: Tensor | None = None,
    *,
    batch_first: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer over whole sequences: h[t], c[t] = lstm_cell(x[t], h[t-1], c[t-1]) and y[t] = h[t].

    With D directions (2 if the arrays of the reverse direction are given, else 1), y holds the H features of the
    forward direction and then those of the reverse one, which runs each sequence from its last step to its first.

    Args:
        x: (T, B, I) input, or (B, T, I) with ``batch_first``.
        weight_ih, weight_hh, bias_ih, bias_hh: as in ``lstm_cell``.
        h0, c0: (D, B, H) states before the first step; None: zeros.
        lengths: (B,) int64, the steps of each sequence, from 1 to T. A sequence stops after its last step: y
            is 0 beyond, no gradient comes from there, and no time is spent there. None: all have T.
        weight_ih_reverse, weight_hh_reverse, bias_ih_reverse, bias_hh_reverse: of the reverse direction.
        batch_first: whether x and y are (B, T, …).
    Returns: y (T, B, D·H) or (B, T, D·H); h_n and c_n (D, B, H), the states after the last step of each sequence.
    Raises: ValueError where shapes or lengths do not fit; TypeError as ``lstm_cell``, or where lengths are not
        int64.
    Note: bfloat16 keeps states in float32 and rounds what it returns. Inside ``lamina.record`` lengths cannot
        be read: there they are taken as min(max(length, 0), T).
    Source: agrees with ``torch.nn.LSTM``, and with its packed sequences where lengths are given.
    """
    if lengths is not None and not _C.is_recording():
        _check_lengths(np.asarray(lengths.tolist(), np.int64), x.shape[1 if batch_first else 0])
    return _C.lstm_layer(
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        h0,
        c0,
        lengths,
        weight_ih_reverse,
        weight_hh_reverse,
        bias_ih_reverse,
        bias_hh_reverse,
        batch_first,
    )[:3]


def _check_lengths(lengths: np.ndarray, steps: int) -> None:
    if lengths.size and not 1 <= lengths.min() <= lengths.max() <= steps:
        raise ValueError(
            f"lstm_layer: lengths go from {lengths.min()} to {lengths.max()}; expected 1 to the {steps} steps of x"
        )


def _dropped(x: Tensor, p: float) -> Tensor:
    return dropout(x, p=p)


def lstm(
    x: Tensor,
    weights: Sequence[Tensor],
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """LSTM layers, each on the output of the one before: y = layer_L(… layer_1(x)).

    Args:
        x: (T, B, I) input, or (B, T, I) with ``batch_first``.
        weights: for each layer, and in it for each of D directions: weight_ih, weight_hh, and, or not, bias_ih,
            bias_hh. The layers above the first take D·H features.
        h0, c0: (L·D, B, H), or None; ``lengths``: (B,) int64, or None; both as in ``lstm_layer``.
        num_layers: L.
        bidirectional: whether D is 2.
        batch_first: whether x and y are (B, T, …).
        dropout: probability with which outputs of layers below the last are zeroed; give 0 outside training.
    Returns: y (T, B, D·H) or (B, T, D·H); h_n and c_n (L·D, B, H).
    Raises: ValueError for a wrong number of weights, and as ``lstm_layer``.
    Source: agrees with ``torch.nn.LSTM``.
    """
    directions = 2 if bidirectional else 1
    groups = num_layers * directions
    per_group = len(weights) // groups if groups > 0 else 0
    if per_group not in (2, 4) or per_group * groups != len(weights):
        raise ValueError(
            f"lstm: {len(weights)} weights for {num_layers} layers of {directions} directions; expected 2 per "
            "direction, or 4 with biases"
        )
    for name, state in (("h0", h0), ("c0", c0)):
        if state is not None and (state.ndim != 3 or state.shape[0] != groups):
            raise ValueError(f"lstm: {name} is {tuple(state.shape)}; expected ({groups}, B, H)")
    states: list[tuple[Tensor, Tensor]] = []
    y = x
    for layer in range(num_layers):
        first = layer * directions
        forward, *reverse = (
            [*weights[i * per_group : (i + 1) * per_group], None, None][:4] for i in range(first, first + directions)
        )
        if layer and dropout:
            y = _dropped(y, dropout)
        operands: list[Any] = [
            *forward,
            h0 if h0 is None or num_layers == 1 else h0[first : first + directions],
            c0 if c0 is None or num_layers == 1 else c0[first : first + directions],
            lengths,
            *(reverse[0] if reverse else []),
        ]
        y, *last = lstm_layer(y, *operands, batch_first=batch_first)
        states.append((last[0], last[1]))
    if num_layers == 1:
        return (y, *states[0])
    h_n, c_n = (concat(list(of_layers)) for of_layers in zip(*states, strict=True))
    return y, h_n, c_n


# --- matrix products ---------------------------------------------------------------------------------------------


def matmul(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """y[..., m, n] = Σₖ a[..., m, k] b[..., k, n], the operator ``a @ b``.

    Args:
        a: (..., M, K), or (K,) for a row without its axis.
        b: (..., K, N), or (K,) for a column without its axis. Batch axes broadcast.
        transpose_a: a is (..., K, M).
        transpose_b: b is (..., N, K).
    Returns: (..., M, N), without the axis of a one-dimensional operand.
    Raises:
        ValueError: the summed or the batch axes do not fit.
        TypeError: the dtypes differ, or are not float32, bfloat16 or float64.
    Note: summed in float32 (float64 for float64) in an order given by shapes and strides alone. Transposed and
        broadcast operands are read where they lie. Both operands are kept for the backward pass.
    Source: the rules of ``numpy.matmul``.
    Example:
        >>> import lamina, numpy as np
        >>> a = lamina.from_numpy(np.ones((2, 3), np.float32))
        >>> matmul(a, a, transpose_b=True).shape
        (2, 2)
    """
    return _C.matmul(a, b, transpose_a, transpose_b)


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> Tensor:
    """y = alpha · a b + beta · c.

    Args:
        a: (..., M, K).
        b: (..., K, N). Batch axes broadcast.
        c: any shape that broadcasts to (..., M, N); absent: zero.
        alpha, beta: factors of the product and of c.
        transpose_a: a is (..., K, M).
        transpose_b: b is (..., N, K).
    Returns: (..., M, N).
    Raises:
        ValueError: the summed or the batch axes do not fit, c does not broadcast, or an operand has one axis.
        TypeError: the dtypes differ, or are not float32, bfloat16 or float64.
    Note: as for ``matmul``; c is added before the result is rounded. a and b are kept for the backward pass.
    Source: BLAS ``xGEMM``; ``torch.addmm(c, a, b)``.
    """
    return _C.gemm(a, b, c, alpha, beta, transpose_a, transpose_b)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str = "none",
) -> Tensor:
    """y = act(x Wᵀ + bias) + residual, in one pass over y.

    Args:
        x: (..., K), K input features.
        weight: (N, K), N output features.
        bias: (N,).
        residual: (..., N), added after the activation.
        activation: "none", "relu", "gelu" (with erf), "silu", "sigmoid" or "tanh".
    Returns: (..., N).
    Raises:
        ValueError: a shape does not fit, or the activation is unknown.
        TypeError: the dtypes differ, or are not float32, bfloat16 or float64.
    Note: summed in float32 (float64 for float64) and rounded once, after the residual. Kept for the backward pass: x,
        weight, y, and for gelu, silu, and activations with a residual also x Wᵀ + bias.
    """
    return _C.linear(x, weight, bias, residual, activation)[0]
