"""Indexing, and the methods of Tensor that move elements: ``x[1, ::2]``, ``x.reshape(2, -1)`` and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from lamina import _C
from lamina import functional as F
from lamina._C import Tensor


def _index_general(self: Tensor, index: Any) -> Tensor:
    """``x[index]``: integers, slices, None and ... as in NumPy, and at most one array of integers.

    Integers and slices of positive step give views; others copy. Tensor's own ``__getitem__``, written in C++, does
    integers and slices and comes here with the rest.

    Raises: IndexError for an integer out of range or too many indices; TypeError for other indices, also booleans.
    """
    entries = _complete(index if isinstance(index, tuple) else (index,), self)
    starts: list[int] = []
    sizes: list[int] = []
    steps: list[int] = []
    squeeze: list[int] = []
    added: list[int] = []
    chosen: tuple[int, Tensor] | None = None  # axis of the result, indices
    position = 0  # in the result
    for entry in entries:
        if entry is None:
            added.append(position)
            position += 1
            continue
        axis = len(starts)
        n = self.shape[axis]
        if isinstance(entry, slice):
            start, stop, step = entry.indices(n)
            size = len(range(start, stop, step))
        elif _is_integer(entry):
            start, size, step = int(entry), 1, 1
            if not -n <= start < n:
                raise IndexError(f"getitem: index {start} of axis {axis}; expected {-n} to {n - 1} (x {self.shape})")
            start %= n
            squeeze.append(axis)
        else:
            start, size, step = 0, n, 1
            chosen = position - len(added), _indices(entry, chosen)
        starts.append(start if size else 0)
        sizes.append(size)
        steps.append(step)
        position += axis not in squeeze
    y = _C.slice(self, starts, sizes, steps, squeeze)
    if chosen is not None:
        axis, indices = chosen
        y = F.index_select(y, indices, dim=axis)
        added = [a if a <= axis else a + indices.ndim - 1 for a in added]
    for axis in added:
        y = F.unsqueeze(y, dim=axis)
    return y


def _is_integer(entry: Any) -> bool:
    return isinstance(entry, int | np.integer) and not isinstance(entry, bool)


def _complete(entries: tuple[Any, ...], x: Tensor) -> list[Any]:
    """The entries with full slices where ... stands, or at the end."""
    given = sum(entry is not None and entry is not Ellipsis for entry in entries)
    if given > x.ndim:
        raise IndexError(f"getitem: {given} indices; expected at most {x.ndim} (x {x.shape})")
    at = next((i for i, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    return [*entries[:at], *[slice(None)] * (x.ndim - given), *entries[at + 1 :]]


def _indices(entry: Any, chosen: Any) -> Tensor:
    """An array index as a tensor, negative values counting as given."""
    if isinstance(entry, list | np.ndarray):
        entry = _C.from_numpy(np.array(entry, copy=True))
    if not isinstance(entry, Tensor) or entry.dtype not in (_C.int64, _C.int32):
        kind = entry.dtype.name if isinstance(entry, Tensor) else type(entry).__name__
        raise TypeError(f"getitem: an index is {kind}; expected integers, slices, None, ... or an array of integers")
    if chosen is not None:
        raise TypeError("getitem: two arrays of indices; expected one (index twice, or use gather)")
    return entry


def _shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape


def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """This tensor with another shape; one extent may be -1."""
    return F.reshape(self, shape=_shape(shape))


def _permute(self: Tensor, *dims: Any) -> Tensor:
    """A view with the axes in this order."""
    return F.permute(self, dims=_shape(dims))


def _expand(self: Tensor, *shape: Any) -> Tensor:
    """A view that repeats axes of extent 1; -1 keeps an extent."""
    return F.expand(self, shape=_shape(shape))


def _transpose(self: Tensor, dim0: int, dim1: int) -> Tensor:
    """A view with two axes exchanged."""
    return F.transpose(self, dim0=dim0, dim1=dim1)


def _flatten(self: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """This tensor with the axes from ``start_dim`` to ``end_dim`` made one."""
    return F.flatten(self, start_dim=start_dim, end_dim=end_dim)


def _squeeze(self: Tensor, dim: int | None = None) -> Tensor:
    """A view without axis ``dim`` of extent 1, or without all of those."""
    return F.squeeze(self, dim=dim)


def _unsqueeze(self: Tensor, dim: int) -> Tensor:
    """A view with a new axis of extent 1 at ``dim``."""
    return F.unsqueeze(self, dim=dim)


def _flip(self: Tensor, *dims: Any) -> Tensor:
    """A copy with these axes reversed."""
    return F.flip(self, dims=_shape(dims))


def _split(self: Tensor, split_size: int | tuple[int, ...], dim: int = 0) -> tuple[Tensor, ...]:
    """Views of ``split_size`` elements along ``dim``, or of these sizes."""
    return F.split(self, split_size=split_size, dim=dim)


def _chunk(self: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most ``chunks`` views of equal size along ``dim``; the last may be smaller."""
    return F.chunk(self, chunks=chunks, dim=dim)


for _name, _method in {
    "_index_general": _index_general,
    "reshape": _reshape,
    "permute": _permute,
    "transpose": _transpose,
    "swapaxes": _transpose,
    "expand": _expand,
    "broadcast_to": _expand,
    "flatten": _flatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "flip": _flip,
    "split": _split,
    "chunk": _chunk,
    "channels_last": F.channels_last,
}.items():
    setattr(Tensor, _name, _method)
