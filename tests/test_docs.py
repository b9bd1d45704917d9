"""The pages of ``docs/`` are true: their programs run, and are as short as they promise."""

import re
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
FRAMEWORKS = {"pytorch": "torch", "jax": "jax"}  # what a page needs
PROGRAMS = [(page, i) for page in PAGES for i in range(page.read_text().count("```python\n"))]


@pytest.mark.parametrize(("page", "i"), PROGRAMS, ids=[f"{page.stem}-{i}" for page, i in PROGRAMS])
def test_the_program_runs(page, i, tmp_path, monkeypatch):
    if page.stem in FRAMEWORKS:
        pytest.importorskip(FRAMEWORKS[page.stem], reason=f"{page.stem} is not installed")
    program = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)[i]
    assert program.count("\n") <= 20
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(page), "exec"), {})
