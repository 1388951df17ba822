"""Others read, write and compact while one compacts: nobody misses a live record, and nobody sees one that never was."""

import gc
import os
import random
import sys
import time

import pytest

import seglog
from crash.kills.children import Child
from process.workers import opened
from seglog import doctor
from seglog.engine.compaction import compact
from seglog.engine.errors import OffsetOutOfRange

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

KEYS = 40


def value_of(offset, number):
    return b"%d %d " % (offset, number) + b"x" * (number % 300)


def write_numbers(path, seed, records):
    """Each value says which it is of its key: 1, 2, 3 ...; keys take turns at random."""
    rng, counts = random.Random(seed), [0] * KEYS
    with opened(path) as log:
        for _ in range(records):
            key = rng.randrange(KEYS)
            counts[key] += 1
            log.append(value_of(key, counts[key]), b"%d" % key)
    return counts


def follow(path, done):
    """Read on and on: of each key the numbers rise, and the last one seen at the end is the last one written."""
    seen, count = [0] * KEYS, 0
    with opened(path) as log:
        at = 0
        while True:
            over = os.path.exists(done)
            while (batch := log.read(at, 50)) is not None:
                for record in batch:
                    key, number = map(int, record.value.split()[:2])
                    assert record.key == b"%d" % key and record.value == value_of(key, number)
                    assert record.offset >= at and number > seen[key]
                    seen[key] = number
                    at = record.offset + 1
                    count += 1
                at = batch.next_offset
            if over:
                return seen, count
            log.wait(at, 0.02)


def read_again(path, done):
    """From the beginning, again and again: offsets rise, of each key the numbers do, and nothing that was seen is gone."""
    rounds, before = 0, [0] * KEYS
    with opened(path) as log:
        while True:
            over = os.path.exists(done)
            now, at = [0] * KEYS, -1
            for record in log.records():
                key, number = map(int, record.value.split()[:2])
                assert record.offset > at and record.value == value_of(key, number) and number > now[key]
                now[key], at = number, record.offset
            assert all(new >= old for new, old in zip(now, before)), "an older value came back"
            assert log.verify() == []
            before, rounds = now, rounds + 1
            if over:
                return before, rounds


def pick(path, done, seed):
    """Single records, by offset: the one asked for, or none; never another."""
    rng, found = random.Random(seed), 0
    with opened(path) as log:
        while not os.path.exists(done):
            if not log.next_offset:
                continue
            offset = rng.randrange(log.next_offset)
            try:
                assert log.record(offset).offset == offset
                found += 1
            except OffsetOutOfRange:
                batch = log.read(offset, 1)
                assert batch is None or batch.first_offset > offset
    return found


def squash(path, done):
    times = 0
    with opened(path) as log:
        while not os.path.exists(done):
            times += compact(log, memory=random.choice([1536, 1 << 20])) is not None
            time.sleep(0.002)
    return times


def test_readers_and_writers_in_other_processes_are_not_disturbed(memory, rng):
    path, done = str(memory / "log"), str(memory / "done")
    opened(path).close()
    seed = rng.getrandbits(32)
    readers = [Child(follow, path, done), Child(read_again, path, done), Child(pick, path, done, seed)]
    compacting = [Child(squash, path, done) for _ in range(2)]
    counts = write_numbers(path, seed, 30_000)
    time.sleep(0.1)
    open(done, "w").close()
    seen, count = readers[0].answer(60)
    assert seen == counts
    last, rounds = readers[1].answer(60)
    assert last == counts and rounds > 1
    assert readers[2].answer(60) >= 0
    assert sum(child.answer(60) for child in compacting) > 1
    with opened(path) as log:
        log.close_segment()
        assert compact(log)["finished"]
        assert sum(1 for _ in log.records()) == sum(1 for n in counts if n)
        assert log.verify() == []
        assert log.losses == ()
    assert count > KEYS


def compact_and_trim(path):
    with opened(path) as log:
        log.close_segment()
        assert compact(log)["records_removed"] > 0
        first = log.trim(log.next_offset)
        log.close_segment()
        return first, len(log.segments())


def test_arrays_outlive_the_compaction_and_the_trim_of_another_process_and_the_log_itself(memory, rng):
    path = str(memory / "log")
    opened(path).close()
    write_numbers(path, rng.getrandbits(32), 5000)
    log = opened(path)
    batches = list(log.batches(max_records=700))
    held = [(batch.values.data, batch.keys.data, batch.offsets) for batch in batches]
    copies = [tuple(array.tobytes() for array in arrays) for arrays in held]
    lists = [batch.values.tolist() for batch in batches]
    assert Child(compact_and_trim, path).answer(60) == (5000, 1)
    assert log.first_offset == 5000
    log.close()
    del log
    gc.collect()
    assert [tuple(array.tobytes() for array in arrays) for arrays in held] == copies
    assert [batch.values.tolist() for batch in batches] == lists


def send_compact_and_trim(path, done):
    with seglog.open(path, upkeep=False, segment_bytes=65_536) as store:
        stock, rng, n = store.topic("stock"), random.Random(1), 0
        while not os.path.exists(done):
            keys = [b"%d" % rng.randrange(200) for _ in range(300)]
            stock.send_many([b"%d" % n * 30 for _ in keys], keys=keys)
            n += 1
            if n % 3 == 0:
                stock.compact()
            if n % 50 == 0:
                stock.trim(before=stock.first_offset() + 100)
    return n


def test_the_doctor_takes_nothing_for_damage_that_is_compacted_or_trimmed_under_its_eyes(memory):
    path, done = str(memory / "store"), str(memory / "done")
    with seglog.open(path, upkeep=False, segment_bytes=65_536) as store:
        store.topic("stock", compact=True)
    child, looks = Child(send_compact_and_trim, path, done), 0
    over = time.monotonic() + 3
    while time.monotonic() < over:
        found = [finding for finding in doctor.examine(path).findings if finding.severity not in ("note", "harmless")]
        assert found == []
        looks += 1
    open(done, "w").close()
    assert child.answer(60) > 50 < looks
