"""The six tutorials of RabbitMQ, as programs of seglog: workers are processes where theirs are.

https://www.rabbitmq.com/tutorials: hello world, work queues, publish/subscribe, routing, topics, RPC. What the prose promises is
asserted: the message that is not lost when a worker dies, the one that goes to whoever is free, the copy for each who is bound.
"""

import os
import signal
import sys
import threading
import time

import pytest

import seglog
from crash.kills.children import Child

forks = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and kills")


@pytest.fixture
def store(path):
    with seglog.open(path, fsync="never") as store:
        yield store


def values(queue, most=100):
    messages = queue.receive(most, 0)
    queue.ack(messages)
    return [message.value for message in messages]


# ---- 1: hello world -----------------------------------------------------------------------------------------------


@forks
def test_hello_world(path):
    """A producer that is gone by the time the consumer comes; the queue keeps what it said."""

    def send():
        with seglog.open(path) as store:
            store.queue("hello").send(b"Hello World!")

    def receive():
        with seglog.open(path) as store:
            (message,) = store.queue("hello").receive(timeout=10)
            message.ack()
            return message.value, message.attempts, store.queue("hello").receive(timeout=0)

    with Child(send) as producer:
        producer.answer()
    with Child(receive) as consumer:
        assert consumer.answer() == (b"Hello World!", 1, [])


@forks
def test_hello_world_to_one_who_waits(path):
    def receive():
        with seglog.open(path) as store:
            (message,) = store.queue("hello").receive()
            message.ack()
            return message.value

    with Child(receive) as consumer, seglog.open(path) as store:
        time.sleep(0.2)
        store.queue("hello").send(b"Hello World!")
        assert consumer.answer() == b"Hello World!"


# ---- 2: work queues -----------------------------------------------------------------------------------------------


def work(path, name, until, told=None):
    """A dot is a moment of work. Each task is acked when it is done."""
    done = []
    with seglog.open(path, fsync="never") as store:
        tasks = store.queue("task_queue")
        while True:
            messages = tasks.receive(1, timeout=5)
            if not messages or messages[0].value == until:
                return name, done
            if told is not None:
                os.write(told, b"!")
            time.sleep(0.01 * messages[0].value.count(b"."))
            messages[0].ack()
            done.append(messages[0].value)


@forks
def test_work_goes_to_whoever_is_free(path, store):
    """Fair dispatch: one long task keeps one worker, and the other does all the rest."""
    tasks = store.queue("task_queue")
    tasks.send(b"long" + b"." * 60)
    short = [b"task %d." % number for number in range(15)]
    tasks.send_many([*short, b"enough", b"enough"])
    with Child(work, path, "one", b"enough") as one, Child(work, path, "two", b"enough") as two:
        shares = sorted((worker.answer()[1] for worker in (one, two)), key=len)
    assert sorted([*shares[0], *shares[1]]) == sorted([b"long" + b"." * 60, *short])
    assert len(shares[0]) <= 5 and len(shares[1]) >= 11
    assert store.queue("task_queue").statistics().acked == 16


@forks
def test_a_task_is_not_lost_when_its_worker_dies(path, store):
    """The tutorial kills a worker with CTRL+C while it works: its task is delivered again, to another."""
    told, tell = os.pipe()
    tasks = store.queue("task_queue", lease=3600)
    tasks.send(b"long" + b"." * 3000)
    with Child(work, path, "one", b"enough", tell) as worker:
        os.read(told, 1)
        assert tasks.receive(1, timeout=0) == []
        worker.kill(signal.SIGKILL)
        worker.wait()
        began = time.monotonic()
        (message,) = tasks.receive(1, timeout=10)
        took = time.monotonic() - began
    assert (message.value, message.attempts) == (b"long" + b"." * 3000, 2)
    assert took < 1.0
    message.ack()


def test_tasks_survive_the_store_that_is_closed_and_opened(path):
    """Durable queues, persistent messages: nothing has to be said for it."""
    with seglog.open(path) as store:
        store.queue("task_queue", max_attempts=3).send_many([b"1", b"2", b"3"])
        store.queue("task_queue").receive()[0].ack()
    with seglog.open(path) as store:
        assert store.queues() == ["task_queue", "task_queue.dead"] or store.queues() == ["task_queue"]
        assert store.queue("task_queue").config.max_attempts == 3
        assert values(store.queue("task_queue")) == [b"2", b"3"]


