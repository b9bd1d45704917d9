"""Charts of a run: where each kernel stands under the roofline, and how many times longer the rivals take.

python -m bench.plot rows.jsonl charts.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def draw(lines: str, path: Path) -> None:
    """Draws the rows in `lines` (JSON lines of bench.report) into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(text) for text in lines.splitlines()]
    height = max(6, 0.3 * sum(1 for row in rows if row["ratios"]))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(16, height), constrained_layout=True)
    draw_roofline(left, [row for row in rows if row["flops"] and row["bytes"] and row["roofline"]])
    draw_ratios(right, [row for row in rows if row["ratios"]])
    figure.savefig(path, dpi=120)
    print(f"\ncharts: {path}")


def draw_roofline(axes, rows: list[dict]) -> None:
    for threads in sorted({row["threads"] for row in rows}):
        some = [row for row in rows if row["threads"] == threads]
        intensity = [row["flops"] / row["bytes"] for row in some]
        reached = [row["flops"] / row["seconds"] / 1e9 for row in some]
        bound = [y / row["roofline"] for y, row in zip(reached, some, strict=True)]
        points = axes.plot(intensity, reached, "o", label=f"{threads} thr")
        axes.plot(*zip(*sorted(zip(intensity, bound, strict=True)), strict=True), color=points[0].get_color())
    axes.set(xscale="log", yscale="log", xlabel="flop per byte", ylabel="GFLOP/s", title="measured roofline")
    if rows:
        axes.legend()


def draw_ratios(axes, rows: list[dict]) -> None:
    rivals = sorted({rival for row in rows for rival in row["ratios"]})
    labels = [f"{row['name']} {row['dtype']} {row['threads']} thr" for row in rows]
    for offset, rival in enumerate(rivals):
        at = [i + 0.8 * offset / len(rivals) for i, row in enumerate(rows) if rival in row["ratios"]]
        values = [row["ratios"][rival] for row in rows if rival in row["ratios"]]
        axes.barh(at, values, height=0.8 / len(rivals), label=rival)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="time of the rival / time of lamina", title="above 1: lamina is faster")
    if rivals:
        axes.legend()


if __name__ == "__main__":
    draw(Path(sys.argv[1]).read_text(), Path(sys.argv[2]))
