"""Exchanges: what is bound gets what is sent, once each, all or nothing; for every process, whatever dies in between."""

import os
import signal
import subprocess
import sys
import threading

import pytest

import seglog
from seglog import Destination
from seglog.engine.log import Log


def values(thing):
    """What a topic, or a queue, has."""
    if isinstance(thing, seglog.Topic):
        return [record.value for record in thing.read()]
    return [message.value for message in thing.browse()]


@pytest.fixture
def events(store):
    return store.exchange("events", "topic")


# ---- making, opening, deleting ----------------------------------------------------------------------------------------


def test_it_is_made_once_and_opened_as_it_is(store, path):
    made = store.exchange("events", "topic", alternate="rest")
    assert store.exchange("events") is made is store.exchange("events", "topic", alternate="rest")
    assert (made.name, made.type, made.config.alternate) == ("events", "topic", "rest")
    assert store.exchanges() == ["events"]
    with seglog.open(path) as other:
        assert other.exchange("events").config == made.config
        assert other.exchanges() == ["events"]


def test_other_settings_are_refused_and_told(store):
    store.exchange("shards", "hash", hash_header="customer", alternate="rest")
    with pytest.raises(seglog.ExchangeMismatch, match="exists with other settings") as caught:
        store.exchange("shards", "topic", alternate="other")
    assert caught.value.differences == {"type": ("topic", "hash"), "alternate": ("other", "rest")}
    with pytest.raises(seglog.ExchangeMismatch):
        store.exchange("shards", "hash", hash_header="other")
    assert store.exchange("shards", "hash").config.hash_header == "customer"


def test_without_a_type_it_must_be_there(store):
    with pytest.raises(seglog.ExchangeNotFound) as caught:
        store.exchange("events")
    assert caught.value.name == "events" and isinstance(caught.value, KeyError)
    assert store.exchanges() == []


def test_the_one_without_a_name_is_the_queue_itself(store):
    with pytest.raises(seglog.InvalidName, match=r"store.queue\(name\).send\(\) is it"):
        store.exchange("", "direct")


@pytest.mark.parametrize(
    ("name", "settings", "error"),
    [
        ("a/b", {"type": "topic"}, seglog.InvalidName),
        (5, {"type": "topic"}, TypeError),
        ("e", {"type": "tropic"}, seglog.ConfigError),
        ("e", {"type": 5}, seglog.ConfigError),
        ("e", {"type": "topic", "alternate": "e"}, seglog.ConfigError),
        ("e", {"type": "topic", "alternate": "a/b"}, seglog.InvalidName),
        ("e", {"type": "topic", "alternate": 5}, TypeError),
        ("e", {"type": "topic", "hash_header": "h"}, seglog.ConfigError),
        ("e", {"type": "hash", "hash_header": ""}, seglog.ConfigError),
        ("e", {"type": "hash", "hash_header": b"h"}, TypeError),
    ],
)
def test_settings_that_cannot_work_make_nothing(store, name, settings, error):
    with pytest.raises(error):
        store.exchange(name, **settings)
    assert store.exchanges() == []


def test_a_deleted_one_is_gone_for_every_handle_and_another_of_its_name_is_another(store, events):
    audit = store.topic("audit")
    events.bind(audit, "#")
    events.send(b"1", routing_key="a")
    store.delete_exchange("events")
    assert store.exchanges() == []
    assert store.exchange("events", "topic").bindings() == []
    store.delete_exchange("events")
    for _ in range(2):
        for use in (
            lambda: events.send(b"2", routing_key="a"),
            lambda: events.route("a"),
            lambda: events.bind(audit, "#"),
            lambda: events.bindings(),
        ):
            with pytest.raises(seglog.ExchangeNotFound):
                use()
        again = store.exchange("events", "topic")
        assert again is not events
        again.bind(audit, "#")
        again.send(b"3", routing_key="a")  # and the old one is not answered from its memory
    assert values(audit) == [b"1", b"3", b"3"]
    with pytest.raises(seglog.ExchangeNotFound):
        store.delete_exchange("other")


# ---- binding ----------------------------------------------------------------------------------------------------------


