"""Doctor: who looks at every byte of a store, says what is wrong and what it costs, and sets right what can be.

    examine   read-only: opens nothing for writing, makes no file, runs no recovery; also on a read-only mount, also while
              others write. Never ends at the first bad thing: what cannot be read is a finding like any other
    repair    the same, and then: mends what stands twice (headers, marks, positions), puts files back under their names,
              removes what is derived and wrong, recovers torn tails, sets damage aside so that reads pass over it

It promises that a report tells damage exactly, in bytes and offsets, and proves the rest: each record of a `verified` range was
read and compared with its hash. Repair deletes no data: what it takes out of the way it renames or copies first
(`.damaged`, `.misplaced`, `.torn`), and every change is in the report.

The races: a file that was listed may be trimmed before it is opened, and a slot, an index or a positions file may be in the
middle of a store. The first is no finding while the log is in use; the others are looked at twice, and told when they have
not changed.

    report   what is told                  store     all of it            log       one log, its chain of segments
    things   what can be found, in words   places    a positions file     segment   one segment, its frames
    mends    what repair does              pages     first pages, names     queue     the states of a queue, in chunks
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace

from seglog.doctor.mends import SET_ASIDE
from seglog.doctor.pages import SEGMENT_FILE, bases_in
from seglog.doctor.report import Finding, Partition, Report
from seglog.doctor.store import Progress, StoreExamination
from seglog.engine.liveness import Liveness
from seglog.errors import DirectoryInUse, NotAStore, SeglogError
from seglog.files import told
from seglog.identity import directory_of

__all__ = ["Finding", "Partition", "Report", "examine", "repair", "size_of"]

ROUNDS = 8  # what one repair lays bare the next one mends; more in a row have not been seen


def examine(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """Look at every byte of the store in `path`, and change nothing.

    Cost: reading the whole store once, from a warm cache at 1 GiB/s or more. Raises NotAStore where there is none,
    UnsupportedFormat for one of a newer seglog; everything else is a finding.

    >>> import seglog, seglog.doctor
    >>> with seglog.open("data") as store:
    ...     _ = store.topic("orders").send_many([b"one", b"two", b"three"])
    >>> report = seglog.doctor.examine("data")
    >>> report.sound, report.partitions[1].told
    (True, 'records 0..2 verified')
    """
    began = time.monotonic()
    return StoreExamination(checked(path), progress).run().report(began)


def repair(path: str | os.PathLike[str], *, progress: Progress | None = None) -> Report:
    """Examine the store in `path`, set right what can be, and examine it again; the report is of what is so then.

    No data is deleted. Records that are lost stay lost: reads then pass over them without an error, and `log.losses` names
    them. Nobody else may have the store open, unless all there is to do is to remove derived files: raises DirectoryInUse,
    and changes nothing. Whoever opens it meanwhile harms nobody: each step is one that an opener could meet half done.
    Raises as `examine` does, and ReadOnlyStore.

    >>> import seglog, seglog.doctor
    >>> with seglog.open("data") as store:
    ...     _ = store.topic("orders").send(b"one")
    >>> seglog.doctor.repair("data").changes
    ()
    """
    began = time.monotonic()
    directory = checked(path)
    looked = StoreExamination(directory, progress).run()
    if not looked.mends:
        return looked.report(began)
    mended: dict[Finding, None] = {}
    tried: set[tuple[str, str]] = set()
    changes: list[str] = []
    failures: list[str] = []
    with told(directory, "repair the store"):
        liveness = Liveness(directory)
    try:
        for _ in range(ROUNDS):
            mends = [mend for mend in looked.mends if (mend.path, mend.what) not in tried]
            if not mends:
                break
            if any(mend.alone for mend in mends):
                refuse_company(directory, liveness)
            # Setting aside comes last: what was put back under its name, or recovered, may be no damage any more.
            early = [mend for mend in mends if mend.order < SET_ASIDE]
            for mend in sorted(early or mends, key=lambda mend: mend.order):
                tried.add((mend.path, mend.what))
                try:
                    with told(mend.path, "repair it"):
                        mend.do(liveness)
                except SeglogError as error:
                    failures.append(f"{mend.path}: {mend.what}: {error}")
                else:
                    changes.append(f"{mend.path}: {mend.what}")
            mended |= dict.fromkeys(looked.findings)
            looked = StoreExamination(directory, progress).run()
    finally:
        liveness.close()
    last = looked.report(began)
    gone = tuple(finding for finding in mended if finding not in last.findings and finding.severity != "note")
    return replace(last, mended=gone, changes=tuple(changes), failures=tuple(failures))


def checked(path: str | os.PathLike[str]) -> str:
    """The directory, if there is a store to examine in it."""
    directory = directory_of(path)
    if not os.path.isdir(directory):
        raise NotAStore(f"there is no directory {directory}. Nothing was changed.", path=directory)
    if not os.path.lexists(os.path.join(directory, "SEGLOG")) and not bases_in(os.path.join(directory, "meta")):
        raise NotAStore(
            f"{directory} holds no store: no SEGLOG, and no log in meta. A partition alone is not examined. Nothing was changed.",
            path=directory,
        )
    return directory


def size_of(path: str | os.PathLike[str]) -> int:
    """Bytes of the segment files of the store in `path`: what `progress` counts up to, each time everything is read."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            if SEGMENT_FILE.fullmatch(name):
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size
    return total


def refuse_company(directory: str, liveness: Liveness) -> None:
    others = [pid for slot, pid in liveness.owners() if slot != liveness.slot]
    if others:
        mine = " (this very process)" if os.getpid() in others else ""
        raise DirectoryInUse(
            f"process {', '.join(map(str, others))}{mine} has {directory} open, and what there is to repair "
            f"needs it alone. Close it "
            "there and repeat; until then `seglog doctor` without --repair shows what is wrong. Nothing was changed.",
            path=directory,
            pids=others,
        )
