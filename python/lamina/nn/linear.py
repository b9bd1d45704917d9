"""Linear layers."""

from __future__ import annotations

from typing import Any

from lamina import _C, creation
from lamina import functional as F
from lamina._C import Tensor
from lamina.nn import init
from lamina.nn.module import Module, Parameter


class Linear(Module):
    """y = x Wᵀ + b.

    Args:
        in_features: I, extent of the last axis of the input.
        out_features: O, extent of the last axis of the output.
        bias: whether there is a b.
        dtype: of the parameters.

    Shapes: x (..., I) → y (..., O); ``weight`` (O, I), ``bias`` (O,), both U(−1/√I, 1/√I) at first.
    """

    bias: Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True, dtype: Any = _C.float32) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(creation.empty(out_features, in_features, dtype=dtype))
        self.register_parameter("bias", Parameter(creation.empty(out_features, dtype=dtype)) if bias else None)
        init.layer_defaults_(self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Flatten(Module):
    """Merges the axes ``start_dim`` to ``end_dim`` into one: (N, C, H, W) → (N, C·H·W) by default."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return F.flatten(x, start_dim=self.start_dim, end_dim=self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Identity(Module):
    """y = x."""

    def forward(self, x: Tensor) -> Tensor:
        return x
