"""Broken on purpose: logs, disks and recoveries that lose, so that one sees that the judge notices.

`python -m tests.crash.power.run --breaks NAME` runs the proof with one of them, and test_power_cut.py asks of each that it is caught.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from seglog import queue as queues
from seglog import transactions
from seglog.engine.log import Log
from seglog.queue import Queue

from .judge import Judge
from .workload import payload

FRAME = struct.Struct("<IIqIHBBqqII")  # docs/format.md, section 4: the 56 bytes that are hashed, and the body's hash
MAGIC = 0x01424C53


class Breaks:
    """Nothing is broken."""

    opener: Callable[..., Any] = Log
    shim = 0  # options of the shim
    fsync: str | None = None  # the only level of the workloads
    kind: str | None = None  # the only kind of workload; see run.py
    judged_as: str | None = None
    says = ""  # what the judge has to say

    def prepare(self, judge: Any) -> None:
        """Put something into the judge's way, before it opens the image."""


class LazyLog(Log):
    def sync(self) -> int:
        return int(self.next_offset)


class SyncDoesNothing(Breaks):
    """sync() returns, and nobody told the disk."""

    opener = LazyLog
    fsync = "never"
    says = "lost: record"


class DirectorySyncsForgotten(Breaks):
    """A disk that does not keep names when a directory is synced."""

    shim = 1
    says = "lost: record"


class FileSyncsForgotten(Breaks):
    """A disk that does not keep bytes when a file is synced."""

    shim = 2
    says = "lost: record"


class AlwaysThatIsNever(Breaks):
    """Acknowledged as with "always", written as with "never"."""

    fsync, judged_as = "never", "always"
    says = "acknowledged with always"


class FlippedBatch:
    def __init__(self, batch: Any) -> None:
        self.offsets, self.timestamps, self.next_offset = batch.offsets, batch.timestamps, batch.next_offset
        self.values = self
        self.batch = batch

    def tolist(self) -> list[bytes]:
        values = self.batch.values.tolist()
        return [*values[:-1], values[-1][:-1] + bytes([values[-1][-1] ^ 1])]


class FlippingLog(Log):
    def read(self, *args: Any, **more: Any) -> Any:
        batch = super().read(*args, **more)
        return FlippedBatch(batch) if batch is not None and len(batch.values.tolist()[-1]) > 16 else batch

    def record(self, offset: int) -> Any:
        return super().read(offset, 1)[0]  # type: ignore[index]


class WrongRecords(Breaks):
    """A read that gives a record with one wrong bit."""

    opener = FlippingLog
    says = "a wrong record"


class QuietLog(Log):
    losses = property(lambda self: ())  # type: ignore[assignment]


class NothingTold(Breaks):
    """A recovery that cuts, and does not say so."""

    opener = QuietLog
    says = "tells of no loss"


class OffsetsAgain(Breaks):
    """A recovery that goes on at the end that it finds, as if nothing behind it had been given out."""

    says = "was given out although"

    def prepare(self, judge: Any) -> None:
        for path in segments(judge):
            with open(path, "r+b") as file:
                data = file.read(4096)
                for at in (0, 2048) if len(data) == 4096 and data.startswith(b"SLOGSEG1") else ():
                    # reserved_offset becomes base_offset, which reserves nothing
                    header = data[at : at + 40] + data[at + 16 : at + 24] + data[at + 48 : at + 88]
                    file.seek(at)
                    file.write(header + xxhash.xxh3_64_intdigest(header).to_bytes(8, "little"))


class TailComesBack(Breaks):
    """A recovery that goes on in the old segment, where the hole is, and does not clear what lies behind it.

    Nothing in the engine can be made to do that. So it is done by hand, between the first look and the reboot: the segment as it was
    in the image, with one new record that just fits into the hole.
    """

    fsync = "interval"
    says = "the dead are back"

    def prepare(self, judge: Any) -> None:
        if not isinstance(judge, Judge) or not judge.model.promised:
            return
        files = {path: Path(path).read_bytes() for path in segments(judge)}
        path = max((path for path, data in files.items() if data.startswith(b"SLOGSEG1")), default=None)
        filled = path and fill_hole(files[path], 0x7F000001)
        if not path or not filled:
            return
        data, offset, size = filled

        def go_on() -> None:
            for later in segments(judge):
                if later > path:
                    os.unlink(later)
            with open(path, "wb") as file:
                file.write(data)
            judge.boots()
            judge.say("write", "by hand", [(0x7F000001, size)])
            judge.say("wrote", "by hand", "interval", [offset])
            judge.before_reboot = lambda: None

        judge.before_reboot = go_on


