"""Whole training steps (forward, backward, Adam), eager and replayed, against PyTorch eager."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

import lamina
import lamina.functional as F
from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import measure
from lamina import nn, optim


def mlp(nn: ModuleType) -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def cnn(nn: ModuleType) -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
    )  # fmt: skip


def lstm(nn: ModuleType) -> Any:
    """A linear layer on the last output of an LSTM: (N, T, 32) -> (N, 10)."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(32, 64, batch_first=True), nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    return Model()


MODELS = {  # name -> model, shape of the input, number of classes
    "MLP 8-16-4, batch 8": (mlp, (8, 8), 4),
    "CNN 28x28, batch 32": (cnn, (32, 1, 28, 28), 10),
    "LSTM 32-64, T 20, batch 16": (lstm, (16, 20, 32), 10),
}


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    out.title("training steps: forward, backward, Adam")
    for name, (build, shape, classes) in MODELS.items():
        if options.filter not in name:
            continue
        rng = np.random.default_rng(0)
        x, t = rng.standard_normal(shape, np.float32), rng.integers(0, classes, shape[0])
        device = options.device
        calls = {
            "eager": lamina_step(build(nn).to(device), x, t),
            "replayed": lamina_step(build(nn).to(device), x, t, record=True),
        }
        if HAS_TORCH:
            calls["torch"] = torch_step(build(torch_nn()).to(device), x, t)
        timings = measure(calls, threads, options.quick, device)
        rivals = {rival: timings[rival] for rival in timings if rival not in ("eager", "replayed")}
        for mode in ("eager", "replayed"):
            row = Row.of("train", f"{name}, {mode}", threads, timings[mode], rivals)
            row.device = device
            out.row(row)


def torch_nn() -> ModuleType:
    import torch

    return torch.nn


def place_of(model: Any) -> Any:
    return next(iter(model.parameters())).device


def lamina_step(model: Any, x: np.ndarray, t: np.ndarray, record: bool = False) -> Callable[[int], object]:
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, t):
        with lamina.Tape() as tape:
            loss = F.cross_entropy(model(x), t)
        tape.backward(loss)
        optimizer.step()
        return loss

    run = lamina.record(step) if record else step
    x, t = (lamina.from_numpy(a).to(place_of(model)) for a in (x, t))
    return lambda i: run(x, t)


def torch_step(model: Any, x: np.ndarray, t: np.ndarray) -> Callable[[int], object]:
    import torch

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, t = (torch.from_numpy(a).to(place_of(model)) for a in (x, t))

    def step(i: int) -> object:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), t)
        loss.backward()
        optimizer.step()
        return loss

    return step
