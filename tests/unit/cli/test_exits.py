"""Exit codes that scripts can use, and one line for a person."""

import os
import signal
import subprocess
import sys
import time

import pytest


def said(result) -> str:
    """The one line on stderr."""
    (line,) = result.err.splitlines()
    assert line.startswith("seglog: ")
    return line


def test_no_store_is_said_with_what_to_do(cli):
    for words in ("topic ls", "topic read t", "topic describe t", "topic rm t -y", "tail t", "verify"):
        result = cli(words)
        assert result.code == 2
        assert "SEGLOG_DATA" in said(result)
    assert not cli.data.exists()


def test_no_topic_is_said_with_those_there_are(cli):
    cli.ok("topic create orders")
    for words in ("topic read order", "topic describe order", "topic rm order -y", "tail order"):
        result = cli(words)
        assert result.code == 2
        assert "orders" in said(result)
    assert cli.ok("topic ls").rows[0][0] == "orders"


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 300, "a b"])
def test_a_name_that_cannot_be_is_refused(cli, name):
    cli.ok("topic create t")
    for command in ("topic create", "topic send", "topic read", "tail"):
        result = cli(command, name)
        assert result.code == 2
        assert "name" in said(result)


def test_another_programs_directory_is_left_alone(cli):
    cli.data.mkdir()
    (cli.data / "thesis.txt").write_text("mine")
    for words in ("topic create t", "topic send t", "topic ls", "verify"):
        result = cli(words)
        assert result.code == 2
        assert "thesis.txt" in said(result)
    assert os.listdir(cli.data) == ["thesis.txt"]


def test_partitions_and_offsets_that_are_not_there_are_refused(cli):
    cli.ok("topic send t", stdin=b"1\n")
    for words in ("topic read t -p 1", "topic send t -p 1", "topic read t -o 7", "topic read t -p -1"):
        result = cli(words)
        assert result.code == 2
        said(result)


@pytest.mark.parametrize(
    "words",
    ["bogus", "topic bogus", "topic read", "topic read t --bogus", "topic read t -c many", "topic send t -D ab"],
)
def test_wrong_usage_is_2(cli, words):
    assert cli(words).code == 2


def test_a_file_that_cannot_be_read_is_1(cli, tmp_path):
    result = cli("topic send t", tmp_path / "missing")
    assert result.code == 1
    assert "No such file" in said(result)
    assert cli("topic send t", tmp_path).code == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full")
def test_an_output_that_is_full_is_1(cli):
    cli.ok("topic send t", stdin=b"1\n")
    with open("/dev/full", "wb") as full:
        for words in ("topic read t", "topic ls"):
            process = cli.start(words, stdout=full)
            _, err = process.communicate(timeout=30)
            assert (process.returncode, err.decode().splitlines()) == (1, ["seglog: No space left on device"])


def test_a_reader_that_goes_away_ends_it_quietly(cli):
    cli.ok("topic send t", stdin=b"line\n" * 300_000)
    process = cli.start("topic read t")
    assert process.stdout.read(5) == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def interrupted(process) -> tuple[int, bytes, str]:
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err.decode()


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal to one process there")
def test_ctrl_c_while_following_is_130_without_a_traceback(cli):
    cli.ok("topic send t", stdin=b"one\n")
    process = cli.start("tail -f t")
    assert process.stdout.readline() == b"one\n"
    assert interrupted(process) == (130, b"", "")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is no signal to one process there")
def test_ctrl_c_while_sending_keeps_what_was_sent(cli):
    process = cli.start("topic send t", stdin=subprocess.PIPE)
    process.stdin.write(b"one\ntwo")
    process.stdin.flush()
    deadline = time.monotonic() + 30
    while cli("topic read t").out != b"one\n":
        assert time.monotonic() < deadline
    code, out, err = interrupted(process)
    assert (code, out, err) == (130, b"", "")
    assert cli.ok("topic read t").out == b"one\n"


def test_debugging_shows_where_an_error_came_from(cli, monkeypatch):
    assert "Traceback" not in cli("topic ls").err
    monkeypatch.setenv("SEGLOG_DEBUG", "1")
    result = cli("topic ls")
    assert "Traceback" in result.err
    assert result.code == 2


def test_a_bug_is_told_as_one(cli, monkeypatch):
    cli.ok("topic create t")
    monkeypatch.setattr("seglog.Store.statistics", lambda store: 1 / 0)
    result = cli("topic ls")
    assert result.code == 1
    assert "ZeroDivisionError" in said(result)
    assert "bug" in said(result)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing):
    program = f"import sys; sys.modules[{missing!r}] = None; from seglog.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'seglog[cli]'" in done.stderr


def test_version_and_help(cli):
    assert cli.ok("--version").text.startswith("seglog ")
    for words in ("--help", "topic --help", "topic send --help", "tail -h", "demo -h"):
        assert "Usage: " in cli.ok(words).text
    assert "130" in cli.ok("--help").text
