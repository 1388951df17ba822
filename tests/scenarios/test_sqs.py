"""The contract of SQS, by its own words, in virtual time: visibility, receive count, redrive, FIFO order and deduplication, delay,
batches, purge, stale receipts. Where seglog promises more, the more is asserted: nothing comes after an ack, counts are exact."""

import pytest

import seglog

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(seglog_store):
    return seglog_store


@pytest.fixture
def clock(seglog_clock):
    return seglog_clock


def values(messages):
    return [message.value for message in messages]


# ---- visibility timeout -------------------------------------------------------------------------------------------


def test_a_received_message_is_hidden_until_its_visibility_timeout_is_over(store, clock):
    queue = store.queue("jobs", lease=30)
    queue.send(b"x")
    (first,) = queue.receive(timeout=0)
    assert queue.receive(timeout=0) == []
    clock.advance(29.9)
    assert queue.receive(timeout=0) == []
    assert queue.statistics().in_flight == 1
    clock.advance(0.2)
    (second,) = queue.receive(timeout=0)
    assert (second.value, second.attempts, second.id) == (b"x", 2, first.id)


def test_the_visibility_timeout_is_30_seconds_if_nothing_is_said(store, clock):
    queue = store.queue("jobs")
    queue.send(b"x")
    queue.receive(timeout=0)
    clock.advance(29.9)
    assert queue.receive(timeout=0) == []
    clock.advance(0.2)
    assert len(queue.receive(timeout=0)) == 1


def test_change_message_visibility_counts_from_the_call_and_is_not_remembered(store, clock):
    queue = store.queue("jobs", lease=30)
    queue.send(b"x")
    (message,) = queue.receive(timeout=0)
    clock.advance(20)
    message.extend(60)
    clock.advance(59)
    assert queue.receive(timeout=0) == []
    clock.advance(2)
    (message,) = queue.receive(timeout=0)
    clock.advance(31)  # the next receive has the queue's own again
    assert len(queue.receive(timeout=0)) == 1


def test_a_visibility_timeout_of_zero_gives_it_back_now(store):
    queue = store.queue("jobs")
    queue.send(b"x")
    (message,) = queue.receive(timeout=0)
    message.extend(0)
    (again,) = queue.receive(timeout=0)
    assert again.attempts == 2
    again.release()  # what SQS has not: it does not count
    assert queue.receive(timeout=0)[0].attempts == 2


def test_a_lease_is_not_extended_beyond_twelve_hours_after_the_receive(store, clock):
    queue = store.queue("jobs", lease=30)
    queue.send(b"x")
    (message,) = queue.receive(timeout=0)
    for _ in range(11):
        message.extend(3600)
        clock.advance(3599)
        assert queue.receive(timeout=0) == []
    message.extend(10 * 3600)
    clock.advance(3650)
    assert len(queue.receive(timeout=0)) == 1


# ---- receipts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ack", "nack", "release", "reject", "extend"])
def test_the_receipt_of_an_earlier_receive_is_of_no_use(store, clock, verb):
    queue = store.queue("jobs", lease=30)
    queue.send(b"x")
    (old,) = queue.receive(timeout=0)
    clock.advance(31)
    (new,) = queue.receive(timeout=0)
    with pytest.raises(seglog.LeaseLost):
        getattr(old, verb)(*((5,) if verb == "extend" else ()))
    new.ack()
    assert queue.statistics().acked == 1 and queue.statistics().dead_lettered == 0


@pytest.mark.parametrize("verb", ["ack", "nack", "release", "reject", "extend"])
def test_a_message_is_settled_once(store, verb):
    queue = store.queue("jobs")
    queue.send(b"x")
    (message,) = queue.receive(timeout=0)
    message.ack()
    with pytest.raises(seglog.LeaseLost):
        getattr(message, verb)(*((5,) if verb == "extend" else ()))


