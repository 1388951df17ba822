"""A log behaves as a list of records does, whatever is done to it in whatever order, and whatever ends its processes.

The model is a dict of offset to record. Two handles share the log, as two processes would; each step takes one of them. A step may
close it, kill it, restart the machine, or cut its power, which keeps of each page that no sync covered the old content or the new.
SEGLOG_LONG=1 runs thousands of examples.
"""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crash.scratch import memory
from seglog.engine.errors import CorruptStore, OffsetOutOfRange
from seglog.engine.log import Log

LONG = bool(os.environ.get("SEGLOG_LONG"))
PAGE = 4096

blobs = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda seed, n: random.Random(seed).randbytes(n), st.integers(0, 99), st.integers(0, 70_000)),
)
texts = st.text(st.characters(codec="utf-8"), max_size=5)
headers = st.one_of(st.none(), st.dictionaries(texts, st.one_of(st.none(), st.binary(max_size=9)), max_size=3))
times = st.one_of(st.integers(0, 30), st.integers(1 - 2**63, 2**63 - 1))
records = st.tuples(st.one_of(st.none(), blobs), st.one_of(st.none(), st.binary(max_size=9)), headers, times)
small = st.tuples(st.one_of(st.none(), st.binary(max_size=60)), st.none(), st.none(), st.integers(0, 30))
chunks = st.one_of(st.lists(records, max_size=8), st.lists(small, max_size=200))
codecs = st.sampled_from(["none", "none", "lz4"])


