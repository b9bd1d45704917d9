"""Devices: names, what is not there, moving tensors, modules and optimizers; on the device of the run (--device)."""

import numpy as np
import pytest

import harness
import lamina
from lamina import functional as F
from lamina import nn, optim


@pytest.fixture
def device():
    if harness.device == "cpu":
        pytest.skip("the run is on the CPU; see pytest --device")
    return lamina._C.check_device(harness.device)


def test_an_unknown_device_is_refused_by_name():
    for name in ("tpu", "cpu:0", "cuda:x", "cuda:-1", "sim:0", ""):
        with pytest.raises((ValueError, RuntimeError), match="device"):
            lamina.zeros(2, device=name)


def test_a_device_that_is_missing_says_why_and_what_to_do():
    if lamina.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RuntimeError, match=r"'cuda' is not available: .+"):
        lamina.tensor([1.0]).to("cuda")
    assert lamina.cuda.device_count() == 0


def test_the_default_device_is_that_of_the_innermost_context():
    assert lamina.zeros(1).device == "cpu"
    with lamina.device("cpu") as here:
        assert repr(here) == "device('cpu')"
        assert lamina.ones(1).device == "cpu"


def test_tensors_move_and_keep_their_values_and_order_in_memory(device, rng):
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    for source in (lamina.tensor(x), F.channels_last(lamina.tensor(x)), lamina.tensor(x)[:, ::2, 1:]):
        moved = source.to(device)
        assert moved.device == device
        np.testing.assert_array_equal(moved.numpy(), source.numpy())
        assert moved.to(device).data_ptr == moved.data_ptr
        np.testing.assert_array_equal(moved.to("cpu").numpy(), source.numpy())
    assert F.channels_last(lamina.tensor(x)).to(device).is_channels_last()


def test_values_are_read_from_the_device(device):
    x = lamina.tensor([1.5, 2.5], device=device)
    assert x.tolist() == [1.5, 2.5]
    assert float(x[0]) == 1.5
    assert np.asarray(x).tolist() == [1.5, 2.5]
    assert f"device='{device}'" in repr(x)
    with pytest.raises((BufferError, RuntimeError), match="expected the CPU"):
        memoryview(x)


def test_creation_follows_the_context_and_the_argument(device):
    with lamina.device(device):
        made = [lamina.zeros(2), lamina.arange(3), lamina.rand(2), lamina.tensor([1.0]), lamina.eye(2)]
        assert {x.device for x in made} == {device}
        assert lamina.zeros(2, device="cpu").device == "cpu"
    assert lamina.full((2,), 3.0, device=device).tolist() == [3.0, 3.0]


def test_operands_of_two_devices_are_refused(device):
    with pytest.raises(RuntimeError, match=r"add: a is on .+ but b is on .+; expected one device"):
        lamina.ones(2, device=device) + lamina.ones(2)


def test_a_python_number_goes_to_the_device_of_the_tensor(device):
    assert (lamina.ones(2, device=device) + 1).tolist() == [2.0, 2.0]


def test_random_numbers_are_those_of_the_cpu(device):
    lamina.manual_seed(3)
    here = lamina.rand(1000).numpy()
    lamina.manual_seed(3)
    there = lamina.rand(1000, device=device).numpy()
    np.testing.assert_array_equal(here, there)


def test_gradients_cross_devices(device):
    x = lamina.tensor([1.0, 2.0])
    with lamina.Tape() as tape:
        tape.watch(x)
        y = F.sum(x.to(device) * 3)
    (dx,) = tape.gradient(y, [x])
    assert dx.device == "cpu"
    assert dx.tolist() == [3.0, 3.0]


def test_a_model_trains_on_the_device_as_on_the_cpu(device, rng):
    x = rng.standard_normal((16, 8)).astype(np.float32)
    t = rng.integers(0, 4, 16)

    def train(where):
        lamina.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).to(where)
        optimizer = optim.Adam(model.parameters(), lr=1e-2)
        inputs, labels = lamina.tensor(x, device=where), lamina.tensor(t, device=where)

        @lamina.record
        def step(inputs, labels):
            with lamina.Tape() as tape:
                loss = F.cross_entropy(model(inputs), labels)
            tape.backward(loss)
            optimizer.step()
            return loss

        return [float(step(inputs, labels)) for _ in range(6)]

    np.testing.assert_allclose(train(device), train("cpu"), rtol=1e-4)


