"""Retention: what is over a limit goes, whole segments at a time, and nothing that somebody still needs without a word."""

import datetime
import os

import pytest

import seglog

KIB64 = 65_536
DAY = 86_400


@pytest.fixture
def clock():
    return seglog.ManualClock()


@pytest.fixture
def store(tmp_path, clock):
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False, segment_bytes=KIB64) as store:
        yield store


def send(topic, count=400, size=1000, partition=None):
    for _ in range(0, count, 20):  # in frames much smaller than a segment
        topic.send_many([b"x" * size] * 20, partition=partition)


def offsets(topic):
    return [record.offset for record in topic.read()]


def blocks(topic):
    folder = topic.logs[0].path
    return sum(os.stat(os.path.join(folder, name)).st_blocks for name in os.listdir(folder) if name.endswith(".log"))


def test_by_age_whole_segments_go_when_their_newest_record_is_older(store, clock):
    events = store.topic("events", retention=7 * DAY)
    for _ in range(10):
        send(events, 100)
        clock.advance(DAY)
        store.upkeep()
    first = events.first_offset()
    assert 0 < first <= 300
    assert offsets(events) == list(range(first, 1000))
    assert events[0, first].time > datetime.datetime.fromtimestamp(clock() / 1e6, datetime.UTC) - datetime.timedelta(days=9)
    clock.advance(30 * DAY)
    store.upkeep()
    store.upkeep()  # the first one closed the segment that was being written
    assert offsets(events) == []
    assert events.next_offset() == 1000
    events.send(b"and on it goes")
    assert offsets(events) == [1000]


def test_the_space_is_really_returned(store, clock):
    events = store.topic("events", retention=datetime.timedelta(hours=1))
    send(events, 2000)
    before = blocks(events)
    assert before * 512 > 2_000_000
    clock.advance(7200)
    store.upkeep()
    assert blocks(events) * 512 < 300_000
    assert store.statistics().topics["events"].disk_bytes < 300_000


def test_by_bytes_at_least_that_much_is_kept_and_at_most_a_segment_more(store):
    events = store.topic("events", retention_bytes=500_000)
    send(events, 3000)
    store.upkeep()
    kept = len(offsets(events)) * 1000
    assert 500_000 - KIB64 <= kept <= 500_000 + 2 * KIB64
    store.upkeep()
    assert len(offsets(events)) * 1000 == kept


def test_by_number_at_least_that_many_are_kept_in_each_partition(store):
    events = store.topic("events", retention_records=300, partitions=2)
    send(events, 1000, partition=0)
    send(events, 200, partition=1)
    store.upkeep()
    assert 300 <= 1000 - events.first_offset(0) < 300 + 70
    assert events.first_offset(1) == 0


def test_a_reader_in_the_middle_and_arrays_that_were_handed_out_are_not_disturbed(store, clock):
    events = store.topic("events", retention=1)
    events.send_many([b"%07d" % n for n in range(60_000)])
    batch = events.read_batch(partition=0, offset=0, max_records=1000)
    values, data = batch.values.tolist(), batch.values.data.tobytes()
    reading = events.read()
    assert next(reading).offset == 0
    clock.advance(60)
    store.upkeep()
    assert events.first_offset() > 1000
    assert batch.values.tolist() == values
    assert batch.values.data.tobytes() == data
    assert next(reading).offset == 1
    with pytest.raises(seglog.OffsetOutOfRange):
        events.read_batch(partition=0, offset=0)


def read_and_commit(consumer, count):
    while count:
        batch = consumer.receive(max_records=count, timeout=0)
        count -= len(batch)
    consumer.commit()


# -- groups ---------------------------------------------------------------------------------------------------------


def test_what_a_group_has_not_passed_waits_for_it(store, clock):
    events = store.topic("events", retention=1, keep_for_groups=["billing", "audit"])
    send(events)
    with events.consumer("billing") as billing, events.consumer("audit") as audit:
        while billing.receive(timeout=0):
            pass
        billing.commit()
        clock.advance(60)
        store.upkeep()
        assert events.first_offset() == 0  # audit never committed
        read_and_commit(audit, 200)
        store.upkeep()
        assert 100 < events.first_offset() <= 200
    assert store.statistics().warnings == ()


def test_what_a_member_received_and_did_not_commit_waits(store, clock):
    events = store.topic("events", retention=1, keep_for_groups=["billing"])
    send(events)
    clock.advance(60)
    with events.consumer("billing") as billing:
        while billing.receive(timeout=0):
            pass
        store.upkeep()
        assert billing.position(0) == 400 and billing.committed(0) is None
        assert events.first_offset() == 0
        billing.seek(0, 150)
        read_and_commit(billing, 20)
        store.upkeep()
        assert 70 < events.first_offset() <= 170


def test_what_a_group_passed_in_a_transaction_goes_once_that_is_on_disk(store):
    events, out = store.topic("events", keep_for_groups=["billing"]), store.topic("out")
    send(events)
    with events.consumer("billing") as billing:
        count = 300
        while count:
            batch = billing.receive(max_records=count, timeout=0)
            count -= len(batch)
        with store.transaction() as tx:
            out.send(b"bill", tx=tx)
            billing.commit(batch, tx=tx)
        store.upkeep()
        assert 200 < events.first_offset() <= 300


