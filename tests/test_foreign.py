"""Functions on arrays of other libraries: what kind comes back, what is shared, what is refused."""

import numpy as np
import pytest

import lamina
import lamina.functional as F

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed (pip install torch)")


def test_numpy_arrays_come_back_as_numpy_arrays(rng):
    x = rng.standard_normal((4, 6)).astype(np.float32)
    y = F.softmax(x, dim=-1)
    assert type(y) is np.ndarray
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(y, F.softmax(lamina.tensor(x), dim=-1).numpy())


def test_strided_and_reversed_numpy_arrays_are_understood(rng):
    x = rng.standard_normal((6, 8)).astype(np.float32)
    for view in (x.T, x[::2, 1::3], x[::-1], x[:, ::-1]):
        np.testing.assert_array_equal(F.relu(view), np.maximum(view, 0))


def test_lengths_of_sequences_may_be_an_array_too(rng):
    operands = [rng.standard_normal(shape).astype(np.float32) for shape in ((5, 2, 3), (16, 3), (16, 4))]
    absent = [None] * 4
    y, *_ = F.lstm_layer(*operands, *absent, np.array([5, 2]))
    want, *_ = F.lstm_layer(*map(lamina.tensor, operands), *absent, lamina.tensor([5, 2]))
    np.testing.assert_array_equal(y, want.numpy())
    with pytest.raises(ValueError, match="lengths go from 2 to 6; expected 1 to the 5 steps"):
        F.lstm_layer(*operands, *absent, np.array([6, 2]))


def test_a_python_number_beside_an_array(rng):
    x = rng.standard_normal(5).astype(np.float32)
    np.testing.assert_array_equal(F.add(x, 1.0), x + np.float32(1))


def test_lists_of_arrays_and_several_results(rng):
    x = rng.standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(F.concat([x, x], dim=0), np.concatenate([x, x]))
    y, indices = F.max_pool2d(x.reshape(1, 1, 2, 3), kernel_size=(2, 1), return_indices=True)
    assert type(y) is type(indices) is np.ndarray
    np.testing.assert_array_equal(y.ravel(), x.max(axis=0))


def test_what_is_given_is_not_copied():
    x = np.zeros(3, np.float32)
    y = F.reshape(x, shape=(3, 1))
    x[1] = 7
    assert y[1, 0] == 7


@needs_torch
def test_torch_tensors_come_back_as_torch_tensors(rng):
    x = torch.from_numpy(rng.standard_normal((4, 6)).astype(np.float32))
    y = F.softmax(x, dim=-1)
    assert isinstance(y, torch.Tensor)
    torch.testing.assert_close(y, torch.softmax(x, -1))
    short = F.relu(x.to(torch.bfloat16).requires_grad_())
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short, torch.relu(x.to(torch.bfloat16)))
    x.requires_grad_()
    F.softmax(x, dim=-1)[:, 0].sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.grad(torch.softmax(x, -1)[:, 0].sum(), x)[0])


@needs_torch
def test_kinds_are_not_mixed():
    x = np.ones(2, np.float32)
    with pytest.raises(TypeError, match=r"add: the operands are arrays of numpy and torch; expected one kind"):
        F.add(x, torch.ones(2))
    with pytest.raises(TypeError, match=r"add: the operands are arrays of lamina and numpy; expected one kind"):
        F.add(lamina.ones(2), x)


def test_what_is_no_array_is_refused_by_name():
    for stranger in ("text", [1.0, 2.0], object()):
        with pytest.raises(TypeError, match=r"add: b is a \w+; expected a lamina.Tensor"):
            F.add(lamina.ones(2), stranger)


def test_a_state_may_be_a_tensor_among_arrays():
    lamina.manual_seed(0)
    y = F.dropout(np.ones(1000, np.float32), p=0.5)
    assert type(y) is np.ndarray
    assert set(np.unique(y)) == {0.0, 2.0}


def test_many_exchanges_leave_no_memory_behind():
    x = np.ones(256, np.float32)
    F.relu(x)
    before = lamina.memory_stats()["bytes_in_use"]
    for _ in range(10_000):
        F.relu(x)
    assert lamina.memory_stats()["bytes_in_use"] == before
