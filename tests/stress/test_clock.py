"""Clocks jump by hours, both ways: records keep their order and their offsets, and nothing waits or rolls for it."""

import os
import threading
import time

import pytest

import seglog
from crash.kills.children import Child
from seglog.engine.log import Log

HOUR = 3600 * 1_000_000
NOW = 1_700_000_000_000_000


@pytest.fixture
def clock():
    return seglog.ManualClock(NOW)


def jump(clock, rng):
    clock.advance(rng.choice([-48, -5, -1, 1, 5, 48]) * 3600 * rng.random())


def test_order_offsets_and_times_are_what_they_were_whatever_the_clock_did(tmp_path, clock, rng):
    """Also for who opens it later; and the first record at or after a time is that, though times go up and down."""
    times = []
    with seglog.open(tmp_path, clock=clock, segment_bytes=1 << 16) as store:
        topic = store.topic("orders")
        for i in range(2000):
            if rng.random() < 0.05:
                jump(clock, rng)
            clock.advance(0.001)
            if rng.random() < 0.5:
                topic.send(b"%d" % i + bytes(300))
                times.append(clock())
            else:
                topic.send_many([b"%d" % i + bytes(300)] * 3)
                times += [clock()] * 3

    def check(store):
        topic = store.topic("orders")
        records = list(topic.read())
        assert [record.offset for record in records] == list(range(len(times)))
        assert [record.timestamp for record in records] == times
        for moment in [*rng.sample(times, 50), min(times) - 1, max(times), max(times) + 1]:
            first = next((i for i, t in enumerate(times) if t >= moment), len(times))
            assert topic.offset_for_time(moment) == first

    with seglog.open(tmp_path, clock=clock) as store:
        check(store)
    for transient in [*tmp_path.rglob("shm"), tmp_path / "lock"]:  # as after a reboot
        transient.unlink()
    clock.advance(-1e6)
    with seglog.open(tmp_path, clock=clock) as store:
        check(store)
        assert store.verify() == []


def test_a_segment_over_its_age_is_rolled_once_and_never_for_a_clock_that_goes_back(tmp_path, clock):
    with seglog.open(tmp_path, clock=clock, upkeep=False) as store:
        topic = store.topic("orders", segment_age=3600)
        log = topic.logs[0]

        def segments_after(hours):
            clock.advance(hours * 3600)
            topic.send(b"x")
            for _ in range(3):
                store.upkeep()
            return log.statistics()["segments"]

        assert segments_after(0) == 1
        assert segments_after(2) == 2
        assert segments_after(-48) == 2
        assert segments_after(1) == 2
        assert segments_after(24) == 2  # still before the segment was made
        assert segments_after(48) == 3
        assert [record.offset for record in topic.read()] == list(range(6))


def test_waits_and_locks_do_not_ask_that_clock(tmp_path, clock):
    """A timeout of 0.2 s is one, though the store's clock jumps by days; and a record wakes whoever waits."""
    with seglog.open(tmp_path, clock=clock, fsync_interval=0.01) as store:
        topic = store.topic("orders")
        stop = threading.Event()

        def jump_all_the_time():
            hours = 24
            while not stop.wait(0.001):
                clock.advance(hours * 3600)
                hours = -hours

        thread = threading.Thread(target=jump_all_the_time)
        thread.start()
        try:
            began = time.monotonic()
            assert topic.wait(0, timeout=0.2) is False
            assert list(topic.tail(timeout=0.2)) == []
            with topic.consumer("group", commit="after") as consumer:
                assert consumer.receive(timeout=0.2) is None
            assert 0.55 < time.monotonic() - began < 2.0
            offset = topic.send(b"x").offset
            assert topic.logs[0].wait(offset, 5.0, durable=True)  # upkeep goes by its own clock
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("moment", [0, -1, 1, -(2**62), 2**62])
def test_any_moment_is_a_moment(tmp_path, clock, moment):
    clock.set(moment)
    with seglog.open(tmp_path, clock=clock) as store:
        topic = store.topic("orders")
        topic.send(b"x")
        topic.send_many([b"y", b"z"])
        clock.set(NOW)
        topic.send(b"now")
        assert [record.timestamp for record in topic.read()] == [moment] * 3 + [NOW]
        assert topic.offset_for_time(moment) == 0
    with seglog.open(tmp_path, clock=clock) as store:
        assert store.topic("orders").offset_for_time(moment) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_two_processes_whose_clocks_differ_by_days_share_a_log(tmp_path):
    def write(days):
        def clock():
            return NOW + days * 24 * HOUR

        log = Log(tmp_path / "log", clock=clock, segment_bytes=1 << 16, segment_age=0.001)
        for i in range(300):
            log.append(b"%d/%d" % (days, i))
            if i % 50 == 0:
                log.upkeep()

    children = [Child(write, days) for days in (-5, 0, 5)]
    for child in children:
        child.answer()
        child.stop()
    with Log(tmp_path / "log") as log:
        values = [record.value for record in log.records()]
        assert log.next_offset == len(values) == 900
        for days in (-5, 0, 5):
            mine = [value for value in values if value.startswith(b"%d/" % days)]
            assert mine == [b"%d/%d" % (days, i) for i in range(300)]
        assert log.verify() == []
