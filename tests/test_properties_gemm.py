"""Properties of matrix products over random sizes: accuracy, linearity, transposition, threads, layouts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lamina
from lamina import functional as F

# Sizes around the edges of tiles and vectors are as likely as any other.
EDGES = (1, 2, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(1, 80))
depths = st.one_of(sizes, st.sampled_from((0, 255, 256, 257, 513)))
seeds = st.integers(0, 2**32 - 1)
EXAMPLES = settings(max_examples=60, deadline=None)


def draw(rng, *shape, dtype=np.float32, spread=0):
    """Normal values; with `spread`, of magnitudes up to 10^spread apart."""
    return (rng.standard_normal(shape) * 10 ** rng.uniform(-spread / 2, spread / 2, shape)).astype(dtype)


def product(a, b, **attrs):
    return np.array(F.matmul(lamina.from_numpy(a), lamina.from_numpy(b), **attrs))


@EXAMPLES
@given(sizes, sizes, depths, st.sampled_from((0, 4, 8)), st.booleans(), st.booleans(), seeds)
def test_error_bound(M, N, K, spread, transpose_a, transpose_b, seed):
    """|y - AB| <= (K + 1) eps/2 |A||B| elementwise: the bound of a dot product (Higham, 2002, 3.5)."""
    rng = np.random.default_rng(seed)
    a, b = draw(rng, M, K, spread=spread), draw(rng, K, N, spread=spread)
    stored_a = np.ascontiguousarray(a.T) if transpose_a else a
    stored_b = np.ascontiguousarray(b.T) if transpose_b else b
    y = product(stored_a, stored_b, transpose_a=transpose_a, transpose_b=transpose_b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    bound = np.finfo(np.float32).eps / 2 * (K + 1) * (np.abs(a) @ np.abs(b)) + np.finfo(np.float32).tiny
    assert (np.abs(y - a @ b) <= bound).all()


@EXAMPLES
@given(sizes, sizes, depths, seeds)
def test_integers_are_exact(M, N, K, seed):
    """Products of small integers have no rounding, whatever the order of summation."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-8, 9, (M, K)), rng.integers(-8, 9, (K, N))
    np.testing.assert_array_equal(product(a.astype(np.float32), b.astype(np.float32)), a @ b)


@EXAMPLES
@given(sizes, sizes, depths, st.booleans(), st.booleans(), seeds)
def test_threads_do_not_change_bits(M, N, K, transpose_a, transpose_b, seed):
    rng = np.random.default_rng(seed)
    a, b = draw(rng, 3 * K, 4 * M) if transpose_a else draw(rng, 4 * M, 3 * K), draw(rng, 3 * K, 4 * N)
    b = np.ascontiguousarray(b.T) if transpose_b else b
    before = lamina.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        lamina.set_num_threads(threads)
        results.append(product(a, b, transpose_a=transpose_a, transpose_b=transpose_b).tobytes())
    lamina.set_num_threads(before)
    assert results[0] == results[1] == results[2]


@EXAMPLES
@given(sizes, sizes, sizes, st.integers(1, 3), st.integers(1, 3), seeds)
def test_strided_operands(M, N, K, row_step, column_step, seed):
    """A view with any strides gives what its copy gives, within the error bound of either."""
    rng = np.random.default_rng(seed)
    a, b = draw(rng, M, K), draw(rng, K * row_step, N * column_step)[::row_step, ::column_step]
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    bound = np.finfo(np.float32).eps / 2 * (K + 1) * (np.abs(a64) @ np.abs(b64)) + 1e-30
    assert (np.abs(product(a, b) - a64 @ b64) <= bound).all()


@EXAMPLES
@given(sizes, sizes, sizes, st.sampled_from((np.nan, np.inf, -np.inf)), st.booleans(), seeds)
def test_special_values_reach_their_row_only(M, N, K, value, transpose_b, seed):
    rng = np.random.default_rng(seed)
    a, b = draw(rng, M, K), draw(rng, K, N)
    row = int(rng.integers(M))
    a[row, rng.integers(K)] = value
    y = product(a, np.ascontiguousarray(b.T) if transpose_b else b, transpose_b=transpose_b)
    assert not np.isfinite(y[row]).any()
    assert np.isfinite(np.delete(y, row, axis=0)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=20, deadline=None)
@given(M=sizes, N=sizes, K=sizes, seed=seeds)
def test_gradients_are_products(dtype, M, N, K, seed):
    """d<y, dy> = <dy B^T, da> = <A^T dy, db>."""
    rng = np.random.default_rng(seed)
    a, b, dy = (draw(rng, *shape, dtype=dtype) for shape in ((M, K), (K, N), (M, N)))
    x, w = lamina.from_numpy(a), lamina.from_numpy(b)
    with lamina.Tape() as tape:
        tape.watch(x)
        tape.watch(w)
        y = F.matmul(x, w)
    da, db = (np.array(g) for g in tape.gradient(y, [x, w], lamina.from_numpy(dy)))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(da, dy @ b.T, rtol=0, atol=4 * eps * (np.abs(dy) @ np.abs(b.T)).max())
    np.testing.assert_allclose(db, a.T @ dy, rtol=0, atol=4 * eps * (np.abs(a.T) @ np.abs(dy)).max())
