"""seglog.aio: queues awaited; cancelling loses no message, and waiting costs no thread per consumer."""

import asyncio
import random
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

import seglog
import seglog.aio


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


def drained(path, name="jobs"):
    """What a process that comes afterwards can receive."""
    with seglog.open(path, upkeep=False) as store:
        return [message.value for message in store.queue(name).receive(1_000_000, timeout=0)]


@pytest.mark.parametrize("fsync", ["never", "always"])
def test_each_verb_does_what_it_says(tmp_path, fsync):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", fsync=fsync) as store:
            jobs = await store.queue("jobs", max_attempts=3)
            assert await store.queue("jobs") is jobs
            assert (await jobs.send(b"0")).offset == 0
            await jobs.send_many([b"1", b"2", b"3", b"4"])
            assert [m.value for m in await jobs.peek(2)] == [b"0", b"1"]
            acked, failed, released, dead, extended = await jobs.receive(10, timeout=5)
            await jobs.ack(acked)
            await jobs.nack(failed, delay=3600)
            await jobs.release([released])
            await jobs.reject(dead, "unreadable")
            await jobs.extend([extended], 60)
            now = await jobs.statistics()
            assert (now.ready, now.delayed, now.in_flight, now.acked) == (1, 1, 1, 1)
            letters = await store.queue("jobs.dead")
            assert (await letters.peek())[0].deaths[0]["error"] == "unreadable"
            assert await letters.redrive(jobs) == 1
            await jobs.sync()
            assert await jobs.purge() == 4
            assert store.queues() == ["jobs", "jobs.dead"]
            await store.delete_queue("jobs.dead")
            with pytest.raises(seglog.LeaseLost):
                await jobs.ack(extended)

    run(main())


def test_acks_and_sends_join_transactions(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            jobs, done = await store.queue("jobs"), await store.queue("done")
            await jobs.send(b"a")
            (message,) = await jobs.receive()
            with store.sync_store.transaction() as tx:
                await done.send(b"b", tx=tx)
                await jobs.ack(message, tx)
            return (await jobs.statistics()).depth, (await done.statistics()).depth

    assert run(main()) == (0, 1)


def test_a_waiting_receive_is_woken_by_another_process(tmp_path):
    program = (
        "import seglog, sys, time\n"
        "with seglog.open(sys.argv[1]) as store:\n"
        "    jobs = store.queue('jobs')\n"
        "    time.sleep(0.3)\n"
        "    jobs.send(str(time.time_ns()).encode())\n"
    )

    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            jobs = await store.queue("jobs")
            child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "data")])
            (message,) = await jobs.receive(timeout=30)
            late = time.time_ns() - int(message.value)
            assert child.wait(30) == 0
            return late

    assert run(main()) < 1e9


@pytest.mark.parametrize("why", ["released", "delay over", "lease over"])
def test_a_waiting_receive_gets_what_comes_back(tmp_path, why):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
            jobs = await store.queue("jobs", lease=0.3 if why == "lease over" else 60)
            await jobs.send(b"x", **({"delay": 0.3} if why == "delay over" else {}))
            if why != "delay over":
                (first,) = await jobs.receive()
            began = time.monotonic()
            task = asyncio.create_task(jobs.receive(timeout=30))
            await asyncio.sleep(0.1)
            assert not task.done()
            if why == "released":
                await jobs.release(first)
            (message,) = await task
            return message.value, time.monotonic() - began

    value, took = run(main())
    assert value == b"x" and took < 5


@pytest.mark.parametrize("fsync", ["never", "always"])
def test_what_waits_for_the_disk_does_not_hold_the_event_loop(tmp_path, fsync, monkeypatch):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", fsync=fsync) as store:
            jobs = await store.queue("jobs")
            await jobs.send(b"x")
            threads = []
            monkeypatch.setattr(seglog.Queue, "ack", lambda *_: threads.append(threading.get_ident()))
            await jobs.ack(await jobs.receive(timeout=5))
            return threads == [threading.get_ident()]

    assert run(main()) is (fsync == "never")


def test_a_waiting_receive_gets_what_a_killed_process_held(tmp_path):
    program = (
        "import os, seglog, sys, time\n"
        "store = seglog.open(sys.argv[1])\n"
        "print(store.queue('jobs').receive(timeout=30)[0].value.decode(), flush=True)\n"
        "time.sleep(60)\n"
    )

    async def main():
        async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
            jobs = await store.queue("jobs", lease=3600)
            await jobs.send(b"x")
            child = subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path / "data")], stdout=subprocess.PIPE, text=True
            )
            await asyncio.to_thread(child.stdout.readline)
            task = asyncio.create_task(jobs.receive(timeout=30))
            await asyncio.sleep(0.2)
            assert not task.done()
            child.kill()
            began = time.monotonic()
            (message,) = await task
            child.wait(30)
            return message.attempts, time.monotonic() - began

    attempts, took = run(main())
    assert attempts == 2 and took < 5


