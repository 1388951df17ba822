"""Upkeep: `seglog topic compact`, and `seglog upkeep`: what a store's background threads do, in a process of its own."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Annotated

import typer

import seglog
from seglog.cli import options
from seglog.cli.show import on_terminal, show_json, show_table
from seglog.errors import TopicNotFound

__all__ = ["compact", "upkeep"]

LOOK_AROUND = 1.0  # seconds from one look for new topics and warnings to the next


def compact(
    name: options.TopicName,
    data: options.Data = options.DATA,
    partition: options.Partition = None,
    as_json: options.Json = False,
) -> None:
    """Compact a topic now: of each key only the last records stay.

    Refused for a topic that was not created with --compact: its records are history. What tombstones are for and how long they
    stay, see `seglog topic describe`. Others may read and send meanwhile.

    \b
    Piped: lines of a name and a number, separated by tabs.
        seglog topic compact prices
        seglog topic compact prices --json | jq .records_removed
    """
    with options.open_store(data) as store:
        said = asdict(options.existing_topic(store, name).compact(partition))
    if as_json:
        show_json(said)
        return
    busy = said.pop("busy")
    show_table(("", "") if on_terminal() else (), list(said.items()))
    if busy:
        print(f"seglog: being compacted by another process: {', '.join(map(str, busy))}", file=sys.stderr)


def upkeep(
    data: options.Data = options.DATA,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, and end.")] = False,
) -> None:
    """Take care of a store: sync, delete what retention says, compact.

    Every process that has a store open does this for the topics that it has open, in the background. This one does it for
    all topics, also when nobody else has them open, and for programs that open the store with upkeep=False. Ends with Ctrl-C.
    Warnings and errors go to stderr, each once.

    \b
        seglog upkeep -d /var/lib/orders &
        seglog upkeep --once                    # from cron
    """
    told: set[str] = set()
    with options.open_store(data, upkeep=not once) as store:
        while True:
            for name in store.topics():
                with suppress(TopicNotFound):  # deleted a moment ago
                    options.existing_topic(store, name)
            if once:
                store.upkeep()
            tell(store, told)
            if once:
                return
            time.sleep(LOOK_AROUND)


def tell(store: seglog.Store, told: set[str]) -> None:
    now = store.statistics()
    for text in (*now.warnings, *now.upkeep_errors):
        if text not in told:
            told.add(text)
            print(f"seglog: {text}", file=sys.stderr)
