"""Lamina inside PyTorch and JAX: what a call of an op costs there, and what patched models gain."""

from __future__ import annotations

import argparse
import copy
import operator
from collections.abc import Callable
from typing import Any

from bench.report import Report, Row
from bench.rivals import HAS_JAX, HAS_TORCH
from bench.timing import Timing, measure

SIZE = 8  # of the square operands: small enough that the time is that of the call
CALLS = 100  # per timed call
CHAIN = 64  # ops in a compiled program
OPS = {  # name -> the same op in lamina.torch.functional and in PyTorch, and how many of x, weight, bias it takes
    "matmul": ("matmul", "mm", 2),
    "add": ("add", "add", 2),
    "relu": ("relu", "relu", 1),
    "linear": ("linear", "nn.functional.linear", 3),
}
MODES = ("forward", "forward and backward")


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    if HAS_TORCH:
        per_call(threads, options, out)
        models(threads, options, out)
        optimizers(threads, options, out)
        in_turn(threads, options, out)
    else:
        out.title("interop: PyTorch is not installed")
    if HAS_JAX:
        per_op_in_jit(options, out)
    else:
        out.title("interop: JAX is not installed")


def per_call(threads: int, options: argparse.Namespace, out: Report) -> None:
    """An op forward without gradients, and forward and backward with those of all floating operands."""
    import torch

    import lamina.torch.functional as F

    out.title(f"per call on PyTorch's tensors, {SIZE}x{SIZE} float32")
    for op, (ours, theirs, operands) in OPS.items():
        for mode in MODES:
            if options.filter not in f"{op}, {mode}":
                continue
            functions = {"lamina": getattr(F, ours), "torch": operator.attrgetter(theirs)(torch)}
            calls = {who: call(function, operands, mode) for who, function in functions.items()}
            timings = {who: t.per(CALLS) for who, t in measure(calls, threads, options.quick).items()}
            out.row(compared(f"{op}, {mode}", threads, timings))


def call(function: Callable, operands: int, mode: str) -> Callable[[int], object]:
    """The op `CALLS` times, on operands of its own."""
    import torch

    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn(shape, generator=generator) for shape in ((SIZE, SIZE), (SIZE, SIZE), (SIZE,))][:operands]
    dy = torch.ones(SIZE, SIZE)

    def forward(i: int) -> None:
        for _ in range(CALLS):
            function(*xs)

    def forward_and_backward(i: int) -> None:
        for _ in range(CALLS):
            function(*xs).backward(dy)
            for x in xs:
                x.grad = None

    if mode == "forward":
        return forward
    for x in xs:
        x.requires_grad_()
    return forward_and_backward


def compared(name: str, threads: int, timings: dict[str, Timing]) -> Row:
    """The row of a pair, with Lamina's time in units of PyTorch's: that is what is bounded here."""
    ours, (rival, theirs) = timings["lamina"], next((who, t) for who, t in timings.items() if who != "lamina")
    row = Row.of("interop", name, threads, ours, {rival: theirs})
    row.note = f"takes {theirs.ratio(ours):.2f}x of its time, {ours.minimum / theirs.minimum:.2f}x by minima"
    return row


def models(threads: int, options: argparse.Namespace, out: Report) -> None:
    """Training steps (forward, loss, backward, Adam) of a patched model, and of the same one by PyTorch alone."""
    import torch

    import lamina.torch

    out.title("training steps in PyTorch, patched and plain (its Adam fused)")
    for name, build in MODELS.items():
        if options.filter not in name:
            continue
        torch.manual_seed(0)
        plain, batch, target = build()
        patched = copy.deepcopy(plain)
        criteria = torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()
        for module in (patched, criteria[0]):
            lamina.torch.patch(module)
        calls = {
            "lamina": step(patched, criteria[0], batch, target, lamina.torch.optim.Adam(patched.parameters())),
            "torch": step(plain, criteria[1], batch, target, torch.optim.Adam(plain.parameters(), fused=True)),
        }
        timings = measure(calls, threads, options.quick)
        out.row(Row.of("interop", name, threads, timings.pop("lamina"), timings))


def step(model: Any, criterion: Any, batch: Any, target: Any, optimizer: Any) -> Callable[[int], object]:
    def call(i: int) -> None:
        optimizer.zero_grad()
        criterion(model(batch), target).backward()
        optimizer.step()

    return call