def test_recording_refuses_to_change_devices(device):
    step = lamina.record(lambda x: x.to("cpu"))
    x = lamina.ones(2, device=device)
    step(x)
    with pytest.raises(RuntimeError, match="cannot move between devices"):
        step(x)


def test_pinned_memory_holds_the_same_values(device):
    x = lamina.arange(12.0).reshape(3, 4)
    pinned = lamina.cuda.pin_memory(x.T, device)
    assert pinned.device == "cpu"
    np.testing.assert_array_equal(pinned.numpy(), x.T.numpy())
    np.testing.assert_array_equal(pinned.to(device).numpy(), x.T.numpy())
    with pytest.raises(RuntimeError, match="pin_memory: x is on"):
        lamina.cuda.pin_memory(x.to(device), device)


def test_events_measure_device_time(device):
    start, end = lamina.cuda.Event(device), lamina.cuda.Event(device)
    start.record()
    lamina.ones(1000, device=device)
    end.record()
    end.synchronize()
    assert 0 <= start.elapsed_time(end) < 60


def test_memory_comes_from_another_pool_if_asked(device):
    if not device.startswith("sim"):
        pytest.skip("the pool of the driver is in use by then")
    held = {}

    def allocate(where, size):
        assert where == device
        block = np.zeros(size + 512, np.uint8)
        address = -(-block.ctypes.data // 512) * 512
        held[address] = block
        return address

    lamina._C.set_device_pool(allocate, lambda where, address: held.pop(address))
    try:
        x = lamina.ones(1000, device=device)
        assert held
        assert float(x[-1]) == 1
    finally:
        lamina._C.set_device_pool(None, None)
    del x
    assert not held, "a block goes back to the pool that it came from"
    with pytest.raises(ValueError, match="library is 'jax'"):
        lamina.cuda.use_pool_of("jax")


def test_memory_is_counted_and_given_back(device):
    before = lamina._C.memory_stats(device)["bytes_in_use"]
    x = lamina.zeros(1 << 20, device=device)
    assert lamina._C.memory_stats(device)["bytes_in_use"] >= before + x.nbytes
    del x
    assert lamina._C.memory_stats(device)["bytes_in_use"] == before


@pytest.mark.parametrize("width", [8, 5])
def test_padding_of_an_embedding_gets_no_gradient(device, width, rng):
    table = rng.standard_normal((4, width)).astype(np.float32)
    indices, dy = np.array([3, 1, 3, 0, 3, 1]), rng.standard_normal((6, width)).astype(np.float32)
    weight = lamina.tensor(table, device=device)
    with lamina.Tape() as tape:
        tape.watch(weight)
        y = F.embedding(lamina.tensor(indices, device=device), weight, padding_idx=-1)
    want = np.zeros_like(table)
    np.add.at(want, indices, dy)
    want[3] = 0
    (got,) = tape.gradient(y, [weight], lamina.tensor(dy, device=device))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_indices_out_of_range_stay_inside(device):
    """The host does not see indices on a device: kernels read and write as if those outside were clamped."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows, columns = np.array([-7, 1, 99]), np.array([[-1, 2], [5, 0], [1, 1], [2**40, -(2**40)]])
    inside = np.clip(rows, 0, 3), np.clip(columns, 0, 2)

    def on_device(a):
        return lamina.tensor(a, device=device)

    t = on_device(x)
    with lamina.Tape() as tape:
        tape.watch(t)
        selected, gathered = F.index_select(t, on_device(rows)), F.gather(t, on_device(columns), dim=1)
    np.testing.assert_array_equal(selected.numpy(), x[inside[0]])
    np.testing.assert_array_equal(gathered.numpy(), np.take_along_axis(x, inside[1], 1))
    np.testing.assert_array_equal(F.one_hot(on_device(rows), num_classes=4).numpy(), np.eye(4)[inside[0]])

    dx, dy = np.zeros_like(x), np.ones((3, 3), np.float32)
    np.add.at(dx, inside[0], dy)
    np.testing.assert_array_equal(tape.gradient(selected, [t], on_device(dy))[0].numpy(), dx)