def test_one_stale_receipt_in_a_batch_fails_all_of_it(store, clock):
    queue = store.queue("jobs", lease=30)
    queue.send_many([b"1", b"2", b"3"])
    (one,) = queue.receive(timeout=0)
    clock.advance(31)
    again = queue.receive(3, timeout=0)
    for verb, more in (("ack", ()), ("nack", ()), ("release", ()), ("extend", (5,)), ("reject", ("bad",))):
        with pytest.raises(seglog.LeaseLost):
            getattr(queue, verb)([again[1], one, again[2]], *more)
    queue.ack(again)
    assert queue.statistics().acked == 3


def test_an_acked_message_never_comes_again(store, clock):
    """SQS: "it is possible to receive a message even after you delete it". Not here."""
    queue = store.queue("jobs", lease=1)
    queue.send_many([b"%d" % i for i in range(1000)])
    while messages := queue.receive(100, timeout=0):
        queue.ack(messages)
        clock.advance(2)
    assert queue.statistics().depth == 0


# ---- receive count, redrive ---------------------------------------------------------------------------------------


def test_every_receive_is_counted_and_the_times_are_told(store, clock):
    queue = store.queue("jobs", lease=10, max_attempts=10)
    clock.advance(5)
    sent = clock()
    queue.send(b"x", headers={"trace": b"abc"})
    clock.advance(1)
    first = clock()
    for count in range(1, 6):
        (message,) = queue.receive(timeout=0)
        assert (message.attempts, message.deliveries) == (count, count)
        assert (message.sent_at, message.first_received_at) == (sent, first)
        assert message.headers == {"trace": b"abc"}
        clock.advance(11)


def test_a_message_that_was_received_too_often_goes_to_the_dead_letters(store, clock):
    """Received `max_attempts` times and not deleted: the next time it is not received but moved."""
    queue = store.queue("jobs", lease=10, max_attempts=3, dead_letter="graveyard")
    queue.send(b"poison", headers={"who": b"me"}, key=b"k")
    sent = clock()
    for _ in range(3):
        (message,) = queue.receive(timeout=0)
        clock.advance(11)
    assert queue.receive(timeout=0) == []
    store.upkeep()
    (dead,) = store.queue("graveyard").receive(timeout=0)
    assert (dead.value, dead.key, dead.headers["who"], dead.id) == (b"poison", b"k", b"me", message.id)
    assert dead.sent_at == sent
    (death,) = dead.deaths
    assert (death["queue"], death["reason"], death["count"]) == ("jobs", "delivery_limit", 1)
    assert queue.statistics().dead_lettered == 1 and queue.statistics().depth == 0


def test_redrive_gives_the_dead_back_with_their_history(store):
    queue = store.queue("jobs", max_attempts=1)
    queue.send_many([b"1", b"2", b"3"])
    for message in queue.receive(3, timeout=0):
        message.nack(error="boom " + message.value.decode())
    dead = store.queue("jobs.dead")
    assert [message.deaths[0]["error"] for message in dead.peek(9)] == ["boom 1", "boom 2", "boom 3"]
    assert dead.redrive(filter=lambda message: message.value != b"2") == 2
    again = queue.receive(9, timeout=0)
    assert values(again) == [b"1", b"3"]
    assert [message.attempts for message in again] == [1, 1]
    assert values(dead.peek(9)) == [b"2"]
    again[0].nack(error="and again")
    (_, twice) = dead.receive(9, timeout=0)
    assert twice.value == b"1" and len(twice.deaths) == 1
    assert (twice.deaths[0]["count"], twice.deaths[0]["error"]) == (2, "and again")


def test_redrive_to_another_queue_and_not_all_at_once(store):
    queue, other = store.queue("jobs", max_attempts=1), store.queue("other")
    queue.send_many([b"%d" % i for i in range(10)])
    for message in queue.receive(10, timeout=0):
        message.nack()
    dead = store.queue("jobs.dead")
    assert dead.redrive("other", max_messages=4) == 4
    assert dead.redrive(other, max_messages=2, rate=1000) == 2
    assert values(other.receive(9, timeout=0)) == [b"%d" % i for i in range(6)]
    assert dead.redrive() == 4
    assert values(queue.receive(9, timeout=0)) == [b"%d" % i for i in range(6, 10)]
    assert dead.redrive() == 0


