"""Registration: ``torch.ops.lamina.*`` from Lamina's records."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad

from lamina import _C
from lamina.bridge import NAMES, RECORDS

if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"lamina.torch: PyTorch {torch.__version__} has no DLPack exchange API; expected 2.10 or newer")


def _asking(name: str, otherwise: Callable[[], Any]) -> Callable[[], Any]:
    """A question that PyTorch answers under a private name."""
    return getattr(torch._C, name, otherwise)


is_functorch_active = _asking("_are_functorch_transforms_active", lambda: True)


def is_forward_mode_active() -> bool:
    """Whether tensors may carry tangents, which the kernels would drop."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_fake_mode_active() -> bool:
    """Whether tensors have shapes only."""
    return torch._guards.detect_fake_mode() is not None


is_autocast_enabled = _asking(
    "_is_any_autocast_enabled", lambda: torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")
)
_C.use_framework(
    torch.Tensor.__dlpack_c_exchange_api__,
    torch.Tensor,
    torch.nn.Parameter,
    torch.is_grad_enabled,
    is_autocast_enabled,
    [is_functorch_active, _asking("_len_torch_dispatch_stack", lambda: False)],
    vars(forward_ad),
)

LIBRARY = torch.library.Library("lamina", "DEF")  # ops live as long as this object

DTYPES = {  # of operands
    torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
}  # fmt: skip
_TYPES = {"int": "int", "float": "float", "bool": "bool", "str": "str", "dtype": "ScalarType", "ints": "int[]"}


def _literal(attr: dict[str, Any]) -> str:
    """The default of an attribute as a PyTorch schema writes it."""
    value = attr["default"]
    if attr["type"] == "str":
        return f'"{value}"'
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _attribute(attr: dict[str, Any]) -> str:
    kind = f"int[{attr['count']}]" if attr["count"] else _TYPES[attr["type"]]
    if attr["type"] == "dtype" or attr["default"] in (math.inf, -math.inf):  # no literals of a schema: filled in later
        return f"{kind}? {attr['name']}=None"
    return f"{kind}{'?' if attr['optional'] else ''} {attr['name']}={_literal(attr)}"


def written(name: str) -> list[int]:
    """The operands that the record updates in place. The registered op gives their new values behind its outputs."""
    return [i for i, spec in enumerate(RECORDS[name]["inputs"]) if spec["written"]]


def schema_of(name: str) -> str:
    """The record in PyTorch's words: ``conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride=[1, 1], …)``."""
    record = RECORDS[name]
    inputs = []
    for spec in record["inputs"]:
        kind = "Tensor[]" if spec["variadic"] else "Tensor"
        inputs.append(f"{kind}{'?' if spec['optional'] else ''} {spec['name']}")
    attributes = [_attribute(a) for a in record["attrs"]]
    if record["differentiable"]:
        attributes.append("bool keep=False")
    n = len(record["outputs"]) + len(written(name))
    outputs = "Tensor" if n == 1 else f"({', '.join(['Tensor'] * n)})"
    return f"{name}({', '.join([*inputs, *attributes])}) -> {outputs}"


def _device_of(name: str, operands: list[torch.Tensor | None]) -> torch.device:
    """The one device of the operands: `infer` sees no devices, and tensors without data may claim any."""
    specs = RECORDS[name]["inputs"]
    named = [(specs[min(i, len(specs) - 1)]["name"], x.device) for i, x in enumerate(operands) if x is not None]
    (first, device), *others = named
    for other, its_device in others:
        if its_device != device:
            expected = "expected one device (Tensor.to moves a tensor)"
            raise RuntimeError(f"{name}: {first} is on {device} but {other} is on {its_device}; {expected}")
    return device


def _fake(name: str) -> Callable[..., Any]:
    """Outputs without data, by the record's ``infer``: shapes, strides, dtypes, and the same errors."""
    record = RECORDS[name]
    n_inputs, n_attrs = len(record["inputs"]), len(record["attrs"])

    def describe(x: torch.Tensor | None) -> Any:
        if x is None:
            return None
        return [int(n) for n in x.shape], [int(s) for s in x.stride()], str(x.dtype).removeprefix("torch.")

    def fake(*args: Any, **named: Any) -> Any:
        names = [s["name"] for s in (*record["inputs"], *record["attrs"])]
        values = [*args, *(named[n] for n in names[len(args) :] if n in named)]
        operands = [t for a in values[:n_inputs] for t in (a if isinstance(a, (list, tuple)) else [a])]
        operands += [None] * (n_inputs - len(values[:n_inputs]))
        attrs = tuple(values[n_inputs : n_inputs + n_attrs])
        keep = named.get("keep", args[n_inputs + n_attrs] if len(args) > n_inputs + n_attrs else False)
        found = _C.infer_exchanged(name, [describe(t) for t in operands], attrs, bool(keep))
        device = _device_of(name, operands)
        outputs = [
            torch.empty_strided(shape, strides, dtype=getattr(torch, dtype), device=device)
            for shape, strides, dtype in found
        ]
        states = (operands[i] for i in written(name))
        outputs += [torch.empty(0, device=device) if x is None else torch.empty_like(x) for x in states]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return fake


def _vjp_schema(name: str) -> str:
    attributes = "".join(f", {_attribute(a)}" for a in RECORDS[name]["attrs"])
    operands = "Tensor?[] inputs, Tensor?[] outputs, Tensor?[] dys, bool[] needs, int[] strides"
    return f"{name}_vjp({operands}{attributes}) -> Tensor[]"


def _vjp_implementation(name: str) -> Callable[..., list[torch.Tensor]]:
    def vjp(inputs: Any, outputs: Any, dys: Any, needs: Any, strides: Any, *attrs: Any) -> list[torch.Tensor]:
        found = _C.vjp_exchanged(name, list(inputs), list(outputs), list(dys), list(needs), list(strides), attrs)
        results = []
        for x, is_needed, dx in zip(inputs, needs, found, strict=True):
            if not is_needed:
                continue
            like = torch.empty_like(x)
            results.append(like.zero_() if dx is None else dx if dx.stride() == like.stride() else like.copy_(dx))
        return results

    return vjp


def _vjp_fake(
    inputs: Any, outputs: Any, dys: Any, needs: Any, strides: Any, *attrs: Any, **named: Any
) -> list[torch.Tensor]:
    return [torch.empty_like(x) for x, is_needed in zip(inputs, needs, strict=True) if is_needed]


for _name in NAMES:
    LIBRARY.define(schema_of(_name))
    LIBRARY.impl(_name, getattr(_C.registered, _name), "CPU")
    LIBRARY.impl(_name, getattr(_C.registered, _name), "CUDA")
    torch.library.register_fake(f"lamina::{_name}", _fake(_name), lib=LIBRARY)
    if RECORDS[_name]["differentiable"]:
        LIBRARY.define(_vjp_schema(_name))
        LIBRARY.impl(f"{_name}_vjp", _vjp_implementation(_name), "CPU")
        LIBRARY.impl(f"{_name}_vjp", _vjp_implementation(_name), "CUDA")
        torch.library.register_fake(f"lamina::{_name}_vjp", _vjp_fake, lib=LIBRARY)
