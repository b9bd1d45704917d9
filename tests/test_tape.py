"""The tape: what is recorded, what backward stores, and functions written in Python."""

import gc
import threading

import numpy as np
import pytest

import lamina
import lamina.functional as F
from lamina import nn


def parameter(*values):
    return nn.Parameter(lamina.tensor(list(values)))


def test_backward_stores_and_overwrites():
    w = parameter(1.0, 2.0)
    for _ in range(2):
        with lamina.Tape() as tape:
            loss = F.sum(w * w)
        tape.backward(loss)
        assert w.grad.tolist() == [2, 4]
    tape.backward(loss, accumulate=True)
    assert w.grad.tolist() == [4, 8]


def test_loss_backward_is_the_same():
    w = parameter(3.0)
    with lamina.Tape():
        loss = F.sum(w * w)
    loss.backward()
    assert w.grad.tolist() == [6]


def test_a_value_used_twice_gets_the_sum():
    w = parameter(2.0)
    with lamina.Tape() as tape:
        y = w * w
        z = F.sum(y * y + y + w)
    tape.backward(z)
    assert w.grad.tolist() == [4 * 8 + 4 + 1]


def test_the_same_tensor_on_both_sides():
    w = parameter(3.0)
    with lamina.Tape() as tape:
        z = F.sum(w / w + w * w - w)
    tape.backward(z)
    assert w.grad.tolist() == pytest.approx([5.0])


def test_nothing_is_recorded_outside_a_tape_or_without_watched_inputs():
    w = parameter(1.0)
    y = w * w
    with pytest.raises(RuntimeError, match="no tape holds the tensor"):
        y.backward()
    with lamina.Tape() as tape:
        x = lamina.ones(3) * 2
    assert len(tape) == 0
    with pytest.raises(ValueError, match="not computed from watched inputs"):
        tape.backward(x)


def test_watched_tensors_and_gradient():
    x, w = lamina.tensor([1.0, 2.0]), parameter(3.0, 4.0)
    with lamina.Tape() as tape:
        tape.watch(x)
        y = x * w
        z = F.sum(y * x)
    dx, dw, dy, none = tape.gradient(z, [x, w, y, lamina.ones(2)])
    assert dx.tolist() == [6, 16]
    assert dw.tolist() == [1, 4]
    assert dy.tolist() == [1, 2]
    assert none is None
    assert x.grad is None
    assert w.grad is None
    tape.backward(z)
    assert x.grad.tolist() == [6, 16]


def test_an_intermediate_value_can_be_watched():
    w = parameter(2.0)
    with lamina.Tape() as tape:
        y = w * 3
        tape.watch(y)
        z = F.sum(y * y)
    tape.backward(z)
    assert y.grad.tolist() == [12]
    assert w.grad.tolist() == [36]


def test_gradient_of_a_vector_needs_a_direction():
    w = parameter(1.0, 2.0)
    with lamina.Tape() as tape:
        y = w * w
    with pytest.raises(ValueError, match=r"backward: the tensor has shape \(2,\); expected one element"):
        tape.backward(y)
    with pytest.raises(ValueError, match=r"expected .* as the tensor"):
        tape.backward(y, lamina.ones(3))
    tape.backward(y, lamina.tensor([1.0, 10.0]))
    assert w.grad.tolist() == [2, 40]


def test_params_restricts_what_is_stored():
    """As a GAN needs: the generator's loss runs through the discriminator, whose gradients it must not touch."""
    g, d = parameter(2.0), parameter(3.0)
    with lamina.Tape() as tape:
        loss = F.sum(g * d)
    tape.backward(loss, params=[g])
    assert g.grad.tolist() == [3]
    assert d.grad is None


def test_two_losses_on_one_tape():
    w = parameter(2.0)
    with lamina.Tape() as tape:
        y = w * w
        a, b = F.sum(y * 2), F.sum(y * 3)
    tape.backward(a)
    first = w.grad.tolist()
    tape.backward(b)
    assert (first, w.grad.tolist()) == ([8], [12])


def test_frozen_parameters_cost_nothing():
    below, head = nn.Linear(4, 4), nn.Linear(4, 2)
    below.freeze()
    x = lamina.ones(3, 4)
    with lamina.Tape() as tape:
        y = below(x)
        recorded_below = len(tape)
        loss = F.sum(head(y))
    tape.backward(loss)
    assert recorded_below == 0
    assert below.weight.grad is None
    assert head.weight.grad is not None
    below.freeze(False)
    with lamina.Tape() as tape:
        loss = F.sum(head(below(x)))
    tape.backward(loss)
    assert below.weight.grad is not None


