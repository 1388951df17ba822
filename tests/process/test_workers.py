"""Worker processes: killed, stopped, poisoned, and become more or fewer; nothing is lost, and what is to be once is once."""

import os
import signal
import subprocess
import sys
import time

import pytest

import seglog

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kill -9 and SIGTERM")

SHOP = """
import os, sys, time
import seglog

store = seglog.open({path!r}, fsync="never")
done = store.topic("done")
jobs = store.queue("jobs", max_attempts=3, backoff=0.01)

def say(text):
    store.topic("said").send(text.encode(), headers={{"pid": str(os.getpid()).encode()}})

"""


class Shop:
    """A module with handlers, and the processes that run it."""

    def __init__(self, folder):
        self.folder = folder
        self.path = str(folder / "data")
        self.store = seglog.open(self.path, fsync="never")
        self.jobs = self.store.queue("jobs", max_attempts=3, backoff=0.01)
        self.done = self.store.topic("done")
        self.said = self.store.topic("said")
        self.running = []

    def module(self, code):
        (self.folder / "shop.py").write_text(SHOP.format(path=self.path) + code)

    def start(self, *options, target="shop:store"):
        program = [sys.executable, "-m", "seglog.cli", "worker", target, *options]
        process = subprocess.Popen(program, cwd=self.folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.running.append(process)
        return process

    def serve(self):
        """A worker process without a supervisor."""
        code = "import shop; shop.store.run()"
        process = subprocess.Popen([sys.executable, "-c", code], cwd=self.folder, start_new_session=True)
        self.running.append(process)
        return process

    def words(self, topic="said"):
        return [(int(record.headers["pid"]), record.value.decode()) for record in self.store.topic(topic).read()]

    def wait_for(self, count, topic="said", seconds=20):
        """Until so many records are there, and no longer than the machine may need."""
        assert self.store.topic(topic).wait(count - 1, timeout=seconds), self.words(topic)
        return self.words(topic) if topic == "said" else [record.value for record in self.store.topic(topic).read()]

    def close(self):
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
        self.store.close()


@pytest.fixture
def shop(memory):
    there = Shop(memory)
    yield there
    there.close()


def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def end(process, number=signal.SIGTERM, seconds=20):
    process.send_signal(number)
    _, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    return errors


WORK = """
@store.handler("jobs")
def work(message, tx):
    done.send(message.value, tx=tx)
    if message.value == b"sleep":
        say("asleep")
        time.sleep({sleep})
"""


def test_worker_processes_work_until_they_are_told_to_stop(shop):
    shop.module(WORK.format(sleep=0))
    shop.jobs.send_many([b"%d" % n for n in range(100)])
    workers = shop.start("--processes", "2")
    assert sorted(map(int, shop.wait_for(100, "done"))) == list(range(100))
    end(workers)
    assert shop.jobs.statistics().depth == 0


def test_sigterm_lets_what_is_in_flight_finish(shop):
    shop.module(WORK.format(sleep=0.5))
    shop.jobs.send_many([b"sleep", b"more"])
    workers = shop.start()
    shop.wait_for(1)
    end(workers)
    assert shop.wait_for(1, "done") == [b"sleep"]
    (message,) = shop.jobs.receive(timeout=1)
    assert (message.value, message.attempts) == (b"more", 1)


def test_what_does_not_finish_in_its_grace_is_released_and_spends_no_attempt(shop):
    shop.module(WORK.format(sleep=60))
    shop.jobs.send(b"sleep")
    workers = shop.start("--grace", "0.2")
    shop.wait_for(1)
    began = time.monotonic()
    end(workers)
    assert time.monotonic() - began < 4
    (message,) = shop.jobs.receive(timeout=0)
    assert message.attempts == 1
    assert shop.done.next_offset() == 0


def test_a_second_signal_does_not_wait(shop):
    shop.module(WORK.format(sleep=60))
    shop.jobs.send(b"sleep")
    workers = shop.start("--grace", "50")
    shop.wait_for(1)
    workers.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert workers.poll() is None
    began = time.monotonic()
    end(workers)
    assert time.monotonic() - began < 4
    (message,) = shop.jobs.receive(timeout=0)
    assert message.attempts == 1


def test_ctrl_c_reaches_all_in_the_terminal_and_what_is_in_flight_finishes_all_the_same(shop):
    shop.module(WORK.format(sleep=0.5))
    shop.jobs.send(b"sleep")
    workers = shop.start()
    shop.wait_for(1)
    os.killpg(workers.pid, signal.SIGINT)
    assert workers.wait(20) == 0
    assert shop.wait_for(1, "done") == [b"sleep"]


def test_a_worker_that_is_killed_has_its_message_taken_by_a_sibling_at_once_and_is_replaced(shop):
    shop.module(
        """
say("here")
@store.handler("jobs")
def work(message, tx):
    done.send(message.value, tx=tx)
    say("working")
    if message.attempts == 1:
        time.sleep(60)
"""
    )
    workers = shop.start("--processes", "2")
    shop.wait_for(3)  # the supervisor says it, too
    shop.jobs.send(b"job")
    *_, (victim, word) = shop.wait_for(4)
    assert word == "working"
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: [pid for pid, word in shop.words() if word == "working"][1:])
    assert time.monotonic() - killed < 1.0  # 100 ms, and what a busy machine adds
    sibling = next(pid for pid, word in shop.words()[4:] if word == "working")
    assert sibling in {pid for pid, _ in shop.words()[:3]}
    until(lambda: len({pid for pid, word in shop.words() if word == "here"}) == 4)  # another came in its place
    assert shop.wait_for(1, "done") == [b"job"]
    assert f"worker process {victim} ended with -9" in end(workers)


