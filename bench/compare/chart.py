"""Chart: a workload as bars, on a logarithmic axis; the same figures draw the same file."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from compare.report import UNITS, Result, number

mpl.rcParams |= {"svg.hashsalt": "seglog", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}
COLOURS = {True: "#d9480f", False: "#8a9ba8"}


def draw(one: Result, path: Path) -> str:
    """Time per record, the shortest on top, and a mark for all processor time, or for the 99th percentile."""
    pyplot.switch_backend("svg")
    scale, late = UNITS[one.unit], one.key == "latency"
    rows = one.rows[::-1]
    figure, axes = pyplot.subplots(figsize=(8.4, 1.0 + 0.34 * len(rows)))
    colours = ["#343a40" if row.raw else COLOURS[row.ours] for row in rows]
    values = [row.value * scale for row in rows]
    marks = [(row.late if late else row.cpu + row.server) * scale for row in rows]
    axes.barh([row.name for row in rows], values, color=colours, height=0.66)
    said = "99th percentile" if late else "processor time, client and server"
    axes.plot(marks, range(len(rows)), "k|", markersize=9, markeredgewidth=1.6, label=said)
    axes.set_xscale("log")
    axes.set_xlim(min(values + [mark for mark in marks if mark > 0]) / 3, max(values + marks) * 3)
    for at, (value, mark) in enumerate(zip(values, marks)):
        axes.text(max(value, mark) * 1.12, at, f"{number(value)} {one.unit}", va="center", fontsize=9)
    axes.set_xlabel(f"{one.unit} {'from clock to hand, median' if late else 'per record'}; shorter is better")
    axes.set_title(f"{one.title} ({one.size:,} bytes)", fontsize=11, loc="left")
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path.name
