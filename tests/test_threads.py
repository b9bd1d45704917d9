"""The same bits for any number of threads, from any thread, and in a forked child."""

import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import lamina
from cases import materialise
from harness import assert_same_bits, benches, call, label, samples

SMALL = [p.values for p in samples() if p.values[2] == "float32" and not p.marks][::4]


@pytest.fixture(autouse=True)
def own_pool():
    """Lamina's own threads, also where the tests of PyTorch have made it share those of PyTorch."""
    before = lamina._C.use_team(0)
    yield
    lamina._C.use_team(before)


@pytest.fixture
def threads():
    """Sets the number of threads, and restores it after the test."""
    before = lamina.get_num_threads()
    yield lamina.set_num_threads
    lamina.set_num_threads(before)


@pytest.mark.parametrize(("case", "bench"), benches())
def test_any_number_of_threads(case, bench, threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(call(case, materialise(case, bench, "float32"), bench.attrs))
    for more in results[1:]:
        for i, (one, y) in enumerate(zip(results[0], more, strict=True)):
            assert_same_bits(one, y, f"{label(case, bench)}, output {i}, 1 and more threads")


def run_all(entries):
    return [call(case, materialise(case, sample, dtype), sample.attrs) for case, sample, dtype in entries]


def assert_all_same(first, second, where):
    for (case, sample, _), ys, zs in zip(SMALL, first, second, strict=True):
        for y, z in zip(ys, zs, strict=True):
            assert_same_bits(y, z, f"{label(case, sample)}, {where}")


def test_concurrent_callers():
    alone = run_all(SMALL)
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(run_all, [SMALL] * 4):
            assert_all_same(alone, results, "alone and with three other Python threads")


def test_workers_may_use_all_cpus_again(threads):
    """A worker that is woken on its caller's CPU leaves it, for a moment only."""
    threads(3)
    x = lamina.ones(1 << 20)
    for _ in range(50):
        time.sleep(2e-3)  # the workers fall asleep
        lamina.functional.square(x)
    mine, deadline = os.sched_getaffinity(0), time.monotonic() + 20

    def is_restricted(task):
        try:
            return os.sched_getaffinity(int(task)) != mine
        except ProcessLookupError:  # a thread of another library, which has ended
            return False

    while any(map(is_restricted, os.listdir("/proc/self/task"))):
        assert time.monotonic() < deadline, "a thread has not got its CPUs back"
        time.sleep(1e-2)


def _child(connection):
    connection.send(run_all(SMALL))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_fork_after_use(threads):
    threads(2)
    in_parent = run_all(SMALL)
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(there,))
    child.start()
    assert here.poll(120), "the forked child does not answer"
    assert_all_same(in_parent, here.recv(), "parent and forked child")
    child.join()
    assert child.exitcode == 0