def test_a_commit_is_on_disk_before_what_it_lets_go_of_goes(store, monkeypatch):
    events = store.topic("events", keep_for_groups=["billing"])
    send(events)
    synced = []
    monkeypatch.setattr("seglog.upkeep.sync_data", lambda fd: synced.append((os.fstat(fd).st_ino, events.first_offset())))
    with events.consumer("billing") as billing:
        read_and_commit(billing, 300)
        store.upkeep()
        assert synced == [(os.stat(os.path.join(store.path, "groups", "billing", "events.positions")).st_ino, 0)]
        assert events.first_offset() > 200


def test_without_a_limit_what_all_groups_have_passed_goes(store):
    events = store.topic("events", keep_for_groups=("billing",))
    send(events)
    store.upkeep()
    assert events.first_offset() == 0
    with events.consumer("billing") as billing:
        read_and_commit(billing, 300)
    store.upkeep()
    assert 200 < events.first_offset() <= 300


def test_over_the_hard_cap_it_goes_all_the_same_and_that_is_told_before_and_after(store):
    events = store.topic("events", keep_for_groups=("billing",), retention_max_bytes=1_000_000)
    with events.consumer("billing") as billing:
        send(events, 500)
        store.upkeep()
        assert store.statistics().warnings == ()
        send(events, 400)
        store.upkeep()
        assert events.first_offset() == 0
        (warning,) = store.statistics().warnings
        assert "billing has read events/0 up to offset 0" in warning and "will be deleted unread" in warning
        send(events, 600)
        store.upkeep()
        assert events.first_offset() > 400
        assert any("were deleted unread" in warning for warning in store.statistics().warnings)
        del billing
    assert store.statistics().topics["events"].disk_bytes < 1_000_000 + KIB64


def test_a_group_that_nobody_is_in_yet_is_waited_for_up_to_the_cap(store):
    events = store.topic("events", keep_for_groups=("billing",), retention_max_bytes=500_000)
    send(events, 400)
    store.upkeep()
    assert events.first_offset() == 0
    send(events, 600)
    store.upkeep()
    assert events.first_offset() > 400
    assert any("were deleted unread" in warning for warning in store.statistics().warnings)


def test_a_topic_made_anew_does_not_inherit_what_a_group_had_passed(store):
    events = store.topic("events", keep_for_groups=("billing",))
    send(events)
    with events.consumer("billing") as billing:
        read_and_commit(billing, 400)
    store.delete_topic("events")
    events = store.topic("events", keep_for_groups=("billing",))
    send(events)
    store.upkeep()
    assert events.first_offset() == 0


# -- settings -------------------------------------------------------------------------------------------------------


def test_the_settings_are_the_topics_and_others_raise(store, tmp_path):
    events = store.topic("events", retention=datetime.timedelta(days=1), keep_for_groups=["b", "a"], retention_bytes=1 << 30)
    assert (events.config.retention, events.config.keep_for_groups) == (86400.0, ("a", "b"))
    assert store.topic("events", keep_for_groups=["a", "b"]) is events
    with pytest.raises(seglog.TopicMismatch) as told:
        store.topic("events", retention=5)
    assert told.value.differences == {"retention": (5.0, 86400.0)}
    with seglog.open(tmp_path / "data", upkeep=False) as other:
        assert other.topic("events").config == events.config


@pytest.mark.parametrize(
    "setting",
    [
        {"retention": 0},
        {"retention": -1},
        {"retention_bytes": 0},
        {"retention_records": 1.5},
        {"retention_max_bytes": "1GB"},
        {"keep_for_groups": ["no/slash"]},
        {"compact": 1},
        {"compact_keep": 0},
        {"compact_dirty_ratio": 2},
        {"compact_memory": 10},
        {"compact_min_lag": -1},
        {"tombstone_grace": float("nan")},
    ],
)
def test_a_setting_that_cannot_work_is_refused(store, setting):
    with pytest.raises((seglog.ConfigError, seglog.InvalidName)):
        store.topic("events", **setting)
    assert store.topics() == []


def test_one_string_is_no_list_of_groups(store):
    with pytest.raises(TypeError, match="billing"):
        store.topic("events", keep_for_groups="billing")


def test_two_processes_that_do_the_same_do_it_once(store, tmp_path, clock):
    events = store.topic("events", retention=1)
    send(events)
    with seglog.open(tmp_path / "data", clock=clock, upkeep=False) as other:
        other.topic("events")
        clock.advance(60)
        store.upkeep()
        other.upkeep()
        assert other.topic("events").first_offset() == events.first_offset() > 300


def test_the_background_does_it(tmp_path):
    clock = seglog.ManualClock()
    with seglog.open(tmp_path / "data", clock=clock, segment_bytes=KIB64) as store:
        events = store.topic("events", retention=1)
        send(events)
        clock.advance(60)
        for _ in range(200):
            if events.first_offset() > 300:
                break
            events.wait(10_000, timeout=0.05)
        assert events.first_offset() > 300
