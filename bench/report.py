"""Rows as an aligned table and as JSON lines."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from bench.timing import Timing


@dataclass
class Row:
    """One measurement. Fields that do not apply stay zero and print as blanks.

    Args:
        seconds, minimum, spread: median and minimum per call, interquartile range over median.
        flops, bytes: work of one call.
        roofline: shortest possible time over `seconds`.
        ratios: rival -> how many times longer it takes.
        note: anything else worth a word.
    """

    table: str
    name: str
    dtype: str = ""
    threads: int = 1
    device: str = "cpu"
    seconds: float = 0
    minimum: float = 0
    spread: float = 0
    flops: float = 0
    bytes: float = 0
    roofline: float = 0
    ratios: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, table: str, name: str, threads: int, timing: Timing, rivals: dict[str, Timing]) -> Row:
        """A row of the times of one candidate, compared with its rivals."""
        ratios = {rival: timing.ratio(other) for rival, other in rivals.items()}
        return cls(
            table, name, "float32", threads,
            seconds=timing.median, minimum=timing.minimum, spread=timing.spread, ratios=ratios,
        )  # fmt: skip


COLUMNS = ("case", "dtype", "thr", "median", "min", "spread", "GFLOP/s", "GB/s", "roof", "rival / lamina")
WIDTHS = (-44, -9, 3, 9, 9, 6, 8, 7, 5, -1)  # negative: flush left


class Report:
    """Prints rows as they come and appends them to a file of JSON lines."""

    def __init__(self, json_file: Path | None = None):
        self.file = json_file.open("a") if json_file else None

    def title(self, text: str) -> None:
        print(f"\n{text}\n{line(COLUMNS)}", flush=True)

    def row(self, row: Row) -> None:
        print(line(cells(row)), flush=True)
        if self.file:
            self.file.write(json.dumps(dataclasses.asdict(row)) + "\n")
            self.file.flush()


def cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.dtype,
        str(row.threads),
        duration(row.seconds),
        duration(row.minimum),
        f"{row.spread:.0%}",
        f"{row.flops / row.seconds / 1e9:.1f}" if row.flops else "",
        f"{row.bytes / row.seconds / 1e9:.1f}" if row.bytes else "",
        f"{row.roofline:.0%}" if row.roofline else "",
        "  ".join([*(f"{rival} {ratio:.2f}x" for rival, ratio in row.ratios.items()), row.note]),
    )


def line(texts: tuple[str, ...]) -> str:
    padded = (f"{text:<{-w}}" if w < 0 else f"{text:>{w}}" for text, w in zip(texts, WIDTHS, strict=True))
    return "  ".join(padded).rstrip()


def duration(seconds: float) -> str:
    """Three significant digits in the unit that suits: ns, us, ms or s."""
    unit, scale = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)) if seconds >= s), ("ns", 1e-9))
    value = seconds / scale
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"
