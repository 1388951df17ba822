"""Time: numbers inside, aware datetimes and durations outside, and a clock that tests move."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

import seglog
from seglog.clock import micros, moment, seconds, system_clock

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
NOON_US = 1_893_499_200_000_000


def test_the_system_clock_counts_microseconds_since_the_epoch():
    assert abs(moment(system_clock()) - datetime.now(UTC)) < timedelta(seconds=5)


def test_an_aware_datetime_means_itself_in_every_zone():
    there = timezone(timedelta(hours=5, minutes=30))
    assert micros(NOON) == micros(NOON.astimezone(there)) == NOON_US


@pytest.mark.parametrize("at_us", [-1, 0, 1, 253_402_300_799_999_999])
def test_times_come_back_to_the_microsecond(at_us):
    assert micros(moment(at_us)) == at_us


@pytest.mark.parametrize("use", ["read", "stop", "trim", "send", "seek", "offset_for_time"])
def test_a_naive_datetime_is_refused_everywhere_and_the_remedy_is_named(store, use):
    topic = store.topic("orders")
    topic.send(b"one")
    naive = datetime(2030, 1, 1)
    with topic.consumer("billing") as consumer, pytest.raises(ValueError, match=r"tzinfo|timezone"):
        {
            "read": lambda: topic.read(naive),
            "stop": lambda: topic.read(stop=naive),
            "trim": lambda: topic.trim(naive),
            "send": lambda: topic.send(b"two", timestamp=naive),
            "seek": lambda: consumer.seek(naive),
            "offset_for_time": lambda: topic.offset_for_time(naive),
        }[use]()
    assert [record.value for record in topic.read()] == [b"one"]


@pytest.mark.parametrize("value", [1.5, "2030-01-01", None, True])
def test_what_is_no_time_is_a_type_error(value):
    with pytest.raises(TypeError, match="aware datetime or an int of µs"):
        micros(value)


def test_durations_are_seconds_or_timedeltas():
    assert (seconds(2), seconds(0.5), seconds(timedelta(minutes=1))) == (2.0, 0.5, 60.0)


@pytest.mark.parametrize("value", [-1, float("nan"), timedelta(seconds=-1)])
def test_a_duration_is_not_negative(value):
    with pytest.raises(seglog.ConfigError, match="cannot be negative or NaN"):
        seconds(value, "timeout")


@pytest.mark.parametrize("value", ["1", None, True, NOON])
def test_what_is_no_duration_is_a_type_error(value):
    with pytest.raises(TypeError, match="timeout must be seconds or a timedelta"):
        seconds(value, "timeout")


def test_a_manual_clock_stands_still_until_it_is_moved(path):
    clock = seglog.ManualClock(NOON)
    with seglog.open(path, clock=clock) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        topic.send(b"two")
        clock.advance(timedelta(hours=1))
        topic.send(b"three")
        clock.set(NOON + timedelta(days=1))
        topic.send_many([b"four"])
        assert [record.time - NOON for record in topic.read()] == [
            timedelta(0),
            timedelta(0),
            timedelta(hours=1),
            timedelta(days=1),
        ]


def test_a_clock_that_jumps_back_loses_nothing(path):
    clock = seglog.ManualClock(NOON)
    with seglog.open(path, clock=clock) as store:
        topic = store.topic("orders")
        topic.send(b"one")
        clock.advance(-3600)
        topic.send(b"two")
        assert [record.value for record in topic.read()] == [b"one", b"two"]


def test_a_clock_must_be_callable(path):
    with pytest.raises(seglog.ConfigError, match="clock must be callable"):
        seglog.open(path, clock=NOON)