def test_dead_letters_keep_their_full_retention(store, clock):
    """The trap of SQS: the time a message spent in its queue counts against its life among the dead. Not here."""
    queue = store.queue("jobs", ttl=4 * 86400, max_attempts=1)
    queue.send(b"x")
    clock.advance(3 * 86400)
    queue.receive(timeout=0)[0].nack()
    clock.advance(30 * 86400)
    assert values(store.queue("jobs.dead").receive(timeout=0)) == [b"x"]


# ---- delay --------------------------------------------------------------------------------------------------------


def test_delayed_messages_come_when_they_are_due_and_in_that_order(store, clock):
    queue = store.queue("jobs")
    for value, delay in ((b"15 min", 900), (b"3 days", 3 * 86400), (b"1 s", 1), (b"now", 0), (b"30 days", 30 * 86400)):
        queue.send(value, delay=delay)
    assert queue.statistics().delayed == 4
    for value, wait in (
        (b"now", 0),
        (b"1 s", 1),
        (b"15 min", 899),
        (b"3 days", 3 * 86400 - 900),
        (b"30 days", 27 * 86400),
    ):
        clock.advance(max(0.0, wait - 0.001))
        early = queue.receive(timeout=0)
        assert [message.value for message in early] == ([b"now"] if value == b"now" else [])
        queue.ack(early)
        clock.advance(min(wait, 0.001))
        if value != b"now":
            (message,) = queue.receive(timeout=0)
            assert message.value == value
            message.ack()
    assert queue.statistics().depth == 0


def test_a_delay_and_a_moment_are_the_same(store, clock):
    queue = store.queue("jobs")
    queue.send(b"later", deliver_at=clock() + 10_000_000)
    queue.send(b"past", deliver_at=clock() - 10_000_000)
    assert values(queue.receive(9, timeout=0)) == [b"past"]
    clock.advance(10)
    assert values(queue.receive(9, timeout=0)) == [b"later"]


def test_a_delayed_nack_keeps_the_message_away_for_that_long(store, clock):
    queue = store.queue("jobs")
    queue.send(b"x")
    queue.receive(timeout=0)[0].nack(delay=60)
    queue.send(b"y")
    assert values(queue.receive(9, timeout=0)) == [b"y"]
    assert queue.statistics().delayed == 1
    clock.advance(60)
    (message,) = queue.receive(timeout=0)
    assert (message.value, message.attempts) == (b"x", 2)


def test_backoff_makes_failures_wait_longer_each_time(store, clock):
    queue = store.queue("jobs", backoff=seglog.Backoff("exponential", first=10, maximum=35, jitter=0), max_attempts=9)
    queue.send(b"x")
    for wait in (10, 20, 35, 35):
        queue.receive(timeout=0)[0].nack()
        clock.advance(wait - 0.01)
        assert queue.receive(timeout=0) == []
        clock.advance(0.01)
    assert queue.receive(timeout=0)[0].attempts == 5


# ---- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_is_of_any_size_and_comes_in_order(store):
    queue = store.queue("jobs")
    queue.send_many([b"%d" % i for i in range(5000)])
    got = [queue.receive(n, timeout=0) for n in (1, 10, 1000, 10_000)]
    assert [len(messages) for messages in got] == [1, 10, 1000, 3989]
    everything = [message for messages in got for message in messages]
    assert values(everything) == [b"%d" % i for i in range(5000)]
    queue.ack(everything)
    assert queue.statistics().acked == 5000 and queue.statistics().depth == 0


def test_a_batch_that_cannot_be_sent_is_not_sent_in_part(store):
    queue = store.queue("jobs")
    with pytest.raises(TypeError):
        queue.send_many([b"1", "a str", b"3"])
    assert queue.receive(9, timeout=0) == []


