"""Server: one that is started for the comparison on a free port of the loopback, with its data in scratch, and stopped after it.

It is the first of a session of its own, by which its processes are found: to add up their processor time, and to end them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

START = 60.0  # seconds that one may take until it answers
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def found(program: str) -> str | None:
    """Where a program is; daemons' folders are not on everybody's PATH."""
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/usr/lib/rabbitmq/bin")


class Server:
    program: ClassVar[str] = ""
    package: ClassVar[str] = ""  # of Debian

    @classmethod
    def missing(cls) -> str | None:
        return None if found(cls.program) else f"{cls.program} is not installed (apt-get install {cls.package})"

    def __init__(self, directory: str) -> None:
        self.directory = directory
        os.makedirs(directory)
        self.port = free_port()
        self.log = Path(directory, "server.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, start_new_session=True,
                env=dict(os.environ) | self.environment(),
            )
        try:
            self.await_answer()
        except BaseException:
            self.stop()
            raise

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def ready(self) -> bool:
        """Whether it answers its clients; an exception means no."""
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def version(self) -> str:
        raise NotImplementedError

    def await_answer(self) -> None:
        end = time.monotonic() + START
        while True:
            with suppress(Exception):
                if self.ready():
                    return
            if self.process.poll() is not None or time.monotonic() > end:
                said = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.program} does not answer on port {self.port}; it said:\n{said}")
            time.sleep(0.1)

    def used(self) -> float:
        """Seconds of processor time of all its processes so far."""
        return sum(int(stat[11]) + int(stat[12]) for _, stat in self.processes()) / TICKS

    def processes(self) -> Iterator[tuple[int, list[str]]]:
        """(pid, the fields of /proc/pid/stat after the name) of each that is in its session."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = path.read_text().rpartition(") ")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    yield int(path.parent.name), fields

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid, _ in list(self.processes()):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + 10
            while time.monotonic() < end:
                self.process.poll()
                if not list(self.processes()):
                    break
                time.sleep(0.05)
        self.process.wait()
