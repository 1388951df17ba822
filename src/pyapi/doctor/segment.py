"""Segment: one look at one sound segment: its frames, the copies of its header and of its mark, its size and its index."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from seglog.doctor import mends
from seglog.doctor.mends import FIRST
from seglog.doctor.pages import COPY, HEADER, MARK_BYTES, MARKS, Sheet, page_of, reason
from seglog.engine.instruments import index_fault
from seglog.engine.losses import Loss
from seglog.engine.segment import Scanner, mend_header, segment_at
from seglog.errors import SeglogError, UnsupportedFormat

if TYPE_CHECKING:
    from seglog.doctor.log import LogExamination

__all__ = ["NAP", "SegmentExamination"]

NAP = 0.02  # seconds between two looks at what somebody may be storing to


class SegmentExamination:
    """One look at the segment of `sheet`, whose log ends it at offset `end`. What it finds goes to the log."""

    def __init__(self, log: LogExamination, sheet: Sheet, end: int, is_last: bool) -> None:
        self.log, self.sheet, self.end, self.is_last = log, sheet, end, is_last
        self.busy = is_last and log.words is not None  # somebody may be storing to it
        self.whole = True  # every frame was sound

    def run(self) -> None:
        sheet, log = self.sheet, self.log
        if not all(sheet.copies):
            log.find("header", sheet.path, position=COPY if sheet.copies[0] else 0, size=96)
            log.mend(FIRST, sheet.path, "mended a copy of the header", lambda liveness: mend_header(sheet.path))
        try:
            scan = Scanner(segment_at(sheet.path), HEADER, sheet.base)
            self.frames(scan)
        except UnsupportedFormat as error:
            log.find("newer", sheet.path, start=sheet.base, stop=self.end, why=str(error))
            return
        except (OSError, SeglogError) as error:
            if not isinstance(error, FileNotFoundError) or log.words is None:  # else trimmed a moment ago
                log.find("unreadable", sheet.path, start=sheet.base, stop=self.end, why=reason(error))
            return
        log.store.progress(sheet.size)
        self.size()
        self.slots(scan)
        self.index()

    def frames(self, scan: Scanner) -> None:
        """Read them all."""
        log, sheet = self.log, self.sheet
        while True:
            position, offset = scan.position, scan.offset
            why = scan.run(self.end)
            log.verify(offset, scan.offset, scan.position - position)
            if why is None:
                return
            self.whole = False
            position, offset = scan.position, scan.offset
            goes_on = scan.resume(self.end)
            if goes_on and scan.offset == offset:
                log.find("moved", sheet.path, position=position, offset=offset, there=scan.position)
                continue
            stop = scan.offset if goes_on else self.end
            behind = scan.position if goes_on and scan.position > position else sheet.size
            loss = Loss("corrupt", sheet.path, position, offset, stop, behind - position, why)
            self.damage(loss, to_the_end=not goes_on)
            if not goes_on:
                return

    def damage(self, loss: Loss, to_the_end: bool) -> None:
        log, sheet, mark = self.log, self.sheet, self.sheet.mark
        capacity = sheet.header["capacity"]
        if not log.lose(sheet.base, loss.start, loss.stop):
            return
        code = "corrupt"
        if to_the_end and not self.is_last and mark and sheet.sealed_end == loss.start:
            if log.is_elsewhere(loss.start, loss.stop):
                return
            why = "segment files between this one and the next are gone"
            code, loss = "missing", loss._replace(kind="missing", position=mark["end_position"], size=0, note=why)
        elif to_the_end and sheet.size < capacity:
            why = f"the file was cut short, to {sheet.size:,} of {capacity:,} bytes"
            code, loss = "missing", loss._replace(kind="missing", note=why)
        elif self.is_last and log.words is None and (mark is None or mark["unsynced"]):
            code = "hole"
        place = {"position": loss.position, "size": loss.size, "start": loss.start, "stop": loss.stop}
        log.find(code, sheet.path, **place, why=loss.note)
        log.set_aside(loss)

    def size(self) -> None:
        have, capacity = self.sheet.size, self.sheet.header["capacity"]
        if have >= capacity:
            return
        if self.whole:
            about = {"position": have, "size": capacity - have, "have": have, "capacity": capacity}
            self.log.find("cut", self.sheet.path, **about)
        if not self.is_last or self.busy:
            what = f"gave the file its {capacity:,} bytes back"
            self.log.mend(FIRST, self.sheet.path, what, partial(mends.extend, self.sheet.path, capacity))

    def slots(self, scan: Scanner) -> None:
        log, sheet = self.log, self.sheet
        if sheet.damaged_slots and self.busy:
            time.sleep(NAP)
            again = page_of(sheet.path, sheet.base)
            if again is None or again.state != "sound":
                return
            sheet.marks = again.marks
        bad = sheet.damaged_slots
        if not bad:
            return
        if len(bad) == 1:
            log.find("slot", sheet.path, position=MARKS[bad[0]], size=MARK_BYTES)
            what = "mended a slot of the durable mark"
            log.mend(FIRST, sheet.path, what, partial(mends.mend_mark, sheet.path, None))
            return
        size = MARKS[1] + MARK_BYTES - MARKS[0]
        log.find("mark" if self.is_last else "old mark", sheet.path, position=MARKS[0], size=size)
        if self.is_last and not self.busy:
            log.needs_recovery = True
            return
        # What was just read is all there, and will be synced first: so much can be promised again.
        done = self.whole and scan.offset == self.end
        sealed = done and not self.is_last
        mark = {
            "durable_position": scan.position if done else HEADER,
            "durable_offset": self.end if done else sheet.base,
            "start_offset": log.first if self.is_last else sheet.header["start_offset"],
            "end_position": scan.position if sealed else 0,
            "end_offset": self.end if sealed else 0,
            "sealed": sealed,
            "clean": False,
            "unsynced": not done,
            "epoch": sheet.header["epoch"],
        }
        log.mend(FIRST, sheet.path, "wrote a new durable mark", partial(mends.mend_mark, sheet.path, mark))

    def index(self) -> None:
        path = self.sheet.path[:-4] + ".idx"
        why = self.index_fault(path)
        if why and self.busy:
            time.sleep(NAP)
            if self.index_fault(path) != why:
                return
        if why:
            self.log.find("index", path, why=why)
            what = "removed a wrong index"
            self.log.mend(FIRST, path, what, partial(mends.remove, path), alone=False)

    def index_fault(self, path: str) -> str | None:
        if not os.path.lexists(path) or self.log.store.content(path) is None:
            return None
        # Where segments are missing behind it, the index says what its own mark does.
        ends = [] if self.is_last else [end for end in (self.end, self.sheet.sealed_end) if end is not None]
        try:
            return index_fault(segment_at(self.sheet.path), self.end, ends)
        except (OSError, SeglogError):  # told where the segment itself is
            return None
