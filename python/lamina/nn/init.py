"""Initialisations, in place, seeded by ``lamina.manual_seed``; PyTorch's names, formulas and defaults."""

from __future__ import annotations

import math

from lamina import creation
from lamina._C import Tensor


def uniform_(tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Fills with U(low, high)."""
    return tensor.copy_(creation.rand(*tensor.shape) * (high - low) + low)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fills with N(mean, std²)."""
    return tensor.copy_(creation.randn(*tensor.shape) * std + mean)


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fills with one value."""
    return tensor.copy_(creation.full(tensor.shape, value, dtype=tensor.dtype, device=tensor.device))


def zeros_(tensor: Tensor) -> Tensor:
    """Fills with 0."""
    return constant_(tensor, 0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def fans(tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) that meet in one element of a weight (out, in, *kernel)."""
    if tensor.ndim < 2:
        raise ValueError(f"init: the tensor has shape {tensor.shape}; expected at least two axes (out, in, ...)")
    area = math.prod(tensor.shape[2:])
    return tensor.shape[1] * area, tensor.shape[0] * area


def kaiming_uniform_(tensor: Tensor, a: float = 0.0) -> Tensor:
    """U(−b, b) with b = √(6 / ((1 + a²) fan_in)), which keeps the variance through a leaky ReLU of slope ``a``.

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852
    """
    bound = math.sqrt(6 / ((1 + a * a) * fans(tensor)[0]))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0.0) -> Tensor:
    """N(0, 2 / ((1 + a²) fan_in)). Source: He et al. 2015, https://arxiv.org/abs/1502.01852"""
    return normal_(tensor, 0.0, math.sqrt(2 / ((1 + a * a) * fans(tensor)[0])))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """U(−b, b) with b = gain √(6 / (fan_in + fan_out)). Source: Glorot and Bengio 2010."""
    bound = gain * math.sqrt(6 / sum(fans(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """N(0, 2 gain² / (fan_in + fan_out)). Source: Glorot and Bengio 2010."""
    return normal_(tensor, 0.0, gain * math.sqrt(2 / sum(fans(tensor))))


def layer_defaults_(weight: Tensor, bias: Tensor | None) -> None:
    """What PyTorch's Linear and convolutions start from: both U(−b, b) with b = 1 / √fan_in of the weight."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in = fans(weight)[0]
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        uniform_(bias, -bound, bound)
