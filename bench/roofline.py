"""The two limits of the machine, measured in the run that quotes them.

No call can take less than max(flops / peak, bytes / bandwidth) seconds; the fraction of the roofline is this
bound over the measured time. The bandwidth is that of main memory: operands that stay in a cache (--hot, or
tiny shapes) may show more than 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import lamina
from bench.timing import measure


@dataclass
class Roofline:
    peak: float  # float32 flop/s
    bandwidth: float  # byte/s, reads and writes together

    def seconds(self, flops: float, bytes: float) -> float:
        return max(flops / self.peak, bytes / self.bandwidth)


def measure_roofline(threads: int) -> Roofline:
    return Roofline(peak(threads), bandwidth(threads))


def peak(threads: int) -> float:
    """float32 flop/s of all threads: FMAs in registers, or GEMM where the build has no such probe."""
    if hasattr(lamina._C, "bench_fma_peak"):
        return threads * lamina._C.bench_fma_peak()
    n = 1024
    a, b = (lamina.from_numpy(np.random.default_rng(i).standard_normal((n, n), np.float32)) for i in (0, 1))
    timing = measure({"gemm": lambda i: lamina.functional.matmul(a, b)}, threads)["gemm"]
    return 2 * n**3 / timing.minimum


def bandwidth(threads: int) -> float:
    """Bytes per second of a sum of two arrays of 64 MiB into a third, by whoever does it faster."""
    n = 16 << 20
    x, y, z = (np.full(n, value, np.float32) for value in (1, 2, 3))
    a, b = lamina.from_numpy(x), lamina.from_numpy(y)
    timings = measure(
        {"lamina": lambda i: lamina.functional.add(a, b), "numpy": lambda i: np.add(x, y, out=z)}, threads
    )
    return 3 * x.nbytes / min(t.minimum for t in timings.values())
