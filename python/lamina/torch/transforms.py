"""How the registered ops behave under ``torch.autocast`` and ``torch.func.vmap``: a rule for every op, by loops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from lamina.bridge import NAMES, RECORDS
from lamina.torch.ops import LIBRARY, is_autocast_enabled

MAX_NDIM = 8  # of Lamina's arrays

# --- autocast: products in its dtype, what loses digits in float32, what joins tensors in their widest dtype ---------

IN_ITS_DTYPE = {"matmul", "gemm", "linear", "conv2d", "conv_transpose2d", "lstm_cell", "lstm_layer"}
IN_FLOAT32 = {
    "softmax", "log_softmax", "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "binary_cross_entropy_with_logits",
    "norm", "prod", "cumsum", "exp", "expm1", "log", "log1p", "pow", "reciprocal", "rsqrt", "softplus",
}  # fmt: skip
IN_WIDEST = {"concat"}


def as_autocast_wants(name: str, operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """The operands in the dtype that autocast has for the op, where it is on."""
    if not is_autocast_enabled() or name not in IN_ITS_DTYPE | IN_FLOAT32 | IN_WIDEST:
        return operands
    tensors = [t for t in _tensors(operands) if _is_castable(t)]
    if not tensors or not torch.is_autocast_enabled(tensors[0].device.type):
        return operands
    dtype = torch.float32
    if name in IN_ITS_DTYPE:
        dtype = torch.get_autocast_dtype(tensors[0].device.type)
    elif name in IN_WIDEST:
        dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors))
    return tuple(_cast(a, dtype) for a in operands)


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


def _is_castable(x: torch.Tensor) -> bool:
    return x.is_floating_point() and x.dtype != torch.float64


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, (list, tuple)):
        return [_cast(v, dtype) for v in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and _is_castable(value) else value


def _autocast(name: str, device: str) -> Callable[..., Any]:
    op = getattr(torch.ops.lamina, name)
    n_inputs = len(RECORDS[name]["inputs"])

    def cast_and_call(*args: Any) -> Any:
        operands = as_autocast_wants(name, args[:n_inputs])
        with torch.autocast(device, enabled=False):
            return op(*operands, *args[n_inputs:])

    return cast_and_call


for _name in sorted(IN_ITS_DTYPE | IN_FLOAT32 | IN_WIDEST):
    LIBRARY.impl(_name, _autocast(_name, "cpu"), "AutocastCPU")
    LIBRARY.impl(_name, _autocast(_name, "cuda"), "AutocastCUDA")

# --- vmap: an op that broadcasts carries the batch as one more axis; others run once per element ----------------------


def _vmap(name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.lamina, name)
    broadcasts = name == "matmul" or (name in RECORDS and RECORDS[name]["promotes"] != "none")
    least = 2 if name == "matmul" else 0  # a vector has no batch axes

    def rule(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        pairs = list(zip(args, in_dims, strict=True))
        if broadcasts:
            ranks = [a.ndim - (d is not None) for a, d in pairs if isinstance(a, torch.Tensor)]
            if min(ranks) >= least and max(ranks) < MAX_NDIM:
                return op(*(a if d is None else _batch_first(a, d, max(ranks)) for a, d in pairs)), 0
        if info.batch_size == 0:
            raise ValueError(f"{name}: vmap over an axis of extent 0; expected at least 1")
        results = [op(*(_element(a, d, i) for a, d in pairs)) for i in range(info.batch_size)]
        if isinstance(results[0], torch.Tensor):
            return torch.stack(results), 0
        kind = type(results[0])
        stacked = kind(torch.stack(ys) for ys in zip(*results, strict=True))
        return stacked, kind([0] * len(stacked))

    return rule


def _batch_first(x: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    """(B, …) with axes of extent 1 behind B, so that elements of lower rank broadcast as they did."""
    x = x.movedim(axis, 0)
    return x.reshape(x.shape[0], *[1] * (rank + 1 - x.ndim), *x.shape[1:])


def _element(value: Any, axis: Any, i: int) -> Any:
    if isinstance(value, (list, tuple)):
        axes = axis if isinstance(axis, (list, tuple)) else [axis] * len(value)
        return [_element(v, d, i) for v, d in zip(value, axes, strict=True)]
    return value if axis is None else value.select(axis, i)


for _name in NAMES:
    torch.library.register_vmap(f"lamina::{_name}", _vmap(_name), lib=LIBRARY)
    if RECORDS[_name]["differentiable"]:
        torch.library.register_vmap(f"lamina::{_name}_vjp", _vmap(f"{_name}_vjp"), lib=LIBRARY)
