"""Queue: messages for workers, each handled by one of them; what RabbitMQ and SQS call a queue, over logs of this store.

It promises: a message that was sent is handed out until it is acked, or has failed `max_attempts` times and lies in the dead
letters; what was acked never comes again (after a power cut: what was acked with fsync="always", or synced); what a process
holds that dies comes back at once. Sends, acks and moves may be part of transactions.

    topics/~<name>/0 ..        the logs: one per priority, then that of delayed messages, then that of acks in transactions
    topics/~<name>/queue/      what became of each message (`seglog.engine.slots`), and the shared memory

The hot verbs, `send`, `receive` and `Message.ack`, are the engine's own. Everything here decides, and moves what is to be moved:
each move is a transaction of an ack and a send.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from seglog.clock import Clock, micros, seconds
from seglog.conditions import DEDUP_AT, DEDUP_ID, bytes_of
from seglog.engine.delivery import REASONS, Delivery
from seglog.engine.message import Message
from seglog.engine.reclaim import confirm, reclaim
from seglog.engine.transactions import Transaction
from seglog.errors import ConfigError, LeaseLost, QueueFull
from seglog.queueconfig import QueueConfig
from seglog.queuestatistics import QueueStatistics, statistics_of
from seglog.record import Position, Span
from seglog.start import Start, end_of, natural, start_of

if TYPE_CHECKING:
    from seglog.topic import Topic

__all__ = ["Message", "Queue"]

EXPIRES, DUE, GROUP, PRIORITY = "seglog-expires", "seglog-due", "seglog-group", "seglog-priority"
ID, SENT, ORIGIN, DEDUP_WAS = "seglog-id", "seglog-sent", "seglog-origin", "seglog-dedup"
OWN = (DEDUP_ID, DEDUP_AT)
MOVED = 4  # the reason of what was moved elsewhere
AT_ONCE = 500  # messages that one transaction moves
SORTED_AT_ONCE = 50_000  # delayed messages that are put into the order in which they are due
UNTOUCHED, READY, LEASED, DELAYED, DOOMED, WAITING, SETTLED = range(7)


class Home(Protocol):
    """What a queue asks of the store it lives in."""

    clock: Clock

    def transaction(self) -> Transaction: ...

    def dead_letters(self, name: str) -> Queue:
        """The queue of that name, made when there is none."""

    def queue_of(self, name: str) -> Queue | None: ...


class Full(Exception):
    """There is no room, as a condition of a transaction found."""


class Queue(Delivery):
    """What `store.queue(name)` returns: the same object for the same name. Threads may share it, and so may any number of
    processes.

    `send(value, key=None, headers=None, *, priority, delay, deliver_at, ttl, dedup_id, group, tx, timeout)` and
    `receive(max_messages=1, timeout=None, *, tx=None)` are the engine's.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     jobs = store.queue("jobs")
    ...     _ = jobs.send(b"resize cat.jpg")
    ...     for message in jobs.receive(max_messages=10, timeout=0):
    ...         print(message.value, message.attempts)
    ...         message.ack()
    b'resize cat.jpg' 1
    """

    def __init__(
        self, home: Home, name: str, queue_id: int, config: QueueConfig, topic: Topic, folder: str, timeout: float
    ) -> None:
        """Made by `Store.queue`."""
        self._home = home
        self._name = name
        self._config = config
        self.topic = topic
        self._delayed = config.priorities
        self._reclaimed = 0, 0.0
        *logs, self._settled = topic.current()
        self._logs = logs
        self._attach(
            folder,
            logs,
            self._settled,
            queue_id,
            lease_us=round(config.lease * 1e6),
            max_lease_us=round(config.max_lease * 1e6),
            ttl_us=-1 if config.ttl is None else round(config.ttl * 1e6),
            max_attempts=config.max_attempts,
            keeps_dead=self.dead_letter is not None,
            keeps_expired=config.dead_letter_expired and self.dead_letter is not None,
            weighted=config.weighted,
            single=config.single_active,
            plain=not config.bounded,
            by_bytes=config.max_bytes is not None,
            grouping=1 if config.fifo else 2 if config.fair else 0,
            lookahead=config.lookahead,
            lock_timeout=timeout,
        )

    # ---- what it is ---------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> QueueConfig:
        """Its settings."""
        return self._config

    @property
    def dead_letter(self) -> str | None:
        """The name of the queue that takes its dead letters; None when they are dropped."""
        setting = self._config.dead_letter
        if isinstance(setting, str):
            return setting
        return None if not setting or self._name.endswith(".dead") else (self._name + ".dead")

    def __repr__(self) -> str:
        return f"<Queue {self._name}>"

    # ---- sending ------------------------------------------------------------------------------------

    def send_many(
        self,
        values: Sequence[Any],
        keys: Sequence[Any] | None = None,
        headers: Sequence[Any] | None = None,
        *,
        priority: int | None = None,
        delay: float | timedelta | None = None,
        deliver_at: Any = None,
        ttl: float | timedelta | None = None,
        group: Any = None,
        timeout: float | timedelta | None = None,
        tx: Transaction | None = None,
    ) -> list[Span]:
        """Add many messages, all with the same options; the runs of offsets they took, as a list of `Span(level, start, stop)`.

        With a bound all of them are there or, after QueueFull, none; else as `Topic.send_many`. Raises as `send`. About 40 ns each.
        """
        options = (priority, delay, deliver_at, ttl, group)
        if headers is None and options == (None,) * 5:
            level, each = 0, None
        else:
            level, own = self._made(None, *options[:4], None, group)
            if headers is None:
                each = [own] * len(values)
            else:
                each = [self._checked(one) | own for one in headers]
        if self._config.bounded:
            done = self._admit(
                len(values),
                sum(map(len, values)) if self._config.max_bytes else 0,
                lambda own: self.topic.send_many(values, keys, each, partition=level, tx=own),
                tx,
                timeout,
            )
            return [] if done is None else [span for _, span in done.spans]
        return self.topic.send_many(values, keys, each, partition=level, tx=tx)

    def _send_with(
        self,
        value: Any,
        key: Any,
        headers: Any,
        priority: Any,
        delay: Any,
        deliver_at: Any,
        ttl: Any,
        dedup_id: Any,
        group: Any,
        tx: Transaction | None,
        timeout: Any,
    ) -> Position | None:
        """`send` with options, for a bounded queue, or in a transaction."""
        self._check_open()
        level, own_headers = self._made(headers, priority, delay, deliver_at, ttl, dedup_id, group)
        if dedup_id is not None:
            if tx is not None:
                raise ConfigError(
                    "dedup_id and tx exclude each other: a transaction cannot know before it commits whether the message is to be "
                    "in it. "
                    "Nothing was sent.",
                    setting="dedup_id",
                    value=dedup_id,
                )
            found = self._repeated(own_headers[DEDUP_ID])
            if found is not None:
                return found
        if dedup_id is None and not self._config.bounded:
            return self.topic.send(value, key, own_headers or None, partition=level, tx=tx)

        def add(own: Transaction) -> None:
            self.topic.send(value, key, own_headers or None, partition=level, tx=own)
            if dedup_id is not None:
                for log in self._logs:
                    own.hold(log)
                own.require(lambda: self._is_new(own_headers[DEDUP_ID]))
                self._note_dedup(self._home.clock())

        try:
            done = self._admit(1, 0 if value is None else len(value), add, tx, timeout)
        except Known as known:
            return known.position
        if done is None:
            return None
        ((_, span),) = done.spans
        return Position(level, span.start)

    def _made(
        self, headers: Any, priority: Any, delay: Any, deliver_at: Any, ttl: Any, dedup_id: Any, group: Any
    ) -> tuple[int, dict[str, Any]]:
        """The level a message goes to, and its headers with the queue's own."""
        own = self._checked(headers)
        level = 0 if priority is None else min(natural(priority, "priority"), self._config.priorities - 1)
        available = None
        if delay is not None and deliver_at is not None:
            raise ConfigError(
                "delay and deliver_at exclude each other. Nothing was sent.", setting="delay", value=delay
            )
        if delay is not None:
            wait = round(seconds(delay, "delay") * 1e6)
            available = self._home.clock() + wait if wait else None
        elif deliver_at is not None:
            available = micros(deliver_at, "deliver_at")
        if ttl is not None:
            life = seconds(ttl, "ttl")
            if self._config.ttl is not None:
                life = min(life, self._config.ttl)
            own[EXPIRES] = number_bytes((available or self._home.clock()) + round(life * 1e6))
        if group is not None:
            own[GROUP] = bytes_of(group, "group")
        if dedup_id is not None:
            own[DEDUP_ID] = bytes_of(dedup_id, "dedup_id")
            own[DEDUP_AT] = number_bytes(self._home.clock())
        if available is not None:
            own[DUE] = number_bytes(available)
            own[PRIORITY] = number_bytes(level)
            level = self._delayed
        return level, own

    def _checked(self, headers: Any) -> dict[str, Any]:
        """A message's own headers, none of which may be called as the queue's are."""
        own: dict[str, Any] = dict(headers or {})
        for header in own:
            if isinstance(header, str) and (header.startswith("seglog-") or header in OWN):
                raise ConfigError(
                    f"the header {header!r} is the queue's own: take another name. Nothing was sent.",
                    setting="headers",
                    value=header,
                )
        return own

    def _repeated(self, dedup_id: bytes) -> Position | None:
        """Where the message is that was sent with this id within the window."""
        window, now = round(self._config.dedup_window * 1e6), self._home.clock()
        for log in self._logs:
            offset = self.topic.window(log.partition).find(log, dedup_id, now, window, 1 << 40)
            if offset is not None:
                return Position(log.partition, offset)
        return None

    def _dedups(self, now: int) -> bool:
        """Whether an id may still have to be known."""
        return self._last_dedup() > now - round(self._config.dedup_window * 1e6)

    def _is_new(self, dedup_id: bytes) -> None:
        found = self._repeated(dedup_id)
        if found is not None:
            raise Known(found)

    # ---- bounds -------------------------------------------------------------------------------------

    def _admit(
        self, n: int, size: int, add: Callable[[Transaction], object], tx: Transaction | None, timeout: Any
    ) -> Transaction | None:
        """`add` in a transaction that commits only while there is room for n messages more. None: in `tx`, or dropped."""
        overflow, ahead = self._config.overflow, 0
        deadline = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        if self._config.bounded and (n > (self._config.max_length or n) or size > (self._config.max_bytes or size)):
            raise self._is_full(f"{n:,} messages of {size:,} bytes never have room in it", never=True)
        while True:
            own = self._home.transaction() if tx is None else tx
            try:
                if self._config.bounded:
                    ahead = 0 if tx is None else sum(tx.ahead(log) for log in self._logs[: self._delayed])
                    if ahead and n + ahead > (self._config.max_length or n + ahead) and overflow != "drop_new":
                        raise self._is_full(f"there is never room for the {n + ahead:,} messages of this transaction", never=True)
                    if tx is not None:
                        self._room(n + ahead, size)
                    own.hold(self._settled)
                    own.require(partial(self._room, n + ahead, size, told=tx is not None, counts=True))
                    if self._config.max_bytes is not None:
                        own.on_abort(self._recount_bytes)
                add(own)
                if tx is not None:
                    return None
                own.commit()
                return own
            except Full:
                if tx is None:
                    own.abort()
            if overflow == "reject":
                raise self._is_full(f"there is no room for {n:,} more")
            if overflow == "drop_new":
                self._count_dropped(n)
                return None
            if overflow != "block":
                self._make_room(n + ahead, size)
                continue
            left = -1 if deadline is None else round((deadline - time.monotonic()) * 1e6)
            if (deadline is not None and left <= 0) or not self._wait_for_space(
                -1 if left < 0 else left + time.monotonic_ns() // 1000
            ):
                raise self._is_full(f"there was no room for {n:,} more within {timeout} seconds")

    def _room(self, n: int, size: int, told: bool = False, counts: bool = False) -> None:
        """Under the lock that all senders of a bounded queue pass through: raise Full (in a transaction of the user's,
        QueueFull)."""
        config = self._config
        full = config.max_length is not None and self._length() + n > config.max_length
        if not full and config.max_bytes is not None:
            full = self._ready_bytes() + size > config.max_bytes
        if full:
            raise self._is_full(f"there is no room for {n:,} more") if told else Full
        if counts:
            self._add_bytes(size)

    def _make_room(self, n: int, size: int) -> None:
        dead = self._config.overflow == "dead_letter" and self.dead_letter is not None
        if self._config.max_length is not None:
            over = self._length() + n - self._config.max_length
            if over > 0:
                self._drop_oldest(over, dead)
        if self._config.max_bytes is not None:
            while self._ready_bytes() + size > self._config.max_bytes and self._drop_oldest(1, dead):
                pass
        self._do_chores()

    def _is_full(self, why: str, never: bool = False) -> QueueFull:
        limits = [
            f"{n:,} {what}"
            for n, what in ((self._config.max_length, "messages"), (self._config.max_bytes, "bytes"))
            if n
        ]
        return QueueFull(
            f"queue {self._name} holds at most {' and '.join(limits)}: {why}. Nothing was sent.",
            queue=self._name,
            max_length=self._config.max_length,
            max_bytes=self._config.max_bytes,
            never=never,
        )

    # ---- failing ------------------------------------------------------------------------------------

    def nack(self, messages: list[Message], delay: float | timedelta | None = None, error: str | None = None) -> None:
        """They failed: each comes again after `delay` seconds (default: the queue's backoff), or is dead after `max_attempts`."""
        self._nack(messages, delay, error)

    def release(self, messages: list[Message]) -> None:
        """Give them back as if they had not been received."""
        self._release(messages)

    def reject(self, messages: list[Message], reason: str = "rejected", tx: Transaction | None = None) -> None:
        """They will never succeed: to the dead letters, for this reason."""
        self._reject(messages, reason, tx)

    def extend(self, messages: list[Message], seconds: float | timedelta) -> None:
        """Their leases end `seconds` from now."""
        self._extend(messages, seconds)

    def _nack(self, messages: list[Message], delay: float | timedelta | None, error: str | None) -> None:
        limit = self._config.max_attempts
        dead = [message for message in messages if limit and message.attempts >= limit]
        alive = [message for message in messages if not (limit and message.attempts >= limit)]
        if alive:
            now = self._home.clock()
            backoff = self._config.backoff
            if delay is not None:
                waits = [seconds(delay, "delay")] * len(alive)
            else:
                waits = [0.0 if backoff is None else backoff.delay(message.attempts) for message in alive]
            self._give_back(alive, [now + round(wait * 1e6) if wait else 0 for wait in waits], True)
        if dead:
            self._bury(dead, "delivery_limit", error)

    def _release(self, messages: list[Message]) -> None:
        self._give_back(messages, None, False)

    def _reject(self, messages: list[Message], reason: str, tx: Transaction | None = None) -> None:
        if not isinstance(reason, str):
            raise TypeError(f"a reason is a str, not {type(reason).__name__}")
        self._bury(messages, "rejected", reason, tx)

    def _bind(self, tx: Transaction, messages: list[Message]) -> None:
        """What was received in a transaction goes back when that is given up."""

        def give_back() -> None:
            for message in messages:
                with suppress(LeaseLost):  # settled, or somebody else's
                    self._release([message])

        tx.on_abort(give_back)

    # ---- moving -------------------------------------------------------------------------------------

    def _bury(self, messages: list[Message], reason: str, error: str | None, tx: Transaction | None = None) -> None:
        """To the dead letters, each exactly once: its copy there and the end here are one transaction."""
        target = self.dead_letter
        own = self._home.transaction() if tx is None else tx
        dead = None if target is None else self._home.dead_letters(target)
        for message in messages:
            if dead is not None:
                its_reason = REASONS[message.reason] or reason
                dead.put(message, own, self._epitaph(message, its_reason, error))
        self._add_settled(own, messages, 1 if reason != "expired" else 2)
        if tx is None:
            own.commit()

    def _epitaph(self, message: Message, reason: str, error: str | None) -> dict[str, Any]:
        """The headers of a dead letter: what RabbitMQ writes, and the last error."""
        deaths = message.deaths
        now = self._home.clock()
        entry = next((d for d in deaths if d["queue"] == self._name and d["reason"] == reason), None)
        if entry is None:
            entry = {"queue": self._name, "reason": reason, "count": 0, "exchange": "", "routing-keys": [self._name]}
        deaths = [d for d in deaths if d is not entry]
        entry |= {"count": entry["count"] + 1, "time": now, "attempts": message.attempts, "sent_at": message.sent_at}
        if error is not None:
            entry["error"] = error
        expires = message.attributes.get(EXPIRES)
        if expires is not None:
            entry["original-expiration"] = int.from_bytes(expires, "little", signed=True)
        deaths.insert(0, entry)
        first = {"x-first-death-queue": self._name, "x-first-death-reason": reason, "x-first-death-exchange": ""}
        mine = message.headers
        return {
            **mine,
            **{header: mine.get(header, text.encode()) for header, text in first.items()},
            "x-last-death-queue": self._name.encode(),
            "x-last-death-reason": reason.encode(),
            "x-last-death-exchange": b"",
            "x-death": json.dumps(deaths).encode(),
            ORIGIN: self._name.encode(),
            PRIORITY: number_bytes(message.priority),
        }

    def put(
        self,
        message: Message,
        tx: Transaction,
        headers: dict[str, Any],
        level: int = 0,
        keep_dedup: bool = False,
        timestamp: int | None = None,
    ) -> None:
        """For other queues: a message that moves here when `tx` commits, with its id, the time it was sent, and its group."""
        own = message.attributes
        headers = {**headers, ID: message.id.encode(), SENT: number_bytes(message.sent_at)}
        if GROUP in own:
            headers[GROUP] = own[GROUP]
        if message.dedup_id is not None:
            headers[DEDUP_ID if keep_dedup else DEDUP_WAS] = message.dedup_id
            if keep_dedup and DEDUP_AT in own:
                headers[DEDUP_AT] = own[DEDUP_AT]
        self.topic.send(message.value, message.key, headers, timestamp=timestamp, partition=level, tx=tx)

    def _do_chores(self) -> None:
        """Move what is due from the delayed log, and what is doomed to the dead letters. By whoever comes first."""
        self._take_in_all()
        while due := self._take(self._delayed, SORTED_AT_ONCE):
            due.sort(key=due_of)
            try:
                while due:
                    some = due[:AT_ONCE]
                    with self._home.transaction() as tx:
                        for message in some:
                            self._make_ready(message, tx)
                        self._add_settled(tx, some, MOVED)
                    del due[: len(some)]
            finally:
                if due:
                    self._release(due)
        for level in range(self._config.priorities):
            while doomed := self._in_state(level, DOOMED, AT_ONCE):
                expired = [message for message in doomed if REASONS[message.reason] == "expired"]
                others = [message for message in doomed if REASONS[message.reason] != "expired"]
                try:
                    for some, reason in ((expired, "expired"), (others, "delivery_limit")):
                        if some:
                            self._bury(some, reason, None)
                except LeaseLost:  # another process is at it
                    break

    def _make_ready(self, message: Message, tx: Transaction) -> None:
        """A delayed message that is due, into the log of its priority: as if it had been sent when it was due."""
        own = message.attributes
        headers = dict(message.headers)
        if EXPIRES in own:
            headers[EXPIRES] = own[EXPIRES]
        level = min(int.from_bytes(own.get(PRIORITY, b""), "little"), self._config.priorities - 1)
        self.put(message, tx, headers, level, keep_dedup=True, timestamp=due_of(message)[0])

    def redrive(
        self,
        to: Queue | str | None = None,
        *,
        filter: Callable[[Message], bool] | None = None,
        rate: float | None = None,
        max_messages: int | None = None,
    ) -> int:
        """Move what is ready here, in a queue of dead letters, back to where each came from, or to `to`; how many went.

        Each is moved by a transaction: never lost, never twice. It keeps its id, and its deaths. `filter(message)` says which,
        `rate` how many a second at most. What came from a queue that is no more stays. Stop it with Ctrl-C; what was moved stays
        moved."""
        target = self._home.queue_of(to) if isinstance(to, str) else to
        if to is not None and target is None:
            raise ConfigError(f"there is no queue {to!r} to move to. Nothing was moved.", setting="to", value=to)
        moved = 0
        passed: list[Message] = []
        end = [log.next_offset for log in self._logs]
        began = time.monotonic()
        try:
            while max_messages is None or moved < max_messages:
                wanted = AT_ONCE if rate is None else max(1, min(AT_ONCE, int(rate / 20)))
                if max_messages is not None:
                    wanted = min(wanted, max_messages - moved)
                some = self.claim_for(wanted)
                if not some:
                    break
                go = [m for m in some if (filter is None or filter(m)) and m.offset < end[m.priority]]
                passed += [m for m in some if m not in go]
                with self._home.transaction() as tx:
                    gone = []
                    for message in go:
                        its = target or self._home.queue_of(message.attributes.get(ORIGIN, b"").decode())
                        if its is None or its is self:
                            passed.append(message)
                            continue
                        level = int.from_bytes(message.attributes.get(PRIORITY, b""), "little")
                        its.put(message, tx, message.headers, min(level, its.config.priorities - 1))
                        gone.append(message)
                    if gone:
                        self._add_settled(tx, gone, MOVED)
                moved += len(gone)
                if rate is not None:
                    time.sleep(max(0.0, began + moved / rate - time.monotonic()))
        finally:
            if passed:
                self._release(passed)
        return moved

    # ---- looking ------------------------------------------------------------------------------------

    def peek(self, n: int = 1) -> list[Message]:
        """The next messages that would come, as things stand; not leased, and nothing is changed."""
        natural(n, "n", 1)
        found: list[Message] = []
        for level in reversed(range(self._config.priorities)):
            if len(found) < n:
                found += self._in_state(level, READY, n - len(found))
            if len(found) < n:
                found += self._untouched(level, n - len(found))
        return found

    def browse(self) -> Iterator[Message]:
        """Every message that is not settled, level by level, the highest first, in whatever state; the delayed ones last. Not
        leased."""
        for level in [*reversed(range(self._config.priorities)), self._delayed]:
            for state in (READY, LEASED, WAITING, DELAYED, DOOMED):
                at = 0
                while some := self._in_state(level, state, AT_ONCE, at):
                    yield from some
                    at = some[-1].offset + 1
            at = -1
            while some := self._untouched(level, AT_ONCE, at):
                yield from some
                at = some[-1].offset + 1

    def statistics(self) -> QueueStatistics:
        """Counts by state, exact at one moment; see `QueueStatistics`. Expired messages are let go of first."""
        if self._sweep():
            self._do_chores()
        return statistics_of(self._name, self._logs, *self._counts(), self._oldest(), self._home.clock())

    def _oldest(self) -> int | None:
        """When the oldest ready message was sent."""
        times = []
        for level in range(self._config.priorities):
            times += [m.timestamp for m in self._in_state(level, READY, 1) + self._untouched(level, 1)]
        return min(times, default=None)

    # ---- care ---------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Delete every message that is not settled, whoever has it: receipts that are out raise LeaseLost. How many they were.
        Exact: what is sent after the call began, and not before, stays."""
        self._check_open()
        return self._purge()

    def sync(self) -> None:
        """A barrier: what was sent and settled before survives a power cut when this returns."""
        self._check_open()
        self.topic.sync()
        self._sync()

    def sync_states(self) -> None:
        """For upkeep: what was settled survives a power cut; what was sent is the topic's."""
        self._sync()

    def upkeep(self) -> None:
        """What `receive` does too, for queues that nobody receives from: delays, expiry, dead letters."""
        if self._sweep():
            self._do_chores()

    def tidy(self, stop: Callable[[], bool]) -> None:
        """For the store's upkeep, every second: `upkeep`, and `reclaim` when something was settled since, or a minute is over."""
        self.upkeep()
        _, said = self._counts()
        settled = sum(said[which] for which in ("acked", "expired", "dropped", "dead")) + self._settled.next_offset
        if settled != self._reclaimed[0] or time.monotonic() - self._reclaimed[1] > 60:
            self._reclaimed = settled, time.monotonic()
            self.reclaim(stop)

    def reclaim(self, stop: Callable[[], bool] | None = None) -> int:
        """Give the space of settled messages back, also behind one that is not; how many bytes of segment files that were.

        Whole segments only: those in which nothing waits, and those in which less than half does, which are written anew. What
        `keep_acked` and `dedup_window` keep stays. Upkeep does it by itself. Cost: a look at the states, and what is written anew.
        """
        confirm(self)
        now = self._home.clock()
        keep = self._config.keep_acked
        younger = max(keep or 0.0, self._config.dedup_window if self._dedups(now) else 0.0)
        return reclaim(self, now - round(younger * 1e6) if younger else 1 << 62, keep is not None, stop)

    def replay(self, start: Start = "earliest", stop: Start = "latest") -> int:
        """Where `keep_acked` kept them, messages that were acked become ready again, as if they were new; how many. `start` and
        `stop`: an aware datetime, or "earliest" and "latest", by when they were sent; dead letters stay dead.
        """
        if self._config.keep_acked is None:
            raise ConfigError(
                f"queue {self._name} keeps no acked messages: it was made without keep_acked. Nothing was changed.",
                setting="keep_acked",
                value=None,
            )
        again = 0
        for level in range(self._config.priorities):
            log = self._logs[level]
            again += self._revive(level, start_of(start, log), end_of(stop, log))
        return again

    def close(self) -> None:
        """Let go of it: what this process still holds comes back when its leases end. The store closes what it opened."""
        self._detach()

    def _check_open(self) -> None:
        self._length_check()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Known(Exception):
    """A message with this id was sent already."""

    def __init__(self, position: Position) -> None:
        super().__init__(position)
        self.position = position


def number_bytes(n: int) -> bytes:
    return n.to_bytes(8, "little", signed=True)


def due_of(message: Message) -> tuple[int, int]:
    return int.from_bytes(message.attributes.get(DUE, b""), "little", signed=True), message.offset
