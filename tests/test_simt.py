"""The simulated device: what it notices of broken kernels, and that its primitives compile for GPUs.

tests/simt/ holds small real kernels (reduction, tiled and pipelined products, TMA and wgmma, clusters, a grid barrier)
and some hundred mutants of them, each broken in one place. Each mutant says whether a plain run is to notice it, a run
under a sanitizer, or nothing on a CPU, and why; both surprises fail. So the score is the table in the sources.

It flatters the engine in so far as three mutants of 76 taught it to let one block run ahead of the others. Twenty more
were written after that; plain runs noticed all but one, which turned out to be harmless and was replaced.
"""

import fcntl
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import bench.conformance

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ["reduction", "sgemm", "mma_gemm", "wgmma_gemm", "cluster_sum", "multicast", "grid_barrier"]
# schedule, landing of asynchronous operations, seed
CONFIGURATIONS = [("fifo", "late", 0), ("lifo", "late", 0), ("random", "late", 0), ("random", "random", 1),
                  ("random", "random", 2)]  # fmt: skip

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")


def build(target: str, sources: list[Path], sanitizer: str = "") -> Path:
    """Compiles device sources for `sim`, and the engine, which is never instrumented; once for all test processes."""
    folder = ROOT / "build" / "simt" / (sanitizer or "plain")
    folder.mkdir(parents=True, exist_ok=True)
    engine = [*sorted((ROOT / "csrc/simt").glob("*.cpp")),
              ROOT / "csrc/devices/sim.cpp", ROOT / "csrc/devices/tensor_map.cpp"]  # fmt: skip
    headers = [
        h
        for d in ("csrc/simt", "csrc/prim", "csrc/base", "csrc/devices", "tests/simt")
        for h in (ROOT / d).glob("*.*h")
    ]
    newest = max(h.stat().st_mtime for h in headers)
    flags = ["-std=c++20", "-DLAMINA_SIM", "-DLAMINA_DEVICE=sim", f"-I{ROOT / 'csrc'}", "-Wall", "-Wextra",
             "-Werror", "-Wno-unknown-pragmas"]  # fmt: skip
    kernel_flags = ["-O1", "-g1", *([f"-fsanitize={sanitizer}"] if sanitizer else [])]

    def compiled(source: Path) -> Path:
        output = folder / f"{source.stem}.o"
        if not output.exists() or output.stat().st_mtime < max(newest, source.stat().st_mtime):
            own = ["-O2"] if source in engine else kernel_flags
            subprocess.run(["g++", *flags, *own, "-x", "c++", "-c", source, "-o", output], check=True)
        return output

    with open(folder / "lock", "w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        objects = list(pool.map(compiled, [*sources, *engine]))
        program = folder / target
        if not program.exists() or program.stat().st_mtime < max(o.stat().st_mtime for o in objects):
            subprocess.run(["g++", *kernel_flags, *objects, "-o", program], check=True)
    return program


def build_mutants(sanitizer: str = "") -> Path:
    return build("mutants", [ROOT / f"tests/simt/{name}.cu" for name in ("main", "simple", "gemm")], sanitizer)


def mutants(program: Path, kernel: str) -> list[tuple[int, str, str]]:
    """Number, where it is seen, and what it is, of each mutant of a kernel."""
    lines = subprocess.check_output([program], text=True).splitlines()
    table = [line.split("\t") for line in lines]
    return [(int(number), seen, what) for name, number, seen, what in table if name == kernel]


def run(program: Path, kernel: str, mutant: int, configurations=CONFIGURATIONS) -> tuple[list[str], str]:
    """What each run found, "ok" for nothing, and what a sanitizer reported."""
    arguments = [str(a) for c in configurations for a in c]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, kernel, str(mutant), *arguments], capture_output=True, text=True, timeout=300,
                          check=False, env=environment)  # fmt: skip
    found = done.stdout.splitlines()
    return found + ["crashed"] * (len(configurations) - len(found)), done.stderr


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_are_right(kernel):
    configurations = [*CONFIGURATIONS, ("fifo", "early", 0), ("lifo", "random", 3)]
    assert run(build_mutants(), kernel, 0, configurations) == (["ok"] * len(configurations), "")


