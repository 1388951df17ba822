"""App: the program `seglog`: its commands in order, and what `seglog --help` says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import seglog
from seglog.cli import (
    bench,
    demo,
    doctor,
    exchanges,
    groups,
    queues,
    queuesend,
    read,
    send,
    tables,
    top,
    topics,
    upkeep,
    verify,
    worker,
)
from seglog.cli.exits import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
topic = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make, list, fill, read and delete topics.")

topic.command()(topics.ls)
topic.command()(topics.create)
topic.command()(topics.describe)
topic.command()(send.send)
topic.command()(read.read)
topic.command()(tables.export)
topic.command()(upkeep.compact)
topic.command()(topics.rm)
group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Look at consumer groups, move them, forget them.")
for command in (groups.ls, groups.describe, groups.lag, groups.explain, groups.reset, groups.evict, groups.rm):
    group.command()(command)
exchange = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make exchanges, bind to them, see where keys go.")
exchange.command()(exchanges.ls)
exchange.command()(exchanges.create)
exchange.command()(exchanges.describe)
exchange.command()(exchanges.bind)
exchange.command()(exchanges.unbind)
exchange.command()(exchanges.route)
exchange.command()(exchanges.rm)
queue = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Fill queues, look into them, empty and watch them.")
queue.command()(queues.ls)
queue.command()(queues.describe)
queue.command()(queuesend.send)
queue.command()(queues.peek)
queue.command()(queues.receive)
queue.command()(queues.purge)
queue.command()(queues.redrive)
queue.command()(queues.check)
app.add_typer(topic, name="topic")
app.add_typer(group, name="group")
app.add_typer(queue, name="queue")
app.add_typer(exchange, name="exchange")
app.command()(read.tail)
app.command()(tables.sql)
app.command()(verify.verify)
app.command()(doctor.doctor)
app.command()(top.top)
app.command()(upkeep.upkeep)
app.command()(worker.worker)
app.command()(bench.bench)
app.command()(demo.demo)


def show_version(wanted: bool) -> None:
    if wanted:
        print(f"seglog {seglog.__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True),
    ] = False,
    data: Annotated[
        Path | None, typer.Option("--data", "-d", metavar="DIR", help="The store's directory.", show_default=False)
    ] = None,
) -> None:
    """The log and the queue that live in your process: topics in a directory, with no server to run.

    The store is the directory that -d names, or SEGLOG_DATA, or ./data; every command takes -d, and most --json.

    \b
        seglog topic create logs
        seglog topic send logs < access.log
        seglog topic read logs > copy               # the same, byte by byte
        seglog tail -f logs

    \b
    Exit codes:
        0    done (or whoever read the output went away, as with | head)
        1    failed: disk full, no permission, locked, ...; it may work another time
        2    refused: wrong usage; or what was named is not there, exists already, is wrong, or is damaged
        130  interrupted by Ctrl-C
    SEGLOG_DEBUG=1 shows where an error came from.
    """
    if data is not None:
        os.environ["SEGLOG_DATA"] = os.fspath(data)  # where each command looks when it is not told otherwise