def test_a_hundred_waiters_cost_one_thread(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
            jobs = await store.queue("jobs")
            before = threading.active_count()
            tasks = [asyncio.create_task(jobs.receive(timeout=30)) for _ in range(100)]
            await asyncio.sleep(0.2)
            grown = threading.active_count() - before
            jobs.sync_queue.send_many([b"%d" % n for n in range(100)])
            got = [message.value for some in await asyncio.gather(*tasks) for message in some]
            return grown, got

    grown, got = run(main())
    assert grown <= 1
    assert sorted(got, key=int) == [b"%d" % n for n in range(100)]


def test_waiters_that_nothing_comes_for_cost_next_to_nothing(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
            jobs = await store.queue("jobs")
            tasks = [asyncio.create_task(jobs.receive(timeout=1.5)) for _ in range(20)]
            await asyncio.sleep(0.3)
            before = time.process_time()
            await asyncio.sleep(1.0)
            spent = time.process_time() - before
            assert await asyncio.gather(*tasks) == [[]] * 20
            return spent

    assert run(main()) < 0.25


def test_the_second_of_a_single_active_queue_waits_without_spinning(tmp_path):
    async def main():
        async with (
            await seglog.aio.open(tmp_path / "data", upkeep=False) as one,
            await seglog.aio.open(tmp_path / "data", upkeep=False) as two,
        ):
            first = await one.queue("jobs", single_active=True)
            second = await two.queue("jobs")
            assert await first.receive(timeout=0) == []
            await first.send_many([b"a", b"b"])
            before = time.process_time()
            assert await second.receive(timeout=0.5) == []
            assert time.process_time() - before < 0.25
            assert len(await first.receive(2)) == 2

    run(main())


@pytest.mark.parametrize("fsync", ["never", "always"])
def test_a_cancelled_receive_loses_no_message(tmp_path, fsync):
    """Cancelled at every kind of moment: what was not handed out is there for the next, with no attempt counted."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed:#x}")
    chance = random.Random(seed)

    async def main():
        seen = Counter()
        async with await seglog.aio.open(tmp_path / "data", fsync=fsync) as store:
            jobs = await store.queue("jobs", lease=3600)
            for number in range(60):
                task = asyncio.create_task(jobs.receive(3, timeout=5))
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
                await jobs.send(b"%d" % number)
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * 0.004)
                if chance.random() < 0.7:
                    task.cancel()
                try:
                    some = await task
                except asyncio.CancelledError:
                    continue
                assert all(message.attempts == 1 for message in some)
                seen.update(message.value for message in some)
                await jobs.ack(some)
            deadline = time.monotonic() + 20
            while sum(seen.values()) < 60 and time.monotonic() < deadline:
                for message in await jobs.receive(100, timeout=0.2):
                    assert message.attempts == 1
                    seen[message.value] += 1
                    await jobs.ack(message)
        return seen

    assert run(main()) == {b"%d" % number: 1 for number in range(60)}


def test_a_receive_cancelled_while_its_claim_is_under_way_gives_it_back(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", fsync="always") as store:
            jobs = await store.queue("jobs", lease=3600)
            await jobs.send(b"x")
            sync_receive, claimed = jobs.sync_queue.receive, threading.Event()

            class Slow:
                """The queue, but that what was claimed takes a while to arrive."""

                def __getattr__(self, name):
                    return getattr(queue, name)

                def receive(self, *arguments, **how):
                    got = sync_receive(*arguments, **how)
                    claimed.set()
                    time.sleep(0.2)
                    return got

            queue, jobs.sync_queue = jobs.sync_queue, Slow()
            task = asyncio.create_task(jobs.receive(timeout=5))
            await asyncio.to_thread(claimed.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            jobs.sync_queue = queue
            (message,) = await jobs.receive(timeout=10)
            return message.attempts

    assert run(main()) == 1


def test_a_wait_that_nothing_ends_ends_in_time(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            jobs = await store.queue("jobs")
            began = time.monotonic()
            assert await jobs.receive(timeout=0.1) == []
            assert await jobs.receive(timeout=0) == []
            return time.monotonic() - began

    assert 0.1 <= run(main()) < 5


def test_closing_or_deleting_ends_what_waits(tmp_path):
    async def main():
        store = await seglog.aio.open(tmp_path / "data")
        jobs, mails = await store.queue("jobs"), await store.queue("mails")
        deleted = asyncio.create_task(mails.receive(timeout=30))
        closed = asyncio.create_task(jobs.receive(timeout=30))
        await asyncio.sleep(0.1)
        await store.delete_queue("mails")
        with pytest.raises(seglog.SeglogError):
            await deleted
        await store.close()
        with pytest.raises(seglog.ClosedError):
            await closed

    run(main())


def test_a_sender_waits_for_room_and_a_cancelled_one_has_sent_nothing(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            small = await store.queue("small", max_length=1, max_bytes=100)
            await small.send(b"1")
            with pytest.raises(seglog.QueueFull):
                await small.send(b"2", timeout=0.05)
            with pytest.raises(seglog.QueueFull):
                await small.send(b"x" * 101)  # never has room
            cancelled = asyncio.create_task(small.send(b"3"))
            waiting = asyncio.create_task(small.send(b"4"))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            (first,) = await small.receive()
            await waiting
            await small.ack(first)
            return (await small.receive(9))[0].value, (await small.statistics()).ready

    assert run(main()) == (b"4", 0)


def test_what_two_loops_receive_is_handed_out_once(tmp_path):
    with seglog.open(tmp_path / "data") as store:
        store.queue("jobs").send_many([b"%d" % n for n in range(500)])
    seen, lock = [], threading.Lock()

    def one():
        async def main():
            async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
                jobs = await store.queue("jobs")
                while some := await jobs.receive(7, timeout=0.2):
                    with lock:
                        seen.extend(message.value for message in some)
                    await jobs.ack(some)

        run(main())

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen, key=int) == [b"%d" % n for n in range(500)]
    assert drained(tmp_path / "data") == []
