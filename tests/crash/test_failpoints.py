"""Killed between any two stores that matter, and stopped there: others go on, and nothing that was acknowledged is lost.

Debug builds carry a failpoint at each such place. Here every one that the sources name is tried: programs of their own, on the
debug build, play scenes in which a process comes by it (`crash/kills/scenes.py` says which, and what is held against what);
one that no scene comes by fails its test. `make test` lets one process die, and one stop, at each. The long form:

    PYTHONPATH=build/debug/package .venv/bin/python -m tests.crash.kills.failpoints --plays 100 --arrivals 30
    PYTHONPATH=build/debug/package .venv/bin/python -m tests.crash.kills.run --kills 10000
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crash.kills.scenes import ENGINE, failpoints

ROOT = Path(__file__).parents[2]
BUILD = os.environ.get("SEGLOG_BUILD") or "release"
SECONDS = 300 if BUILD == "release" else 1200  # for all; a sanitizer is slow

pytestmark = [
    pytest.mark.skipif(not ENGINE.is_dir(), reason="reads the sources"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at the kernel's words through /proc"),
    pytest.mark.timeout(SECONDS + 200),
]

POINTS = failpoints() if ENGINE.is_dir() else []


@pytest.fixture(scope="module")
def environment():
    """What a program on a build with failpoints is started with; the debug build is made when there is none yet."""
    if BUILD != "release":
        return dict(os.environ)  # all the others have them
    if shutil.which("make") is None or shutil.which("cc") is None:
        pytest.skip("needs make and a C compiler for the debug build")
    made = subprocess.run(
        ["make", "-s", "build/debug/.built", f"VENV={os.path.relpath(sys.prefix, ROOT)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return os.environ | {"PYTHONPATH": str(ROOT / "build" / "debug" / "package")}


def start(environment, program, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.crash.kills.{program}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process, seconds=SECONDS):
    """What it said; it and its children are gone afterwards."""
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        said += f"\nstill running after {seconds} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return said


@pytest.fixture(scope="module")
def said(environment, seed):
    """What the two programs said: dying and being stopped, beside each other, for the second is mostly waiting."""
    both = {
        mode: start(environment, "failpoints", "--mode", mode, "--plays", 1, "--seed", seed)
        for mode in ("kill", "stop")
    }
    return {mode: finish(process) for mode, process in both.items()}


@pytest.fixture(scope="module")
def seed():
    """Of the run, or of its own: the programs print it, and take it with --seed."""
    return random.Random(os.environ.get("SEGLOG_SEED")).getrandbits(32)


def verdict(said, point, mode):
    """The lines from the one before to the one about `point`."""
    lines = []
    for line in said[mode].splitlines():
        lines.append(line)
        if line.startswith(f"{point} ") and f"{mode}:" in line:
            return "\n".join(lines)
        if "ms at most" in line:
            lines.clear()
    raise AssertionError(f"nothing was said about {point}:\n{said[mode]}")


@pytest.mark.parametrize("point", POINTS)
def test_killed_there_others_go_on_within_a_second_and_nothing_acknowledged_is_lost(said, point):
    told = verdict(said, point, "kill")
    assert "BROKEN" not in told, told + "\n" + said["kill"].splitlines()[0]


@pytest.mark.parametrize("point", POINTS)
def test_stopped_there_it_is_never_displaced_and_those_who_wait_are_told_its_pid(said, point):
    told = verdict(said, point, "stop")
    assert "BROKEN" not in told, told + "\n" + said["stop"].splitlines()[0]


def test_processes_in_every_role_killed_at_random(environment, seed):
    run = start(environment, "run", "--kills", 60, "--seed", seed)
    said = finish(run)
    assert run.returncode == 0, said


def test_a_handle_that_is_refused_after_a_recovery_died_takes_nothing_of_it_along(environment):
    """It displaces the dead, as anybody would, and once took the new segment for a stray: the next opening then missed it."""
    run = start(environment, "failpoints", "recover.words", "--mode", "kill", "--plays", 60, "--arrivals", 10, "--seed", 7)
    said = finish(run)
    assert run.returncode == 0, said


# -- the checks can fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("writer", "point", "wrong"),
    [
        ("eager", "place.stored", "lost|duplicated"),  # gone, or the offset is the next one's
        ("forgetful", "place.moved", "duplicated|reordered"),
    ],
)
def test_a_writer_that_lies_is_caught(environment, writer, point, wrong):
    run = start(environment, "failpoints", point, "--mode", "kill", "--seed", 1, "--plays", 3, "--writer", writer, "--forget")
    said = finish(run)
    assert run.returncode == 1, said
    assert re.search(f"BROKEN ({wrong})", said), said


def test_a_failpoint_that_nobody_comes_by_is_told(environment):
    run = start(environment, "failpoints", "no.such.point", "--mode", "kill", "--seed", 1, "--forget")
    said = finish(run)
    assert run.returncode == 1, said
    assert "no scene comes by the failpoint no.such.point" in said
