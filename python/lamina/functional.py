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