def test_gradients_have_memory_of_their_own():
    """Clipping changes gradients in place, so two parameters never share one."""
    a, b = parameter(1.0, 2.0), parameter(3.0, 4.0)
    seed = lamina.ones(2)
    with lamina.Tape() as tape:
        y = a + b
    tape.backward(y, seed)
    assert len({a.grad.data_ptr, b.grad.data_ptr, seed.data_ptr}) == 3


def test_broadcasting_sums_gradients():
    w = nn.Parameter(lamina.ones(3, 1))
    with lamina.Tape() as tape:
        loss = F.sum(w * lamina.ones(2, 3, 4))
    tape.backward(loss)
    assert w.grad.tolist() == [[8], [8], [8]]


def test_nested_tapes_record_on_the_innermost():
    w = parameter(2.0)
    with lamina.Tape() as outer:
        y = w * w
        with lamina.Tape() as inner:
            z = F.sum(w * 5)
        inner.backward(z)
        assert w.grad.tolist() == [5]
        loss = F.sum(y)
    assert len(inner) == 2
    outer.backward(loss)
    assert w.grad.tolist() == [4]


def test_a_tape_closes_when_its_block_raises():
    w = parameter(1.0)
    with pytest.raises(ZeroDivisionError), lamina.Tape():
        w * (1 / 0)
    assert not (w * w).is_watched


def test_memory_of_a_step_is_freed_with_its_tape():
    w = nn.Parameter(lamina.ones(1 << 18))

    def step():
        with lamina.Tape() as tape:
            loss = F.sum(F.exp(w * 0.5) * w)
        tape.backward(loss)

    step()
    with lamina.Tape():
        pass
    before = lamina.memory_stats()["bytes_in_use"]
    for _ in range(3):
        step()
    with lamina.Tape():
        pass
    assert lamina.memory_stats()["bytes_in_use"] == before


def test_threads_have_tapes_of_their_own():
    w = parameter(1.0, 2.0, 3.0)
    results = {}

    def work(k):
        for _ in range(50):
            with lamina.Tape() as tape:
                loss = F.sum(w * w * float(k))
            results.setdefault(k, []).append(tape.gradient(loss, [w])[0].tolist())

    threads = [threading.Thread(target=work, args=(k,)) for k in range(1, 5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, grads in results.items():
        assert grads == [[2.0 * k, 4.0 * k, 6.0 * k]] * 50


class Scale(lamina.Function):
    """y = x · factor, z = x, in Python."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.saved = x, factor
        return x * factor, x.clone()

    @staticmethod
    def vjp(ctx, dy, dz):
        x, factor = ctx.saved
        dx = dy * factor if dy is not None else None
        if dz is not None:
            dx = dz if dx is None else dx + dz
        return dx, F.sum(dy * x) if dy is not None else None


def test_function():
    w, factor = parameter(1.0, 2.0), nn.Parameter(lamina.tensor(3.0))
    with lamina.Tape() as tape:
        y, z = Scale.apply(w, factor)
        loss = F.sum(y * y) + F.sum(z)
    assert y.tolist() == [3, 6]
    tape.backward(loss)
    assert w.grad.tolist() == [19, 37]
    assert float(factor.grad) == 30
    with lamina.Tape() as tape:
        _, z = Scale.apply(w, factor)
        loss = F.sum(z)
    tape.backward(loss)
    assert w.grad.tolist() == [1, 1]
    assert factor.grad is None


def test_function_errors():
    class Wrong(lamina.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def vjp(ctx, dy):
            return lamina.ones(5)

    w = parameter(1.0, 2.0)
    with lamina.Tape() as tape:
        loss = F.sum(Wrong.apply(w))
    with pytest.raises(ValueError, match=r"gradient 0 is \(5,\) float32; expected \(2,\) float32"):
        tape.backward(loss)
    with pytest.raises(TypeError, match="Wrong: an input is a float"):
        Wrong.apply(1.0)


def test_value_and_grad():
    x, w = lamina.tensor([1.0, 2.0]), [lamina.tensor([3.0, 4.0]), lamina.tensor(2.0)]
    value, grads = lamina.value_and_grad(lambda x, w: F.sum(x * w[0]) * w[1], argnums=(0, 1))(x, w)
    assert float(value) == 22
    assert grads[0].tolist() == [6, 8]
    assert [g.tolist() for g in grads[1]] == [[2, 4], 11]
    assert x.grad is None
    (value, extra), grad = lamina.value_and_grad(lambda x: (F.sum(x), "extra"))(x)
    assert extra == "extra"
    assert grad.tolist() == [1, 1]


def test_tapes_do_not_leak():
    gc.collect()
    w = parameter(1.0)
    for _ in range(100):
        with lamina.Tape() as tape:
            y = w * w
    del tape, y
    assert np.isfinite(w.numpy()).all()
