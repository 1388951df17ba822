"""Send: `seglog topic send`: lines into a topic, at the speed of the disk rather than of Python."""

from __future__ import annotations

import io
import itertools
import json
import os
import stat
import sys
from base64 import b64decode
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.lines import UNTERMINATED, Block, Stream, blocks, key_cuts
from seglog.cli.progress import Progress
from seglog.cli.show import say
from seglog.config import Fsync
from seglog.engine.source import Packed

__all__ = ["send"]


def send(
    name: options.TopicName,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="What to send; - or none: standard input.", show_default=False),
    ] = None,
    data: options.Data = options.DATA,
    partition: Annotated[
        int | None, typer.Option("--partition", "-p", metavar="N", help="To this partition.", show_default=False)
    ] = None,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of every record.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Lines are JSON objects, as `read --json` prints them.")
    ] = False,
    fsync: Annotated[
        Fsync, typer.Option(help="What survives a power cut: always: each batch on disk before the next is read.")
    ] = "interval",
) -> None:
    """Send each line as a record. The topic, and the store, are made when there is none.

    A record's value is the line without its newline, and `seglog topic read` puts it back: the copy is the same byte by
    byte, whatever the bytes are. A last line without a newline is remembered as such, by the header
    seglog.unterminated.

    Without -K and -p all lines of one command go to one partition, that with the fewest records, so that they
    stay in order. With -K a line's key decides, and the order is kept for each key; a line without SEP has no key.

    \b
        seglog topic send logs < access.log
        tail -F access.log | seglog topic send logs
        echo 'customer-42:paid' | seglog topic send orders -K :
        find . -print0 | seglog topic send names -D '\\0'
        seglog topic read orders --json | seglog topic send copy --json
    """
    end = options.one_byte(delimiter, "-D")
    between = None if separator is None else options.unescaped(separator, "-K")
    if between is not None and (not between or end in between):
        raise Refused(f"-K is {separator!r}: it must not be empty, nor hold what ends a line")
    if as_json and between is not None:
        raise Refused("--json brings its own keys: leave out -K")
    headers = dict(map(name_and_value, header or ()))
    sources = files or [Path("-")]
    with options.open_store(data, create=True, fsync=fsync) as store:
        topic = store.topic(name)
        if partition is not None:
            topic.next_offset(partition)  # raises PartitionNotFound before anything is read
        sender = (
            Objects(topic, partition, headers, store.clock) if as_json else Lines(topic, partition, headers, between)
        )
        with Progress(f"sending to {name}", total_bytes(sources), "bytes") as progress:
            for source in sources:
                with opened(source) as stream:
                    for block in blocks(stream, end, topic.config.record_bytes_max + len(between or b"")):
                        sender.send(block)
                        progress.advance(len(block.data))
        say(f"{sender.sent:,} record{'' if sender.sent == 1 else 's'} sent to {name}")


class Lines:
    """Sends each line of a block as a record."""

    def __init__(
        self, topic: seglog.Topic, partition: int | None, headers: dict[str, bytes], separator: bytes | None
    ) -> None:
        self.topic, self.headers, self.separator = topic, headers, separator
        self.sent = 0
        # Where lines without a key go: all to one place, so that they stay in order.
        self.together = least_filled(topic) if partition is None else partition
        self.scattered = separator is not None and partition is None and topic.partitions > 1

    def send(self, block: Block) -> None:
        if self.separator is None:
            self.append(block, None, Packed(block.data, block.starts, block.ends), self.together)
            return
        keyed, cuts = key_cuts(block, self.separator)
        keys = Packed(block.data, block.starts[keyed], cuts)
        values = Packed(block.data, cuts + len(self.separator), block.ends[keyed])
        if len(keys) == len(keyed):
            self.append(block, keys, values, None if self.scattered else self.together)
        elif self.scattered:  # the order between keys, and between those and lines without, is lost in any case
            others = Packed(block.data, block.starts[~keyed], block.ends[~keyed])
            self.append(block, keys, values, None)
            self.append(block, None, others, self.together)
        else:
            self.append(block, *keys_and_values(block, self.separator), self.together)

    def append(self, block: Block, keys: Any, values: Any, partition: int | None) -> None:
        headers: list[dict[str, bytes]] | None = None
        if not block.terminated:
            headers = [self.headers | {UNTERMINATED: b""}] * len(values)
        elif self.headers:
            headers = [self.headers] * len(values)
        if len(values):
            self.topic.send_many(values, keys, headers, partition=partition)
            self.sent += len(values)


