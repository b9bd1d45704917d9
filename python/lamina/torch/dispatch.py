"""How an op on PyTorch tensors finds its kernel and its gradient: four ways, by cost and by what they allow.

* no gradient wanted: the kernel, called directly;
* a gradient wanted: an autograd function that keeps what the vjp reads and nothing else;
* inside ``torch.func``: an autograd function with a separate ``setup_context``, which it needs, and which costs 11 µs;
* inside ``torch.compile``, under a dispatch mode and for subclasses of tensors: the registered op, whose registered
  gradient the compiler sees.

``_C.eager`` decides among the first two in C++, and calls back for the others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from lamina import _C, bridge
from lamina.bridge import NAMES, RECORDS
from lamina.torch.ops import DTYPES, LIBRARY, is_fake_mode_active, is_forward_mode_active, is_functorch_active, written
from lamina.torch.transforms import as_autocast_wants

is_compiling = torch.compiler.is_dynamo_compiling
_NO_SECOND_DERIVATIVES = "{}: differentiated twice; expected first derivatives only"


def dispatcher(name: str) -> Callable[..., Any]:
    """The op as Lamina's functions call it: inputs, then attributes, all positional."""
    record = RECORDS[name]
    specs = record["inputs"]
    n_inputs = len(specs)
    is_variadic = specs[-1]["variadic"]
    op = getattr(torch.ops.lamina, name)
    eager = getattr(_C.eager, name)
    states, n_outputs = written(name), len(record["outputs"])
    traced = _traced_function(name) if record["differentiable"] else None

    def prepare(*inputs: Any) -> tuple[Any, ...]:
        return _operands(name, as_autocast_wants(name, inputs), n_inputs, record["promotes"])

    def general(*args: Any) -> Any:
        inputs, attrs = prepare(*args[:n_inputs]), args[n_inputs:]
        if traced is None:
            results = op(*(_detached(x) for x in inputs), *_attributes(name, attrs))
        elif not is_compiling() and (is_functorch_active() or is_forward_mode_active()):
            flat = tuple(inputs[-1]) if is_variadic else inputs
            results = traced.apply(len(flat), *flat, *attrs)
        else:
            results = op(*inputs, *_attributes(name, attrs), torch.is_grad_enabled())
        if not states:
            return results
        named = zip(record["attrs"], _attributes(name, attrs), strict=True)
        if {spec["name"]: value for spec, value in named}.get("training", True):  # outside of it states stay
            for i, new in zip(states, results[n_outputs:], strict=True):
                if inputs[i] is not None:
                    inputs[i].copy_(new.detach())
        return results[0] if n_outputs == 1 else results[:n_outputs]

    def dispatch(*args: Any) -> Any:
        return general(*args) if is_compiling() else eager(*args)

    _C.connect(name, prepare, _eager_gradient(name) if record["differentiable"] else None, general)
    return dispatch


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, torch.Tensor) else x


def _operands(name: str, given: tuple[Any, ...], n: int, promotes: str) -> tuple[Any, ...]:
    """All inputs of an op: missing ones as None, numbers and states as tensors, all of one dtype where they meet."""
    inputs = [torch.from_dlpack(a) if isinstance(a, _C.Tensor) else a for a in given] + [None] * (n - len(given))
    if promotes == "none":
        return tuple(inputs)
    first = 1 if promotes == "common after the first" else 0
    tensors = [a for a in inputs[first:] if isinstance(a, torch.Tensor)]
    if not tensors:
        kinds = ", ".join(type(a).__name__ for a in given)
        raise TypeError(f"{name}: expected a torch.Tensor among the operands, not {kinds}")
    dtype = tensors[0].dtype
    do_meet = all(t.dtype in DTYPES for t in tensors)  # otherwise the op names the one that it cannot read
    if do_meet:
        for a in inputs[first:]:
            dtype = torch.promote_types(dtype, a.dtype) if isinstance(a, torch.Tensor) else _with_number(dtype, a)
        if promotes == "floating" and not dtype.is_floating_point:
            dtype = torch.float32
    for i in range(first, n):
        if not isinstance(inputs[i], torch.Tensor):
            inputs[i] = torch.tensor(inputs[i], dtype=dtype, device=tensors[0].device)
        elif do_meet and inputs[i].dtype != dtype:
            inputs[i] = inputs[i].to(dtype)
    return tuple(inputs)


