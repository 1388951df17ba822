"""Report: the page, in which what seglog loses comes first; it knows only the JSON."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any, NamedTuple

OURS = "seglog"
RAW = "the raw disk"
UNITS = {"ns": 1e9, "us": 1e6}
WANTED = dict.fromkeys(("produce-batch", "consume-batch", "queue-1", "queue-2", "queue-100-1", "queue-100-2"), 10.0)
RAW_SHARE = 0.9  # of the raw disk's speed that a synced append is to have


class Row(NamedTuple):
    """Medians over the rounds, in seconds per record; `times` is how long it takes for one of seglog's, in the same rounds."""

    name: str
    value: float
    times: float
    cpu: float
    server: float
    spread: float
    late: float
    settings: str
    version: str

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)

    @property
    def raw(self) -> bool:
        return self.name.startswith(RAW)


class Result(NamedTuple):
    key: str
    title: str
    unit: str
    rows: list[Row]  # the fastest first
    failed: dict[str, str]
    missing: dict[str, str]
    outside: list[str]
    about: dict[str, str]
    size: int
    rounds: int

    @property
    def wanted(self) -> float:
        return WANTED.get(self.key, 1.0)

    def rivals(self) -> list[Row]:
        return [row for row in self.rows if not row.ours and not row.raw]

    def best(self) -> float | None:
        """How many times as long as seglog the fastest of the others takes."""
        return min((row.times for row in self.rivals()), default=None)

    def best_of_ours(self) -> Row | None:
        return next((row for row in self.rows if row.ours and row.name != OURS), None)

    def shares_of_raw(self) -> dict[str, float]:
        """Of the raw disk's speed, into blocks that were written before and into new ones."""
        return {row.name: row.times for row in self.rows if row.raw}

    def losses(self) -> list[Row]:
        return [row for row in self.rivals() if row.times < 1]


def result(key: str, told: dict[str, Any]) -> Result:
    clock = "p50" if key == "latency" else "wall"
    ours = [lap[clock] for lap in told["peers"].get(OURS, {"laps": []})["laps"]]
    rows = []
    for name, peer in told["peers"].items():
        laps = peer["laps"]
        values = [lap[clock] for lap in laps]
        low, middle, high = statistics.quantiles(values, n=4)
        times = statistics.median(its / mine for its, mine in zip(values, ours)) if ours else float("nan")
        cpu, server, late = (statistics.median(lap[what] for lap in laps) for what in ("cpu", "server", "p99"))
        rows.append(Row(name, statistics.median(values), times, cpu, server, (high - low) / middle, late,
                        peer["settings"], peer["version"]))
    rows.sort(key=lambda row: row.value)
    return Result(key, told["title"], told["unit"], rows, told["failed"], told["missing"], told["outside"], told["about"],
                  told["size"], told["rounds"])


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def versus(row: Row) -> str:
    if row.name == OURS:
        return "1"
    return f"**{row.times:.2f}**" if row.times < 1 and not row.ours and not row.raw else f"{row.times:.3g}"


def table(one: Result) -> list[str]:
    scale, late = UNITS[one.unit], one.key == "latency"
    what = f"p50, {one.unit} | p99, {one.unit}" if late else f"{one.unit} | a second"
    lines = [
        f"| | {what} | for 1 of seglog's | cpu of the client | of the server | spread | with |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in one.rows:
        second = number(row.late * scale) if late else number(1 / row.value)
        server = number(row.server * scale) if row.server else ""
        name = f"**{row.name}**" if row.ours else row.name
        lines.append(
            f"| {name} | {number(row.value * scale)} | {second} | {versus(row)} | {number(row.cpu * scale)} | {server} "
            f"| {row.spread:.0%} | {row.settings} |"
        )
    lines += [f"| {name} | – | | | | | | gave no figure: {why} |" for name, why in one.failed.items()]
    lines += [f"| {name} | – | | | | | | not installed: {why} |" for name, why in one.missing.items()]
    if one.outside:
        lines += ["", f"Not of this kind, or without a call for it: {', '.join(one.outside)}."]
    return lines


def verdict(one: Result) -> str:
    """What was wanted of seglog here, and what came of it."""
    said = []
    if (best := one.best()) is not None:
        rival = min(one.rivals(), key=lambda row: row.times).name
        said.append(f"{best:.2f} x the fastest other, {rival} (wanted {one.wanted:g}: {'met' if best >= one.wanted else 'MISSED'})")
    for name, share in one.shares_of_raw().items():
        said.append(f"{share:.2f} of {name} (wanted {RAW_SHARE:g}: {'met' if share >= RAW_SHARE else 'MISSED'})")
    if (row := one.best_of_ours()) and best is not None:
        said.append(f"{row.name}: {best / row.times:.2f} x")
    return "; ".join(said)


def anchor(title: str) -> str:
    """As GitHub makes it from a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def also(one: Result) -> str:
    row = one.best_of_ours()
    return f" ({row.name} takes {row.times:.2f} of it)" if row else ""


def losing_first(results: list[Result]) -> list[Result]:
    """What seglog loses outright, then what misses its target, then the rest; else in the order they were measured."""

    def order(one: Result) -> int:
        best, shares = one.best(), one.shares_of_raw().values()
        missed = (best is not None and best < one.wanted) or min(shares, default=1.0) < RAW_SHARE
        return 0 if one.losses() else 1 if missed else 2

    return sorted(results, key=order)


def page(results: list[Result], images: dict[str, str]) -> list[str]:
    results = losing_first(results)
    lines = ["## Where seglog loses", ""]
    losses = [
        f"* {one.title}: {row.name} takes {row.times:.2f} of what seglog takes{also(one)}"
        for one in results
        for row in one.losses()
    ]
    lines += losses or ["Nowhere, in this run."]
    lines += ["", "## What was wanted", "", "| | seglog's speed |", "| --- | --- |"]
    lines += [f"| [{one.title}](#{anchor(one.title)}) | {verdict(one)} |" for one in results]
    for one in results:
        about = one.about
        lines += ["", f"## {one.title[0].upper()}{one.title[1:]}", ""]
        if one.key in images:
            lines += [f"![{one.title}]({images[one.key]})", ""]
        lines += table(one)
        where = f"{about['cpu']}, {about['cores']} cores, "
        where += ", ".join(about[key] for key in ("memory", "file system", "kernel", "python"))
        lines += ["", f"{one.size:,} bytes a value, {one.rounds} rounds; {where}; {about['date']}, commit {about['commit']}."]
    versions = {row.name: row.version for one in results for row in one.rows}
    lines += ["", "## Versions", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {version} |" for name, version in sorted(versions.items())]
    return lines


def write(report: dict[str, Any], out: Path) -> list[str]:
    """The page and the charts; what is said on the terminal."""
    results = [result(key, told) for key, told in report.items()]
    if not results:
        return []
    size = results[0].size
    try:
        from compare.chart import draw
    except ImportError:
        images = {}
    else:
        images = {one.key: draw(one, out / f"{one.key}-{size}.svg") for one in results}
    head = (Path(__file__).parent / "page.md").read_text()
    (out / ("README.md" if size == 100 else f"{size}-bytes.md")).write_text(head + "\n" + "\n".join(page(results, images)) + "\n")
    return [f"{one.title}: {verdict(one)}" for one in losing_first(results)]
