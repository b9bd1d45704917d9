"""Convolutions."""

from __future__ import annotations

from typing import Any

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn import init
from lamina.nn.module import Module, Parameter

IntPair = int | tuple[int, int]
Padding = int | tuple[int, int] | tuple[int, int, int, int] | str


def _pair(value: IntPair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _Conv(Module):
    """What both convolutions hold."""

    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        groups: int,
        bias: bool,
        transposed: bool,
        dtype: Any,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"{type(self).__name__}: groups {groups} does not divide in_channels {in_channels} and "
                f"out_channels {out_channels}; expected a common divisor"
            )
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, _pair(kernel_size)
        self.groups = groups
        outer, inner = (in_channels, out_channels // groups) if transposed else (out_channels, in_channels // groups)
        self.weight = Parameter(creation.empty(outer, inner, *self.kernel_size, dtype=dtype))
        self.register_parameter("bias", Parameter(creation.empty(out_channels, dtype=dtype)) if bias else None)
        init.layer_defaults_(self.weight, self.bias)

    def extra_repr(self) -> str:
        shown = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        defaults: dict[str, list[Any]] = {
            "stride": [(1, 1)],
            "padding": [0, (0, 0)],
            "output_padding": [(0, 0)],
            "dilation": [(1, 1)],
        }
        for name, unremarkable in {**defaults, "groups": [1]}.items():
            value = getattr(self, name, None)
            if value is not None and value not in unremarkable:
                shown += f", {name}={value}"
        return shown if self.bias is not None else shown + ", bias=False"


class Conv2d(_Conv):
    """y[n, o] = Σ_c x[n, c] ⋆ w[o, c] + b[o], a cross-correlation over windows.

    Args:
        in_channels: C.
        out_channels: O.
        kernel_size: R×S, one integer or two.
        stride: step of the window.
        padding: zeros around the image: one integer, (height, width), (top, bottom, left, right), "same" or "valid".
        dilation: step within the window.
        groups: G; output channels of group g see input channels of group g only.
        bias: whether there is a b.
        dtype: of the parameters.

    Shapes: x (N, C, H, W) → y (N, O, H', W') with H' = ⌊(H + top + bottom − dilation (R − 1) − 1) / stride⌋ + 1;
    ``weight`` (O, C/G, R, S), ``bias`` (O,), both U(−b, b) with b = 1 / √(R S C/G) at first.
    The result lies in channels-last memory, and so does what pools and norms make of it.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: Any = _C.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups, bias, False, dtype)
        self.stride, self.padding, self.dilation = _pair(stride), padding, _pair(dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class ConvTranspose2d(_Conv):
    """The transpose of Conv2d as a linear map: its forward is the gradient of a Conv2d by its input.

    Args: as Conv2d; ``output_padding`` adds rows and columns at the end, which resolves the size that strides lose.

    Shapes: x (N, C, H, W) → y (N, O, H', W') with
    H' = (H − 1) stride − 2 padding + dilation (R − 1) + output_padding + 1; ``weight`` (C, O/G, R, S), ``bias`` (O,).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        output_padding: IntPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntPair = 1,
        dtype: Any = _C.float32,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups, bias, True, dtype)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.output_padding = _pair(output_padding)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self.output_padding,
            groups=self.groups,
            dilation=self.dilation,
        )
