"""Queues: what sending, receiving and acking cost, beside other queues that live in a program; and what does not make them dearer.

    python bench/ratios.py queues            a million waiting messages, a million delayed ones
    python bench/ratios.py queues --large    ten million waiting
    pip install "seglog[peers]"              the others: who is not installed is named, and left out

Each peer got the settings with which a message survives the death of its process and no disk is waited for. Some forget a message
when they hand it out, and lose it with whoever died over it: "no acks" says so. They are compared with sending, receiving and
acking all the same.

The others and seglog take turns, on one core; a ratio is the median of the rounds' own. Processes that work at once have a core
each, if there are two: `had` says how much of it they got.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import resource
import shutil
import statistics
import struct
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import memory
import seglog
from contestants import Load
from machine import Contestant, Figure, free_gib, in_turns, one_core, progress
from sharing import forked, in_turn, quantiles, used, whole

__all__ = ["measure"]

Part = tuple[str, list[Figure]]
VALUE = b"x" * 100
BATCH = [VALUE] * 100
TURN = 0.4  # seconds
DAYS_30 = 30 * 86400.0
PEER_RECORDS = 1_000  # of a lap; seglog does more, since its lap would be over before it began
LARGE_GIB = 4.0  # what ten million messages and their state take


# ---- seglog, and the others ---------------------------------------------------------------------------------------


class Seglog:
    """One by one: send, receive, ack. In batches: the same verbs for a hundred."""

    name, module, given = "seglog", "seglog", 'fsync="never"'
    records = 50_000

    def __init__(self, place: str) -> None:
        self.store = seglog.open(os.path.join(place, "seglog"), fsync="never")
        self.queue = self.store.queue("bench")
        self.close = self.store.close

    def one(self, value: bytes) -> bytes | None:
        queue = self.queue
        queue.send(value)
        message = queue.receive(1, 0)[0]
        message.ack()
        return message.value

    def many(self, values: list[bytes]) -> list[bytes | None]:
        queue = self.queue
        queue.send_many(values)
        messages = queue.receive(100, 0)
        queue.ack(messages)
        return [message.value for message in messages]


class RocksQ:
    name, module, given = "rocksq", "rocksq", "no acks; kept the interpreter's lock, which is faster here"
    records = 10_000

    def __init__(self, place: str) -> None:
        from rocksq.blocking import PersistentQueueWithCapacity

        self.queue = PersistentQueueWithCapacity(os.path.join(place, "rocksq"))

    def close(self) -> None:
        del self.queue

    def one(self, value: bytes) -> bytes:
        self.queue.push([value], no_gil=False)
        return self.queue.pop(1, no_gil=False)[0]

    def many(self, values: list[bytes]) -> list[bytes]:
        self.queue.push(values, no_gil=False)
        return list(self.queue.pop(len(values), no_gil=False))


class LMDBQueue:
    name, module, given = "lmdb-queue", "equeue", "sync=False, its background threads off"
    records = PEER_RECORDS

    def __init__(self, place: str) -> None:
        from equeue import Queue

        self.queue = Queue(os.path.join(place, "lmdb"), map_size=1 << 33, sync=False, do_recover=False, do_vacuum=False)
        self.close = self.queue.close

    def one(self, value: bytes) -> Any:
        self.queue.put(value)
        record = self.queue.get(timeout=1.0)
        record.ack()
        return record.payload


class Huey:
    name, module, given = "huey SqliteStorage", "huey", "no acks; WAL, fsync=False"
    records = PEER_RECORDS

    def __init__(self, place: str) -> None:
        from huey.storage import SqliteStorage

        self.queue = SqliteStorage("bench", os.path.join(place, "huey.db"), fsync=False)
        self.close = self.queue.close

    def one(self, value: bytes) -> bytes:
        self.queue.enqueue(value)
        return bytes(self.queue.dequeue())


class PersistQueueAck:
    name, module, given = "persist-queue SQLiteAckQueue", "persistqueue", "WAL, synchronous=OFF"
    records = PEER_RECORDS

    def __init__(self, place: str) -> None:
        from persistqueue import SQLiteAckQueue

        self.queue = SQLiteAckQueue(os.path.join(place, "persistqueue"), auto_commit=True)
        for connection in (self.queue._putter, self.queue._getter):
            connection.execute("pragma synchronous=off")
        self.close = self.queue.close

    def one(self, value: bytes) -> Any:
        self.queue.put(value)
        got = self.queue.get(block=False)
        self.queue.ack(got)
        return got


class PersistQueueFile:
    name, module, given = "persist-queue Queue", "persistqueue", "no acks, files, a task_done for each"
    records = PEER_RECORDS

    def __init__(self, place: str) -> None:
        from persistqueue import Queue

        self.queue = Queue(os.path.join(place, "persistqueue"), autosave=False)

    def close(self) -> None:
        del self.queue

    def one(self, value: bytes) -> Any:
        self.queue.put(value)
        got = self.queue.get(block=False)
        self.queue.task_done()
        return got


class LiteQueue:
    name, module, given = "litequeue", "litequeue", "WAL, synchronous=OFF"
    records = PEER_RECORDS

    def __init__(self, place: str) -> None:
        from litequeue import LiteQueue

        self.queue = LiteQueue(os.path.join(place, "litequeue.db"))
        self.queue.conn.execute("pragma synchronous=off")
        self.close = self.queue.close

    def one(self, value: bytes) -> Any:
        self.queue.put(value)
        message = self.queue.pop()
        self.queue.done(message.message_id)
        return message.data


PEERS: list[type[Any]] = [RocksQ, LMDBQueue, Huey, PersistQueueAck, PersistQueueFile, LiteQueue]


def one_by_one(peer: Any, load: Load) -> int:
    """The first round trip looks whether it is one."""
    one, done = peer.one, 0
    if one(load.values[0]) != load.values[0]:
        raise AssertionError(f"{peer.name} gave back something else")
    while done < peer.records:
        for value in load.values:
            one(value)
        done += len(load.values)
    return done


def in_batches(peer: Any, load: Load) -> int:
    many, done = peer.many, 0
    batches = [load.values[at : at + 100] for at in range(0, len(load.values), 100)]
    while done < 10 * peer.records:
        for batch in batches:
            done += len(many(batch))
    return done


def contestant(kind: type[Any], load: Load, work: Callable[[Any, Load], int]) -> Contestant:
    @contextmanager
    def run(place: str) -> Iterator[Callable[[], int]]:
        with closing(kind(place)) as peer:
            peer.one(load.values[0])  # what making files costs is not the question
            yield partial(work, peer, load)

    return run


def compare_peers(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    load = Load(100, 1)
    missing = sorted({peer.name.split()[0] for peer in PEERS if not importlib.util.find_spec(peer.module)})
    present = [Seglog, *(peer for peer in PEERS if importlib.util.find_spec(peer.module))]
    with one_core():
        ones = in_turns(
            {peer.name: contestant(peer, load, one_by_one) for peer in present}, PEER_RECORDS,
            rounds=args.rounds, directory=directory, say=progress,
        )
        batches = in_turns(
            {peer.name: contestant(peer, load, in_batches) for peer in present if hasattr(peer, "many")}, PEER_RECORDS,
            rounds=args.rounds, directory=directory, say=progress,
        )
    for what, laps in (("one by one", ones), ("batches of 100", batches)):
        raw[what] = {
            name: [{"wall_ns": lap.wall * 1e9, "cpu_ns": lap.cpu * 1e9} for lap in each.laps] for name, each in laps.items()
        }
    clock = args.clock
    ours = ones[Seglog.name]
    ratios = {peer: ones[peer.name].times(ours, clock) for peer in present if peer is not Seglog}
    figures = [
        Figure("send + receive + ack, one by one", 1 / ours.median(clock), "a second", at_least=600_000,
               note=f"spread {ours.spread(clock):.0%}"),
        Figure("the same, in batches of 100", 1 / batches[Seglog.name].median(clock), "a second", at_least=2_000_000,
               note=f"spread {batches[Seglog.name].spread(clock):.0%}"),
    ]
    if ratios:
        fastest = min(ratios, key=lambda peer: ratios[peer])
        figures.append(
            Figure(f"one by one, times as fast as the fastest other ({fastest.name})", ratios[fastest], "x", at_least=10)
        )
    figures += [
        Figure(f"{peer.name}, put + get + ack", 1 / ones[peer.name].median(clock), "a second",
               note=f"seglog {ratio:.3g} x; {peer.given}")
        for peer, ratio in sorted(ratios.items(), key=lambda pair: pair[1])
    ]
    figures += [
        Figure(f"{name}, in batches of 100", 1 / laps.median(clock), "a second",
               note=f"seglog {laps.times(batches[Seglog.name], clock):.3g} x")
        for name, laps in batches.items() if name != Seglog.name
    ]
    title = f"queues: {len(VALUE)} B messages, fsync never, one core, {args.rounds} rounds in turns, {clock} time"
    if missing:
        title += f"\n  not installed, and so not compared: {', '.join(missing)}"
        raw["not installed"] = missing
    return [(title, figures)]


# ---- two at once --------------------------------------------------------------------------------------------------


def cycle(queue: Any) -> int:
    """Send, receive, ack: somebody's, not always one's own."""
    done = 0
    for _ in range(100):
        queue.send(VALUE)
        for message in queue.receive(1, 0):
            message.ack()
            done += 1
    return done


def drain(queue: Any) -> int:
    done = 0
    for _ in range(100):
        for message in queue.receive(1, 0):
            message.ack()
            done += 1
    return done


def drain_batches(queue: Any) -> int:
    done = 0
    for _ in range(5):
        messages = queue.receive(100, 0)
        queue.ack(messages)
        done += len(messages)
    return done


def rates(path: str, do: Callable[[Any], int], processes: int, seconds: float) -> tuple[float, float]:
    """(how many a second all of them did together, the share of a core that each had): all begin and end at the same moments."""
    begin = time.monotonic() + 0.2
    done = struct.Struct("<qd")

    def work(tell: int) -> None:
        with seglog.open(path, fsync="never", upkeep=False) as store:
            queue, count = store.queue("shared"), 0
            time.sleep(max(0.0, begin - time.monotonic()))
            before = used()
            while time.monotonic() < begin + seconds:
                count += do(queue)
            os.write(tell, done.pack(count, (used() - before) / seconds))

    with contextlib.ExitStack() as stay:
        told = [done.unpack(whole(end)) for end in [stay.enter_context(forked(work)) for _ in range(processes)]]
    return sum(count for count, _ in told) / seconds, statistics.mean(share for _, share in told)


def fill(queue: Any, count: int, **options: Any) -> None:
    values = [VALUE] * 10_000
    for at in range(0, count, 10_000):
        queue.send_many(values[: min(10_000, count - at)], **options)


def compare_workers(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    figures = []
    for name, do, waiting in (
        ("send + receive + ack", cycle, 0),
        ("receive + ack of what waits", drain, 1_000_000),
        ("the same, in batches of 100", drain_batches, 4_000_000),
    ):
        turns = []
        for turn in range(args.rounds):
            progress(f"queues: two workers, {name}, {turn + 1}/{args.rounds}")

            path = os.path.join(directory, f"workers-{turn}")

            def rate(processes: int, path: str = path, do: Any = do, waiting: int = waiting) -> tuple[float, float]:
                with seglog.open(path, fsync="never") as store:
                    fill(store.queue("shared"), waiting)
                got = rates(path, do, processes, TURN)
                if waiting:
                    with seglog.open(path, fsync="never") as store:
                        assert store.queue("shared").statistics().ready > 0, "the workers ran dry: the figure would be of that"
                shutil.rmtree(path)
                return got

            turns.append(in_turn(turn, rate))
        raw[f"workers: {name}"] = turns
        ratios = {
            "wall": statistics.median(two / one for (one, _), (two, _) in turns),
            "cpu": statistics.median((two / its) / (one / mine) for (one, mine), (two, its) in turns),
        }
        one, two = (statistics.median(turn[i][0] for turn in turns) for i in (0, 1))
        had = " and ".join(f"{statistics.median(turn[i][1] for turn in turns):.0%}" for i in (0, 1))
        other = "cpu" if args.clock == "wall" else "wall"
        figures.append(
            Figure(f"two worker processes, of one alone: {name}", ratios[args.clock], "x", at_least=1.0,
                   note=f"{other} {ratios[other]:.2f}; {one:,.0f} and {two:,.0f} a second; had {had}")
        )
    return [(f"queues: workers, medians of {args.rounds} turns of {TURN} s", figures)]


# ---- what must not matter -----------------------------------------------------------------------------------------


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - start) / times


def compare_depth(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    deep = 10_000_000 if args.large and free_gib(directory) > LARGE_GIB else 1_000_000
    path = os.path.join(directory, "depth")
    laps: dict[str, list[tuple[float, float]]] = {"one by one": [], "batches of 100": []}
    with seglog.open(path, fsync="never") as store:
        queues = [store.queue("deep"), store.queue("shallow")]
        for queue, count in zip(queues, (deep, 1_000)):
            progress(f"queues: {count:,} messages wait")
            fill(queue, count)

        def one(queue: Any) -> Callable[[], None]:
            def work() -> None:
                queue.send(VALUE)
                queue.receive(1, 0)[0].ack()

            return work

        def many(queue: Any) -> Callable[[], None]:
            def work() -> None:
                queue.send_many(BATCH)
                queue.ack(queue.receive(100, 0))

            return work

        with one_core():
            for turn in range(2 * args.rounds + 1):
                for name, make, times in (("one by one", one, 20_000), ("batches of 100", many, 500)):
                    lap = (timed(make(queues[0]), times), timed(make(queues[1]), times))
                    if turn:
                        laps[name].append(lap)
        for queue, count in zip(queues, (deep, 1_000)):
            assert queue.statistics().ready == count, "the depth was to stay"
    shutil.rmtree(path)
    raw["depth"] = {"waiting": deep, "laps": laps}
    figures = [
        Figure(f"{deep:,} waiting, of 1,000 waiting: {name}", statistics.median(a / b for a, b in pairs), "x", at_most=1.2,
               note=f"{statistics.median(a for a, _ in pairs) * 1e6:.3g} us and {statistics.median(b for _, b in pairs) * 1e6:.3g}")
        for name, pairs in laps.items()
    ]
    if args.large and deep < 10_000_000:
        figures.append(Figure("10,000,000 do not fit on this disk", 0, ""))
    return [("queues: depth, send + receive + ack", figures)]


def wait_behind(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    path, took = os.path.join(directory, "priorities"), []
    progress("queues: a high one behind a million low ones")
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("levels", priorities=3)
        fill(queue, 1_000_000)
        for turn in range(200):
            queue.send(b"high %d" % turn, priority=2)
            start = time.perf_counter()
            (message,) = queue.receive(1, 0)
            took.append(time.perf_counter() - start)
            assert message.value == b"high %d" % turn, "a low one came first"
            message.ack()
    shutil.rmtree(path)
    raw["high_behind_low_s"] = took
    figures = [
        Figure("receive of the high one, the first time", took[0] * 1e3, "ms", at_most=1),
        Figure("... median of 200", statistics.median(took) * 1e3, "ms", at_most=1, note=f"the longest {max(took) * 1e3:.3g}"),
    ]
    return [("queues: 1,000,000 of low priority wait", figures)]


# ---- delays -------------------------------------------------------------------------------------------------------


def send_delayed(path: str, count: str) -> None:
    """A child: a message for each of so many moments of the next 30 days."""
    with seglog.open(path, fsync="never") as store:
        queue, n = store.queue("later"), int(count)
        memory.ready()
        for i in range(n):
            queue.send(VALUE, delay=60.0 + DAYS_30 * (i * 7919 % n) / n)
        memory.done(queue.statistics().delayed)


def reopen_delayed(path: str, count: str) -> None:
    """A child: open, look, and say how long it took until the first look was done."""
    start = time.perf_counter()
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("later")
        assert queue.receive(1, 0) == []
        took = time.perf_counter() - start
        memory.ready()
        assert queue.statistics().delayed == int(count)
        for _ in range(20):
            assert queue.receive(1, 0.05) == []
        memory.done(f"{took:.6f}")


def forget_the_boot(path: str) -> None:
    """What the machine's memory would have kept is gone: as after a restart of it."""
    for folder, _, names in os.walk(path):
        for name in names:
            if name in ("shm", "tail.shm") or name.startswith("lock"):
                os.unlink(os.path.join(folder, name))