def keys_and_values(block: Block, separator: bytes) -> tuple[list[bytes | None], list[bytes]]:
    """The same as lists, for one partition in which some lines have a key and some have none."""
    keys: list[bytes | None] = []
    values: list[bytes] = []
    for start, end in zip(block.starts.tolist(), block.ends.tolist(), strict=True):
        key, found, value = block.data[start:end].partition(separator)
        keys += [key if found else None]
        values += [value if found else key]
    return keys, values


class Objects:
    """Sends what each line says in JSON: value, key, headers and timestamp; the rest is where it was once."""

    def __init__(
        self, topic: seglog.Topic, partition: int | None, headers: dict[str, bytes], clock: seglog.Clock
    ) -> None:
        self.topic, self.partition, self.headers, self.clock = topic, partition, headers, clock
        self.sent = 0
        self.line = 0
        self.together = least_filled(topic) if partition is None else partition

    def send(self, block: Block) -> None:
        spans = zip(block.starts.tolist(), block.ends.tolist(), strict=True)
        records = [self.parse(line) for start, end in spans if (line := block.data[start:end].strip())]
        now = self.clock()
        # Runs, so that those without a key stay together and in order: as `Lines` does it.
        for keyless, run in itertools.groupby(records, lambda record: record.key is None):
            some = list(run)
            self.topic.send_many(
                [record.value for record in some],
                [record.key for record in some],
                [self.headers | record.headers for record in some],
                timestamps=[now if record.timestamp is None else record.timestamp for record in some],
                partition=self.together if keyless else self.partition,
            )
            self.sent += len(some)

    def parse(self, text: bytes) -> Parsed:
        self.line += 1
        try:
            return parse(text)
        except ValueError as error:
            raise Refused(
                f"line {self.line:,} is no record in JSON: {error}. {self.sent:,} records before it were sent."
            ) from None


class Parsed(NamedTuple):
    value: bytes | None
    key: bytes | None
    headers: dict[str, bytes | None]
    timestamp: int | None


def parse(text: bytes) -> Parsed:
    """One line. Raises ValueError, whose text says why it is none."""
    found = json.loads(text)
    if not isinstance(found, dict) or "value" not in found:
        raise ValueError('it must be an object with a "value"')
    headers = found.get("headers", {})
    timestamp = found.get("timestamp")
    if not isinstance(headers, dict):
        raise ValueError('"headers" must be an object')
    if timestamp is not None and type(timestamp) is not int:
        raise ValueError('"timestamp" must be whole µs since 1970')
    return Parsed(
        bytes_of(found["value"], "value"),
        bytes_of(found.get("key"), "key"),
        {name: bytes_of(value, f"headers.{name}") for name, value in headers.items()},
        timestamp,
    )


def bytes_of(item: object, what: str) -> bytes | None:
    if item is None:
        return None
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, dict) and list(item) == ["base64"] and isinstance(item["base64"], str):
        return b64decode(item["base64"], validate=True)
    raise ValueError(f'"{what}" must be a string, null, or {{"base64": "..."}}')


# ---- helpers ------------------------------------------------------------------------------------------


def least_filled(topic: seglog.Topic) -> int:
    return min(range(topic.partitions), key=lambda p: topic.next_offset(p) - topic.first_offset(p))


def name_and_value(text: str) -> tuple[str, bytes]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise Refused(f"-H is {text!r}: it must be NAME=VALUE")
    return name, options.raw(value)


def opened(source: Path) -> AbstractContextManager[Stream]:
    return nullcontext(cast(Stream, sys.stdin.buffer)) if str(source) == "-" else source.open("rb")


def total_bytes(sources: list[Path]) -> int | None:
    """How much there is to read; None when one of them is a pipe, or a terminal."""
    try:
        found = [os.fstat(sys.stdin.fileno()) if str(source) == "-" else source.stat() for source in sources]
    except io.UnsupportedOperation:  # a stdin that is no file, as in tests
        return None
    return sum(each.st_size for each in found) if all(stat.S_ISREG(each.st_mode) for each in found) else None
