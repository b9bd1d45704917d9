"""Laws of layer, RMS and group normalisation on random shapes and layouts."""

import numpy as np
import pytest

import lamina
import lamina.functional as F

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
st = hypothesis.strategies
few = hypothesis.settings(max_examples=25)


def values(*shape, seed=0):
    return lamina.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def with_gradients(function, *operands):
    """The result, and the gradients of the operands for some dy."""
    with lamina.Tape() as tape:
        for operand in operands:
            tape.watch(operand)
        y = function(*operands)
    return y, tape.gradient(y, list(operands), values(*y.shape, seed=9))


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight, bias, normalized_shape=weight.shape)


def rms_norm(x, weight, bias):
    return F.rms_norm(x, weight, normalized_shape=weight.shape) + bias


@few
@hypothesis.given(
    st.tuples(*[st.integers(1, 7)] * 3),
    st.lists(st.integers(1, 9), min_size=1, max_size=2),
    st.permutations(range(3)),
    st.sampled_from([layer_norm, rms_norm]),
)
def test_rows_stay_where_they_are(rows, shape, order, function):
    """Axes before the rows may lie in any order in memory: the result has it, too, and nothing is rounded otherwise."""
    memory = values(*(rows[i] for i in order), *shape)
    x = memory.permute(*np.argsort(order), 3, *range(4, 3 + len(shape)))
    operands = values(*shape, seed=1), values(*shape, seed=2)
    y, (dx, *parameters) = with_gradients(function, x, *operands)
    want, (want_dx, *want_parameters) = with_gradients(function, F.contiguous(x), *operands)
    assert y.shape == x.shape == (*rows, *shape)
    if function is layer_norm:
        assert y.permute(*order, 3, *range(4, 3 + len(shape))).is_contiguous()
    np.testing.assert_array_equal(y.numpy(), want.numpy())
    np.testing.assert_array_equal(dx.numpy(), want_dx.numpy())
    for got, wanted in zip(parameters, want_parameters, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-4)


@few
@hypothesis.given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 69), st.sampled_from([layer_norm, rms_norm]))
def test_a_row_does_not_depend_on_others(M, D, row, function):
    row %= M
    x, parameters = values(M, D), (values(D, seed=1), values(D, seed=2))
    with lamina.Tape() as tape:
        tape.watch(x)
        y = function(x, *parameters)
    dy = values(M, D, seed=3)
    (dx,) = tape.gradient(y, [x], dy)
    one = F.contiguous(x[row : row + 1])
    with lamina.Tape() as tape:
        tape.watch(one)
        alone = function(one, *parameters)
    (dx_alone,) = tape.gradient(alone, [one], dy[row : row + 1])
    np.testing.assert_array_equal(y.numpy()[row], alone.numpy()[0])
    np.testing.assert_array_equal(dx.numpy()[row], dx_alone.numpy()[0])


@few
@hypothesis.given(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)),
    st.booleans(),
    st.floats(-1e4, 1e4),
)
def test_normalised_moments(sizes, is_channels_last, offset):
    N, G, K, H, W = sizes
    x = values(N, G * K, H, W) + offset
    x = F.channels_last(x) if is_channels_last else x
    y = F.group_norm(x, num_groups=G, eps=0.01).numpy().astype(np.float64).reshape(N, G, -1)
    var = x.numpy().astype(np.float64).reshape(N, G, -1).var(axis=2)
    # the mean is rounded to float32: half a unit in the last place, in units of the deviation
    slack = 1e-5 + abs(offset) * 2**-23 / np.sqrt(var + 0.01)
    assert (np.abs(y.mean(axis=2)) <= slack).all()
    np.testing.assert_allclose(y.var(axis=2), var / (var + 0.01), rtol=1e-4, atol=1e-5)


@few
@hypothesis.given(st.tuples(st.integers(1, 40), st.integers(1, 4), st.integers(1, 20)))
def test_groups_of_a_matrix_are_rows(sizes):
    N, G, K = sizes
    x = values(N, G * K)
    y, (dx,) = with_gradients(lambda x: F.group_norm(x, num_groups=G), x)
    rows, (want,) = with_gradients(lambda x: F.layer_norm(x.reshape(N, G, K), normalized_shape=K).reshape(N, G * K), x)
    np.testing.assert_array_equal(y.numpy(), rows.numpy())
    np.testing.assert_array_equal(dx.numpy(), want.numpy())


@few
@hypothesis.given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
)
def test_memory_order_does_not_matter(sizes):
    N, G, K, H, W = sizes
    C = G * K
    operands = values(N, C, H, W), values(C, seed=1), values(C, seed=2)
    results = []
    for order in (F.contiguous, F.channels_last):
        y, gradients = with_gradients(
            lambda x, w, b, order=order: F.group_norm(order(x), w, b, num_groups=G), *operands
        )
        results.append([t.numpy() for t in (y, *gradients)])
    for rows, planes in zip(*results, strict=True):
        np.testing.assert_allclose(rows, planes, rtol=1e-3, atol=2e-4)
