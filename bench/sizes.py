"""Sizes: what a record costs against how many partitions, how large a value, how many at once, how large a topic; as charts.

    python bench/sizes.py                     topics up to 4 GiB, into docs/benchmarks/sizes.md and sizes-*.svg; some minutes
    python bench/sizes.py --gib 20            needs 25 GiB of disk

A cliff would be a step in a line. Each point is the median of `--rounds` laps, and the points of a chart take turns. fsync="never".
Needs matplotlib, which `make compare` installs.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import seglog
from machine import add_arguments, describe, free_gib, one_core, progress, scratch
from sharing import rates, send_batches, send_some

OUT = Path(__file__).parent.parent / "docs" / "benchmarks"
VALUE = b"x" * 100
KIB = 1024


class Chart(NamedTuple):
    key: str
    title: str
    x: str
    y: str
    lines: dict[str, dict[float, float]]


def medians(rounds: int, points: dict[Any, Callable[[], float]]) -> dict[Any, float]:
    """Of each point, measured in turns; one turn before does not count."""
    got: dict[Any, list[float]] = {x: [] for x in points}
    for turn in range(rounds + 1):
        for x, measure in points.items():
            value = measure()
            if turn:
                got[x].append(value)
    return {x: statistics.median(values) for x, values in got.items()}


def lap(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    n = work()
    return (time.perf_counter() - began) / n


def by_partitions(args: argparse.Namespace, directory: str) -> Chart:
    keys = [b"%d" % n for n in range(10_000)]
    one, many, read = {}, {}, {}
    with seglog.open(os.path.join(directory, "partitions"), fsync="never") as store:
        for count in (1, 10, 100, 1000):
            progress(f"sizes: a topic of {count} partitions")
            topic = store.topic(f"t{count}", partitions=count, segment_bytes=1 << 22)

            def send(topic: seglog.Topic = topic) -> int:
                for key in keys:
                    topic.send(VALUE, key)
                return len(keys)

            def send_many(topic: seglog.Topic = topic) -> int:
                topic.send_many([VALUE] * len(keys), keys=keys)
                return len(keys)

            def batches(topic: seglog.Topic = topic) -> int:
                return sum(len(batch.values.tolist()) for batch in topic.batches())

            one[count], many[count], read[count] = (lambda f=f: lap(f) * 1e9 for f in (send, send_many, batches))
        lines = {
            "send, with a key": medians(args.rounds, one), "send_many of 10,000, with keys": medians(args.rounds, many),
            "batches, as lists": medians(args.rounds, read),
        }  # fmt: skip
    return Chart("partitions", "A record of 100 bytes, in topics of so many partitions", "partitions", "ns a record", lines)


def by_value(args: argparse.Namespace, directory: str) -> Chart:
    sent, read, copied = {}, {}, {}
    sizes = [KIB << shift for shift in range(0, 15, 2)]
    total = 128 << 20
    for size in sizes:
        path = os.path.join(directory, f"value-{size}")
        value = random.Random(size).randbytes(size)

        def send(path: str = path, value: bytes = value) -> float:
            shutil.rmtree(path, ignore_errors=True)
            with seglog.open(path, fsync="never") as store:
                topic = store.topic("t", record_bytes_max=32 << 20)
                topic.send(b"the first")

                def work() -> int:
                    for _ in range(total // len(value)):
                        topic.send(value)
                    return total // KIB

                return lap(work) * 1e9

        def receive(path: str = path) -> float:
            with seglog.open(path, fsync="never") as store:
                return lap(lambda: sum(len(record.value) for record in store.topic("t").read()) // KIB) * 1e9

        def copy(path: str = path, value: bytes = value) -> float:
            with open(path + ".mapped", "w+b") as file:
                os.posix_fallocate(file.fileno(), 0, total)
                with mmap.mmap(file.fileno(), total) as area, memoryview(area) as view:

                    def work() -> int:
                        for at in range(0, total, len(value)):
                            view[at : at + len(value)] = value
                        return total // KIB

                    return lap(work) * 1e9

        sent[size], read[size], copied[size] = send, receive, copy
    progress("sizes: values of 1 KiB to 16 MiB")
    together = {(name, x): f for name, all_of in (("send", sent), ("read", read), ("memcpy", copied)) for x, f in all_of.items()}
    found = medians(args.rounds, together)
    names = {"send": "send", "read": "read, as bytes", "memcpy": "memcpy into the new pages of a mapped file"}
    lines = {label: {x / KIB: found[name, x] for x in sizes} for name, label in names.items()}
    for size in sizes:
        shutil.rmtree(os.path.join(directory, f"value-{size}"), ignore_errors=True)
        Path(directory, f"value-{size}.mapped").unlink(missing_ok=True)
    return Chart("values", "A KiB, in values of so many KiB", "KiB a value", "ns a KiB", lines)


def by_senders(args: argparse.Namespace, directory: str) -> Chart:
    lines = {}
    for name, do in (("send", send_some), ("send_many of 100", send_batches)):
        for kind in ("processes", "threads"):
            progress(f"sizes: {name} by 1 and 2 {kind}")

            def point(count: int, do: Any = do, kind: str = kind) -> float:
                path = os.path.join(directory, "senders")
                with seglog.open(path, fsync="never") as store:
                    store.topic("shared").send(b"the first")
                processes, threads = (count, 1) if kind == "processes" else (1, count)
                rate, _ = rates(path, do, processes, 0.3, threads=threads, fsync="never")
                shutil.rmtree(path)
                return 1e9 / rate

            lines[f"{name}, {kind}"] = medians(args.rounds, {count: lambda count=count: point(count) for count in (1, 2)})
    return Chart("senders", "A record of 100 bytes, by so many senders at once", "at once", "ns a record, of all together", lines)


def by_topic(args: argparse.Namespace, directory: str) -> Chart:
    lines: dict[str, dict[float, float]] = {"send": {}, "read_batch of one record": {}, "offset_for_time": {}}
    chunk, sent = [os.urandom(KIB) for _ in range(1000)], 0
    any_of = random.Random(3)
    gib = 1.0
    with seglog.open(os.path.join(directory, "large"), fsync="never") as store:
        topic = store.topic("t")
        while gib <= args.gib and free_gib(directory) > 3 + gib:
            while sent < gib * 2**30:
                topic.send_many(chunk)
                sent += KIB * len(chunk)
            progress(f"sizes: a topic of {gib:g} GiB")
            time.sleep(2)  # the disk is busy with what was just written
            end = topic.next_offset()
            first, last = (topic.read_batch(offset=at, max_records=1).timestamps[0] for at in (0, end - 1))

            def send() -> int:
                for _ in range(5000):
                    topic.send(VALUE)
                return 5000

            def anywhere(end: int = end) -> int:
                for _ in range(500):
                    topic.read_batch(offset=any_of.randrange(end), max_records=1)
                return 500

            def at_time(first: int = int(first), last: int = int(last)) -> int:
                for _ in range(500):
                    topic.offset_for_time(any_of.randint(first, last), partition=0)
                return 500

            points = dict(zip(lines, (send, anywhere, at_time)))
            for name, value in medians(args.rounds, {name: lambda f=f: lap(f) * 1e9 for name, f in points.items()}).items():
                lines[name][gib] = value
            gib = gib * 2 if gib * 2 <= args.gib or gib == args.gib else args.gib
    return Chart("topics", "One call, in a topic of so many GiB (records of 1 KiB)", "GiB", "ns a call", lines)


def draw(chart: Chart) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "seglog", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}
    pyplot.switch_backend("svg")
    figure, axes = pyplot.subplots(figsize=(8.4, 4.2))
    for (name, points), colour in zip(chart.lines.items(), ("#d9480f", "#1864ab", "#2b8a3e", "#5f3dc4")):
        axes.plot(list(points), list(points.values()), "o-", label=name, color=colour)
    axes.set_xscale("log", base=2 if chart.key != "partitions" else 10)
    axes.set_yscale("log")
    ticks = list(next(iter(chart.lines.values())))
    axes.set_xticks(ticks, [f"{x:,g}" for x in ticks])
    low, high = (pick(v for points in chart.lines.values() for v in points.values()) for pick in (min, max))
    axes.set_ylim(low / 3, high * 3)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.set_title(chart.title, fontsize=11, loc="left")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(OUT / f"sizes-{chart.key}.svg", metadata={"Date": None})
    pyplot.close(figure)


def table(chart: Chart) -> str:
    xs = list(next(iter(chart.lines.values())))
    rows = [f"| {name} | " + " | ".join(f"{points[x]:,.0f}" for x in xs) + " |" for name, points in chart.lines.items()]
    head = f"| {chart.y} | " + " | ".join(f"{x:,g}" for x in xs) + " |"
    picture = f"![{chart.title}](sizes-{chart.key}.svg)"
    return "\n".join([f"## {chart.title}", "", picture, "", head, "| --- |" + " ---: |" * len(xs), *rows])


WHY = """`read_batch` checks the hash of a frame of 256 KiB for one record; in a topic of more segments than are kept open, and of
more frames than were read before, it pays for pages that are touched for the first time. A send to a topic that was filled a moment
ago shares the disk with what is being written back."""
CHARTS = {"partitions": by_partitions, "values": by_value, "senders": by_senders, "topics": by_topic}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("charts", nargs="*", help=f"of {', '.join(CHARTS)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gib", type=float, default=4, help="the largest topic (default 4)")
    add_arguments(parser)
    args = parser.parse_args()
    with scratch(args.dir) as directory:
        about = describe(directory)
        charts = []
        for name in args.charts or CHARTS:
            if name == "senders":
                charts.append(CHARTS[name](args, directory))
            else:
                with one_core():
                    charts.append(CHARTS[name](args, directory))
            print("\n" + table(charts[-1]), flush=True)
    if not args.charts:
        for chart in charts:
            draw(chart)
        told = ", ".join(str(about[key]) for key in ("cpu", "memory", "kernel", "python"))
        text = ["# What size costs", "", __doc__.splitlines()[0].removeprefix("Sizes: ").capitalize() if __doc__ else "", ""]
        text += [f"`{shlex.join(['python', *sys.argv])}`: {told}; medians of {args.rounds} laps in turns, `fsync=\"never\"`.", ""]
        text += [WHY, ""]
        (OUT / "sizes.md").write_text("\n".join([*text, "\n\n".join(table(chart) for chart in charts)]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
