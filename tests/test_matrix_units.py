"""Products large enough for matrix units, on the device of the run (--device), and how exact those of float32 are."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

import harness
import lamina
from lamina import functional as F

# Sizes that fill no tile. K goes through the longest pipeline more than twice: four stages of 64, or two with planes.
M, N, K = 72, 88, {np.float32: 328, bfloat16: 584, np.float16: 584}

# Half the distance from 1 to the next number.
ROUNDING = {np.float32: 2.0**-24, bfloat16: 2.0**-8, np.float16: 2.0**-11}

# One axis of batches, as TMA wants it, and two that cannot be one, which it cannot describe.
BATCHES = {"one axis": ((9,), (9,)), "two axes": ((3, 3), (3,))}


def operand(rng, dtype, *shape):
    x = rng.standard_normal(shape).astype(dtype)
    return x, harness.on_device(x), x.astype(np.float64)


def dtypes():
    return [np.float32, bfloat16, np.float16]


@pytest.fixture
def precision():
    """Sets how float32 is multiplied, and restores it after the test."""
    before = lamina.get_float32_precision()
    yield lamina.set_float32_precision
    lamina.set_float32_precision(before)


def skip_without(dtype):
    if dtype == np.float16 and harness.device == "cpu":
        pytest.skip("the CPU has no products of float16")


@pytest.mark.parametrize("dtype", dtypes(), ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_every_transposition(dtype, batch, transpose_a, transpose_b, rng):
    skip_without(dtype)
    of_a, of_b = BATCHES[batch]
    _, a, a64 = operand(rng, dtype, *of_a, *((K[dtype], M) if transpose_a else (M, K[dtype])))
    _, b, b64 = operand(rng, dtype, *of_b, *((N, K[dtype]) if transpose_b else (K[dtype], N)))
    y = np.array(F.matmul(a, b, transpose_a=transpose_a, transpose_b=transpose_b)).astype(np.float64)
    a64 = a64.swapaxes(-1, -2) if transpose_a else a64
    b64 = b64.swapaxes(-1, -2) if transpose_b else b64
    bound = ROUNDING[dtype] * np.abs(a64 @ b64) + 2.0**-20 * (np.abs(a64) @ np.abs(b64))
    assert (np.abs(y - a64 @ b64) <= bound).all()


@pytest.mark.parametrize("dtype", dtypes(), ids=["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("columns", [264, 261])
def test_fused_epilogue(dtype, columns, rng):
    skip_without(dtype)
    _, x_there, x64 = operand(rng, dtype, 200, 136)
    _, w_there, w64 = operand(rng, dtype, columns, 136)
    _, bias, bias64 = operand(rng, dtype, columns)
    _, residual, residual64 = operand(rng, dtype, 200, columns)
    y = np.array(F.linear(x_there, w_there, bias, residual, activation="relu")).astype(np.float64)
    truth = np.maximum(x64 @ w64.T + bias64, 0) + residual64
    bound = ROUNDING[dtype] * np.abs(truth) + 2.0**-20 * (np.abs(x64) @ np.abs(w64.T))
    assert (np.abs(y - truth) <= bound).all()


def test_the_setting_is_checked_and_kept(precision):
    assert lamina.get_float32_precision() == "highest"
    for name in ("ieee", "high", "medium", "highest"):
        precision(name)
        assert lamina.get_float32_precision() == name
    with pytest.raises(ValueError, match="precision is 'low'; expected 'highest', 'ieee', 'high' or 'medium'"):
        precision("low")


def test_precisions_differ_as_they_promise(precision, rng):
    """Errors relative to |A| |B|: highest at most that of a chain of float32 multiply-adds, high 2^-15, medium 2^-8."""
    if harness.device == "cpu":
        pytest.skip("the CPU multiplies float32 in float32 whatever the setting")
    _, a_there, a64 = operand(rng, np.float32, 264, 520)
    _, b_there, b64 = operand(rng, np.float32, 520, 136)
    chain = np.zeros((264, 136), np.float32)
    for k in range(520):
        chain = (chain + a64[:, k : k + 1] * b64[k]).astype(np.float32)

    def error_of(y):
        return np.max(np.abs(y - a64 @ b64) / (np.abs(a64) @ np.abs(b64)))

    error = {}
    for name in ("highest", "ieee", "high", "medium"):
        precision(name)
        error[name] = error_of(np.array(F.matmul(a_there, b_there)))
    assert error["highest"] <= error_of(chain)
    assert error["ieee"] <= error_of(chain)
    assert 2 * error_of(chain) < error["high"] <= 2.0**-15
    assert 16 * error["high"] < error["medium"] <= 2.0**-8


@pytest.mark.parametrize("setting", ["highest", "high", "medium"])
def test_planes_have_the_infinities_of_float32(setting, precision, rng):
    """inf times a number whose planes are zeros is inf, and numbers above the largest bfloat16 are no infinities."""
    precision(setting)
    a, b = rng.integers(-4, 5, (200, 264)).astype(np.float32), rng.integers(-4, 5, (264, 136)).astype(np.float32)
    a[3, 5], a[4, 6], a[5, 7], b[8, 9] = np.inf, -np.inf, np.nan, np.inf
    a[6], a[6, 10], b[10, 11] = 0, np.finfo(np.float32).max, 0.5
    with np.errstate(all="ignore"):
        want = a @ b
        got = np.array(F.matmul(harness.on_device(a), harness.on_device(b)))
    np.testing.assert_array_equal(got, want)
