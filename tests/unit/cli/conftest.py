"""What the tests of the command line share: running it here, and running it as another process."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from seglog.cli.app import app


class Result(NamedTuple):
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def rows(self) -> list[list[str]]:
        return [line.split("\t") for line in self.text.splitlines()]

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def jsons(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    """`cli("topic ls")` runs it in this process, on the store at `data`."""

    def __init__(self, data: Path) -> None:
        self.data = data

    def __call__(self, *words: str | Path, stdin: bytes = b"") -> Result:
        """The first word is split at spaces: `cli("topic read logs -o", "-1")`."""
        arguments = str(words[0]).split() + [str(word) for word in words[1:]]
        result = CliRunner().invoke(app, arguments, input=stdin, env={"SEGLOG_DATA": str(self.data)})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout_bytes, result.stderr)

    def ok(self, *words: str | Path, stdin: bytes = b"") -> Result:
        result = self(*words, stdin=stdin)
        assert result.code == 0, result
        return result

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SEGLOG_DATA": str(self.data), "PYTHONUNBUFFERED": "1"}

    def start(self, *words: str | Path, **how: Any) -> subprocess.Popen[bytes]:
        """As a process of its own."""
        arguments = str(words[0]).split() + [str(word) for word in words[1:]]
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [sys.executable, "-m", "seglog.cli", *arguments], env=self.environment, **{**streams, **how}
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "data")


@pytest.fixture(scope="session")
def fresh() -> Callable[[], AbstractContextManager[Cli]]:
    """`with fresh() as cli:` is one with nothing in it, as often as hypothesis asks."""

    @contextmanager
    def fresh() -> Iterator[Cli]:
        with tempfile.TemporaryDirectory() as folder:
            yield Cli(Path(folder) / "data")

    return fresh
