"""Queues: `seglog queue ls`, `describe`, `peek`, `receive`, `purge`, `redrive`, `check`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import FAILED, REFUSED, Refused
from seglog.cli.messages import writer_of
from seglog.cli.show import on_terminal, say, show_json, show_table
from seglog.cli.topics import duration
from seglog.errors import LeaseLost

__all__ = ["check", "describe", "ls", "peek", "purge", "receive", "redrive"]

AT_ONCE = 100  # messages that `receive` prints before it acks them

Count = Annotated[int, typer.Option("--count", "-c", min=1, metavar="N", help="At most N messages.")]


def ls(data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """List the queues.

    \b
    Piped: queue, ready, in flight, delayed, blocked, dead letters (those of it that are ready in the queue that takes them),
    seconds since the oldest ready one was sent, and bytes on disk, separated by tabs.
        seglog queue ls
        seglog queue ls | sort -rnk2 | head -1      # the longest
    """
    with options.open_store(data) as store:
        takers = {queue.name: queue.dead_letter for queue in all_queues(store)}
        now = {queue.name: queue.statistics() for queue in all_queues(store)}
    rows = []
    for name, it in now.items():
        dead = now.get(takers.get(name) or "")
        age = None if it.oldest_age is None else round(it.oldest_age, 1)
        rows += [(name, it.ready, it.in_flight, it.delayed, it.blocked, dead.ready if dead else 0, age, it.bytes)]
    if as_json:
        keys = ("queue", "ready", "in_flight", "delayed", "blocked", "dead_letters", "oldest_age", "bytes")
        show_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        columns = ("queue", "ready", "in flight", "delayed", "blocked", "dead letters", "oldest, s", "bytes on disk")
        show_table(columns, rows)


def describe(name: options.QueueName, data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """Show a queue's messages, counted by state, and its settings.

    \b
    Piped: lines that begin with the word "count" or "setting", then a name and a value, separated by tabs.
        seglog queue describe jobs
        seglog queue describe jobs --json | jq .ready
    """
    with options.open_store(data) as store:
        queue = options.existing_queue(store, name)
        counts, settings = asdict(queue.statistics()), queue.config.to_json()
        settings["dead_letter"] = queue.dead_letter
    del counts["name"]
    if as_json:
        show_json({"queue": name} | counts | {"settings": settings})
    elif on_terminal():
        show_table(("messages", ""), list(counts.items()), title=name)
        show_table(("setting", "value"), list(settings.items()))
    else:
        rows = [("count", *item) for item in counts.items()]
        show_table((), [*rows, *(("setting", *item) for item in settings.items())])


def peek(
    name: options.QueueName,
    data: options.Data = options.DATA,
    count: Count = 1,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    as_json: options.Json = False,
) -> None:
    """Print the next messages without taking them: nobody waits for them, and no attempt is counted.

    \b
        seglog queue peek jobs
        seglog queue peek jobs.dead -c 10 --json | jq '.deaths[0]'
    """
    text_of = writer_of(name, separator, delimiter, as_json)
    with options.open_store(data) as store:
        for message in options.existing_queue(store, name).peek(count):
            sys.stdout.buffer.write(text_of(message))
        sys.stdout.buffer.flush()


def receive(
    name: options.QueueName,
    data: options.Data = options.DATA,
    count: Count = 1,
    timeout: Annotated[
        str, typer.Option("--timeout", "-t", metavar="TIME", help="How long to wait for each, as in 90 or 15m.")
    ] = "0",
    ack: Annotated[bool, typer.Option("--ack/--no-ack", help="Settle them, or give them back when all are printed.")] = True,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    as_json: options.Json = False,
) -> None:
    """Receive messages, print them, and ack them after they were printed.

    Whoever reads the output may get a message twice (a pipe that broke, Ctrl-C in between), and misses none. Prints nothing, and
    exits 0, when there is none. With --no-ack no attempt is counted.

    \b
        seglog queue receive jobs
        seglog queue receive jobs -c 100 --timeout 30s --json | while read -r job; do ...; done
    """
    text_of = writer_of(name, separator, delimiter, as_json)
    limit = duration(timeout, "--timeout")
    with options.open_store(data) as store:
        queue = options.existing_queue(store, name)
        held: list[seglog.Message] = []
        left = count
        try:
            while left and (some := queue.receive(min(left, AT_ONCE), limit)):
                held += some
                left -= len(some)
                for message in some:
                    sys.stdout.buffer.write(text_of(message))
                sys.stdout.buffer.flush()
                if ack:
                    queue.ack(held)
                    held = []
        finally:
            for message in held:
                with suppress(LeaseLost):  # it came back by itself meanwhile
                    message.release()


def purge(
    name: options.QueueName,
    data: options.Data = options.DATA,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete every message of a queue that is not settled, also those that somebody works on. Asks first. Prints how many.

    \b
        seglog queue purge jobs.dead --yes
    """
    with options.open_store(data) as store:
        queue = options.existing_queue(store, name)
        if not yes:
            count = queue.statistics().depth
            print(
                f"Delete the {count:,} messages of queue {name} in {store.path}? [y/N] ",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                print("Nothing was deleted.", file=sys.stderr)
                raise typer.Exit(FAILED)
        print(queue.purge())


def redrive(
    name: options.QueueName,
    data: options.Data = options.DATA,
    to: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="Where to.", show_default="where each came from")
    ] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="At most N a second.", show_default=False)] = None,
    maximum: Annotated[
        int | None, typer.Option("--max", min=1, metavar="N", help="At most N.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option("--filter-reason", metavar="REASON", help="Only those that died of this.", show_default=False),
    ] = None,
) -> None:
    """Move dead letters back where they came from, or to another queue. Prints how many.

    QUEUE is the queue of dead letters. REASON is delivery_limit, rejected, expired or maxlen; or the text that a reject or the last
    nack gave. Each message is moved by a transaction: never lost, never twice. What came from a queue that is no more stays. Ctrl-C
    ends it; what was moved stays moved.

    \b
        seglog queue redrive jobs.dead
        seglog queue redrive jobs.dead --filter-reason delivery_limit --rate 50
        seglog queue redrive jobs.dead --to jobs.slow --max 1000
    """
    if rate is not None and not rate > 0:
        raise Refused(f"--rate is {rate:g}: it is more than 0 messages a second")
    with options.open_store(data) as store:
        queue = options.existing_queue(store, name)
        target = None if to is None else options.existing_queue(store, to)
        if target is None and name not in dead_letter_queues(store):
            where = f"its dead letters are in {queue.dead_letter}" if queue.dead_letter else "it has no dead letters"
            raise Refused(f"{name} takes no dead letters, so that nothing in it came from elsewhere: {where}. Or say --to QUEUE")
        if target is queue:
            raise Refused(f"--to is {to}: the messages are there")
        moved = queue.redrive(target, filter=None if reason is None else died_of(reason), rate=rate, max_messages=maximum)
    print(moved)


