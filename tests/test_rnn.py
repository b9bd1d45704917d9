"""nn.LSTM and nn.LSTMCell hold PyTorch's parameters and give PyTorch's numbers; lengths are its packed sequences."""

import numpy as np
import pytest

import lamina
from lamina import functional as F
from lamina import nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def pair(ours, theirs):
    """Both layers with PyTorch's parameters."""
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, parameter in ours.named_parameters():
        assert parameter.shape == tuple(state[name].shape)
        parameter.copy_(lamina.from_numpy(state[name].numpy().copy()))
    return ours, theirs


def assert_close(ours, theirs):
    """float64 to within rounding."""
    np.testing.assert_allclose(np.array(ours), theirs.detach().numpy(), rtol=0, atol=1e-12)


def both(shape, rng):
    x = rng.standard_normal(shape)
    return lamina.from_numpy(x.copy()), torch.from_numpy(x.copy()).requires_grad_()


OPTIONS = [
    {},
    {"bias": False},
    {"num_layers": 2, "bidirectional": True},
    {"num_layers": 3, "batch_first": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("has_state", [False, True])
def test_lstm(options, has_state, rng):
    ours, theirs = pair(
        nn.LSTM(5, 7, **options, dtype=lamina.float64), torch.nn.LSTM(5, 7, **options, dtype=torch.float64)
    )
    groups = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    x, x_torch = both((4, 3, 5), rng)
    batch = 4 if options.get("batch_first") else 3
    states = [both((groups, batch, 7), rng) for _ in range(2)]
    hx, hx_torch = zip(*states, strict=True)
    with lamina.Tape() as tape:
        tape.watch(x)
        y, (h, c) = ours(x, hx if has_state else None)
        loss = F.sum(y * y) + F.sum(h) + F.sum(c * c)
    y_torch, (h_torch, c_torch) = theirs(x_torch, hx_torch if has_state else None)
    for a, b in ((y, y_torch), (h, h_torch), (c, c_torch)):
        assert_close(a, b)
    ((y_torch * y_torch).sum() + h_torch.sum() + (c_torch * c_torch).sum()).backward()
    tape.backward(loss)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(a.grad, b.grad)


@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_are_packed_sequences(batch_first, rng):
    options = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    ours, theirs = pair(
        nn.LSTM(5, 6, **options, dtype=lamina.float64), torch.nn.LSTM(5, 6, **options, dtype=torch.float64)
    )
    steps, lengths = 7, np.array([3, 7, 1, 5])
    x, x_torch = both((4, steps, 5) if batch_first else (steps, 4, 5), rng)
    utils = torch.nn.utils.rnn
    packed = utils.pack_padded_sequence(x_torch, torch.from_numpy(lengths), batch_first, enforce_sorted=False)
    packed_y, (h_torch, c_torch) = theirs(packed)
    y_torch, _ = utils.pad_packed_sequence(packed_y, batch_first, total_length=steps)
    with lamina.Tape() as tape:
        tape.watch(x)
        y, (h, c) = ours(x, lengths=lamina.from_numpy(lengths))
        loss = F.sum(y * y) + F.sum(h) + F.sum(c)
    for a, b in ((y, y_torch), (h, h_torch), (c, c_torch)):
        assert_close(a, b)
    ((y_torch * y_torch).sum() + h_torch.sum() + c_torch.sum()).backward()
    parameters = list(ours.parameters())
    dx, *gradients = tape.gradient(loss, [x, *parameters])
    assert_close(dx, x_torch.grad)
    for a, b in zip(gradients, theirs.parameters(), strict=True):
        assert_close(a, b.grad)


def test_unbatched_lstm(rng):
    ours, theirs = pair(nn.LSTM(4, 3, dtype=lamina.float64), torch.nn.LSTM(4, 3, dtype=torch.float64))
    x, x_torch = both((6, 4), rng)
    (h, h_torch), (c, c_torch) = both((1, 3), rng), both((1, 3), rng)
    y, last = ours(x, (h, c))
    y_torch, last_torch = theirs(x_torch, (h_torch, c_torch))
    for a, b in ((y, y_torch), *zip(last, last_torch, strict=True)):
        assert_close(a, b)


@pytest.mark.parametrize("batch", [None, 1, 6])
@pytest.mark.parametrize("has_state", [False, True])
def test_lstm_cell(batch, has_state, rng):
    ours, theirs = pair(nn.LSTMCell(5, 9, dtype=lamina.float64), torch.nn.LSTMCell(5, 9, dtype=torch.float64))
    lead = () if batch is None else (batch,)
    x, x_torch = both((*lead, 5), rng)
    (h, h_torch), (c, c_torch) = both((*lead, 9), rng), both((*lead, 9), rng)
    got = ours(x, (h, c) if has_state else None)
    want = theirs(x_torch, (h_torch, c_torch) if has_state else None)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b)


def test_dropout_between_layers_only_in_training():
    layer = nn.LSTM(3, 4, num_layers=2, dropout=1.0)
    x = lamina.ones(5, 2, 3)
    zeros = lamina.zeros(5, 2, 4)
    top = F.lstm(zeros, list(layer.parameters())[4:])[0]
    np.testing.assert_array_equal(np.array(layer(x)[0]), np.array(top))
    layer.eval()
    assert (np.array(layer(x)[0]) != np.array(top)).any()