@pytest.mark.parametrize("kernel", KERNELS)
def test_mutants_are_noticed(kernel):
    program = build_mutants()
    surprises = []
    for number, seen, what in mutants(program, kernel):
        found, _ = run(program, kernel, number)
        is_noticed = any(line != "ok" for line in found)
        if is_noticed != (seen == "plain"):
            surprises.append(f"{number} ({what}): {'noticed' if is_noticed else 'missed'}, expected {seen}")
    assert not surprises


def test_score():
    program = build_mutants()
    seen = [where for kernel in KERNELS for _, where, _ in mutants(program, kernel)]
    score = {where: seen.count(where) for where in set(seen)}
    assert score == {"plain": 92, "tsan": 2, "nowhere": 2}


@pytest.mark.parametrize(
    ("kernel", "mutant", "text"),
    [
        ("multicast", 1, "block (1, 0, 0), thread 0-63: mbarrier at block (1, 0, 0) shared + 512, in phase 1"),
        ("reduction", 2, "expected"),
        ("wgmma_gemm", 8, "arrivals and 64 bytes are missing"),
        ("wgmma_gemm", 10, "registers of 65536"),
        ("wgmma_gemm", 15, "wgmma without a wgmma_fence"),
        ("wgmma_gemm", 25, "the block has ended while a tensor store still reads its shared memory"),
        ("cluster_sum", 8, "block (0, 0, 0) has ended"),
        ("multicast", 2, "was not initialised"),
        ("grid_barrier", 4, "a loop that yields"),
    ],
)
def test_reports_say_what_is_wrong(kernel, mutant, text):
    found, _ = run(build_mutants(), kernel, mutant, [("fifo", "late", 0)])
    assert text in found[0]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_under_address_sanitizer(kernel):
    assert run(build_mutants("address"), kernel, 0) == (["ok"] * len(CONFIGURATIONS), "")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_races_under_thread_sanitizer(kernel):
    program = build_mutants("thread")
    configuration = [("fifo", "late", 0)]
    assert run(program, kernel, 0, configuration) == (["ok"], "")
    for number, seen, what in mutants(program, kernel):
        if seen == "tsan":
            assert "data race" in run(program, kernel, number, configuration)[1], what


@pytest.fixture(scope="module")
def conformance(tmp_path_factory):
    """What bench/conformance.cu says on `sim`, as {name: equals its definition}, and where it left its outputs."""
    program = build("conformance", [ROOT / "bench/conformance.cu"])
    folder = tmp_path_factory.mktemp("conformance")
    done = subprocess.run([program, folder], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {r["name"]: r["is_as_defined"] for r in map(json.loads, done.stdout.splitlines())}, folder


def test_primitives_are_as_defined(conformance):
    verdicts, _ = conformance
    assert len(verdicts) > 50
    assert [name for name, is_as_defined in verdicts.items() if is_as_defined is False] == []


def test_primitives_are_as_on_a_gpu(conformance):
    golden = ROOT / "tests/golden"
    if not (golden / "conformance.jsonl").exists():
        pytest.skip("no golden files yet: python -m bench.conformance makes them on a GPU")
    _, folder = conformance
    on_gpu = [json.loads(line) for line in (golden / "conformance.jsonl").read_text().splitlines()]
    assert [r["name"] for r in on_gpu if r["is_as_defined"] is False] == []
    outputs = [r["name"] for r in on_gpu if r["is_as_defined"] is None]
    different = [n for n in outputs if (folder / f"{n}.bin").read_bytes() != (golden / f"{n}.bin").read_bytes()]
    assert different == []


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a", pytest.param("sm_120", marks=pytest.mark.slow)])
def test_primitives_compile(architecture, tmp_path):
    """No warning, no spilled register, and no wgmma that the assembler serialised (C75xx)."""
    command = ["nvcc", "-std=c++20", f"-arch={architecture}", "-DLAMINA_DEVICE=cuda", f"-I{ROOT / 'csrc'}"]
    assembler = ["-Xptxas", "--warn-on-spills,--warning-as-error", "-c", "-o", tmp_path / "x.o"]
    for source in ("tests/simt/simple.cu", "tests/simt/gemm.cu", "bench/conformance.cu"):
        done = subprocess.run([*command, *assembler, ROOT / source], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "C75" not in done.stderr


@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
def test_the_program_for_a_gpu_is_complete(tmp_path):
    bench.conformance.build("sm_90a", tmp_path / "conformance")
