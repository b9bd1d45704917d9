"""Benchmarks: `python -m bench`, from the root of a source tree. See bench/__main__.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # for `cases`
