"""What the compiled CUDA library must be, checked without a GPU: no kernel uses local memory, named kernels hold the
instructions that they are written for, and no wgmma is serialised.

    pytest -m slow -k spills tests/test_cuda_build.py     every source for every architecture: 12 minutes of CPU time
"""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import lamina
from bench.cuda_table import LIBRARY, find_tool

ROOT = Path(__file__).resolve().parent.parent

ALL_SOURCES = sorted(str(path.relative_to(ROOT / "csrc/kernels")) for path in ROOT.glob("csrc/kernels/*/*.cu"))
ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"]


def tool(name: str) -> str:
    return find_tool(name) or pytest.skip(f"{name} was not found; pip install nvidia-cuda-{name}")


# sin and cos of large arguments keep the digits of 2/pi in local memory (libdevice's reduction of Payne and Hanek).
REDUCES_ARGUMENTS = ("unary_kernel", "unary_backward_kernel", "normal_kernel")
# Kernels, an instruction that each is written for, and why; their sources are compiled where the library is PTX only.
SOURCES = {"gemm/gemm_mma.cu": "sm_100", "layout/layout.cu": "sm_80", "gemm/gemm_wgmma.cu": "sm_90a"}
WRITTEN_FOR = [
    ("gemm_mma_kernel", r"HMMA", "products of short floats are the matrix units'"),
    ("gemm_mma_kernel", r"LDGSTS", "tiles go to shared memory without passing through registers"),
    ("gemm_mma_kernel", r"LDSM", "fragments are loaded by ldmatrix"),
    ("copy_kernel", r"LDG\.E(\.\w+)*\.128", "dense copies load 16 bytes at a time"),
    ("gemm_wgmma_kernel", r"HGMMA", "Hopper's matrix units multiply what lies in shared memory"),
    ("gemm_wgmma_kernel", r"UTMALDG", "and the tensor memory accelerator brings it there"),
]


def instructions(binary: Path) -> dict[str, set[str]]:
    """Opcodes by kernel, over all architectures that the binary has machine code for."""
    environment = {**os.environ, "NVDISASM_PATH": tool("nvdisasm")}
    run = subprocess.run([tool("cuobjdump"), "-sass", binary], env=environment, capture_output=True, check=True)
    found: dict[str, set[str]] = defaultdict(set)
    kernel = ""
    for line in run.stdout.decode().splitlines():
        if match := re.search(r"Function : (\S+)", line):
            kernel = match[1]
        elif match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ |@!?UPT |@!?PT )?([A-Z0-9_.]+)", line):
            found[kernel].add(match[1])
    return found


def compiled(source: str, architecture: str, folder: Path) -> Path:
    """Machine code of one source, without spills and without wgmmas that the assembler had to serialise (C75xx)."""
    cubin = folder / f"{Path(source).stem}.cubin"
    flags = [
        "-std=c++20",
        "--expt-relaxed-constexpr",
        "-DLAMINA_DEVICE=cuda",
        f"-I{ROOT / 'csrc'}",
        f"-arch={architecture}",
    ]
    checks = "-Xptxas=--warn-on-spills,--warning-as-error"
    command = ["nvcc", "-cubin", *flags, checks, ROOT / "csrc/kernels" / source, "-o", cubin]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "C75" not in run.stderr
    return cubin


@pytest.mark.skipif(
    not lamina._C.build_info()["cuda_built"], reason="built without CUDA: " + lamina._C.build_info()["why_no_cuda"]
)
def test_kernels_hold_the_instructions_they_are_written_for_and_do_not_spill(tmp_path):
    """Spills are loads and stores of local memory, where kernels have no arrays of their own."""
    found = instructions(LIBRARY)
    if not any("gemm_mma_kernel" in kernel for kernel in found):
        if not shutil.which("nvcc"):
            pytest.skip("the library holds PTX only, and nvcc was not found; LAMINA_CUDA_ARCHS=80 builds machine code")
        for source, architecture in SOURCES.items():
            found |= instructions(compiled(source, architecture, tmp_path))
    spilling = [
        kernel
        for kernel, opcodes in found.items()
        if any(o.startswith(("LDL", "STL")) for o in opcodes) and not any(name in kernel for name in REDUCES_ARGUMENTS)
    ]
    assert not spilling
    for name, opcode, why in WRITTEN_FOR:
        opcodes = set().union(*(o for kernel, o in found.items() if name in kernel))
        assert any(re.match(opcode, o) for o in opcodes), f"{why}: {opcode} is in no kernel named {name}"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", ALL_SOURCES)
def test_no_kernel_spills(source, architecture, tmp_path):
    compiled(source, architecture, tmp_path)
