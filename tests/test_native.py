"""Kernel code compiled on its own, with each level's flags: the SIMD vectors against scalar arithmetic, AMX products.

Levels that the machine lacks are compiled only; an emulation of AMX tiles stands in for them there. Arm is compiled by
a cross compiler and run under emulation where both are installed (Debian: g++-aarch64-linux-gnu, qemu-user).
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lamina import _C

ROOT = Path(__file__).resolve().parent.parent
LEVELS = re.findall(r"^set\(flags_(\w+) (.*)\)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
KERNEL_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Werror"]
CROSS = "aarch64-linux-gnu-g++"


def compile_check(compiler, flags, level, output):
    command = [compiler, "-std=c++20", *KERNEL_FLAGS, *flags, f"-DLAMINA_ISA={level}"]
    subprocess.run([*command, f"-I{ROOT / 'csrc'}", ROOT / "tests/native/vec_check.cpp", "-o", output], check=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.skipif("neon" in _C.build_info()["isa_built"], reason="the levels are those of x86-64")
@pytest.mark.parametrize(("level", "flags"), LEVELS, ids=[level for level, _ in LEVELS])
def test_vectors(level, flags, tmp_path):
    compile_check("g++", [f for f in flags.split() if f != '""'], level, tmp_path / "check")
    if level in _C.build_info()["isa_supported"]:
        subprocess.run([tmp_path / "check"], check=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.skipif("neon" in _C.build_info()["isa_built"], reason="the levels are those of x86-64")
@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512", "amx"])
def test_products_by_tiles(level, tmp_path):
    if level != "amx" and level not in _C.build_info()["isa_supported"]:
        pytest.skip(f"this machine does not have {level}")
    compiled = "avx512" if level == "amx" else level
    flags = [f for f in dict(LEVELS)[compiled].split() if f != '""']
    emulation = [] if level == "amx" else ["-DLAMINA_EMULATE_AMX"]
    definitions = [f"-DLAMINA_ISA={compiled}", f"-DLAMINA_BUILD_{compiled.upper()}", *emulation]
    sources = [
        ROOT / "tests/native/amx_check.cpp",
        *(ROOT / f"csrc/base/{f}.cpp" for f in ("isa", "parallel", "scratch")),
    ]
    command = ["g++", "-std=c++20", *KERNEL_FLAGS, *flags, *definitions, "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, *sources, "-o", tmp_path / "check"], check=True)
    if level in _C.build_info()["isa_supported"]:
        environment = {**os.environ, "LAMINA_ISA": level}
        subprocess.run([tmp_path / "check"], check=True, env=environment)


@pytest.mark.skipif(not shutil.which(CROSS), reason=f"{CROSS} is not installed")
@pytest.mark.skipif(not shutil.which("qemu-aarch64"), reason="qemu-aarch64 is not installed")
def test_vectors_on_arm(tmp_path):
    compile_check(CROSS, ["-static"], "neon", tmp_path / "check")
    subprocess.run(["qemu-aarch64", tmp_path / "check"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(CROSS), reason=f"{CROSS} is not installed")
@pytest.mark.parametrize("source", sorted((ROOT / "csrc/kernels").glob("*/*_cpu.cpp")), ids=lambda p: p.stem)
def test_kernels_compile_for_arm(source, tmp_path):
    command = [CROSS, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-DLAMINA_ISA=baseline", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, "-c", source, "-o", tmp_path / "kernel.o"], check=True)
