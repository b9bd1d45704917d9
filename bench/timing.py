"""What a timing means here.

Candidates take turns: each round times every candidate once, in rotating order, so that clock changes and
neighbours hit all of them alike. A turn repeats the call until it lasts a millisecond. With one thread the
clock is the CPU time of that thread, which does not count waiting for a core. With more it is wall time, turns
last longer, and each begins when all threads of the process sleep: the workers of the candidate before spin for
a while (Lamina's for 0.4 ms, PyTorch's for 9, those of OpenBLAS for a hundred), and where there are no more cores
than threads they would take one from the next. A call that does not count then wakes its own. On a GPU it is
wall time from the first call of a turn until the device has done them all.

Reported are the median over rounds, the minimum, and the spread (interquartile range over median). The ratio
to a rival is the median of the ratios within each round: what drifts slower than a round cancels.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lamina

TURN = 1e-3  # seconds; the clocks are good to about 100 ns, so 1e-4 of a turn
THREADS_TURN = 5e-3  # the rest before it takes 10 ms and more
DEVICE_TURN = 10e-3  # to wait for the device costs some 10 us, 1e-3 of a turn
ROUNDS = (7, 200)  # at least, at most
BUDGET = 1.0  # seconds per row
GPU_CACHE = 128 << 20  # bytes; the largest L2 cache of the architectures that kernels are built for


@dataclass
class Timing:
    """Seconds per call, one value per round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def minimum(self) -> float:
        return min(self.rounds)

    @property
    def spread(self) -> float:
        low, _, high = statistics.quantiles(self.rounds, n=4)
        return (high - low) / self.median

    def per(self, calls: int) -> Timing:
        """The time of one of `calls` calls that were timed together."""
        return Timing([seconds / calls for seconds in self.rounds])

    def ratio(self, rival: Timing) -> float:
        """How many times longer the rival takes."""
        return statistics.median(b / a for a, b in zip(self.rounds, rival.rounds, strict=True))


def measure(
    candidates: dict[str, Callable[[int], object]],
    threads: int,
    quick: bool = False,
    device: str = "cpu",
    rests: bool = True,
) -> dict[str, Timing]:
    """Times candidates in turns. Each is called with a running number, to choose among its buffers.

    Those of several threads have turns that begin when the process is at rest, unless `rests` is false.
    """
    on_cpu = device == "cpu"
    turn = DEVICE_TURN if not on_cpu else TURN if threads == 1 else THREADS_TURN
    clock = time.thread_time if threads == 1 and on_cpu else time.perf_counter
    wait = _nothing if on_cpu else lambda: _wait_for(device)
    repeats = {name: _repeats(call, turn, wait) for name, call in candidates.items()}
    rounds: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    deadline = time.perf_counter() + BUDGET * (0.1 if quick else 1)
    gc.collect()
    gc.disable()
    try:
        for number in range(ROUNDS[1]):
            if number >= ROUNDS[0] and time.perf_counter() > deadline:
                break
            for name in order[number % len(order) :] + order[: number % len(order)]:
                call, n = candidates[name], repeats[name]
                first = number * n
                if on_cpu and threads > 1 and rests:
                    _wait_for_rest()
                    call(first)  # wakes the workers
                start = clock()
                for i in range(first, first + n):
                    call(i)
                wait()
                rounds[name].append((clock() - start) / n)
    finally:
        gc.enable()
    return {name: Timing(values) for name, values in rounds.items()}


def _nothing() -> None:
    pass


def _wait_for_rest() -> None:
    """Waits until no thread of the process works, or a second has passed."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(10e-3)  # the time of threads that run is added up every 4 ms
        if time.process_time() - before < 1e-3:
            return


def _wait_for(device: str) -> None:
    """Waits for all streams of the GPU, whoever filled them."""
    lamina.cuda.synchronize(device)
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.synchronize()


def _repeats(call: Callable[[int], object], turn: float, wait: Callable[[], None]) -> int:
    """Calls per turn. The first calls also warm up: plans, caches of memory, lazy initialisation."""
    n = 1
    while True:
        start = time.perf_counter()
        for i in range(n):
            call(i)
        wait()
        elapsed = time.perf_counter() - start
        if elapsed >= turn or n >= 1 << 20:
            return n
        n = max(2 * n, min(int(n * 1.2 * turn / max(elapsed, 1e-9)), 100 * n))


def buffer_sets(bytes_per_set: int, hot: bool, device: str = "cpu") -> int:
    """How many sets of operands to rotate through: twice the caches, but at most 64 sets."""
    if hot:
        return 1
    cache = last_level_cache() if device == "cpu" else GPU_CACHE
    return max(2, min(64, -(-2 * cache // max(bytes_per_set, 1))))


def last_level_cache() -> int:
    """Bytes of the largest cache, or 32 MiB where the system does not say."""
    sizes = []
    for entry in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = entry.read_text().strip()
        sizes.append(int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]])
    return max(sizes, default=32 << 20)


def cpu_name() -> str:
    """The processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return os.uname().machine


def as_sequence(value: object) -> Sequence:
    return value if isinstance(value, (tuple, list)) else (value,)
