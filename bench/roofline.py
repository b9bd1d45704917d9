"""The two limits of the machine, measured in the run that quotes them.

No call can take less than max(flops / peak, bytes / bandwidth) seconds; the fraction of the roofline is this
bound over the measured time. The bandwidth is that of main memory: operands that stay in a cache (--hot, or
tiny shapes) may show more than 100 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import lamina
from bench.rivals import HAS_TORCH
from bench.timing import measure


@dataclass
class Roofline:
    peak: float  # float32 flop/s
    bandwidth: float  # byte/s, reads and writes together

    def seconds(self, flops: float, bytes: float) -> float:
        return max(flops / self.peak, bytes / self.bandwidth)


def measure_roofline(threads: int, device: str) -> Roofline:
    return Roofline(peak(threads), bandwidth(threads)) if device == "cpu" else device_roofline(device)


def device_roofline(device: str) -> Roofline:
    """bfloat16 flop/s of a large GEMM, by Lamina or PyTorch, whoever is faster, and bytes per second of a copy of
    1 GiB. Rows of float32 are held to the same peak."""
    n = 8192
    with lamina.device(device):
        a, b = (lamina.randn(n, n).to(lamina.bfloat16) for _ in range(2))
        x = lamina.rand(1 << 28)
    calls = {"lamina": lambda i: lamina.functional.matmul(a, b)}
    if HAS_TORCH:
        import torch

        ta, tb = (torch.from_dlpack(m) for m in (a, b))
        calls["torch"] = lambda i: torch.matmul(ta, tb)
    gemm = min(t.minimum for t in measure(calls, 1, device=device).values())
    copy = measure({"copy": lambda i: lamina.functional.clone(x)}, 1, device=device)["copy"].minimum
    return Roofline(2 * n**3 / gemm, 2 * x.nbytes / copy)


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
