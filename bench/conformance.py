"""What the GPU at hand makes of the device primitives: `python -m bench.conformance`.

Compiles bench/conformance.cu for it, runs that, and keeps what it said in tests/golden, where the tests of the
simulated device find it. Exit status 1 if a primitive does not do what its definition says.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"


def architecture() -> str:
    """The name that nvcc has for the first GPU, with the features of its own where there are any."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    number = subprocess.check_output(query, text=True).split()[0].replace(".", "")
    return f"sm_{number}a" if int(number) >= 90 else f"sm_{number}"


def build(architecture: str, program: Path) -> None:
    """Compiles bench/conformance.cu and what launches its kernels."""
    flags = ["-std=c++20", f"-arch={architecture}", "-DLAMINA_DEVICE=cuda", f"-I{ROOT / 'csrc'}"]
    sources = ["bench/conformance.cu", "csrc/devices/cuda.cpp", "csrc/devices/tensor_map.cpp"]
    subprocess.run(["nvcc", *flags, *(ROOT / source for source in sources), "-o", program], check=True)


def main() -> int:
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "conformance"
        build(architecture(), program)
        done = subprocess.run([program, GOLDEN], stdout=subprocess.PIPE, text=True, check=False)
    (GOLDEN / "conformance.jsonl").write_text(done.stdout)
    print(done.stdout, end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
