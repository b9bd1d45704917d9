"""Where tensors lie: ``with lamina.device("cuda"):`` and the names of devices."""

from __future__ import annotations

import contextlib
from typing import Any

from lamina import _C

_HERE = contextlib.nullcontext()


class device:
    """Tensors made from shapes and rules lie on this device while the context is open.

    Ops run where their inputs lie; this is for what has no inputs: ``zeros``, ``rand``, the parameters of layers.

    Args:
        name: "cpu", "cuda" or "cuda:<index>".

    Raises: RuntimeError if the device is not available, with the reason and the remedy.

    >>> with lamina.device("cpu"):
    ...     lamina.zeros(2).device
    'cpu'
    """

    def __init__(self, name: str):
        self.name: str = _C.check_device(name)
        self._previous: list[str] = []

    def __enter__(self) -> device:
        self._previous.append(_C.current_device())
        _C.set_current_device(self.name)
        return self

    def __exit__(self, *exception: Any) -> None:
        _C.set_current_device(self._previous.pop())

    def __repr__(self) -> str:
        return f"device({self.name!r})"


def on(name: str | None) -> contextlib.AbstractContextManager[Any]:
    """The context of a ``device=`` argument; None stays where the thread is."""
    return _HERE if name is None else device(name)


def is_device(target: Any) -> bool:
    """True iff ``target`` names a device rather than a dtype."""
    return isinstance(target, str) and target.split(":")[0] in ("cpu", "cuda", "sim")
