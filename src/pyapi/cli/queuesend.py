"""Queuesend: `seglog queue send`: lines, or one value, into a queue."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, NamedTuple, Protocol, cast

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.lines import UNTERMINATED, Block, Stream, blocks
from seglog.cli.send import bytes_of, keys_and_values, name_and_value, parse
from seglog.cli.show import say
from seglog.cli.topics import duration
from seglog.config import Fsync
from seglog.engine.source import Packed

__all__ = ["send"]

LINE_BYTES_MAX = 1 << 26


def send(
    name: options.QueueName,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="One message; none: each line of standard input.", show_default=False),
    ] = None,
    data: options.Data = options.DATA,
    priority: Annotated[
        int | None, typer.Option("--priority", "-p", min=0, metavar="N", help="Higher comes first.", show_default="0")
    ] = None,
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before, as in 90, 15m, 7d.", show_default=False)
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(metavar="TIME", help="Worth nothing after it.", show_default="that of the queue")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", "-g", metavar="GROUP", help="For FIFO and fair queues.", show_default=False)
    ] = None,
    dedup_id: Annotated[
        str | None, typer.Option(metavar="ID", help="VALUE is there once, however often sent.", show_default=False)
    ] = None,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of every message.", show_default=False),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long to wait for room.", show_default="for ever")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Lines are JSON objects, as `receive --json` prints them.")
    ] = False,
    fsync: Annotated[
        Fsync, typer.Option(help="What survives a power cut: always: each message when it was sent.")
    ] = "interval",
) -> None:
    """Send each line, or VALUE, as a message. The queue, with default settings, and the store are made when there is none.

    A message's value is the line without its newline, as with `seglog topic send`. With --json an object needs a value;
    key, headers, priority, group and dedup_id are optional, and go before what the options say.

    Exits 1 when a bounded queue is full: its messages are sent one by one, and those before stay sent.

    \b
        seglog queue send jobs 'resize cat.jpg'
        seglog queue send jobs 'water the plants' --delay 24h --ttl 2h
        find . -name '*.jpg' | seglog queue send jobs --priority 2
        seglog queue send orders 'customer-42:paid' -K : --group customer-42 --dedup-id 17
        seglog queue receive jobs.dead --json -c 10 | seglog queue send jobs --json
    """
    end = options.one_byte(delimiter, "-D")
    between = None if separator is None else options.unescaped(separator, "-K")
    if between is not None and (not between or (value is None and end in between)):
        raise Refused(f"-K is {separator!r}: it must not be empty, nor hold what ends a line")
    if as_json and (between is not None or value is not None):
        raise Refused("--json reads objects from standard input, with their keys: leave out VALUE and -K")
    if dedup_id is not None and value is None:
        raise Refused("--dedup-id names one message, and lines are several: give it as VALUE, or use --json")
    headers: dict[str, bytes | None] = dict(map(name_and_value, header or ()))
    how = {
        "priority": priority,
        "delay": None if delay is None else duration(delay, "--delay"),
        "ttl": None if ttl is None else duration(ttl, "--ttl"),
        "group": None if group is None else options.raw(group),
        "timeout": None if timeout is None else duration(timeout, "--timeout"),
    }
    with options.open_store(data, create=True, fsync=fsync) as store:
        queue = store.queue(name)
        sender: Sender = Objects(queue, headers, how) if as_json else Lines(queue, headers, how, between)
        if value is not None:
            one = options.raw(value)
            if dedup_id is not None:
                how["dedup_id"] = options.raw(dedup_id)
            key, found, rest = one.partition(between) if between else (b"", b"", b"")
            sender.one(rest if found else one, key if found else None, headers, how)
        else:
            for block in blocks(cast(Stream, sys.stdin.buffer), end, LINE_BYTES_MAX):
                sender.send(block)
        dropped = f", {sender.dropped:,} dropped for want of room" if sender.dropped else ""
        say(f"{sender.sent:,} message{'' if sender.sent == 1 else 's'} sent to {name}{dropped}")


class Sender(Protocol):
    sent: int
    dropped: int

    def send(self, block: Block) -> None: ...

    def one(self, value: Any, key: Any, headers: dict[str, bytes | None], how: dict[str, Any]) -> None: ...


class Counting:
    """Counts what is there, and what a full queue forgot."""

    def __init__(self, queue: seglog.Queue, headers: dict[str, bytes | None], how: dict[str, Any]) -> None:
        self.queue, self.headers, self.how = queue, headers, how
        self.sent = self.dropped = 0

    def one(self, value: Any, key: Any, headers: dict[str, bytes | None], how: dict[str, Any]) -> None:
        # With overflow="drop_new" it may be nowhere, whatever the engine's signature says.
        where: object = self.queue.send(value, key, headers or None, **how)
        self.sent += where is not None
        self.dropped += where is None


class Lines(Counting):
    """Sends each line of a block: all at once, but one by one where there is a bound, since a block may never have room."""

    def __init__(
        self, queue: seglog.Queue, headers: dict[str, bytes | None], how: dict[str, Any], separator: bytes | None
    ) -> None:
        super().__init__(queue, headers, how)
        self.separator = separator

    def send(self, block: Block) -> None:
        headers = self.headers if block.terminated else self.headers | {UNTERMINATED: b""}
        keys: Any = None
        values: Any = Packed(block.data, block.starts, block.ends)
        if self.separator is not None:
            keys, values = keys_and_values(block, self.separator)
        if not self.queue.config.bounded:
            self.queue.send_many(values, keys, [headers] * len(values) if headers else None, **self.how)
            self.sent += len(values)
            return
        spans = zip(block.starts.tolist(), block.ends.tolist(), strict=True)
        for i, (start, stop) in enumerate(spans):
            value, key = (block.data[start:stop], None) if keys is None else (values[i], keys[i])
            self.one(value, key, headers, self.how)


class Objects(Counting):
    """Sends what each line says in JSON."""

    line = 0

    def send(self, block: Block) -> None:
        for start, stop in zip(block.starts.tolist(), block.ends.tolist(), strict=True):
            self.line += 1
            if text := block.data[start:stop].strip():
                try:
                    said = parsed(text)
                except ValueError as error:
                    raise Refused(
                        f"line {self.line:,} is no message in JSON: {error}. {self.sent:,} messages before it were sent."
                    ) from None
                self.one(said.value, said.key, self.headers | said.headers, self.how | said.how)


class Said(NamedTuple):
    value: bytes | None
    key: bytes | None
    headers: dict[str, bytes | None]
    how: dict[str, Any]


def parsed(text: bytes) -> Said:
    """One line. Raises ValueError, whose text says why it is none."""
    record, found = parse(text), json.loads(text)
    how: dict[str, Any] = {}
    for name in ("group", "dedup_id"):
        if found.get(name) is not None:
            how[name] = bytes_of(found[name], name)
    if found.get("priority") is not None:
        if type(found["priority"]) is not int or found["priority"] < 0:
            raise ValueError('"priority" must be a whole number, 0 or more')
        how["priority"] = found["priority"]
    return Said(record.value, record.key, record.headers, how)
