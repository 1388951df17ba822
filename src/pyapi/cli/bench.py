"""Bench: `seglog bench`: what this machine does, measured in some seconds, beside Python's own buffered file.

Every ratio compares two numbers of one run: the same values, on the same file system, one after the other. The file is the
plainest thing that keeps records apart: `file.write(length + value)` with a buffer, which promises nothing when
a process dies; seglog's records survive that from the moment their send returns.
"""

from __future__ import annotations

import os
import platform
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

import seglog
from seglog.cli import options
from seglog.cli.progress import Progress
from seglog.cli.show import on_terminal, show_json, show_table
from seglog.config import Fsync

__all__ = ["bench"]

BATCH = 1_000  # records of one send_many
ROUNDS = 3  # the best counts: what disturbs a measurement only makes it slower


class Result(NamedTuple):
    what: str
    seconds: float
    records: int
    size: int  # bytes of each
    baseline: float  # seconds that the file took for as many

    @property
    def per_second(self) -> float:
        return self.records / self.seconds

    @property
    def ratio(self) -> float:
        return self.baseline / self.seconds

    def to_json(self) -> dict[str, object]:
        return {
            "what": self.what,
            "records_per_second": round(self.per_second),
            "ns_per_record": round(1e9 * self.seconds / self.records, 1),
            "mb_per_second": round(self.per_second * self.size / 1e6, 1),
            "ratio": round(self.ratio, 2),
        }


def bench(
    directory: Annotated[
        Path | None,
        typer.Argument(metavar="DIR", help="Measure the file system of this directory.", show_default="here"),
    ] = None,
    records: Annotated[int, typer.Option("--records", "-n", min=1_000, metavar="N", help="How many.")] = 500_000,
    size: Annotated[int, typer.Option("--size", "-s", min=0, metavar="BYTES", help="Of each value.")] = 100,
    fsync: Annotated[Fsync, typer.Option(help="What survives a power cut.")] = "never",
    as_json: options.Json = False,
) -> None:
    """Measure sending and reading here, against Python's buffered file.write of length-prefixed records.

    Works in a temporary directory inside DIR and removes it. The best of three rounds counts. With --fsync always each
    send waits for the disk, and the file does not: choose a small -n.

    \b
        seglog bench
        seglog bench /mnt/disk --size 1024 --json
        seglog bench --fsync always -n 2000
    """
    values = [bytes(size) for _ in range(records)]
    with tempfile.TemporaryDirectory(prefix="seglog-bench-", dir=directory or ".") as folder:
        with Progress("measuring"):
            results = measure(Path(folder), values, fsync)
        conditions = {
            "seglog": seglog.__version__,
            "python": platform.python_version(),
            "machine": machine(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "file_system": file_system(folder),
            "fsync": fsync,
            "records": records,
            "value_bytes": size,
            "batch_records": BATCH,
        }
    if as_json:
        show_json({**conditions, "results": [result.to_json() for result in results]})
        return
    if on_terminal():
        print(", ".join(f"{name} {value}" for name, value in conditions.items()))
    columns = ("what", "records/s", "ns each", "MB/s", "times the file")
    rows = [
        (
            r.what,
            round(r.per_second),
            round(1e9 * r.seconds / r.records, 1),
            round(r.per_second * size / 1e6),
            f"{r.ratio:.2f}",
        )
        for r in results
    ]
    show_table(columns, rows)


def measure(folder: Path, values: list[bytes], fsync: Fsync) -> list[Result]:
    count, size = len(values), len(values[0])
    plain = folder / "file"
    writing = best(lambda: write_file(plain, values), plain.unlink)
    write_file(plain, values)
    reading = best(lambda: list(read_file(plain)))
    plain.unlink()

    with seglog.open(folder / "data", fsync=fsync) as store:
        number = iter(range(100))

        def fresh(send: Callable[[seglog.Topic], None]) -> float:
            """Each round fills a topic of its own; making and deleting it is not timed."""
            name = f"bench-{next(number)}"
            topic = store.topic(name)
            taken = timed(lambda: send(topic))
            store.delete_topic(name)
            return taken

        one = min(fresh(lambda topic: send_each(topic, values)) for _ in range(ROUNDS))
        batches = [values[i : i + BATCH] for i in range(0, count, BATCH)]
        many = min(fresh(lambda topic: send_batches(topic, batches)) for _ in range(ROUNDS))
        topic = store.topic("bench")
        send_batches(topic, batches)
        lists = best(lambda: [value for batch in topic.batches() for value in batch.values.tolist()])
        columns = best(lambda: sum(len(batch) for batch in topic.batches()))
    return [
        Result("file.write", writing, count, size, writing),
        Result("send", one, count, size, writing),
        Result("send_many", many, count, size, writing),
        Result("read the file", reading, count, size, reading),
        Result("read as lists of bytes", lists, count, size, reading),
        Result("read as batches", columns, count, size, reading),
    ]


def send_each(topic: seglog.Topic, values: list[bytes]) -> None:
    send = topic.send
    for value in values:
        send(value)


def send_batches(topic: seglog.Topic, batches: list[list[bytes]]) -> None:
    for batch in batches:
        topic.send_many(batch)


def write_file(path: Path, values: list[bytes]) -> None:
    pack = struct.Struct("<I").pack
    with path.open("wb") as file:
        write = file.write
        for value in values:
            write(pack(len(value)) + value)


def read_file(path: Path) -> Iterator[bytes]:
    unpack = struct.Struct("<I").unpack
    with path.open("rb") as file:
        read = file.read
        while head := read(4):
            yield read(unpack(head)[0])


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best(work: Callable[[], object], after: Callable[[], object] = lambda: None) -> float:
    taken = []
    for _ in range(ROUNDS):
        taken += [timed(work)]
        after()
    return min(taken)


def machine() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def file_system(path: str) -> str:
    """The kind of file system that `path` is on, as far as the system tells it."""
    here = os.path.realpath(path)
    found, longest = "unknown", -1
    try:
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            point, kind = line.split()[1:3]
            inside = here == point or here.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= longest:
                found, longest = kind, len(point)
    except OSError:
        pass
    return found
