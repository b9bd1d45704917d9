"""What a call costs besides the arithmetic: time per op on 4x4 arrays, with and without a tape."""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable

import numpy as np

import lamina
import lamina.functional as F
from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import measure

OPS = {  # name -> the call in Lamina, the call in PyTorch
    "add": ("x + w", "x + w"),
    "relu": ("F.relu(x)", "torch.relu(x)"),
    "matmul": ("x @ w", "x @ w"),
    "linear": ("F.linear(x, w, b)", "torch.nn.functional.linear(x, w, b)"),
    "softmax": ("F.softmax(x, dim=-1)", "torch.softmax(x, -1)"),
}
MODES = ("plain", "recorded on a tape", "with backward")
CALLS = 100  # in one tape: opening it is the cost of a step, not of an op


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    out.title("overhead per call, 4x4 float32")
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal(shape, np.float32) for shape in ((4, 4), (4, 4), (4,))]
    for op, (ours, theirs) in OPS.items():
        for mode in MODES:
            if options.filter not in f"{op}, {mode}":
                continue
            calls = {"lamina": lamina_call(ours, mode, operands)}
            if HAS_TORCH:
                calls["torch"] = torch_call(theirs, mode, operands)
            timings = {who: t.per(CALLS) for who, t in measure(calls, threads, options.quick).items()}
            out.row(Row.of("overhead", f"{op}, {mode}", threads, timings.pop("lamina"), timings))


def lamina_call(expression: str, mode: str, operands: list[np.ndarray]) -> Callable[[int], object]:
    x, w, b = (lamina.from_numpy(a.copy()) for a in operands)
    dy = lamina.from_numpy(np.ones((4, 4), np.float32))
    names = {"F": F, "x": x, "w": w, "b": b}
    loop, function = timeit.Timer(expression, globals=names), eval(f"lambda: {expression}", names)

    def plain(i: int) -> None:
        loop.timeit(CALLS)

    def taped(i: int) -> None:
        with lamina.Tape() as tape:
            tape.watch(x)
            loop.timeit(CALLS)

    def backward(i: int) -> None:
        for _ in range(CALLS):
            with lamina.Tape() as tape:
                tape.watch(x)
                y = function()
            tape.gradient(y, [x], dy)

    return {"plain": plain, "recorded on a tape": taped, "with backward": backward}[mode]


def torch_call(expression: str, mode: str, operands: list[np.ndarray]) -> Callable[[int], object]:
    import torch

    x, w, b = (torch.from_numpy(a.copy()) for a in operands)
    dy = torch.ones(4, 4)
    x.requires_grad_(mode != "plain")
    names = {"torch": torch, "x": x, "w": w, "b": b}
    loop, function = timeit.Timer(expression, globals=names), eval(f"lambda: {expression}", names)

    def forward(i: int) -> None:
        loop.timeit(CALLS)

    def backward(i: int) -> None:
        for _ in range(CALLS):
            torch.autograd.grad(function(), x, dy)

    return backward if mode == "with backward" else forward
