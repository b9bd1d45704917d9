"""Tensors: from data and to it, dtypes, views of foreign memory, printing, errors."""

import copy
import os
import pickle
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

import lamina

DTYPES = ["bool", "uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64"]


def numpy_of(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


@pytest.mark.parametrize("name", DTYPES)
def test_numpy_round_trip(name):
    array = np.arange(6).reshape(2, 3).astype(numpy_of(name))
    x = lamina.tensor(array)
    assert x.shape == (2, 3)
    assert x.dtype == name
    assert x.dtype == getattr(lamina, name)
    back = x.numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back.astype(np.float64), array.astype(np.float64))


def test_dtypes_compare_with_whatever_names_them():
    assert lamina.float32 == np.float32 == lamina.float32
    assert lamina.float32 == "float32"
    assert lamina.float32 != lamina.float64
    assert lamina.float32 != None  # noqa: E711
    assert {lamina.int64: 1}[lamina.tensor(1).dtype] == 1
    assert pickle.loads(pickle.dumps(lamina.bfloat16)) == lamina.bfloat16


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        (2, "int64"),
        (True, "bool"),
        ([1, 2.5], "float32"),
        ([[1], [2]], "int64"),
        (np.float64(1), "float64"),
    ],
)
def test_python_data_gets_pytorch_dtypes(data, dtype):
    assert lamina.tensor(data).dtype == dtype


def test_memory_is_shared_or_copied_as_promised():
    array = np.zeros((3, 4), np.float32)
    shared, copied = lamina.from_numpy(array), lamina.tensor(array)
    array[1, 2] = 7
    assert shared.numpy()[1, 2] == 7
    assert copied.numpy()[1, 2] == 0
    shared.numpy()[0, 0] = 5
    assert array[0, 0] == 5
    assert lamina.asarray(array).data_ptr == array.ctypes.data


@pytest.mark.parametrize("how", ["read-only", "negative strides", "byte-swapped", "misaligned"])
def test_memory_that_cannot_be_shared_is_copied(how):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    if how == "read-only":
        array.setflags(write=False)
    elif how == "negative strides":
        array = array[::-1]
    elif how == "byte-swapped":
        array = array.astype(">f4")
    else:
        raw = np.zeros(49, np.uint8)
        raw[1:].view(np.uint8)[:] = array.view(np.uint8).reshape(-1)
        array = raw[1:].view(np.float32).reshape(3, 4)
    x = lamina.from_numpy(array)
    assert x.data_ptr != array.ctypes.data
    np.testing.assert_array_equal(x.numpy(), array)


def test_strided_views_keep_their_strides():
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    x = lamina.from_numpy(array.transpose(2, 0, 1)[::2])
    assert x.strides == (2, 12, 4)
    np.testing.assert_array_equal(x.numpy(), array.transpose(2, 0, 1)[::2])


def test_buffer_protocol():
    x = lamina.tensor([[1, 2, 3], [4, 5, 6]], dtype="int32")
    view = memoryview(x)
    assert (view.shape, view.format, view.strides) == ((2, 3), "i", (12, 4))
    np.testing.assert_array_equal(np.frombuffer(x, np.int32), [1, 2, 3, 4, 5, 6])
    with pytest.raises(TypeError, match="bfloat16 has no buffer format"):
        memoryview(lamina.tensor([1.0], dtype="bfloat16"))


@pytest.mark.parametrize("name", [n for n in DTYPES if n != "bfloat16"])
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_dlpack_to_numpy_and_back(name, version):
    x = lamina.tensor(np.arange(6).reshape(2, 3).astype(name))
    capsule = x.__dlpack__(max_version=version)
    assert ("versioned" in repr(capsule)) == (version is not None)
    del capsule  # an unconsumed capsule frees what it holds
    array = np.from_dlpack(x)
    assert array.ctypes.data == x.data_ptr
    back = lamina.from_dlpack(array)
    assert back.data_ptr == x.data_ptr
    assert back.dtype == x.dtype


def test_dlpack_refuses_what_it_cannot_share():
    with pytest.raises(TypeError, match="from_dlpack: a list has no __dlpack__"):
        lamina.from_dlpack([1, 2])
    with pytest.raises(ValueError, match="stream is 3; expected None"):
        lamina.ones(2).__dlpack__(stream=3)
    with pytest.raises(ValueError, match="negative strides"):
        lamina.from_dlpack(np.arange(4.0)[::-1])


