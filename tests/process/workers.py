"""What other processes do in these tests; by name, so that every way of starting a process can find it."""

import mmap
import os
import random
import signal
import threading
import time

import seglog
from crash.kills.ledger import Journal, Ledger, Look, Writer, look, seen
from seglog.engine.log import Log

SMALL = 65_536
LOCK, SYNC_LOCK = 128, 408  # in tail.shm (docs/format.md, section 8)


def opened(path, **settings):
    return Log(path, **({"segment_bytes": SMALL, "segment_bytes_min": SMALL, "batch_bytes": 4096} | settings))


# ---- writing and reading ---------------------------------------------------------------------------------------------


def write(log, number, journal, count, seed=0):
    """Append `count` records, as writer `number`, alone and many at once."""
    rng = random.Random(f"{seed}:{number}")
    journal = Journal(journal, rows=8 * count + 2000)
    writer = Writer(number, journal)
    while writer.number < count:
        left = count - writer.number
        if rng.random() < 0.7:
            writer.one(log, rng.choice([20, 60, 300, 2000]))
        else:
            writer.many(log, [rng.choice([20, 60, 300]) for _ in range(min(left, rng.randrange(1, 20)))])
    journal.close()


def open_and_write(path, number, journal, count, seed=0):
    with opened(path) as log:
        write(log, number, journal, count, seed)


def in_threads(works):
    """Run all `(function, *arguments)` at once, each in a thread; raises what the first of them raised."""
    errors = []

    def run(work, *arguments):
        try:
            work(*arguments)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def open_and_write_in_threads(path, numbers, journals, count, seed=0, one_handle=True):
    log = opened(path)
    handles = [log if one_handle else opened(path) for _ in numbers]
    in_threads([(write, handle, n, journal, count, seed) for handle, n, journal in zip(handles, numbers, journals)])


def read(log, total):
    """Every record once, in order, until `total` were seen: who wrote it, as which of its own."""
    told, at = [], 0
    while len(told) < total:
        assert log.wait(at, 20.0), f"nothing comes after {at:,}"
        batch = log.read(at)
        for record in batch:
            assert record.offset == at
            told.append(seen(record.offset, record.value, record.key))
            at += 1
    return told


def open_and_read(path, total):
    return read(opened(path), total)


def ledger_of(journals):
    ledger = Ledger()
    for number, path in journals:
        ledger.take(number, Journal(path).rows())
    return ledger


def look_at(path, **settings) -> Look:
    with opened(path, **settings) as log:
        return look(log)


def send_some(path, number, count):
    """A task for a pool: open the store, send, leave."""
    with seglog.open(path) as store:
        topic = store.topic("orders")
        for i in range(count):
            topic.send(b"%d/%d" % (number, i), b"%d" % number)
    return number


# ---- the words that all share ------------------------------------------------------------------------------------------


class Words:
    """tail.shm, mapped, to look into it and to meddle with it."""

    def __init__(self, path):
        with open(os.path.join(path, "tail.shm"), "r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 4096)).cast("I")

    def __getitem__(self, at):
        return self.words[at // 4]

    def __setitem__(self, at, value):
        self.words[at // 4] = value


def hold(path, then, word=LOCK, **settings):
    """Take a lock as a process does, and end ("die"), stand still ("stop") or sleep ("sleep") with it in hand; then let go."""
    log = opened(path, **settings)
    words = Words(path)
    words[word] = log.liveness.word
    if then == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if then == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if then == "sleep":
        time.sleep(3600)
    held = words[word]
    words[word] = 0
    return held == log.liveness.word
