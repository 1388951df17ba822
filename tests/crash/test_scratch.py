"""What tests write to memory goes with them, also when they are killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash import scratch

pytestmark = pytest.mark.skipif(not os.access(scratch.MEMORY, os.W_OK), reason=f"no {scratch.MEMORY} here")

PROGRAM = """
import os, sys
from pathlib import Path
from crash import scratch
folder = Path(scratch.memory())
(folder / "store").mkdir()
print(folder, flush=True)
sys.stdin.readline()
"""


def start():
    """A process that wrote something there, and its folder, which is old by now."""
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, text=True, env=environment)
    folder = Path(process.stdout.readline().strip())
    os.utime(folder, (0, 0))
    return process, folder


def end(process):
    process.communicate("\n")
    assert process.returncode == 0


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_others_have_stays():
    killed, dead = start()
    killed.kill()
    killed.communicate()
    living, alive = start()  # removes the dead one's
    assert not dead.exists()
    scratch.sweep()
    assert (alive / "store").is_dir()
    end(living)
    scratch.sweep()
    assert (alive / "store").is_dir(), "it ended by itself and left this to be looked at"
    for path in (alive / "store", alive / scratch.KEPT):
        path.rmdir() if path.is_dir() else path.unlink()
    alive.rmdir()


def test_what_is_empty_goes_with_its_process():
    process, folder = start()
    (folder / "store").rmdir()
    end(process)
    assert not folder.exists()