def test_binding_twice_is_binding_once_and_unbinding_undoes_it(store, events):
    mail, audit = store.queue("mail"), store.topic("audit")
    for _ in range(2):
        events.bind(mail, "order.*")
        events.bind(audit, "order.#")
    assert [(it.kind, it.destination, it.pattern) for it in events.bindings()] == [
        ("queue", "mail", "order.*"),
        ("topic", "audit", "order.#"),
    ]
    version = store.topology.version
    events.bind(mail, "order.*")
    events.unbind(mail, "order.#")
    assert store.topology.version == version  # nothing was written
    for _ in range(2):
        events.unbind(mail, "order.*")
    assert events.route("order.1") == [Destination("topic", "audit")]


def test_a_queue_and_a_topic_of_one_name_are_two(store, events):
    events.bind(store.queue("same"), "#")
    events.bind(store.topic("same"), "#")
    sent = events.send(b"x", routing_key="k")
    assert [(to.kind, to.name, to.position.offset) for to in sent] == [("queue", "same", 0), ("topic", "same", 0)]
    assert values(store.queue("same")) == values(store.topic("same")) == [b"x"]


def test_headers_bindings_keep_their_arguments(store, path):
    files = store.exchange("files", "headers")
    files.bind(store.topic("pdf"), x_match="any", format=b"pdf\xff", urgent=None)
    with seglog.open(path) as other:
        (binding,) = other.exchange("files").bindings()
        assert binding.arguments == {"x-match": "any", "format": b"pdf\xff", "urgent": None}
        assert other.exchange("files").route(headers={"format": b"pdf\xff"}) == [Destination("topic", "pdf")]
        assert other.exchange("files").route(headers={"format": b"pdf"}) == []
    files.bind(store.topic("pdf"), format=b"a")
    files.unbind(store.topic("pdf"), **{"x-match": "all", "format": b"a"})
    assert files.bindings() == [binding]


def test_what_is_no_destination_is_refused(store, events, tmp_path):
    for wrong in ("audit", None, 5, store):
        with pytest.raises(TypeError, match="a destination is a Queue, a Topic or an Exchange"):
            events.bind(wrong, "#")
    with seglog.open(tmp_path / "other") as other:
        with pytest.raises(seglog.TopicNotFound, match="none of this store"):
            events.bind(other.topic("audit"), "#")
        store.topic("audit")  # nor is it meant by one that has its name
        with pytest.raises(seglog.TopicNotFound):
            events.bind(other.topic("audit"), "#")
        with pytest.raises(seglog.QueueNotFound):
            events.bind(other.queue("mail"), "#")
        with pytest.raises(seglog.ExchangeNotFound):
            events.bind(other.exchange("x", "fanout"), "#")
    gone = store.topic("gone")
    store.delete_topic("gone")
    with pytest.raises(seglog.TopicNotFound):
        events.bind(gone, "#")
    for pattern in (b"#", None, "k" * 256):
        with pytest.raises((TypeError, seglog.ConfigError)):
            events.bind(store.topic("audit"), pattern)
    with pytest.raises(seglog.ConfigError):
        events.bind(store.topic("audit"), "#", format=b"pdf")
    assert events.bindings() == []


# ---- sending ----------------------------------------------------------------------------------------------------------


def test_each_destination_gets_one_copy_with_all_that_the_message_has(store, events):
    mail, audit = store.queue("mail"), store.topic("audit")
    for pattern in ("order.#", "#.paid", "#"):
        events.bind(mail, pattern)
        events.bind(audit, pattern)
    sent = events.send(b"42", routing_key="order.paid", key=b"k", headers={"h": b"1"})
    assert sent == [("queue", "mail", (0, 0)), ("topic", "audit", (0, 0))]
    record, (message,) = audit[0, 0], mail.receive(timeout=0)
    assert (record.value, record.key, record.headers) == (b"42", b"k", {"h": b"1"})
    assert (message.value, message.key, message.headers) == (b"42", b"k", {"h": b"1"})


def test_one_destination_is_a_plain_send(store, events, path):
    events.bind(store.topic("audit", partitions=3), "#")
    ((_, name, position),) = events.send(b"1", routing_key="a", key=b"k")
    assert name == "audit" and store.topic("audit")[position].value == b"1"
    assert not (path / "txn").exists()


def test_options_reach_queues_and_only_those(store, events):
    mail, audit = store.queue("mail", priorities=3), store.topic("audit")
    events.bind(mail, "both")
    events.bind(audit, "both")
    events.bind(mail, "mail")
    events.send(b"low", routing_key="mail")
    events.send(b"high", routing_key="both", priority=2, ttl=60)
    events.send(b"late", routing_key="both", delay=60)
    assert [message.value for message in mail.receive(9, timeout=0)] == [b"high", b"low"]
    assert mail.statistics().delayed == 1
    assert values(audit) == [b"high", b"late"]
    with pytest.raises(TypeError):
        events.send(b"x", routing_key="both", colour="red")


