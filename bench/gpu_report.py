"""One command for a machine with a GPU: build, check and measure everything on it.

    python -m bench.gpu_report                     all stages
    python -m bench.gpu_report --stages test bench
    python -m bench.gpu_report --out bench/results

Stages, in order; each runs alone as well, takes under eight minutes, and a failure of one does not stop the next:

    build        the extension and the CUDA library for the GPU that is here, in build/gpu
    conformance  every primitive on the GPU; its outputs become the golden files that the simulator is held to
    test         the cases and the device tests on `cuda`
    sanitize     a sample of them under compute-sanitizer: memcheck, racecheck, synccheck
    bench        kernels and training steps against PyTorch (cuBLAS, cuDNN), as JSON lines, table and plots

Written to the output folder: gpu_<name>.jsonl (rows), gpu_<name>.png, and gpu_<name>.json, which says what ran where:
GPU, driver, clocks, versions, commit, and the result and duration of every stage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "gpu"
LIMIT = 460  # seconds a stage may take
DEVICE_TESTS = [
    f"tests/test_{name}.py"
    for name in (
        "values",
        "gradients",
        "replay",
        "errors",
        "devices",
        "optim",
        "conv_bias",
        "conv_stem",
        "matrix_units",
    )
]
# What is built here runs from here.
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{BUILD / 'python'}:{ROOT}"}


class Stage:
    """Runs the commands of one stage, within its time, into one log."""

    def __init__(self, name: str, folder: Path):
        self.name, self.log = name, folder / f"{name}.log"
        self.deadline = time.monotonic() + LIMIT
        self.result: dict[str, Any] = {"commands": []}

    def run(self, *command: Any, **environment: str) -> bool:
        words = [str(word) for word in command]
        start = time.monotonic()
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(words)}\n")
            log.flush()
            try:
                done = subprocess.run(
                    words,
                    cwd=ROOT,
                    env={**ENVIRONMENT, **environment},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    timeout=max(1.0, self.deadline - start),
                    check=False,
                )
                status: int | str = done.returncode
            except subprocess.TimeoutExpired:
                status = "out of time"
            except FileNotFoundError as error:
                status = str(error)
        self.result["commands"].append(
            {"command": " ".join(words), "status": status, "seconds": round(time.monotonic() - start, 1)}
        )
        return status == 0

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text().splitlines()[-lines:])


def build(stage: Stage, out: Path) -> None:
    package = BUILD / "python" / "lamina"
    shutil.copytree(ROOT / "python" / "lamina", package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))
    configured = stage.run(
        "cmake", "-S", ROOT, "-B", BUILD, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
        "-DLAMINA_CUDA=on", f"-DLAMINA_OUTPUT_DIR={package}",
    )  # fmt: skip
    if configured and stage.run("ninja", "-C", BUILD):
        stage.run(sys.executable, "-m", "lamina", "info")


def conformance(stage: Stage, out: Path) -> None:
    stage.run(sys.executable, "-m", "bench.conformance")


def test(stage: Stage, out: Path) -> None:
    # Workers share the GPU; a few keep it busy, and each holds a context of some hundred MB.
    workers = str(min(8, os.cpu_count() or 1))
    stage.run(sys.executable, "-m", "pytest", "-q", "-n", workers, "--device", "cuda", *DEVICE_TESTS)


def sanitize(stage: Stage, out: Path) -> None:
    for tool, thin in (("memcheck", 61), ("racecheck", 127), ("synccheck", 127)):
        stage.run(
            "compute-sanitizer", "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "pytest", "-q",
            "-n", "0", "-p", "no:cacheprovider", "--device", "cuda", "--thin", thin, DEVICE_TESTS[0],
        )  # fmt: skip


def bench(stage: Stage, out: Path) -> None:
    rows = out / f"{gpu_slug()}.jsonl"
    rows.unlink(missing_ok=True)
    # A process each: a family that fails does not end the others.
    find_families = "from bench.kernels import families; print(*families())"
    found = subprocess.check_output([sys.executable, "-c", find_families], cwd=ROOT, env=ENVIRONMENT, text=True)
    for table in (*found.split(), "train"):
        stage.run(sys.executable, "-m", "bench", table, "--device", "cuda", "--quick", "--json", rows)
    if rows.exists() and importlib.util.find_spec("matplotlib"):
        stage.run(sys.executable, "-m", "bench.plot", rows, rows.with_suffix(".png"))


STAGES: dict[str, Callable[[Stage, Path], None]] = {
    "build": build,
    "conformance": conformance,
    "test": test,
    "sanitize": sanitize,
    "bench": bench,
}


def query_gpu(*fields: str) -> list[str]:
    """Properties of the first GPU by nvidia-smi; empty texts where it cannot say."""
    try:
        text = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return [""] * len(fields)
    return [value.strip() for value in text.split(",")]


def gpu_slug() -> str:
    """Name for files: gpu_nvidia_h200."""
    return "gpu_" + (re.sub(r"\W+", "_", query_gpu("name")[0].lower()).strip("_") or "none")


def machine() -> dict[str, str]:
    """What a figure depends on."""
    fields = ("name", "driver_version", "clocks.max.sm", "clocks.max.mem", "clocks.sm", "power.limit", "memory.total")
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    facts = dict(zip(fields, query_gpu(*fields), strict=True))
    facts |= {"commit": git.stdout.strip(), "python": platform.python_version(), "system": platform.platform()}
    nvcc = (
        subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=False)
        if shutil.which("nvcc")
        else None
    )
    facts["nvcc"] = nvcc.stdout.strip().splitlines()[-1] if nvcc else ""
    if importlib.util.find_spec("torch"):
        import torch

        facts |= {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench" / "results", help="folder for rows, plots and report"
    )
    options = parser.parse_args()
    out = options.out.resolve()
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    report_file = out / f"{gpu_slug()}.json"
    report = json.loads(report_file.read_text()) if report_file.exists() else {}
    report["machine"] = machine()
    for name in options.stages:
        stage = Stage(name, logs)
        stage.log.unlink(missing_ok=True)
        start = time.monotonic()
        STAGES[name](stage, out)
        passed = all(command["status"] == 0 for command in stage.result["commands"])
        stage.result |= {"passed": passed, "seconds": round(time.monotonic() - start, 1)}
        report.setdefault("stages", {})[name] = stage.result
        report_file.write_text(json.dumps(report, indent=1) + "\n")
        print(
            f"== {name}: {'passed' if passed else 'FAILED'} in {stage.result['seconds']} s\n{stage.tail()}\n",
            flush=True,
        )
    failed = [name for name in options.stages if not report["stages"][name]["passed"]]
    raise SystemExit(f"failed: {', '.join(failed)} (see {logs})" if failed else 0)


if __name__ == "__main__":
    main()
