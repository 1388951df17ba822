"""Groups: `seglog group ls`, `describe`, `lag`, `explain`, `reset`, `evict`, `rm`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from seglog.cli import options
from seglog.cli.exits import FAILED, Refused
from seglog.cli.show import on_terminal, say, show_json, show_table
from seglog.cli.where import parse_time
from seglog.start import Start

__all__ = ["describe", "evict", "explain", "lag", "ls", "reset", "rm"]

GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.", show_default=False)]
Topic = Annotated[
    str | None, typer.Option("--topic", "-t", metavar="TOPIC", help="This topic only.", show_default=False)
]


def ls(data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """List the consumer groups.

    \b
    Piped: group, live members, partitions, lag in records and in seconds, separated by tabs.
        seglog group ls
    """
    with options.open_store(data) as store:
        groups = [store.group(name).describe() for name in store.groups()]
    rows = [(g.name, len(g.members), len(g.places), g.lag, round(g.lag_seconds, 1)) for g in groups]
    if as_json:
        keys = ("group", "members", "partitions", "lag", "lag_seconds")
        show_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        show_table(("group", "members", "partitions", "lag", "lag in s"), rows)


def describe(name: GroupName, data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """Show a group's members, and how far it is in each partition.

    \b
    Piped: lines that begin with the word "member" (name, process, state, partitions) or "place" (topic, partition, committed,
    first and next offset, lag in records and in seconds, owner), separated by tabs.
        seglog group describe billing
    """
    with options.open_store(data) as store:
        it = store.group(name).describe()
    if as_json:
        show_json(asdict(it) | {"lag": it.lag, "lag_seconds": it.lag_seconds})
        return
    members = [(m.name, m.pid, m.state, ", ".join(f"{t}[{p}]" for t, p in m.partitions)) for m in it.members]
    places = [
        (p.topic, p.partition, p.committed, p.first_offset, p.next_offset, p.lag, round(p.lag_seconds, 1), p.owner)
        for p in it.places
    ]
    if on_terminal():
        title = f"{it.name}: {len(members)} members, {it.lag:,} records behind, generation {it.generation:,}"
        show_table(("member", "process", "state", "reads"), members, title=title)
        columns = ("topic", "partition", "committed", "first offset", "next offset", "lag", "lag in s", "owner")
        show_table(columns, places)
    else:
        show_table((), [("member", *row) for row in members] + [("place", *row) for row in places])


def lag(
    name: GroupName,
    data: options.Data = options.DATA,
    topic: Topic = None,
    as_json: options.Json = False,
) -> None:
    """Print how far behind the group is: records, and the age of the oldest one in seconds.

    \b
        seglog group lag billing
        seglog group lag billing --json | jq .lag
    """
    with options.open_store(data) as store:
        places = [place for place in store.group(name).describe().places if topic in (None, place.topic)]
    records, age = sum(p.lag for p in places), max((p.lag_seconds for p in places), default=0.0)
    if as_json:
        show_json({"group": name, "lag": records, "lag_seconds": age})
    else:
        show_table(("lag", "lag in s"), [(records, round(age, 3))])


def explain(name: GroupName, data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """Say why the group lags, or why a member is idle. Nothing is printed when there is nothing to say.

    \b
        seglog group explain billing
    """
    with options.open_store(data) as store:
        said = store.group(name).explain()
    if as_json:
        show_json(said)
    elif said:
        print("\n".join(said))
    else:
        say(f"group {name} is up to date, and every member reads something.")


def reset(
    name: GroupName,
    data: options.Data = options.DATA,
    topic: Topic = None,
    partition: options.Partition = None,
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="The first record there is.")] = False,
    to_latest: Annotated[bool, typer.Option("--to-latest", help="Behind the last one.")] = False,
    to_datetime: Annotated[
        str | None, typer.Option("--to-datetime", metavar="TIME", help="The first record at or after it.", show_default=False)
    ] = None,
    to_offset: Annotated[
        int | None, typer.Option("--to-offset", metavar="N", help="An offset, of one partition.", show_default=False)
    ] = None,
    shift_by: Annotated[
        int | None, typer.Option("--shift-by", metavar="N", help="N records forward, or back.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: options.Json = False,
) -> None:
    """Move a group that has no live member to another place.

    Exits 2 while a live member reads one of the partitions.

    \b
    Piped: topic, partition, offset before, offset after, separated by tabs.
        seglog group reset billing --to-datetime 2013-07-04 --dry-run
        seglog group reset billing -t orders -p 3 --shift-by=-100
    """
    chosen = [to_earliest, to_latest, to_datetime is not None, to_offset is not None, shift_by is not None]
    if sum(chosen) != 1:
        raise Refused("say one of --to-earliest, --to-latest, --to-datetime, --to-offset and --shift-by")
    to: Start | None = "earliest" if to_earliest else "latest" if to_latest else to_offset
    if to_datetime is not None:
        to = datetime.fromtimestamp(parse_time(to_datetime) / 1e6, UTC)
    with options.open_store(data) as store:
        moved = store.group(name).reset(to, topic=topic, partition=partition, shift_by=shift_by, dry_run=dry_run)
    if as_json:
        keys = ("topic", "partition", "before", "after")
        show_json([dict(zip(keys, (*where, *change), strict=True)) for where, change in moved.items()])
        return
    show_table(("topic", "partition", "before", "after"), [(*where, *change) for where, change in moved.items()])
    if dry_run:
        say("Nothing was changed.")


def evict(
    name: GroupName,
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="As `describe` calls it.", show_default=False)],
    data: options.Data = options.DATA,
) -> None:
    """Put a member out that is stopped and cannot be ended: its partitions go to the others, and its commits fail.

    \b
        seglog group evict billing 4711-3
    """
    with options.open_store(data) as store:
        store.group(name).evict(member)


def rm(
    name: GroupName,
    data: options.Data = options.DATA,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Forget a group that has no live member, with its places. Asks first.

    \b
        seglog group rm billing --yes
    """
    with options.open_store(data) as store:
        group = store.group(name)
        if not yes:
            print(f"Forget group {name} and its places in {', '.join(group.topics)}? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                print("Nothing was changed.", file=sys.stderr)
                raise typer.Exit(FAILED)
        group.delete()