def cnn() -> Any:
    import torch
    from torch import nn

    def stage(inputs: int, outputs: int) -> list[Any]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    layers = [*stage(3, 32), *stage(32, 64), *stage(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers), torch.randn(32, 3, 32, 32), torch.randint(10, (32,))


def lstm(inputs: int, units: int, steps: int, batch: int) -> Any:
    """The classes of sequences, from the last output."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(inputs, units, batch_first=True), nn.Linear(units, 10)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0][:, -1])

    return Model(), torch.randn(batch, steps, inputs), torch.randint(10, (batch,))


def language_model() -> Any:
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(1000, 64), nn.LSTM(64, 128, batch_first=True)
            self.head = nn.Linear(128, 1000)

        def forward(self, symbols: Any) -> Any:
            return self.head(self.lstm(self.embedding(symbols))[0]).flatten(0, 1)

    return Model(), torch.randint(1000, (16, 32)), torch.randint(1000, (512,))


MODELS = {
    "CNN with pooling and batch norm, 32x32, batch 32": cnn,
    "LSTM 32-64, T 20, batch 16": lambda: lstm(32, 64, 20, 16),
    "LSTM 128-256, T 64, batch 32": lambda: lstm(128, 256, 64, 32),
    "LSTM language model, 1000 symbols": language_model,
}


def optimizers(threads: int, options: argparse.Namespace, out: Report) -> None:
    """Steps on PyTorch's parameters: Lamina's, PyTorch's fused ones, and those that PyTorch takes by default."""
    import torch

    import lamina.torch

    out.title("optimizer steps on PyTorch's parameters")
    for size in (10, 1000, 10000):
        name = f"Adam, 100 tensors of {size}"
        if options.filter not in name:
            continue

        def call(library: Any, size: int = size, **choice: bool) -> Callable[[int], object]:
            parameters = [torch.randn(size, requires_grad=True) for _ in range(100)]
            for p in parameters:
                p.grad = torch.randn(size)
            optimizer = library.Adam(parameters, lr=1e-6, **choice)
            return lambda i: optimizer.step()

        calls = {
            "lamina": call(lamina.torch.optim),
            "torch fused": call(torch.optim, fused=True),
            "torch": call(torch.optim),
        }
        timings = measure(calls, threads, options.quick)
        out.row(Row.of("interop", name, threads, timings.pop("lamina"), timings))


def in_turn(threads: int, options: argparse.Namespace, out: Report) -> None:
    """Layers of Lamina and of PyTorch one after the other: with two pools, their threads would fight for the cores."""
    import torch

    import lamina.torch.functional as F

    name = "conv2d of Lamina, relu of PyTorch"
    if options.filter not in name:
        return
    out.title("sharing threads, against PyTorch alone")
    x, weight = torch.randn(32, 64, 28, 28), torch.randn(64, 64, 3, 3)

    def call(conv2d: Callable) -> Callable[[int], object]:
        return lambda i: torch.relu(conv2d(torch.relu(conv2d(x, weight, padding=1)), weight, padding=1))

    timings = measure({"lamina": call(F.conv2d), "torch": call(torch.nn.functional.conv2d)}, threads, options.quick)
    out.row(Row.of("interop", name, threads, timings.pop("lamina"), timings))


def per_op_in_jit(options: argparse.Namespace, out: Report) -> None:
    """One op of a compiled chain of `CHAIN`, next to a chain of jnp.dot.

    In wall time: XLA has threads. They are the same for both, so turns do not wait for them to sleep.
    """
    import jax
    import jax.numpy as jnp

    import lamina.jax.functional as F

    out.title(f"per op in a compiled chain of {CHAIN} in JAX, {SIZE}x{SIZE} float32")
    x = jax.random.normal(jax.random.key(0), (SIZE, SIZE)) / SIZE

    def chain(op: Callable) -> Callable[[int], object]:
        def links(x: jax.Array) -> jax.Array:
            for _ in range(CHAIN):
                x = op(x)
            return x

        compiled = jax.jit(links)
        return lambda i: compiled(x).block_until_ready()

    for name, op in {"matmul": lambda y: F.matmul(y, x), "add": lambda y: F.add(y, x), "relu": F.relu}.items():
        if options.filter in f"{name}, jit":
            calls = {"lamina": chain(op), "jnp.dot": chain(lambda y: jnp.dot(y, x))}
            timings = {who: t.per(CHAIN) for who, t in measure(calls, 2, options.quick, rests=False).items()}
            out.row(compared(f"{name}, jit", 2, timings))
