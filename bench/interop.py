"""Lamina inside PyTorch: what a call of an op costs there, next to PyTorch's own."""

from __future__ import annotations

import argparse
import operator
from collections.abc import Callable

from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import Timing, measure

SIZE = 8  # of the square operands: small enough that the time is that of the call
CALLS = 100  # per timed call
OPS = {  # name -> the same op in lamina.torch.functional and in PyTorch, and how many of x, weight, bias it takes
    "matmul": ("matmul", "mm", 2),
    "add": ("add", "add", 2),
    "relu": ("relu", "relu", 1),
    "linear": ("linear", "nn.functional.linear", 3),
}
MODES = ("forward", "forward and backward")


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    if not HAS_TORCH:
        out.title("interop: PyTorch is not installed")
        return
    per_call(threads, options, out)


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
    ours, theirs = timings["lamina"], timings["torch"]
    row = Row.of("interop", name, threads, ours, {"torch": theirs})
    row.note = f"takes {theirs.ratio(ours):.2f}x of torch's time, {ours.minimum / theirs.minimum:.2f}x by minima"
    return row
