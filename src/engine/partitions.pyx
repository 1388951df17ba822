# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True, nonecheck=True
"""Partitions: several logs as one, addressed by number or by key. The hot verbs of a topic, with no Python frame on top.

It promises that records of one key go to one partition, the same in every process and every run: XXH3-64 of the key modulo
the number of partitions, or `murmur2`, which places keys where Kafka's Java client does, or a callable. Records without a key take
the partitions in turn. It leaves to others what the partitions are called and who reads them.

Shared fields: `turn`, a counter that threads may race on; a lost update puts two records into one partition, which is allowed.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from seglog.engine.batch cimport Batch, Walk
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.foreign cimport Chunk, Strings, chunks_of, is_foreign
from seglog.engine.frame cimport Entry
from seglog.engine.log cimport Log
from seglog.engine.record cimport Position, Record, new_position, to_offset
from seglog.engine.source cimport Packed, Times, pack_header_list, packed, packed_strings, same_length, times_of
from seglog.engine.transactions cimport Transaction

from seglog.engine.errors import ClosedError, ConfigError, PartitionNotFound
from seglog.engine.record import Span

_COLUMNS = frozenset(("partition", "offset", "timestamp", "key", "value"))


cdef uint32_t murmur2_32(const char *data, int64_t size) noexcept nogil:
    """MurmurHash2 (Austin Appleby), 32 bits, with the seed that Kafka's Java client uses."""
    cdef uint32_t m = 0x5BD1E995, h = <uint32_t>0x9747B28C ^ <uint32_t>size, k
    cdef int64_t i = 0
    while size - i >= 4:
        memcpy(&k, data + i, 4)
        k *= m
        k ^= k >> 24
        k *= m
        h = (h * m) ^ k
        i += 4
    if size - i == 3:
        h ^= <uint32_t><uint8_t>data[i + 2] << 16
    if size - i >= 2:
        h ^= <uint32_t><uint8_t>data[i + 1] << 8
    if size - i >= 1:
        h = (h ^ <uint32_t><uint8_t>data[i]) * m
    h ^= h >> 13
    h *= m
    return h ^ (h >> 15)


def murmur2(bytes key not None) -> int:
    """The key's MurmurHash2 as Kafka's Java client takes it before the modulo: positive, 31 bits.

    Source: `org.apache.kafka.common.utils.Utils.murmur2` and `toPositive`, whose published test values the suite holds.

    >>> murmur2(b"foobar") == (-790332482 & 0x7FFFFFFF)
    True
    """
    return murmur2_32(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) & 0x7FFFFFFF


def partition_for(bytes key not None, partitions, str partitioner not None="xxh3") -> int:
    """The partition of a key: XXH3-64 of it (or `murmur2`) modulo the number of partitions.

    >>> partition_for(b"any", 1), partition_for(b"foobar", 4, "murmur2")
    (0, 2)
    """
    cdef int64_t n = to_offset(partitions)
    if n < 1:
        raise ConfigError(f"there are at least 1 partitions, not {partitions}", setting="partitions", value=partitions)
    if partitioner == "murmur2":
        return murmur2(key) % n
    if partitioner != "xxh3":
        raise ConfigError(f"a partitioner is xxh3 or murmur2, not {partitioner!r}", setting="partitioner", value=partitioner)
    return xxh3_64(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) % <uint64_t>n


