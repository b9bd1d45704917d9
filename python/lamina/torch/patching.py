"""Lamina's layers in a model that is there: each module changes its class, in place, and can change it back.

    report = lamina.torch.patch(model)      # print(report): what was replaced, what was not and why
    lamina.torch.unpatch(model)             # every bit as before

A module keeps its parameters, buffers, hooks and name; only its ``forward`` becomes another. So optimizers, state dicts
and modules that are shared or wrapped (``DistributedDataParallel``) need no care.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch

from lamina import _C
from lamina.torch import nn

__all__ = ["Report", "patch", "unpatch"]

_ORIGINALS = {ours: base for base, ours in nn.COUNTERPARTS.items()}
_EVERYWHERE = (torch.float32, torch.bfloat16, torch.float64)
_DTYPES = {"cpu": _EVERYWHERE, "cuda": (*_EVERYWHERE, torch.float16)}


@dataclass
class Report:
    """What ``patch`` did, by the names that ``model.named_modules()`` gives.

    Args:
        replaced: name of a module: the class that it has now.
        left: name of a layer that stays PyTorch's: the reason.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"lamina: {len(self.replaced)} modules replaced, {len(self.left)} left to PyTorch"]
        for title, names in (("replaced", self.replaced), ("left", self.left)):
            groups: dict[str, list[str]] = {}
            for name, what in names.items():
                groups.setdefault(what, []).append(name or "the model itself")
            lines += [f"  {title}: {len(group)} × {what} ({_listed(group)})" for what, group in groups.items()]
        return "\n".join(lines)

    __repr__ = __str__


def _listed(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], "…", names[-1]])


def patch(model: torch.nn.Module, only: Collection[type[torch.nn.Module] | str] | None = None) -> Report:
    """Gives the layers of a model Lamina's kernels, in place.

    Args:
        model: any module. What its own ``forward`` calls as functions (``torch.nn.functional.relu(x)``) stays as it is.
        only: classes of PyTorch (``torch.nn.LSTM`` or ``"LSTM"``) and names of modules (``"encoder.conv1"``, which
            includes what is inside) to which replacing is restricted; None: all.

    Returns: a report, whose ``str`` is for reading. Left to PyTorch are layers that Lamina does not have; options,
        dtypes and devices that its kernels do not have; subclasses of PyTorch's layers and modules whose ``forward``
        was replaced, which may compute something else; and what is scripted.
    Raises: ValueError for an entry of ``only`` that is neither a class that can be replaced nor a module of the model.
    Note: patch before ``torch.jit.script``, ``torch.export`` and quantization; before or after ``torch.compile``,
        which then compiles again, and ``DistributedDataParallel``.
    """
    modules = dict(model.named_modules())
    wanted = _selection(modules, only)
    report = Report()
    for name, module in modules.items():
        if not wanted(name, module) or type(module) in _ORIGINALS:
            continue
        reason = _reason_against(module, model)
        if reason is None:
            module.__class__ = nn.COUNTERPARTS[type(module)]
            report.replaced[name] = type(module).__name__
        elif isinstance(module, tuple(nn.COUNTERPARTS)) or not any(module.children()):
            report.left[name] = f"{type(module).__name__}: {reason}"
    return report


def unpatch(model: torch.nn.Module) -> None:
    """Makes PyTorch's layers of all of Lamina's in a model, in place: what ``patch`` did is undone.

    Args: model: any module.
    """
    for module in model.modules():
        if original := _ORIGINALS.get(type(module)):
            module.__class__ = original


def _selection(
    modules: dict[str, torch.nn.Module], only: Collection[type[torch.nn.Module] | str] | None
) -> Callable[[str, torch.nn.Module], bool]:
    if only is None:
        return lambda name, module: True
    entries = {entry if isinstance(entry, str) else entry.__name__ for entry in only}
    classes = {base.__name__ for base in nn.COUNTERPARTS}
    for entry in sorted(entries - classes - set(modules)):
        raise ValueError(f"patch: only has {entry}; expected modules of the model, or {', '.join(sorted(classes))}")

    def is_wanted(name: str, module: torch.nn.Module) -> bool:
        above = {name[:i] for i, c in enumerate(name) if c == "."}
        return not entries.isdisjoint({type(module).__name__, name, *above})

    return is_wanted


def _reason_against(module: torch.nn.Module, model: torch.nn.Module) -> str | None:
    """Why a module keeps PyTorch's kernels; None if it does not have to."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted already"
    base = type(module)
    if base not in nn.COUNTERPARTS:
        if parents := [b.__name__ for b in nn.COUNTERPARTS if isinstance(module, b)]:
            return f"a subclass of {parents[0]}, which may compute something else"
        return "Lamina has no such layer"
    if "forward" in vars(module):
        return "its forward was replaced"
    if reason := nn.obstacle(module, base):
        return reason
    own = list(module.parameters())
    for tensor in own or model.parameters():  # a layer without parameters will be given what others make
        if reason := _reason_against_tensor(tensor):
            return reason if own else f"elsewhere in the model {reason}"
    return None


def _reason_against_tensor(tensor: torch.Tensor) -> str | None:
    try:
        _C.check_device(str(tensor.device))
    except (ValueError, RuntimeError) as error:
        return str(error)
    dtypes = _DTYPES[tensor.device.type]
    if tensor.dtype not in dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        return f"parameters are {str(tensor.dtype).removeprefix('torch.')}; expected {names} on {tensor.device.type}"
    return None
