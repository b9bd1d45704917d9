"""What the cases of the LSTM share: the equations of a step, and recipes for weights."""

import numpy as np

from cases import Arr


def cell(x, h, c, weight_ih, weight_hh, bias_ih=None, bias_hh=None):
    a = x @ weight_ih.T + h @ weight_hh.T
    for bias in (bias_ih, bias_hh):
        if bias is not None:
            a = a + bias
    i, f, g, o = np.split(a, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def direction(x, h, c, lengths, weights, *, reverse):
    """y (T, B, H) and the last states of one direction; a sequence beyond its length keeps its state."""
    steps = len(x)
    y = np.zeros((steps, *h.shape), x.dtype)
    for t in reversed(range(steps)) if reverse else range(steps):
        runs = (lengths > t)[:, None]
        h_new, c_new = cell(x[t], h, c, *weights)
        h, c = np.where(runs, h_new, h), np.where(runs, c_new, c)
        y[t] = np.where(runs, h_new, 0)
    return y, h, c


def layer(x, directions, h0, c0, lengths, *, batch_first):
    """One layer; `directions` holds one or two lists of weights."""
    x = x.swapaxes(0, 1) if batch_first else x
    steps, batch, _ = x.shape
    lengths = np.full(batch, steps) if lengths is None else lengths
    zeros = np.zeros((len(directions), batch, directions[0][1].shape[1]), x.dtype)
    h0, c0 = (zeros, zeros) if h0 is None else (h0, c0)
    results = [direction(x, h0[d], c0[d], lengths, weights, reverse=d == 1) for d, weights in enumerate(directions)]
    y = np.concatenate([r[0] for r in results], axis=2)
    return (
        y.swapaxes(0, 1) if batch_first else y,
        np.stack([r[1] for r in results]),
        np.stack([r[2] for r in results]),
    )


def weights(inputs, hidden, *, bias=True):
    """weight_ih, weight_hh, bias_ih, bias_hh, as layers start with them."""
    bound = hidden**-0.5
    shapes = [(4 * hidden, inputs), (4 * hidden, hidden)] + [(4 * hidden,)] * (2 * bias)
    arrays = [Arr(*shape, kind="uniform", low=-bound, high=bound) for shape in shapes]
    return arrays + [None, None] * (not bias)


def lengths(batch, steps):
    return Arr(batch, kind="int", low=1, high=steps + 1)


def flops(steps, batch, inputs, hidden):
    return 2 * steps * batch * 4 * hidden * (inputs + hidden)