def test_an_id_is_known_again_by_the_one_destination_that_there_is(store, events):
    mail, audit = store.queue("mail"), store.topic("audit")
    for key, those in {"m": [mail], "a": [audit], "both": [mail, audit]}.items():
        for one in those:
            events.bind(one, key)
    for key in ("m", "a"):
        first, again = (events.send(b"x", routing_key=key, dedup_id=b"7") for _ in range(2))
        assert first == again
    with pytest.raises(seglog.ConfigError, match="dedup_id"):
        events.send(b"x", routing_key="both", dedup_id=b"8")
    with store.transaction() as tx, pytest.raises(seglog.ConfigError, match="dedup_id"):
        events.send(b"x", routing_key="m", dedup_id=b"9", tx=tx)
    assert values(mail) == values(audit) == [b"x"]


def test_what_nobody_wants_raises_and_nothing_is_written(store, events):
    events.bind(store.topic("audit"), "a")
    for _ in range(2):  # also when the answer is remembered
        with pytest.raises(seglog.Unroutable, match="Nothing was written") as caught:
            events.send(b"x", routing_key="b")
    assert (caught.value.exchange, caught.value.routing_key) == ("events", "b")
    assert isinstance(caught.value, seglog.SeglogError)
    assert events.send(b"x", routing_key="b", mandatory=False) == []
    events.send(b"x", routing_key="a")
    assert events.statistics() == seglog.ExchangeStatistics(
        "events", bindings=1, sent=1, copies=1, unroutable=2, dropped=1
    )
    assert values(store.topic("audit")) == [b"x"]


def test_a_key_is_a_str_of_at_most_255_bytes(store, events):
    events.bind(store.topic("audit"), "#")
    for key, error in (
        (b"k", TypeError),
        (None, TypeError),
        ("k" * 256, seglog.ConfigError),
        ("\ud800", seglog.ConfigError),
    ):
        with pytest.raises(error):
            events.send(b"x", routing_key=key)
        with pytest.raises(error):
            events.route(key)
    with pytest.raises(TypeError):
        events.send("text", routing_key="k")
    with pytest.raises(TypeError):
        events.send(b"x", routing_key="k", headers={"h": "text"})
    assert values(store.topic("audit")) == []
    events.send(b"x", routing_key="k" * 255)


def test_a_closed_store_sends_nothing(path):
    with seglog.open(path) as store:
        events = store.exchange("events", "fanout")
        events.bind(store.topic("audit"))
    for use in (lambda: events.send(b"x"), lambda: events.route(""), events.bindings, lambda: store.exchange("events")):
        with pytest.raises(seglog.ClosedError):
            use()


# ---- all or nothing ---------------------------------------------------------------------------------------------------


def test_a_message_that_one_destination_refuses_is_in_none(store, events):
    small = store.topic("small", record_bytes_max=1000)
    for one in (store.topic("audit"), store.queue("mail"), small):
        events.bind(one, "#")
    with pytest.raises(seglog.RecordTooLarge):
        events.send(b"x" * 2000, routing_key="k")
    assert [values(it) for it in (store.topic("audit"), store.queue("mail"), small)] == [[], [], []]


def test_a_full_queue_among_several_refuses_for_all(store, events):
    full = store.queue("full", max_length=1, overflow="reject")
    events.bind(full, "#")
    events.bind(store.topic("audit"), "#")
    events.send(b"1", routing_key="k")
    with pytest.raises(seglog.QueueFull):
        events.send(b"2", routing_key="k")
    assert values(store.topic("audit")) == values(full) == [b"1"]


def test_it_is_part_of_a_transaction(store, events):
    for one in (store.topic("audit"), store.queue("mail")):
        events.bind(one, "#")
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        assert events.send(b"1", routing_key="k", tx=tx) == [("queue", "mail", None), ("topic", "audit", None)]
        raise ZeroDivisionError
    assert values(store.topic("audit")) == values(store.queue("mail")) == []
    with store.transaction() as tx:
        store.topic("orders").send(b"order", tx=tx)
        events.send(b"2", routing_key="k", tx=tx)
        with pytest.raises(seglog.Unroutable):  # adds nothing, and the transaction goes on
            store.exchange("nobody", "direct").send(b"3", routing_key="k", tx=tx)
    assert values(store.topic("audit")) == values(store.queue("mail")) == [b"2"]
    assert values(store.topic("orders")) == [b"order"]


