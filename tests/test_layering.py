"""Who may include whom, and that no code of one instruction-set level can be linked into another.

base <- simd <-+
base <- prim <-+- kernels <-+
base <- runtime <- autograd <+- ops <- interop, python
base <- prim, simt <- devices: the libraries of other devices
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"

MAY_INCLUDE = {
    "base": "",
    "simd": "base",
    "prim": "base simt",
    "simt": "base",
    "kernels": "base simd prim",
    "runtime": "base",
    "devices": "base prim simt",
    "autograd": "base runtime",
    "ops": "base kernels runtime autograd",
    "interop": "base kernels runtime autograd ops",
    "python": "base kernels runtime autograd ops interop",
}
SOURCES = sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".hpp", ".cpp", ".cu", ".cuh"))


def test_every_folder_has_a_law():
    assert {p.relative_to(CSRC).parts[0] for p in SOURCES} <= set(MAY_INCLUDE)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(CSRC)))
def test_includes_follow_the_arrows(source):
    folder = source.relative_to(CSRC).parts[0]
    text = source.read_text()
    for include in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE):
        to = include.split("/")[0]
        assert to == folder or to in MAY_INCLUDE[folder].split(), f"{folder}/ includes {include}"
        assert (CSRC / include).exists(), f'includes are written from csrc/: "{include}"'
    if folder != "python":
        assert not re.search(r"include\s+[<\"](pybind11/|Python\.h)", text), "only csrc/python/ knows Python"


def weak_symbols(object_file: Path) -> list[str]:
    """Mangled names of the functions and data that the linker merges with those of other objects."""
    lines = subprocess.check_output(["nm", "--defined-only", object_file], text=True)
    found = re.findall(r"^[0-9a-f]* [WVu] (.*)$", lines, re.MULTILINE)
    return [name for name in found if not name.startswith("DW.ref.")]


@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not installed")
def test_levels_share_no_code():
    """The linker keeps one copy of a weak symbol: were it AVX-512 code, older machines would crash in it."""
    objects = list((ROOT / "build").rglob("kernels_*.dir/**/*.o"))
    if not objects:
        pytest.skip("no build tree (build/**/kernels_*.dir)")
    shared = {}
    for path in objects:
        level = re.search(r"kernels_(\w+)\.dir", str(path))[1]
        # a template of base/ is fine if an argument of it (a lambda) belongs to the level: 4avx2 in the mangled name
        shared[path.name, level] = [s for s in weak_symbols(path) if f"{len(level)}{level}" not in s]
    assert not {where: symbols for where, symbols in shared.items() if symbols}
