"""Optimizer: parameter groups, their state, and saving it. A step is one call for all tensors of a group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from lamina import _C
from lamina._C import Tensor
from lamina.tensor import asarray, tensor


class ParameterGroup(dict):
    """Parameters that share hyperparameters: a dict as in PyTorch, whose "lr" also lies in device memory.

    ``group["lr"] = 1e-4`` writes there, so that recorded programs follow. A Tensor of one element may be given
    instead: it is used as it is, and may be the result of recorded ops.
    """

    lr_tensor: Tensor
    known_states: tuple[Any, list[Tensor]]  # what the latest step asked for, and the answer

    def __init__(self, values: dict[str, Any]):
        super().__init__()
        self.lr_tensor = tensor(0.0, dtype="float64", device="cpu")
        self.known_states = (None, [])
        for key, value in values.items():
            self[key] = value

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "lr":
            if isinstance(value, Tensor):
                self.lr_tensor = value
            else:
                _require(float(value) >= 0, "lr", value, "at least 0")
                self.lr_tensor.copy_(tensor(float(value), dtype="float64", device=self.lr_tensor.device))
        super().__setitem__(key, value)

    def lr_on(self, device: str) -> Tensor:
        """The learning rate in the memory of the device that the parameters lie on."""
        if self.lr_tensor.device != device and not isinstance(self["lr"], Tensor):
            self.lr_tensor = self.lr_tensor.to(device)
        return self.lr_tensor

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value


class Optimizer:
    """What all optimizers share.

    A subclass names the tensors of its state in ``state_names`` and steps one group in ``_step_group``.
    Tensors of state are float32 (float64 for float64 parameters); next to them every parameter has a step
    count, ``"step"``. Both come into being at the first step, in which the parameter has a gradient.

    Args:
        params: parameters, or dicts with "params" and hyperparameters that differ from the defaults.
        defaults: hyperparameters of groups that do not say otherwise.

    Raises: ValueError if there are no parameters or one appears twice; TypeError for what is not a Tensor.
    """

    state_names: ClassVar[dict[str, str | None]] = {}  # name: the hyperparameter that switches it on, or None

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]):
        self.defaults = defaults
        self.param_groups: list[ParameterGroup] = []
        self.state: dict[int, dict[str, Tensor]] = {}  # by position of the parameter, counted over all groups
        groups = list(params)
        if not groups:
            raise ValueError(f"{type(self).__name__}: params is empty; expected at least one parameter")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Adds parameters with hyperparameters of their own, such as a layer that has just been unfrozen."""
        name = type(self).__name__
        params = group["params"]
        params = [params] if isinstance(params, Tensor) else list(params)
        seen = {id(p) for g in self.param_groups for p in g["params"]}
        for i, p in enumerate(params):
            if not isinstance(p, Tensor):
                raise TypeError(f"{name}: params[{i}] is a {type(p).__name__}; expected a lamina.Tensor")
            if id(p) in seen:
                raise ValueError(f"{name}: params[{i}] appears twice; expected each parameter once")
            seen.add(id(p))
        unknown = set(group) - set(self.defaults) - {"params"}
        if unknown:
            raise TypeError(f"{name}: unknown hyperparameters {sorted(unknown)}; expected {sorted(self.defaults)}")
        added = ParameterGroup({**self.defaults, **group, "params": params})
        self._check(added)
        self.param_groups.append(added)

    def step(self, *, scale: Tensor | None = None) -> None:
        """Updates every parameter that has a gradient.

        Args: scale: one element in device memory that multiplies all gradients: a clipping factor, or the
            inverse of a loss scale.
        """
        first = 0
        for group in self.param_groups:
            params = group["params"]
            grads = [p.grad for p in params]
            positions = list(range(first, first + len(params)))
            first += len(params)
            if any(grad is None for grad in grads):
                kept = [i for i, grad in enumerate(grads) if grad is not None]
                params, grads = [params[i] for i in kept], [grads[i] for i in kept]
                positions = [positions[i] for i in kept]
            if params:
                self._step_group(group, scale, params, grads, positions)

    def _step_group(
        self,
        group: ParameterGroup,
        scale: Tensor | None,
        params: list[Tensor],
        grads: list[Tensor],
        positions: Sequence[int],
    ) -> None:
        raise NotImplementedError(f"{type(self).__name__}: an Optimizer defines _step_group")

    def _check(self, group: ParameterGroup) -> None:
        """Raises ValueError for hyperparameters that make no sense."""

    def _names(self, group: dict[str, Any]) -> list[str]:
        """The tensors of state that a parameter of this group has, besides its step count."""
        return [name for name, switch in self.state_names.items() if switch is None or group[switch]]

    def _state_of(self, position: int, parameter: Tensor, group: ParameterGroup) -> dict[str, Tensor]:
        state = self.state.setdefault(position, {})
        if "step" not in state:
            state["step"] = tensor(0, dtype="int64", device=parameter.device)
        for name in self._names(group):
            if name not in state:
                dtype = "float64" if parameter.dtype == "float64" else "float32"
                state[name] = _C.fill_like(parameter, 0.0, dtype)
        return state

    def _states(
        self, group: ParameterGroup, params: list[Tensor], positions: Sequence[int], names: Sequence[str]
    ) -> list[Tensor]:
        """The tensors of those names: all of the first name, then all of the second, and so on."""
        if group.known_states[0] != (positions, names):
            states = [self._state_of(i, p, group) for i, p in zip(positions, params, strict=True)]
            group.known_states = ((positions, names), [state[name] for name in names for state in states])
        return group.known_states[1]

    def zero_grad(self) -> None:
        """Forgets stored gradients; only needed before ``backward(accumulate=True)``."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @property
    def lr(self) -> Any:
        """The learning rate of the first group; assigning sets that of all groups, recorded steps too."""
        return self.param_groups[0]["lr"]

    @lr.setter
    def lr(self, value: Any) -> None:
        for group in self.param_groups:
            group["lr"] = value

    # --- saving and loading ---

    def state_dict(self) -> dict[str, Any]:
        """``{"state": {i: {"step": ..., ...}}, "param_groups": [...]}`` with the live tensors, not copies.

        Parameters are numbered as they were given. Keys are those of PyTorch's optimizers.
        """
        groups, first = [], 0
        for group in self.param_groups:
            n = len(group["params"])
            groups.append({**group, "params": list(range(first, first + n))})
            first += n
        return {"state": {i: dict(state) for i, state in self.state.items()}, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copies values into the state and sets the hyperparameters that this optimizer has.

        Args: state_dict: of this optimizer or of PyTorch's of the same name; values are Tensors or arrays.

        Raises: ValueError for other numbers of groups or parameters, or other shapes. Nothing is written
            then.
        """
        name = type(self).__name__
        groups = state_dict["param_groups"]
        given, expected = ([len(g["params"]) for g in gs] for gs in (groups, self.param_groups))
        if given != expected:
            raise ValueError(f"{name}: load_state_dict: groups of {given} parameters; expected {expected}")
        updates = [{key: g[key] for key in self.defaults if key in g} for g in groups]
        plan = []  # position, parameter, group, values
        saved_positions = [i for g in groups for i in g["params"]]
        own = [
            (p, group, update)
            for group, update in zip(self.param_groups, updates, strict=True)
            for p in group["params"]
        ]
        for position, (saved, (parameter, group, update)) in enumerate(zip(saved_positions, own, strict=True)):
            values = state_dict["state"].get(saved)
            if not values:
                continue
            arrays = {key: asarray(value) for key, value in self._loadable(values).items()}
            wanted = self._names(ParameterGroup({**group, **update}))
            for key in wanted:
                if key not in arrays or arrays[key].shape != parameter.shape:
                    found = f"has shape {arrays[key].shape}" if key in arrays else "is missing"
                    where = f"{name}: load_state_dict: {key} of parameter {position}"
                    raise ValueError(f"{where} {found}; expected {parameter.shape}")
            step = tensor(int(arrays["step"].item()), dtype="int64")  # PyTorch saves it as float32
            plan.append((position, parameter, group, {"step": step, **{key: arrays[key] for key in wanted}}))
        for group, update in zip(self.param_groups, updates, strict=True):
            group.update(update)
        for position, parameter, group, values in plan:
            state = self._state_of(position, parameter, group)
            for key, value in values.items():
                state[key].copy_(value)

    def _loadable(self, values: dict[str, Any]) -> dict[str, Any]:
        """The saved state of one parameter without what is None."""
        return {key: value for key, value in values.items() if value is not None}

    def __repr__(self) -> str:
        lines = [
            f"  group {i}: {len(group['params'])} parameters, "
            + ", ".join(f"{key}={value}" for key, value in group.items() if key != "params")
            for i, group in enumerate(self.param_groups)
        ]
        return "\n".join([f"{type(self).__name__}(", *lines, ")"])


def _require(holds: bool, name: str, value: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"optim: {name} is {value}; expected {expected}")
