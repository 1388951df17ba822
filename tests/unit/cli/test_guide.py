"""docs/guide/cli.md is true: its console blocks are run, one after the other, and print what they say."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent / "../../../docs/guide/cli.md"


def steps(text: str) -> list[tuple[str, str]]:
    """(command, what it prints) of each `$` line, where `...` stands for anything."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = step.partition("\n")
            found.append((command, output))
    return found


def matches(output: str, expected: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, expected.split("..."))), output) is not None


@pytest.mark.skipif(not GUIDE.exists() or shutil.which("bash") is None, reason="needs the guide and a bash")
def test_the_guides_examples_are_true(tmp_path):
    seglog = tmp_path / "bin" / "seglog"
    seglog.parent.mkdir()
    seglog.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seglog.cli "$@"\n')
    seglog.chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "SEGLOG_DATA"}
    environment["PATH"] = f"{seglog.parent}{os.pathsep}{environment['PATH']}"
    for command, expected in steps(GUIDE.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-c", command], cwd=here, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert matches(done.stdout.decode(), expected), f"$ {command}\n{done.stdout.decode()}--- instead of\n{expected}"


def test_there_are_examples():
    if GUIDE.exists():  # an installed wheel is tested without its docs
        assert len(steps(GUIDE.read_text(encoding="utf-8"))) > 20