def test_memory_lives_as_long_as_its_users():
    array = np.from_dlpack(lamina.full((1000,), 3.0))
    view = lamina.full((1000,), 4.0).numpy()
    for _ in range(10):
        lamina.full((1000,), 9.0)
    assert (array == 3).all()
    assert (view == 4).all()


def test_pickle_and_copy():
    for name in ("float32", "bfloat16", "int64"):
        x = lamina.tensor([[1, 2], [3, 4]], dtype=name)
        for y in (pickle.loads(pickle.dumps(x)), copy.deepcopy(x)):
            assert y.dtype == x.dtype
            assert y.tolist() == x.tolist()
            assert y.data_ptr != x.data_ptr


def test_numbers():
    x = lamina.tensor([3])
    assert (float(x), int(x), bool(x), x.item()) == (3.0, 3, True, 3)
    assert [10, 20, 30, 40][lamina.tensor(2)] == 30
    with pytest.raises(ValueError, match=r"item: the tensor has shape \(2,\); expected one element"):
        float(lamina.tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match="len: the tensor is 0-d"):
        len(lamina.tensor(1))


def test_operators_with_numbers_and_arrays_on_both_sides():
    x = lamina.tensor([1.0, 2.0, 4.0])
    assert (1 - x).tolist() == [0, -1, -3]
    assert (2 / x).tolist() == [2, 1, 0.5]
    assert (x**2).tolist() == [1, 4, 16]
    assert (np.float32(3) * x).tolist() == [3, 6, 12]
    assert (lamina.tensor([1, 2]) / 2).dtype == lamina.float32
    assert (lamina.tensor([1, 2]) * 2).dtype == lamina.int64
    with pytest.raises(TypeError, match="unsupported operand"):
        x + "text"


def test_printing():
    assert repr(lamina.tensor([1.0, 2.5])) == "tensor([1. , 2.5])"
    assert repr(lamina.tensor([1, 2], dtype="int32")) == "tensor([1, 2], dtype=int32)"
    assert "bfloat16" in repr(lamina.tensor([1.0], dtype="bfloat16"))


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        lamina.tensor([1.0], device="gpu")


def test_data_without_numbers_is_refused():
    with pytest.raises(TypeError, match="expected numbers"):
        lamina.tensor(["a", "b"])
    with pytest.raises(TypeError, match="dtype: 'complex64' is not supported"):
        lamina.tensor([1.0], dtype="complex64")
    with pytest.raises(ValueError, match="at most 8"):
        lamina.tensor(np.zeros((1,) * 9))


def test_memory_is_reused_and_given_back():
    lamina.empty_cache()
    before = lamina.memory_stats()
    x = lamina.full((1 << 20,), 1.0)
    held = lamina.memory_stats()["bytes_in_use"] - before["bytes_in_use"]
    assert 4 << 20 <= held <= (4 << 20) * 1.125 + (2 << 20)
    address = x.data_ptr
    del x
    assert lamina.memory_stats()["bytes_in_use"] == before["bytes_in_use"]
    assert lamina.full((1 << 20,), 1.0).data_ptr == address
    assert lamina.memory_stats()["bytes_cached"] > 0
    lamina.empty_cache()
    assert lamina.memory_stats()["bytes_cached"] == 0


def test_cache_limit():
    limit = lamina.memory_stats()["cache_limit"]
    try:
        lamina.set_cache_limit(0)
        x = lamina.full((1 << 20,), 1.0)
        del x
        assert lamina.memory_stats()["bytes_cached"] == 0
    finally:
        lamina.set_cache_limit(limit)
    with pytest.raises(ValueError, match="set_cache_limit: bytes is -1"):
        lamina.set_cache_limit(-1)


def test_allocation_from_many_threads():
    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            n = int(rng.integers(1, 5000))
            if not (lamina.full((n,), float(seed)).numpy() == seed).all():
                failures.append(seed)

    failures = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_info_says_what_there_is():
    text = subprocess.check_output([sys.executable, "-m", "lamina", "info"], text=True)
    for word in ("version", "compiler", "ISA level chosen", "threads", "no cuda"):
        assert word in text


def test_an_unknown_level_is_an_error_of_the_import():
    run = subprocess.run(
        [sys.executable, "-c", "import lamina"],
        env={**os.environ, "LAMINA_ISA": "mmx", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "unknown level 'mmx'; expected one of baseline" in run.stderr
