"""`seglog doctor`: what it says to a person, to a pipe and as JSON, and the codes a script relies on."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import seglog


@pytest.fixture
def damaged(cli):
    """A store with one record damaged: number 4 of 0..8."""
    with seglog.open(cli.data) as store:
        for i in range(9):
            store.topic("t").send(b"value %d" % i)
    (log,) = cli.data.glob("topics/t/0/*.log")
    flip(log, b"value 4")
    return log


def flip(path, old: bytes) -> int:
    data = bytearray(path.read_bytes())
    at = data.index(old)
    data[at] ^= 1
    path.write_bytes(data)
    return at


def on_terminal(cli, *arguments):
    """What a person sees, without colours."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "seglog.cli", *map(str, arguments)],
            cli.environment | {"TERM": "xterm", "COLUMNS": "160"},
        )
    out = b""
    while True:
        try:
            block = os.read(fd, 65536)
        except OSError:
            break
        if not block:
            break
        out += block
    os.close(fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.decode()).replace("\r\n", "\n")


def test_a_sound_store_is_0_and_says_nothing_to_a_pipe(cli):
    cli.ok("topic send t", stdin=b"one\ntwo\n")
    assert cli.ok("doctor").out == b""
    assert cli.ok("doctor", cli.data).out == b""
    assert cli.ok("doctor --repair").out == b""
    told = cli.ok("doctor --json").json
    assert (told["sound"], told["findings"], told["changes"]) == (True, [], [])
    assert [log["told"] for log in told["partitions"]] == ["records 0 verified", "records 0..1 verified"]


def test_damage_is_2_and_is_said_in_bytes_and_offsets(cli, damaged):
    result = cli("doctor")
    assert result.code == 2
    ((severity, kind, path, position, size, first, after, meaning, repair),) = result.rows
    assert (severity, kind, path, first, after) == ("damage", "corrupt", str(damaged), "4", "5")
    assert int(position) < damaged.read_bytes().index(b"value 5") <= int(position) + int(size) + 64
    assert "lost" in meaning
    assert "sets it aside" in repair
    told = cli("doctor --json")
    assert told.code == 2
    assert told.json["sound"] is False
    (finding,) = told.json["findings"]
    assert (finding["kind"], finding["start"], finding["stop"]) == ("corrupt", 4, 5)
    assert told.json["partitions"][1]["told"] == "records 0..3 and 5..8 verified; 4 lost"
    assert told.json["partitions"][1]["lost"] == [[4, 5]]


def test_repair_is_0_says_what_it_changed_and_everything_else_reads(cli, damaged):
    assert cli("topic read t").code == 2
    result = cli.ok("doctor --repair")
    ((changed, *_, text, _),) = result.rows
    assert changed == "changed"
    assert "set offsets 4 aside" in text
    assert cli.ok("doctor").out == b""
    assert cli.ok("topic read t").out == b"".join(b"value %d\n" % i for i in range(9) if i != 4)
    assert cli.ok("doctor --repair --json").json["changes"] == []


def test_harmless_things_are_told_and_are_0(cli):
    cli.ok("topic send t", stdin=b"one\n")
    (log,) = cli.data.glob("topics/t/0/*.log")
    data = bytearray(log.read_bytes())
    data[20] ^= 1
    log.write_bytes(data)
    ((severity, kind, *_),) = cli.ok("doctor").rows
    assert (severity, kind) == ("harmless", "header")


def test_what_is_no_store_could_not_be_examined_and_is_1(cli, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else/file").write_text("mine")
    for path in (tmp_path / "nothing", tmp_path / "else", tmp_path / "else/file"):
        for more in ("", " --repair"):
            result = cli(f"doctor{more}", path)
            assert (result.code, result.out) == (1, b"")
            assert result.err.startswith("seglog: ")
    assert os.listdir(tmp_path / "else") == ["file"]
    assert not (tmp_path / "nothing").exists()


def test_a_part_that_could_not_be_read_is_1(cli):
    cli.ok("topic send t", stdin=b"one\n")
    (cli.data / "SEGLOG").unlink()
    os.mkfifo(cli.data / "SEGLOG")
    result = cli("doctor")
    assert result.code == 1
    assert ["unexamined", "unreadable", str(cli.data / "SEGLOG")] in [row[:3] for row in result.rows]


def test_repair_beside_another_process_is_1_and_names_it(cli, damaged):
    program = f"import seglog\nstore = seglog.open({str(cli.data)!r})\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        before = damaged.read_bytes()
        result = cli("doctor --repair")
        assert result.code == 1
        assert f"process {other.pid} has" in result.err
        assert damaged.read_bytes() == before
        assert cli("doctor").code == 2
        other.communicate("\n")
    cli.ok("doctor --repair")


def test_a_person_gets_words_and_a_table(cli, damaged):
    code, text = on_terminal(cli, "doctor")
    assert code == 2
    assert "damage: corrupt  topics/t/0/00000000000000000000.log, bytes 4,384..4,455, offsets 4..4" in text
    assert "1 offset is lost" in text
    assert "records 0..3 and 5..8 verified; 4 lost" in text
    assert "1 damaged; --repair sets right what can be" in text
    code, text = on_terminal(cli, "doctor", "--repair")
    assert code == 0
    assert "changed: topics/t/0: set offsets 4 aside" in text
    assert "repaired" in text


GUIDE = Path(__file__).parents[3] / "docs/guide/doctor.md"


@pytest.mark.skipif(not GUIDE.exists() or shutil.which("bash") is None, reason="needs the guide and a bash")
def test_the_guides_examples_are_true(tmp_path):
    program = tmp_path / "bin/seglog"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m seglog.cli "$@"\n')
    program.chmod(0o755)
    (program.parent / "python3").symlink_to(sys.executable)
    environment = {name: value for name, value in os.environ.items() if name != "SEGLOG_DATA"}
    environment["PATH"] = f"{program.parent}{os.pathsep}{environment['PATH']}"
    steps = [
        step.partition("\n")[::2]
        for block in re.findall(r"^```console\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    ]
    assert len(steps) > 5
    for command, expected in steps:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        pattern = ".*".join(map(re.escape, expected.split("...")))
        assert re.fullmatch(pattern, done.stdout), f"$ {command}\n{done.stdout}--- instead of\n{expected}"
