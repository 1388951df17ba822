"""Mends: what repair does: each thing in one verb, which somebody who opens the store may meet half done.

No data is deleted: what is taken out of the way keeps its bytes under another name, none of which is ever taken twice.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seglog.clock import system_clock
from seglog.doctor.pages import HEADER, bases_in, newest
from seglog.engine.instruments import write_mark
from seglog.engine.liveness import Liveness
from seglog.engine.log import Log
from seglog.engine.losses import Loss, place_of, write_losses, write_quarantine
from seglog.engine.segment import describe_segment, segment_name
from seglog.engine.transactions import Transactions
from seglog.files import make_directory, read_whole, sync_directory, write_whole
from seglog.identity import Identity
from seglog.transactions import open_log

__all__ = ["FIRST", "RECOVER", "SET_ASIDE", "Mend"]

FIRST, RECOVER, SET_ASIDE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Mend:
    """One thing that repair does, in its own words when it is done. `alone`: nobody else may have the store open."""

    order: int
    path: str
    what: str
    do: Callable[[Liveness], object]
    alone: bool = True


def remove(path: str, liveness: Liveness) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def replace_file(path: str, data: bytes, liveness: Liveness) -> None:
    """The file is `data` now; what it was is kept."""
    with suppress(FileNotFoundError):
        write_whole(free_name(path, ".damaged"), read_whole(path))
    write_whole(path, data)


def new_identity(path: str, created: int, liveness: Liveness) -> None:
    replace_file(path, Identity(str(uuid.uuid4()), created).to_bytes(), liveness)


def free_name(path: str, suffix: str) -> str:
    """`path` with the suffix, and with a number before it when that name is taken."""
    name, n = path + suffix, 1
    while os.path.lexists(name):
        n += 1
        name = f"{path}.{n}{suffix}"
    return name


def put_back(path: str, names: tuple[tuple[str, str], ...], liveness: Liveness) -> None:
    """Rename files, some of which may stand in each other's place. Cut short, it leaves `.misplaced` files, which the next one
    finds."""
    away = []
    for source, target in names:
        aside = source
        if not source.endswith(".misplaced"):
            aside = free_name(source, ".misplaced")
            os.rename(source, aside)
        away.append((aside, target))
    for aside, target in away:
        if target and not os.path.lexists(target):
            os.rename(aside, target)
    sync_directory(path)


def extend(path: str, size: int, liveness: Liveness) -> None:
    """Give a file back the size that its header says. What was there is gone; zeros are no frame."""
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # blocks, not a hole: a store into one can be a signal
        else:
            file.truncate(size)
        os.fsync(file.fileno())


def mend_mark(path: str, mark: dict[str, Any] | None, liveness: Liveness) -> None:
    """The sound slot once more, over the damaged one; or, when both are damaged, `mark` in both."""
    last = newest(describe_segment(path)["marks"]) or mark
    if last is not None:
        write_mark(path, last)
        if mark is not None:
            write_mark(path, last)


def set_aside(loss: Loss, liveness: Liveness) -> None:
    path, base = place_of(loss)
    write_quarantine(path, base, [loss], system_clock())
    sync_directory(path)  # the name of the file, too


def opened(path: str, settings: dict[str, Any], liveness: Liveness) -> Log:
    """The log, recovered; one of a store, without the transactions that are not there as a whole."""
    root = settings.get("root")
    decisions = None if root is None else decisions_in(root, liveness)
    rest = {name: value for name, value in settings.items() if name != "root"}
    return Log(path, create=False, recover="skip", liveness=liveness, decisions=decisions, **rest)


def decisions_in(root: str, liveness: Liveness) -> Transactions:
    found: Transactions = Transactions(
        root, lambda create: open_log(root, found, create=create, liveness=liveness, lock_timeout=30.0)
    )
    return found


def recover(path: str, settings: dict[str, Any], torn: tuple[str, int, int] | None, liveness: Liveness) -> None:
    """Open the log, which recovers it. What recovery will zero is copied first."""
    if torn:
        source, position, size = torn
        name = free_name(f"{source[:-4]}.{position}", ".torn")
        with open(source, "rb") as file, open(name, "xb") as copy:
            file.seek(position)
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.truncate(size)
            os.fsync(copy.fileno())
        sync_directory(path)
    opened(path, settings, liveness).close()


def set_chunk_aside(path: str, liveness: Liveness) -> None:
    """A chunk of a queue's states that nobody can read: the next opening makes another one."""
    forget_counts(os.path.dirname(path))
    os.rename(path, free_name(path, ".bad"))
    sync_directory(os.path.dirname(path))


def mend_chunk(path: str, patches: tuple[tuple[int, bytes], ...], liveness: Liveness) -> None:
    """Write these bytes into a chunk, and keep it as it was."""
    forget_counts(os.path.dirname(path))
    if patches:
        write_whole(free_name(path, ".bad"), read_whole(path))
    with open(path, "r+b") as file:
        for position, data in patches:
            file.seek(position)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())


def forget_counts(folder: str) -> None:
    """The next one who opens the queue counts everything anew from its states, as in a new boot."""
    with suppress(FileNotFoundError), open(os.path.join(folder, "shm"), "r+b") as file:
        file.write(bytes(8))  # the magic number: these words are nobody's


def begin_anew(path: str, known: int, settings: dict[str, Any], liveness: Liveness) -> None:
    """A partition that is gone, empty, at offsets that the old one cannot have given out, which gave out those below `known`.

    A segment that is lost whole makes recovery go on 2**40 offsets behind it: so one is put there, and taken away again.
    """
    make_directory(path)
    stand_in = os.path.join(path, segment_name(known))
    with suppress(FileExistsError), open(stand_in, "xb") as file:
        file.write(bytes(HEADER))
    opened(path, settings, liveness).close()
    if read_whole(stand_in) == bytes(HEADER):
        os.unlink(stand_in)
        sync_directory(path)
    start_at_first(path, -1, settings, liveness)


def start_at_first(path: str, start: int, settings: dict[str, Any], liveness: Liveness) -> None:
    """The first files are gone: let the log begin where it does, as if it had been trimmed there."""
    log = opened(path, settings, liveness)
    try:
        bases = bases_in(path)
        if log.first_offset < bases[0]:
            log.trim(bases[0])
    finally:
        log.close()
    last = os.path.join(path, segment_name(bases[-1]))
    mark = newest(describe_segment(last)["marks"])
    if mark is not None and mark["start_offset"] < bases[0]:
        write_mark(last, mark | {"start_offset": bases[0]})
    if start >= 0:
        loss = Loss("missing", path, 0, start, bases[0], 0, "the first segment files are gone")
        write_losses(path, [loss], system_clock())
