"""Judge: what was promised by the moment of the cut, held against what is there after recovery; and again after going on.

Promised, whatever the level: no record that nobody wrote, none twice, none at another offset than it was given; no offset given to two
records; what recovery had not found never comes back; a hole inside a segment is told; all errors are documented ones. Further, what
a sync covered or `always` acknowledged is there; without `never`, what is left is a run from the first offset without holes, everything reads
without an error, and trims hold; after a clean close all is as it was.
"""

from __future__ import annotations

import copy
import os
import random
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from seglog.engine.errors import CorruptBatch, CorruptSegment, StoreIOError

from .workload import Settings, Writer, identity

MARK = struct.Struct("<QqqqqqII")
SEGMENT = struct.Struct("<QIIqQqqqIIQqqQ")


class Model:
    """What was said up to a moment, and so what must be, may be, and cannot be."""

    def __init__(self, judged_as: str | None = None) -> None:
        self.judged_as = judged_as  # as if all had been written with this level
        self.sizes: dict[int, int] = {}  # of each record whose append began, by id
        self.given: dict[int, int] = {}  # offset -> id, of those that returned
        self.offsets: dict[int, int] = {}  # id -> offset, of those that returned now or later
        self.pending: dict[str, list[int]] = {}
        self.keyed: set[int] = set()  # ids of records with the one key there is: compaction may take all but the last
        self.compacted = False
        self.always: set[int] = set()  # offsets whose append returned with "always"
        self.absent: set[int] = set()  # ids that a recovery did not find
        self.gone: set[int] = set()  # offsets of such records: told lost, never to be seen again, nor given out
        self.perhaps: set[int] = set()  # offsets of records that a power cut may have taken
        self.durable = 0
        self.trim_begun = self.trim_held = 0
        self.levels: set[str] = set()
        self.epoch = 0
        self.clean: tuple[int, int] | None = None  # next offset and epoch, when a clean close was the last word

    def hear_all(self, said: list[tuple[int, list[Any]]], moment: int) -> Model:
        """What was said up to the moment; and where records went that were on their way."""
        for at, words in said:
            if at <= moment:
                self.hear(*words)
            elif words[0] == "wrote":
                for number, offset in zip(self.pending.get(words[1], ()), words[3]):
                    self.offsets[number] = offset
        return self

    def hear(self, what: str, *rest: Any) -> None:
        self.clean = None
        if what == "write":
            op, records, *keyed = rest
            if any(keyed):
                self.keyed |= {number for number, _ in records}
            self.pending[op] = [number for number, _ in records]
            self.sizes.update(records)
        elif what == "wrote":
            op, fsync, offsets = rest
            for number, offset in zip(self.pending.pop(op), offsets, strict=True):
                self.given[offset] = number
                self.offsets[number] = offset
                if (self.judged_as or fsync) == "always":
                    self.always.add(offset)
        elif what == "compact":
            self.compacted = True
        elif what == "durable":
            self.durable = max(self.durable, rest[0])
        elif what == "open":
            self.levels.add(rest[0])
        elif what == "opened":
            self.durable = max(self.durable, rest[1])
            self.epoch = max(self.epoch, rest[2])
        elif what == "trim":
            self.trim_begun = max(self.trim_begun, rest[0])
        elif what == "trimmed":
            if rest[1] != "never":
                self.trim_held = max(self.trim_held, rest[0])
        elif what == "closed":
            fsync, following, epoch = rest
            if fsync != "never":
                self.durable = max(self.durable, following)
                if "never" not in self.levels and not self.pending:
                    self.clean = (following, epoch)
        elif what == "looked":
            first, there = rest[0], set(rest[1])
            # What was on its way when the power went has arrived, or never will.
            self.perhaps.clear()
            self.gone |= {offset for offset, n in self.given.items() if n not in there}
            self.absent |= {n for n in self.sizes.keys() - there if self.offsets.get(n, first) >= first}
            self.pending.clear()

    def rebooted(self) -> None:
        """The power went, and nobody has looked since what is left. What was not promised by then may be there or not, for ever:
        what is said to be durable later, after a recovery that nobody looked at, does not mean these."""
        self.perhaps |= {o for o in self.given if o >= self.durable and o not in self.always}
        self.clean = None
        self.pending.clear()

    @property
    def spared(self) -> set[int]:
        """Offsets of records that compaction may have taken; a power cut may undo that."""
        return {self.offsets[number] for number in self.keyed if number in self.offsets} if self.compacted else set()

    def excused(self, records: list[tuple[int, int]]) -> range:
        """Offsets at which a keyed record may be missing: a later one is there. It was on disk before the others went."""
        newest = max((offset for offset, number in records if number in self.keyed), default=0)
        return range(newest if self.compacted else 0)

    def taken(self, records: list[tuple[int, int]]) -> set[int]:
        """Ids of records that compaction may have taken, when these are there."""
        excused = self.excused(records)
        return {number for number in self.keyed if self.offsets.get(number, 0) in excused}

    def left_of(self, records: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """What compaction leaves of these, at the least."""
        excused = self.excused(records)
        return [(offset, number) for offset, number in records if number not in self.keyed or offset not in excused]

    @property
    def promised(self) -> bool:
        return "never" not in self.levels

    def check(self, seen: Sight) -> list[str]:
        """What is wrong with what is there."""
        wrong = list(seen.wrong)
        at: dict[int, int] = {}
        spared = self.spared
        for offset, number in seen.records:
            if number < 0:
                wrong.append(f"a wrong record at offset {offset}: bytes that nobody wrote")
            elif number not in self.sizes:
                wrong.append(f"an invented record at offset {offset}: nobody had begun to write {number:#x}")
            elif self.offsets.get(number, offset) != offset:
                wrong.append(f"record {number:#x} was given offset {self.offsets[number]} and is at {offset}")
            elif self.given.get(offset, number) != number:
                wrong.append(f"offset {offset} was given to {self.given[offset]:#x}, and {number:#x} is there")
            elif number in self.absent and offset not in spared:
                wrong.append(f"the dead are back: record {number:#x} at offset {offset} was not there after an earlier recovery")
            if number in at:
                wrong.append(f"record {number:#x} is there twice, at {at[number]} and {offset}")
            at[number] = offset
        there = {offset for offset, _ in seen.records}
        excused = self.excused(seen.records)
        out = there | self.gone | self.perhaps | {offset for offset in spared if offset in excused}
        missing = [o for o in sorted(self.given) if o >= self.trim_begun and o not in out]
        for offset in missing:
            if offset < self.durable or offset in self.always:
                wrong.append(
                    f"lost: record {self.given[offset]:#x} at offset {offset}, "
                    + (f"durable below {self.durable}" if offset < self.durable else "acknowledged with always")
                )
        if self.promised:
            wrong += [f"damage was told, though nothing was written with never: {told}" for told in seen.told]
            highest = max(there, default=-1)
            holes = [o for o in missing if o < highest]
            if holes:
                wrong.append(f"not a prefix: {holes[:5]} are gone and {highest} is there")
            if seen.first < self.trim_held:
                wrong.append(f"the first offset is {seen.first}, though a trim to {self.trim_held} was acknowledged")
        if seen.epoch < self.epoch:
            wrong.append(f"the epoch went from {self.epoch} to {seen.epoch}")
        if seen.epoch == self.epoch:
            if missing and missing[-1] >= seen.next:
                wrong.append(f"recovery says that nothing was lost (epoch {seen.epoch}), and {missing[-5:]} are gone")
        if self.clean is not None and (seen.next, seen.epoch) != self.clean:
            wrong.append(f"a clean close left next offset and epoch {self.clean}; now they are {(seen.next, seen.epoch)}")
        return wrong


class Sight(NamedTuple):
    """What a reader finds in a log."""

    records: list[tuple[int, int]]  # offset, id
    first: int
    next: int
    durable: int
    epoch: int
    told: list[str]
    losses: int
    wrong: list[str]


def look(log: Any, rng: random.Random, whole: bool = False, spared: set[int] | None = None) -> Sight:
    """Read all there is, as a careful user does: past the damage that is told. `whole`: no hash should be wrong anywhere;
    `spared`: offsets that compaction may have taken."""
    records: list[tuple[int, int]] = []
    told: list[str] = []
    wrong: list[str] = []
    covered = [(offset, offset + 1) for offset in spared or ()]
    times: list[int] = []
    at, end = log.first_offset, log.next_offset
    first = at
    while at < end:
        try:
            batch = log.read(at)
        except (CorruptBatch, CorruptSegment) as error:
            told.append(str(error)[:160])
            resume = error.resume_offset  # type: ignore[attr-defined]
            if resume <= at:
                wrong.append(f"damage at offset {at} says to go on at {resume}")
                break
            covered.append((at, resume))
            at = resume
            continue
        if batch is None:
            break
        offsets = batch.offsets.tolist()
        if offsets[0] < at or any(b <= a for a, b in zip(offsets, offsets[1:])):
            wrong.append(f"offsets do not rise: asked for {at}, got {offsets[:5]}")
        records += zip(offsets, map(identity, batch.values.tolist()))
        times += batch.timestamps.tolist()
        if batch.next_offset <= at:
            wrong.append(f"a batch from {at} goes on at {batch.next_offset}")
            break
        at = batch.next_offset
    for loss in log.losses:
        covered.append((loss.start, loss.stop if loss.stop >= 0 else 1 << 62))
    wrong += untold_holes(log, first, end, [offset for offset, _ in records], covered)
    if records and rng.random() < 0.2:
        wrong += look_up(log, records, times, rng)
    if whole and rng.random() < 0.1:
        wrong += [f"verify finds {loss}" for loss in log.verify() if loss.kind != "missing"]
    return Sight(records, first, end, log.durable_offset, log.epoch, told, len(log.losses), wrong)


def look_up(log: Any, records: list[tuple[int, int]], times: list[int], rng: random.Random) -> list[str]:
    """The ways that go through the index."""
    wrong = []
    for i in rng.sample(range(len(records)), min(3, len(records))):
        offset, number = records[i]
        if identity(log.record(offset).value) != number:
            wrong.append(f"record({offset}) is not what reading gave")
        expected = next(o for (o, _), t in zip(records, times) if t >= times[i])
        if log.offset_for_time(times[i]) != expected:
            wrong.append(f"offset_for_time({times[i]}) is {log.offset_for_time(times[i])}; the first such record is {expected}")
    return wrong


def untold_holes(log: Any, first: int, end: int, offsets: list[int], covered: list[tuple[int, int]]) -> list[str]:
    """Runs of offsets without a record that neither damage nor the chain of segments explains."""
    for name in os.listdir(log.path):
        if len(name) == 24 and name.endswith(".log"):
            with open(os.path.join(log.path, name), "rb") as file:
                page = file.read(4096)
            head = page[:96]
            if len(head) == 96 and head.startswith(b"SLOGSEG1"):
                fields = SEGMENT.unpack(head)
                covered.append((fields[11], fields[3]))  # previous_end .. base_offset: never given out, or lost unsynced
                for at in 512, 1024:
                    mark = MARK.unpack_from(page, at) if len(page) == 4096 else (0,) * 8
                    if mark[6] & 17 == 17:  # SEALED, MERGED: such gaps, and what compaction took, lie inside
                        covered.append((fields[3], mark[5]))
    covered = sorted(covered)
    wrong = []
    for before, after in zip([first - 1, *offsets], [*offsets, end]):
        at = before + 1
        for start, stop in covered:
            if start <= at < stop:
                at = stop
        if at < after:
            wrong.append(f"offsets {at} to {after - 1} are not there, and nothing says why")
    return wrong


class Judge:
    """Judges one image: recovers it, looks, goes on, looks again."""

    def __init__(self, path: str, model: Model, rng: random.Random, boots: Callable[[], None], opener: Callable[..., Any]) -> None:
        self.path, self.rng, self.boots, self.opener = path, rng, boots, opener
        self.model = copy.deepcopy(model)
        self.also: Callable[..., None] = lambda *words: None
        self.fail: Callable[[int], None] = lambda n: None  # so that the n-th sync fails
        self.before_reboot: Callable[[], None] = lambda: None
        self.wrong: list[str] = []
        self.lost = self.found = self.losses = 0

    def say(self, *words: Any) -> None:
        self.model.hear(*words)
        self.also(*words)

    def judge(self, who: int) -> list[str]:
        rng = self.rng
        raw = self._raw() if rng.random() < 0.3 else {}
        writer = Writer(who, self.path, Settings(rng, rng.choice(["never", "interval", "always"])), rng, self.say, self.opener)
        gone = [size for number, size in self.model.sizes.items() if number not in self.model.absent]
        expected: list[tuple[int, int]] | None = None
        before: Sight | None = None
        for round in range(3):
            if round == 0 or rng.random() < 0.7:
                self.boots()
            clean = self.model.clean
            writer.fsync = writer.settings.fsync
            recover = rng.choice(["raise", "skip"])
            model = self.model if round else copy.deepcopy(self.model)
            self.say("open", writer.fsync)
            if rng.random() < 0.1:
                self.fail(rng.choice([1, 2, 3, 4]))
            try:
                writer.log = writer.settings.open(self.opener, self.path, writer.fsync, recover=recover)
            except StoreIOError:
                writer.log = writer.settings.open(self.opener, self.path, writer.fsync, recover=recover)
            self.fail(0)
            seen = look(writer.log, rng, model.promised, model.spared)
            model.clean = clean
            self._complain(round, model.check(seen))
            if round == 0:
                there = {number for _, number in seen.records}
                self.found, self.losses = len(there), seen.losses
                self.lost = sum(1 for n in model.given.values() if n not in there)
                gone = [size for number, size in model.sizes.items() if number not in there and number not in model.absent]
                if raw:
                    self._complain(round, self._untold_tail(raw, writer.log, model.epoch))
            elif expected is not None and seen.records != expected:
                self._complain(round, [f"there were {brief(expected)}, and now {brief(seen.records)}"])
            if clean is not None and before is not None and seen.losses > before.losses:
                self._complain(round, ["losses were found after a clean close"])
            self.say("looked", seen.first, [number for _, number in seen.records])
            self.say("opened", seen.next, seen.durable, seen.epoch)
            if self.wrong or round == 2:
                break
            expected, before = list(seen.records), seen
            self._go_on(writer, gone, expected)
            if round == 1 or rng.random() < 0.3:
                writer.close()
            writer.drop()
            self.before_reboot()
        writer.drop()
        return self.wrong

    def _go_on(self, writer: Writer, gone: list[int], expected: list[tuple[int, int]]) -> None:
        """New records where there are holes, if there are any: of the sizes that are missing."""
        rng = self.rng
        earlier = dict(self.model.given)
        if gone and rng.random() < 0.7:
            writer.sizes = gone[:20]
        for _ in range(rng.choice([0, 1, 1, 2, 5])):
            rng.choice([writer.append, writer.append, writer.append_many])()
        if rng.random() < 0.7:
            writer.sync()
        new = {offset: number for offset, number in self.model.given.items() if earlier.get(offset) != number}
        for offset in sorted(new):
            if offset in earlier or (expected and offset <= expected[-1][0]):
                self._complain(0, [f"offset {offset} was given out before, to {earlier.get(offset, -1):#x}"])
            if earlier and offset <= max(earlier):
                self._complain(0, [f"offset {offset} was given out although {max(earlier)} had been"])
                break
        expected += sorted(new.items())

    def _complain(self, round: int, wrong: list[str]) -> None:
        self.wrong += [f"opening {round + 1}: {text}" for text in wrong]

    def _raw(self) -> dict[str, bytes]:
        raw = {}
        for name in os.listdir(self.path) if os.path.isdir(self.path) else ():
            if len(name) == 24 and name.endswith(".log"):
                with open(os.path.join(self.path, name), "rb") as file:
                    raw[name] = file.read()
        return raw

    def _untold_tail(self, raw: dict[str, bytes], log: Any, epoch: int) -> list[str]:
        """Bytes that recovery cut off must be told."""
        active = log.statistics()["active_base"]
        names = sorted(name for name in raw if int(name[:20]) < active)
        if log.epoch == epoch or not names or f"{active:020}.log" in raw:
            return []
        name = names[-1]
        end = 4096
        if os.path.exists(os.path.join(self.path, name)):
            with open(os.path.join(self.path, name), "rb") as file:
                head = file.read(4096)
            if len(head) < 4096:
                return []
            marks = [MARK.unpack_from(head, at) for at in (512, 1024)]
            mark = max(marks, key=lambda m: m[0] if m[6] & 1 else 0)
            if not mark[6] & 1:
                return []
            end = mark[4]
        if any(raw[name][end:]) and not any(os.path.basename(loss.path) == name for loss in log.losses):
            return [f"recovery cut {name} at {end}, where bytes were, and tells of no loss"]
        return []


def brief(records: list[tuple[int, int]]) -> str:
    return f"{len(records)} records {records[:2]} .. {records[-4:]}"