def _with_number(dtype: torch.dtype, number: Any) -> torch.dtype:
    """A Python number takes the dtype of the tensors, but for a float among integers and an integer among bools."""
    if isinstance(number, float) and not dtype.is_floating_point:
        return torch.float32
    return torch.int64 if dtype == torch.bool and not isinstance(number, bool) else dtype


def _attributes(name: str, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """All attributes as PyTorch's schema takes them: defaults filled in, dtypes PyTorch's, lists for integers."""
    specs = RECORDS[name]["attrs"]
    return tuple(
        _attribute(a, v) for a, v in zip(specs, (*given, *(a["default"] for a in specs[len(given) :])), strict=True)
    )


def _attribute(spec: dict[str, Any], value: Any) -> Any:
    if spec["type"] == "dtype" and value is not None:
        return value if isinstance(value, torch.dtype) else getattr(torch, _C.dtype_of(value).name)
    if spec["type"] == "ints" and isinstance(value, int):
        return [value] * max(1, spec["count"])
    return value


def _eager_gradient(name: str) -> Callable[..., Any]:
    """The op with a gradient outside of transforms, called with the operands and a tuple of the attributes."""
    record = getattr(_C.recorded, name)

    def forward(ctx: Any, *args: Any) -> Any:
        result, kept, ctx.call = record(*args)
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)
        return result

    def gradients(ctx: Any, *dys: Any) -> Any:
        return ctx.call.gradients(ctx.saved_tensors, dys, ctx.needs_input_grad)

    def backward(ctx: Any, *dys: Any) -> Any:
        return _differentiable_once(name, gradients(ctx, *dys)) if torch.is_grad_enabled() else gradients(ctx, *dys)

    function: Any = type(f"{name}_eager", (torch.autograd.Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(backward),
    })  # fmt: skip
    # Function.apply is this behind checks for transforms, which `_C.eager` has made; they cost as much as the op.
    return super(torch.autograd.Function, function).apply


def _differentiable_once(name: str, gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    """Gradients that raise when they are differentiated, rather than pass for constants."""
    refuse: Any = torch._C._functions.DelayedError(_NO_SECOND_DERIVATIVES.format(name).encode(), len(gradients))
    return refuse(*(None if g is None else g.detach().requires_grad_() for g in gradients))


def _traced_function(name: str) -> Any:
    """The autograd function of an op inside transforms: of the number of operands, the operands, the attributes."""
    is_variadic = RECORDS[name]["inputs"][-1]["variadic"]
    op = getattr(torch.ops.lamina, name)

    def forward(n: int, *args: Any) -> Any:
        inputs = [list(args[:n])] if is_variadic else args[:n]
        return op(*inputs, *_attributes(name, args[n:]), True)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        n = inputs[0]
        _save(name, ctx, inputs[1 : 1 + n], inputs[1 + n :], output)

    def backward(ctx: Any, *dys: Any) -> Any:
        needs = ctx.needs_input_grad[1 : 1 + ctx.n]
        vjp = functools.partial(_Vjp.apply, name)
        return (None, *_gradients(name, ctx, dys, needs, vjp), *([None] * len(ctx.attrs)))

    return type(f"{name}_traced", (torch.autograd.Function,), {
        "forward": staticmethod(forward), "setup_context": staticmethod(setup_context),
        "backward": staticmethod(backward), "generate_vmap_rule": True,
    })  # fmt: skip


def register_gradient(name: str) -> None:
    """The gradient of the registered op itself."""
    record = RECORDS[name]
    n_inputs, n_attrs = len(record["inputs"]), len(record["attrs"])
    is_variadic = record["inputs"][-1]["variadic"]

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs[n_inputs + n_attrs :] != (True,):
            raise RuntimeError(f"{name}: a bare op keeps nothing for backward; call lamina.torch.functional.{name}")
        operands = tuple(inputs[0]) if is_variadic else inputs[:n_inputs]
        _save(name, ctx, operands, inputs[n_inputs : n_inputs + n_attrs], output)

    def backward(ctx: Any, *dys: Any) -> Any:
        needs = ctx.needs_input_grad[0] if is_variadic else ctx.needs_input_grad[:n_inputs]
        needs = [needs] * ctx.n if isinstance(needs, bool) else needs
        gradients = _gradients(name, ctx, dys, needs, functools.partial(_call_vjp, name))
        if torch.is_grad_enabled():
            gradients = list(_differentiable_once(name, tuple(gradients)))
        return (*([gradients] if is_variadic else gradients), *([None] * (n_attrs + 1)))

    torch.library.register_autograd(f"lamina::{name}", backward, setup_context=setup_context, lib=LIBRARY)


def _save(name: str, ctx: Any, inputs: tuple[Any, ...], attrs: tuple[Any, ...], result: Any) -> None:
    results = result if isinstance(result, tuple) else (result,)
    outputs = results[: len(RECORDS[name]["outputs"])]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*(y for y in outputs if not y.is_floating_point()), *results[len(outputs) :])
    # Of an operand whose values the vjp does not read, its shape and strides stay: one element, seen as all of them.
    operands = (*inputs, *outputs)
    masks = [RECORDS[name]["kept_inputs"] >> min(i, 31) & 1 for i in range(len(inputs))]
    masks += [RECORDS[name]["kept_outputs"] >> min(i, 31) & 1 for i in range(len(outputs))]
    ctx.save_for_backward(*(_kept(x, is_read) for x, is_read in zip(operands, masks, strict=True)))
    ctx.strides = [stride for x in operands if x is not None for stride in x.stride()]
    ctx.n, ctx.attrs = len(inputs), tuple(list(a) if isinstance(a, list) else a for a in attrs)  # callers reuse lists


