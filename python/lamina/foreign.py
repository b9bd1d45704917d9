"""Arrays of other libraries as operands: NumPy, CuPy, PyTorch and JAX go in, and the same kind comes out.

An op that meets an operand which is no Tensor asks :func:`call`. Operands are taken over without a copy, through
DLPack; CuPy's and PyTorch's on a GPU are used on the stream that is current in their library. PyTorch tensors go
through ``lamina.torch``, so that gradients reach them, and what JAX traces goes through ``lamina.jax``. None of the
libraries is imported here: an array of theirs proves that it is loaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from lamina import _C, cuda
from lamina._C import Tensor


def kind_of(value: Any) -> str | None:
    """The library that an array belongs to: "numpy", "cupy", "torch" or "jax"; None for anything else."""
    if isinstance(value, Tensor) or not (isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")):
        return None
    library = type(value).__module__.split(".")[0].removesuffix("lib")  # jaxlib
    return library if library in ("numpy", "cupy", "torch", "jax") else None


def call(op: Callable[..., Any], name: str, args: tuple[Any, ...], written: tuple[bool, ...]) -> Any:
    """Runs ``op`` on arrays of one library and gives results of that library.

    Args:
        op: takes Tensors.
        name: the op, for messages.
        args: what it was called with; lists of arrays are looked into.
        written: for each operand, whether the op updates it in place (a state, which may be a Tensor).

    Raises: TypeError if the operands are of several libraries, or of none that is known.
    """
    kinds = {kind_of(a) or ("lamina" if isinstance(a, Tensor) else None) for a in _operands(args, written)} - {None}
    if len(kinds) > 1:
        raise TypeError(
            f"{name}: the operands are arrays of {' and '.join(sorted(map(str, kinds)))}; expected one kind"
        )
    (kind,) = kinds or {None}
    if kind in (None, "lamina"):
        strangers = [type(a).__name__ for a in args if not isinstance(a, Tensor)]
        raise TypeError(
            f"{name}: an operand is a {strangers[0] if strangers else '?'}; expected a lamina.Tensor "
            "(lamina.tensor(data) makes one) or an array of NumPy, CuPy, PyTorch or JAX"
        )
    if kind == "torch" and (torch_op := _torch_op(name)):
        return torch_op(*args)
    updated = [a for a, is_written in zip(args, written, strict=False) if is_written]
    if kind == "numpy" and any(isinstance(a, np.ndarray) and not a.flags.writeable for a in updated):
        raise TypeError(f"{name}: an operand that it updates is read-only; expected an array that can be written")
    if kind == "jax":
        if any(kind_of(a) for a in updated):
            raise TypeError(
                f"{name}: JAX arrays do not change; expected lamina.jax.functional.{name}, which returns new values"
            )
        if any(isinstance(a, sys.modules["jax"].core.Tracer) for a in _operands(args, written)):
            return _jax_op(name)(*args)
    with _on_stream_of(str(kind), args):
        return _give(str(kind), op(*(_take(a) for a in args)))


def _torch_op(name: str) -> Callable[..., Any] | None:
    """The op that records PyTorch's gradients; None where this PyTorch is too old, or the op is not among them."""
    try:
        from lamina.torch import functional
    except ImportError:
        return None
    return getattr(vars(functional)["_C"], name, None)


def _jax_op(name: str) -> Callable[..., Any]:
    """The op for arrays without memory, inside jit and grad."""
    from lamina.jax.ops import OPS

    if name not in OPS:
        raise TypeError(f"{name}: it cannot be traced by JAX; expected arrays with values")
    return OPS[name]


def _operands(args: tuple[Any, ...], written: tuple[bool, ...]) -> list[Any]:
    """The arrays among the operands, lists opened; a Tensor that is only written does not count."""
    found: list[Any] = []
    for a, is_written in zip(args, written, strict=False):
        if not (is_written and isinstance(a, Tensor)):
            found += a if isinstance(a, (list, tuple)) else [a]
    return found


def _take(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_take(v) for v in value)
    kind = kind_of(value)
    if kind is None:
        return value
    if kind == "numpy":
        return _C.from_numpy(value)
    return _C.from_dlpack(value.detach().resolve_neg() if kind == "torch" else value)


def _give(kind: str, result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(_give(kind, r) for r in result)
    if not isinstance(result, Tensor):
        return result
    if kind == "numpy":
        return _C.to_numpy(result)
    if kind == "jax":  # whose arrays are row-major
        return sys.modules["jax"].dlpack.from_dlpack(_C.contiguous(result))
    return sys.modules[kind].from_dlpack(result)


def _on_stream_of(kind: str, args: tuple[Any, ...]) -> contextlib.AbstractContextManager[Any]:
    """Work on the GPU goes to the stream that is current in the library of the arrays."""
    if kind == "cupy":
        cupy = sys.modules["cupy"]
        return cuda.stream(cupy.cuda.get_current_stream(), f"cuda:{cupy.cuda.Device().id}")
    if kind == "torch":
        places = {a.device for a in _operands(args, (False,) * len(args)) if kind_of(a) == "torch" and a.is_cuda}
        if places:
            place = places.pop()
            return cuda.stream(sys.modules["torch"].cuda.current_stream(place), f"cuda:{place.index}")
    return contextlib.nullcontext()
