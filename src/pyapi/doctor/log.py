"""Log: one look at one log: which files are its segments, how each follows the one before, and where it ends.

Where a log ends: while its shared words are of this boot, at the watermark, taken once before anything else is read; frames
behind it were never written as far as anybody knows, and are not judged. Otherwise where recovery would end it
(docs/format.md, section 6).
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from seglog.doctor import mends
from seglog.doctor.mends import FIRST, RECOVER, SET_ASIDE
from seglog.doctor.pages import HEADER, KEPT_SEGMENT, KNOWN_IN_LOG, SEGMENT_FILE, Sheet, page_of, readable
from seglog.doctor.report import Partition, Range, spoken
from seglog.doctor.segment import SegmentExamination
from seglog.engine.instruments import batch_at, describe_words
from seglog.engine.losses import Loss, joined, read_losses, read_quarantine, standing
from seglog.engine.segment import Scanner, Segment, segment_at, segment_name
from seglog.errors import SeglogError
from seglog.record import Record

if TYPE_CHECKING:
    from seglog.doctor.store import StoreExamination

__all__ = ["LogExamination"]

EVER = 1 << 62  # above every offset


class LogExamination:
    """One look at one log. Life: `run`; then `records`, and what it found."""

    def __init__(self, store: StoreExamination, name: str, path: str, settings: dict[str, Any]) -> None:
        self.store, self.name, self.path, self.settings = store, name, path, settings
        self.find, self.mend = store.find, store.mend
        self.files: list[Sheet] = []  # every segment file, by name
        self.chain: list[Sheet] = []  # those of them that are of this log
        self.misplaced: list[Sheet] = []
        self.home: list[int] = []  # base offsets of segments that merely stand under a wrong name
        self.identity = 0  # partition_id
        self.words: dict[str, int] | None = None  # when an opener would believe them
        self.given = -1  # offsets below were given out in this boot, whatever became of the files
        self.first = self.next = self.count = self.size = 0
        self.verified: list[Range] = []
        self.lost: list[Range] = []
        self.aside: list[Range] = []
        self.history: tuple[Loss, ...] = ()
        self.torn: tuple[str, int, int] | None = None  # file, position and size of what recovery will zero
        self.needs_recovery = self.unlisted = False

    def run(self) -> None:
        self.believe()  # first of all: what comes after is above the watermark
        names = self.store.names(self.path, start=0)
        self.unlisted = names is None
        if not names:
            return
        self.other_files(names)
        self.read_pages(names)
        if readable(os.path.join(self.path, "losses")):
            self.history = read_losses(self.path)
        if self.files:
            self.judge()
            self.remembered()
            self.store.partitions.append(self.told())

    def told(self) -> Partition:
        return Partition(
            name=self.name,
            path=self.path,
            first_offset=self.first,
            next_offset=self.next,
            in_use=self.words is not None,
            records=self.count,
            size=self.size,
            verified=joined(self.verified),
            lost=joined(self.lost),
            set_aside=joined(self.aside),
            history=self.history,
        )

    # ---- the files ----------------------------------------------------------------------------------

    def believe(self) -> None:
        """What the shared words say, when they are of this boot and this file."""
        said = describe_words(self.path)
        if said is None:
            return
        self.identity = said["partition_id"]
        if said["ready"]:
            self.words, self.given = said, said["next_offset"]
        if said["failed"]:
            self.needs_recovery = True
            self.find("failed", self.path)

    def other_files(self, names: list[str]) -> None:
        bases = {name[:20] for name in names if SEGMENT_FILE.fullmatch(name)}
        for name in names:
            path = os.path.join(self.path, name)
            if not KNOWN_IN_LOG.fullmatch(name):
                self.store.stranger(path)
            elif name.endswith(".idx") and bases and name[:20] not in bases:
                self.find("orphan index", path)
                what = "removed an index without a segment"
                self.mend(FIRST, path, what, partial(mends.remove, path), alone=False)
            elif name.endswith(".bad") or name == "losses":
                self.store.content(path)  # whether it can be read; its ranges are looked at with their segment

    def read_pages(self, names: list[str]) -> None:
        """Which of the segment files are of this log, and which stand under a name that is not theirs."""
        kept: list[Sheet] = []
        for name in names:
            if not KEPT_SEGMENT.fullmatch(name) and not SEGMENT_FILE.fullmatch(name):
                continue
            sheet = page_of(os.path.join(self.path, name), int(name[:20]))
            if sheet is None:
                continue  # trimmed a moment ago, or a folder
            if name.endswith(".misplaced"):
                if sheet.state == "misplaced":
                    kept.append(sheet)
            elif self.words is None or sheet.base <= self.words["active_base"]:
                # One above was made, and not switched to yet: nobody's business.
                self.files.append(sheet)
        if not self.identity:
            ids = [sheet.header["partition_id"] for sheet in self.files if sheet.header]
            # Of two that are as many, the one that an opener would take: the last one's.
            self.identity = max(reversed(ids), key=Counter(ids).__getitem__, default=0)
        for sheet in self.files:
            if sheet.state == "sound" and sheet.header["partition_id"] != self.identity:
                sheet.state, sheet.why = "misplaced", "it belongs to another partition"
        self.files = without_superseded(self.files)
        self.chain = [sheet for sheet in self.files if sheet.state != "misplaced"]
        self.misplaced = [sheet for sheet in kept if sheet.header["partition_id"] == self.identity]
        self.misplaced += [sheet for sheet in self.files if sheet.state == "misplaced"]
        there = {sheet.base for sheet in self.sound}
        if there:
            self.store.logs_by_identity.setdefault(self.identity, []).append(self.name)
        ours = [
            sheet.header["base_offset"] for sheet in self.misplaced if sheet.header["partition_id"] == self.identity
        ]
        self.home = [base for base in ours if base not in there]
        if self.words is not None:
            active = next((sheet for sheet in self.chain if sheet.base == self.words["active_base"]), None)
            if active is None or active.state == "corrupt":
                self.words = None  # an opener would not believe them either

    @property
    def sound(self) -> list[Sheet]:
        return [sheet for sheet in self.chain if sheet.state == "sound"]

    # ---- the chain ----------------------------------------------------------------------------------

    def judge(self) -> None:
        self.drop_impostors()
        last = self.sound[-1] if self.sound else None
        if last is not None:
            self.begin(last)
        elif not self.chain:
            why = "no segment file of this log is left"
            self.gone("no last", self.path, 0, max(self.given, 0) or -1, why=why)
        for sheet, following in self.pairs():
            if sheet.state != "sound":
                self.bad_file(sheet, following)
            elif sheet is last:
                self.last_segment(sheet, following)
            else:
                SegmentExamination(self, sheet, self.end_of(sheet, following), is_last=False).run()
        self.under_wrong_names()
        if self.needs_recovery:
            do = partial(mends.recover, self.path, self.settings, self.torn)
            self.mend(RECOVER, self.path, "recovered the log", do)

    def pairs(self) -> list[tuple[Sheet, Sheet | None]]:
        """Each segment, and the one after it."""
        return list(zip(self.chain, [*self.chain, None][1:], strict=True))

    def drop_impostors(self) -> None:
        """A file that cannot be read, under the name of an offset inside a sealed segment, is none of the log."""
        kept: list[Sheet] = []
        for sheet in self.chain:
            end = kept[-1].sealed_end if kept and kept[-1].state == "sound" else None
            if sheet.state == "corrupt" and end is not None and end > sheet.base:
                why = f"{sheet.why}, and its name lies inside another one"
                self.find("foreign", sheet.path, size=sheet.size, why=why)
                do = partial(mends.put_back, self.path, ((sheet.path, ""),))
                self.mend(FIRST, self.path, f"set {os.path.basename(sheet.path)} aside", do)
            else:
                kept.append(sheet)
        self.chain = kept

    def begin(self, last: Sheet) -> None:
        """Where the log begins, and whether its first files are there."""
        one, mark = self.chain[0], last.mark
        begins = min(one.base, one.header["previous_end"]) if one.state == "sound" else one.base
        if self.words is not None:
            again = describe_words(self.path)  # trimmed meanwhile: the files were still there when it was lower
            self.first = (again or self.words)["first_offset"]
            if self.first < begins and self.gone("no first", self.path, self.first, one.base):
                what = f"let the log begin at {one.base:,}, behind what is lost"
                do = partial(mends.start_at_first, self.path, self.first, self.settings)
                self.mend(SET_ASIDE, self.path, what, do)
            return
        self.first = max(last.header["start_offset"], mark["start_offset"] if mark else 0)
        if self.first < begins and not (mark and mark["unsynced"]):
            self.gone("no first", self.path, self.first, one.base)
        self.first = max(self.first, begins)

    def end_of(self, sheet: Sheet, following: Sheet | None) -> int:
        if following is None:
            return self.next
        if following.state == "sound":
            return int(following.header["previous_end"])
        return following.base if sheet.sealed_end is None else sheet.sealed_end

    def last_segment(self, sheet: Sheet, following: Sheet | None) -> None:
        if self.words is not None:
            self.next = self.words["next_offset"]
            SegmentExamination(self, sheet, self.next, is_last=True).run()
            return
        self.next, mark = sheet.base, sheet.mark
        tail, why = None, None
        try:
            segment = segment_at(sheet.path)
            if mark and not mark["unsynced"]:
                tail = Scanner(segment, mark["durable_position"], mark["durable_offset"])
                why = tail.run(EVER)
            else:
                tail = Scanner(segment, HEADER, sheet.base)
                while (why := tail.run(EVER)) and tail.skip():
                    pass
            self.next = tail.offset
        except (OSError, SeglogError):  # told where its frames are read
            tail = None
        SegmentExamination(self, sheet, self.next, is_last=True).run()
        if tail is None:
            return
        position = tail.position
        self.needs_recovery |= sheet.size < sheet.header["capacity"]
        if not tail.rest_is_blank():
            size = written_behind(sheet.path, position)
            more = "; sound frames follow, which nobody can prove to be of this log" if tail.skip() else ""
            self.torn = (sheet.path, position, size)
            self.needs_recovery = True
            about = {"position": position, "size": size, "start": self.next, "offset": self.next}
            self.find("torn", sheet.path, **about, why=why, more=more)
        if sheet.sealed_end == self.next and following is None:
            stop = self.given if self.given > self.next else -1
            self.gone("no last", sheet.path, self.next, stop, position, why="the segment files after this one are gone")

    def bad_file(self, sheet: Sheet, following: Sheet | None) -> None:
        """A segment file of which nothing can be proved."""
        start, stop = sheet.base, following.base if following else -1
        if following is None and self.given > start:
            stop = self.given
        if sheet.state in ("unreadable", "newer"):
            if not 0 <= stop <= self.first:
                self.lost.append((start, stop))
                self.find(sheet.state, sheet.path, start=start, stop=stop, why=sheet.why)
        elif self.lose(sheet.base, start, stop):
            self.find("segment", sheet.path, size=sheet.size, start=start, stop=stop, why=sheet.why)
            self.set_aside(Loss("corrupt", sheet.path, 0, start, stop, sheet.size, sheet.why))

    # ---- what was read, and what could not be -------------------------------------------------------

    def verify(self, start: int, stop: int, size: int) -> None:
        """Offsets, and bytes of frames, that are right."""
        self.size += size
        start = max(start, self.first)
        if stop > start:
            self.verified.append((start, stop))
            self.count += stop - start

    def lose(self, base: int, start: int, stop: int) -> bool:
        """Offsets that cannot be read; False when there is nothing to tell: they were trimmed, or are set aside."""
        if 0 <= stop <= self.first:
            return False
        clipped = max(start, self.first), stop
        self.lost.append(clipped)
        if any(low <= start and 0 <= stop <= high for low, high in read_quarantine(self.path, base)):
            self.aside.append(clipped)
            return False
        return True

    def gone(self, code: str, path: str, start: int, stop: int, position: int = 0, **words: Any) -> bool:
        """Offsets whose files are not there; False when one of those merely stands under another name, which is told."""
        self.lost.append((start, stop))
        if self.is_elsewhere(start, stop):
            return False
        self.find(code, path, position=position, start=start, stop=stop, **words)
        self.needs_recovery |= self.words is None
        return True

    def is_elsewhere(self, start: int, stop: int) -> bool:
        return any(start <= base and (stop < 0 or base < stop) for base in self.home)

    def set_aside(self, loss: Loss) -> None:
        if self.words is None:
            self.needs_recovery = True  # it says first where the log ends
        elif loss.stop >= 0:
            what = f"set offsets {spoken([(loss.start, loss.stop)])} aside"
            self.mend(SET_ASIDE, self.path, what, partial(mends.set_aside, loss))

    def remembered(self) -> None:
        """What earlier recoveries found lost, and nobody accepted. It is so, whatever can be read now."""
        for loss in standing(self.history):
            if loss.kind != "torn":
                self.find("history", loss.path, start=loss.start, stop=loss.stop, why=loss.note)
                what = f"wrote down that the loss of {spoken([(loss.start, loss.stop)])} was seen"
                known = loss._replace(stop=loss.stop if loss.stop >= 0 else max(self.next, loss.start + 1))
                self.mend(SET_ASIDE, self.path, what, partial(mends.set_aside, known), alone=False)

    def under_wrong_names(self) -> None:
        moves: list[tuple[str, str]] = []
        taken: set[int] = set()
        for sheet in self.misplaced:
            base = sheet.header["base_offset"]
            missed = any(low <= base and (high < 0 or base < high) for low, high in self.lost)
            if base in self.home and base not in taken and missed:
                end = sheet.sealed_end
                stop = end if end is not None else self.given if self.given > base else -1
                name = segment_name(base)
                self.find("away", sheet.path, size=sheet.size, start=base, stop=stop, base=base, name=name)
                moves.append((sheet.path, os.path.join(self.path, name)))
                taken.add(base)
            elif not sheet.path.endswith(".misplaced"):
                self.find("foreign", sheet.path, size=sheet.size, why=sheet.why)
                moves.append((sheet.path, ""))
        if moves:
            said = ", ".join(f"{os.path.basename(a)} to {os.path.basename(b) or '.misplaced'}" for a, b in moves)
            # Neither recovery nor setting aside before these are back.
            self.needs_recovery = False
            self.store.mends = [mend for mend in self.store.mends if mend.path != self.path or mend.order == FIRST]
            self.mend(FIRST, self.path, f"renamed {said}", partial(mends.put_back, self.path, tuple(moves)))

    def is_gone(self, what: str, known: int) -> None:
        """No segment file at all, where a topic says there must be a log. Offsets below `known` were given out, and who knows how
        many more."""
        self.lost.append((0, self.given))
        self.find("gone", self.path, start=0, stop=self.given, what=what)
        self.store.partitions.append(self.told())
        do = partial(mends.begin_anew, self.path, max(known, self.given), self.settings)
        self.mend(FIRST, self.path, "began the partition anew, empty", do)

    def frames(self) -> Iterator[tuple[Segment, int, int, int]]:
        """Every sound frame: its segment, where it lies, its first offset and the one behind it."""
        for sheet, following in self.pairs():
            try:
                segment = segment_at(sheet.path)
                scan = Scanner(segment, HEADER, sheet.base)
            except (OSError, SeglogError):
                continue
            end = self.end_of(sheet, following)
            while scan.offset < end:
                position, start = scan.position, scan.offset
                if scan.check() is None:
                    yield segment, position, start, scan.offset
                elif not scan.resume(end):
                    break

    def records(self) -> Iterator[Record]:
        """Every record that can be read. Python for each: for the few of meta. Raises CorruptBatch at a
        compressed one, which meta has none of."""
        for segment, position, _, _ in self.frames():
            yield from (record for record in batch_at(segment, position) if record.offset >= self.first)

    def records_at(self, offsets: Iterable[int]) -> Iterator[Record]:
        """The records at these offsets, as far as they can be read. Python for those that a frame with one of them has."""
        wanted = sorted(offsets)
        for segment, position, start, stop in self.frames():
            some = set(wanted[bisect_left(wanted, start) : bisect_left(wanted, stop)])
            if some:
                with suppress(SeglogError):
                    yield from (record for record in batch_at(segment, position) if record.offset in some)


def without_superseded(files: list[Sheet]) -> list[Sheet]:
    """Without those whose records a compaction put into a segment before, and did not live to remove; the next one does."""
    kept: list[Sheet] = []
    end = 0
    for sheet in files:
        if sheet.state != "sound" or sheet.base >= end:
            kept.append(sheet)
            end = max(end, sheet.merged_end if sheet.state == "sound" else 0)
    return kept


def written_behind(path: str, position: int) -> int:
    """How many bytes from `position` on, up to the last one that is not zero."""
    size = at = 0
    with open(path, "rb") as file:
        file.seek(position)
        while block := file.read(1 << 20):
            if rest := len(block.rstrip(b"\0")):
                size = at + rest
            at += len(block)
    return size
