"""Pool: worker processes, which are replaced when they die, and become more when there is more to do.

    seglog worker shop.jobs:store --min 1 --max 8

Each is a fresh interpreter that imports the module, takes the store from it, and runs its handlers (`workers`). The supervisor
imports it too, to look at the backlog; it calls no handler. It promises that one that dies is replaced, after a pause that
doubles while they die young; that its siblings go on meanwhile, and get its messages at once; and that none outlives it: each
holds one end of a pipe, and stops when the other end is gone, however the supervisor died.

Enough of them is: as many as it takes to have everything that is ready, or in work, in work at once. More are started at the
first look; fewer remain when fewer were enough for `idle` seconds without a break.
"""

from __future__ import annotations

import importlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import FrameType

from seglog.clock import seconds
from seglog.errors import ConfigError, GroupNotFound
from seglog.handlers import Handler
from seglog.start import natural
from seglog.store import Store

__all__ = ["Pool", "load", "serve"]

log = logging.getLogger("seglog.pool")

LOOK = 0.5  # seconds from one look at the backlog to the next
YOUNG = 10.0  # seconds: who dies before that will probably die again
PAUSE_FIRST, PAUSE_MAX = 0.1, 30.0  # seconds before the next is started in its place
MARGIN = 5.0  # seconds beyond its grace in which a process may close the store, before it is killed


class Child:
    """One worker process."""

    def __init__(self, arguments: list[str], news: queue.SimpleQueue[None]) -> None:
        program = [sys.executable, "-c", "from seglog.pool import serve; serve()", *arguments]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE)
        self.began = time.monotonic()
        self.kill_at = float("inf")
        threading.Thread(target=self._watch, args=(news,), name="seglog-child", daemon=True).start()

    def _watch(self, news: queue.SimpleQueue[None]) -> None:
        self.process.wait()
        news.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> int | None:
        return self.process.poll()

    def stop(self, grace: float) -> None:
        """Let it finish what it has in work."""
        self.kill_at = min(self.kill_at, time.monotonic() + grace + MARGIN)
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()

    def stop_at_once(self) -> None:
        self.stop(0.0)
        self.process.terminate()


