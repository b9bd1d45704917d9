"""What convolutions must satisfy whatever the shape: adjoints, groups, batches, shifts, dilation."""

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import lamina
from lamina import functional as F

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
small = st.integers(1, 4)
pairs = st.tuples(small, small)
channels = st.sampled_from([1, 2, 7, 8, 9, 16, 17, 33])


@st.composite
def layers(draw, max_groups=3):
    """(x, weight, attributes) of a convolution; integers, so that every sum is exact in any order."""
    groups = draw(st.integers(1, max_groups))
    c, o, kernel, n = draw(channels), draw(channels), draw(pairs), draw(st.integers(1, 3))
    attrs = {"stride": draw(pairs), "dilation": draw(pairs), "groups": groups}
    attrs["padding"] = draw(st.tuples(*[st.integers(0, 3)] * 4))
    top, bottom, left, right = attrs["padding"]
    h, w = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    for extent, reach, step in zip((h + top + bottom, w + left + right), kernel, attrs["dilation"], strict=True):
        assume(step * (reach - 1) < extent)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return integers(rng, n, c * groups, h, w), integers(rng, o * groups, c, *kernel), attrs


def integers(rng, *shape):
    return rng.integers(-4, 5, shape).astype(np.float32)


def dot(a, b):
    return np.vdot(a.astype(np.float64), b.astype(np.float64))


def conv2d(x, weight, **attrs):
    return np.array(F.conv2d(lamina.from_numpy(x), lamina.from_numpy(weight), **attrs))


def conv_transpose2d(x, weight, **attrs):
    return np.array(F.conv_transpose2d(lamina.from_numpy(x), lamina.from_numpy(weight), **attrs))


@FEW
@given(layers())
def test_transposed_is_adjoint(layer):
    """⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩; exact, because the values are small integers."""
    x, weight, attrs = layer
    y = conv2d(x, weight, **attrs)
    rng = np.random.default_rng(0)
    v = integers(rng, *y.shape)
    # Output padding gives back the rows and columns that the division by the stride dropped.
    top, bottom, left, right = attrs["padding"]
    extra = tuple(
        (extent + border - gap * (taps - 1) - 1) % step
        for extent, border, gap, taps, step in zip(
            x.shape[2:], (top + bottom, left + right), attrs["dilation"], weight.shape[2:], attrs["stride"], strict=True
        )
    )
    back = conv_transpose2d(v, weight, output_padding=extra, **attrs)
    assert back.shape == x.shape
    assert dot(y, v) == dot(x, back)


@FEW
@given(layers())
def test_gradients_are_adjoints(layer):
    """⟨conv(x, w), v⟩ = ⟨x, dx⟩ = ⟨w, dw⟩ for the gradients with respect to x and w at dy = v."""
    x, weight, attrs = layer
    a, b = lamina.from_numpy(x), lamina.from_numpy(weight)
    with lamina.Tape() as tape:
        tape.watch(a)
        tape.watch(b)
        y = F.conv2d(a, b, **attrs)
    v = integers(np.random.default_rng(0), *y.shape)
    dx, dw = (np.array(d) for d in tape.gradient(y, [a, b], lamina.from_numpy(v)))
    product = dot(np.array(y), v)
    assert dx.shape == x.shape
    assert dw.shape == weight.shape
    assert dot(x, dx) == dot(weight, dw) == product


@FEW
@given(layers())
def test_groups_are_separate_convolutions(layer):
    x, weight, attrs = layer
    groups = attrs.pop("groups")
    parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), strict=True)
    separate = np.concatenate([conv2d(part, filters, **attrs) for part, filters in parts], axis=1)
    np.testing.assert_array_equal(conv2d(x, weight, groups=groups, **attrs), separate)


@FEW
@given(layers(), st.integers(0, 2**32))
def test_an_image_has_the_same_bits_in_any_batch(layer, seed):
    x, weight, attrs = layer
    rng = np.random.default_rng(seed)
    x, weight = (rng.standard_normal(a.shape, np.float32) for a in (x, weight))
    batch = conv2d(x, weight, **attrs)
    for i in range(len(x)):
        np.testing.assert_array_equal(conv2d(x[i : i + 1], weight, **attrs)[0], batch[i])


@FEW
@given(layers())
def test_padding_is_a_border_of_zeros(layer):
    x, weight, attrs = layer
    top, bottom, left, right = attrs.pop("padding")
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    expected = conv2d(padded, weight, **attrs)
    np.testing.assert_array_equal(conv2d(x, weight, padding=(top, bottom, left, right), **attrs), expected)


@FEW
@given(layers())
def test_dilation_is_a_filter_with_gaps(layer):
    x, weight, attrs = layer
    dh, dw = attrs.pop("dilation")
    O, C, R, S = weight.shape
    gaps = np.zeros((O, C, dh * (R - 1) + 1, dw * (S - 1) + 1), np.float32)
    gaps[:, :, ::dh, ::dw] = weight
    np.testing.assert_array_equal(conv2d(x, weight, dilation=(dh, dw), **attrs), conv2d(x, gaps, **attrs))


@FEW
@given(layers())
def test_stride_is_a_choice_of_positions(layer):
    x, weight, attrs = layer
    sh, sw = attrs.pop("stride")
    np.testing.assert_array_equal(
        conv2d(x, weight, stride=(sh, sw), **attrs), conv2d(x, weight, **attrs)[:, :, ::sh, ::sw]
    )


@FEW
@given(layers(max_groups=1))
def test_a_1x1_filter_is_a_matrix_product(layer):
    x, weight, _ = layer
    weight = np.ascontiguousarray(weight[:, :, :1, :1])
    np.testing.assert_array_equal(conv2d(x, weight), np.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0]))