def compare_delays(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    if not sys.platform.startswith("linux"):
        return [("queues: delays: only Linux tells a process's anonymous memory", [])]
    path, count = os.path.join(directory, "delays"), 1_000_000
    progress(f"queues: {count:,} delayed messages")
    start = time.perf_counter()
    _, peak, said = memory.peak_of("send", path, str(count), program=__file__)
    took = time.perf_counter() - start
    assert int(said) == count, f"{said} of {count} are delayed"
    disk = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    figures = [
        Figure("memory of the process that sends them", peak / memory.MIB, "MiB", at_most=50,
               note=f"{took / count * 1e6:.3g} us each; {disk / count:.0f} B each on disk"),
    ]
    found: dict[str, list[tuple[float, int]]] = {}
    for how in ("it was closed", "a restart of the machine"):
        for turn in range(5):
            progress(f"queues: reopen, {how}, {turn + 1}/5")
            if how != "it was closed":
                forget_the_boot(path)
            _, peak, said = memory.peak_of("reopen", path, str(count), program=__file__)
            found.setdefault(how, []).append((float(said), peak))
        figures += [
            Figure(f"open and look, after {how}", statistics.median(s for s, _ in found[how]) * 1e3, "ms", at_most=1000),
            Figure("... memory of that process", max(p for _, p in found[how]) / memory.MIB, "MiB", at_most=50),
        ]
    raw["delays"] = {"peak": peak, "reopen": found}
    shutil.rmtree(path)
    return [(f"queues: {count:,} messages delayed over 30 days; memory is RssAnon", figures)]


# ---- waiting ------------------------------------------------------------------------------------------------------


def hand_to_hand(path: str, count: int) -> list[float]:
    """µs from the sender's clock to the message in the hand of a receiver, in another process, that was asleep."""
    stamp = struct.Struct("<q")

    def consume(tell: int) -> None:
        came = array("q")
        with seglog.open(path, fsync="never", upkeep=False) as store:
            queue = store.queue("shared")
            os.write(tell, b"!")
            while len(came) < count:
                (message,) = queue.receive()
                came.append(time.monotonic_ns() - stamp.unpack(message.value)[0])
                message.ack()
        os.write(tell, came.tobytes())

    with seglog.open(path, fsync="never", upkeep=False) as store, forked(consume) as told:
        queue = store.queue("shared")
        os.read(told, 1)
        time.sleep(0.1)
        for _ in range(count):
            time.sleep(0.0005)  # time enough to fall asleep
            queue.send(stamp.pack(time.monotonic_ns()))
        return [ns / 1000 for ns in array("q", whole(told))]


def wait_idly(path: str, workers: int, seconds: float) -> float:
    """The share of a core that one of some workers burns who wait for messages that do not come."""

    def wait(tell: int) -> None:
        with seglog.open(path, fsync="never") as store:  # as a worker does: its upkeep counts too
            queue = store.queue("shared")
            queue.receive(timeout=0.2)
            before = resource.getrusage(resource.RUSAGE_SELF)
            queue.receive(timeout=seconds)
            after = resource.getrusage(resource.RUSAGE_SELF)
            burnt = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            os.write(tell, struct.pack("<d", burnt / seconds))

    with contextlib.ExitStack() as stay:
        ends = [stay.enter_context(forked(wait)) for _ in range(workers)]
        return statistics.mean(struct.unpack("<d", whole(end))[0] for end in ends)


def compare_waking(args: argparse.Namespace, directory: str, raw: dict[str, object]) -> list[Part]:
    path, count, turns = os.path.join(directory, "waking"), 2_000, []
    with seglog.open(path, fsync="never") as store:
        queue = store.queue("shared")
        queue.send(b"the first")
        queue.receive(1, 0)[0].ack()
    for turn in range(max(3, args.rounds // 2)):
        progress(f"queues: from hand to hand, {turn + 1}")
        turns.append(quantiles(hand_to_hand(path, count)))
    progress("queues: idle")
    idle = [wait_idly(path, 4, 2.0) for _ in range(3)]
    shutil.rmtree(path)
    raw["waking_us"], raw["idle"] = turns, idle
    late = statistics.median(p99 for _, p99 in turns)
    figures = [
        Figure("sender's clock to the message in another process's hand, p50", statistics.median(p50 for p50, _ in turns), "us",
               at_most=100, note=f"p99 {late:.0f}"),
        Figure("an idle worker, of a core", min(idle) * 100, "%", at_most=0.5, note="one of four; the least of three looks"),
    ]
    return [(f"queues: waking, medians of {len(turns)} turns of {count:,}", figures)]


def measure(args: argparse.Namespace, directory: str) -> tuple[list[Part], dict[str, object]]:
    raw: dict[str, object] = {}
    tables: list[Part] = []
    for part in (compare_peers, compare_workers, compare_depth, wait_behind, compare_delays, compare_waking):
        tables += part(args, directory, raw)
    progress("")
    return tables, raw


if __name__ == "__main__":
    {"send": send_delayed, "reopen": reopen_delayed}[sys.argv[1]](*sys.argv[2:])