class PartsOfTransactions(Breaks):
    """A store that takes every decision that it finds for one that holds."""

    fsync = "interval"
    says = "is there in parts"

    def prepare(self, judge: Any) -> None:
        transactions.judge = lambda root, decisions: []


class TransactionsWithoutTheirCommits(Breaks):
    """After a boot nobody puts the groups where the transactions that hold say."""

    fsync = "interval"
    says = "is there, and"

    def prepare(self, judge: Any) -> None:
        transactions.move = lambda root, decisions: None


class QueueAlwaysThatIsNever(Breaks):
    """Messages sent and acked as with "always", and on the disk as with "never"."""

    kind, fsync, judged_as = "queues", "never", "always"
    says = "sent to jobs and not acked"


class AcksThatAreNotSynced(Breaks):
    """An ack that returns, as with "always", before its word is on the disk."""

    kind, fsync, judged_as = "queues", "interval", "always"
    says = "it had been acked for good"


class MovesInTwoSteps(Breaks):
    """Dead letters are sent, and then acked where they were: no transaction holds the two together."""

    kind, fsync = "queues", "interval"
    says = "is there twice"

    def __init__(self) -> None:
        def bury(queue: Any, messages: list[Any], reason: str, error: str | None, tx: Any = None) -> None:
            target = queue.dead_letter and queue._home.dead_letters(queue.dead_letter)
            for message in messages if target else ():
                target.topic.send(message.value, headers=queue._epitaph(message, reason, error), partition=0)
            if target:
                target.topic.sync()
            with queue._home.transaction() as own:
                queue._add_settled(own, messages, 1)

        Queue._bury = bury  # type: ignore[method-assign]


class SettlementsForgotten(Breaks):
    """What transactions acked is cut off before the words are on the disk that say so too."""

    kind, fsync = "queues", "always"
    says = "it had been acked for good"

    def __init__(self) -> None:
        queues.confirm = lambda queue: queue._settled.trim(queue._settled.next_offset)


def segments(judge: Any) -> list[str]:
    folder = judge.path
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in names if len(name) == 24 and name.endswith(".log")]


def fill_hole(data: bytes, number: int) -> tuple[bytes, int, int] | None:
    """The segment with record `number` in its first hole, its offset and size; None when there is no hole that one record fits."""
    salt = int.from_bytes(data[24:32], "little")
    at, offset = 4096, int.from_bytes(data[16:24], "little", signed=True)

    def frame(at: int, whole: bool) -> tuple[int, int, int] | None:
        if data[at : at + 4] != MAGIC.to_bytes(4, "little"):
            return None
        _, length, base, _, _, _, _, _, _, _, span = FRAME.unpack_from(data, at)
        body = data[at + 64 : at + 64 + length]
        digest = xxhash.xxh3_64_intdigest(data[at : at + 56], salt).to_bytes(8, "little")
        if digest != data[at + 56 : at + 64] or (whole and xxhash.xxh3_64_digest(body)[::-1] != data[at + 48 : at + 56]):
            return None
        return 64 + (length + 7) // 8 * 8, base, span

    while (found := frame(at, True)) and found[1] == offset:
        at, offset = at + found[0], offset + found[2]
    behind = at + 8
    while behind + 64 <= len(data) and not ((found := frame(behind, True)) and found[1] == offset + 1):
        behind += 8
    size = behind - at - 64
    if behind + 64 > len(data) or size < 16:
        return None
    body = payload(number, size)
    head = FRAME.pack(MAGIC, size, offset, 1, 32, 0, 0, 0, 0, 1, 1) + xxhash.xxh3_64_intdigest(body).to_bytes(8, "little")
    head += xxhash.xxh3_64_intdigest(head, salt).to_bytes(8, "little")
    return data[:at] + head + body + data[behind:], offset, size


KINDS: dict[str, type[Breaks]] = {
    "sync-does-nothing": SyncDoesNothing,
    "directory-syncs-forgotten": DirectorySyncsForgotten,
    "file-syncs-forgotten": FileSyncsForgotten,
    "always-that-is-never": AlwaysThatIsNever,
    "wrong-records": WrongRecords,
    "nothing-told": NothingTold,
    "offsets-again": OffsetsAgain,
    "tail-comes-back": TailComesBack,
    "parts-of-transactions": PartsOfTransactions,
    "transactions-without-their-commits": TransactionsWithoutTheirCommits,
    "queue-always-that-is-never": QueueAlwaysThatIsNever,
    "acks-that-are-not-synced": AcksThatAreNotSynced,
    "moves-in-two-steps": MovesInTwoSteps,
    "settlements-forgotten": SettlementsForgotten,
}


def find(name: str | None) -> Breaks:
    return KINDS[name]() if name else Breaks()
