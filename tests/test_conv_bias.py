"""The bias gradient that the weight gradient of a convolution brings along, on the device of the run (--device)."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

import harness
import lamina
from lamina import _C
from lamina import functional as F

# x (N, C, H, W), weight (O, C / groups, R, S). Which kernel sums is the device's choice.
LAYERS = {
    "few channels": ((2, 3, 9, 7), (5, 3, 3, 3), {}),
    "many channels": ((2, 40, 9, 8), (72, 40, 3, 3), {}),
    "groups": ((1, 34, 6, 4), (36, 17, 2, 2), {"groups": 2}),
    "depthwise": ((2, 16, 6, 9), (16, 1, 3, 3), {"groups": 16}),
    "depthwise, 5 x 5": ((1, 9, 7, 6), (9, 1, 5, 5), {"groups": 9}),
    "no channels": ((2, 0, 4, 4), (5, 0, 3, 3), {}),
    "no filters": ((2, 3, 4, 4), (0, 3, 3, 3), {}),
    "no images": ((0, 3, 4, 4), (5, 3, 3, 3), {}),
}


def operands(layer, dtype, rng):
    """dy and f(sums), which gives dweight and dbias of the layer with padding 1."""
    (N, C, H, W), (O, _, R, S), attrs = LAYERS[layer]
    x = rng.standard_normal((N, C, H, W)).astype(dtype)
    dy = rng.standard_normal((N, O, H + 3 - R, W + 3 - S)).astype(dtype)

    def gradients(sums):
        there = harness.on_device(x), harness.on_device(dy)
        attributes = (R, S), (1, 1), (1, 1, 1, 1), (1, 1), attrs.get("groups", 1), sums
        return [np.array(a) for a in _C.conv2d_backward_weight(*there, *attributes)]

    return dy, gradients


@pytest.mark.parametrize("dtype", [np.float64, np.float32, bfloat16], ids=["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("layer", LAYERS)
def test_sums_of_dy(layer, dtype, rng):
    """dbias is the sum of dy, rounded once, and does not change a bit of dweight."""
    dy, gradients = operands(layer, dtype, rng)
    (alone, nothing), (dweight, dbias) = gradients(False), gradients(True)
    assert nothing.shape == (0,)
    np.testing.assert_array_equal(dweight, alone)
    truth, size = dy.astype(np.float64).sum((0, 2, 3)), np.abs(dy.astype(np.float64)).sum((0, 2, 3))
    rounding = {np.float64: 0, np.float32: 0, bfloat16: 2.0**-8}[dtype]
    bound = rounding * np.abs(truth) + (2.0**-48 if dtype == np.float64 else 2.0**-20) * size
    assert (np.abs(dbias.astype(np.float64) - truth) <= bound).all()


@pytest.mark.parametrize("layer", ["few channels", "many channels", "depthwise"])
def test_infinities_and_the_largest_numbers(layer, rng):
    dy, gradients = operands(layer, np.float32, rng)
    dy[0, 0, 1, 1], dy[0, 1, 2, 2], dy[0, 2, 0, 0], dy[0, 3] = np.inf, -np.inf, np.nan, 0
    dy[0, 3, 1, 1] = np.finfo(np.float32).max
    with np.errstate(invalid="ignore"):
        want = dy[:, :4].sum((0, 2, 3))
    np.testing.assert_allclose(gradients(True)[1][:4], want, rtol=1e-5)


def test_a_frozen_weight_leaves_a_sum(rng):
    """The bias alone is differentiated without the weight."""
    x, weight = (harness.on_device(rng.standard_normal(s).astype(np.float32)) for s in ((2, 3, 5, 4), (6, 3, 2, 2)))
    bias = harness.on_device(np.zeros(6, np.float32))
    with lamina.Tape() as tape:
        tape.watch(bias)
        y = F.sum(F.conv2d(x, weight, bias))
    (dbias,) = tape.gradient(y, [bias])
    np.testing.assert_array_equal(np.array(dbias), np.full(6, 2 * 4 * 3, np.float32))
