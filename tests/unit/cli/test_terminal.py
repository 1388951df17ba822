"""What a person at a terminal sees: tables, and bars on what takes its time; and a pipe sees neither."""

import os
import re
import time

import pytest

from seglog.cli import progress
from seglog.cli.progress import Progress

pty = pytest.importorskip("pty")  # not on Windows


def on_a_terminal(start) -> str:
    """What the process that `start(fd)` starts prints on a terminal."""
    ours, theirs = pty.openpty()
    process = start(theirs)
    os.close(theirs)
    seen = b""
    try:
        while some := os.read(ours, 65536):
            seen += some
    except OSError:  # how Linux says that nobody has the other end any more
        pass
    os.close(ours)
    process.communicate()
    assert process.returncode == 0, seen
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r\n", "\n")


def test_a_table_has_a_head_on_a_terminal_and_none_in_a_pipe(cli):
    cli.ok("topic send orders", stdin=b"1\n" * 1_234)
    seen = on_a_terminal(lambda terminal: cli.start("topic ls", stdout=terminal))
    assert "bytes on disk" in seen
    assert "1,234" in seen
    assert "bytes on disk" not in cli.ok("topic ls").text


def test_verify_tells_a_person_that_all_is_well(cli):
    cli.ok("topic send orders", stdin=b"1\n")
    seen = on_a_terminal(lambda terminal: cli.start("verify", stdout=terminal))
    assert "1 topic, 1 record," in seen
    assert "no damage" in seen


def test_json_is_indented_for_a_person(cli):
    cli.ok("topic create orders")
    assert "\n" in on_a_terminal(lambda terminal: cli.start("topic ls --json", stdout=terminal)).strip()


@pytest.mark.parametrize("total", [100, None])
def test_a_bar_appears_when_work_takes_longer(monkeypatch, total):
    monkeypatch.setattr(progress, "AFTER", 0.01)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress("sending", total, "bytes") as bar:
            deadline = time.monotonic() + 30
            while bar.bar is None and time.monotonic() < deadline:
                bar.advance(1)
                time.sleep(0.01)
            time.sleep(0.3)
        assert b"sending" in os.read(ours, 65536)
    os.close(ours)


def test_quick_work_has_no_bar(monkeypatch):
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with Progress("sending", 100) as bar:
            bar.advance(100)
        with pytest.raises(BlockingIOError):
            os.read(ours, 65536)
    os.close(ours)


def test_what_is_no_terminal_gets_no_bar(capfd, monkeypatch):
    monkeypatch.setattr(progress, "AFTER", 0.0)
    with Progress("sending", 100) as bar:
        bar.advance(50)
        time.sleep(0.05)
    assert capfd.readouterr().err == ""
