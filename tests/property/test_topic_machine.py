"""A topic against plain lists: whatever is done to it, in any order, it holds what the lists hold.

The short form is part of `make test`. The long form: SEGLOG_LONG=1 make test ARGS=tests/property
"""

import heapq
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import seglog

LONG = os.environ.get("SEGLOG_LONG", "0") not in ("", "0")
START = datetime(2030, 1, 1, tzinfo=UTC)

small = st.binary(max_size=40)
large = st.builds(lambda seed, size: bytes([seed]) * size, st.integers(0, 255), st.integers(1, 20_000))
some_values = st.one_of(st.none(), small, small, large)
some_keys = st.one_of(st.none(), st.binary(max_size=4))
which = st.integers(0, 10**6)  # to be taken modulo what there is


class Partition:
    """One partition, as a list of (timestamp, value, key); the offset is the place in it."""

    def __init__(self) -> None:
        self.records: list[tuple[int, bytes | None, bytes | None]] = []
        self.first = 0

    @property
    def next(self) -> int:
        return len(self.records)

    def rows(self, number: int, start: int = 0):
        return [
            (at, number, offset, value, key)
            for offset, (at, value, key) in enumerate(self.records)
            if offset >= max(self.first, start)
        ]


def row(record: seglog.Record):
    return (record.timestamp, record.partition, record.offset, record.value, record.key)


class TopicMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="seglog-machine-")
        self.clock = seglog.ManualClock(START)
        self.left_open: list[seglog.Store] = []
        self.store = self.consumer = None
        self.committed: dict[int, int] = {}

    @initialize(
        partitions=st.integers(1, 3),
        codec=st.sampled_from(["none", "none", "zstd", "lz4"]),
        write=st.sampled_from(["map", "pwrite"]),
        fsync=st.sampled_from(["never", "interval"]),
    )
    def begin(self, partitions, codec, write, fsync):
        self.how = {"write": write, "fsync": fsync, "upkeep": False, "clock": self.clock}
        self.model = [Partition() for _ in range(partitions)]
        self.open(partitions=partitions, codec=codec, segment_bytes=1 << 16, batch_bytes=4096)

    def open(self, **settings):
        self.store = seglog.open(self.folder + "/data", **self.how)
        self.topic = self.store.topic("topic", **settings)

    # ---- sending

    @rule(value=some_values, key=some_keys)
    def send(self, value, key):
        self.clock.advance(1)
        where = self.topic.send(value, key)
        self.took(where.partition, where.offset, [(self.clock(), value, key)])

    @rule(value=some_values, at=which)
    def send_to(self, value, at):
        self.clock.advance(1)
        where = self.topic.send(value, partition=at % len(self.model))
        assert where.partition == at % len(self.model)
        self.took(where.partition, where.offset, [(self.clock(), value, None)])

    @rule(values=st.lists(some_values, max_size=30), at=which)
    def send_many_to(self, values, at):
        self.clock.advance(1)
        spans = self.topic.send_many(values, partition=at % len(self.model))
        self.took_spans(spans, [(self.clock(), value, None) for value in values])

    @rule(pairs=st.lists(st.tuples(small, st.binary(max_size=3)), max_size=30))
    def send_many_by_key(self, pairs):
        self.clock.advance(1)
        spans = self.topic.send_many([v for v, _ in pairs], keys=[k for _, k in pairs])
        assert sum(span.stop - span.start for span in spans) == len(pairs)
        for span in spans:
            partition = self.model[span.partition]
            assert span.start == partition.next
            # The key decides where, so the records of one partition are those whose keys it holds, in their order.
            got = [row(self.topic[span.partition, o]) for o in range(span.start, span.stop)]
            partition.records += [(at, value, key) for at, _, _, value, key in got]
        sent = sorted((v, k) for v, k in pairs)
        kept = sorted(
            (value, key)
            for span in spans
            for _, value, key in self.model[span.partition].records[span.start : span.stop]
        )
        assert kept == sent

    def took(self, partition, offset, records):
        assert offset == self.model[partition].next
        self.model[partition].records += records

    def took_spans(self, spans, records):
        assert sum(span.stop - span.start for span in spans) == len(records)
        for span in spans:
            n = span.stop - span.start
            self.took(span.partition, span.start, records[:n])
            records = records[n:]

    # ---- reading

    @rule(at=which, start=which, limit=st.integers(1, 20))
    def read_one(self, at, start, limit):
        number = at % len(self.model)
        partition = self.model[number]
        start = partition.first + start % (partition.next - partition.first + 1)
        rows = partition.rows(number, start)
        assert [row(r) for r in self.topic.read(start, partition=number)] == rows
        batches = list(self.topic.batches(start, partition=number, max_records=limit))
        assert [row(r) for batch in batches for r in batch] == rows
        assert [v for batch in batches for v in batch.values.tolist()] == [r[3] for r in rows]
        assert [o for batch in batches for o in batch.offsets.tolist()] == [r[2] for r in rows]

    @rule(back=st.integers(0, 50), n=st.integers(0, 12))
    def read_merged(self, back, n):
        since = START + timedelta(microseconds=self.clock() - seglog.ManualClock(START)()) - timedelta(seconds=back)
        everything = list(heapq.merge(*(p.rows(i) for i, p in enumerate(self.model)), key=lambda r: (r[0], r[1])))
        assert [row(r) for r in self.topic.read()] == everything
        assert [row(r) for r in self.topic.last(n)] == everything[len(everything) - min(n, len(everything)) :]
        since_us = seglog.ManualClock(since)()
        assert [row(r) for r in self.topic.read(since)] == [r for r in everything if r[0] >= since_us]

    @rule(at=which, offset=st.integers(0, 80))
    def index(self, at, offset):
        number = at % len(self.model)
        partition = self.model[number]
        if partition.first <= offset < partition.next:
            assert row(self.topic[number, offset]) == (
                partition.records[offset][0],
                number,
                offset,
                *partition.records[offset][1:],
            )
        else:
            with pytest.raises(seglog.OffsetOutOfRange):
                self.topic[number, offset]

    # ---- what becomes of it

    @rule(at=which, to=which)
    def trim(self, at, to):
        number = at % len(self.model)
        partition = self.model[number]
        to %= partition.next + 1
        partition.first = max(partition.first, to)
        assert self.topic.trim(to, number) == {number: partition.first}

    @precondition(lambda self: len(self.model) < 4)
    @rule()
    def add_a_partition(self):
        self.topic.add_partitions(len(self.model) + 1)
        self.model.append(Partition())

    @rule()
    def sync(self):
        self.store.sync()
        assert all(p.durable_offset == p.next_offset for p in self.topic.statistics().partitions)

    @rule()
    def reopen(self):
        self.close_consumer()
        self.store.close()
        self.open()

    @rule()
    def drop_without_closing(self):
        self.close_consumer()
        self.left_open = [*self.left_open[-2:], self.store]
        self.open()

    @precondition(lambda self: hasattr(os, "fork"))
    @rule(values=st.lists(some_values, max_size=10), at=which)
    def another_process_sends_and_dies(self, values, at):
        self.clock.advance(1)
        number = at % len(self.model)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                topic = seglog.open(self.folder + "/data", **self.how).topic("topic")
                for value in values:
                    topic.send(value, partition=number)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        self.model[number].records += [(self.clock(), value, None) for value in values]

    # ---- a consumer

    def close_consumer(self):
        if self.consumer is not None:
            self.consumer.close()
            self.consumer = None

    @rule()
    def consume(self):
        self.close_consumer()
        self.consumer = self.topic.consumer("group")
        self.moved: set[int] = set()
        self.at = {number: self.committed.get(number, partition.first) for number, partition in enumerate(self.model)}

    @precondition(lambda self: self.consumer is not None)
    @rule(limit=st.integers(1, 20))
    def receive(self, limit):
        for number, partition in enumerate(self.model):
            self.at.setdefault(number, partition.first)
            if self.at[number] < partition.first:
                self.consumer.seek(number, "earliest")
                self.at[number] = partition.first
                self.moved.add(number)
        lag = sum(partition.next - self.at[number] for number, partition in enumerate(self.model))
        assert self.consumer.lag() == lag
        batch = self.consumer.receive(limit, timeout=0)
        if batch is None:
            assert lag == 0
            return
        number = batch.partition
        expected = self.model[number].rows(number, self.at[number])[: len(batch)]
        assert 0 < len(batch) <= limit
        assert [row(r) for r in batch] == expected
        self.at[number] = batch.next_offset
        self.moved.add(number)

    @precondition(lambda self: self.consumer is not None)
    @rule()
    def commit(self):
        self.consumer.commit()
        self.committed |= {number: self.at[number] for number in self.moved}
        self.moved.clear()
        for number in range(len(self.model)):
            assert self.consumer.committed(number) == self.committed.get(number)

    @precondition(lambda self: self.consumer is not None)
    @rule(at=which, to=which)
    def seek(self, at, to):
        number = at % len(self.model)
        partition = self.model[number]
        to = partition.first + to % (partition.next - partition.first + 1)
        self.consumer.seek(number, to)
        self.at[number] = to
        self.moved.add(number)
        assert self.consumer.position(number) == to

    # ---- always

    @invariant()
    def offsets_agree(self):
        if self.store is None:
            return
        for number, partition in enumerate(self.model):
            assert self.topic.first_offset(number) == partition.first
            assert self.topic.next_offset(number) == partition.next

    def teardown(self):
        self.close_consumer()
        if self.store is not None:
            assert self.store.verify() == []
            for store in [self.store, *self.left_open]:
                store.close()
            with seglog.open(self.folder + "/data", clock=self.clock) as store:
                topic = store.topic("topic")
                for number, partition in enumerate(self.model):
                    assert [row(r) for r in topic.read(partition=number)] == partition.rows(number)
        shutil.rmtree(self.folder)


TopicMachine.TestCase.settings = settings(
    max_examples=1500 if LONG else 25,
    stateful_step_count=60 if LONG else 30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
test_a_topic_holds_what_plain_lists_hold = pytest.mark.timeout(3600 if LONG else 120)(TopicMachine.TestCase)
