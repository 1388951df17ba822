"""Handler: a function that is given each message of a queue, or each record of a topic, and what was agreed about how.

`@store.handler(...)` only writes the agreement down; `workers` keeps it. The agreement:

    it returns            the message is acked (in a topic: its offset is committed)
    it raises             nack, and again after the queue's backoff, or after 1 s, 2 s, 4 s .. 300 s if that has none
    it raises Retry(s)    nack, and again after s seconds
    it raises Reject(why) to the dead letters, now (in a topic: passed over)

A function with a parameter called `tx` gets a transaction with each message: what it sends with it, the ack, and the mark that
`dedup` makes are one thing, done or not done whatever dies in between. Async functions run on one event loop per process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from seglog.clock import seconds
from seglog.errors import ConfigError
from seglog.limits import RateLimit
from seglog.names import check_name
from seglog.start import natural
from seglog.topic import Topic

__all__ = ["Dedup", "Handler", "Reject", "Retry", "handler_of", "message_id"]

Dedup = Literal["message_id"] | Callable[[Any], bytes]



class Retry(Exception):
    """Raised in a handler: not now; again after `delay` seconds, or after the usual pause when it is None. Counts as an attempt.

    >>> import seglog
    >>> raise seglog.Retry(60, "the printer is out of paper")
    Traceback (most recent call last):
    seglog.handlers.Retry: the printer is out of paper
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "retry") -> None:
        super().__init__(reason)
        self.delay = None if delay is None else seconds(delay, "delay")
        self.reason = reason


class Reject(Exception):
    """Raised in a handler: never; this message goes to the dead letters now, with the reason.

    >>> import seglog
    >>> raise seglog.Reject("no picture")
    Traceback (most recent call last):
    seglog.handlers.Reject: no picture
    """

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """What was agreed about one function."""

    function: Callable[..., Any]
    source: Any  # a queue, a topic, or the name of one
    concurrency: int = 1
    group: str | None = None
    """With a group, the source is a topic."""
    dedup: Callable[[Any], bytes] | None = None
    rate_limit: RateLimit | None = None
    prefetch: int = 1
    takes_tx: bool = False
    is_async: bool = False

    @property
    def name(self) -> str:
        """What it listens to: `jobs`, or `orders:billing` for a group of a topic."""
        source = self.source if isinstance(self.source, str) else self.source.name
        return source if self.group is None else f"{source}:{self.group}"

    def __repr__(self) -> str:
        return f"<Handler {getattr(self.function, '__qualname__', self.function)} of {self.name}, {self.concurrency} at once>"


def handler_of(
    function: Callable[..., Any],
    source: Any,
    *,
    concurrency: int = 1,
    group: str | None = None,
    dedup: Dedup | None = None,
    rate_limit: float | RateLimit | None = None,
    prefetch: int | None = None,
) -> Handler:
    """The agreement, checked. Raises ConfigError, TypeError, InvalidName."""
    if not callable(function):
        raise TypeError(f"a handler is a function of a message, not {type(function).__name__}: {function!r}")
    if isinstance(source, str):
        check_name(source, "queue" if group is None else "topic")
    if group is not None:
        check_name(group, "group")
    if isinstance(source, Topic) and group is None:
        raise ConfigError(
            f"a handler reads topic {source.name} as a member of a group, which remembers how far it is: say group=.",
            setting="group",
            value=None,
        )
    if group is not None and not isinstance(source, str | Topic):
        raise ConfigError(
            f"group={group!r} is for topics, and {source!r} is none: all handlers of a queue share its messages anyway.",
            setting="group",
            value=group,
        )
    if dedup is not None and dedup != "message_id" and not callable(dedup):
        raise ConfigError(
            f'dedup is {dedup!r}; it must be "message_id", or a function of a message that returns bytes.',
            setting="dedup",
            value=dedup,
        )
    if rate_limit is not None and not isinstance(rate_limit, RateLimit):
        rate_limit = RateLimit(rate_limit)
    return Handler(
        function,
        source,
        concurrency=natural(concurrency, "concurrency", 1),
        group=group,
        dedup=message_id if dedup == "message_id" else dedup,
        rate_limit=rate_limit,
        prefetch=1 if prefetch is None else natural(prefetch, "prefetch", 1),
        takes_tx="tx" in inspect.signature(function).parameters,
        is_async=inspect.iscoroutinefunction(function)
        or inspect.iscoroutinefunction(getattr(function, "__call__", None)),  # noqa: B004
    )


def message_id(message: Any) -> bytes:
    """What a message is called for as long as it exists, in whichever queue; of a topic's record: where it is."""
    known: str | None = getattr(message, "id", None)
    return (known or f"{message.topic}/{message.partition}/{message.offset}").encode()