def test_the_options_of_a_batch_hold_for_each(store, clock):
    queue = store.queue("jobs", priorities=2)
    queue.send_many([b"1", b"2"], delay=10, priority=1, ttl=60)
    queue.send_many([b"3"], keys=[b"k"], headers=[{"h": b"v"}])
    (three,) = queue.receive(9, timeout=0)
    assert (three.value, three.key, three.headers) == (b"3", b"k", {"h": b"v"})
    clock.advance(10)
    got = queue.receive(9, timeout=0)
    assert [(message.value, message.priority) for message in got] == [(b"1", 1), (b"2", 1)]


# ---- FIFO ---------------------------------------------------------------------------------------------------------


def test_fifo_one_groups_messages_one_at_a_time_and_others_meanwhile(store):
    queue = store.queue("orders.fifo", fifo=True)
    for value, group in ((b"a1", b"a"), (b"a2", b"a"), (b"b1", b"b"), (b"a3", b"a"), (b"b2", b"b")):
        queue.send(value, group=group)
    (a1,) = queue.receive(1, timeout=0)
    assert (a1.value, a1.group) == (b"a1", b"a")
    (b1,) = queue.receive(1, timeout=0)
    assert b1.value == b"b1"
    assert queue.receive(9, timeout=0) == []
    statistics = queue.statistics()
    assert (statistics.in_flight, statistics.ready + statistics.blocked) == (2, 3)
    b1.ack()
    assert values(queue.receive(9, timeout=0)) == [b"b2"]
    a1.nack()
    (again,) = queue.receive(1, timeout=0)
    assert (again.value, again.attempts) == (b"a1", 2)
    again.ack()
    assert values(queue.receive(9, timeout=0)) == [b"a2"]


def test_fifo_a_batch_carries_one_of_each_group(store):
    """SQS may put several of a group into one batch; here the order holds also when the first of them fails."""
    queue = store.queue("orders.fifo", fifo=True)
    for i in range(6):
        queue.send(b"%d" % i, group=b"a" if i % 3 else b"b")
    for expected in ([b"0", b"1"], [b"2", b"3"], [b"4"], [b"5"]):
        got = queue.receive(4, timeout=0)
        assert values(got) == expected
        assert queue.receive(4, timeout=0) == []
        queue.ack(got)


def test_fifo_a_message_that_waits_blocks_its_group_and_no_other(store, clock):
    queue = store.queue("orders.fifo", fifo=True)
    for value, group in ((b"a1", b"a"), (b"a2", b"a"), (b"b1", b"b")):
        queue.send(value, group=group)
    queue.receive(1, timeout=0)[0].nack(delay=60)
    (b1,) = queue.receive(9, timeout=0)
    assert b1.value == b"b1"
    b1.ack()
    clock.advance(60)
    (a1,) = queue.receive(9, timeout=0)
    assert (a1.value, a1.attempts) == (b"a1", 2)
    a1.ack()
    assert values(queue.receive(9, timeout=0)) == [b"a2"]


def test_fifo_the_dead_let_their_group_go_on(store):
    queue = store.queue("orders.fifo", fifo=True, max_attempts=1)
    for value in (b"a1", b"a2"):
        queue.send(value, group=b"a")
    queue.receive(1, timeout=0)[0].nack()
    assert values(queue.receive(9, timeout=0)) == [b"a2"]
    (dead,) = store.queue("orders.fifo.dead").receive(timeout=0)
    assert (dead.value, dead.group) == (b"a1", b"a")


