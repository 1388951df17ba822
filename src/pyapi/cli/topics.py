"""Topics: `seglog topic ls`, `create`, `describe`, `rm`."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from seglog.cli import options
from seglog.cli.exits import FAILED, Refused
from seglog.cli.show import on_terminal, say, show_json, show_table
from seglog.errors import TopicExists

__all__ = ["create", "describe", "ls", "rm"]

UNITS = {
    "": 1,
    "k": 1000, "m": 1000**2, "g": 1000**3,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3,
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30,
}  # fmt: skip


def size(text: str, what: str) -> int:
    """Bytes, as in 65536, 64KiB, 1GiB, 10MB."""
    found = re.fullmatch(r"([0-9]+)\s*([a-z]*)", text.lower())
    if not found or found[2] not in UNITS:
        raise Refused(f"{what} is {text!r}: say bytes, as in 65536, 64KiB, 16MiB, 1GiB")
    return int(found[1]) * UNITS[found[2]]


def size_or_none(text: str | None, what: str) -> int | None:
    return None if text is None else size(text, what)


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def duration(text: str, what: str) -> float:
    """Seconds, as in 90, 1.5, 15m, 24h, 7d."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)", text.lower())
    if not found or found[2] not in SECONDS:
        raise Refused(f"{what} is {text!r}: say seconds, or a number with s, m, h, d or w, as in 15m or 7d")
    return float(found[1]) * SECONDS[found[2]]


def ls(data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """List the topics.

    \b
    Piped: topic, partitions, records and bytes on disk, separated by tabs.
        seglog topic ls
        seglog topic ls | sort -rnk4 | head -1      # the largest
    """
    with options.open_store(data) as store:
        topics = store.statistics().topics.values()
    if as_json:
        show_json(
            [
                {
                    "topic": topic.name,
                    "partitions": len(topic.partitions),
                    "records": topic.records,
                    "disk_bytes": topic.disk_bytes,
                }
                for topic in topics
            ]
        )
    else:
        rows = [(topic.name, len(topic.partitions), topic.records, topic.disk_bytes) for topic in topics]
        show_table(("topic", "partitions", "records", "bytes on disk"), rows)


def create(
    name: options.TopicName,
    data: options.Data = options.DATA,
    partitions: Annotated[
        int, typer.Option("--partitions", "-p", metavar="N", help="How many logs it consists of.")
    ] = 1,
    codec: Annotated[Literal["none", "zstd", "lz4"], typer.Option(help="How batches are compressed.")] = "none",
    partitioner: Annotated[
        Literal["xxh3", "murmur2"], typer.Option(help="How a key finds its partition; murmur2: as in Kafka.")
    ] = "xxh3",
    segment_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="A full segment: 64KiB to 2GiB.", show_default="64MiB")
    ] = None,
    segment_age: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Close a segment at this age.", show_default="never"),
    ] = None,
    record_bytes_max: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The largest record.", show_default="64MiB")
    ] = None,
    retention: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long records are kept, as in 7d.", show_default="for ever")
    ] = None,
    retention_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What a partition keeps on disk at least.", show_default="everything"),
    ] = None,
    retention_records: Annotated[
        int | None, typer.Option(metavar="N", help="The same, in records.", show_default="everything")
    ] = None,
    keep_for_groups: Annotated[
        list[str] | None,
        typer.Option("--keep-for-group", metavar="GROUP", help="Keep what this group has not read; may be repeated."),
    ] = None,
    retention_max_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="But never more than this.", show_default="unbounded")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="Keep only the last records of each key.")] = False,
    compact_keep: Annotated[int, typer.Option(metavar="N", help="How many of a key stay.")] = 1,
    compact_min_lag: Annotated[str, typer.Option(metavar="TIME", help="For how long all of them stay.")] = "0",
    compact_max_lag: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Compact what is older in any case.", show_default="when it is worth it"),
    ] = None,
    tombstone_grace: Annotated[str, typer.Option(metavar="TIME", help="How long a deletion can be read.")] = "24h",
    if_not_exists: Annotated[
        bool, typer.Option("--if-not-exists", help="Be content with a topic that has these settings.")
    ] = False,
) -> None:
    """Create a topic, and the store when there is none.

    Exits 2 when the topic exists; with --if-not-exists only when it has other settings.

    \b
        seglog topic create orders -p 4
        seglog topic create metrics --codec zstd --segment-bytes 256MiB
        seglog topic create events --retention 7d --retention-max-bytes 10GiB --keep-for-group billing
        seglog topic create prices --compact --tombstone-grace 1h
    """
    with options.open_store(data, create=True) as store:
        if name in store.topics() and not if_not_exists:
            raise TopicExists(f"topic {name} exists in {store.path}. Nothing was changed.", name=name)
        topic = store.topic(
            name,
            partitions=partitions,
            codec=codec,
            partitioner=partitioner,
            segment_bytes=size_or_none(segment_bytes, "--segment-bytes"),
            segment_age=segment_age,
            record_bytes_max=size_or_none(record_bytes_max, "--record-bytes-max"),
            retention=None if retention is None else duration(retention, "--retention"),
            retention_bytes=size_or_none(retention_bytes, "--retention-bytes"),
            retention_records=retention_records,
            keep_for_groups=keep_for_groups or (),
            retention_max_bytes=size_or_none(retention_max_bytes, "--retention-max-bytes"),
            compact=compact,
            compact_keep=compact_keep,
            compact_min_lag=duration(compact_min_lag, "--compact-min-lag"),
            compact_max_lag=None if compact_max_lag is None else duration(compact_max_lag, "--compact-max-lag"),
            tombstone_grace=duration(tombstone_grace, "--tombstone-grace"),
        )
        say(f"{topic!r} in {store.path}")


