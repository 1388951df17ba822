"""Losses: what recovery found missing or damaged, remembered beside the data as lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import NamedTuple


class Loss(NamedTuple):
    """What recovery or verification found missing or damaged: offsets `start .. stop-1` (`stop` is -1 when unknown).

    `kind` is "torn" (an unsynced tail that a crash cut), "corrupt" (bytes that changed) or "missing" (a file that is gone).
    """

    kind: str
    path: str
    position: int
    start: int
    stop: int
    size: int
    note: str


TYPES = [str, str, int, int, int, int, str]  # of a loss's fields
UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)  # whatever stands in a line


def read_losses(path: str) -> tuple[Loss, ...]:
    """What recoveries of the partition in `path` found lost, oldest first: the lines of its `losses` file."""
    try:
        with open(os.path.join(path, "losses"), "rb") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return ()
    losses = []
    for line in lines:
        try:
            entry = json.loads(line)
            loss = Loss(*(entry[name] for name in Loss._fields))
        except UNREADABLE:
            continue  # a line that a crash cut: the next recovery finds the same again
        if [type(field) for field in loss] == TYPES:
            # Where it is now: the directory may have been moved or copied since.
            name = os.path.basename(loss.path)
            losses.append(loss._replace(path=os.path.join(path, name) if name.endswith(".log") else path))
    return tuple(losses)


def write_losses(path: str, losses: Iterable[Loss], now: int) -> None:
    """Remember losses beside the data, before anything else makes them hard to see."""
    known = set(read_losses(path))
    losses = [loss for loss in losses if loss not in known]
    if not losses:
        return
    name = os.path.join(path, "losses")
    with open(name, "ab") as file:
        for loss in losses:
            file.write(json.dumps({"time": now, **loss._asdict()}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def quarantine_path(directory: str, base_offset: int) -> str:
    """Where the damage of a segment that somebody has looked at and accepted is written down."""
    return os.path.join(directory, f"{base_offset:020d}.bad")


def read_quarantine(directory: str, base_offset: int) -> list[tuple[int, int]]:
    """The offset ranges `start .. stop-1` of a segment that are set aside: reads pass over them without an error.

    A file that cannot be read, or is none, sets nothing aside: the damage is told again.
    """
    path = quarantine_path(directory, base_offset)
    if not os.path.isfile(path):  # opening a pipe would wait for ever
        return []
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        try:
            entry = json.loads(line)
            ranges.append((int(entry["start"]), int(entry["stop"])))
        except UNREADABLE:
            continue  # a line that a crash cut: that damage is told again
    return ranges


def place_of(loss: Loss) -> tuple[str, int]:
    """The partition, and the segment beside which a loss is set aside: the first one left, where those before it are gone."""
    directory, name = os.path.split(loss.path)
    if name.endswith(".log") and name[:20].isdecimal():
        return directory, int(name[:20])
    return loss.path, max(loss.stop, 0)


def standing(losses: Iterable[Loss]) -> list[Loss]:
    """Those of the losses that nobody set aside; one whose end nobody knows is, when the place where it begins is."""

    def is_aside(loss: Loss) -> bool:
        aside = joined(read_quarantine(*place_of(loss)))
        return any(low <= loss.start < high and loss.stop <= high for low, high in aside)

    return [loss for loss in losses if not is_aside(loss)]


def joined(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted, and neighbours as one; a `stop` of -1 is behind everything.

    >>> joined([(7, 9), (0, 3), (3, 5), (8, -1)])
    ((0, 5), (7, -1))
    """
    out: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if out and (out[-1][1] < 0 or start <= out[-1][1]):
            low, high = out[-1]
            out[-1] = (low, -1 if high < 0 or stop < 0 else max(high, stop))
        else:
            out.append((start, stop))
    return tuple(out)


def write_quarantine(directory: str, base_offset: int, losses: Iterable[Loss], now: int) -> None:
    """Set damaged ranges of a segment aside, durably. The bytes stay where they are."""
    known = set(read_quarantine(directory, base_offset))
    fresh = [loss for loss in losses if loss.stop >= 0 and (loss.start, loss.stop) not in known]
    if not fresh:
        return
    with open(quarantine_path(directory, base_offset), "ab") as file:
        for loss in fresh:
            file.write(json.dumps({"time": now, **loss._asdict()}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
