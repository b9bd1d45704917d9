"""The bench shapes against PyTorch: the same mathematics on the same data, forward and backward.

PyTorch in float64 is the truth, PyTorch in float32 gives the tolerance (see harness.py).
"""

import ml_dtypes
import numpy as np
import pytest

from cases import is_floating, materialise
from harness import Expected, as_tuple, benches, call, cast, compare, eps_of, label, largest_error, tape_vjp

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

BENCHES = [p for p in benches() if p.values[1].torch and not p.values[0].mutates]


def rival(bench):
    """The PyTorch function of a row; of several, the first."""
    return next(iter(bench.torch.values())) if isinstance(bench.torch, dict) else bench.torch


def to_torch(value, requires_grad=False):
    if isinstance(value, list):
        return [to_torch(x, requires_grad) for x in value]
    if not isinstance(value, np.ndarray):
        return value
    return torch.from_numpy(value).requires_grad_(requires_grad and is_floating(value.dtype))


def from_torch(tensor):
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def expect(truth, low):
    truth, low = from_torch(truth), from_torch(low)
    if not is_floating(truth.dtype):
        return Expected(truth, low.dtype, None)
    floor = 4 * eps_of(low.dtype) * np.abs(truth).max(initial=0)
    return Expected(truth, low.dtype, 3 * largest_error(low, truth, low.dtype) + floor)


@pytest.mark.parametrize(("case", "bench"), BENCHES)
def test_forward(case, bench):
    inputs = materialise(case, bench, "float32")
    truths = as_tuple(rival(bench)(*to_torch(cast(inputs, np.float64))))
    lows = as_tuple(rival(bench)(*to_torch(inputs)))
    got = call(case, inputs, bench.attrs)
    for i, (y, truth, low) in enumerate(zip(got, truths, lows, strict=False)):
        compare(y, expect(truth, low), f"{label(case, bench)}, output {i}")


@pytest.mark.parametrize(("case", "bench"), [p for p in BENCHES if p.values[1].backward])
def test_backward(case, bench, rng):
    inputs = materialise(case, bench, "float32")
    wrt = [i for i, x in enumerate(inputs) if isinstance(x, np.ndarray) and is_floating(x.dtype)]

    def torch_vjp(dtype, dys):
        leaves = to_torch(cast(inputs, dtype), requires_grad=True)
        ys = [y for y in as_tuple(rival(bench)(*leaves)) if y.requires_grad]
        dys = dys or [rng.standard_normal(y.shape).astype(np.float32) for y in ys]
        torch.autograd.backward(ys, [torch.from_numpy(dy.astype(dtype)) for dy in dys])
        return [leaves[i].grad for i in wrt], dys

    truths, dys = torch_vjp(np.float64, None)
    lows, _ = torch_vjp(np.float32, dys)
    n_outputs = len(as_tuple(call(case, inputs, bench.attrs)))
    got = tape_vjp(case, inputs, bench.attrs, wrt, dys + [None] * (n_outputs - len(dys)))
    for i, gradient, truth, low in zip(wrt, got, truths, lows, strict=True):
        compare(gradient, expect(truth, low), f"{label(case, bench)}, gradient of input {i}")
