"""What the tests of the face share: a store to use, and other processes to talk to."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seglog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store may be made; nothing is there yet."""
    return tmp_path / "data"


@pytest.fixture
def store(path: Path) -> Iterator[seglog.Store]:
    with seglog.open(path) as store:
        yield store


class Child:
    """Another process, with `store` open on the same directory; it runs `code`, then waits to be told to go."""

    def __init__(self, path: Path, code: str) -> None:
        program = (
            f"import os, sys, seglog\nstore = seglog.open({str(path)!r})\n{code}\nprint('ready', flush=True)\ninput()\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: list[str] = []
        for line in self.process.stdout:
            if line == "ready\n":
                break
            self.said.append(line.rstrip("\n"))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def child(path: Path):
    """`with child("code") as other:` has run the code in another process, which is alive until the block ends."""
    return lambda code: Child(path, code)
