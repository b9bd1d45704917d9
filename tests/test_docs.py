"""The pages of docs/ are true: their Python programs run, and their C++ is the example that is built."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROGRAMS = [
    pytest.param(program, id=f"{page.stem}-{i}")
    for page in PAGES
    for i, program in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_program_runs_and_is_short(program):
    for library in re.findall(r"^(?:import|from) (torch|jax|cupy)\b", program, re.MULTILINE):
        pytest.importorskip(library, reason=f"{library} is not installed")
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    exec(compile(program, "docs", "exec"), {"__name__": "docs"})


def test_the_example_in_c_plus_plus_is_that_which_is_built():
    page = (ROOT / "docs" / "cpp.md").read_text()
    for language, name in (("cpp", "main.cpp"), ("cmake", "CMakeLists.txt")):
        (text,) = re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
        assert text == (ROOT / "examples" / "cpp" / name).read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
