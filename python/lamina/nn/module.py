"""Module: a tree of parameters, buffers and children, and the containers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lamina import _C
from lamina._C import Tensor
from lamina.devices import is_device
from lamina.tensor import asarray


class Parameter(Tensor):
    """A tensor that an open tape watches at first use, and that ``Module.parameters()`` finds.

    Args: data: Tensor of a floating dtype, whose memory is shared.
    """

    def __new__(cls, data: Tensor) -> Parameter:
        self = super().__new__(cls, data)
        _C.watch_as_parameter(self)
        return self

    def __repr__(self) -> str:
        return f"Parameter({super().__repr__()})"

    def __reduce__(self) -> Any:
        return Parameter, (self.detach(),)


class Module:
    """The base of all layers: assign Parameters, Tensors (buffers) and Modules as attributes and define ``forward``.

    >>> class Scale(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.factor = nn.Parameter(creation.ones(1))
    ...     def forward(self, x): return x * self.factor
    """

    training: bool
    _parameters: dict[str, Parameter | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, Module]

    def __init__(self) -> None:
        object.__setattr__(self, "training", True)
        for table in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, table, {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's formula."""
        raise NotImplementedError(f"{type(self).__name__}: a Module defines forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    # --- attributes: tensors and modules are kept both as attributes and in their tables ---

    def __setattr__(self, name: str, value: Any) -> None:
        if "_parameters" not in self.__dict__:
            raise RuntimeError(f"{type(self).__name__}: call super().__init__() before assigning attributes")
        for table in (self._parameters, self._buffers, self._modules):
            table.pop(name, None)
        if isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Tensor):
            self._buffers[name] = value
        elif isinstance(value, Module):
            self._modules[name] = value
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            table.pop(name, None)
        object.__delattr__(self, name)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Adds a parameter; None reserves its place, as ``bias=False`` does."""
        setattr(self, name, parameter)
        if parameter is None:
            self._parameters[name] = None

    def register_buffer(self, name: str, buffer: Tensor | None) -> None:
        """Adds a tensor that is saved with the module and not trained."""
        setattr(self, name, buffer)
        if buffer is None:
            self._buffers[name] = None

    # --- walking the tree ---

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with dotted names."""
        seen: set[int] = set()

        def walk(module: Module, path: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield path, module
            for name, child in module._modules.items():
                yield from walk(child, f"{path}.{name}" if path else name)

        return walk(self, prefix)

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def children(self) -> Iterator[Module]:
        """The modules directly below this one."""
        return iter(self._modules.values())

    def _named(self, table: str, prefix: str) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for path, module in self.named_modules(prefix):
            for name, value in getattr(module, table).items():
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}" if path else name, value

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names; a shared one appears once."""
        return self._named("_parameters", prefix)

    def parameters(self) -> Iterator[Parameter]:
        """All parameters; a shared one appears once."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """All buffers with dotted names."""
        return self._named("_buffers", prefix)

    def buffers(self) -> Iterator[Tensor]:
        """All buffers."""
        return (buffer for _, buffer in self.named_buffers())

    # --- state ---

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and buffers by dotted name: the live tensors, not copies. Keys are those of PyTorch's layers."""
        state: dict[str, Tensor] = OrderedDict()
        for name, value in (*self._parameters.items(), *self._buffers.items()):
            if value is not None:
                state[prefix + name] = value
        for name, child in self._modules.items():
            state.update(child.state_dict(f"{prefix}{name}."))
        return state

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Copies values into the parameters and buffers of the same names.

        Args:
            state: name to Tensor or array; dtypes are cast, shapes must agree.
            strict: whether the names must be exactly those of ``state_dict()``.

        Raises: KeyError for names missing or left over; ValueError for shapes. Nothing is written then.
        """
        own = self.state_dict()
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        if strict and (missing or unexpected):
            raise KeyError(
                f"load_state_dict: missing names {missing}, unexpected names {unexpected}; "
                f"expected exactly the names of this {type(self).__name__}"
            )
        values = {name: asarray(state[name]) for name in own if name in state}
        for name, value in values.items():
            if value.shape != own[name].shape:
                raise ValueError(f"load_state_dict: {name} has shape {value.shape}; expected {own[name].shape}")
        for name, value in values.items():
            own[name].copy_(value)

    # --- modes ---

    def train(self, mode: bool = True) -> Module:
        """Sets training (dropout, batch statistics) or evaluation for the whole tree; returns self."""
        for module in self.modules():
            object.__setattr__(module, "training", mode)
        return self

    def eval(self) -> Module:
        """``train(False)``."""
        return self.train(False)

    def freeze(self, frozen: bool = True) -> Module:
        """Excludes all parameters from tapes: below the first unfrozen one nothing is recorded or kept."""
        for parameter in self.parameters():
            parameter.is_frozen = frozen
        return self

    def to(self, target: Any) -> Module:
        """Casts floating parameters and buffers to a dtype, or moves all to a device; returns self."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dtype.is_floating_point or is_device(target):
                moved = tensor.detach().to(target)
                if (moved.dtype, moved.device) != (tensor.dtype, tensor.device):
                    _C.rebind(tensor, moved)
        return self

    def apply(self, fn: Callable[[Module], Any]) -> Module:
        """Calls ``fn`` on every module of the tree, children first; returns self."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def zero_grad(self) -> None:
        """Forgets stored gradients; only needed before ``backward(accumulate=True)``."""
        for parameter in self.parameters():
            parameter.grad = None

    # --- text ---

    def extra_repr(self) -> str:
        """The arguments of this layer, for ``repr``."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): " + repr(child).replace("\n", "\n  ") for name, child in self._modules.items()]
        head = f"{type(self).__name__}("
        if not lines:
            return head + self.extra_repr() + ")"
        return head + "".join(f"\n  {line}" for line in lines) + "\n)"


class Sequential(Module):
    """Applies modules one after the other.

    Args: modules: the modules in order, or one dict of names to modules.
    """

    def __init__(self, *modules: Module | dict[str, Module]) -> None:
        super().__init__()
        first = modules[0] if modules else None
        named: Iterable[tuple[str, Any]]
        named = first.items() if isinstance(first, dict) else ((str(i), m) for i, m in enumerate(modules))
        for name, module in named:
            setattr(self, name, module)

    def forward(self, x: Any) -> Any:
        for module in self._modules.values():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int | slice) -> Module:
        modules = list(self._modules.values())
        return Sequential(*modules[index]) if isinstance(index, slice) else modules[index]


class ModuleList(Module):
    """A list of modules whose parameters belong to the tree."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        setattr(self, str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, index: int) -> Module:
        return list(self._modules.values())[index]
