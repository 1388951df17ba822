"""`seglog top`: what happens in a store, in numbers."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import seglog


@pytest.fixture
def store(cli):
    with seglog.open(cli.data) as store:
        orders = store.topic("orders", partitions=2)
        orders.send_many([b"%d" % n for n in range(10)], partition=0)
        with orders.consumer("billing") as consumer:
            consumer.commit({0: 4})
        jobs = store.queue("jobs")
        jobs.send_many([b"a", b"b", b"c", b"d"])
        first, second = jobs.receive(2, timeout=0)
        first.reject("no")
        jobs.send(b"later", delay=3600)
        assert second.value == b"b"  # it stays in flight
        yield store


def test_one_view_says_what_there_is(cli, store):
    rows = cli.ok("top --once -i 0.05").rows
    assert [row[0] for row in rows] == ["topic", "group", "queue", "queue"]
    topic, group, jobs, dead = rows
    assert topic[1:4] == ["orders", "10", "0.0"] and int(topic[4]) > 0
    assert group[1:4] == ["billing", "0", "6"]
    assert jobs[1:7] == ["jobs", "2", "1", "1", "1", "0.0"] and float(jobs[7]) >= 0
    assert dead[1:4] == ["jobs.dead", "1", "0"]


def test_one_view_as_json(cli, store):
    view = cli.ok("top --once -i 0.05 --json").json
    assert view["interval"] >= 0.05 and view["time"] > 0
    assert view["topics"][0]["records_per_s"] == 0.0
    assert view["groups"][0]["lag"] == 6
    assert view["queues"][0] | {"oldest_age": 0} == {
        "queue": "jobs", "ready": 2, "in_flight": 1, "delayed": 1, "dead": 1, "acked_per_s": 0.0, "oldest_age": 0,
    }  # fmt: skip


def test_rates_are_those_of_the_interval(cli, store):
    process = cli.start("top -i 0.5 --json", stdout=subprocess.PIPE)
    json.loads(process.stdout.readline())
    store.topic("orders").send_many([b"x"] * 1000, partition=1)
    jobs = store.queue("jobs")
    jobs.ack(jobs.receive(2, timeout=0))
    views = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    sent = sum(view["topics"][0]["records_per_s"] * view["interval"] for view in views)
    acked = sum(view["queues"][0]["acked_per_s"] * view["interval"] for view in views)
    assert sent == pytest.approx(1000, rel=0.02)
    assert acked == pytest.approx(2, abs=0.2)


def test_what_comes_and_goes_meanwhile_is_no_trouble(cli, store):
    process = cli.start("top -i 0.2 --json", stdout=subprocess.PIPE)
    json.loads(process.stdout.readline())
    store.delete_topic("orders")
    store.delete_queue("jobs")
    store.topic("refunds").send(b"x")
    store.queue("mails")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        view = json.loads(process.stdout.readline())
        names = [row["topic"] for row in view["topics"]], [row["queue"] for row in view["queues"]]
        if names == (["refunds"], ["jobs.dead", "mails"]):
            break
    else:
        pytest.fail(f"{names}")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == b""


def test_an_idle_store_costs_next_to_nothing(cli, store):
    process = cli.start("top -i 0.1 --json", stdout=subprocess.PIPE)
    process.stdout.readline()

    def spent():
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")

    before = spent()
    for _ in range(20):
        process.stdout.readline()
    cost = (spent() - before) / 20
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert cost < 0.02, f"{cost:.4f} s of processor time a look"


@pytest.mark.parametrize("words", ["-i 0", "-i -1", "-i often", "--bogus"])
def test_wrong_usage_is_2(cli, store, words):
    assert cli(f"top {words}").code == 2


def test_a_person_sees_tables_and_gets_the_terminal_back(cli, store):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = cli.start("top -i 0.2", stdout=theirs)
    os.close(theirs)
    seen = b""
    while b"billing" not in seen or b"jobs.dead" not in seen:
        seen += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while some := os.read(ours, 65536):
            seen += some
    except OSError:  # how Linux says that nobody has the other end any more
        pass
    os.close(ours)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")
    assert b"\x1b[?1049l" in seen, "the screen that was there is not back"
    assert b"records/s" in seen and b"in flight" in seen
