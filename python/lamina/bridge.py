"""What the registrations of Lamina's ops with other frameworks share."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from lamina import _C, functional

RECORDS: dict[str, dict[str, Any]] = _C.schemas()
# What frameworks have themselves and would not gain: ops without operands, moves between devices, whole optimizers.
LEFT_OUT = {"full", "progression", "to_device", "adam_", "sgd_", "clip_grad_norm_", "clip_factor", "copy_", "clone"}
# And the parts of gradients: they are called with what a vjp makes, and `infer` does not check that.
NAMES = [name for name in RECORDS if name not in LEFT_OUT and "_backward" not in name]


def rebind_functions(
    module: dict[str, Any],
    ops: Mapping[str, Callable[..., Any]],
    state_of: Callable[..., Any],
    is_recording: Callable[[], bool] = _C.is_recording,
) -> list[str]:
    """Makes ``module`` a copy of ``lamina.functional`` that calls ``ops``; gives the names of its public functions.

    The copies have ``module`` as their globals, so they call one another, too.

    Args:
        module: the globals of a module.
        ops: by name, what stands for ``lamina._C.<name>``.
        state_of: stands for ``lamina.random.state_of``.
        is_recording: whether values of operands cannot be read now.
    """
    originals = {
        name: function
        for name, function in vars(functional).items()
        if inspect.isfunction(function) and function.__module__ == functional.__name__
    }
    module.update({name: value for name, value in vars(functional).items() if not name.startswith("__")})
    module["_C"] = types.ModuleType("ops")  # the interpreter caches what it finds in a module
    vars(module["_C"]).update(ops, dtype_of=_C.dtype_of, is_recording=is_recording)
    module["random"] = types.SimpleNamespace(state_of=state_of)
    for name, function in originals.items():
        copy = types.FunctionType(function.__code__, module, name, function.__defaults__, function.__closure__)
        copy.__kwdefaults__, copy.__doc__ = function.__kwdefaults__, function.__doc__
        copy.__annotations__, copy.__module__ = function.__annotations__, module["__name__"]
        module[name] = copy
    return [name for name in originals if name[0] != "_" and name not in LEFT_OUT]
