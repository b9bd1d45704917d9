"""Optimizer steps and gradient clipping over whole models: one large tensor, and many small ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import lamina
from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import measure

MODELS = {"1M": [1 << 20], "16M": [1 << 24], "100 x 1000": [1000] * 100, "100 x 10": [10] * 100}
# name: class, its options, bytes of traffic per float parameter
STEPS = {"adam": ("Adam", {}, 28), "sgd": ("SGD", {"momentum": 0.9}, 20)}


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    out.title("optimizer steps; PyTorch's are its fused ones")
    for model, sizes in MODELS.items():
        rng = np.random.default_rng(0)
        arrays = [(rng.standard_normal(n, np.float32), rng.standard_normal(n, np.float32)) for n in sizes]
        for name, (optimizer, arguments, traffic) in STEPS.items():
            if options.filter in f"{name} {model}":
                calls = {library: step(optimizer, arrays, arguments) for library, step in LIBRARIES.items()}
                report(f"{name} {model}", calls, traffic * sum(sizes), threads, options, out)
        if options.filter in f"clip_grad_norm_ {model}":
            calls = {library: clip(arrays) for library, clip in CLIPPERS.items()}
            report(f"clip_grad_norm_ {model}", calls, 4 * sum(sizes), threads, options, out)


def report(name: str, calls: dict[str, Any], traffic: int, threads: int, options: Any, out: Report) -> None:
    timings = measure(calls, threads, options.quick)
    row = Row.of("adam", name, threads, timings.pop("lamina"), timings)
    row.bytes = traffic
    out.row(row)


def lamina_parameters(arrays: list[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    parameters = [lamina.nn.Parameter(lamina.tensor(value)) for value, _ in arrays]
    for p, (_, grad) in zip(parameters, arrays, strict=True):
        p.grad = lamina.tensor(grad)
    return parameters


def torch_parameters(arrays: list[tuple[np.ndarray, np.ndarray]]) -> list[Any]:
    import torch

    parameters = [torch.tensor(value, requires_grad=True) for value, _ in arrays]
    for p, (_, grad) in zip(parameters, arrays, strict=True):
        p.grad = torch.tensor(grad)
    return parameters


def lamina_step(name: str, arrays: list[Any], arguments: dict[str, Any]) -> Callable[[int], object]:
    optimizer = getattr(lamina.optim, name)(lamina_parameters(arrays), lr=1e-6, **arguments)
    return lambda i: optimizer.step()


def torch_step(name: str, arrays: list[Any], arguments: dict[str, Any]) -> Callable[[int], object]:
    import torch

    optimizer = getattr(torch.optim, name)(torch_parameters(arrays), lr=1e-6, fused=True, **arguments)
    return lambda i: optimizer.step()


def lamina_clip(arrays: list[Any]) -> Callable[[int], object]:
    parameters = lamina_parameters(arrays)
    return lambda i: lamina.nn.utils.clip_grad_norm_(parameters, 1e9)


def torch_clip(arrays: list[Any]) -> Callable[[int], object]:
    from torch.nn.utils import clip_grad_norm_

    parameters = torch_parameters(arrays)
    return lambda i: clip_grad_norm_(parameters, 1e9)


LIBRARIES = {"lamina": lamina_step} | ({"torch": torch_step} if HAS_TORCH else {})
CLIPPERS = {"lamina": lamina_clip} | ({"torch": torch_clip} if HAS_TORCH else {})