def test_deduplication_for_five_minutes_even_after_the_message_was_deleted(store, clock):
    queue = store.queue("orders.fifo", fifo=True)
    first = queue.send(b"first", group=b"a", dedup_id=b"order-7")
    assert queue.send(b"second", group=b"a", dedup_id=b"order-7") == first
    assert queue.send(b"other", group=b"b", dedup_id=b"order-8") != first
    (message, other) = queue.receive(9, timeout=0)
    assert (message.value, message.dedup_id, other.value) == (b"first", b"order-7", b"other")
    queue.ack([message, other])
    clock.advance(299)
    assert queue.send(b"third", group=b"a", dedup_id=b"order-7") == first
    assert queue.receive(timeout=0) == []
    clock.advance(2)
    assert queue.send(b"fourth", group=b"a", dedup_id=b"order-7") != first
    assert values(queue.receive(timeout=0)) == [b"fourth"]


def test_deduplication_of_a_delayed_message(store, clock):
    queue = store.queue("jobs")
    queue.send(b"first", dedup_id=b"7", delay=10)
    queue.send(b"second", dedup_id=b"7", delay=10)
    clock.advance(10)
    assert values(queue.receive(9, timeout=0)) == [b"first"]
    queue.send(b"third", dedup_id=b"7")
    assert queue.receive(9, timeout=0) == []


def test_fair_queues_do_not_let_one_tenant_keep_the_others_waiting(store):
    """SQS: fair queues. The noisy one sent a thousand before the others came."""
    queue = store.queue("jobs", fair=True)
    for i in range(1000):
        queue.send(b"%d" % i, group=b"noisy")
    for i in range(5):
        queue.send(b"%d" % i, group=b"quiet")
        queue.send(b"%d" % i, group=b"other")
    got = [queue.receive(1, timeout=0)[0] for _ in range(30)]
    for group in (b"quiet", b"other"):
        mine = [place for place, message in enumerate(got) if message.group == group]
        assert len(mine) == 5 and mine[-1] < 20
        assert [got[place].value for place in mine] == [b"%d" % i for i in range(5)]


# ---- purge, counts, retention -------------------------------------------------------------------------------------


def test_purge_is_exact_and_takes_what_is_in_flight_and_delayed_too(store, clock):
    queue = store.queue("jobs")
    queue.send_many([b"1", b"2", b"3"])
    queue.send(b"later", delay=10)
    (one, two) = queue.receive(2, timeout=0)
    one.ack()
    assert queue.purge() == 3
    queue.send(b"after")
    with pytest.raises(seglog.LeaseLost):
        two.ack()
    clock.advance(100)
    assert values(queue.receive(9, timeout=0)) == [b"after"]
    assert queue.purge() == 1 and queue.purge() == 0


def test_the_counts_are_exact(store, clock):
    queue = store.queue("jobs", max_attempts=2)
    queue.send_many([b"%d" % i for i in range(100)])
    for _ in range(10):
        queue.send(b"later", delay=60)
    got = queue.receive(40, timeout=0)
    queue.ack(got[:30])
    queue.nack(got[30:35], delay=5)
    found = queue.statistics()
    assert (found.ready, found.in_flight, found.delayed, found.acked) == (60, 5, 15, 30)
    clock.advance(100)
    found = queue.statistics()
    assert (found.ready, found.in_flight, found.delayed) == (80, 0, 0)
    assert found.oldest_age == 100


def test_what_is_older_than_the_retention_is_never_received(store, clock):
    queue = store.queue("jobs", ttl=60)
    queue.send(b"old")
    queue.send(b"short", ttl=5)
    queue.send(b"long", ttl=600)  # the shorter of the two counts
    clock.advance(30)
    queue.send(b"new")
    clock.advance(31)
    assert values(queue.receive(9, timeout=0)) == [b"new"]
    assert queue.statistics().expired == 3


def test_an_alert_can_be_made_of_the_age_of_the_oldest(store, clock):
    queue = store.queue("jobs")
    assert queue.statistics().oldest_age is None
    queue.send(b"1")
    clock.advance(7)
    queue.send(b"2")
    assert queue.statistics().oldest_age == 7
    queue.receive(timeout=0)[0].ack()
    assert queue.statistics().oldest_age == 0
