"""Derivatives: functions written in Python, and gradients for users of function transformations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamina import _C
from lamina._C import Tape, Tensor


class Function:
    """An op with a forward and a vector–Jacobian product written in Python.

    Subclass it with two static methods and call ``apply``:

    >>> class Cube(lamina.Function):
    ...     @staticmethod
    ...     def forward(ctx, x): ctx.x = x; return x * x * x
    ...     @staticmethod
    ...     def vjp(ctx, dy): return 3 * ctx.x * ctx.x * dy

    ``forward(ctx, *inputs, **attributes)`` takes tensors and gives a tensor or a tuple of them; nothing inside it is
    recorded. ``vjp(ctx, *dy)`` gives one gradient per input (None where there is none); ``dy`` is None for an output
    whose gradient nobody asked for. ``ctx`` is an object to keep values on.
    """

    class Context:
        """Whatever ``forward`` wants to keep for ``vjp``."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor, **attributes: Any) -> Tensor | tuple[Tensor, ...]:
        raise NotImplementedError("Function: a subclass defines forward")

    @staticmethod
    def vjp(ctx: Any, *dy: Tensor | None) -> Tensor | tuple[Tensor | None, ...] | None:
        raise NotImplementedError("Function: a subclass defines vjp")

    @classmethod
    def apply(cls, *inputs: Tensor, **attributes: Any) -> Any:
        """Computes ``forward`` and records it on the open tape."""
        for x in inputs:
            if not isinstance(x, Tensor):
                raise TypeError(f"{cls.__name__}: an input is a {type(x).__name__}; expected a lamina.Tensor")
        ctx = cls.Context()
        pause = _C.PauseRecording()
        try:
            y = cls.forward(ctx, *inputs, **attributes)
        finally:
            del pause
        outputs = list(y) if isinstance(y, tuple) else [y]
        recorded = _C.record_function(list(inputs), outputs, lambda *dy: cls.vjp(ctx, *dy))
        return tuple(recorded) if isinstance(y, tuple) else recorded[0]


def value_and_grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., tuple[Any, Any]]:
    """A function that gives ``fn``'s value and its gradient by the arguments at ``argnums``.

    Args:
        fn: gives a tensor of one element, or a tuple whose first item is one.
        argnums: positions of the tensors (or lists of tensors) to differentiate by.

    Returns: ``g`` with ``g(*args) -> (fn(*args), gradients)``; gradients have the structure of the arguments.

    >>> value, grad = lamina.value_and_grad(lambda x: F.sum(x * x))(lamina.tensor([1.0, 3.0]))
    >>> value, grad
    (tensor(10.), tensor([2., 6.]))
    """
    positions = [argnums] if isinstance(argnums, int) else list(argnums)

    def differentiated(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        args = tuple(_fresh(a) if i in positions else a for i, a in enumerate(args))
        with Tape() as tape:
            for i in positions:
                for leaf in _leaves(args[i]):
                    tape.watch(leaf)
            value = fn(*args, **kwargs)
        y = value[0] if isinstance(value, tuple) else value
        grads = iter(tape.gradient(y, [leaf for i in positions for leaf in _leaves(args[i])]))
        structured = [
            [next(grads) for _ in a] if isinstance(a, list | tuple) else next(grads)
            for a in (args[i] for i in positions)
        ]
        return value, structured[0] if isinstance(argnums, int) else tuple(structured)

    return differentiated


def _leaves(argument: Any) -> list[Tensor]:
    return list(argument) if isinstance(argument, list | tuple) else [argument]


def _fresh(argument: Any) -> Any:
    """The same memory under tensors of their own, so that watching leaves no trace on the caller's."""
    fresh = [x.detach() for x in _leaves(argument)]
    return fresh if isinstance(argument, list | tuple) else fresh[0]
