"""Children: processes that are watched, killed, and never left behind.

Nothing here touches the engine, so a child that is forked from a program that did not either begins like a new process:
its failpoint (`SEGLOG_FAIL`, read at the first one it passes) is its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

_made: set[Child] = set()  # and not stopped


class Died(AssertionError):
    """A child ended without an answer."""


class Child:
    """`work(*arguments)` in a forked process; `answer` gives what it returned, or raises what it raised.

    `duties`: work takes one more argument, first, a socket on which it is asked things (see `Servant`).
    """

    def __init__(self, work: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> None:
        self.name = getattr(work, "__name__", "child")
        self._ours, theirs = socket.socketpair()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.setpgid(0, 0)
                die_with_parent()
                self._ours.close()
                for signum in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(signum, signal.default_int_handler)
                os.environ.update(environment or {})
                send(theirs, ("ok", work(*arguments)))
                code = 0
            except BaseException:
                text = traceback.format_exc()
                try:
                    send(theirs, ("error", text))
                except OSError:
                    sys.stderr.write(text)
            finally:
                os._exit(code)
        theirs.close()
        with contextlib.suppress(OSError):  # a group of its own, of which it may be the first to go
            os.setpgid(self.pid, self.pid)
        self.status: int | None = None
        _made.add(self)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        if self.status is None:
            os.kill(self.pid, signum)

    def wait(self, timeout: float = 20.0) -> int:
        """How it ended: 0 or more, or minus the signal. Raises Died when it does not end."""
        deadline, nap = time.monotonic() + timeout, 0.0002
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                raise Died(f"{self.name} ({self.pid}) still runs after {timeout:g} s{whereabouts(self.pid)}")
            else:
                time.sleep(nap)
                nap = min(nap * 1.5, 0.01)
        return self.status

    def wait_stopped(self, timeout: float = 20.0) -> bool:
        """True once it is stopped; False when it ended instead."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid and os.WIFSTOPPED(status):
                return True
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                return False
            time.sleep(0.0005)
        raise Died(f"{self.name} ({self.pid}) neither stopped nor ended in {timeout:g} s{whereabouts(self.pid)}")

    def answer(self, timeout: float = 20.0) -> Any:
        message = self._heard(self._ours, timeout)
        if message is None:
            raise self._silent(timeout)
        kind, what = message
        if kind == "error":
            raise Died(f"{self.name} ({self.pid}) failed:\n{what}")
        return what

    def _heard(self, channel: socket.socket, timeout: float) -> Any:
        """The next message. The time is that of a process that is let run: what it spends waiting for a processor does not count."""
        if timeout > 0.1 and os.getloadavg()[0] > 2 * (os.cpu_count() or 1):
            timeout *= 5  # it may wait for others, which are not let run either
        waited = kept_waiting(self.pid)
        message = receive(channel, timeout)
        while message is None and timeout > 0.1 and (more := kept_waiting(self.pid) - waited) > 0.01:
            waited += more
            message = receive(channel, more + 0.1)
        return message

    def _silent(self, timeout: float) -> Died:
        """Why it did not answer."""
        with contextlib.suppress(ConnectionError):
            if receive(self._ours, 0.0) is None and not select.select([self._ours], [], [], 0.0)[0]:
                return Died(f"{self.name} ({self.pid}) says nothing for {timeout:g} s{whereabouts(self.pid)}")
        return Died(f"{self.name} ({self.pid}) ended with {self.wait(5.0)} and no answer")

    def stop(self) -> int:
        """End it and what it started, however it is; how it ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        how = self.wait()
        self._ours.close()
        _made.discard(self)
        return how

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


class Servant(Child):
    """A process that keeps an object, made there by `make(*arguments)`, and does with it what it is asked."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> None:
        self._asked, theirs = socket.socketpair()
        asked = self._asked

        def serve() -> None:
            asked.close()
            kept = make(*arguments)
            while True:
                message = receive(theirs, None)
                if message is None:
                    return
                work, rest = message
                began = time.monotonic()
                try:
                    reply = ("ok", work(kept, *rest), time.monotonic() - began)
                except Exception as error:
                    text = traceback.format_exc()
                    reply = ("raised", (type(error).__name__, getattr(error, "fields", {}), text), 0.0)
                send(theirs, reply)

        super().__init__(serve, environment=environment)
        theirs.close()
        self.took = 0.0

    def stop(self) -> int:
        how = super().stop()
        self._asked.close()
        return how

    def ask(self, work: Callable[..., Any], *arguments: Any, timeout: float = 20.0) -> Any:
        """What `work(kept, *arguments)` returns there. Raises Died when it raises, or takes longer."""
        kind, what = self.try_(work, *arguments, timeout=timeout)
        if kind == "raised":
            raise Died(f"{self.name} ({self.pid}): {what[2]}")
        return what

    def try_(self, work: Callable[..., Any], *arguments: Any, timeout: float = 20.0) -> tuple[str, Any]:
        """("ok", result), or ("raised", (name of the error, its fields, its text))."""
        began = time.monotonic()
        self.tell(work, *arguments)
        reply = self.reply(timeout)
        self.took = time.monotonic() - began
        return reply

    def tell(self, work: Callable[..., Any], *arguments: Any) -> None:
        """Ask, and fetch the reply later with `reply`."""
        with contextlib.suppress(ConnectionError):  # it is dead; `reply` says so
            send(self._asked, (work, arguments))

    def reply(self, timeout: float = 20.0) -> tuple[str, Any]:
        message = self._heard(self._asked, timeout)
        if message is not None:
            return message[0], message[1]
        failed = receive(self._ours, 0.0)
        if failed is not None and failed[0] == "error":
            raise Died(f"{self.name} ({self.pid}) failed:\n{failed[1]}")
        raise self._silent(timeout)


def send(channel: socket.socket, message: Any) -> None:
    data = pickle.dumps(message)
    channel.sendall(len(data).to_bytes(8, "little") + data)


def receive(channel: socket.socket, timeout: float | None) -> Any:
    """The next message; None when none comes in time, or the other side is gone."""
    deadline = None if timeout is None else time.monotonic() + timeout

    def exactly(count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([channel], [], [], left)[0]:
                return None
            try:
                more = channel.recv(min(count - len(data), 1 << 20))
            except ConnectionError:
                return None
            if not more:
                return None
            data += more
        return data

    head = exactly(8)
    if head is None:
        return None
    data = exactly(int.from_bytes(head, "little"))
    return None if data is None else pickle.loads(data)


def die_with_parent() -> None:
    """A child whose parent is killed goes too (Linux); the parent's thread that forked must live as long."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def kept_waiting(pid: int) -> float:
    """Seconds of its life in which a process could have run and had no processor."""
    try:
        with open(f"/proc/{pid}/schedstat") as schedstat:
            return int(schedstat.read().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def whereabouts(pid: int) -> str:
    """What the kernel says about a process that does not move."""
    try:
        with open(f"/proc/{pid}/wchan") as wchan, open(f"/proc/{pid}/stat") as stat:
            return f"; state {stat.read().rsplit(')', 1)[1].split()[0]}, in {wchan.read() or 'user space'}"
    except OSError:
        return ""


def stop_all() -> None:
    """End every child there is, and what those that are gone have left."""
    for child in list(_made):
        child.stop()
