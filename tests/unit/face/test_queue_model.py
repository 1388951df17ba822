"""The plain model of a queue does what its rules say, so that who differs from it can be asked why."""

import pytest

from unit.face.queue_model import DEAD, QueueModel

START = 1_700_000_000_000_000


@pytest.fixture
def model():
    return QueueModel(now=START, priorities=3, max_attempts=2)


def values(got):
    return [each.value for each in got]


def test_in_the_model_a_level_goes_before_a_place_and_what_came_back_keeps_its_place(model):
    for value, level in ((b"1", 0), (b"2", 0), (b"3", 2), (b"4", 9)):
        model.send(value, level=level)
    first = model.receive(1, "a")
    assert values(first) == [b"3"]
    model.release(first[0])
    assert values(model.receive(9, "a")) == [b"3", b"4", b"1", b"2"]
    assert first[0].attempts == 1 and first[0].deliveries == 2


def test_in_the_model_what_was_delayed_comes_in_the_order_in_which_it_is_due(model):
    model.send(b"late", delay=9)
    model.send(b"soon", delay=5)
    model.send(b"now")
    assert values(model.receive(9, "a")) == [b"now"]
    model.tick(START + 9_000_000)
    assert values(model.receive(9, "a")) == [b"soon", b"late"]


def test_in_the_model_the_last_attempt_is_the_last(model):
    model.send(b"1")
    model.nack(model.receive(1, "a")[0])
    model.leave("a")
    (again,) = model.receive(1, "a")
    model.leave("a")
    assert again.state == DEAD and again.reasons == ["delivery_limit"] and model.receive(1, "a") == []
    model.redrive(model.those(DEAD))
    assert values(model.receive(1, "a")) == [b"1"]


def test_in_the_model_a_group_waits_for_its_own():
    model = QueueModel(now=START, fifo=True)
    for value, group in ((b"1", b"a"), (b"2", b"a"), (b"3", b"b"), (b"4", b"a")):
        model.send(value, group=group)
    first = model.receive(9, "x")
    assert values(first) == [b"1", b"3"]
    assert model.receive(9, "y") == []
    model.nack(first[0], delay=5)
    assert model.receive(9, "y") == []
    model.tick(START + 5_000_000)
    assert values(model.receive(9, "y")) == [b"1"]
    model.ack(first[0])
    assert values(model.receive(9, "y")) == [b"2"]
