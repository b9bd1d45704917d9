"""Ops with large results: where the memory comes from costs more than the arithmetic.

glibc maps and unmaps every block over 32 MiB, and each page of it faults once; a caching allocator does not.
"""

from __future__ import annotations

import argparse

import numpy as np

import lamina
from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import measure


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    out.title("results in fresh memory: x + x")
    for mib in (1, 16, 48, 256):
        if options.filter not in f"add {mib} MiB":
            continue
        x = np.ones(mib << 18, np.float32)
        operands = {"lamina": lamina.from_numpy(x), "numpy": x}
        if HAS_TORCH:
            import torch

            operands["torch"] = torch.from_numpy(x)
        calls = {name: lambda i, x=x: x + x for name, x in operands.items()}
        timings = measure(calls, threads, options.quick)
        row = Row.of("alloc", f"add {mib} MiB", threads, timings.pop("lamina"), timings)
        row.bytes = 2 * x.nbytes
        out.row(row)
