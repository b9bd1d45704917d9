"""Pooling layers."""

from __future__ import annotations

from typing import Any

from lamina import functional as F
from lamina._C import Tensor
from lamina.nn.module import Module

IntPair = int | tuple[int, int]


class MaxPool2d(Module):
    """The largest element of every window.

    Args: kernel_size, stride (default: kernel_size), padding (with −∞), dilation; ``return_indices``: also give the
    flat index of each maximum within its plane; ``ceil_mode``: keep a last window that overhangs.

    Shapes: x (N, C, H, W) → y (N, C, H', W').
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.dilation, self.return_indices, self.ceil_mode = dilation, return_indices, ceil_mode

    def forward(self, x: Tensor) -> Any:
        return F.max_pool2d(
            x,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(Module):
    """The mean of every window.

    Args: kernel_size, stride (default: kernel_size), padding (with zeros), ``ceil_mode``; ``count_include_pad``:
    whether padding counts in the divisor; ``divisor_override``: divide by this instead.

    Shapes: x (N, C, H, W) → y (N, C, H', W').
    """

    def __init__(
        self,
        kernel_size: IntPair,
        stride: IntPair | None = None,
        padding: IntPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(
            x,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            ceil_mode=self.ceil_mode,
            count_include_pad=self.count_include_pad,
            divisor_override=self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AdaptiveAvgPool2d(Module):
    """Means over a grid of ``output_size`` windows that cover the image: (N, C, H, W) → (N, C, *output_size).

    An entry None keeps the extent of the input; size 1 is global average pooling.
    """

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, output_size=self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool2d(Module):
    """Maxima over a grid of ``output_size`` windows that cover the image: (N, C, H, W) → (N, C, *output_size)."""

    def __init__(self, output_size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Any:
        return F.adaptive_max_pool2d(x, output_size=self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
