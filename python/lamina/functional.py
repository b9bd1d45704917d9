"""Every op as a function: inputs positional, attributes by keyword.

Each function is the record of the op (``csrc/ops/``) with a signature and a docstring. Shape letters: N batch,
C channels, H height, W width, O output channels, R×S kernel extents, T time, B batch of a sequence, I input features,
K summed extent, M×N result of a product.
"""

from __future__ import annotations

from lamina import _C
from lamina._C import Tensor

# --- copies ------------------------------------------------------------------------------------------------------


def clone(x: Tensor) -> Tensor:
    """A copy of ``x`` in memory of its own, its axes in the same order in memory.

    Args: x: any shape and dtype.
    Returns: Tensor of the same shape and dtype, without gaps.
    """
    return _C.clone(x)


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
    return _C.conv_transpose2d(
        x, weight, bias, stride, _borders(padding), output_padding, dilation, groups
    )