def test_a_queue_that_is_declared_otherwise_is_told_apart(store):
    """ "RabbitMQ doesn't allow you to redefine an existing queue with different parameters."""
    store.queue("hello", max_attempts=3)
    with pytest.raises(seglog.QueueMismatch) as caught:
        store.queue("hello", max_attempts=4)
    assert caught.value.differences == {"max_attempts": (4, 3)}
    assert store.queue("hello", max_attempts=3).config.max_attempts == 3


# ---- 3: publish/subscribe -----------------------------------------------------------------------------------------


def test_publish_subscribe_gives_each_bound_queue_a_copy(store):
    logs = store.exchange("logs", "fanout")
    disk, screen = store.queue("disk"), store.queue("screen")
    logs.bind(disk)
    logs.bind(screen)
    logs.send(b"info: Hello World!", routing_key="whatever")
    assert values(disk) == values(screen) == [b"info: Hello World!"]
    logs.unbind(screen)
    logs.send(b"again")
    assert values(disk) == [b"again"] and values(screen) == []


def test_what_nobody_is_bound_for_is_told(store):
    """The tutorial's broker drops it in silence, and says that this may be wanted: here that is to be said."""
    logs = store.exchange("logs", "fanout")
    with pytest.raises(seglog.Unroutable):
        logs.send(b"lost")
    logs.send(b"lost", mandatory=False)


# ---- 4: routing ---------------------------------------------------------------------------------------------------


def test_routing_by_severity(store):
    logs = store.exchange("direct_logs", "direct")
    disk, screen = store.queue("disk"), store.queue("screen")
    logs.bind(disk, "error")
    for severity in ("info", "warning", "error"):
        logs.bind(screen, severity)
    for severity in ("info", "error", "warning"):
        logs.send(severity.encode(), routing_key=severity)
    assert values(disk) == [b"error"]
    assert values(screen) == [b"info", b"error", b"warning"]


# ---- 5: topics ----------------------------------------------------------------------------------------------------


def test_topics_match_words_as_the_tutorial_says(store):
    """Its own examples, of `<speed>.<colour>.<species>`."""
    animals = store.exchange("topic_logs", "topic")
    first, second, everything = store.queue("Q1"), store.queue("Q2"), store.queue("all")
    animals.bind(first, "*.orange.*")
    animals.bind(second, "*.*.rabbit")
    animals.bind(second, "lazy.#")
    animals.bind(everything, "#")
    wanted = {
        "quick.orange.rabbit": "12",
        "lazy.orange.elephant": "12",
        "quick.orange.fox": "1",
        "lazy.brown.fox": "2",
        "lazy.pink.rabbit": "2",  # once, though both of its bindings match
        "quick.brown.fox": "",
        "orange": "",
        "quick.orange.new.rabbit": "",
        "lazy.orange.new.rabbit": "2",
    }
    for key in wanted:
        animals.send(key.encode(), routing_key=key)
    assert values(first) == [key.encode() for key, queues in wanted.items() if "1" in queues]
    assert values(second) == [key.encode() for key, queues in wanted.items() if "2" in queues]
    assert values(everything) == [key.encode() for key in wanted]


# ---- 6: RPC -------------------------------------------------------------------------------------------------------


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@forks
def test_rpc_computes_fibonacci_numbers_in_another_process(path, store):
    told, tell = os.pipe()

    def serve():
        with seglog.open(path, fsync="never") as mine:

            @mine.replier("rpc_queue")
            def reply(request):
                return b"%d" % fibonacci(int(getattr(request, "value", request)))

            os.write(tell, b"!")
            mine.run()

    with Child(serve):
        os.read(told, 1)
        assert store.request("rpc_queue", b"20", timeout=20) == b"6765"
        answers = {}

        def ask(n):
            answers[n] = store.request("rpc_queue", b"%d" % n, timeout=20)

        threads = [threading.Thread(target=ask, args=(n,)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {n: b"%d" % fibonacci(n) for n in range(10)}


def test_rpc_without_a_server_times_out(store):
    with pytest.raises(seglog.Timeout):
        store.request("rpc_queue", b"20", timeout=0.05)
