"""Custom calls: each op as a differentiable function of JAX arrays, made from its record.

An op with given attributes is one jitted ``jax.custom_vjp`` function, built at its first call and kept: a call outside
of ``jit`` would otherwise be traced again each time, which costs thirty times as much as the call.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.ffi
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from lamina import _C, bridge
from lamina.bridge import NAMES, RECORDS

TARGET = "lamina"
for _platform, _handler in _C.xla_handlers().items():
    jax.ffi.register_ffi_target(TARGET, _handler, platform=_platform)

# Operands that are int64 in every record. JAX has int32 only, unless asked: the handler widens them.
WIDE = {"state", "lengths", "num_batches_tracked"}
WRITTEN = {spec["name"] for name in NAMES for spec in RECORDS[name]["inputs"] if spec["written"]}


def random_state(seed: int = 0) -> jax.Array:
    """The state of a generator, for functions that draw random numbers: {seed, offset}.

    Args: seed: below 2³¹ unless JAX has 64-bit integers (``jax_enable_x64``).
    Returns: (2,) integers. A function that was given a state returns the next one.
    """
    return jnp.array([seed, 0])


class Cell:
    """An operand that a function updates: the ops that it calls leave the new value here."""

    def __init__(self, value: Any):
        self.value = value


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """What is known of a call while it is traced."""

    value: Any


# --- calls ---------------------------------------------------------------------------------------------------------


def dispatcher(name: str) -> Callable[..., Any]:
    """The op as Lamina's functions call it: inputs, then attributes, all positional."""
    record = RECORDS[name]
    n_inputs = len(record["inputs"])
    is_variadic = n_inputs > 0 and record["inputs"][-1]["variadic"]
    n_outputs = len(record["outputs"])
    functions: dict[tuple[str, tuple[bool, ...]], Callable[..., Any]] = {}

    def call(*args: Any) -> Any:
        given = list(args[0] if is_variadic else (*args[:n_inputs], *[None] * (n_inputs - len(args))))
        cells = [a for a in given if isinstance(a, Cell)]
        operands = _operands(name, [a.value if isinstance(a, Cell) else a for a in given])
        attrs = tuple(tuple(a) if isinstance(a, list) else a for a in args[n_inputs:])  # callers reuse lists
        key = _C.attributes_text(name, attrs), tuple(a is not None for a in operands)
        function = functions.get(key)
        if function is None:
            function = functions.setdefault(key, _function(name, attrs, *key))
        results = function(*(a for a in operands if a is not None))
        for cell, value in zip(cells, results[n_outputs:], strict=True):
            cell.value = value
        return results[0] if n_outputs == 1 else tuple(results[:n_outputs])

    return call


def _operands(name: str, given: list[Any]) -> list[jax.Array | None]:
    """All inputs as arrays; numbers, and inputs that must meet in one dtype, in that dtype."""
    promotes = RECORDS[name]["promotes"]
    if promotes == "none":
        return [None if a is None else _array(name, a) for a in given]
    first = 1 if promotes == "common after the first" else 0
    is_number = [isinstance(a, (bool, int, float)) for a in given]
    arrays = [a if number else _array(name, a) for a, number in zip(given, is_number, strict=True)]
    dtypes = [a.dtype for a, number in zip(arrays[first:], is_number[first:], strict=True) if not number]
    if not dtypes:
        raise TypeError(f"{name}: the operands are numbers; expected a JAX array among them")
    dtype = functools.reduce(jnp.promote_types, dtypes)
    if not jnp.issubdtype(dtype, jnp.floating) and (promotes == "floating" or any(isinstance(a, float) for a in given)):
        dtype = jnp.dtype(jnp.float32)
    return [*arrays[:first], *(jnp.asarray(a, dtype) for a in arrays[first:])]


def _array(name: str, value: Any) -> jax.Array:
    if isinstance(value, jax.Array):
        return value
    if hasattr(value, "__dlpack__") and type(value).__module__.split(".")[0] != "numpy":
        library = type(value).__module__.split(".")[0]
        raise TypeError(f"{name}: an operand is a {library} array; expected JAX arrays (jax.dlpack takes it over)")
    return jnp.asarray(value)


