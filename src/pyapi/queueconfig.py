"""QueueConfig: how a queue behaves; written down when it is made, and the same for everybody who opens it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from seglog.config import SECONDS_MAX, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, choice, flag, integer, number, refuse
from seglog.errors import UnsupportedFormat
from seglog.names import check_name

__all__ = ["Backoff", "Overflow", "QueueConfig"]

Overflow = Literal["block", "reject", "drop_oldest", "drop_new", "dead_letter"]
Kind = Literal["fixed", "linear", "exponential"]

PRIORITIES_MAX = 255
ATTEMPTS_MAX = 8000


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a message that failed waits before it comes again: longer each time, and not all at once.

    "fixed": `first` seconds; "linear": `first`, twice, three times `first`; "exponential": `first`, double, double again; never
    more than
    `maximum`, and then up to `jitter` of that less or more, at random.

    >>> [Backoff("exponential", first=1.0, maximum=10.0, jitter=0.0).delay(attempts) for attempts in (1, 2, 3, 4, 5)]
    [1.0, 2.0, 4.0, 8.0, 10.0]
    """

    kind: Kind = "exponential"
    first: float = 1.0
    maximum: float = 300.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        choice("backoff.kind", self.kind, get_args(Kind))
        number("backoff.first", self.first, 0.0, SECONDS_MAX)
        number("backoff.maximum", self.maximum, 0.0, SECONDS_MAX)
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float) or not 0.0 <= self.jitter <= 1.0:
            refuse("backoff.jitter", self.jitter, "a number from 0 to 1")

    def delay(self, attempts: int) -> float:
        """Seconds to wait after so many attempts, 1 or more."""
        times = {"fixed": 1.0, "linear": float(attempts), "exponential": 2.0 ** min(max(attempts, 1) - 1, 60)}[
            self.kind
        ]
        return min(self.first * times, self.maximum) * (1.0 + self.jitter * random.uniform(-1.0, 1.0))


@dataclass(frozen=True, slots=True)
class QueueConfig:
    """The settings of a queue. Durations are seconds.

    >>> QueueConfig(lease=60, max_attempts=3).dead_letter
    True
    """

    lease: float = 30.0
    """Seconds that a received message is yours, unless you extend it; then it comes again. Only for consumers that hang: what a
    process holds that dies comes back at once. 30, as in SQS."""

    max_lease: float = 43200.0
    """Seconds after which a lease ends however often it was extended. 12 hours, as in SQS."""

    max_attempts: int = 5
    """How often a message is tried: what has failed so often (nack, lease over, process died) goes to the dead letters. 0: without
    end."""

    backoff: Backoff | None = None
    """How long `nack()` makes a message wait when it does not say so itself. None: not at all."""

    dead_letter: bool | str = True
    """Where messages go that cannot be handled: True, the queue `<name>.dead`; or the queue of this name; False: nowhere, they are
    dropped and counted. A queue whose own name ends in `.dead` has none unless it is named."""

    dead_letter_expired: bool = False
    """Whether messages whose time to live is over go there too, with the reason "expired"."""

    ttl: float | None = None
    """Seconds that a message is worth something after it can be received first; then it is never handed out. None: for ever."""

    max_length: int | None = None
    """How many messages may be ready at most: those that are out or delayed do not count, and what comes back is never refused."""

    max_bytes: int | None = None
    """How many bytes the values of ready messages may have together."""

    overflow: Overflow = "block"
    """What a send does that would exceed that: "block" waits for room, "reject" raises QueueFull, "drop_oldest" lets go of the
    oldest message of the lowest level, "dead_letter" moves that to the dead letters, "drop_new" forgets the new one."""

    priorities: int = 1
    """How many levels there are: 0 to this - 1, the highest first. Each has a log of its own."""

    weighted: bool = False
    """Whether lower levels get their share (level + 1 of the sum) while higher ones have something, instead of waiting for them."""

    fifo: bool = False
    """Whether the messages of one `group` are handled one after the other, in the order in which they were sent."""

    fair: bool = False
    """Whether groups take turns, so that one with many messages does not keep the others waiting."""

    lookahead: int = 1_000_000
    """FIFO and fair queues: how many messages are looked through, at most, for one whose turn it is."""

    dedup_window: float = 300.0
    """Seconds for which a `dedup_id` is known. 5 minutes, as in SQS."""

    keep_acked: float | None = None
    """Seconds that messages stay in the log after they were settled, for `replay`. None: their space is given back."""

    single_active: bool = False
    """Whether one consumer receives and all others wait until it closes or dies."""

    segment_bytes: int = 64 << 20
    """Bytes of a segment file: settled messages are given back in such pieces."""

    def __post_init__(self) -> None:
        number("lease", self.lease, 0.001, SECONDS_MAX)
        number("max_lease", self.max_lease, 0.001, SECONDS_MAX)
        integer("max_attempts", self.max_attempts, 0, ATTEMPTS_MAX)
        backoff: object = self.backoff
        if backoff is not None and not isinstance(backoff, Backoff):
            refuse("backoff", backoff, "seconds, a seglog.Backoff or None")
        if isinstance(self.dead_letter, str):
            check_name(self.dead_letter, "queue")
        else:
            flag("dead_letter", self.dead_letter)
        for setting in ("dead_letter_expired", "weighted", "fifo", "fair", "single_active"):
            flag(setting, getattr(self, setting))
        for setting in ("ttl", "keep_acked"):
            if getattr(self, setting) is not None:
                number(setting, getattr(self, setting), 0.0, SECONDS_MAX)
        for setting in ("max_length", "max_bytes"):
            if getattr(self, setting) is not None:
                integer(setting, getattr(self, setting), 1, 1 << 60)
        choice("overflow", self.overflow, get_args(Overflow))
        integer("priorities", self.priorities, 1, PRIORITIES_MAX)
        integer("lookahead", self.lookahead, 1, 1 << 40)
        number("dedup_window", self.dedup_window, 0.001, SECONDS_MAX)
        integer("segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
        if self.fifo and self.fair:
            refuse("fair", self.fair, "False in a FIFO queue")
        if (self.fifo or self.fair) and self.priorities > 1:
            refuse("priorities", self.priorities, "1 in a queue with groups, whose order it would break")

    @property
    def bounded(self) -> bool:
        return self.max_length is not None or self.max_bytes is not None

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, Any], name: str = "?") -> QueueConfig:
        """The reverse; a setting that is unknown raises UnsupportedFormat."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise UnsupportedFormat(
                f"queue {name} has settings that this version of seglog does not know: {', '.join(unknown)}. It was made by a "
                f"newer "
                "one; use that. Nothing was changed.",
                found=unknown,
                supported=sorted(known),
            )
        backoff = settings.get("backoff")
        return cls(**{**settings, "backoff": None if backoff is None else Backoff(**backoff)})

    def differences(self, asked: Mapping[str, object]) -> dict[str, tuple[object, object]]:
        """setting -> (asked, existing), for each of `asked` that is otherwise here."""
        return {
            setting: (value, getattr(self, setting))
            for setting, value in asked.items()
            if value != getattr(self, setting)
        }