class Pool:
    """What `seglog worker` runs; `pool.run()` blocks, in the main thread."""

    def __init__(
        self,
        target: str,
        *,
        minimum: int = 1,
        maximum: int | None = None,
        workers: int | None = None,
        grace: float | timedelta = 30.0,
        idle: float | timedelta = 10.0,
    ) -> None:
        """`target` is `module:attribute`, a store or a function that returns one. Raises ConfigError for what is none, or has no
        handler; and what importing it raises."""
        self.minimum = natural(minimum, "min", 1)
        self.maximum = self.minimum if maximum is None else natural(maximum, "max", 1)
        if self.maximum < self.minimum:
            raise ConfigError(
                f"max is {self.maximum}, and min is {self.minimum}: it must be at least that.",
                setting="max",
                value=maximum,
            )
        self._slots = None if workers is None else natural(workers, "workers", 1)
        self.grace, self.idle = seconds(grace, "grace"), seconds(idle, "idle")
        self._arguments = [target, repr(self.grace), str(self._slots or "")]
        self._store = load(target)
        if not self._store.handlers:
            raise ConfigError(
                f"{target} has no handler: write one, with @store.handler(queue) or @store.replier(queue) above it.",
                setting="target",
                value=target,
            )
        self._children: list[Child] = []
        self._leaving: list[Child] = []
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._signals = 0
        self._pause = 0.0
        self._not_before = 0.0
        self._enough_since: float | None = None

    @property
    def pids(self) -> list[int]:
        """Of the processes at work."""
        return [child.pid for child in self._children]

    def run(self) -> None:
        """Until SIGTERM or SIGINT, which are passed on; the second one ends the grace."""
        wanted = self.minimum
        looked = 0.0
        try:
            with self._told():
                while not self._signals:
                    self._bury()
                    now = time.monotonic()
                    if self.maximum > self.minimum and now - looked >= LOOK:
                        looked, wanted = now, self._wanted()
                    self._adjust(wanted)
                    self._sleep(LOOK if self.maximum > self.minimum else self._not_before - now)
                self._stop()
        finally:
            for child in self._children + self._leaving:
                child.process.kill()
            self._store.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        def told(number: int, frame: FrameType | None) -> None:
            self._signals += 1
            self._news.put(None)

        before = {number: signal.signal(number, told) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _sleep(self, longest: float) -> None:
        """Until there is news, or something is to be done."""
        dues = [child.kill_at - time.monotonic() for child in self._children + self._leaving]
        least = min([*dues, longest if longest > 0 else 60.0])
        with suppress(queue.Empty):
            self._news.get(timeout=max(0.01, least))

    # ---- how many ---------------------------------------------------------------------------------

    def _adjust(self, wanted: int) -> None:
        now = time.monotonic()
        if len(self._children) <= wanted:
            self._enough_since = None
            while len(self._children) < wanted and now >= self._not_before:
                self._children.append(Child(self._arguments, self._news))
        elif self._enough_since is None:
            self._enough_since = now
        elif now - self._enough_since >= self.idle:
            self._enough_since = None
            while len(self._children) > wanted:
                child = self._children.pop()
                child.stop(self.grace)
                self._leaving.append(child)

    def _wanted(self) -> int:
        """Between min and max; what it is now, while the store cannot be looked at."""
        try:
            needed = max(self._needed(handler) for handler in self._store.handlers)
        except Exception:
            log.exception("cannot look at the backlog")
            needed = len(self._children)
        return min(self.maximum, max(self.minimum, needed))

    def _needed(self, handler: Handler) -> int:
        slots = self._slots or handler.concurrency
        source = handler.source
        if handler.group is None:
            there = (self._store.queue(source) if isinstance(source, str) else source).statistics()
            return -(-(there.ready + there.in_flight) // slots)
        topic = self._store.topic(source) if isinstance(source, str) else source
        try:
            lag = self._store.group(handler.group).lag(topic.name)
        except GroupNotFound:
            lag = 0
        return -(-min(lag, topic.partitions) // slots)  # a partition has one reader, however long it is

    # ---- death ------------------------------------------------------------------------------------

    def _bury(self) -> None:
        now = time.monotonic()
        for child in [child for child in self._children if child.ended is not None]:
            self._children.remove(child)
            child.stop(0.0)
            young = now - child.began < YOUNG
            self._pause = min(PAUSE_MAX, max(PAUSE_FIRST, self._pause * 2)) if young else PAUSE_FIRST
            self._not_before = now + self._pause
            log.warning(
                "worker process %d ended with %s; another begins in %.1f s", child.pid, child.ended, self._pause
            )
        self._bury_leaving()

    def _bury_leaving(self) -> None:
        for child in list(self._leaving):
            if child.ended is not None:
                self._leaving.remove(child)
            elif time.monotonic() >= child.kill_at:
                child.process.kill()
                child.kill_at = float("inf")

    def _stop(self) -> None:
        self._leaving += self._children
        self._children = []
        for child in self._leaving:
            child.stop(self.grace)
        hurried = False
        while self._leaving:
            if self._signals > 1 and not hurried:
                hurried = True
                for child in self._leaving:
                    child.stop_at_once()
            self._bury_leaving()
            if self._leaving:
                self._sleep(60.0)

    def __repr__(self) -> str:
        return f"<Pool of {self._arguments[0]}, {len(self._children)} of {self.minimum} .. {self.maximum}>"


def load(target: str) -> Store:
    """The store that `module:attribute` names: a store, or a function that returns one."""
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ConfigError(f"{target!r} is not module:attribute, as in shop.jobs:store.", setting="target", value=target)
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    found: object = importlib.import_module(module)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"there is no {name} in {module}.", setting="target", value=target)
        found = getattr(found, name)
    if not isinstance(found, Store) and callable(found):
        found = found()
    if not isinstance(found, Store):
        raise ConfigError(
            f"{target} is a {type(found).__name__}, not a store, nor a function that returns one.",
            setting="target",
            value=target,
        )
    return found


def serve() -> None:
    """The program of a worker process: target, grace and workers are in `sys.argv`, and stdin ends with the supervisor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all in the terminal; the supervisor says what it means
    target, grace, slots = sys.argv[1:4]
    with load(target) as store:
        workers = store.workers(workers=int(slots) if slots else None, grace=float(grace))
        parent = os.dup(0)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)  # a handler that reads stdin does not take what is not said to it

        def watch() -> None:
            os.read(parent, 1)
            workers.ask()

        threading.Thread(target=watch, name="seglog-parent", daemon=True).start()
        workers.run(signals=(signal.SIGTERM,))