def test_half_of_a_message_in_a_transaction_gives_it_up(store, events):
    for one in (store.topic("audit"), store.topic("small", record_bytes_max=1000)):
        events.bind(one, "#")
    with pytest.raises(seglog.ClosedError), store.transaction() as tx:
        with pytest.raises(seglog.RecordTooLarge):
            events.send(b"x" * 2000, routing_key="k", tx=tx)
        assert not tx.open
        events.send(b"x", routing_key="k", tx=tx)
    assert values(store.topic("audit")) == []


# ---- several exchanges ------------------------------------------------------------------------------------------------


def test_what_goes_through_another_exchange_goes_on_in_the_same_pass(store, events):
    eu, audit = store.exchange("eu", "direct"), store.topic("audit")
    events.bind(eu, "#.eu")
    events.bind(audit, "#")
    eu.bind(audit, "a.eu")
    eu.bind(store.topic("only-eu"), "a.eu")
    assert [to.name for to in events.route("a.eu")] == ["audit", "only-eu"]
    assert [to.name for to in events.route("b.eu")] == ["audit"]
    events.send(b"x", routing_key="a.eu")
    assert values(audit) == values(store.topic("only-eu")) == [b"x"]  # one copy each


def test_circles_end(store):
    ring = [store.exchange(f"ring-{n}", "fanout") for n in range(4)]
    for n, exchange in enumerate(ring):
        exchange.bind(ring[(n + 1) % 4])
        exchange.bind(exchange)
        exchange.bind(store.topic(f"at-{n}"))
    for exchange in ring:
        assert [to.name for to in exchange.route()] == ["at-0", "at-1", "at-2", "at-3"]
    for exchange in ring:
        exchange.unbind(ring[0])
    assert [to.name for to in ring[2].route()] == ["at-2", "at-3"]


def test_headers_decide_also_on_the_way_and_are_not_remembered_by_key(store, events):
    by_format = store.exchange("by-format", "headers")
    events.bind(by_format, "#")
    by_format.bind(store.topic("pdf"), format=b"pdf")
    for _ in range(2):
        assert events.route("k", {"format": b"pdf"}) == [Destination("topic", "pdf")]
        assert events.route("k", {"format": b"png"}) == events.route("k") == []


def test_a_hash_exchange_gives_a_message_to_one(store):
    shards = store.exchange("shards", "hash", hash_header="customer")
    for n in range(4):
        shards.bind(store.topic(f"shard-{n}"), "1")
    for n in range(40):
        shards.send(b"%d" % n, routing_key=str(n), headers={"customer": b"%d" % (n % 8)})
    found = [values(store.topic(f"shard-{n}")) for n in range(4)]
    assert sorted((value for one in found for value in one), key=int) == [b"%d" % n for n in range(40)]
    assert all(len({int(value) % 8 for value in one}) * 5 == len(one) for one in found)


def test_the_alternate_gets_what_nothing_matches(store):
    rest, last = store.exchange("rest", "direct", alternate="last"), store.exchange("last", "fanout")
    events = store.exchange("events", "direct", alternate=rest)
    for exchange, key in ((events, "a"), (rest, "b"), (last, "")):
        exchange.bind(store.topic(f"of-{exchange.name}"), key)
    assert [events.route(key)[0].name for key in "abc"] == ["of-events", "of-rest", "of-last"]
    events.send(b"x", routing_key="c")  # which counts as routed
    assert values(store.topic("of-last")) == [b"x"]


def test_an_alternate_on_the_way_is_for_what_that_exchange_does_not_match(store, events):
    inner = store.exchange("inner", "direct", alternate="rest")
    store.exchange("rest", "fanout").bind(store.topic("rest"))
    events.bind(inner, "#")
    events.bind(store.topic("audit"), "#")
    assert [to.name for to in events.route("k")] == ["audit", "rest"]


def test_an_alternate_may_come_later_lead_nowhere_or_in_a_circle(store):
    one = store.exchange("one", "direct", alternate="two")
    with pytest.raises(seglog.Unroutable, match="its alternate, two, leads nowhere"):
        one.send(b"x", routing_key="k")
    two = store.exchange("two", "direct", alternate="one")
    with pytest.raises(seglog.Unroutable):
        one.send(b"x", routing_key="k")
    two.bind(store.topic("audit"), "k")
    assert [to.name for to in one.route("k")] == ["audit"]
    store.delete_exchange("two")
    assert one.route("k") == []


