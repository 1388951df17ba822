"""Top: `seglog top`: what happens in a store now: rates of topics, lag of groups, depth of queues.

A look is a handful of loads from shared memory for each partition, group and queue; rates are the difference of two looks, and
between them nothing runs. What begins after the first look has a rate with the second.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.queues import all_queues
from seglog.cli.show import on_terminal, show_table, table_of
from seglog.errors import SeglogError

if TYPE_CHECKING:
    from rich.console import Group

__all__ = ["top"]

COLUMNS = {
    "topics": ("topic", "records", "records_per_s", "disk_bytes"),
    "groups": ("group", "members", "lag", "lag_seconds"),
    "queues": ("queue", "ready", "in_flight", "delayed", "dead", "acked_per_s", "oldest_age"),
}
Row = dict[str, Any]


def top(
    data: options.Data = options.DATA,
    interval: Annotated[float, typer.Option("--interval", "-i", metavar="S", help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one view, over one interval, and end.")] = False,
    as_json: options.Json = False,
) -> None:
    """Watch a store: records/s of topics, lag of groups; of queues what is ready, in flight, delayed and dead, acks/s, and the age
    of the oldest message. Ends with Ctrl-C.

    \b
    Piped, for each look: lines that begin with "topic" (name, records, records/s, bytes on disk), "group" (name, live members, lag
    in records and in seconds) or "queue" (name, ready, in flight, delayed, dead letters, acked/s, seconds since the oldest was
    sent), separated by tabs; with --json one object per look. A queue's dead letters are those that are ready in the queue that
    takes them.
        seglog top
        seglog top --interval 60 --json >> watched.json
        seglog top --once | awk '$1 == "queue" && $3 > 1000'
    """
    if not interval > 0:
        raise Refused(f"--interval is {interval:g}: it is more than 0 seconds")
    with options.open_store(data) as store:
        watch = Watch(store)
        if on_terminal() and not as_json and not once:
            live(watch, interval)
            return
        watch.look()
        while True:
            time.sleep(interval)
            show(watch.look(), as_json)
            if once:
                return


def live(watch: Watch, interval: float) -> None:
    from rich.live import Live  # not before it is needed

    with Live(screen=True, auto_refresh=False) as screen:
        while True:
            screen.update(tables(watch.look(), watch.store.path), refresh=True)
            time.sleep(interval)


def tables(view: Row, path: str) -> Group:
    from rich.console import Group
    from rich.text import Text

    parts = [
        table_of(tuple(heading(column) for column in columns), [tuple(row.values()) for row in view[kind]])
        for kind, columns in COLUMNS.items()
        if view[kind]
    ]
    return Group(Text(f"{path}  {time.strftime('%H:%M:%S')}  Ctrl-C ends"), *parts)


def heading(column: str) -> str:
    return {"lag_seconds": "lag, s", "oldest_age": "oldest, s", "disk_bytes": "bytes on disk"}.get(
        column, column.replace("_per_s", "/s").replace("_", " ")
    )


def show(view: Row, as_json: bool) -> None:
    if as_json:
        print(json.dumps(view, ensure_ascii=False))
    elif on_terminal():
        for kind, columns in COLUMNS.items():
            show_table([heading(column) for column in columns], [tuple(row.values()) for row in view[kind]])
    else:
        show_table((), [(kind[:-1], *row.values()) for kind in COLUMNS for row in view[kind]])
    sys.stdout.flush()


@dataclass
class Watch:
    """A store that is looked at; `look` says what is so, and what happened since the last one."""

    store: seglog.Store
    at: float = 0.0
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    """What only grows: (kind, name) -> records sent, or messages acked."""

    def look(self) -> Row:
        now = time.monotonic()
        passed, self.at = (now - self.at) if self.at else None, now
        was, self.counts = self.counts, {}

        def rate(kind: str, name: str, count: int) -> float | None:
            self.counts[kind, name] = count
            before = was.get((kind, name))
            # Less than before: it was deleted and made anew, or counts from the machine's start again.
            return None if passed is None or before is None or count < before else round((count - before) / passed, 1)

        view = {"time": self.store.clock(), "topics": self.topics(rate), "groups": self.groups(), "queues": self.queues(rate)}
        return view if passed is None else view | {"interval": round(passed, 3)}

    def topics(self, rate: Any) -> list[Row]:
        rows = []
        for name in self.store.topics():
            with suppress(SeglogError):  # deleted a moment ago, or damaged: `seglog doctor` is for that
                now = options.existing_topic(self.store, name).statistics()
                sent = sum(partition.next_offset for partition in now.partitions)
                cells = (name, now.records, rate("topic", name, sent), now.disk_bytes)
                rows += [dict(zip(COLUMNS["topics"], cells, strict=True))]
        return rows

    def groups(self) -> list[Row]:
        rows = []
        for name in self.store.groups():
            with suppress(SeglogError):
                now = self.store.group(name).describe()
                cells = (name, len(now.members), now.lag, round(now.lag_seconds, 1))
                rows += [dict(zip(COLUMNS["groups"], cells, strict=True))]
        return rows

    def queues(self, rate: Any) -> list[Row]:
        found = {}
        for queue in all_queues(self.store):
            with suppress(SeglogError):
                found[queue.name] = queue, queue.statistics()
        rows = []
        for name, (queue, now) in found.items():
            _, dead = found.get(queue.dead_letter or "", (None, None))
            age = None if now.oldest_age is None else round(now.oldest_age, 1)
            letters = dead.ready if dead else 0
            cells = (name, now.ready, now.in_flight, now.delayed, letters, rate("queue", name, now.acked), age)
            rows += [dict(zip(COLUMNS["queues"], cells, strict=True))]
        return rows
