"""Containers that share a volume on one kernel share the log: other paths, other process numbers, the same words.

Each side lives in a mount namespace of its own, where the directory stands under another path, and in a process namespace of
its own, where process numbers mean something else. Needs root.
"""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from crash.kills.ledger import Journal, Ledger
from process.fair import fair
from process.workers import LOCK, Words, look_at, opened

TESTS = Path(__file__).parents[1]


def can_unshare():
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-m", "-p", "-f", "true"], capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs root and unshare(1)")

START = """
    set -e
    mkdir -p "$2"
    mount --bind "$1" "$2"
    exec "$3" -c "$4" "$2" "$5" "$6"
"""
LIFE = """
    import sys, os
    sys.path.insert(0, %r)
    from process.workers import opened, write, Words, LOCK
    path, number, journal = sys.argv[1:]
    log = opened(path, lock_timeout=10)
    {before}
    write(log, int(number), journal, 500)
    print(os.getpid(), log.liveness.slot, log.path, flush=True)
    sys.stdin.read()
    {after}
"""


def container(volume, here, number, journal, before="", after=""):
    code = textwrap.dedent(LIFE % str(TESTS)).format(before=before, after=after)
    return subprocess.Popen(
        [
            "unshare",
            "-m",
            "-p",
            "-f",
            "sh",
            "-c",
            START,
            "sh",
            volume,
            here,
            sys.executable,
            code,
            str(number),
            journal,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kinds", ["two containers", "a container and its host"])
def test_both_write_to_the_volume_and_see_the_death_of_the_other(memory, kinds):
    volume = memory / "volume"
    volume.mkdir()
    log = opened(str(volume)) if kinds == "a container and its host" else None
    sides = [
        container(str(volume), str(memory / f"mounted-{n}"), n, str(memory / f"journal-{n}"), after=after)
        for n, after in ((1, "Words(path)[LOCK] = log.liveness.word; os.kill(os.getpid(), 9)"), (2, ""))
    ]
    try:
        told = [side.stdout.readline().split() for side in sides]
        pids, slots, paths = zip(*told, strict=True)
        assert len(set(slots)) == len(set(paths)) == 2
        assert pids[0] == pids[1] == "1"  # the first process of its container; numbers are no evidence
        ledger = Ledger()
        for n in (1, 2):
            ledger.take(n, Journal(memory / f"journal-{n}").rows())
        ledger.check(look_at(str(volume)), contiguous=True)
        # The first dies in there with the lock in hand; the second, and the host, go on.
        sides[0].communicate(timeout=20)
        assert Words(str(volume))[LOCK] != 0
        other = log or opened(str(volume))
        began = fair()
        assert other.append(b"it is dead") == 1000
        assert fair() - began < 1.0
        sides[1].communicate(timeout=20)
        assert sides[1].returncode == 0
    finally:
        for side in sides:
            side.kill()
            side.wait()
            side.stdout.close()
            side.stdin.close()
    assert other.next_offset == 1001
