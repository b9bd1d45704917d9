"""One call in each library: how operands are made, how it runs forward and backward, what comes back."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

import lamina
from bench.timing import as_sequence
from cases import Bench, Case, is_floating

HAS_TORCH = importlib.util.find_spec("torch") is not None
HAS_JAX = importlib.util.find_spec("jax") is not None


def convert(value: Any, to: Callable[[np.ndarray], Any]) -> Any:
    """Applies `to` to the arrays of a list of inputs."""
    if isinstance(value, list):
        return [convert(x, to) for x in value]
    return to(value) if isinstance(value, np.ndarray) else value


def is_differentiable(value: Any) -> bool:
    return isinstance(value, np.ndarray) and is_floating(value.dtype)


def output_gradient(y: Any) -> np.ndarray:
    """What is handed to a backward pass: random, as the gradient of a normalisation for equal numbers is only noise."""
    return np.random.default_rng(0).standard_normal(tuple(y.shape), np.float32)


class Lamina:
    """Calls `lamina.functional`."""

    def __init__(self, case: Case, bench: Bench, device: str):
        self.device = device
        self.function, self.attrs, self.gradients = (
            getattr(lamina.functional, case.op),
            bench.attrs,
            case.gradients,
        )

    def tensor(self, x: np.ndarray) -> lamina.Tensor:
        return lamina.from_numpy(x).to(self.device)

    def forward(self, inputs: list[Any]) -> Callable[[], Any]:
        tensors, function, attrs = convert(inputs, self.tensor), self.function, self.attrs
        return lambda: function(*tensors, **attrs)

    def backward(self, inputs: list[Any]) -> Callable[[], Any]:
        """Gradients of all floating inputs, of a tape made beforehand."""
        tensors = convert(inputs, self.tensor)
        wanted = range(len(inputs)) if self.gradients is None else self.gradients
        leaves = [tensors[i] for i in wanted if is_differentiable(inputs[i])]
        with lamina.Tape() as tape:
            for x in leaves:
                tape.watch(x)
            y = as_sequence(self.function(*tensors, **self.attrs))[0]
        dy = lamina.functional.cast(self.tensor(output_gradient(y)), dtype=y.dtype)
        return lambda: tape.gradient(y, leaves, dy)

    @staticmethod
    def numpy(value: Any) -> np.ndarray:
        return np.asarray(value)


class Torch:
    """Calls the case's PyTorch rival."""

    def __init__(self, function: Callable, gradients: Any, device: str):
        self.function, self.gradients, self.device = function, gradients, device

    def tensors(self, inputs: list[Any]) -> list[Any]:
        import torch

        def tensor(x: np.ndarray):
            if x.dtype.name == "bfloat16":
                return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).to(self.device)
            return torch.from_numpy(x).to(self.device)

        return convert(inputs, tensor)

    def forward(self, inputs: list[Any]) -> Callable[[], Any]:
        import torch

        tensors, function = self.tensors(inputs), self.function

        def call():
            with torch.no_grad():
                return function(*tensors)

        return call

    def backward(self, inputs: list[Any]) -> Callable[[], Any]:
        import torch

        tensors = self.tensors(inputs)
        wanted = range(len(inputs)) if self.gradients is None else self.gradients
        leaves = [tensors[i].requires_grad_() for i in wanted if is_differentiable(inputs[i])]
        y = as_sequence(self.function(*tensors))[0]
        dy = torch.from_numpy(output_gradient(y)).to(y)
        return lambda: torch.autograd.grad(y, leaves, dy, retain_graph=True, allow_unused=True)

    @staticmethod
    def numpy(value: Any) -> np.ndarray:
        value = value.detach().cpu()
        return value.float().numpy() if value.is_floating_point() else value.numpy()


class NumPy:
    """Calls the case's NumPy rival; forward only."""

    def __init__(self, function: Callable):
        self.function = function

    def forward(self, inputs: list[Any]) -> Callable[[], Any]:
        function = self.function
        return lambda: function(*inputs)

    @staticmethod
    def numpy(value: Any) -> np.ndarray:
        return np.asarray(value)


def rivals_of(case: Case, bench: Bench, dtype: str, device: str) -> dict[str, Any]:
    """Name -> library, for the rivals that the row names and this machine has."""
    found: dict[str, Any] = {}
    if bench.numpy and dtype in ("float32", "float64") and device == "cpu":
        found["numpy"] = NumPy(bench.numpy)
    if bench.torch and HAS_TORCH:
        named = bench.torch if isinstance(bench.torch, dict) else {"torch": bench.torch}
        found |= {name: Torch(function, case.gradients, device) for name, function in named.items()}
    return found


def check(name: str, results: dict[str, np.ndarray]) -> None:
    """Refuses to time a wrong answer: first outputs agree within 1e-3 (short dtypes: 3 %) in norm.

    The digits are judged by the tests; this only makes sure that all libraries do the same work.
    """
    ours = results["lamina"]
    limit = 0.03 if ours.dtype.itemsize == 2 else 1e-3
    y = ours.astype(np.float64)
    for rival, want in results.items():
        if y.shape != want.shape:
            raise SystemExit(f"{name}: lamina gives shape {y.shape}, {rival} {want.shape}")
        error = np.linalg.norm(y - want) / (np.linalg.norm(want) + 1e-30)
        if not error <= limit:
            raise SystemExit(f"{name}: lamina and {rival} differ by {error:.2g} in relative norm")