# ---- deleted destinations ---------------------------------------------------------------------------------------------


def make(store, kind):
    """A destination of that kind that takes everything; for an exchange, one with a topic behind it."""
    if kind == "exchange":
        exchange = store.exchange("there", "fanout")
        exchange.bind(store.topic("behind"))
        return exchange
    return store.queue("there") if kind == "queue" else store.topic("there")


def delete(store, kind):
    {"queue": store.delete_queue, "topic": store.delete_topic, "exchange": store.delete_exchange}[kind]("there")


KINDS = ["queue", "topic", "exchange"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_deleted_destination_takes_its_bindings_along(store, events, kind):
    events.bind(make(store, kind), "#")
    events.bind(store.topic("audit"), "#")
    assert len(events.send(b"1", routing_key="k")) == 2
    delete(store, kind)
    assert [to.name for to in events.route("k")] == ["audit"]
    assert [it.destination for it in events.bindings()] == ["audit"]
    assert len(store.topology.names("binding")) == 1  # no litter
    make(store, kind)  # which is another one, and nothing is bound to it
    assert [to.name for to in events.send(b"2", routing_key="k")] == ["audit"]
    events.bind(make(store, kind), "#")
    assert len(events.send(b"3", routing_key="k")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_dies_in_a_deletion_leaves_nothing_that_fails(store, path, events, kind):
    """Killed behind the word that it is gone, before anything else was done: its bindings are still written down."""
    events.bind(make(store, kind), "#")
    events.bind(store.topic("audit"), "#")
    program = (
        "import os, sys, seglog\nfrom seglog.topology import Topology\n"
        "remove = Topology.remove\n"
        "def dies(self, kind, name):\n    remove(self, kind, name)\n    os.kill(os.getpid(), 9)\n"
        "store = seglog.open(sys.argv[1])\nTopology.remove = dies\n"
        f"store.delete_{kind}('there')\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)
    assert killed.returncode == -9
    bindings = len(store.topology.names("binding"))
    for one in (store, seglog.open(path)):
        with one if one is not store else store.lock:
            assert [to.name for to in one.exchange("events").send(b"x", routing_key="k")] == ["audit"]
            assert [it.destination for it in one.exchange("events").bindings()] == ["audit"]
    make(store, kind)
    assert [to.name for to in events.route("k")] == ["audit"]
    events.bind(store.topic("audit"), "other")  # whoever comes next clears up
    assert len(store.topology.names("binding")) == bindings
    assert {it.destination for it in events.bindings()} == {"audit"}


def test_bindings_of_an_exchange_whose_deletion_was_cut_short_are_not_those_of_the_next(store, events):
    events.bind(store.topic("audit"), "#")
    store.topology.remove("exchange", "events")  # and there it died
    again = store.exchange("events", "topic")
    assert again.bindings() == again.route("k") == []
    again.bind(store.topic("audit"), "#")  # what is written down anew is
    assert [it.destination for it in again.bindings()] == ["audit"] and len(again.route("k")) == 1


def test_litter_stays_where_the_topology_was_damaged(store, events, monkeypatch):
    events.bind(store.topic("there"), "#")
    store.topology.remove("topic", "there")
    monkeypatch.setattr(store.topology, "losses", lambda: ["something"])
    events.bind(store.topic("audit"), "#")
    assert len(store.topology.names("binding")) == 2
    monkeypatch.undo()
    events.bind(store.topic("audit"), "other")
    assert len(store.topology.names("binding")) == 2
    assert {it.destination for it in events.bindings()} == {"audit"}


def test_a_destination_that_goes_between_the_look_and_the_send_is_passed_over(store, events, child, monkeypatch):
    events.bind(store.topic("there"), "#")
    events.bind(store.topic("audit"), "#")
    home, path = events._home, store.path
    opened = home.opened

    def late(destination):
        found = opened(destination)
        if destination.name == "there":
            subprocess.run(
                [sys.executable, "-c", f"import seglog; seglog.open({path!r}).delete_topic('there')"], check=True
            )
        return found

    monkeypatch.setattr(home, "opened", late)
    assert [to.name for to in events.send(b"x", routing_key="k")] == ["audit"]
    assert values(store.topic("audit")) == [b"x"]


def test_an_error_that_is_no_deletion_is_told_once(store, events, monkeypatch):
    events.bind(store.topic("there"), "#")

    def broken(destination):
        raise seglog.TopicNotFound("not really", name="there")

    monkeypatch.setattr(events._home, "opened", broken)
    with pytest.raises(seglog.TopicNotFound, match="not really"):
        events.send(b"x", routing_key="k")


# ---- several processes and threads --------------------------------------------------------------------------------------


def test_what_another_process_binds_counts_from_the_next_send_on(store, events, path):
    audit = store.topic("audit")
    binder = subprocess.Popen(
        [sys.executable, "-c", BINDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )

    def tell(what):
        binder.stdin.write(what + "\n")
        assert binder.stdout.readline() == "done\n"

    try:
        for _ in range(3):
            with pytest.raises(seglog.Unroutable):
                events.send(b"x", routing_key="a.b")
            tell("bind")
            assert len(events.send(b"x", routing_key="a.b")) == 1
            tell("unbind")
        tell("bind")
        tell("delete exchange")
        with pytest.raises(seglog.ExchangeNotFound):
            events.send(b"x", routing_key="a.b")
    finally:
        binder.stdin.close()
        binder.wait(timeout=30)
        binder.stdout.close()
    assert values(audit) == [b"x"] * 3


BINDER = """
import sys, seglog
store = seglog.open(sys.argv[1])
for line in sys.stdin:
    exchange = store.exchange("events")
    if line == "bind\\n":
        exchange.bind(store.topic("audit"), "a.#")
    elif line == "unbind\\n":
        exchange.unbind(store.topic("audit"), "a.#")
    else:
        store.delete_exchange("events")
    print("done", flush=True)
"""


def test_processes_that_declare_and_bind_at_once_agree(path):
    program = (
        "import sys, seglog\nstore = seglog.open(sys.argv[1])\nexchange = store.exchange('events', 'topic')\n"
        "for n in range(20):\n    exchange.bind(store.topic(f'to-{n % 4}'), f'{n}.#')\n"
    )
    all_of_them = [subprocess.Popen([sys.executable, "-c", program, str(path)]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in all_of_them] == [0] * 4
    with seglog.open(path) as store:
        assert len(store.exchange("events").bindings()) == len(store.topology.names("binding")) == 20
        assert sum(name.startswith("to-") for name in store.topics()) == 4


def test_threads_may_bind_and_send_at_once(store, events):
    topics = [store.topic(f"to-{n}") for n in range(3)]
    events.bind(topics[0], "#")
    errors = []

    def work(n):
        try:
            for i in range(60):
                if n < 2:
                    events.bind(topics[n + 1], f"k.{i % 5}") if i % 2 else events.unbind(
                        topics[n + 1], f"k.{(i - 1) % 5}"
                    )
                else:
                    for k in range(20):
                        assert events.send(b"x", routing_key=f"k.{k % 7}")[-1].name in ("to-0", "to-1", "to-2")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert topics[0].next_offset() == 2 * 60 * 20 == events.statistics().sent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_sends_though_another_thread_held_the_lock(store, events):
    events.bind(store.topic("audit"), "#")
    events.send(b"parent", routing_key="k")
    with events._routes.lock:  # as another thread would hold it at the moment of the fork
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # rather than wait for ever
            try:
                events.send(b"child", routing_key="k")
                os._exit(0)
            except BaseException:
                os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert values(store.topic("audit")) == [b"parent", b"child"]


# ---- what others wrote --------------------------------------------------------------------------------------------------


def test_an_exchange_of_a_newer_seglog_is_not_guessed_at(path):
    with seglog.open(path):
        pass
    with Log(path / "meta", fsync="always") as log:
        log.append(b'{"id":"0","created":1,"config":{"type":"topic","colour":"red"}}', b"exchange/events")
    with seglog.open(path) as store, pytest.raises(seglog.UnsupportedFormat, match="colour"):
        store.exchange("events")


@pytest.mark.parametrize("thing", [b"[]", b"{}", b'{"source":"a"}'])
def test_a_binding_that_is_none_is_told(path, thing):
    with seglog.open(path):
        pass
    with Log(path / "meta", fsync="always") as log:
        log.append(thing, b"binding/0123")
    with seglog.open(path) as store, pytest.raises(seglog.CorruptStore, match="is no binding"):
        store.exchange("events", "topic")


def test_routes_that_are_remembered_are_bounded(store, events):
    events.bind(store.topic("audit"), "#")
    for n in range(40_000):
        events.route(f"k.{n}")
    cache = events._routes._cache
    assert 10_000 < len(cache._young) + len(cache._old) < 30_000
