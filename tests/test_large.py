"""Arrays of more than 2^31 elements: `pytest -m large -n 0`, which needs 16 GiB of free memory and a few minutes.

Every test looks at the elements beyond 2^31, where a 32-bit index would have wrapped around.
"""

import numpy as np
import pytest

import lamina
import lamina.functional as F

pytestmark = pytest.mark.large

N = 2**31 + 3 * 1024  # elements


def ramp(shape, dtype="bfloat16"):
    """0 except for the last 1024 elements, which count 0, 1, …, 7, 0, 1, …"""
    x = lamina.zeros(N, dtype=dtype)
    x[-1024:].copy_(lamina.tensor(np.arange(1024) % 8, dtype=dtype))
    return F.reshape(x, shape=shape)


TAIL = np.arange(1024) % 8


def test_elementwise_and_casts():
    x = ramp((N,), "uint8")
    y = x + x
    np.testing.assert_array_equal(y[-1024:].numpy(), 2 * TAIL)
    np.testing.assert_array_equal((y > 3)[-1024:].numpy(), 2 * TAIL > 3)
    np.testing.assert_array_equal(F.cast(x, dtype="bfloat16")[-1024:].numpy().astype(int), TAIL)


def test_reductions():
    x = ramp((N,), "uint8")
    assert int(F.sum(x)) == TAIL.sum()
    assert int(F.argmax(x)) == N - 1024 + 7
    np.testing.assert_array_equal(F.sum(F.reshape(x, shape=(-1, 1024)), dim=0).numpy(), TAIL)


def test_copies_and_slices():
    x = F.reshape(ramp((N,), "uint8"), shape=(N // 1024, 1024))
    y = F.contiguous(F.permute(x, dims=(1, 0)))
    np.testing.assert_array_equal(y[:, -1].numpy(), TAIL)
    np.testing.assert_array_equal(F.concat([x[-1:], x[:1]], dim=0)[0].numpy(), TAIL)
    np.testing.assert_array_equal(F.flip(x[-2:], dims=(0,))[0].numpy(), TAIL)


def test_matmul():
    x = ramp((N // 1024, 1024))
    y = F.matmul(x, lamina.ones(1024, 1, dtype="bfloat16"))
    assert float(y[-1]) == TAIL.sum()
    assert float(y[-2]) == 0


def test_convolution_and_pooling():
    x = ramp((1, 5, N // 5120, 1024))  # N is 2 097 155 rows, five times a prime
    y = F.max_pool2d(x, kernel_size=(1, 8))
    assert (y[0, -1, -1].numpy().astype(int) == 7).all()
    del y
    x = F.reshape(x, shape=(N // 1024, 4, 16, 16))
    y = F.conv2d(x[-3:], lamina.ones(2, 4, 1, 1, dtype="bfloat16"))
    np.testing.assert_array_equal(y[-1, 1].numpy().astype(int).reshape(-1), TAIL.reshape(4, 256).sum(axis=0))


def test_softmax_and_dropout():
    x = ramp((N // 1024, 1024))
    y = F.softmax(x, dim=-1)[-1].numpy().astype(np.float64)
    np.testing.assert_allclose(y, np.exp(TAIL) / np.exp(TAIL).sum(), rtol=0.02)
    lamina.manual_seed(0)
    z = F.dropout(x, p=0.5)[-1].numpy().astype(int)
    assert set(z - 2 * TAIL) - {0} <= set(-2 * TAIL)
    assert 300 < (z != 0).sum() < 600
