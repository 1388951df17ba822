"""Exits: the codes a script can rely on, and how an error becomes one line.

    0    done
    1    failed: a full disk, no permission, a lock, a codec that is not installed, ...; it may work another time
    2    refused: usage, or what was named is not there, exists already, is wrong, or is damaged; repeating it will not help
    130  interrupted by Ctrl-C

A reader that went away (`seglog topic read logs | head`) ends the command quietly with 0.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from seglog import errors

__all__ = ["DONE", "FAILED", "INTERRUPTED", "REFUSED", "Commands", "Refused"]

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


class Refused(errors.SeglogError):
    """What the command line asks for cannot be done as it is written."""


WILL_NOT_HELP_TO_REPEAT = (
    Refused,
    errors.ConfigError,
    errors.CorruptStore,
    errors.ExchangeMismatch,
    errors.ExchangeNotFound,
    errors.ExtraMissing,
    errors.GroupInUse,
    errors.GroupNotFound,
    errors.InvalidName,
    errors.NotAStore,
    errors.OffsetOutOfRange,
    errors.PartitionNotFound,
    errors.QueueMismatch,
    errors.QueueNotFound,
    errors.RecordTooLarge,
    errors.TopicExists,
    errors.TopicMismatch,
    errors.TopicNotFound,
    errors.Unroutable,
)


class Commands(TyperGroup):
    """The group of all commands: none of them ends in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            forget_stdout()
            code = INTERRUPTED
        except BrokenPipeError:
            forget_stdout()
            code = DONE
        except Exception as error:
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort):  # typer's own: it knows what to do
                raise
            code = told(error)
        raise typer.Exit(code)


def told(error: Exception) -> int:
    """Say it on stderr, with the traceback when SEGLOG_DEBUG asks for it; the exit code."""
    if os.environ.get("SEGLOG_DEBUG", "") not in {"", "0"}:
        traceback.print_exception(error)
    print(f"seglog: {line(error)}", file=sys.stderr)
    if isinstance(error, OSError):  # perhaps of stdout itself, which would fail again at the end
        forget_stdout()
    return REFUSED if isinstance(error, WILL_NOT_HELP_TO_REPEAT) else FAILED


def line(error: Exception) -> str:
    if isinstance(error, errors.SeglogError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}. This is a bug in seglog; SEGLOG_DEBUG=1 shows where."


def forget_stdout() -> None:
    """If nobody reads it any more, let the interpreter's last flush go nowhere, rather than complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
