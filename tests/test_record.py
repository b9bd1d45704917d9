"""Programs: recording and replay."""

import numpy as np
import pytest

import lamina
import lamina.functional as F
from lamina import nn, optim


def test_replay_computes_on_new_inputs():
    calls = []

    @lamina.record
    def f(x, y):
        calls.append(1)
        return F.exp(x) * 2.0 + y

    rng = np.random.default_rng(0)
    for _ in range(5):
        x, y = rng.standard_normal((2, 3, 4)).astype(np.float32)
        result = f(lamina.tensor(x), lamina.tensor(y))
        eager = F.exp(lamina.tensor(x)) * 2.0 + lamina.tensor(y)
        np.testing.assert_array_equal(result.numpy(), eager.numpy())
    assert len(calls) == 2
    assert len(f) >= 3


def test_results_are_tensors_of_their_own():
    double = lamina.record(lambda x: {"y": x + x, "z": (x * 3, None)})
    results = [double(lamina.tensor([float(i)])) for i in range(5)]
    assert [r["y"].tolist() for r in results] == [[0], [2], [4], [6], [8]]
    assert [r["z"][0].tolist() for r in results] == [[0], [3], [6], [9], [12]]


def test_temporaries_share_memory_within_a_program():
    @lamina.record
    def f(x):
        for _ in range(50):
            x = x * 1.01 + 0.5
        return x

    x = lamina.ones(1 << 16)
    for _ in range(3):
        y = f(x)
    assert f._program.memory_bytes < 10 * x.nbytes
    expected = x
    for _ in range(50):
        expected = expected * 1.01 + 0.5
    np.testing.assert_array_equal(y.numpy(), expected.numpy())


def test_replay_is_not_disturbed_by_what_runs_between():
    f = lamina.record(lambda x: F.exp(x * 0.5) + F.exp(x * 0.25))
    x = lamina.tensor(np.linspace(0, 1, 1000, dtype=np.float32))
    expected = f(x).numpy().copy()
    f(x)
    for i in range(20):
        junk = [lamina.full((1000,), float(i)) for _ in range(5)]
        np.testing.assert_array_equal(f(x).numpy(), expected)
        del junk


def make_training(recorded):
    lamina.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4))
    opt = optim.Adam(model.parameters(), lr=1e-2)

    def step(x, t):
        with lamina.Tape() as tape:
            loss = F.cross_entropy(model(x), t)
        tape.backward(loss)
        opt.step()
        return loss

    return model, opt, lamina.record(step) if recorded else step


def test_a_recorded_training_step_has_the_bits_of_an_eager_one():
    rng = np.random.default_rng(1)
    data = [(rng.standard_normal((8, 8)).astype(np.float32), rng.integers(0, 4, 8)) for _ in range(12)]
    runs = []
    for recorded in (False, True):
        model, opt, step = make_training(recorded)
        losses = []
        for i, (x, t) in enumerate(data):
            if i == 6:
                opt.lr = 1e-3  # lives in device memory: a replay sees it
            losses.append(float(step(lamina.tensor(x), lamina.tensor(t))))
        runs.append((losses, [p.numpy().copy() for p in model.parameters()]))
    assert runs[0][0] == runs[1][0]
    for eager, replayed in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_array_equal(eager, replayed)


def test_other_shapes_are_refused():
    f = lamina.record(lambda x: x * 2)
    for _ in range(2):
        f(lamina.ones(3))
    with pytest.raises(ValueError, match=r"the arguments are \(4,\) float32; expected \(3,\) float32 as recorded"):
        f(lamina.ones(4))
    with pytest.raises(TypeError, match="argument 0 is a float"):
        f(1.0)


def test_reading_a_value_while_recording_is_refused():
    f = lamina.record(lambda x: x * float(x))
    f(lamina.tensor(2.0))
    with pytest.raises(RuntimeError, match="values cannot be read while a program is recorded"):
        f(lamina.tensor(2.0))
    assert float(lamina.tensor(2.0) * 2) == 4  # the failed recording left nothing behind
    assert not lamina._C.is_recording()


def test_constants_made_while_recording_stay():
    f = lamina.record(lambda x: x + lamina.tensor([1.0, 2.0, 3.0]))
    for _ in range(3):
        y = f(lamina.zeros(3))
        lamina.full((3,), 9.0)
    assert y.tolist() == [1, 2, 3]


def test_a_recording_inside_a_recording_is_part_of_it():
    inner = lamina.record(lambda x: x * 2)
    outer = lamina.record(lambda x: inner(x) + 1)
    assert [float(outer(lamina.tensor(float(i)))) for i in range(4)] == [1, 3, 5, 7]
