"""Pipeline: read, process, write, each batch in a transaction, by workers that are killed at random: each input comes out once.

    PYTHONPATH=tests python -m stress.pipeline --kills 1000 --seed S

Workers of one group read `in`, send what they make of it to `out`, a line about the batch to `audit`, and commit, in one
transaction. Some give one up and go back. They are killed and stopped at any moment; who is started next goes on. A watcher reads
all the time. `judge` looks for, by Jepsen's names:

    lost write        an input of which nothing came out
    duplicate         an input that came out twice
    aborted read      something of a transaction that was given up is there, or was seen by the watcher
    precommitted read the watcher saw what is not there in the end, or a transaction is there in parts
    reordered         what came out of one partition is not in its order

Exit status 1 and the store left behind when there is one.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import time
from pathlib import Path

import seglog
from crash.kills.children import Child, Died, stop_all
from stress.program import program, rounds

WORKERS, INPUTS, OUTPUTS = 3, 4, 3
LEVELS = ("never", "interval", "always")


class Anomaly(AssertionError):
    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: {what}")
        self.name = name


Contents = dict[str, list[list[bytes]]]
"""Of `in`, `out` and `audit`, by partition."""


def judge(contents: Contents, given_up: set[bytes], seen: set[tuple[int, int, bytes]]) -> collections.Counter[str]:
    """Raises Anomaly; else how much there was. An output is `transaction|input partition|input`; a line of the audit
    `transaction|outputs`."""
    came: collections.Counter[tuple[int, bytes]] = collections.Counter()
    parts: collections.Counter[bytes] = collections.Counter()
    for partition, values in enumerate(contents["out"]):
        last: dict[int, int] = {}
        for value in values:
            transaction, source, made_of = value.split(b"|")
            if transaction in given_up:
                raise Anomaly("aborted read", f"{value!r} is in out, {partition}")
            parts[transaction] += 1
            came[int(source), made_of] += 1
            if last.get(int(source), -1) >= int(made_of):
                raise Anomaly("reordered", f"{value!r} in out, {partition}, after {last[int(source)]}")
            last[int(source)] = int(made_of)
    for partition, values in enumerate(contents["in"]):
        for value in values:
            if came[partition, value] != 1:
                name = "duplicate" if came[partition, value] else "lost write"
                raise Anomaly(name, f"{value!r} of in, {partition}, came out {came[partition, value]} times")
    audited = dict(value.split(b"|") for values in contents["audit"] for value in values)
    if audited != {transaction: b"%d" % count for transaction, count in parts.items()}:
        odd = [t for t in audited.keys() | parts.keys() if audited.get(t) != b"%d" % parts[t]]
        raise Anomaly("precommitted read", f"transactions {odd[:5]} are there in parts")
    for partition, offset, value in seen:
        if value.split(b"|")[0] in given_up:
            raise Anomaly("aborted read", f"the watcher saw {value!r}")
        there = contents["out"][partition]
        if offset >= len(there) or there[offset] != value:
            raise Anomaly("precommitted read", f"the watcher saw {value!r} at {partition}, {offset}, where it is not")
    return collections.Counter(
        inputs=sum(map(len, contents["in"])), transactions=len(parts), given_up=len(given_up), seen=len(seen)
    )


# ---- who does what ------------------------------------------------------------------------------------


def work(path: str, folder: str, who: str, seed: int, until: float | None = None) -> None:
    """Be a worker until you are killed; with `until`, until nothing came for so long."""
    rng = random.Random(seed)
    given_up = os.open(os.path.join(folder, f"{who}.given-up"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    store = seglog.open(path, fsync=rng.choice(LEVELS), fsync_interval=0.02, segment_bytes=1 << 20)
    source, out, audit = store.topic("in"), store.topic("out"), store.topic("audit")
    number = 0
    while True:
        with source.consumer("workers") as consumer:
            for _ in range(rng.randrange(1, 300)):
                batch = consumer.receive(rng.choice([1, 3, 50]), timeout=0.2 if until is None else until)
                if batch is None:
                    if until is not None:
                        return
                    continue
                number += 1
                transaction = f"{who}.{number}".encode()
                tx = store.transaction()
                for record in batch:
                    value = b"%s|%d|%s" % (transaction, batch.partition, record.value)
                    out.send(value, partition=batch.partition % OUTPUTS, tx=tx)
                audit.send(b"%s|%d" % (transaction, len(batch)), tx=tx)
                consumer.commit(batch, tx=tx)
                if rng.random() < 0.1:
                    os.write(given_up, transaction + b"\n")
                    tx.abort()
                    consumer.seek(batch.partition, batch.first_offset)
                    continue
                try:
                    tx.commit()
                except seglog.Fenced:  # it was slow to come for what it was given, and another did
                    os.write(given_up, transaction + b"\n")


def watch(path: str, folder: str, seed: int) -> None:
    """See everything as it comes."""
    with open(os.path.join(folder, "seen"), "ab", buffering=0) as seen:
        store = seglog.open(path, upkeep=False, segment_bytes=1 << 20)
        at = [0] * OUTPUTS
        while True:
            for partition in range(OUTPUTS):
                for record in store.topic("out").read(at[partition], partition=partition):
                    seen.write(b"%d %d %s\n" % (partition, record.offset, record.value))
                    at[partition] = record.offset + 1
            time.sleep(0.001)


def make(path: str) -> None:
    with seglog.open(path, segment_bytes=1 << 20) as store:
        store.topic("in", partitions=INPUTS)
        store.topic("out", partitions=OUTPUTS)
        store.topic("audit")


def feed(path: str, seed: int) -> None:
    """Inputs, numbered per partition, as long as you live."""
    rng = random.Random(seed)
    topic = seglog.open(path, fsync="never", segment_bytes=1 << 20).topic("in")
    number = 0
    while True:
        topic.send_many([b"%d" % (number + i) for i in range(20)], partition=rng.randrange(INPUTS))
        number += 20
        while topic.next_offset(0) * INPUTS > 20_000 and rng.random() < 0.9:
            time.sleep(0.005)  # enough to read; more would only make the judging long
        time.sleep(0.002)


def contents(path: str) -> Contents:
    with seglog.open(path, upkeep=False, segment_bytes=1 << 20) as store:
        return {
            name: [[r.value or b"" for r in topic.read(partition=p)] for p in range(topic.partitions)]
            for name, topic in ((name, store.topic(name)) for name in ("in", "out", "audit"))
        }


# ---- a round ----------------------------------------------------------------------------------------------


def play(folder: Path, seed: str, kills: int) -> collections.Counter[str]:
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    path = str(folder / "store")
    Child(make, path).answer()
    feeder, watcher = Child(feed, path, rng.getrandbits(32)), Child(watch, path, str(folder), 0)
    workers: list[Child] = []
    happened: collections.Counter[str] = collections.Counter()
    started = 0

    def start() -> Child:
        nonlocal started
        started += 1
        return Child(work, path, str(folder), f"{started}", rng.getrandbits(32))

    workers = [start() for _ in range(WORKERS)]
    while happened["kills"] < kills:
        time.sleep(rng.random() * rng.choice([0.01, 0.1, 0.5]))
        number = rng.randrange(WORKERS)
        victim = workers[number]
        if rng.random() < 0.2:
            victim.kill(signal.SIGSTOP)
            time.sleep(rng.random() * 0.3)
            victim.kill(signal.SIGCONT)
            happened["stops"] += 1
            continue
        end(victim, "a worker")
        workers[number] = start()
        happened["kills"] += 1
    end(feeder, "the feeder")
    for worker in workers:
        end(worker, "a worker")
    last = Child(work, path, str(folder), "last", rng.getrandbits(32), 1.0)
    last.answer(120.0)
    last.stop()
    time.sleep(0.05)
    end(watcher, "the watcher")
    given_up = {line for file in folder.glob("*.given-up") for line in file.read_bytes().split()}
    seen = set()
    for line in (folder / "seen").read_bytes().split(b"\n")[:-1]:
        partition, offset, value = line.split(b" ")
        seen.add((int(partition), int(offset), value))
    return happened + judge(Child(contents, path).answer(60.0), given_up, seen)


def end(child: Child, what: str) -> None:
    child.kill(signal.SIGKILL)
    how = child.wait()
    if how != -signal.SIGKILL:
        child.answer(1.0)  # raises what it failed with
        raise Died(f"{what} came to an end by itself ({how})")
    child.stop()


def pipeline(folder: Path, kills: int, seed: int, round_kills: int = 50) -> str:
    """Rounds until so many were killed; what happened. Raises Anomaly or Died, with the store left in `folder`."""
    return rounds(folder, kills, seed, round_kills, play, stop_all)


if __name__ == "__main__":
    sys.exit(program("pipeline", __doc__, pipeline, "kills", 1000))
