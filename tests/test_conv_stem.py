"""Convolutions of one to four channels, the first layers of networks, on the device of the run (--device)."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

import harness
import lamina
from cases.conv2d import windows
from lamina import _C

# x (N, C, H, W), weight (O, C, R, S), stride, padding (top, bottom, left, right), dilation. On devices a block takes
# rectangles of 128 pixels, 64 filters, and 16 elements of C R S at a time, none of which these fill.
LAYERS = {
    "RGB 7 x 7, stride 2": ((1, 3, 37, 43), (72, 3, 7, 7), 2, (3, 3, 3, 3), 1),
    "RGB 3 x 3": ((2, 3, 13, 18), (20, 3, 3, 3), 1, (1, 1, 1, 1), 1),
    "one channel 5 x 5": ((3, 1, 17, 9), (6, 1, 5, 5), 1, (2, 2, 2, 2), 1),
    "four channels, dilated": ((1, 4, 23, 31), (65, 4, 2, 3), 1, (0, 2, 3, 1), (3, 2)),
    "two channels, unequal strides": ((1, 2, 40, 50), (64, 2, 8, 5), (3, 1), (4, 0, 1, 2), 1),
    "a row": ((1, 3, 1, 400), (8, 3, 1, 5), 1, (0, 0, 2, 2), 1),
}
# So many that a device cuts them into ranges, for 147 columns of dweight.
MANY_PIXELS = ((1, 3, 56, 60), (8, 3, 7, 7), 1, (3, 3, 3, 3), 1)
PRECISIONS = {
    "float64": None,
    "float32": "highest",
    "high": "high",
    "medium": "medium",
    "bfloat16": None,
    "float16": None,
}

# How far a product of two operands may be off, relative to their sizes.
ROUNDING = {"float64": 2.0**-48, "float32": 2.0**-20, "high": 2.0**-15, "medium": 2.0**-7, "bfloat16": 2.0**-20}


@pytest.fixture(params=PRECISIONS)
def number(request):
    """(dtype, rounding of a product, rounding of a result); float32 is multiplied as the setting says."""
    name = request.param
    if name in ("high", "medium", "float16") and harness.device == "cpu":
        pytest.skip("the CPU has one float32 and no float16")
    before = lamina.get_float32_precision()
    lamina.set_float32_precision(PRECISIONS[name] or before)
    dtype = {"float64": np.float64, "bfloat16": bfloat16, "float16": np.float16}.get(name, np.float32)
    yield dtype, ROUNDING.get(name, 2.0**-20), {bfloat16: 2.0**-8, np.float16: 2.0**-11}.get(dtype, 0)
    lamina.set_float32_precision(before)


def operands(layer, rng, dtype):
    """x, weight, bias and dy, and the attributes of the op in their order."""
    x_shape, weight_shape, stride, padding, dilation = LAYERS.get(layer, MANY_PIXELS)
    strides, dilations = np.broadcast_to(stride, 2), np.broadcast_to(dilation, 2)
    extents = [
        (x_shape[2 + d] + padding[2 * d] + padding[2 * d + 1] - dilations[d] * (weight_shape[2 + d] - 1) - 1)
        // strides[d]
        + 1
        for d in (0, 1)
    ]
    shapes = x_shape, weight_shape, weight_shape[:1], (x_shape[0], weight_shape[0], *extents)
    attributes = tuple(map(int, strides)), padding, tuple(map(int, dilations)), 1
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes], attributes


def taps(x, weight_shape, attributes):
    """(N, C, P, Q, R, S) of x in float64."""
    stride, padding, dilation, _ = attributes
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), padding[:2], padding[2:]))
    return windows(x, *weight_shape[2:], stride, dilation)


def check(got, a, b, axes, number, extra=0.0):
    """That got is the product of a and b over these axes, plus extra."""
    _, of_product, of_result = number
    truth = np.tensordot(a, b, axes) + extra
    size = np.tensordot(np.abs(a), np.abs(b), axes) + np.abs(extra)
    error = np.abs(np.array(got).astype(np.float64) - truth)
    assert (error <= of_product * size + of_result * np.abs(truth)).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layer", LAYERS)
def test_values_and_gradients(layer, layout, number, rng):
    (x, weight, bias, dy), attributes = operands(layer, rng, number[0])
    there = [harness.on_device(a) for a in (x, weight, bias, dy)]
    if layout == "channels_last":
        there[0] = _C.channels_last(there[0])
    y = _C.conv2d(*there[:3], *attributes)
    dweight, dbias = _C.conv2d_backward_weight(there[0], there[3], weight.shape[2:], *attributes, True)

    of_x, wide, dy = taps(x, weight.shape, attributes), weight.astype(np.float64), dy.astype(np.float64)
    channels_innermost = np.array(y).astype(np.float64).transpose(0, 2, 3, 1)
    check(channels_innermost, of_x, wide, ([1, 4, 5], [1, 2, 3]), number, bias.astype(np.float64))
    check(dweight, dy, of_x, ([0, 2, 3], [0, 2, 3]), number)
    check(dbias, dy, np.ones(dy[:, 0].shape), ([0, 2, 3], [0, 1, 2]), number)


@pytest.mark.slow  # ten seconds for each number on `sim`
def test_many_pixels(number, rng):
    """dweight and dbias, and an infinity that pixels beyond the border of a rectangle would read if they existed."""
    (x, weight, _, dy), attributes = operands("many pixels", rng, number[0])
    there = harness.on_device(x), harness.on_device(dy)
    dweight, dbias = _C.conv2d_backward_weight(*there, weight.shape[2:], *attributes, True)
    of_x, wide = taps(x, weight.shape, attributes), dy.astype(np.float64)
    check(dweight, wide, of_x, ([0, 2, 3], [0, 2, 3]), number)
    check(dbias, wide, np.ones(wide[:, 0].shape), ([0, 2, 3], [0, 1, 2]), number)
    x[0, 0, 0, 0] = np.inf  # in the first window of a rectangle
    dweight, _ = _C.conv2d_backward_weight(
        harness.on_device(x), harness.on_device(np.ones_like(dy)), weight.shape[2:], *attributes, False
    )
    np.testing.assert_array_equal(np.isinf(np.array(dweight[:, 0]).astype(np.float64))[:, :4, :4], True)
    assert not np.isnan(np.array(dweight).astype(np.float64)).any()


@pytest.mark.parametrize("setting", ["highest", "high"])
@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=["float32", "bfloat16"])
def test_special_values_stay_where_they_are(dtype, setting, rng):
    """Infinities next to padding, to taps beyond the last, and under positions that the stride leaves out."""
    (x, weight, bias, _), attributes = operands("RGB 7 x 7, stride 2", rng, dtype)
    x[0, 0, 0, 0], x[0, 2, -1, -1], x[0, 1, 20, 17], x[0, 0, 5, 7], x[0, 1, 5, 20] = (
        np.inf,
        -np.inf,
        np.nan,
        np.inf,
        3e38,
    )
    weight, before = np.abs(weight), lamina.get_float32_precision()
    lamina.set_float32_precision(setting)
    y = np.array(_C.conv2d(*(harness.on_device(a) for a in (x, weight, bias)), *attributes)).astype(np.float64)
    ones = np.ones(y.shape).astype(dtype)
    dweight, _ = _C.conv2d_backward_weight(harness.on_device(x), harness.on_device(ones), (7, 7), *attributes, False)
    lamina.set_float32_precision(before)
    of_x = taps(x, weight.shape, attributes)
    with np.errstate(invalid="ignore", over="ignore"):
        want = (
            np.einsum("ncpqrs,ocrs->nopq", of_x, weight.astype(np.float64), optimize=True)
            .astype(dtype)
            .astype(np.float64)
        )
        dwant = of_x.sum((0, 2, 3)).astype(dtype).astype(np.float64)
    plain = np.isfinite(want)
    np.testing.assert_array_equal(y[~plain], want[~plain])
    assert np.isfinite(y[plain]).all()
    got = np.array(dweight).astype(np.float64)
    np.testing.assert_array_equal(
        got[:, ~np.isfinite(dwant)], np.broadcast_to(dwant, got.shape)[:, ~np.isfinite(dwant)]
    )
    assert np.isfinite(got[:, np.isfinite(dwant)]).all()
