"""Programs: a function of tensors, run once as Python, recorded once, then replayed without Python."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lamina import _C
from lamina._C import Tensor


class record:
    """Makes ``fn`` record its second call and replay it from the third on.

    The first call runs as usual (optimisers make their state, layers their buffers). The second is run and recorded:
    every kernel with its arguments. Later calls copy the inputs to where the recording read them and replay the
    kernels, at some ten nanoseconds each besides their work.

    What changes from step to step must be an input or live in a tensor: learning rates, step counts and random states
    do. Python numbers, branches and shapes are frozen, and reading a value inside ``fn`` raises.

    Args:
        fn: takes tensors (positional) and gives a tensor, None, or a tuple, list or dict of tensors.

    Returns: a callable like ``fn``; each call gives tensors of its own.

    Raises: ValueError when shapes or dtypes differ from the recorded ones; RuntimeError when ``fn`` reads a value.

    >>> double = lamina.record(lambda x: x + x)
    >>> [float(double(lamina.tensor(float(i)))) for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """

    def __init__(self, fn: Callable[..., Any]):
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._calls = 0
        self._program: Any = None
        self._inputs: list[Tensor] = []
        self._outputs: Any = None

    def __call__(self, *args: Tensor) -> Any:
        for i, x in enumerate(args):
            if not isinstance(x, Tensor):
                raise TypeError(f"record: argument {i} is a {type(x).__name__}; expected a lamina.Tensor")
        if _C.is_recording():  # inside another recording this is a plain function
            return self._fn(*args)
        self._calls += 1
        if self._calls == 1:
            return self._fn(*args)
        if self._program is None:
            return self._record(args)
        self._check(args)
        for recorded, given in zip(self._inputs, args, strict=True):
            _C.copy_(recorded, given)
        self._program.run()
        return _map(_C.clone, self._outputs)

    def _record(self, args: tuple[Tensor, ...]) -> Any:
        self._inputs = [_C.clone(x) for x in args]
        program = _C.Program()
        program.begin()
        try:
            self._outputs = self._fn(*self._inputs)
        finally:
            program.end()
        self._program = program
        return _map(_C.clone, self._outputs)

    def _check(self, args: tuple[Tensor, ...]) -> None:
        def describe(tensors: Any) -> str:
            return ", ".join(f"{x.shape} {x.dtype.name}" for x in tensors)

        given, expected = describe(args), describe(self._inputs)
        if given != expected:
            raise ValueError(
                f"record: the arguments are {given}; expected {expected} as recorded "
                "(record another function for other shapes)"
            )

    def __len__(self) -> int:
        """Number of recorded commands; 0 before the recording."""
        return len(self._program) if self._program is not None else 0


def _map(fn: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return fn(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_map(fn, item) for item in tree)
    if isinstance(tree, dict):
        return {key: _map(fn, item) for key, item in tree.items()}
    if tree is None:
        return None
    raise TypeError(
        f"record: the function returned a {type(tree).__name__}; expected tensors, or tuples, lists or dicts of them"
    )
