"""What Lamina and PyTorch share: threads, memory, and forked processes."""

import gc
import multiprocessing
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install torch)")
F = pytest.importorskip("lamina.torch.functional", reason="PyTorch is older than 2.10")
import lamina  # noqa: E402

STATM = Path("/proc/self/statm")
PAGES = 1024  # that a process may grow by: 4 MiB


def resident():
    """Pages of this process. AddressSanitizer keeps what is freed for a while: there is nothing to see then."""
    return 0 if "libasan" in Path("/proc/self/maps").read_text() else int(STATM.read_text().split()[1])


needs_proc = pytest.mark.skipif(not STATM.exists(), reason="this system has no /proc")


# --- threads -----------------------------------------------------------------------------------------------------

COUNT_THREADS = """
import os, torch, lamina.torch
x, w = torch.randn(8, 32, 32, 32), torch.randn(32, 32, 3, 3)
count = lambda: len(os.listdir("/proc/self/task"))
torch.nn.functional.conv2d(x, w)
torch.add(torch.randn(1 << 20), 1)
before = count()
lamina.torch.functional.conv2d(x, w)
print(before, count())
"""


@needs_proc
def test_kernels_run_on_pytorch_s_threads():
    run = subprocess.run([sys.executable, "-c", COUNT_THREADS], capture_output=True, text=True, check=True)
    before, after = run.stdout.split()
    assert before == after


def test_the_number_of_threads_is_pytorch_s_and_does_not_matter():
    x, w = torch.randn(4, 16, 20, 20), torch.randn(16, 16, 3, 3)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(F.conv2d(x, w))
    finally:
        torch.set_num_threads(threads)
    for y in results[1:]:
        assert torch.equal(y, results[0])


@pytest.mark.slow
def test_layers_of_both_in_turn_are_not_slower_than_pytorch_alone():
    x, w = torch.randn(32, 64, 28, 28), torch.randn(64, 64, 3, 3)

    def seconds(conv2d):
        start = time.perf_counter()
        for _ in range(10):
            torch.relu(conv2d(torch.relu(conv2d(x, w, padding=1)), w, padding=1))
        return time.perf_counter() - start

    rounds = [(seconds(F.conv2d), seconds(torch.nn.functional.conv2d)) for _ in range(7)]
    ours, theirs = (min(times) for times in zip(*rounds, strict=True))
    assert ours < 1.15 * theirs


# --- memory ------------------------------------------------------------------------------------------------------


class Owner(np.ndarray):
    """Memory whose end is noticed."""


def exchanges(n):
    """Arrays that go from NumPy to PyTorch to Lamina and back; gives how often memory was let go of."""
    released = []
    for i in range(n):
        owner = np.full(16, i, np.float32).view(Owner)
        weakref.finalize(owner, released.append, i)
        tensor = torch.from_dlpack(lamina.from_dlpack(torch.from_numpy(owner)))
        assert tensor[0] == i
        del owner
        assert len(released) == i  # the tensor holds it
        del tensor
    return released


@needs_proc
def test_memory_is_handed_over_without_a_leak_and_freed_once():
    exchanges(2000)
    gc.collect()
    held, pages = lamina.memory_stats()["bytes_in_use"], resident()
    assert exchanges(100_000) == list(range(100_000))
    gc.collect()
    assert lamina.memory_stats()["bytes_in_use"] == held
    assert resident() - pages < PAGES  # a leak of 64 bytes would make 6 MiB


@needs_proc
def test_results_of_ops_do_not_pile_up():
    x = torch.randn(64, 64, requires_grad=True)

    def work(n):
        for _ in range(n):
            torch.autograd.grad(F.softmax(F.matmul(x, x), dim=-1).sum(), x)

    work(200)
    held, pages = lamina.memory_stats()["bytes_in_use"], resident()
    work(5000)
    assert lamina.memory_stats()["bytes_in_use"] == held
    assert resident() - pages < PAGES  # a result is 16 KiB


def test_tensors_outlive_the_library_that_made_them_either_way():
    t = torch.from_dlpack(lamina.ones((3,)))
    gc.collect()
    assert t.tolist() == [1, 1, 1]
    x = lamina.from_dlpack(torch.ones(3))
    gc.collect()
    assert x.tolist() == [1, 1, 1]


# --- processes ---------------------------------------------------------------------------------------------------


class Filtered(torch.utils.data.Dataset):
    """Images that a worker process filters by a kernel of Lamina."""

    def __init__(self):
        self.images, self.weight = torch.randn(8, 1, 3, 32, 32), torch.randn(8, 3, 3, 3)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return F.conv2d(self.images[i], self.weight)[0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_data_loaders_with_workers():
    torch.manual_seed(0)
    data = Filtered()
    here = torch.stack([data[i] for i in range(len(data))])  # Lamina has threads before the fork
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, timeout=60)
    for _ in range(2):
        torch.testing.assert_close(torch.cat(list(loader)), here, rtol=0, atol=0)


def _child(connection, x, w):
    y = F.conv2d(x, w).numpy()
    connection.send((y, lamina._C.use_team(0)))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    x, w = torch.randn(8, 16, 20, 20), torch.randn(16, 16, 3, 3)
    want = F.conv2d(x, w)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(there, x, w))
    child.start()
    assert here.poll(60), "the forked child does not answer"
    y, team = here.recv()
    np.testing.assert_array_equal(y, want)
    assert team == 0
    child.join()
    assert child.exitcode == 0
