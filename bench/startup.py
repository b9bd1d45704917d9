"""Import time in a fresh interpreter, of byte code as an installer leaves it, and installed size."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from bench.report import Report, Row
from bench.rivals import HAS_TORCH
from bench.timing import Timing

SCRIPT = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def run(threads: int, options: argparse.Namespace, out: Report) -> None:
    out.title("import (with NumPy where a module needs it), and size on disk")
    modules = ["lamina", "numpy", *["torch"] * HAS_TORCH]
    seconds: dict[str, list[float]] = {module: [] for module in modules}
    for module in modules:
        import_seconds(module)
    for _ in range(3 if options.quick else 9):
        for module in modules:
            seconds[module].append(import_seconds(module))
    for module in modules:
        row = Row.of("import", module, threads, Timing(seconds[module]), {})
        row.dtype, row.note = "", f"{installed_bytes(module) / 1e6:.1f} MB"
        out.row(row)


def import_seconds(module: str) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", SCRIPT.format(module=module)]
    return float(subprocess.check_output(command, text=True, env=environment))


def installed_bytes(module: str) -> int:
    """Files of the package's folder, without caches of byte code."""
    folder = Path(importlib.util.find_spec(module).origin).parent
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
