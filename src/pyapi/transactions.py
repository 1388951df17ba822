"""Transactions: their log in a store, and the judgement that follows a power cut.

    txn/            the log of decisions: a log like any other (`seglog.engine.transactions` says what stands in it)
    txn/settled     8 bytes: which boot, of which copy, the judgement was made for
    txn/judge.lock  the door for whoever judges

A power cut leaves of each partition what was on the disk. A transaction may be there in one partition and not in another, and its
decision may be lost. So before any partition of the store is opened in a new boot, one process looks at them all:

    what is said of topics that were deleted is passed over
    each partition ends where its frames end, or at the first frame of a transaction without a decision
    a decision does not hold when a part of it lies behind the end of its partition: then that partition's other parts, and with
    them everything behind, end there too; until nothing changes any more
    nor does one that moves the place of a group on from where a decision moved it that does not hold

What does not hold is written down in the log, for this boot and all later ones: a partition that is opened only then must be
told the same. Nothing that was called durable is behind such an end, since a sync makes the other parts durable first. Then the
places of groups are moved to where the decisions that hold say: a commit in a transaction is on the disk there, and nowhere else.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from seglog.config import StoreConfig
from seglog.engine.liveness import Liveness
from seglog.engine.log import Log
from seglog.engine.places import home_of
from seglog.engine.transactions import Transactions, moves_decision, read_decision, survey, void_decision
from seglog.errors import SeglogError
from seglog.files import O_BINARY, FileLock, has_segments, told, write_all
from seglog.positions import is_file, move_of, restore
from seglog.topology import Topology

__all__ = ["FOLDER", "exists", "judge", "open_log", "settle", "trim"]

FOLDER = "txn"
KEPT_BYTES = 64 << 20  # of decisions, before the oldest are let go
MOVES_MAX = 1000  # places in one record

Part = tuple[int, int, int, str]  # partition_id, start, stop, path
Move = tuple[int, bytes, str]  # the number of a positions file, a slot of it, its path
Where = tuple[int, int, str]  # the number of a positions file, a partition, its path


class Decision(NamedTuple):
    """What happened, or did not, all at once."""

    parts: list[Part]
    moves: list[Move]


def exists(root: str) -> bool:
    """Whether there ever was a transaction in the store at `root`."""
    return has_segments(os.path.join(root, FOLDER))


def open_log(
    root: str, transactions: Transactions, *, create: bool, liveness: Liveness, lock_timeout: float, **settings: Any
) -> Log | None:
    """The transaction log of the store at `root`, judged for this boot; None when there is none and `create` is False.

    It is always read past damage (recover="skip"): a decision that is lost counts as not made, and is told where its records are
    looked for. Damage to this log must not close the whole store.
    """
    if not create and not exists(root):
        return None
    log = Log(
        os.path.join(root, FOLDER),
        segment_bytes_min=1 << 16,
        recover="skip",
        liveness=liveness,
        lock_timeout=lock_timeout,
        **settings,
    )
    try:
        settle(root, transactions, log, lock_timeout)
    except BaseException:
        log.close()
        raise
    return log


def settle(root: str, transactions: Transactions, log: Log, timeout: float) -> None:
    """Judge once per boot: returns when it was done, by this process or another."""
    path = os.path.join(root, FOLDER, "settled")
    with told(path, "settle the transactions of the boot before"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o666)
        try:
            home = home_of(fd).to_bytes(8, "little")
            if os.read(fd, 8) == home:
                return
            with FileLock(os.path.join(root, FOLDER, "judge.lock"), timeout=timeout):
                os.lseek(fd, 0, os.SEEK_SET)
                if os.read(fd, 8) == home:
                    return
                decisions = decisions_in(log)
                if any(decision.parts for decision in decisions.values()):
                    decisions = of_topics(topics_of(root, log, timeout), decisions)
                fallen = judge(root, decisions)
                if fallen:
                    log.append(void_decision(fallen))
                    log.sync()
                move(root, [decision for offset, decision in decisions.items() if offset not in fallen])
                transactions.settled(log)
                os.lseek(fd, 0, os.SEEK_SET)
                write_all(fd, home)
        finally:
            os.close(fd)


def decisions_in(log: Log) -> dict[int, Decision]:
    """What was decided and not taken back, by the offset of the decision."""
    decisions: dict[int, Decision] = {}
    for record in log.records():
        parts, moves, void = read_decision(record.value or b"")
        for offset in void:
            decisions.pop(offset, None)
        if parts or moves:
            decisions[record.offset] = Decision(parts, moves)
    return decisions


def topics_of(root: str, log: Log, timeout: float) -> set[str] | None:
    """The topics there are; None when nobody can tell."""
    try:
        topology = Topology(root, StoreConfig(recover="skip", lock_timeout=timeout), log.liveness)
    except SeglogError:
        return None
    try:
        return set(topology.names("topic"))
    finally:
        topology.close()


def of_topics(topics: set[str] | None, decisions: dict[int, Decision]) -> dict[int, Decision]:
    """The decisions without what they say of topics that were deleted: a power cut may have left some of their files, and that
    others are missing says nothing."""

    def stays(part: Part) -> bool:
        _, _, _, path = part
        return topics is None or topics.issuperset(path.split("/")[1:2])

    return {
        offset: decision._replace(parts=[part for part in decision.parts if stays(part)])
        for offset, decision in decisions.items()
    }


def newer(last: Mapping[Where, tuple[int, Move]], moves: Iterable[Move]) -> dict[Where, tuple[int, Move]]:
    """Of these commits, those that come after the last ones that are known, with their sequences."""
    found = {}
    for one in moves:
        where, sequence = place_of(one)
        if sequence > last.get(where, (0, one))[0]:
            found[where] = sequence, one
    return found


def place_of(move: Move) -> tuple[Where, int]:
    """The place that a commit is for, and its sequence there."""
    number, slot, path = move
    partition, sequence = move_of(slot)
    return (number, partition, path), sequence


def move(root: str, decisions: Iterable[Decision]) -> None:
    """Put the places of groups where the decisions say that hold."""
    last: dict[Where, tuple[int, Move]] = {}
    for decision in decisions:
        last |= newer(last, decision.moves)
    files: dict[tuple[str, int], dict[int, bytes]] = {}
    for (number, partition, path), (_, (_, slot, _)) in last.items():
        files.setdefault((path, number), {})[partition] = slot
    for (path, number), slots in files.items():
        restore(os.path.join(root, path), number, slots)


def judge(root: str, decisions: dict[int, Decision]) -> list[int]:
    """The decisions that do not hold, given what is on the disk; sorted."""
    ends: dict[int, int] = {}
    durable: dict[int, int] = {}
    decided: dict[int, list[tuple[int, int]]] = {}
    for parts, _ in decisions.values():
        for identity, start, stop, _ in parts:
            decided.setdefault(identity, []).append((start, stop))
    for path in {path: None for parts, _ in decisions.values() for *_, path in parts}:
        try:
            found = survey(os.path.join(root, path))
        except (FileNotFoundError, NotADirectoryError):
            continue  # deleted, with all its records
        if found is None:
            continue
        identity = found["partition_id"]
        ends[identity], durable[identity] = found["end"], found["durable"]
        ranges = sorted(decided.get(identity, ()))
        for start, _ in found["frames"]:
            i = bisect_right(ranges, (start, found["end"])) - 1
            if i < 0 or start >= ranges[i][1]:
                ends[identity] = min(ends[identity], start)
                break
    fallen: set[int] = set()
    stuck: dict[Where, int] = {}  # places, and the first of their commits that did not happen
    while True:
        missing = {
            offset
            for offset, decision in decisions.items()
            if offset not in fallen
            and (
                any(stop > ends.get(identity, stop) for identity, _, stop, _ in decision.parts)
                or any(sequence > stuck.get(where, sequence) for where, sequence in map(place_of, decision.moves))
            )
        }
        if not missing:
            return sorted(fallen)
        fallen |= missing
        for offset in missing:
            for identity, start, stop, _ in decisions[offset].parts:
                if stop > durable.get(identity, stop):
                    ends[identity] = min(ends[identity], start)
            for where, sequence in map(place_of, decisions[offset].moves):
                stuck[where] = min(sequence, stuck.get(where, sequence))


def trim(log: Log, logs: Callable[[str], Log | None]) -> None:
    """Let go of decisions that nobody will ask for again: every partition they are about has written down that it is durable
    beyond them, and where groups are is said once more. `logs` gives the log at a path, None when there is none."""
    *full, _ = log.segments()
    if sum(size for _, _, size in full) < KEPT_BYTES:
        return
    before = log.next_offset
    void = {offset for record in log.records() for offset in read_decision(record.value or b"")[2]}
    paths: dict[str, None] = {}
    last: dict[Where, tuple[int, Move]] = {}
    for record in log.records():
        parts, moves, _ = read_decision(record.value or b"")
        if record.offset not in void:
            paths |= {path: None for *_, path in parts}
            last |= newer(last, moves)
    for path in paths:
        its = logs(path)
        if its is not None:
            its.checkpoint()
    root = os.path.dirname(log.path)
    still = [one for _, one in last.values() if is_file(os.path.join(root, one[2]), one[0])]
    for some in (still[at : at + MOVES_MAX] for at in range(0, len(still), MOVES_MAX)):
        log.append(moves_decision(some))
    log.sync()
    log.trim(before)