def test_a_handler_that_kills_its_process_reaches_the_dead_letters_and_others_go_on(shop):
    shop.module(
        """
@store.handler("jobs")
def work(message, tx):
    if message.value == b"poison":
        say("dying")
        os._exit(1)
    done.send(message.value, tx=tx)
"""
    )
    shop.jobs.send_many([b"1", b"poison", b"2", b"3"])
    workers = shop.start("--processes", "2")
    assert sorted(shop.wait_for(3, "done")) == [b"1", b"2", b"3"]
    (dead,) = shop.store.queue("jobs.dead").receive(timeout=20)
    assert dead.value == b"poison"
    assert (dead.deaths[0]["reason"], dead.deaths[0]["attempts"]) == ("delivery_limit", 3)
    assert len(shop.words()) == 3
    end(workers)


def test_workers_become_more_with_the_backlog_and_fewer_without_it(shop):
    shop.module(
        """
say("here")
@store.handler("jobs")
def work(message, tx):
    done.send(message.value, tx=tx)
    while not store.topic("go").next_offset():
        time.sleep(0.01)
"""
    )
    workers = shop.start("--min", "1", "--max", "3", "--idle", "0.3")
    shop.wait_for(2)
    time.sleep(0.7)
    assert len(shop.words()) == 2  # the supervisor and one
    shop.jobs.send_many([b"job"] * 20)
    shop.wait_for(4)
    time.sleep(0.7)
    assert len(shop.words()) == 4
    everybody = {pid for pid, _ in shop.words()} - {workers.pid}
    assert len(everybody) == 3
    shop.store.topic("go").send(b"")
    shop.wait_for(20, "done")
    until(lambda: sum(map(alive, everybody)) == 1)
    assert workers.poll() is None
    end(workers)
    assert not any(map(alive, everybody))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_do_not_outlive_their_supervisor_however_it_died(shop):
    shop.module("say('here')\n" + WORK.format(sleep=0))
    workers = shop.start("--processes", "2")
    pids = {pid for pid, _ in shop.wait_for(3)} - {workers.pid}
    workers.kill()
    workers.wait()
    until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("how", ["message_id", "a key of its own"])
def test_under_kills_each_effect_is_there_once(shop, rng, how):
    dedup = '"message_id"' if how == "message_id" else "lambda message: message.key"
    shop.module(
        f"""
@store.handler("jobs2", dedup={dedup}, concurrency=2)
def work(message, tx):
    done.send(message.key, tx=tx)
    time.sleep(0.002)
"""
    )
    jobs = shop.store.queue("jobs2", max_attempts=1000)
    copies = 1 if how == "message_id" else 2
    keys = [b"%d" % n for n in range(600)]
    for _ in range(copies):  # sent twice, as by a producer that crashed before it knew
        jobs.send_many([b"pay"] * len(keys), keys=keys)
    children, kills = [shop.serve() for _ in range(2)], 0
    while jobs.statistics().depth:
        time.sleep(rng.uniform(0.05, 0.2))
        victim = rng.choice(children)
        if shop.done.next_offset() and kills < 6 and alive(victim.pid):
            victim.kill()
            victim.wait()
            kills += 1
            children[children.index(victim)] = shop.serve()
        assert all(child.poll() is None for child in children)
    assert kills
    assert sorted(map(int, shop.wait_for(len(keys), "done"))) == list(range(600))
    assert shop.done.next_offset() == 600


