"""Membership: a change is whole or has not happened, whoever dies in it; and an old group's handle cannot touch a new one."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

import seglog
from seglog import membership
from seglog.engine.liveness import Liveness
from seglog.membership import Membership


@pytest.fixture
def topic(store) -> seglog.Topic:
    topic = store.topic("orders", partitions=4)
    for n in range(40):
        topic.send(b"%d" % n, partition=n % 4)
    return topic


@pytest.fixture
def folder(path):
    return path / "groups" / "billing"


def states(folder):
    return sorted(name for name in os.listdir(folder) if name.startswith("members-"))


def until(condition, *consumers, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        for consumer in consumers:
            consumer.receive(timeout=0.01)
        assert time.monotonic() < end


# ---- killed in a change ---------------------------------------------------------------------------

STEPS = ("write", "replace", "announce", "unlink")
DIES = """
import os, signal, sys, seglog
from seglog import membership

step = sys.argv[2]


def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)


store = seglog.open(sys.argv[1])
topic = store.topic("orders")


consumer = topic.consumer("billing")
if step == "write":
    known = membership.State.to_json
    calls = []
    def to_json(self):
        calls.append(self)
        return known(self) if len(calls) < 3 else die()
    membership.State.to_json = to_json
elif step == "replace":
    os.replace = die
elif step == "announce":
    known = os.replace
    os.replace = lambda *names: (known(*names), die())
else:
    known = os.unlink
    os.unlink = lambda name: die()
second = topic.consumer("billing")
print("not reached")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills")
@pytest.mark.parametrize("step", STEPS)
def test_a_member_killed_at_any_step_of_a_change_leaves_the_old_or_the_new(store, topic, path, folder, step):
    with topic.consumer("billing") as here:
        died = subprocess.run([sys.executable, "-c", DIES, str(path), step], capture_output=True, text=True, timeout=60)
        assert died.returncode == -9, died
        until(lambda: here.assignment == {"orders": (0, 1, 2, 3)}, here)
        with topic.consumer("billing") as two:
            until(lambda: len(two.assignment.get("orders", ())) == 2, here, two)
            assert len(states(folder)) == 1  # what the dead left is gone


# ---- deleted meanwhile ----------------------------------------------------------------------------


def test_who_waits_for_the_lock_of_a_group_that_is_deleted_is_told(store, topic, folder):
    with topic.consumer("billing"):
        pass
    group, late = store.group("billing"), store.group("billing")
    failed = []

    def wait():
        try:
            late.reset("earliest")
        except seglog.SeglogError as error:
            failed.append(error)

    with group._membership.still():
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        os.rename(folder, folder.with_name(".gone"))
    thread.join()
    assert [type(error) for error in failed] == [seglog.GroupNotFound]


def test_the_handle_of_a_group_that_was_deleted_cannot_change_the_one_of_that_name_now(store, topic):
    zombie = topic.consumer("billing")
    store.group("billing").evict(zombie.member)
    store.group("billing").delete()
    with topic.consumer("billing") as one:
        before = one._membership.state().to_json()
        zombie.close()
        assert store.group("billing")._membership.state().to_json() == before
        assert one.receive(timeout=0) is not None


def test_a_joiner_overtaken_by_a_deletion_makes_the_group_anew(store, topic):
    with topic.consumer("billing"):
        pass
    made = []
    with store.group("billing")._membership.still():
        thread = threading.Thread(target=lambda: made.append(topic.consumer("billing")))
        thread.start()
        time.sleep(0.05)
        folder = os.path.join(store.path, "groups", "billing")
        os.rename(folder, folder + ".gone")
    thread.join()
    assert made[0].assignment == {"orders": (0, 1, 2, 3)}
    made[0].close()


# ---- a full disk, and a stopped member ------------------------------------------------------------


def test_on_a_full_disk_members_read_on_and_the_dead_are_replaced_when_there_is_room(
    store, topic, path, child, monkeypatch
):
    with (
        topic.consumer("billing") as here,
        child("c = store.topic('orders').consumer('billing'); c.receive(timeout=0)") as other,
    ):
        until(lambda: len(here.assignment["orders"]) == 2, here)

        def full(*names):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), names[0])

        monkeypatch.setattr(os, "replace", full)
        other.kill()
        for partition in here.assignment["orders"]:
            topic.send(b"more", partition=partition)
        time.sleep(0.06)
        assert here.receive(timeout=0) is not None
        assert here.receive(timeout=0) is not None
        here.commit()
        with pytest.raises(seglog.StoreFull):
            topic.consumer("billing")
        monkeypatch.undo()
        until(lambda: here.assignment == {"orders": (0, 1, 2, 3)}, here)


def test_a_member_stopped_with_the_lock_of_the_group_does_not_keep_others_from_reading(store, topic, child):
    with topic.consumer("billing") as here:
        code = "g = store.group('billing')._membership.still(); g.__enter__()"
        with child(code) as other:
            topic.send(b"more", partition=2)
            here._undone = True  # something to do that wants the lock
            here._looked = 0.0
            began = time.monotonic()
            assert here.receive(timeout=0) is not None
            assert time.monotonic() - began < 5  # and not lock_timeout, 30 s
            other.kill()


def test_a_change_that_changes_nothing_is_not_told(store, topic):
    with topic.consumer("billing") as here:
        before = here._membership.generation
        with here._membership.change() as state:
            state.rebalance(None)
        assert here._membership.generation == before


def test_a_change_that_raises_has_changed_nothing(store, topic, folder):
    with topic.consumer("billing") as here:
        before, files = here._membership.state().to_json(), states(folder)
        with pytest.raises(ZeroDivisionError), here._membership.change() as state:
            state.members.clear()
            raise ZeroDivisionError
        assert (here._membership.state().to_json(), states(folder)) == (before, files)


# ---- liveness -------------------------------------------------------------------------------------


def test_a_member_is_alive_while_its_store_is_open_and_no_longer(path, topic):
    other = seglog.open(path)
    theirs = other.topic("orders").consumer("billing")
    ours = topic.consumer("billing")
    assert ours._membership.dead() == []
    other._liveness.close()  # as its death would
    assert [member.number for member in ours._membership.dead()] == [theirs._membership.number]
    until(lambda: ours.assignment == {"orders": (0, 1, 2, 3)}, ours)
    ours.close()


def test_a_membership_can_be_looked_at_without_joining(path, topic):
    liveness = Liveness(str(path))
    with topic.consumer("billing") as one:
        looks = Membership(str(path / "groups" / "billing"), "billing", liveness, 1.0)
        assert [member.name for member in looks.state().members] == [one.member]
        with pytest.raises(seglog.Fenced):
            looks.me()
    assert looks.state().members == []
    liveness.close()
    assert membership.State.from_json(looks.state().to_json()) == looks.state()
