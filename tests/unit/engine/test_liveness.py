"""Liveness is the kernel's word on who exists: a slot is alive exactly as long as the process that took it, and no longer."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from seglog.engine import liveness
from seglog.engine.errors import ClosedError, DirectoryInUse
from seglog.engine.liveness import Liveness, boot_id, file_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks and signals")


def child(work):
    """Runs `work(say)` in a forked process; its pid and what it says, line by line."""
    out, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(out)
            work(lambda *words: os.write(end, (" ".join(map(str, words)) + "\n").encode()))
        finally:
            os._exit(0)
    os.close(end)
    return pid, os.fdopen(out)


def kill(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def hold(path):
    """A child that takes a slot and keeps it: (pid, its word, its slot)."""

    def work(say):
        living = Liveness(path)
        say(living.word, living.slot)
        time.sleep(60)

    pid, said = child(work)
    word, slot = map(int, said.readline().split())
    said.close()
    return pid, word, slot


# -- in one process ------------------------------------------------------------------------------------------------


def test_a_slot_is_alive_until_it_is_closed(tmp_path):
    one, two = Liveness(tmp_path), Liveness(tmp_path)
    assert one.slot != two.slot
    assert one.word != two.word
    assert all(a.alive(b.word) for a in (one, two) for b in (one, two))
    one.close()
    assert not two.alive(one.word)
    one.close()


def test_a_slot_that_was_forgotten_is_dead(tmp_path):
    one, two = Liveness(tmp_path), Liveness(tmp_path)
    word = one.word
    del one
    assert not two.alive(word)


def test_a_slot_that_found_a_new_owner_does_not_bring_the_old_one_back(tmp_path):
    watcher = Liveness(tmp_path)
    words = []
    for _ in range(50):
        living = Liveness(tmp_path)
        words.append(living.word)
        assert [watcher.alive(word) for word in words] == [False] * (len(words) - 1) + [True]
        living.close()
    assert len(set(words)) == 50


def test_words_that_nobody_wrote_are_dead(tmp_path):
    living = Liveness(tmp_path)
    for word in (0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF, living.word + 1, living.word + 0x10000):
        assert not living.alive(word)


def test_owners_are_the_living_and_their_pids(tmp_path):
    one = Liveness(tmp_path)
    two = Liveness(tmp_path)
    assert one.owners() == [(one.slot, os.getpid()), (two.slot, os.getpid())]
    two.close()
    assert one.owners() == [(one.slot, os.getpid())]


def test_slots_of_different_stores_have_nothing_to_do_with_each_other(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = Liveness(tmp_path / "a"), Liveness(str(tmp_path / "b"))
    assert (a.slot, b.slot) == (0, 0)
    assert a.owners() == b.owners() == [(0, os.getpid())]
    a.close()
    assert b.owners() == [(0, os.getpid())]


def test_a_closed_liveness_refuses_questions(tmp_path):
    living = Liveness(tmp_path)
    living.close()
    for verb in (lambda: living.alive(1), living.owners):
        with pytest.raises(ClosedError):
            verb()
    assert "closed" in repr(living)


def test_a_liveness_is_made_once_and_names_its_place(tmp_path):
    living = Liveness(tmp_path)
    assert living.path == str(tmp_path)
    assert f"slot {living.slot}" in repr(living)
    with pytest.raises(ValueError, match="once"):
        living.__init__(tmp_path)
    assert living.alive(living.word)


def test_a_place_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OSError, match="missing"):
        Liveness(tmp_path / "missing")


def test_another_boot_knows_nobody(tmp_path, monkeypatch):
    before = Liveness(tmp_path)
    word = before.word
    monkeypatch.setattr(liveness, "boot_id", lambda: "another boot")
    del before
    now = Liveness(tmp_path)
    assert now.owners() == [(now.slot, os.getpid())]
    assert not now.alive(word) or now.word == word


@pytest.mark.parametrize("damage", ["empty", "short", "random", "long"])
def test_a_damaged_table_of_slots_is_made_again(tmp_path, rng, damage):
    Liveness(tmp_path).close()
    shm = tmp_path / "shm"
    size = shm.stat().st_size
    shm.write_bytes(
        {"empty": b"", "short": rng.randbytes(5000), "random": rng.randbytes(size), "long": rng.randbytes(size * 2)}[
            damage
        ]
    )
    one, two = Liveness(tmp_path), Liveness(tmp_path)
    assert one.owners() == two.owners() == [(0, os.getpid()), (1, os.getpid())]


def test_a_boot_has_a_name_that_stays():
    assert boot_id() == boot_id()
    assert len(boot_id()) > 8


def test_a_file_is_locked_by_one_opener_at_a_time(tmp_path):
    one, two = (os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(2))
    with file_lock(one, "file"):
        before = time.monotonic()
        with pytest.raises(DirectoryInUse, match="file"), file_lock(two, "file", 0.1):
            pass
        assert 0.05 < time.monotonic() - before < 2
    with file_lock(two, "file", 0.1):
        pass
    os.close(one)
    os.close(two)


def test_all_slots_taken_is_told():
    """1,024 processes at most; each slot takes two descriptors here, so a process of its own asks for the room."""
    program = textwrap.dedent("""
        import resource, sys, tempfile
        from seglog.engine.errors import DirectoryInUse
        from seglog.engine.liveness import Liveness
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 4096:
            sys.exit("too few descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
        with tempfile.TemporaryDirectory() as path:
            all = [Liveness(path) for _ in range(1024)]
            assert sorted(living.slot for living in all) == list(range(1024))
            for _ in range(2):
                try:
                    Liveness(path)
                except DirectoryInUse as error:
                    print("told:", error)
            all.pop(500).close()
            assert Liveness(path).slot == 500
    """)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    if "too few" in run.stderr:
        pytest.skip("fewer than 4,096 descriptors allowed")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("told:") == 2
    assert "1,024" in run.stdout


# -- among processes -----------------------------------------------------------------------------------------------


def test_another_process_is_alive_until_it_is_killed(tmp_path):
    living = Liveness(tmp_path)
    pid, word, slot = hold(tmp_path)
    assert living.alive(word)
    assert (slot, pid) in living.owners()
    kill(pid)
    assert not living.alive(word)
    assert living.owners() == [(living.slot, os.getpid())]


def test_a_stopped_process_is_alive(tmp_path):
    living = Liveness(tmp_path)
    pid, word, _ = hold(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    assert living.alive(word)
    kill(pid)
    assert not living.alive(word)


def test_a_process_that_is_dead_but_not_buried_is_dead(tmp_path):
    """A zombie holds no lock: death is noticed before anybody waits for it."""
    living = Liveness(tmp_path)
    pid, word, _ = hold(tmp_path)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while living.alive(word) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not living.alive(word)
    os.waitpid(pid, 0)


def test_a_forked_child_has_a_slot_of_its_own_and_does_not_keep_its_parent_alive(tmp_path):
    def parent(say):
        living = Liveness(tmp_path)
        say(living.word)
        if os.fork() == 0:
            say(living.word, os.getpid())
            time.sleep(60)
        time.sleep(60)

    watcher = Liveness(tmp_path)
    pid, said = child(parent)
    word = int(said.readline())
    child_word, grandchild = map(int, said.readline().split())
    assert word != child_word
    assert watcher.alive(word)
    assert watcher.alive(child_word)
    kill(pid)
    assert not watcher.alive(word)
    assert watcher.alive(child_word)
    os.kill(grandchild, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while watcher.alive(child_word) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not watcher.alive(child_word)
    said.close()


def test_a_program_started_by_a_process_does_not_keep_it_alive(tmp_path):
    """Descriptors are closed on exec."""

    def parent(say):
        living = Liveness(tmp_path)
        program = subprocess.Popen(["sleep", "60"], close_fds=False)
        say(living.word, program.pid)
        time.sleep(60)

    watcher = Liveness(tmp_path)
    pid, said = child(parent)
    word, program = map(int, said.readline().split())
    assert watcher.alive(word)
    kill(pid)
    assert not watcher.alive(word)
    os.kill(program, signal.SIGKILL)
    said.close()


def test_many_processes_take_different_slots_at_once(tmp_path):
    def work(say):
        living = Liveness(tmp_path)
        say(living.slot)
        time.sleep(60)

    children = [child(work) for _ in range(12)]
    slots = [int(said.readline()) for _, said in children]
    assert sorted(slots) == list(range(12))
    for pid, said in children:
        kill(pid)
        said.close()
    assert [slot for slot, _ in Liveness(tmp_path).owners()] == [0]


PORTABLE = """
import os, signal, sys, time
from seglog.engine.liveness import Liveness
path = sys.argv[1]
one, two = Liveness(path), Liveness(path)
assert one.slot != two.slot and one.alive(two.word) and two.alive(one.word)
word = one.word
one.close()
assert not two.alive(word)
told, tell = os.pipe()
pid = os.fork()
if pid == 0:
    living = Liveness(path)
    os.write(tell, b"%d\\n" % living.word)
    time.sleep(60)
theirs = int(os.read(told, 20))
assert two.alive(theirs) and len(two.owners()) == 3, two.owners()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
assert not two.alive(theirs)
assert two.owners() == [(two.slot, os.getpid())], two.owners()
"""


def test_without_byte_locks_whole_files_do_the_same(tmp_path):
    environment = os.environ | {"SEGLOG_PORTABLE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", PORTABLE, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
