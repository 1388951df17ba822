"""A log that is compacted, trimmed and reopened at any time, against a dict: hypothesis drives, the model says what must be left.

The model keeps every record that was appended, and knows which of them may be gone: those that a later record of their key replaced
(and tombstones, once their time is over). Everything else is there, in order, exactly as it was sent.
"""

import os
import shutil
import tempfile

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from crash.scratch import memory as in_memory
from format import reader
from seglog.engine.compaction import compact
from seglog.engine.log import Log

SMALL = 65_536
GRACE = 1000

keys = st.one_of(st.none(), st.sampled_from([b"", b"a", b"b", b"key"]), st.integers(0, 40).map(lambda n: b"%d" % n))
values = st.one_of(st.none(), st.binary(max_size=20), st.integers(0, 4000).map(lambda n: b"x" * n))
headers = st.one_of(st.none(), st.dictionaries(st.sampled_from(["h", "trace"]), st.one_of(st.none(), st.binary(max_size=5))))


class Compacted(RuleBasedStateMachine):
    @initialize(
        codec=st.sampled_from(["none", "none", "zstd", "lz4"]),
        keep=st.sampled_from([1, 1, 1, 2, 3]),
        write=st.sampled_from(["auto", "pwrite"]),
    )
    def begin(self, codec, keep, write):
        self.path = tempfile.mkdtemp(dir=in_memory())
        self.codec, self.keep, self.write = codec, keep, write
        self.now = 10**15
        self.rows = {}  # offset -> (key, value, headers, timestamp)
        self.closed = {}  # offset -> when its segment was closed
        self.compacted = self.first = 0  # all below was compacted, by the keys below
        self.over = -1  # tombstones of segments closed at or before this are over
        self.open()

    def open(self):
        self.log = Log(
            self.path, segment_bytes=SMALL, segment_bytes_min=SMALL, batch_bytes=2048, codec=self.codec, write=self.write,
            clock=lambda: self.now, fsync="interval",
        )  # fmt: skip

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.path)

    @rule(key=keys, value=values, header=headers, timestamp=st.one_of(st.none(), st.integers(-(10**6), 2 * 10**15)))
    def append(self, key, value, header, timestamp):
        offset = self.log.append(value, key, header, timestamp)
        self.rows[offset] = key, value, header or {}, self.now if timestamp is None else timestamp

    @rule(many=st.lists(st.tuples(keys, values), min_size=1, max_size=60), times=st.integers(1, 8))
    def append_many(self, many, times):
        for _ in range(times):
            spans = self.log.append_many([value for _, value in many], keys=[key for key, _ in many])
            offsets = [offset for span in spans for offset in range(span.start, span.stop)]
            for offset, (key, value) in zip(offsets, many, strict=True):
                self.rows[offset] = key, value, {}, self.now

    @rule()
    def close_segment(self):
        self.log.close_segment()

    @rule(by=st.integers(1, 2 * GRACE))
    def time_goes_by(self, by):
        self.now += by

    @rule(memory=st.sampled_from([1536, 3000, 1 << 20]))
    def compact(self, memory):
        said = compact(self.log, keep=self.keep, memory=memory, grace_us=GRACE)
        assert said["finished"]
        self.compacted = max(self.compacted, self.log.segments()[-1][0])

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def trim(self, data):
        to = data.draw(st.integers(self.log.first_offset, self.log.next_offset))
        self.log.trim(to)
        self.first = to

    @rule(power=st.booleans())
    def reopen(self, power):
        self.log.sync()
        self.log.close()
        if power:
            for name in ("tail.shm", "shm", "lock"):
                if os.path.exists(os.path.join(self.path, name)):
                    os.unlink(os.path.join(self.path, name))
        self.open()

    def allowed_to_be_gone(self):
        """Offsets that compaction may have taken, and those of them that it must have."""
        seen: dict[bytes, int] = {}
        may, must = set(), set()
        for offset in sorted(self.rows, reverse=True):
            if offset >= self.compacted:
                continue
            key, value, _, _ = self.rows[offset]
            if key is None:
                continue
            left = seen.get(key, self.keep)
            if left <= 0:
                must.add(offset)
            elif value is None:
                may.add(offset)
            seen[key] = 0 if value is None else left - 1
        return may | must, must

    @invariant()
    def everything_that_lives_is_there(self):
        if not hasattr(self, "log"):
            return
        there = {r.offset: (r.key, r.value, r.headers, r.timestamp) for r in self.log.records()}
        may, must = self.allowed_to_be_gone()
        wanted = {offset: row for offset, row in self.rows.items() if offset >= self.first}
        assert all(wanted.get(offset) == row for offset, row in there.items())
        assert not set(wanted) - set(there) - may
        gone = must & set(there)
        assert not gone, f"{sorted(gone)[:5]} should have gone"

    @rule()
    def verify(self):
        assert self.log.verify() == []
        second = reader.Log(self.path)
        ours = [(r.offset, r.key, r.value) for r in self.log.records()]
        assert [(r.offset, r.key, r.value) for r in second.records()] == ours
        assert [one for one in second.unsound if one.kind != "torn"] == []


Compacted.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
test_a_compacted_log_holds_what_a_dict_holds = Compacted.TestCase
