"""lstm: NumPy reference, samples, errors and bench shapes."""

import numpy as np

from cases import Arr, Bench, Case, Error, Sample
from cases._lstm import flops, layer, lengths, weights


def reference(
    x,
    weights,
    h0=None,
    c0=None,
    lengths=None,
    *,
    num_layers=1,
    bidirectional=False,
    batch_first=False,
    dropout=0.0,
):
    directions = 2 if bidirectional else 1
    per_group = len(weights) // (num_layers * directions)
    y, states = x, []
    for first in range(0, num_layers * directions, directions):
        groups = [weights[i * per_group : (i + 1) * per_group] for i in range(first, first + directions)]
        of_layer = slice(first, first + directions)
        h, c = (None if s is None else s[of_layer] for s in (h0, c0))
        y, *last = layer(y, groups, h, c, lengths, batch_first=batch_first)
        states.append(last)
    return y, *(np.concatenate(of_layers) for of_layers in zip(*states, strict=True))


def operands(
    steps,
    batch,
    inputs,
    hidden,
    *,
    layers=1,
    both=False,
    state=False,
    stop=False,
    bias=True,
    batch_first=False,
):
    directions = 2 if both else 1
    arrays = []
    for features in [inputs, *[directions * hidden] * (layers - 1)]:
        for _ in range(directions):
            arrays += [a for a in weights(features, hidden, bias=bias) if a]
    return (
        Arr(batch, steps, inputs) if batch_first else Arr(steps, batch, inputs),
        arrays,
        *(Arr(layers * directions, batch, hidden) if state else None for _ in range(2)),
        lengths(batch, steps) if stop else None,
    )


def torch_lstm(*, layers, both):
    def run(x, weights, *_):
        import torch

        hidden = weights[1].shape[1]
        zeros = x.new_zeros(layers * (2 if both else 1), x.shape[1], hidden)
        return torch.lstm(x, (zeros, zeros), weights, True, layers, 0.0, torch.is_grad_enabled(), both, False)

    return run


case = Case(
    op="lstm",
    reference=reference,
    samples=[
        Sample("one layer", *operands(4, 3, 5, 6)),
        Sample("two layers", *operands(4, 3, 5, 6, layers=2, state=True), num_layers=2),
        Sample("three layers, no bias, no states", *operands(3, 2, 4, 5, layers=3, bias=False), num_layers=3),
        Sample("bidirectional", *operands(4, 3, 5, 6, both=True, state=True), bidirectional=True),
        Sample(
            "two layers, bidirectional, batch first, lengths",
            *operands(6, 5, 3, 4, layers=2, both=True, state=True, stop=True, batch_first=True),
            num_layers=2,
            bidirectional=True,
            batch_first=True,
        ),
        Sample("no sequences", *operands(3, 0, 4, 5, layers=2, both=True), num_layers=2, bidirectional=True),
    ],
    errors=[
        Error(ValueError, "3 weights for 1 layers", Arr(2, 3, 4), weights(4, 5)[:3]),
        Error(ValueError, "0 weights for 1 layers", Arr(2, 3, 4), []),
        Error(
            ValueError,
            "h0 is (1, 3, 5); expected (2, B, H)",
            *operands(2, 3, 4, 5, layers=2)[:2],
            Arr(1, 3, 5),
            Arr(1, 3, 5),
            num_layers=2,
        ),
        Error(ValueError, "c0 is (3, 5); expected (1, B, H)", *operands(2, 3, 4, 5)[:2], None, Arr(3, 5)),
    ],
    bench=[
        Bench(
            "two layers, both ways, T64 B32 I128 H256",
            *operands(64, 32, 128, 256, layers=2, both=True)[:2],
            num_layers=2,
            bidirectional=True,
            flops=2 * flops(64, 32, 128, 256) + 2 * flops(64, 32, 512, 256),
            torch=torch_lstm(layers=2, both=True),
        )
    ],
)
