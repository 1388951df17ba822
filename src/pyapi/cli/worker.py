"""Worker: `seglog worker module:store`: processes that call a store's handlers, and the one that looks after them."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from seglog.cli.exits import Refused
from seglog.pool import Pool

__all__ = ["worker"]


def worker(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:STORE", help="Where the store and its handlers are.", show_default=False)
    ],
    processes: Annotated[
        int | None, typer.Option("--processes", "-n", metavar="N", help="So many.", show_default=False)
    ] = None,
    minimum: Annotated[int, typer.Option("--min", metavar="N", help="At least so many.")] = 1,
    maximum: Annotated[
        int | None, typer.Option("--max", metavar="N", help="At most so many, by backlog.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Workers of each handler, in each process, for its own concurrency.",
            show_default=False,
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option("--grace", metavar="S", help="Seconds to finish in when told to stop.")
    ] = 30.0,
    idle: Annotated[
        float, typer.Option("--idle", metavar="S", help="Seconds for which fewer were enough, before they are fewer.")
    ] = 10.0,
) -> None:
    """Call the handlers of a store, in processes of their own.

    MODULE is imported as a program in this directory would import it; STORE is the store in it, or a function that returns one.
    A process that dies is replaced. With --max there are more of them while messages wait. SIGTERM and Ctrl-C let what is in
    work finish, for --grace seconds; the second one does not wait.

    \b
        seglog worker shop.jobs:store
        seglog worker shop.jobs:store --processes 4
        seglog worker shop.jobs:store --min 1 --max 8 --grace 60
    """
    if processes is not None:
        if maximum is not None or minimum != 1:
            raise Refused(
                "--processes says how many there are, --min and --max between what they vary: say one or the other"
            )
        minimum = processes
    logging.basicConfig(level=logging.INFO, format="seglog: %(message)s", stream=sys.stderr)
    try:
        pool = Pool(target, minimum=minimum, maximum=maximum, workers=workers, grace=grace, idle=idle)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != target.partition(":")[0].partition(".")[0]:
            raise
        raise Refused(
            f"there is no module {error.name}: it is looked for in this directory, and where Python finds modules"
        ) from error
    pool.run()