# ---- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_by_another_process_also_when_one_is_killed_over_it(shop):
    shop.module(
        """
@store.replier("ask")
def answer(message):
    say("asked")
    if message.value == b"hang" and message.attempts == 1:
        time.sleep(60)
    return str(os.getpid()).encode()
"""
    )
    first, second = shop.serve(), shop.serve()
    ask = shop.store.requests("ask")
    assert int(ask.request(b"hello", timeout=20)) in {first.pid, second.pid}
    future = ask.submit(b"hang", timeout=20)
    *_, (victim, _) = shop.wait_for(2)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    assert int(future.result(20)) == ({first.pid, second.pid} - {victim}).pop()
    assert time.monotonic() - killed < 1.0
    assert ask.statistics() == seglog.RequestStatistics(0, 2, 2, 0, 0, 0)


def test_a_thousand_requests_of_several_callers_to_several_repliers_each_have_their_reply(shop):
    shop.module(
        """
import asyncio, random
@store.replier("ask", concurrency=50)
async def answer(message):
    await asyncio.sleep(random.random() / 50)
    return message.value + b"!"
"""
    )
    repliers = [shop.serve() for _ in range(2)]
    code = (
        "import shop; ask = shop.store.requests('ask')\n"
        "waiting = {b'x%d' % n: ask.submit(b'x%d' % n, timeout=30) for n in range(500)}\n"
        "assert all(future.result() == word + b'!' for word, future in waiting.items())\n"
        "print(ask.statistics().replied, ask.statistics().late)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], cwd=shop.folder, stdout=subprocess.PIPE, text=True)
    ask = shop.store.requests("ask")
    waiting = {b"y%d" % n: ask.submit(b"y%d" % n, timeout=30) for n in range(500)}
    assert all(future.result() == word + b"!" for word, future in waiting.items())
    assert other.communicate(timeout=30)[0].split() == ["500", "0"]
    assert ask.statistics() == seglog.RequestStatistics(0, 500, 500, 0, 0, 0)
    assert all(replier.poll() is None for replier in repliers)


def test_a_caller_that_is_killed_leaves_nothing_to_clean_up_and_disturbs_nobody(shop):
    shop.module(
        """
@store.replier("ask")
def answer(message):
    say(message.value.decode())
    time.sleep(0.3)
    return message.value
"""
    )
    shop.serve()
    code = "import shop; shop.store.request('ask', b'caller', timeout=30)"
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=shop.folder)
    shop.wait_for(1)
    caller.kill()
    caller.wait()
    ask = shop.store.requests("ask")
    assert ask.request(b"other", timeout=20) == b"other"
    assert ask.statistics() == seglog.RequestStatistics(0, 1, 1, 0, 0, 0)
    assert shop.store.queue("ask").statistics().depth == 0
    assert shop.store.queues() == ["ask", "jobs"]


# ---- what cannot be run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:store", "there is no module nowhere"),
        ("shop", "is not module:attribute"),
        ("shop:nothing", "there is no nothing in shop"),
        ("shop:done", "not a store"),
        ("shop:store", "has no handler"),
    ],
)
def test_what_is_no_store_with_handlers_is_refused(shop, target, words):
    shop.module("")
    workers = shop.start(target=target)
    _, errors = workers.communicate(timeout=20)
    assert workers.returncode == 2
    assert words in errors
    assert len(errors.splitlines()) == 1


def test_a_function_that_returns_a_store_will_do(shop):
    shop.module(WORK.format(sleep=0) + "\ndef make():\n    return store\n")
    shop.jobs.send(b"job")
    workers = shop.start(target="shop:make")
    assert shop.wait_for(1, "done") == [b"job"]
    end(workers)
