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


def test_states_are_updated_unless_they_are_read_only():
    x, mean, var = np.full((4, 2), 2, np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
    F.batch_norm(x, mean, var, training=True)
    np.testing.assert_allclose(mean, 0.2)
    mean.flags.writeable = False
    with pytest.raises(TypeError, match="batch_norm: an operand that it updates is read-only; expected an array"):
        F.batch_norm(x, mean, var, training=True)


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


# --- JAX -------------------------------------------------------------------------------------------------------------

try:
    import jax
    import jax.numpy as jnp
except ImportError:
    jax = None

needs_jax = pytest.mark.skipif(jax is None, reason="JAX is not installed (pip install jax)")


@needs_jax
def test_jax_arrays_come_back_as_jax_arrays(rng):
    x = jnp.asarray(rng.standard_normal((4, 6), np.float32))
    y = F.softmax(x, dim=-1)
    assert isinstance(y, jax.Array)
    np.testing.assert_array_equal(y, F.softmax(lamina.tensor(np.asarray(x)), dim=-1).numpy())
    short = F.relu(x.astype(jnp.bfloat16))
    assert short.dtype == jnp.bfloat16
    assert F.gt(x, 0.0).dtype == jnp.bool_


@needs_jax
def test_results_that_are_views_become_row_major_arrays_of_jax(rng):
    x = jnp.asarray(rng.standard_normal((2, 3, 4, 5), np.float32))
    for function, want in (
        (lambda x: F.permute(x, dims=(3, 0, 1, 2)), lambda x: x.transpose(3, 0, 1, 2)),
        (lambda x: F.flip(x, dims=(1,)), lambda x: x[:, ::-1]),
        (lambda x: F.expand(F.slice(x, starts=(0,) * 4, sizes=(1,) * 4, steps=(1,) * 4), shape=(2, 1, 1, 3)),
         lambda x: jnp.broadcast_to(x[:1, :1, :1, :1], (2, 1, 1, 3))),
        (lambda x: F.channels_last(x), lambda x: x),
        (lambda x: F.split(x, split_size=2, dim=3)[1], lambda x: x[..., 2:4]),
    ):  # fmt: skip
        np.testing.assert_array_equal(function(x), want(x))


@needs_jax
def test_memory_that_jax_shares_and_memory_that_it_copies():
    tensor = lamina.ones(64)
    shared = jax.dlpack.from_dlpack(tensor)
    assert tensor.data_ptr % 64 == 0
    assert shared.unsafe_buffer_pointer() == tensor.data_ptr
    part = tensor[1:33]  # begins at no multiple of 64 bytes
    assert jax.dlpack.from_dlpack(part).unsafe_buffer_pointer() != part.data_ptr
    x = jnp.arange(16.0)
    assert lamina.from_dlpack(x).data_ptr == x.unsafe_buffer_pointer()
    assert F.reshape(x, shape=(4, 4)).unsafe_buffer_pointer() == x.unsafe_buffer_pointer()


@needs_jax
def test_results_of_jax_are_waited_for():
    a = jnp.ones((700, 700))
    slow = jax.jit(lambda a: jax.lax.fori_loop(0, 20, lambda i, x: x @ a / 700, a))
    slow(a).block_until_ready()
    np.testing.assert_allclose(F.mul(slow(a), 2.0), 2.0, rtol=1e-4)


@needs_jax
def test_traced_arrays_have_gradients(rng):
    x = jnp.asarray(rng.standard_normal((4, 6), np.float32))
    want = jax.grad(lambda x: (jax.nn.softmax(x) ** 2).sum())(x)
    got = jax.jit(jax.grad(lambda x: F.sum(F.square(F.softmax(x, dim=-1)))))(x)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@needs_jax
def test_jax_arrays_are_not_updated_and_not_mixed():
    x, mean = jnp.ones((4, 2)), jnp.zeros(2)
    with pytest.raises(TypeError, match=r"batch_norm: JAX arrays do not change; expected lamina\.jax\.functional"):
        F.batch_norm(x, mean, jnp.ones(2), training=True)
    assert (mean == 0).all()
    with pytest.raises(TypeError, match=r"add: the operands are arrays of jax and numpy; expected one kind"):
        F.add(x, np.ones((4, 2), np.float32))
    with pytest.raises(TypeError, match=r"add: the operands are arrays of jax and lamina; expected one kind"):
        F.add(lamina.ones(4, 2), x)


@needs_jax
def test_many_exchanges_with_jax_leave_no_memory_behind():
    x = jnp.ones(256)
    F.relu(x)
    before = lamina.memory_stats()["bytes_in_use"]
    for _ in range(5_000):
        F.relu(x)
    assert lamina.memory_stats()["bytes_in_use"] == before
