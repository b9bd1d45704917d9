"""The README is true: its program runs, and what its table names exists."""

import re
from pathlib import Path

import lamina
import lamina.functional as F
from lamina import nn, optim

README = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def test_the_program_runs(capsys):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 10


def test_what_the_table_names_exists():
    rows = [line.split("|") for line in README.splitlines() if re.match(r"\| [a-z]", line) and line.count("|") == 4]
    assert len(rows) > 8
    homes = (F, nn, optim, lamina)
    for _, _, functions, layers, _ in rows:
        for name in re.findall(r"`(\w+)`", functions + layers):
            assert any(hasattr(home, name) for home in homes), name
