"""A queue in plain Python: what each verb has to come to, one message an object, time a number that the test moves.

The rules, in the order in which they decide who comes next: a higher level first; within a level, by the place a message has had
since it was sent (or, if it was sent with a delay, since it was due); what is in flight, delayed, expired or dead does not come.
In a FIFO queue one message of a group comes at a time; it waits while another is in flight, or came back and is not due yet.

Attempts grow when a message is handed out, and fall by `release` alone. After `max_attempts` of them it is dead.

What nobody promises is left open: those that die together come to the dead letters in any order (`died` is the same for them), and
an id may be forgotten once its message was purged (`unsure`).
"""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass, field
from typing import Any

SECOND = 1_000_000
READY, DELAYED, LEASED, ACKED, EXPIRED, DEAD, DROPPED, PURGED = (
    "ready", "delayed", "in flight", "acked", "expired", "dead", "dropped", "purged",
)


@dataclass(eq=False)
class Sent:
    """One message. Values are unique, so that each is known again."""

    value: bytes
    number: int  # in the order of sending
    level: int
    sent_at: int
    group: bytes | None = None
    state: str = READY
    place: float = math.inf  # within its level; a message with a delay gets one when it is due
    due: int = 0
    expires: float = math.inf
    attempts: int = 0
    deliveries: int = 0
    receipt: int = 0  # the last time it was handed out, of all such times
    first_received_at: int = 0
    leased_at: int = 0
    lease_ends: float = 0
    holder: object = None
    reasons: list[str] = field(default_factory=list)
    died: int = 0  # at which step


