"""Fuzz: mutated inputs for every decoder.

    PYTHONPATH=tests python -m fuzz.run --seconds 600 --seed S

Each case takes a sound directory, mutates it (`mutate.py`), and does to it what programs do: open, read on over damage, look by
offset and by time, take batches apart, verify, append, close, open again. Cases run in children; what kills one, or takes it
too long, is a finding, and so is

    an error that is not seglog's, or one without a way to go on
    a record that was never written, when the hashes were left alone
    a difference to the second reader (`format/reader.py`, made from docs/format.md alone)
    more than a quarter of a GiB of memory, when the hashes were left alone

A case is its number: `--case N` runs that one alone, here, and says what happens.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import seglog
from crash.kills.children import Child, Died, stop_all
from crash.kills.ledger import Journal
from crash.scratch import memory
from format import reader
from seglog.engine.errors import CorruptBatch, CorruptSegment, SeglogError, UnsupportedFormat
from seglog.engine.log import Log

from . import corpus, mutate

A_CASE = 20.0  # seconds, at most
BATCH = 50  # cases of one child
A_LOT = 256 << 20


class Finding(AssertionError):
    pass


# ---- what is done to a directory ------------------------------------------------------------------------------------------


def rows_of(batch: Any) -> list[reader.Record]:
    """The records of a batch, taken apart in every way there is, which must agree."""
    records = list(batch)
    told = [reader.Record(r.offset, r.timestamp, r.key, r.value, headers_of(r)) for r in records]
    values, keys = batch.values, batch.keys
    if [r.value for r in told] != list(values) or values.tolist() != list(values):
        raise Finding("the column of values is not the records' values")
    if keys is not None and keys.tolist() != [r.key for r in told]:
        raise Finding("the column of keys is not the records' keys")
    if batch.offsets.tolist() != [r.offset for r in told] or batch.timestamps.tolist() != [r.timestamp for r in told]:
        raise Finding("the columns of offsets and timestamps are not the records'")
    for column in (values, keys):
        if column is not None:
            size = len(column.data)
            if len(column) and not (
                column.starts.min() >= 0 and column.ends.max() <= size and (column.starts <= column.ends).all()
            ):
                raise Finding("a column points outside its bytes")
    with contextlib.suppress(ValueError):
        _ = batch.headers
    return told


def headers_of(record: Any) -> list[tuple[str, bytes | None]] | None:
    try:
        return list(record.headers.items())
    except ValueError:  # malformed: this record's alone (docs/format.md, section 4)
        return None


def read_on(log: Log, recover: str) -> list[reader.Record]:
    """All that can be read, going on behind damage as the error says; each step must get somewhere."""
    told: list[reader.Record] = []
    at = log.first_offset
    while True:
        try:
            batch = log.read(at, 7 if recover == "raise" else 10_000)
        except (CorruptBatch, CorruptSegment) as error:
            if recover == "skip":
                raise Finding(f"recover='skip' told instead of skipping: {error}") from error
            if not error.resume_offset > at:
                raise Finding(f"no way on: {error}") from error
            at = error.resume_offset
            continue
        if batch is None:
            return told
        rows = rows_of(batch)
        if not rows or rows[0].offset < at or not batch.next_offset > rows[-1].offset:
            raise Finding(f"a batch for {at} with {len(rows)} records, next {batch.next_offset}")
        told += rows
        at = batch.next_offset


def use(path: Path, rng: random.Random, recover: str, sane: bool = True) -> list[reader.Record] | None:
    """What a program does with a log; what it read. None: refused, as a newer format.

    `sane`: what the headers say, about offsets above all, may be believed; else nothing must be but an end without a crash.
    """
    settings: dict[str, Any] = {"segment_bytes": corpus.SMALL, "segment_bytes_min": corpus.SMALL, "recover": recover}
    try:
        log = Log(path, **settings)
    except UnsupportedFormat:
        return None
    try:
        told = read_on(log, recover)
        for record in rng.sample(told, min(5, len(told))):
            if log.record(record.offset).value != record.value and sane:
                raise Finding(f"record({record.offset}) is another")
        for _ in range(3):
            moment = rng.choice([corpus.NOW, 0, 1 - 2**63, 2**63 - 1, *(r.timestamp for r in told[:50])])
            with contextlib.suppress(SeglogError):
                log.offset_for_time(moment)
        log.verify()
        log.statistics()
        offset = log.append(b"after all that", b"k", {"h": b"v"})
        if sane and told and offset <= told[-1].offset:
            raise Finding(f"offset {offset} was given out twice: there is a record at {told[-1].offset}")
        log.append_many([b"a", None, b"ccc"] * 50)
        log.close()
        log = Log(path, **settings)
        again = read_on(log, recover)
        new = [b"after all that", *[b"a", None, b"ccc"] * 50]
        if sane and (again[: len(told)] != told or [r.value for r in again[len(told) :]] != new):
            raise Finding("what was read before the close is not what is read after it")
        return told
    except UnsupportedFormat:
        return None
    finally:
        with contextlib.suppress(SeglogError):
            log.close()


def use_store(path: Path) -> None:
    """What a program does with a store."""
    with seglog.open(path, upkeep=False) as store:
        for name in store.topics():
            with contextlib.suppress(SeglogError):
                topic = store.topic(name)
                list(topic.read())
                topic.last(3)
                topic.send(b"new", b"key")
                for group in ("billing", "late"):
                    with contextlib.suppress(SeglogError):
                        with topic.consumer(group, commit="after") as consumer:
                            while consumer.receive(timeout=0) is not None:
                                pass
        store.verify()
        store.topic("made", partitions=2).send(b"x")
        store.delete_topic("made")
        store.statistics()


# ---- a case ----------------------------------------------------------------------------------------------------------------


class Case:
    """One mutation and its consequences; all of it follows from seed and number."""

    def __init__(self, made: dict[str, Path], work: Path, seed: int, number: int) -> None:
        self.rng = random.Random(f"{seed}:{number}")
        self.made, self.work = made, work
        self.of_store = self.rng.random() < 0.25
        self.name = "store" if self.of_store else self.rng.choice([name for name in made if name != "store"])
        kinds = mutate.OF_STORES if self.of_store else {**mutate.RESEALED, **mutate.RAW}
        weights = [4 if kind == "frame" else 1 for kind in kinds]
        self.kind = self.rng.choices(list(kinds), weights)[0]
        self.mutation = kinds[self.kind]
        self.resealed = self.kind in mutate.RESEALED or self.kind in ("identity", "positions", "meta")
        self.what = ""

    def __str__(self) -> str:
        return f"{self.kind} in {self.name}: {self.what}"

    def prepare(self) -> Path:
        path = corpus.copied(self.made[self.name], self.work / "it")
        with contextlib.suppress(reader.Refused):
            for _ in range(self.rng.choice([1, 1, 1, 2])):
                self.what += self.mutation(path, self.rng) + "; "
        return path

    def run(self) -> None:
        path = self.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        try:
            if self.of_store:
                with contextlib.suppress(SeglogError):
                    use_store(path)
            else:
                self.run_log(path)
        except SeglogError as error:
            if not self.resealed and not isinstance(error, UnsupportedFormat | CorruptSegment):
                raise Finding(f"{type(error).__name__}: {error}") from error
        except MemoryError as error:
            if not self.resealed:
                raise Finding("out of memory") from error
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        if grown > A_LOT and not self.resealed and not os.environ.get("SEGLOG_BUILD"):
            raise Finding(f"{grown:,} bytes of memory")

    def run_log(self, path: Path) -> None:
        # Forged offsets contradict each other: then a reader that walks and one that comes from an index may differ.
        sane = self.kind not in ("header", "mark") and not any(
            name in self.what for name in ("base_offset", "span", "count")
        )
        if sane and "body_length" in self.what:
            sane = not reaches_over_the_end(corpus.copied(path, self.work / "end"))
        second = second_opinion(path)
        first = use(corpus.copied(path, self.work / "skip"), self.rng, "skip", sane)
        other = use(corpus.copied(path, self.work / "raise"), self.rng, "raise", sane)
        if not self.resealed:
            written = {record.offset: record for record in all_written(self.made[self.name])}
            for record in (first or []) + (other or []):
                if written.get(record.offset) != record:
                    raise Finding(f"offset {record.offset} holds {record}, written was {written.get(record.offset)}")
        if sane and second is not None:  # the second reader refuses the whole for a frame that nobody asks for
            if second != first:
                raise Finding(difference(first, second))
            if other != first:
                raise Finding("recover='raise' and recover='skip' differ: " + difference(other, first))


def reaches_over_the_end(path: Path) -> bool:
    """Whether a frame whose length was forged, with a right hash, goes on behind the end of the log. The second reader knows that
    there is nothing; the engine believes the hash, until the next append, which goes there, breaks it."""
    with contextlib.suppress(SeglogError), Log(path, segment_bytes=corpus.SMALL, segment_bytes_min=corpus.SMALL) as log:
        said = log.statistics()
        active = f"{said['active_base']:020}.log"
        return any(loss.path.endswith(active) and loss.position > said["tail_position"] for loss in log.verify())
    return False


def second_opinion(path: Path) -> list[reader.Record] | None:
    """What the other reader says is there; None when it refuses."""
    try:
        return [record._replace(headers=one_of_each(record.headers)) for record in reader.Log(path).records()]
    except reader.Refused:
        return None


def one_of_each(headers: list[tuple[str, bytes | None]] | None) -> list[tuple[str, bytes | None]] | None:
    """The engine gives a dict, in which a name that comes twice has its last value."""
    return None if headers is None else list(dict(headers).items())


def all_written(path: Path) -> list[reader.Record]:
    """Of a sound log; what was trimmed too, for it may come back."""
    log = reader.Log(path)
    log.first_offset = 0
    return log.records()


def difference(first: list[reader.Record] | None, second: list[reader.Record] | None) -> str:
    if first is None or second is None:
        return f"one refuses: {'the engine' if first is None else 'the second reader'}"
    for one, two in zip(first, second):
        if one != two:
            return f"the engine says {one}, the second reader {two}"
    more = (first if len(first) > len(second) else second)[min(len(first), len(second))]
    return f"{len(first):,} records, and {len(second):,} for the second reader; the first that only one has: {more}"


# ---- many ------------------------------------------------------------------------------------------------------------------


def run_some(
    made: dict[str, Path], work: Path, seed: int, start: int, stop: int, journal: str
) -> list[tuple[int, str]]:
    """Cases start .. stop - 1 in this child; the findings."""
    findings, rows = [], Journal(journal, rows=BATCH + 2000)
    work.mkdir(exist_ok=True)
    for number in range(start, stop):
        rows.note(1, number)
        case = Case(made, work, seed, number)
        try:
            case.run()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = "" if isinstance(error, Finding) else f" ({Path(last.filename).name}:{last.lineno})"
            findings.append((number, f"{case}: {type(error).__name__}: {str(error)[:600]}{where}"))
    return findings


def fuzz(folder: Path, seconds: float, seed: int, cases: int = 0) -> tuple[int, list[tuple[int, str]]]:
    """Cases for so long (or so many), two children at a time; how many, and what they found."""
    made = corpus.make(folder, seed)
    findings: list[tuple[int, str]] = []
    running: list[tuple[Child, Path, int, int, float]] = []
    began, following, done = time.monotonic(), 0, 0
    while True:
        more = time.monotonic() - began < seconds if not cases else following < cases
        while more and len(running) < 2:
            stop = min(following + BATCH, cases) if cases else following + BATCH
            work = folder / f"work-{following // BATCH % 2}-{following}"
            child = Child(run_some, made, work, seed, following, stop, str(work) + ".journal")
            running.append((child, work, following, stop, time.monotonic()))
            following = stop
            more = not cases or following < cases
        if not running:
            return done, findings
        child, work, start, stop, _since = running.pop(0)
        left = stop
        try:
            findings += child.answer(A_CASE + A_CASE / 10 * (stop - start))
        except Died as error:
            at = Journal(str(work) + ".journal").rows()
            number = at[-1][1] if at else start
            how = child.status if child.status is not None else "a hang"
            name = signal.Signals(-how).name if isinstance(how, int) and how < 0 else how
            findings.append((number, f"{Case(made, work, seed, number).kind}: {name}: {error}"))
            left = number + 1
        child.stop()
        done += left - start
        if left < stop:
            work2 = folder / f"work-again-{left}"
            running.append(
                (
                    Child(run_some, made, work2, seed, left, stop, str(work2) + ".journal"),
                    work2,
                    left,
                    stop,
                    time.monotonic(),
                )
            )
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(str(work) + ".journal")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=600)
    options.add_argument("--cases", type=int, default=0, help="so many, however long it takes")
    options.add_argument("--seed", type=lambda text: int(text, 0), default=secrets.randbits(32))
    options.add_argument("--case", type=int, default=-1, help="this one alone")
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seglog-fuzz-", dir=memory()))
    print(f"seed {given.seed:#x}", flush=True)
    if given.case >= 0:
        case = Case(corpus.make(folder, given.seed), folder, given.seed, given.case)
        print(f"in {folder}", flush=True)
        try:
            case.run()
        finally:
            print(case)
        shutil.rmtree(folder)
        return 0
    began = time.monotonic()
    try:
        done, findings = fuzz(folder, given.seconds, given.seed, given.cases)
    finally:
        stop_all()
        shutil.rmtree(folder, ignore_errors=True)
    for number, what in findings:
        print(f"BROKEN: case {number} of seed {given.seed:#x}: {what}")
    print(f"{done:,} cases in {time.monotonic() - began:.0f} s, {len(findings):,} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