class LogMachine(RuleBasedStateMachine):
    @initialize(
        write=st.sampled_from(["map", "pwrite"]),
        fsync=st.sampled_from(["interval", "never", "always"]),
        codec=codecs,
    )
    def begin(self, write, fsync, codec):
        self.path = Path(tempfile.mkdtemp(prefix="seglog-", dir=memory()))
        self.settings = {"write": write, "fsync": fsync, "codec": codec, "segment_bytes": 65_536, "batch_bytes": 4096}
        self.model, self.first, self.next, self.durable, self.clean = {}, 0, 0, 0, True
        self.logs = [Log(self.path, **self.settings) for _ in range(2)]
        self.files = self.contents()  # what is on disk for certain: the files as the last sync left them

    def teardown(self):
        if hasattr(self, "logs"):
            for which, log in enumerate(self.logs or ()):
                self.everything(which)
                assert log.verify() == [] or self.settings["fsync"] == "never"
                log.close()
            shutil.rmtree(self.path)

    def log(self, which):
        return self.logs[which]

    # ---- writing

    def wrote(self, start, chunk):
        assert start == self.next
        self.model |= {start + i: (v, k, h or {}, t) for i, (v, k, h, t) in enumerate(chunk)}
        self.next += len(chunk)
        if self.settings["fsync"] == "always":
            self.synced()
        elif self.clean:  # the first append takes the clean mark back, on disk, before anything else
            for name, data in self.contents().items():
                self.files[name] = data[:PAGE] + self.files.get(name, bytes(len(data)))[PAGE:]
        self.clean = False

    @rule(which=st.integers(0, 1), record=records)
    def append(self, which, record):
        self.wrote(self.log(which).append(*record), [record])

    @rule(
        which=st.integers(0, 1),
        chunk=st.one_of(st.lists(records, max_size=8), st.lists(small, max_size=200)),
        columns=st.integers(0, 7),
    )
    def append_many(self, which, chunk, columns):
        chunk = [
            (v, k if columns & 1 else None, h if columns & 2 else None, t if columns & 4 else 7) for v, k, h, t in chunk
        ]
        values, keys, heads, stamps = ([record[i] for record in chunk] for i in range(4))
        spans = self.log(which).append_many(
            values, keys if columns & 1 else None, heads if columns & 2 else None, stamps
        )
        if chunk:
            ((_, start, stop),) = spans
            assert stop - start == len(chunk)
            self.wrote(start, chunk)

    @rule(which=st.integers(0, 1), part=st.floats(0, 1))
    def trim(self, which, part):
        before = self.first + round((self.next - self.first) * part)
        assert self.log(which).trim(before) == before
        self.first = before
        self.model = {offset: record for offset, record in self.model.items() if offset >= before}
        if self.settings["fsync"] != "never":
            self.files = self.contents()  # a trim is synced, and the segment with it

    @rule(which=st.integers(0, 1))
    def sync(self, which):
        assert self.log(which).sync() == self.next
        self.synced()

    def synced(self):
        self.durable, self.files = self.next, self.contents()

    def contents(self):
        return {file.name: file.read_bytes() for file in self.path.glob("*.log")}

    # ---- reading

    def fields(self, record):
        return record.value, record.key, record.headers, record.timestamp

    def read(self, which, *arguments, **options):
        """A batch, or where reading goes on behind damage (which only fsync="never" may have left)."""
        try:
            return self.logs[which].read(*arguments, **options), None
        except CorruptStore as error:
            return None, error.resume_offset

    def everything(self, which):
        found, at = {}, self.first
        while True:
            batch, resume = self.read(which, at)
            if resume is not None:
                assert self.settings["fsync"] == "never"
                assert resume > at, "no way forward"
                at = resume
                continue
            if batch is None:
                break
            part = {record.offset: self.fields(record) for record in batch}
            assert batch.values.tolist() == [record[0] for record in part.values()]
            assert batch.timestamps.tolist() == [record[3] for record in part.values()]
            assert batch.offsets.tolist() == list(part)
            assert at <= batch.first_offset < batch.next_offset
            found, at = found | part, batch.next_offset
        assert found == self.model

    @rule(which=st.integers(0, 1))
    def read_everything(self, which):
        self.everything(which)

    @rule(which=st.integers(0, 1), part=st.floats(0, 1), most=st.integers(1, 50), length=st.integers(0, 300))
    def read_some(self, which, part, most, length):
        offset = self.first + round((self.next - self.first) * part)
        wanted = [o for o in self.model if offset <= o < offset + length]
        batch, resume = self.read(which, offset, most, stop=offset + length)
        if resume is not None:
            assert self.settings["fsync"] == "never"
            assert not wanted or wanted[0] >= resume
            return
        assert (batch is None) == (not wanted)
        if batch is not None:
            assert 1 <= len(batch) <= most
            assert [r.offset for r in batch] == wanted[: len(batch)]
            assert [self.fields(r) for r in batch] == [self.model[o] for o in wanted[: len(batch)]]

    @rule(which=st.integers(0, 1), offset=st.integers(-3, 400))
    def record(self, which, offset):
        offset += self.first
        try:
            record = self.log(which).record(offset)
        except (OffsetOutOfRange, CorruptStore):
            assert offset not in self.model
        else:
            assert self.fields(record) == self.model[offset]

    @rule(which=st.integers(0, 1), time=times)
    def offset_for_time(self, which, time):
        try:
            found = self.log(which).offset_for_time(time)
        except CorruptStore:
            assert self.settings["fsync"] == "never"
            return
        assert found == next((offset for offset, record in self.model.items() if record[3] >= time), self.next)

    @invariant()
    def ends(self):
        for log in getattr(self, "logs", ()):
            assert (log.first_offset, log.next_offset) == (self.first, self.next)
            assert self.durable <= log.durable_offset <= self.next

    # ---- ends

    @rule(which=st.integers(0, 1))
    def close(self, which):
        self.log(which).close()
        if self.settings["fsync"] != "never":
            self.synced()
            self.clean = True
        self.logs[which] = Log(self.path, **self.settings)

    @rule(which=st.integers(0, 1))
    def kill(self, which):
        self.logs[which] = None  # nothing is flushed and nothing is written: the descriptors go, as in a death
        self.logs[which] = Log(self.path, **self.settings)

    def restart(self):
        """The first opener after a boot: what it finds is a part of the model, and no offset comes back."""
        for name in ("shm", "tail.shm"):
            (self.path / name).unlink()
        self.logs = [Log(self.path, **self.settings) for _ in range(2)]
        before, self.next, first = self.next, self.logs[0].next_offset, self.logs[0].first_offset
        assert self.next >= before
        if self.settings["fsync"] == "never":  # a trim that was not synced may be undone
            assert first <= self.first or first == self.next
        else:
            assert first in (self.first, self.next)
        self.first = first
        self.files, self.clean = self.contents(), True

    @rule()
    def reboot(self):
        """The machine wrote everything back before it went down."""
        self.logs, before = None, self.first
        self.restart()
        if self.settings["fsync"] == "never" and self.first < before:
            assert self.logs[0].trim(before) == before
            self.first = before
        self.durable = self.logs[0].durable_offset

    @precondition(lambda self: self.settings["fsync"] != "never")
    @rule(seed=st.integers(0, 2**32))
    def power_cut(self, seed):
        rng = random.Random(seed)
        active = self.logs[0].statistics()["active_base"]
        durable = max(self.durable, self.logs[0].durable_offset)
        self.logs = None
        for name, data in self.contents().items():
            old = self.files.get(name, data[:PAGE]).ljust(len(data), b"\0")
            if int(name[:20]) == active:  # the segments before it were synced when it was made
                pages = [rng.choice((data, old))[at : at + PAGE] for at in range(0, len(data), PAGE)]
                (self.path / name).write_bytes(b"".join(pages))
        self.restart()
        found = []
        for batch in self.logs[0].batches():
            found += batch.offsets.tolist()
        assert found == list(self.model)[: len(found)], "a hole"
        assert not [offset for offset in self.model if offset < durable and offset not in set(found)], (
            "a durable record is gone"
        )
        self.model = {offset: self.model[offset] for offset in found}
        self.durable = self.logs[0].durable_offset
        self.everything(1)


LogMachine.TestCase.settings = settings(
    max_examples=5000 if LONG else 200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
    report_multiple_bugs=False,
)
LogMachine.TestCase.pytestmark = pytest.mark.timeout(7200 if LONG else 120)
test_a_log_behaves_as_a_list_of_records = LogMachine.TestCase