def died_of(reason: str) -> Callable[[seglog.Message], bool]:
    """Whether a message's last death was for this reason, or with this error."""
    return lambda message: any(reason in (death["reason"], death.get("error")) for death in message.deaths[:1])


def check(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="QUEUE", help="Which; none: all of them.", show_default=False)
    ] = None,
    data: options.Data = options.DATA,
    max_dead: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Dead letters that may lie there.", show_default=False)
    ] = None,
    max_ready: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Messages that may wait.", show_default=False)
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="TIME", help="For how long the oldest may, as in 90 or 15m.", show_default=False)
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Exit with 2 when a queue has more than it should, and say which: for monitoring, and for cron.

    Each limit is one of each queue. Dead letters are the messages that are ready in a queue of dead letters: the one that takes
    those of a queue that is named, or all there are. Ready messages and their age are asked of the other queues, and of any that is
    named.

    \b
    Piped: a line for each finding: queue, what (dead, ready or age), what it is and what it may be, separated by tabs.
        seglog queue check --max-dead 0
        seglog queue check --max-ready 10000 --max-age 15m jobs mails
    """
    if max_dead is None and max_ready is None and max_age is None:
        raise Refused("say what there may be: --max-dead, --max-ready or --max-age")
    oldest = None if max_age is None else duration(max_age, "--max-age")
    with options.open_store(data) as store:
        asked = [options.existing_queue(store, name) for name in dict.fromkeys(names or ())]
        rows = list(findings(store, asked, max_dead, max_ready, oldest))
    if as_json:
        show_json([dict(zip(("queue", "what", "is", "limit"), row, strict=True)) for row in rows])
    elif rows:
        show_table(("queue", "what", "is", "may be"), rows)
    else:
        say("All is well.")
    if rows:
        raise typer.Exit(REFUSED)


def findings(
    store: seglog.Store, asked: list[seglog.Queue], dead: int | None, ready: int | None, age: float | None
) -> Iterator[tuple[str, str, float, float]]:
    takers = dead_letter_queues(store)
    burying = [queue.dead_letter for queue in asked] + [queue.name for queue in asked]
    for queue in all_queues(store):
        if asked and queue.name not in burying:
            continue
        now = queue.statistics()
        if dead is not None and queue.name in takers and now.ready > dead:
            yield queue.name, "dead", now.ready, dead
        if queue in asked or (not asked and queue.name not in takers):
            if ready is not None and now.ready > ready:
                yield queue.name, "ready", now.ready, ready
            if age is not None and (now.oldest_age or 0.0) > age:
                yield queue.name, "age", round(now.oldest_age or 0.0, 1), age


# ---- helpers ------------------------------------------------------------------------------------------


def all_queues(store: seglog.Store) -> Iterator[seglog.Queue]:
    for name in store.queues():
        queue = store.queue_of(name)
        if queue is not None:  # else deleted a moment ago
            yield queue


def dead_letter_queues(store: seglog.Store) -> set[str]:
    """The queues that take dead letters: as another one says, or by their name, also when that one is gone."""
    queues = list(all_queues(store))
    return {queue.dead_letter for queue in queues if queue.dead_letter} | {
        queue.name for queue in queues if queue.name.endswith(".dead")
    }
