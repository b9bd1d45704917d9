"""New tensors from shapes and rules. Shapes come as integers or as one tuple; dtypes default to float32.

``device`` names where the tensor shall lie: by default the CPU, or the device of an open ``lamina.device``.
"""

from __future__ import annotations

import math
from typing import Any

from lamina import _C
from lamina import functional as F
from lamina._C import Tensor
from lamina.devices import on
from lamina.random import Generator, state_of


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3) from both f(2, 3) and f((2, 3))."""
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape


def _dtype(dtype: Any, default: Any = _C.float32) -> Any:
    return default if dtype is None else _C.dtype_of(dtype)


def full(shape: tuple[int, ...], value: float, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of one value; integers give int64 and booleans bool unless ``dtype`` says otherwise."""
    of_value = {bool: _C.bool, int: _C.int64}.get(type(value), _C.float32)
    with on(device):
        return F.full(shape=_shape((shape,)), value=value, dtype=_dtype(dtype, of_value))


def zeros(*shape: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of zeros."""
    with on(device):
        return F.full(shape=_shape(shape), dtype=_dtype(dtype))


def ones(*shape: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of ones."""
    with on(device):
        return F.full(shape=_shape(shape), value=1, dtype=_dtype(dtype))


def empty(*shape: Any, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor to be written to. It holds zeros, so that a mistake gives the same result in every run."""
    return zeros(*shape, dtype=dtype, device=device)


def full_like(x: Tensor, value: float, dtype: Any = None) -> Tensor:
    """A tensor of one value, with the shape, memory order and dtype of ``x``."""
    return F.fill_like(x, value=value, dtype=dtype)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Zeros with the shape, memory order and dtype of ``x``."""
    return F.fill_like(x, dtype=dtype)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Ones with the shape, memory order and dtype of ``x``."""
    return F.fill_like(x, value=1, dtype=dtype)


def arange(
    start: float, stop: float | None = None, step: float = 1, dtype: Any = None, device: str | None = None
) -> Tensor:
    """start, start + step, … below ``stop``; ``arange(n)`` counts from 0. Integers give int64.

    >>> lamina.arange(1, 8, 3).tolist()
    [1, 4, 7]
    """
    if stop is None:
        start, stop = 0, start
    if step == 0:
        raise ValueError("arange: step is 0; expected another number")
    is_integral = all(isinstance(v, int) for v in (start, stop, step))
    size = max(0, math.ceil((stop - start) / step))
    dtype = _dtype(dtype, _C.int64 if is_integral else _C.float32)
    with on(device):
        return F.progression(start=start, step=step, size=size, dtype=dtype)


def linspace(start: float, stop: float, num: int, dtype: Any = None, device: str | None = None) -> Tensor:
    """``num`` values from ``start`` to ``stop``, both included, at equal distances.

    >>> lamina.linspace(0, 1, 5).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    step = (stop - start) / (num - 1) if num > 1 else 0.0
    with on(device):
        return F.progression(start=start, step=step, size=num, dtype=_dtype(dtype))


def eye(n: int, m: int | None = None, dtype: Any = None, device: str | None = None) -> Tensor:
    """(n, m) with ones on the diagonal."""
    return F.tril(F.triu(ones(n, n if m is None else m, dtype=dtype, device=device)))


def rand(*shape: Any, dtype: Any = None, generator: Generator | None = None, device: str | None = None) -> Tensor:
    """Uniform in [0, 1)."""
    return F.uniform(state_of(generator, device), shape=_shape(shape), dtype=_dtype(dtype))


def randn(*shape: Any, dtype: Any = None, generator: Generator | None = None, device: str | None = None) -> Tensor:
    """Normal with mean 0 and variance 1."""
    return F.normal(state_of(generator, device), shape=_shape(shape), dtype=_dtype(dtype))


def randint(
    low: int,
    high: int,
    shape: tuple[int, ...],
    dtype: Any = None,
    generator: Generator | None = None,
    device: str | None = None,
) -> Tensor:
    """Integers from ``low`` up to ``high`` - 1, each as likely as the others."""
    return F.randint(
        state_of(generator, device), shape=_shape((shape,)), low=low, high=high, dtype=_dtype(dtype, _C.int64)
    )


def randperm(n: int, generator: Generator | None = None, device: str | None = None) -> Tensor:
    """The integers 0 … n - 1 in random order, int64."""
    return F.randperm(state_of(generator, device), n=n)


def bernoulli(p: Tensor, generator: Generator | None = None) -> Tensor:
    """1 with probability ``p`` and 0 otherwise, element by element, in the dtype of ``p``."""
    return F.bernoulli(p, state_of(generator, p.device))
