"""The value tests at the instruction-set levels below the best one, in processes of their own.

The level is chosen once per process. A thinned selection runs here; everything runs by

    for isa in baseline avx2 avx512; do LAMINA_ISA=$isa pytest -n 2 tests/test_values.py; done
"""

import os
import subprocess
import sys

import pytest

import lamina

BUILD = lamina._C.build_info()


@pytest.mark.parametrize("level", BUILD["isa_built"])
def test_values_at_level(level):
    if level not in BUILD["isa_supported"]:
        pytest.skip(f"this machine does not support {level}")
    if level == BUILD["isa"]:
        pytest.skip(f"{level} is the level of this process")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "--thin", "8", "tests/test_values.py"],
        env={**os.environ, "LAMINA_ISA": level},
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