class QueueModel:
    def __init__(
        self, *, now: int, priorities: int = 1, max_attempts: int = 5, lease: float = 30, max_lease: float = 43200,
        ttl: float | None = None, fifo: bool = False, max_length: int | None = None, max_bytes: int | None = None,
        overflow: str = "reject", dedup_window: float = 300, dead_letter: bool = True, dead_letter_expired: bool = False,
    ) -> None:
        self.now, self.priorities, self.max_attempts, self.fifo = now, priorities, max_attempts, fifo
        self.lease, self.max_lease, self.dedup_window, self.ttl = lease, max_lease, dedup_window, ttl
        self.max_length, self.max_bytes, self.overflow = max_length, max_bytes, overflow
        self.keeps_dead, self.keeps_expired = dead_letter, dead_letter and dead_letter_expired
        self.messages: list[Sent] = []
        self.ids: dict[bytes, tuple[int, Sent]] = {}
        self.unsure: set[bytes] = set()
        self.counted: collections.Counter[str] = collections.Counter()
        self.places = self.receipts = self.step = 0

    # ---- what is where

    def those(self, state: str) -> list[Sent]:
        return [each for each in self.messages if each.state == state]

    def in_order(self) -> list[Sent]:
        """Those who could be received now, first the first; of a group in a FIFO queue the first, or none."""
        ready = sorted(self.those(READY), key=lambda each: (-each.level, each.place))
        if not self.fifo:
            return ready
        busy = {each.group for each in self.messages if each.state == LEASED}
        back = {each.group: each.place for each in reversed(self.those(DELAYED)) if each.place < math.inf}
        first: dict[bytes | None, Sent] = {}
        for each in ready:
            if each.group not in busy and each.place < back.get(each.group, math.inf):
                first.setdefault(each.group, each)
        return list(first.values())

    def leased(self) -> list[Sent]:
        return sorted(self.those(LEASED), key=lambda each: (each.level, each.place))

    def statistics(self) -> dict[str, int]:
        """The states that are, and what happened so far."""
        now = collections.Counter(each.state for each in self.messages)
        return {
            "ready": now[READY], "delayed": now[DELAYED], "in_flight": now[LEASED],
            **{name: self.counted[name] for name in ("acked", "expired", "dropped", "dead_lettered")},
        }

    # ---- sending

    def knows(self, dedup_id: bytes) -> bool:
        return dedup_id in self.ids and self.now - self.ids[dedup_id][0] <= self.dedup_window * SECOND

    def has_room(self, count: int, size: int) -> bool:
        """What is out or delayed does not count."""
        ready = self.those(READY)
        return (self.max_length is None or len(ready) + count <= self.max_length) and (
            self.max_bytes is None or sum(len(each.value) for each in ready) + size <= self.max_bytes
        )

    def send(self, *values: bytes, dedup_id: bytes | None = None, **options: Any) -> str:
        """What became of all of them: "sent", "duplicate", "full", "dropped"."""
        self.step += 1
        count, size = len(values), sum(map(len, values))
        if dedup_id is not None and self.knows(dedup_id):
            return "duplicate"
        if options.get("delay"):
            count = size = 0  # it does not count, and finds room when it is due
        if count > (self.max_length or count) or size > (self.max_bytes or size):
            return "full"
        while count and not self.has_room(count, size):
            if self.overflow == "reject":
                return "full"
            if self.overflow == "drop_new":
                self.counted["dropped"] += count
                return "dropped"
            oldest = min(self.those(READY), key=lambda each: (each.level, each.place))
            self.settle(oldest, DEAD if self.overflow == "dead_letter" and self.keeps_dead else DROPPED, "maxlen")
        for value in values:
            self.add(value, **options)
        if dedup_id is not None:
            self.ids[dedup_id] = (self.now, self.messages[-1])
            self.unsure.discard(dedup_id)
        return "sent"

    def add(
        self, value: bytes, *, level: int = 0, delay: float = 0, ttl: float | None = None, group: bytes | None = None,
        at: int | None = None,
    ) -> None:
        """`at`: when it was sent, in a transaction that commits now."""
        at = self.now if at is None else at
        each = Sent(value, len(self.messages), min(level, self.priorities - 1), at, group)
        lives = [seconds for seconds in (ttl, self.ttl) if seconds is not None]
        if lives:  # counted from when it can be received first
            each.expires = at + round((delay + min(lives)) * SECOND)
        self.messages.append(each)
        if delay:
            each.state, each.due = DELAYED, at + round(delay * SECOND)
        else:
            self.make_ready(each)

    def make_ready(self, each: Sent) -> None:
        each.state, each.holder = READY, None
        if each.place == math.inf:
            each.place = self.places
            self.places += 1
        if each.expires <= self.now:
            self.settle(each, EXPIRED, "expired")

    def settle(self, each: Sent, state: str, reason: str = "") -> None:
        self.counted["dead_lettered" if state == DEAD else state] += 1
        each.state, each.holder = state, None
        if (state == DEAD and self.keeps_dead) or (state == EXPIRED and self.keeps_expired):
            each.state, each.died = DEAD, self.step
            each.reasons.append(reason)
        elif state == DEAD:
            each.state = DROPPED

    # ---- time

    def tick(self, now: int) -> None:
        """It is `now`, and somebody looked."""
        self.now = now
        self.step += 1
        for each in sorted(self.those(DELAYED), key=lambda each: (each.due, each.number)):
            if each.due <= now:
                self.make_ready(each)
        for each in self.leased():
            if each.lease_ends <= now:
                self.give_back(each)
        for each in self.those(READY):
            if each.expires <= now:
                self.settle(each, EXPIRED, "expired")

    def give_back(self, each: Sent, delay: float = 0) -> None:
        """Somebody had it and failed, or died, or was too slow: the attempt counts."""
        if each.attempts >= self.max_attempts:
            self.settle(each, DEAD, "delivery_limit")
        elif delay:
            each.state, each.holder, each.due = DELAYED, None, self.now + round(delay * SECOND)
        else:
            self.make_ready(each)

    # ---- receiving, and what becomes of it

    def receive(self, most: int, who: object) -> list[Sent]:
        got = self.in_order()[:most]
        for each in got:
            each.state, each.holder, each.leased_at = LEASED, who, self.now
            each.lease_ends = self.now + self.lease * SECOND
            each.attempts += 1
            each.deliveries += 1
            self.receipts += 1
            each.receipt = self.receipts
            each.first_received_at = each.first_received_at or self.now
        return got

    def ack(self, each: Sent) -> None:
        self.settle(each, ACKED)

    def nack(self, each: Sent, delay: float = 0) -> None:
        self.step += 1
        self.give_back(each, delay)

    def release(self, each: Sent) -> None:
        each.attempts -= 1
        self.make_ready(each)

    def reject(self, each: Sent, why: str) -> None:
        """`why` is told as its last error."""
        self.step += 1
        self.settle(each, DEAD, "rejected")

    def extend(self, each: Sent, seconds: float) -> None:
        each.lease_ends = min(self.now + seconds * SECOND, each.leased_at + self.max_lease * SECOND)

    def leave(self, *holders: object) -> None:
        """They closed, or died: what they had comes back."""
        self.step += 1
        for each in self.leased():
            if each.holder in holders:
                self.give_back(each)

    def purge(self) -> int:
        """Everything that is not settled goes; how many."""
        gone = self.those(READY) + self.those(DELAYED) + self.those(LEASED)
        for each in gone:
            each.state, each.holder = PURGED, None
        self.unsure |= set(self.ids)
        return len(gone)

    def redrive(self, dead: list[Sent]) -> None:
        """The dead come back in this order, behind all that wait, with what they went through written on them, and live anew."""
        for each in dead:
            each.attempts = each.deliveries = each.first_received_at = 0
            each.place = math.inf
            each.expires = math.inf if self.ttl is None else self.now + round(self.ttl * SECOND)
            self.make_ready(each)
