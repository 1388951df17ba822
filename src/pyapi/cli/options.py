"""Options: what several commands take, said once; and the store, topic and queue they name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

import seglog
from seglog.cli.exits import Refused
from seglog.config import Fsync, Recover
from seglog.errors import NotAStore, QueueNotFound, TopicNotFound
from seglog.names import check_name

__all__ = [
    "DATA",
    "Data",
    "Delimiter",
    "Directory",
    "Json",
    "KeySeparator",
    "Partition",
    "QueueName",
    "TopicName",
    "existing_queue",
    "existing_topic",
    "one_byte",
    "open_store",
    "raw",
    "unescaped",
]

Data = Annotated[
    Path,
    typer.Option("--data", "-d", metavar="DIR", envvar="SEGLOG_DATA", help="The store's directory."),
]
DATA = Path("data")  # where README's first program keeps its store too
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Directory = Annotated[
    Path | None, typer.Argument(metavar="DIR", help="The store's directory, as with -d.", show_default=False)
]
TopicName = Annotated[str, typer.Argument(metavar="TOPIC", help="The topic's name.", show_default=False)]
QueueName = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue's name.", show_default=False)]
Partition = Annotated[
    int | None,
    typer.Option("--partition", "-p", metavar="N", help="This partition only.", show_default=False),
]
KeySeparator = Annotated[
    str | None,
    typer.Option("--key", "-K", metavar="SEP", help="The key stands before SEP in each line.", show_default=False),
]
Delimiter = Annotated[
    str,
    typer.Option("--delimiter", "-D", metavar="BYTE", help=r"What ends a line: '\n', '\0', '\x1e', ..."),
]

ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}


def open_store(
    data: Path,
    *,
    create: bool = False,
    fsync: Fsync = "interval",
    recover: Recover = "raise",
    upkeep: bool = False,
) -> seglog.Store:
    """The store at `data`; only who writes makes one, and has upkeep done in the background."""
    try:
        return seglog.open(data, create=create, fsync=fsync, recover=recover, upkeep=upkeep or create)
    except NotAStore:
        if create or (data.exists() and not data.is_dir()) or (data.is_dir() and any(data.iterdir())):
            raise
        raise Refused(
            f"there is no store at {data}. Name its directory with -d DIR or SEGLOG_DATA; "
            "`seglog topic create` and `seglog topic send` make one."
        ) from None


def existing_topic(store: seglog.Store, name: str) -> seglog.Topic:
    """The topic of that name, which must be there: `store.topic` alone would make it."""
    check_name(name)
    names = store.topics()
    if name not in names:
        raise TopicNotFound(f"there is no topic {name} in {store.path}: {those(names)}.", name=name)
    return store.topic(name)


def existing_queue(store: seglog.Store, name: str) -> seglog.Queue:
    """The queue of that name, which must be there: `store.queue` alone would make it."""
    check_name(name, "queue")
    queue = store.queue_of(name)
    if queue is None:
        raise QueueNotFound(f"there is no queue {name} in {store.path}: {those(store.queues())}.", name=name)
    return queue


def those(names: Sequence[str]) -> str:
    """Of what there is instead, as the end of a sentence."""
    there = f"there {'is' if len(names) == 1 else 'are'} {', '.join(names[:5])}" if names else "there is none yet"
    return there + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def raw(text: str) -> bytes:
    """The bytes that were on the command line."""
    return text.encode("utf-8", "surrogateescape")


def unescaped(text: str, what: str) -> bytes:
    r"""`text` with \n \r \t \0 \\ and \xNN as the bytes they mean.

    >>> unescaped(r"a\tb\x00", "SEP")
    b'a\tb\x00'
    """
    out, at = b"", 0
    while (slash := text.find("\\", at)) >= 0:
        out += raw(text[at:slash])
        kind = text[slash + 1 : slash + 2]
        if kind == "x":
            digits = text[slash + 2 : slash + 4]
            if not re.fullmatch("[0-9A-Fa-f]{2}", digits):
                raise Refused(f"{what} is {text!r}: \\x is followed by two hex digits")
            out += bytes.fromhex(digits)
            at = slash + 4
        elif kind in ESCAPES:
            out += ESCAPES[kind]
            at = slash + 2
        else:
            raise Refused(f"{what} is {text!r}: the escapes are \\n \\r \\t \\0 \\\\ and \\xNN, not \\{kind}")
    return out + raw(text[at:])


def one_byte(text: str, what: str) -> bytes:
    """One byte, given as itself or as an escape."""
    value = unescaped(text, what)
    if len(value) != 1:
        raise Refused(f"{what} is {text!r}: it must be one byte, for instance '\\n' or '\\0'")
    return value