cdef class Partitions:
    """Logs addressed by number or by key: `logs[i]` is partition i.

    `partitioner` is "xxh3", "murmur2" or a callable `(key, partitions) -> partition`.
    """

    def __init__(self, logs, partitioner="xxh3"):
        if partitioner == "xxh3":
            self.placing = BY_XXH3
        elif partitioner == "murmur2":
            self.placing = BY_MURMUR2
        elif callable(partitioner):
            self.placing, self.place_key = BY_CALL, partitioner
        else:
            raise ConfigError(
                f"a partitioner is xxh3, murmur2 or a callable, not {partitioner!r}", setting="partitioner", value=partitioner)
        self._attach(logs)

    def _attach(self, logs):
        """Use these logs from now on; none, once closed."""
        self.logs = tuple(logs)
        for log in self.logs:
            if not isinstance(log, Log):
                raise TypeError(f"logs are Log objects, not {type(log).__name__}")
        self.n = <int32_t>len(self.logs)

    cdef int64_t place(self, const char *key, int64_t size) except -1:
        cdef int64_t partition
        if self.placing == BY_XXH3:
            return xxh3_64(key, size) % <uint64_t>self.n
        if self.placing == BY_MURMUR2:
            return (murmur2_32(key, size) & 0x7FFFFFFF) % <uint32_t>self.n
        partition = to_offset(self.place_key(key[:size], self.n))
        if not 0 <= partition < self.n:
            raise PartitionNotFound(
                f"the partitioner chose {partition} of {self.n} partitions", partition=partition, partitions=self.n)
        return partition

    cdef int64_t choose(self, object key, object partition) except -1:
        cdef int64_t p
        cdef bytes held
        if self.n == 0:
            raise ClosedError("the topic was closed, or deleted, before this call; nothing was read or written")
        if partition is not None:
            p = to_offset(partition)
            if not 0 <= p < self.n:
                raise PartitionNotFound(
                    f"there is no partition {p}: there are {self.n}, numbered from 0", partition=p, partitions=self.n)
            return p
        if key is None:
            if self.n == 1:
                return 0
            p = self.turn % <uint32_t>self.n
            self.turn += 1
            return p
        if self.n == 1 and self.placing != BY_CALL:
            return 0
        if type(key) is not bytes:
            if isinstance(key, str):
                raise TypeError("a key is bytes, not str; encode it first, for instance key.encode()")
            held = bytes(memoryview(key))
        else:
            held = <bytes>key
        return self.place(PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held))

    @cython.binding(False)          # 8 ns a call
    def send(
        self, value, key=None, headers=None, *, timestamp=None, partition=None, tx=None, expected_offset=None, expected_version=None, dedup_id=None,
    ):
        """Append one record; where it is, as a `Position`.

        `value` is bytes-like, or None (a tombstone for its key); `key` bytes-like or None; `headers` a mapping of str to bytes; `timestamp`
        µs since the epoch or an aware datetime (default: now). The partition follows from the key; without one the
        partitions take turns; `partition` overrides both. Every process sees the record when this returns; what survives a
        power cut is the store's `fsync`. Raises TypeError, RecordTooLarge, PartitionNotFound, StoreFull, PartitionFailed,
        LockTimeout, ClosedError; after any of them nothing was written. Cost: about 100 ns and a copy.

        With `tx`, a transaction of the store, the record is there when that commits, and None is returned.

        Three conditions, looked at under the partition's lock, so that they hold against every process: `expected_offset`, that the record
        gets just this offset; `expected_version`, that the last record of `key` in its partition is the one at this offset, or -1 for none (see
        `version`): else VersionConflict. `dedup_id`, bytes: if a record with it was sent within `dedup_window` and `dedup_records`
        of the topic, its position is returned, and nothing is written. With `tx` the first two are looked at when it commits. Cost: some
        microseconds, and for a version what `latest` costs; the first use walks the records that matter.
        """
        cdef int64_t p = 0
        if expected_offset is not None or expected_version is not None or dedup_id is not None:
            return self._send_if(value, key, headers, timestamp, partition, tx, expected_offset, expected_version, dedup_id)
        if self.n != 1 or partition is not None or (key is not None and self.placing == BY_CALL):
            p = self.choose(key, partition)
        cdef Log log = <Log>self.logs[p]
        if tx is not None:
            (<Transaction?>tx).part(log).add(value, key, headers, timestamp)
            return None
        return new_position(p, log.append_record(value, key, headers, timestamp))

    def send_many(
        self, values, keys=None, headers=None, *, timestamps=None, partition=None, tx=None, expected_offset=None, expected_version=None,
    ):
        """Append many records; the runs of offsets they took, as a list of `Span(partition, start, stop)`.

        `values` and `keys`, without a Python object per record: a numpy array, each row a record (structured, or of two dimensions or
        more, or of wide items; its bytes as they lie there, C-contiguous); `Packed(buffer, offsets)`; a `Column` of a batch; whatever has
        `__arrow_c_array__` or `__arrow_c_stream__` and is binary, string, fixed_size_binary or one of their kin, sliced and with nulls. And
        a list of bytes-like (None: null). `headers`: a list of mappings or None. `timestamps`: µs as an int64 array or a list, datetime64, an
        Arrow timestamp. All have the same length.

        An Arrow table, batch or stream of them as `values` has a column `value`, may have `key` and `timestamp`, and is sent chunk by
        chunk as it comes; `offset` and `partition`, which `topic.arrow()` gives too, are passed over.

        With keys each record goes to its key's partition, in order; without, all go to one partition, the next in turn. Frames hold up to
        `batch_bytes`; each is seen as a whole or not at all. Raises as `send`, TypeError and ValueError for what is no such array, OSError
        when a stream fails; an error's `accepted` says how many records of the partition it was writing, and how many of the chunks
        before, went before it. Cost: about 10-40 ns a record of 100 bytes. With `tx` they are there when it commits, and the
        list is empty.

        `expected_offset` and `expected_version` as in `send`, for all of them together, which then go to one partition, have one key, and are
        all there or none.
        """
        if expected_offset is not None or expected_version is not None:
            return self._send_many_if(values, keys, headers, timestamps, partition, tx, expected_offset, expected_version)
        if type(values) is not list and keys is None and headers is None and timestamps is None and is_foreign(values):
            return self.send_chunks(values, partition, tx)
        return self.send_packed(
            packed(values, "value"), None if keys is None else packed(keys, "key"),
            None if headers is None else pack_header_list(headers), None if timestamps is None else Times(timestamps), partition, tx)

    cdef list send_chunks(self, object values, object partition, object tx):
        """An Arrow array or stream, each chunk as it comes; of tables the columns value, key and timestamp."""
        cdef list spans = []
        cdef int64_t accepted = 0
        cdef Chunk chunk
        cdef Packed v, k
        cdef Times t
        cdef Strings column
        try:
            for chunk in chunks_of(values):
                k, t = None, None
                if chunk.is_table():
                    strange = sorted(set(chunk.names()) - _COLUMNS)
                    column = chunk.column("value", "value")
                    if strange or column is None:
                        raise TypeError(
                            "a table to be sent has a column value, and may have key and timestamp; this one has "
                            f"{', '.join(chunk.names())}. Choose and rename them first.")
                    v = packed_strings(column)
                    column = chunk.column("key", "key")
                    k = None if column is None else packed_strings(column)
                    column = chunk.times_in("timestamp")
                    t = None if column is None else times_of(column)
                else:
                    v = packed_strings(chunk.strings("value"))
                if k is None and partition is None:
                    partition = self.choose(None, None)     # one for all chunks
                for span in self.send_packed(v, k, None, t, partition, tx):
                    if spans and spans[-1].partition == span.partition and spans[-1].stop == span.start:
                        span = Span(span.partition, spans.pop().start, span.stop)
                    spans.append(span)
                accepted += v.count
        except Exception as error:
            error.accepted = accepted + getattr(error, "accepted", 0)
            raise
        return spans

    cdef list send_packed(self, Packed v, Packed k, Packed h, Times t, object partition, object tx):
        cdef int64_t n = v.count, i, size, p, at
        cdef int32_t *where
        cdef int32_t *select
        cdef const char *key
        cdef list spans
        cdef Log log
        same_length(n, k, h, t)
        if k is None or partition is not None or (self.n == 1 and self.placing != BY_CALL):
            log = <Log>self.logs[self.choose(None, partition)]
            if tx is not None:
                (<Transaction?>tx).add_some(log, v, k, h, t, NULL, n)
                return []
            return log.append_packed(v, k, h, <const int64_t *>NULL if t is None else t.data, NULL, n)
        if self.n == 0:
            self.choose(None, None)
        if n > 0x7FFFFFFF:
            raise ValueError(f"{n:,} records in one call; 2,147,483,647 are the most")
        where = <int32_t *>PyMem_RawMalloc(8 * n + 8)
        if where == NULL:
            raise MemoryError()
        select = where + n
        spans = []
        try:
            for i in range(n):
                key = k.get(i, &size)
                if size < 0:
                    where[i] = <int32_t>((self.turn + <uint32_t>i) % <uint32_t>self.n)
                else:
                    where[i] = <int32_t>self.place(key, size)
            self.turn += 1
            for p in range(self.n):
                at = 0
                for i in range(n):
                    if where[i] == p:
                        select[at] = <int32_t>i
                        at += 1
                if at and tx is not None:
                    (<Transaction?>tx).add_some(<Log>self.logs[p], v, k, h, t, select, at)
                elif at:
                    log = <Log>self.logs[p]
                    spans.extend(log.append_packed(v, k, h, <const int64_t *>NULL if t is None else t.data, select, at))
        finally:
            PyMem_RawFree(where)
        return spans

    def partition_of(self, key not None):
        """The partition that records with this key go to. Raises what a send to it would."""
        return self.choose(key, None)

    def _send_if(self, *how):
        raise ConfigError("conditions are a topic's: these are partitions without a store. Nothing was written.", setting="expected_offset", value=None)

    _send_many_if = _send_if

    def __getitem__(self, where):
        """The record at `(partition, offset)`. Raises PartitionNotFound, OffsetOutOfRange."""
        if not isinstance(where, (tuple, Position)) or len(where) != 2:
            raise TypeError(f"a record is at [partition, offset], not [{where!r}]")
        partition, offset = where
        if partition is None:
            raise TypeError(f"a record is at [partition, offset], not [{where!r}]")
        return self.logs[self.choose(None, partition)].record(offset)

    def merged(self, starts, stops):
        """The records of all partitions from `starts[p]` up to `stops[p]`, merged by timestamp; in offset order inside each.

        Of several with one timestamp the lowest partition comes first. Lazy: one batch per partition in memory.
        """
        if len(starts) != self.n or len(stops) != self.n:
            raise ValueError(f"there are {self.n} partitions, {len(starts)} starts and {len(stops)} stops")
        return Merge([log.batches(a, b) for log, a, b in zip(self.logs, starts, stops)])