def describe(name: options.TopicName, data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """Show a topic's partitions and settings.

    A record before the durable offset survives a power cut; one before the next offset, the death of any process.

    \b
    Piped: lines that begin with the word "setting" (name, value) or "partition" (number, first, next and durable
    offset, segments, bytes on disk, epoch), separated by tabs.
        seglog topic describe orders
        seglog topic describe orders --json | jq '.partitions[].next_offset'
    """
    with options.open_store(data) as store:
        topic = options.existing_topic(store, name)
        now, settings = topic.statistics(), topic.config.to_json()
    if as_json:
        partitions = [
            {field: value for field, value in asdict(partition).items() if field != "losses"}
            | {"losses": [loss._asdict() for loss in partition.losses]}
            for partition in now.partitions
        ]
        show_json(
            {
                "topic": name,
                "records": now.records,
                "size_bytes": now.size_bytes,
                "disk_bytes": now.disk_bytes,
                "settings": settings,
                "partitions": partitions,
            }
        )
        return
    rows = [
        (p.partition, p.first_offset, p.next_offset, p.durable_offset, p.segments, p.disk_bytes, p.epoch)
        for p in now.partitions
    ]
    if on_terminal():
        columns = ("partition", "first offset", "next offset", "durable offset", "segments", "bytes on disk", "epoch")
        show_table(columns, rows, title=f"{name}: {now.records:,} records, {now.disk_bytes:,} bytes on disk")
        show_table(("setting", "value"), list(settings.items()))
    else:
        show_table((), [("setting", *item) for item in settings.items()] + [("partition", *row) for row in rows])


def rm(
    name: options.TopicName,
    data: options.Data = options.DATA,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a topic with all its records, for every process. Asks first.

    \b
        seglog topic rm orders
        seglog topic rm orders --yes
    """
    with options.open_store(data) as store:
        topic = options.existing_topic(store, name)
        if not yes:
            count = topic.statistics().records
            print(
                f"Delete topic {name} with its {count:,} records from {store.path}? [y/N] ",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                print("Nothing was deleted.", file=sys.stderr)
                raise typer.Exit(FAILED)
        store.delete_topic(name)