def _gradients(name: str, ctx: Any, dys: tuple[Any, ...], needs: Any, vjp: Callable[..., Any]) -> list[Any]:
    """One per operand; None where none is needed."""
    flags = [bool(need) for need in needs]
    counts, dys = (ctx.n, len(ctx.saved_tensors) - ctx.n), dys[: len(RECORDS[name]["outputs"])]
    found = iter(vjp(counts, flags, ctx.strides, _attributes(name, ctx.attrs), *ctx.saved_tensors, *dys))
    return [next(found) if need else None for need in flags]


def _call_vjp(name: str, counts: Any, flags: Any, strides: Any, attrs: Any, *tensors: Any) -> tuple[Any, ...]:
    n, m = counts
    inputs, outputs, dys = list(tensors[:n]), list(tensors[n : n + m]), list(tensors[n + m :])
    return tuple(getattr(torch.ops.lamina, f"{name}_vjp")(inputs, outputs, dys, flags, strides, *attrs))


class _Vjp(torch.autograd.Function):
    """A vjp inside transforms, which would take it for a constant if it could not refuse to be differentiated."""

    generate_vmap_rule = True
    forward = staticmethod(_call_vjp)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *dys: Any) -> Any:
        raise RuntimeError(_NO_SECOND_DERIVATIVES.format(ctx.name))


def _kept(x: torch.Tensor | None, is_read: int) -> torch.Tensor | None:
    return x if x is None or is_read else x.new_empty(()).expand(x.shape)


for _name in NAMES:
    if RECORDS[_name]["differentiable"]:
        register_gradient(_name)


def _state_of(generator: None, device: Any = "cpu") -> torch.Tensor:
    """A state for one call, drawn from PyTorch's generator.

    So ``torch.manual_seed`` seeds it, data loaders seed their workers, and activation checkpointing draws it again.
    """
    return torch.randint(2**62, (2,), device=device)


def _are_values_unknown() -> bool:
    """Whether a program is traced, or tensors are fake."""
    return torch.compiler.is_compiling() or is_fake_mode_active()


def rebind_functions(module: dict[str, Any]) -> list[str]:
    """Makes `module` a copy of ``lamina.functional`` that calls the ops registered here; gives the public names.

    The compiler looks a function's globals up by its module: that is why the copies have their own.
    """
    return bridge.rebind_functions(module, {name: dispatcher(name) for name in NAMES}, _state_of, _are_values_unknown)