cdef class Merge:
    """An iterator over several partitions' records in the order of time."""

    cdef list sources               # iterators of batches
    cdef list walks                 # of the current batch of each
    cdef list heads                 # the next record of each, or None at its end

    def __init__(self, sources):
        self.sources = list(sources)
        self.walks = [None] * len(self.sources)
        self.heads = [None] * len(self.sources)
        for i in range(len(self.sources)):
            self.refill(i)

    cdef int refill(self, Py_ssize_t i) except -1:
        cdef Walk walk
        cdef Entry e
        cdef object batch
        while True:
            walk = <Walk>self.walks[i] if self.walks[i] is not None else None
            if walk is not None and walk.advance(&e):
                self.heads[i] = walk.batch.make(&e)
                return 0
            batch = next(self.sources[i], None)
            if batch is None:
                self.heads[i] = None
                return 0
            self.walks[i] = iter(batch)

    def __iter__(self):
        return self

    def __next__(self):
        cdef Py_ssize_t i, best = -1
        cdef Record r
        cdef int64_t lowest = 0
        for i in range(len(self.heads)):
            if self.heads[i] is None:
                continue
            r = <Record>self.heads[i]
            if best < 0 or r.timestamp < lowest:
                best, lowest = i, r.timestamp
        if best < 0:
            raise StopIteration
        r = <Record>self.heads[best]
        self.refill(best)
        return r
