"""seglog.aio: the same reads awaited; cancelling one loses nothing, and waiting costs no thread per reader."""

import asyncio
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

import seglog
import seglog.aio


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def test_what_is_sent_is_received_awaited(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders", partitions=2)
            await orders.send(b"one", partition=0)
            await orders.send_many([b"two", b"three"], partition=1)
            async with orders.consumer("billing") as consumer:
                seen = []
                async for batch in consumer.batches(timeout=0.05):
                    seen += batch.values.tolist()
                    await consumer.commit(batch)
                assert consumer.lag() == 0
            return seen, [record.value async for record in orders.read()]

    seen, read = run(main())
    assert sorted(seen) == sorted(read) == [b"one", b"three", b"two"]


def test_a_waiting_receive_is_woken_by_another_process(tmp_path):
    program = (
        "import seglog, sys, time\n"
        "with seglog.open(sys.argv[1]) as store:\n"
        "    topic = store.topic('orders')\n"
        "    time.sleep(0.3)\n"
        "    topic.send(str(time.time_ns()).encode())\n"
    )

    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders", partitions=2)
            async with orders.consumer("billing") as consumer:
                child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "data")])
                batch = await consumer.receive(timeout=20)
                late = time.time_ns() - int(batch.values[0])
                assert child.wait(20) == 0
                return late

    assert run(main()) < 1e9


def test_a_cancelled_receive_loses_nothing(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders")
            consumer = orders.consumer("billing")
            seen = []
            for number in range(50):
                task = asyncio.create_task(consumer.receive(timeout=5))
                await asyncio.sleep(0)
                sender = asyncio.create_task(orders.send(b"%d" % number))
                if number % 2:
                    task.cancel()
                await sender
                try:
                    batch = await task
                    seen += [] if batch is None else batch.values.tolist()
                except asyncio.CancelledError:
                    pass
            async for batch in consumer.batches(timeout=0.05):
                seen += batch.values.tolist()
            return seen

    assert run(main()) == [b"%d" % number for number in range(50)]


def test_a_hundred_waiters_cost_one_thread(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data", upkeep=False) as store:
            topic = await store.topic("orders")
            before = threading.active_count()
            tasks = [asyncio.create_task(topic.wait(0, timeout=10)) for _ in range(100)]
            await asyncio.sleep(0.1)
            listeners = [thread for thread in threading.enumerate() if thread.name == "seglog-listener"]
            grown = threading.active_count() - before
            began = time.monotonic()
            await topic.send(b"now")
            assert await asyncio.gather(*tasks) == [True] * 100
            return len(listeners), grown, time.monotonic() - began

    listeners, grown, took = run(main())
    assert listeners == 1
    assert grown <= 1
    assert took < 5


def test_a_wait_that_nothing_ends_ends_in_time(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            topic = await store.topic("orders")
            began = time.monotonic()
            assert await topic.wait(0, timeout=0.1) is False
            assert [record async for record in topic.tail(timeout=0.1)] == []
            return time.monotonic() - began

    assert 0.2 <= run(main()) < 5


def test_a_tail_follows_the_topic(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            topic = await store.topic("orders")
            await topic.send(b"before")

            async def follow():
                return [record.value async for record in topic.tail("latest", timeout=0.5)]

            task = asyncio.create_task(follow())
            for number in range(5):
                await asyncio.sleep(0.02)
                await topic.send(b"%d" % number)
            return await task

    assert run(main()) == [b"0", b"1", b"2", b"3", b"4"]


def test_closing_ends_what_waits(tmp_path):
    async def main():
        store = await seglog.aio.open(tmp_path / "data")
        consumer = (await store.topic("orders")).consumer("billing")
        task = asyncio.create_task(consumer.receive(timeout=20))
        await asyncio.sleep(0.05)
        await store.close()
        with pytest.raises(seglog.ClosedError):
            await task

    run(main())


def test_a_commit_in_the_middle_of_iterating_covers_what_was_handed_out_and_no_more(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders")
            await orders.send_many([b"%d" % i for i in range(10)])
            consumer = orders.consumer("billing")
            async for record in consumer:
                if record.offset == 3:
                    await consumer.commit()
                    break
            committed = consumer.committed()
            consumer.close()
            async with orders.consumer("shipping", commit="after") as after:
                async for record in after:
                    if record.offset == 5:
                        break
            async with orders.consumer("shipping") as again:
                return committed, again.committed()

    assert run(main()) == (4, 6)


def test_a_tail_of_several_partitions_begins_where_it_was_called_and_hears_all(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders", partitions=3)
            before = datetime.now(UTC)
            await orders.send(b"old", partition=2)
            tail, since = orders.tail(timeout=0.2), orders.tail(before, timeout=0)
            for partition in range(3):
                await orders.send(b"%d" % partition, partition=partition)
            return [r.value async for r in tail], sorted([r.value async for r in since])

    assert run(main()) == ([b"0", b"1", b"2"], [b"0", b"1", b"2", b"old"])


def test_a_partition_that_is_not_there_is_told(tmp_path):
    async def main():
        async with await seglog.aio.open(tmp_path / "data") as store:
            orders = await store.topic("orders", partitions=2)
            with pytest.raises(seglog.PartitionNotFound):
                orders.tail(partition=2)
            with pytest.raises(seglog.PartitionNotFound):
                await orders.wait(0, partition=7, timeout=0)
            with pytest.raises(TypeError):
                await orders.wait("0", timeout=0)
            await orders.send(b"one", partition=1)
            assert await orders.wait(0, partition=1, timeout=0)
            assert not await orders.wait(1, partition=1, timeout=0.01)

    run(main())
