"""The command line: what a program says to seglog, said from a shell.

`seglog topic send logs < access.log; seglog topic read logs > copy` copies every byte. docs/guide/cli.md is the reference.

    app       the program: its commands, and what `--help` says
    topics    seglog topic ls, create, describe, rm        send      seglog topic send
    read      seglog topic read, seglog tail               verify    seglog verify
    doctor    seglog doctor                                bench     seglog bench
    demo      seglog demo                                  flights   its data
    upkeep    seglog upkeep, topic compact                 worker    seglog worker
    queues    seglog queue ls, describe, peek, ...         queuesend seglog queue send
    top       seglog top
    ------------------------------------------------------------------------------------------------------
    lines     a stream as lines     where    -o            render    records as text    merge     in order of time
    messages  of queues as text
    options   what commands share   show     tables, JSON  progress  bars               exits     errors, exit codes
"""

from __future__ import annotations

import sys

__all__ = ["main"]

MISSING = "seglog: the command line needs two packages that are not installed: pip install 'seglog[cli]'"


def main() -> None:
    """Run the command in `sys.argv` and exit with its code."""
    try:
        try:
            import rich  # noqa: F401

            from seglog.cli.app import app
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in {"typer", "rich", "click"}:
                raise
            print(MISSING, file=sys.stderr)
            sys.exit(2)
        app(prog_name="seglog")
    except KeyboardInterrupt:  # before or after a command: the imports, the last flush
        sys.exit(130)
