"""The benchmark program.

    python -m bench                          everything
    python -m bench gemm conv2d softmax      kernels of these families (rows come from tests/cases)
    python -m bench adam overhead interop train import alloc
    python -m bench gemm --filter vgg --threads 1 2 --json rows.jsonl --plot charts.png
    python -m bench gemm conv2d --device cuda

Rivals (NumPy, and PyTorch where it is installed) run in the same process, on the same data, interleaved with
Lamina; results are checked before they are timed. Each thread count runs in a process of its own: no other
setting is obeyed by every library.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TABLES = ("adam", "overhead", "interop", "train", "import", "alloc")
THREAD_VARIABLES = ("LAMINA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("tables", nargs="*", help=f"families of kernels, or {', '.join(TABLES)}; default: everything")
    add("--threads", type=int, nargs="+", default=[1], help="thread counts")
    add("--filter", default="", help="only rows whose case and name contain this text")
    add("--device", default="cpu", help="where the kernels run, such as cuda; of the other tables, train obeys it")
    add("--hot", action="store_true", help="reuse one set of buffers, warm in the caches")
    add("--quick", action="store_true", help="a tenth of the measuring time")
    add("--json", type=Path, help="append a JSON line per row to this file")
    add("--plot", type=Path, help="draw roofline and ratio charts into this file (needs matplotlib)")
    return parser.parse_args()


def run_tables(options: argparse.Namespace) -> None:
    """Measures and prints in this process, with the libraries' thread counts set before they are imported."""
    threads = options.threads[0]
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    from bench import adam, alloc, interop, kernels, overhead, report, startup, train

    functions = {
        "adam": adam.run,
        "overhead": overhead.run,
        "interop": interop.run,
        "train": train.run,
        "import": startup.run,
    }
    wanted = options.tables or [*kernels.families(), *TABLES]
    families = [name for name in wanted if name not in TABLES]
    out = report.Report(options.json)
    if "alloc" in wanted:  # before others leave free memory in the heap, which rivals would reuse
        alloc.run(threads, options, out)
    if families:
        kernels.run(families, threads, options, out)
    for name in wanted:
        if name in functions:
            functions[name](threads, options, out)


def main() -> None:
    options = parse_arguments()
    if len(options.threads) == 1 and not options.plot:
        return run_tables(options)
    with tempfile.TemporaryDirectory() as folder:
        rows = options.json or Path(folder) / "rows.jsonl"
        first = rows.stat().st_size if rows.exists() else 0
        shared = [*options.tables, "--filter", options.filter, "--device", options.device, "--json", str(rows)]
        shared += ["--hot"] * options.hot + ["--quick"] * options.quick
        for threads in options.threads:
            subprocess.run([sys.executable, "-m", "bench", *shared, "--threads", str(threads)], check=True)
        if options.plot:
            from bench import plot

            plot.draw(rows.read_text()[first:], options.plot)


if __name__ == "__main__":
    main()