def _function(name: str, attrs: tuple[Any, ...], text: str, given: tuple[bool, ...]) -> Callable[..., Any]:
    """The op with these attributes, as a function of the operands that are given; it returns a list."""
    record = RECORDS[name]
    n_outputs = len(record["outputs"])
    of_all = [record["inputs"][min(i, len(record["inputs"]) - 1)] for i in range(len(given))]
    specs = list(itertools.compress(of_all, given))  # of the operands
    is_written = [spec["written"] for spec in specs]

    def with_absent(operands: Iterable[Any], absent: Any) -> list[Any]:
        remaining = iter(operands)
        return [next(remaining) if g else absent for g in given]

    def infer(operands: tuple[Any, ...], keeps: bool) -> list[tuple[Any, str]]:
        """Shapes and dtypes of the outputs and of the new values, as Lamina has them."""
        described = [(x.shape, _strides(x.shape), _dtype(x, s)) for x, s in zip(operands, specs, strict=True)]
        outputs = _C.infer_exchanged(name, with_absent(described, None), attrs, keeps)
        new = [(x.shape, str(x.dtype)) for x in itertools.compress(operands, is_written)]
        return [*((shape, dtype) for shape, _, dtype in outputs), *new]

    def forward(operands: tuple[Any, ...], keeps: bool) -> list[jax.Array]:
        words = with_absent((_word(x, _dtype(x, s)) for x, s in zip(operands, specs, strict=True)), "-")
        results = [_like(*result) for result in infer(operands, keeps)]
        return _call(f"{'keep' if keeps else 'run'} {name}: {' '.join(words)}; {text}", results, operands)

    if not record["differentiable"]:
        return jax.jit(lambda *operands: forward(tuple(map(jax.lax.stop_gradient, operands)), False), inline=True)

    def save(*primals: Any) -> tuple[list[jax.Array], Any]:
        operands = tuple(p.value for p in primals)
        results = forward(operands, True)
        buffers: list[jax.Array] = []

        def keep(x: Any, dtype: str, is_read: int) -> str:
            if not is_read:
                return f"{dtype}[{','.join(map(str, x.shape))}]"
            buffers.append(x)
            return _word(x, dtype)

        places = itertools.compress(range(len(given)), given)
        inputs = [
            keep(x, _dtype(x, spec), record["kept_inputs"] >> min(i, 31) & 1)
            for x, spec, i in zip(operands, specs, places, strict=True)
        ]
        outputs = [
            keep(y, dtype, record["kept_outputs"] >> i & 1)
            for i, (y, (_, dtype)) in enumerate(zip(results, infer(operands, True)[:n_outputs], strict=False))
        ]
        wanted = tuple(_like(p.value.shape, p.value.dtype) if p.perturbed else None for p in primals)
        # What is there for the backward pass alone is empty among the results, as without one.
        plain = zip(results, (_like(*result) for result in infer(operands, False)), strict=True)
        results = [y if y.shape == like.shape else jnp.zeros(like.shape, like.dtype) for y, like in plain]
        known = f"{' '.join(with_absent(inputs, '-'))} | {' '.join(outputs)}", wanted
        return results, (buffers, Static(known))

    def gradients(saved: Any, dys: list[Any]) -> tuple[Any, ...]:
        buffers, known = saved
        operands, wanted = known.value
        arrivals = [None if isinstance(dy, SymbolicZero) else dy for dy in dys[:n_outputs]]
        words = ["-" if dy is None else "_" for dy in arrivals]
        flags = with_absent(("0" if like is None else "1" for like in wanted), "0")
        call = f"vjp {name}: {operands} | {' '.join(words)} | {' '.join(flags)}; {text}"
        results = [like for like in wanted if like is not None]
        found = iter(_call(call, results, [*buffers, *(dy for dy in arrivals if dy is not None)]))
        return tuple(None if like is None else next(found) for like in wanted)

    function = jax.custom_vjp(lambda *operands: forward(operands, False))
    function.defvjp(save, gradients, symbolic_zeros=True)

    def with_constant_states(*operands: Any) -> list[Any]:
        constant = (jax.lax.stop_gradient(x) if w else x for x, w in zip(operands, is_written, strict=True))
        results = function(*constant)
        return [*results[:n_outputs], *map(jax.lax.stop_gradient, results[n_outputs:])]

    return jax.jit(with_constant_states, inline=True)


def _call(text: str, results: list[jax.ShapeDtypeStruct], buffers: Iterable[Any]) -> list[jax.Array]:
    return list(jax.ffi.ffi_call(TARGET, results, vmap_method="sequential")(*buffers, call=text))


def _like(shape: Iterable[int], dtype: Any) -> jax.ShapeDtypeStruct:
    """A result in a dtype that JAX has: without 64-bit types it gets the shorter ones, and the handler shortens."""
    return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype))


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Row-major ones: XLA brings operands into that order."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _dtype(x: Any, spec: dict[str, Any]) -> str:
    """The dtype in which Lamina sees an operand."""
    return "int64" if spec["name"] in WIDE and x.dtype == jnp.int32 else str(x.dtype)


def _word(x: Any, dtype: str) -> str:
    """A buffer in the words of a call, which are those of csrc/interop/xla_handler.cpp."""
    return "_" if str(x.dtype) == dtype else dtype


# --- functions -----------------------------------------------------------------------------------------------------


OPS = {name: dispatcher(name) for name in NAMES}


def _no_state(generator: Any, device: Any = None) -> Any:
    raise TypeError(
        "dropout: state is None; expected the state of a generator (lamina.jax.random_state(seed) makes one)"
    )


def rebind_functions(module: dict[str, Any]) -> list[str]:
    """Makes ``module`` a copy of ``lamina.functional`` for JAX; gives the names of its public functions."""
    functions: dict[str, Any] = {"__name__": module["__name__"]}
    names = bridge.rebind_functions(functions, OPS, _no_state, is_recording=lambda: True)
    module.update({name: _stateless(functions[name]) for name in names})
    return names


def _stateless(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, or one that returns the new values of what it updates."""
    signature = inspect.signature(function)
    written = [name for name in signature.parameters if name in WRITTEN]
    if not written:
        return function

    @functools.wraps(function)
    def call(*args: Any, **attrs: Any) -> Any:
        bound = signature.bind(*args, **attrs)
        cells = {name: Cell(bound.arguments[name]) for name in written if bound.arguments.get(name) is not None}
        bound.arguments.update(cells)
        result = function(*bound.args, **bound.kwargs)
        return (result, *(cell.value for cell in cells.values())) if cells else result

    call.__doc__ = (
        f"{function.__doc__}\n    In JAX: returns, after the result, the new {' and '.join(written)} if given.\n"
    )
    return call
