"""What the compiled CUDA library must be, checked without a GPU: no kernel uses local memory, named kernels hold the
instructions that they are written for, and no wgmma is serialised."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

import lamina

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = Path(lamina.__file__).parent / "liblamina_cuda.so"

pytestmark = pytest.mark.skipif(
    not lamina._C.build_info()["cuda_built"], reason="built without CUDA: " + lamina._C.build_info()["why_no_cuda"]
)


def tool(name: str) -> Path:
    """A program of NVIDIA's wheels (extra `test`), or of the toolkit."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations if spec else []:
        if (path := Path(folder) / "cu13" / "bin" / name).exists():
            return path
    if path := shutil.which(name):
        return Path(path)
    pytest.skip(f"{name} was not found; pip install nvidia-cuda-{name}")


@pytest.fixture(scope="module")
def instructions() -> dict[str, set[str]]:
    """Opcodes by kernel, over all architectures in the library."""
    environment = {**os.environ, "NVDISASM_PATH": str(tool("nvdisasm"))}
    run = subprocess.run([tool("cuobjdump"), "-sass", LIBRARY], env=environment, capture_output=True, check=True)
    found: dict[str, set[str]] = defaultdict(set)
    kernel = ""
    for line in run.stdout.decode().splitlines():
        if match := re.search(r"Function : (\S+)", line):
            kernel = match[1]
        elif match := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ |@!?UPT |@!?PT )?([A-Z0-9_.]+)", line):
            found[kernel].add(match[1])
    if not found:
        pytest.skip("the library holds PTX only; LAMINA_CUDA_ARCHS=80 builds machine code")
    return found


# sin and cos of large arguments keep the digits of 2/pi in local memory (libdevice's reduction of Payne and Hanek).
REDUCES_ARGUMENTS = ("unary_kernel", "unary_backward_kernel", "normal_kernel")


def test_no_kernel_spills(instructions):
    """Spills are loads and stores of local memory; kernels have no arrays of their own there."""
    offenders = [
        kernel
        for kernel, opcodes in instructions.items()
        if any(o.startswith(("LDL", "STL")) for o in opcodes) and not any(name in kernel for name in REDUCES_ARGUMENTS)
    ]
    assert not offenders


@pytest.mark.parametrize(
    ("kernel", "opcode", "why"),
    [
        ("gemm_mma_kernel", r"HMMA", "products of short floats are the matrix units'"),
        ("gemm_mma_kernel", r"LDGSTS", "tiles go to shared memory without passing through registers"),
        ("gemm_mma_kernel", r"LDSM", "fragments are loaded by ldmatrix"),
        ("layout", r"LDG\.E(\.\w+)*\.128", "dense copies load 16 bytes at a time"),
    ],
)
def test_a_kernel_holds_the_instruction_it_is_written_for(instructions, kernel, opcode, why):
    opcodes = set().union(*(found for name, found in instructions.items() if kernel in name))
    assert any(re.fullmatch(opcode + r"(\.\w+)*", o) for o in opcodes), (
        f"{why}: {opcode} is in no kernel named {kernel}"
    )
