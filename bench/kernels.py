"""One row per bench shape of the cases, dtype and direction, against every rival."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import lamina
from bench.report import Report, Row
from bench.rivals import Lamina, check, is_differentiable, rivals_of
from bench.roofline import Roofline, measure_roofline
from bench.timing import as_sequence, buffer_sets, cpu_name, measure
from cases import Bench, Case, all_cases, materialise, numpy_dtype


def families() -> list[str]:
    """Families that have bench shapes."""
    return sorted({case.family for case in all_cases() if case.bench})


def run(wanted: list[str], threads: int, options: argparse.Namespace, out: Report) -> None:
    unknown = set(wanted) - set(families())
    if unknown:
        raise SystemExit(f"no bench shapes for {', '.join(sorted(unknown))}; there are {', '.join(families())}")
    roofline = measure_roofline(threads, options.device)
    place = f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}"
    if options.device != "cpu":
        place = lamina.cuda.get_device_name(options.device)
    out.title(
        f"kernels on {place}; measured peak "
        f"{roofline.peak / 1e9:.0f} GFLOP/s, memory {roofline.bandwidth / 1e9:.1f} GB/s"
    )
    for family in wanted:
        for case in (c for c in all_cases() if c.family == family):
            for bench in case.bench:
                if options.filter in f"{case.op} {bench.name}":
                    for dtype in bench.dtypes:
                        for direction in ("forward", "backward")[: 1 + bench.backward]:
                            out.row(measure_row(case, bench, dtype, direction, threads, roofline, options))


def measure_row(
    case: Case,
    bench: Bench,
    dtype: str,
    direction: str,
    threads: int,
    roofline: Roofline,
    options: argparse.Namespace,
) -> Row:
    name = f"{case.op} {bench.name}" + " backward" * (direction == "backward")
    libraries = {"lamina": Lamina(case, bench, options.device), **rivals_of(case, bench, dtype, options.device)}
    libraries = {rival: library for rival, library in libraries.items() if hasattr(library, direction)}

    def prepare(library: Any) -> Callable[[], Any]:
        return getattr(library, direction)(materialise(case, bench, dtype))

    results = {rival: library.numpy(as_sequence(prepare(library)())[0]) for rival, library in libraries.items()}
    check(name, results)

    operands = materialise(case, bench, dtype)
    sets = buffer_sets(sum(x.nbytes for x in arrays(operands)), options.hot, options.device)
    calls = {}
    for rival, library in libraries.items():
        variants = [prepare(library) for _ in range(sets)]
        calls[rival] = lambda i, variants=variants: variants[i % len(variants)]()
    timings = measure(calls, threads, options.quick, options.device)
    row = Row.of("kernels", name, threads, timings.pop("lamina"), timings)
    row.dtype, row.device = dtype, options.device
    row.flops, row.bytes = work(bench, operands, results["lamina"], dtype, direction)
    row.roofline = roofline.seconds(row.flops, row.bytes) / row.seconds
    return row


def work(bench: Bench, operands: list[Any], result: np.ndarray, dtype: str, direction: str) -> tuple[float, float]:
    """Flops and bytes of one call. A backward pass also writes the gradients of the floating operands."""
    if bench.bytes is None:
        moved = sum(x.nbytes for x in arrays(operands)) + result.nbytes
    else:
        moved = bench.bytes * numpy_dtype(dtype).itemsize / 4
    if direction == "forward":
        return bench.flops, moved
    return bench.backward_flops, moved + sum(x.nbytes for x in arrays(operands) if is_differentiable(x))


def arrays(value: Any) -> list[np.ndarray]:
    if isinstance(value, list):
        return [a for x in value for a in arrays(x)]
    return [value] if isinstance(value, np.ndarray) else []
