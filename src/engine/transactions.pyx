# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Transactions: records for any partitions of a store, all there or none; and the log of what was decided.

    buffer    frames are built as they come: nothing is written, no lock is held
    prepare   the locks of all partitions, in the order of their paths; every frame stored beyond its watermark
    decide    one record in the transaction log says which offsets of which partitions hold, and which places of groups move.
              From here on it happened
    publish   the places move, the watermarks move, the locks open

A single frame for a single partition needs none of that: it is appended.

Who dies before the decision has done nothing. Who dies after it leaves frames that the next one to take each lock publishes
(`Tail.repair`), and everybody who reads or waits looks (`Tail.finish`): the words of each partition say what is pending and where the
decision would be.

After a power cut a frame of a transaction holds only if the log has a decision that covers it and every other part of that is there too
(`seglog.transactions` judges that once per boot, over all partitions, and writes down what does not hold). So that what was called durable is
not undone by that, a partition's sync first makes the other parts durable, and then the decision (`make_durable`): parts before the record.

A decision, in the value of a record: u32 kind (1: this holds; 2: the decisions at these offsets do not), u32 n, u32 m, u32 0; then n `PartEntry`,
m `MoveEntry`, and their paths, UTF-8; or n int64. Little-endian.
"""
import bisect
import os
import threading

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from seglog.engine cimport platform
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.batch cimport Walk
from seglog.engine.decisions cimport Decisions
from seglog.engine.frame cimport Entry, Scratch, encode, misfit, seal
from seglog.engine.layout cimport (
    FIXED_STRIDE, FRAME_HEADER, FRAME_MAGIC, IN_TRANSACTION, LOWEST, MARK_UNSYNCED, SEGMENT_BYTES_MAX, SEGMENT_HEADER, FrameHeader, Mark, PlaceSlot,
    align8, frame_length,
)
from seglog.engine.log cimport Log, build_one
from seglog.engine.places cimport Place
from seglog.engine.record cimport pack_headers, to_us
from seglog.engine.segment cimport Scanner, Segment, list_bases, open_segment
from seglog.engine.source cimport Packed, Times, one_bytes, pack_header_list, packed, same_length

from seglog.engine.errors import ClosedError, CorruptSegment, CorruptStore, RecordTooLarge, SeglogError
from seglog.engine.record import Span
from seglog.engine.segment import segment_name, sync_directory

cdef enum:
    HOLDS = 1
    VOID = 2
    HEAD = 16                       # bytes before the entries of a decision
    SPARE = 16                      # parts that are kept with their memory, for the next transaction
    SPARE_BYTES = 1 << 20
    FEW = 8                         # partitions of a transaction that are looked for one by one


def read_decision(bytes value not None):
    """What a record of the transaction log says: `(parts, moves, void)`. What holds: the offsets of partitions, as `(partition_id, start, stop, path)`,
    and the commits of groups, as `(file, slot, path)`; or the offsets of decisions that do not.

    Raises CorruptStore for what is no decision.
    """
    cdef const char *data = PyBytes_AS_STRING(value)
    cdef int64_t size = PyBytes_GET_SIZE(value), i, at
    cdef uint32_t head[4]
    cdef PartEntry entry
    cdef MoveEntry move
    cdef int64_t offset
    cdef list parts = [], moves = [], void = []
    if size >= HEAD:
        memcpy(head, data, HEAD)
        if head[0] == VOID and head[2] == 0 and size == HEAD + 8 * <int64_t>head[1]:
            for i in range(head[1]):
                memcpy(&offset, data + HEAD + 8 * i, 8)
                void.append(offset)
            return parts, moves, void
        at = paths_at(head)
        if head[0] == HOLDS and at <= size:
            for i in range(head[1]):
                memcpy(&entry, data + HEAD + <int64_t>sizeof(PartEntry) * i, sizeof(PartEntry))
                parts.append((entry.partition_id, entry.start, entry.stop, value[at:at + entry.path_size].decode(errors="replace")))
                at += entry.path_size
            for i in range(head[2]):
                memcpy(&move, data + HEAD + <int64_t>sizeof(PartEntry) * head[1] + <int64_t>sizeof(MoveEntry) * i, sizeof(MoveEntry))
                slot = PyBytes_FromStringAndSize(<char *>&move.slot, sizeof(PlaceSlot))
                moves.append((move.file, slot, value[at:at + move.path_size].decode(errors="replace")))
                at += move.path_size
            if at == size:
                return parts, moves, void
    raise CorruptStore(f"a record of the transaction log has {size} bytes that are no decision; it was written by something that is not seglog")


cdef int64_t paths_at(const uint32_t *head) noexcept:
    """Where the paths begin in a decision of kind HOLDS."""
    return HEAD + <int64_t>sizeof(PartEntry) * head[1] + <int64_t>sizeof(MoveEntry) * head[2]


def void_decision(offsets) -> bytes:
    """The record that takes the decisions at these offsets back."""
    return b"".join([word.to_bytes(4, "little") for word in (VOID, len(offsets), 0, 0)] + [o.to_bytes(8, "little") for o in offsets])


def moves_decision(moves) -> bytes:
    """The record that says of groups where they are: `moves` as in `read_decision`."""
    cdef MoveEntry entry
    cdef list entries = [], paths = []
    memset(&entry, 0, sizeof(entry))
    for file, slot, path in moves:
        name = path.encode()
        entry.file, entry.path_size = file, <uint32_t>len(name)
        memcpy(&entry.slot, <const char *>slot, sizeof(PlaceSlot))
        entries.append(PyBytes_FromStringAndSize(<char *>&entry, sizeof(entry)))
        paths.append(name)
    return b"".join([word.to_bytes(4, "little") for word in (HOLDS, 0, len(entries), 0)] + entries + paths)


def survey(path):
    """What a power cut left of the partition in `path`, for the judge: a dict, or None when there is no segment to read.

    `partition_id`; `durable`: offsets below were on disk; `end`: behind the last frame that is whole; `frames`: (start, stop) of those of
    transactions that lie between the two. As recovery will find it, which has not run yet. Changes nothing.
    """
    cdef Segment last = None
    cdef Scanner scan
    cdef Mark mark
    cdef int64_t begun
    cdef list frames = []
    bases = list_bases(path)
    while bases and last is None:
        try:
            last = open_segment(os.path.join(path, segment_name(bases[-1])), False, False)
        except CorruptSegment:
            bases.pop()
    if last is None:
        return None
    memset(&mark, 0, sizeof(mark))
    if last.read_mark(&mark) and not mark.flags & MARK_UNSYNCED:
        scan = Scanner(last, mark.durable_position, mark.durable_offset)
    else:
        scan = Scanner(last, SEGMENT_HEADER, last.base_offset)
    durable = scan.offset
    begun = scan.offset
    while scan.check() is None:
        if scan.flags & IN_TRANSACTION:
            frames.append((begun, scan.offset))
        begun = scan.offset
    return {"partition_id": last.header.partition_id, "durable": durable, "end": scan.offset, "frames": frames}


cdef class Transactions(Decisions):
    """The transactions of the store at `root`. `opener(create)` gives the transaction log, or None while there is none.

    Cost of a commit: the locks of its partitions, a record of some 60 bytes per partition, and its frames; no system call. With fsync
    "always" one fdatasync per partition, and two for the decision.
    """

    def __init__(self, root, opener):
        self.root, self.opener, self.spare = os.fspath(root), opener, []
        self.after_fork()

    def after_fork(self):
        """In the child: a lock that no other thread holds."""
        self.guard = threading.Lock()

    cdef Log ready(self, bint create):
        if self.log is None:
            with self.guard:
                if self.log is None:
                    self.log = self.opener(create)
        return self.log

    def close(self):
        """Close the transaction log, if it was opened."""
        if self.log is not None:
            self.log.close()

    def attach(self, create=False):
        """The transaction log, opened; None while there is none, and `create` does not make it."""
        return self.ready(create)

    # ---- what partitions ask -----------------------------------------------------------------------------------

    cdef int64_t decided(self, uint64_t partition_id, int64_t start, int64_t since) except -1:
        cdef Log log = self.ready(False)
        if log is None:
            return 0
        for record in log.records(max(since, log.first_offset)):
            for its, first, stop, path in read_decision(record.value)[0]:
                if its == partition_id and first == start:
                    return record.offset + 1
        return 0

    cdef object commit_of(self, uint64_t file, uint32_t partition, uint64_t sequence, int64_t since):
        cdef Log log = self.ready(False)
        cdef PlaceSlot slot
        if log is None:
            return None
        for record in log.records(max(since, log.first_offset)):
            for its, said, path in read_decision(record.value)[1]:
                memcpy(&slot, <const char *>said, sizeof(slot))
                if its == file and slot.partition == partition and slot.sequence == sequence:
                    return said, record.offset + 1
        return None

    cdef int64_t durable(self) noexcept:
        return 0 if self.log is None else platform.load_i64(&self.log.w.decided)

    cdef int barrier(self) except -1:
        cdef Log log = self.ready(False)
        if log is not None:
            log.lock()
            log.shared.unlock()
        return 0

    cdef bint holds(self, uint64_t partition_id, int64_t start, int64_t stop) except -1:
        cdef Log log = self.ready(False)
        cdef dict found = self.known
        if log is None:
            return False
        if found is None:
            decisions, void = {}, set()
            for record in log.records():
                parts, _, taken_back = read_decision(record.value)
                void.update(taken_back)
                if parts:
                    decisions[record.offset] = parts
            found = {}
            for offset, parts in decisions.items():
                if offset not in void:
                    for its, first, end, path in parts:
                        found.setdefault(its, []).append((first, end))
            for ranges in found.values():
                ranges.sort()
            self.known = found
        ranges = found.get(partition_id, [])
        i = bisect.bisect_right(ranges, (start, 1 << 62)) - 1
        return i >= 0 and ranges[i][0] <= start and stop <= ranges[i][1]

    cdef int make_durable(self, int64_t decision) except -1:
        cdef Log log = self.ready(False)
        cdef int64_t stop
        if log is None or platform.load_i64(&log.w.decided) >= decision:
            return 0
        stop = log.next_offset
        for path, first in sorted(self.parts_of(log, max(log.w.decided, log.first_offset), stop).values()):
            try:
                sync_files(os.path.join(self.root, path), first)
            except FileNotFoundError:
                continue            # deleted since, with all its records
            except OSError as error:
                # Nobody may be told "durable" about any of it.
                log.fail(-(error.errno or 5), os.path.join(self.root, path))
        platform.failpoint("transactions.parts")
        log.sync_to(stop)
        if stop > log.w.decided:
            platform.store_i64(&log.w.decided, stop)
        return 0

    cdef dict parts_of(self, Log log, int64_t start, int64_t stop):
        """The partitions that the decisions from `start` to `stop` are about: id -> (path, the first of their offsets there)."""
        cdef dict found = {}
        cdef Walk walk
        cdef Entry e
        cdef PartEntry entry
        cdef uint32_t head[4]
        cdef int64_t i, at
        for batch in log.batches(start, stop):
            walk = iter(batch)
            while walk.advance(&e):
                if e.value_size < HEAD:
                    continue
                memcpy(head, e.value, HEAD)
                at = paths_at(head)
                if head[0] != HOLDS or at > e.value_size:
                    continue
                for i in range(head[1]):
                    memcpy(&entry, e.value + HEAD + <int64_t>sizeof(PartEntry) * i, sizeof(PartEntry))
                    if entry.path_size > e.value_size - at:
                        break
                    if entry.partition_id not in found:     # offsets only rise: the first that is met is the lowest
                        found[entry.partition_id] = (e.value + at)[:entry.path_size].decode(), entry.start
                    at += entry.path_size
        return found

    def settled(self, Log log not None):
        """After the judgement that follows a boot: what the files say is what is on disk. `log`: the transaction log."""
        self.known = None
        platform.store_i64(&log.w.decided, log.next_offset)

    # ---- committing --------------------------------------------------------------------------------------------

    cdef int append(self, Part part, list conditions) except -1:
        """A transaction of one frame: there as a whole, or not at all, by itself."""
        cdef Log log = part.log
        cdef FrameHeader *h = <FrameHeader *>part.frames.data
        log.lock()
        try:
            log.check_state()
            for condition in conditions:
                condition()
            part.start = log.put(h, part.frames.data + FRAME_HEADER, log.place(h, part.frames.data + FRAME_HEADER))
        finally:
            log.shared.unlock()
        log.shared.ring()
        if log.fsync == 2:      # always
            log.sync_to(part.start + part.count)
        return 0

    cdef int decide(self, list parts, dict moves, list conditions) except -1:
        """Prepare, decide, publish. All or nothing, whatever happens in between."""
        cdef Log log = self.ready(True), one
        cdef Part part
        cdef Place place
        cdef PartEntry entry
        cdef MoveEntry move
        cdef FrameHeader h
        cdef int64_t since, decision, taken = 0, announced = 0, at = HEAD, size, i, wrote = 0
        cdef uint32_t *head
        cdef bint done = False, always = False
        cdef char small[1024]
        cdef char *said = small
        cdef list places = list(moves)
        size = HEAD + len(parts) * <int64_t>sizeof(PartEntry) + len(places) * <int64_t>sizeof(MoveEntry)     # or a little more
        for part in parts:
            if part.count == 0:
                continue                # only held
            wrote += 1
            if part.log.place_name is None:
                part.log.place_name = os.path.relpath(part.log.path, self.root).encode()
            size += PyBytes_GET_SIZE(part.log.place_name)
            always |= part.log.fsync == 2
        for place in places:
            if place.name is None:
                place.name = os.path.relpath(place.path, self.root).encode()
            size += PyBytes_GET_SIZE(place.name)
            always |= place.log.fsync == 2
        if size > <int64_t>sizeof(small):
            said = <char *>PyMem_RawMalloc(size)
            if said == NULL:
                raise MemoryError()
        head = <uint32_t *>said
        head[0], head[1], head[2], head[3] = HOLDS, <uint32_t>wrote, <uint32_t>len(places), 0
        size = paths_at(head)
        try:
            for part in parts:
                part.log.lock()
                taken += 1
                part.log.check_state()
            for condition in conditions:
                condition()
            platform.failpoint("decide.locked")
            since = log.next_offset
            for part in parts:
                if part.count == 0:
                    continue
                part.log.prepare(part.frames.data, part.size, part.count, part.highest, since)
                part.start = part.log.w.next_offset
                entry.partition_id, entry.start, entry.stop = part.log.w.partition_id, part.start, part.log.w.pending_next
                entry.path_size, entry.reserved = <uint32_t>PyBytes_GET_SIZE(part.log.place_name), 0
                memcpy(said + at, &entry, sizeof(PartEntry))
                memcpy(said + size, PyBytes_AS_STRING(part.log.place_name), entry.path_size)
                at += <int64_t>sizeof(PartEntry)
                size += entry.path_size
            for i in range(len(places)):
                place = <Place>places[i]
                offset, generation = moves[place]
                place.announce(offset, generation & 0xFFFFFFFF, since, &move.slot)     # the slot has its lower half, as any commit
                announced += 1
                move.file, move.reserved = place.file, 0
                move.path_size = <uint32_t>PyBytes_GET_SIZE(place.name)
                memcpy(said + at, &move, sizeof(MoveEntry))
                memcpy(said + size, PyBytes_AS_STRING(place.name), move.path_size)
                at += <int64_t>sizeof(MoveEntry)
                size += move.path_size
                platform.failpoint("decide.announced")
            platform.failpoint("decide.prepared")
            memset(&h, 0, FRAME_HEADER)
            h.magic = FRAME_MAGIC
            h.count = h.span = 1
            h.flags = FIXED_STRIDE
            h.base_timestamp = h.max_timestamp = log.now()
            h.body_length = <uint32_t>size
            h.body_hash = xxh3_64(said, size)
            log.lock()
            try:
                for place in places:
                    place.check_owner()     # whoever takes a place over passes through this lock first
                decision = log.put(&h, said, log.place(&h, said)) + 1
                done = True
                platform.failpoint("decide.decided")
                at = HEAD + wrote * <int64_t>sizeof(PartEntry)
                for place in places:
                    memcpy(&move, said + at, sizeof(MoveEntry))
                    place.decided(&move.slot, decision)
                    at += <int64_t>sizeof(MoveEntry)
            finally:
                log.shared.unlock()
            log.shared.ring()
            for part in parts:
                if part.count:
                    part.log.publish(decision)
        finally:
            if said != small:
                PyMem_RawFree(said)
            if announced and not done:
                self.renounce(log, places[:announced])
            for part in parts:
                if taken == 0:
                    break
                taken -= 1
                one = part.log
                if not done and part.count:
                    one.withdraw()
                one.shared.unlock()
                if done:
                    one.shared.ring()
        if always:
            self.make_durable(decision)
            for part in parts:
                if part.count:
                    part.log.sync_to(part.start + part.count)
        return 0

    cdef int renounce(self, Log log, list places) except -1:
        """Of these nothing was decided. Under the lock that who takes one over passes through: else it might be his announcement."""
        cdef Place place
        try:
            log.lock()
        except SeglogError:
            return 0                    # they stay announced: whoever looks finds no decision, and who takes them over settles it
        for place in places:
            place.renounce()
        log.shared.unlock()
        return 0

    def begin(self):
        """A transaction to fill."""
        cdef Transaction tx = Transaction.__new__(Transaction)
        tx.home = self
        tx.parts, tx.went, tx.moves, tx.conditions, tx.undo = [], [], {}, [], []
        tx.open = True
        return tx

    cdef Part new_part(self, Log log):
        cdef Part part
        cdef list spare = self.spare
        if spare:
            part = <Part>spare.pop()    # with the memory it has
        else:
            part = Part.__new__(Part)
            part.frames = Scratch.__new__(Scratch)
        part.log = log
        part.size = part.count = part.frame_count = 0
        part.held = False
        part.highest = LOWEST
        return part

    cdef int put_back(self, list parts) except -1:
        cdef Part part
        for part in parts:
            part.log = None
            if len(self.spare) < SPARE and part.frames.size < SPARE_BYTES:
                self.spare.append(part)
        return 0


def sync_files(path, int64_t start):
    """Put on disk what the segment files in `path` hold from offset `start` on, and their names. Raises OSError."""
    bases = list_bases(path)
    first = max(bisect.bisect_right(bases, start) - 1, 0)
    for base in bases[first:]:
        try:
            fd = os.open(os.path.join(path, segment_name(base)), os.O_RDWR | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            continue                # trimmed meanwhile
        try:
            rc = platform.datasync(fd)
        finally:
            os.close(fd)
        if rc:
            raise OSError(-rc, os.strerror(-rc), path)
    sync_directory(path)


cdef class Part:
    """What a transaction has for one partition: frames, built one behind the other."""

    cdef int add(self, object value, object key, object headers, object timestamp) except -1:
        """One record, as a frame of its own. Raises what a send would."""
        cdef Log log = self.log
        cdef FrameHeader *h
        cdef bytes held, key_held, header_held
        cdef const char *data = NULL
        cdef int64_t size = -1, key_size = -1, header_size = 0, all
        cdef int64_t when = log.now() if timestamp is None else to_us(timestamp)
        held = <bytes>value if type(value) is bytes else None if value is None else one_bytes(value, "value")
        key_held = None if key is None else <bytes>key if type(key) is bytes else one_bytes(key, "key")
        header_held = pack_headers(headers) if headers is not None else None
        if held is not None:
            data, size = PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held)
        if key_held is not None:
            key_size = PyBytes_GET_SIZE(key_held)
        if header_held is not None:
            header_size = PyBytes_GET_SIZE(header_held)
        if log.width >= 0 and size != log.width:
            misfit(size, log.width, 0)
        all = max(size, 0) + max(key_size, 0) + header_size
        if all > log.record_bytes_max:
            raise RecordTooLarge(
                f"the record has {all:,} bytes; the limit is {log.record_bytes_max:,} (record_bytes_max). Nothing was written.",
                size=all, limit=log.record_bytes_max, index=0)
        if log.codec and all >= 128:
            return self.add_some(
                packed([held], "value"), None if key is None else packed([key_held], "key"),
                None if header_held is None else packed([header_held], "header"), &when, NULL, 1)
        self.frames.reserve(self.size + FRAME_HEADER + all + 72)
        h = <FrameHeader *>(self.frames.data + self.size)
        memset(h, 0, FRAME_HEADER)
        h.magic = FRAME_MAGIC
        h.count = h.span = 1
        h.base_timestamp = h.max_timestamp = when
        build_one(
            h, <char *>h + FRAME_HEADER, data, size, NULL if key_held is None else PyBytes_AS_STRING(key_held), key_size,
            NULL if header_held is None else PyBytes_AS_STRING(header_held), header_size)
        memset(<char *>h + FRAME_HEADER + h.body_length, 0, align8(h.body_length) - h.body_length)
        return self.added(h)

    cdef int add_some(
        self, Packed values, Packed keys, Packed headers, const int64_t *timestamps, const int32_t *select, int64_t n,
    ) except -1:
        """Items 0 .. n-1 (of `select`, when given), in as many frames as they need."""
        cdef Log log = self.log
        # A codec lets go of the GIL: what it reads is nobody else's.
        cdef Scratch scratch = Scratch.__new__(Scratch) if log.codec else self.frames
        cdef int64_t at = 0, now = log.now() if timestamps == NULL else 0, length
        log.check_dtype(values)
        while at < n:
            scratch.origin = 0 if log.codec else self.size
            at += encode(
                scratch, values, keys, headers, timestamps, now, select, at, n, log.batch_bytes, log.record_bytes_max,
                log.width)
            seal(scratch, log.codec, log.squeeze)
            if log.codec:
                length = frame_length(<FrameHeader *>scratch.data)
                self.frames.reserve(self.size + length)
                memcpy(self.frames.data + self.size, scratch.data, length)
            self.added(<FrameHeader *>(self.frames.data + self.size))
        return 0

    cdef int added(self, const FrameHeader *h) except -1:
        self.size += frame_length(h)
        self.count += h.count
        self.frame_count += 1
        self.highest = max(self.highest, h.max_timestamp)
        if self.size > SEGMENT_BYTES_MAX - SEGMENT_HEADER:
            raise RecordTooLarge(
                f"the transaction has {self.size:,} bytes for {self.log.path}; all of them must lie in one segment, which holds "
                f"{SEGMENT_BYTES_MAX:,}. Nothing was written.", size=self.size, limit=SEGMENT_BYTES_MAX, index=0)
        return 0


def by_path(Part part):
    return part.log.path


cdef class Transaction:
    """Records for any partitions, all there when `commit` returns, or none. Made by `Store.transaction`; for one thread.

    In a `with` block it commits at the end, and is given up by an exception. `spans` says afterwards where everything went. A send
    that raises has added nothing; a `send_many` that raises gives up the transaction.
    """

    def __init__(self):
        raise TypeError("a transaction is begun by a store")

    cdef Part part(self, Log log):
        cdef Part part
        if not self.open:
            raise ClosedError("the transaction is over: it was committed, or given up, before this call. Nothing was written.")
        if len(self.parts) > FEW:
            if self.by_log is None:
                self.by_log = {(<Part>one).log: one for one in self.parts}
            part = self.by_log.get(log)
            if part is not None:
                return part
        else:
            for part in self.parts:
                if part.log is log:
                    return part
        if log.shut:
            log.check_state()
        if log.decisions is not self.home:
            raise ValueError(f"{log.path} belongs to another store than the transaction. Nothing was written.")
        part = self.home.new_part(log)
        self.parts.append(part)
        if self.by_log is not None:
            self.by_log[log] = part
        return part

    cdef int add_some(
        self, Log log, Packed values, Packed keys, Packed headers, Times timestamps, const int32_t *select, int64_t n,
    ) except -1:
        try:
            self.part(log).add_some(values, keys, headers, <const int64_t *>NULL if timestamps is None else timestamps.data, select, n)
        except BaseException:
            self.abort()
            raise
        return 0

    def move(self, Place place not None, int64_t offset, uint64_t generation=0):
        """The group's place is at `offset` when this commits. Raises Fenced, OffsetOutOfRange now, and Fenced again then, if it is to."""
        if not self.open:
            raise ClosedError("the transaction is over: it was committed, or given up, before this call. Nothing was committed.")
        if place.log.decisions is not self.home:
            raise ValueError(f"{place.log.path} belongs to another store than the transaction. Nothing was committed.")
        place.check(offset)
        self.moves[place] = offset, generation

    def moved(self, Place place not None):
        """Where `move` says that the place will be; None when it was not called for it."""
        return self.moves[place][0] if place in self.moves else None

    def require(self, condition):
        """`condition()` is called when this commits, under the locks of all its partitions, before anything is written; what it raises gives
        the transaction up. It may read, and must be short."""
        if not self.open:
            raise ClosedError("the transaction is over: it was committed, or given up, before this call. Nothing was written.")
        self.conditions.append(condition)

    def hold(self, Log log not None):
        """The lock of this partition, too, is held when this commits, and while its conditions are asked."""
        self.part(log).held = True

    def on_abort(self, callback):
        """`callback()` is called when this is given up, or its commit fails; what it raises is lost."""
        if not self.open:
            raise ClosedError("the transaction is over: it was committed, or given up, before this call.")
        self.undo.append(callback)

    cdef int undone(self) except -1:
        cdef list undo = self.undo
        self.undo = []
        for callback in undo:
            try:
                callback()
            except Exception:
                pass                    # the caller is to hear of what went wrong first
        return 0

    def ahead(self, Log log not None):
        """How many records it has so far for this partition."""
        cdef Part part
        for part in self.parts:
            if part.log is log:
                return part.count
        return 0

    def commit(self):
        """All of it is there, for every process, when this returns; after an error none is.

        Raises StoreFull, PartitionFailed, LockTimeout, ClosedError; Fenced for a place that is another member's now. Committing twice
        raises ClosedError.
        """
        cdef list parts = self.parts
        cdef Part part
        if not self.open:
            raise ClosedError("the transaction is over already; nothing was written")
        self.open = False
        self.parts, self.by_log = [], None
        try:
            if len(parts) > 1:
                parts = sorted([part for part in parts if (<Part>part).count or (<Part>part).held], key=by_path)
            elif parts and (<Part>parts[0]).count == 0 and not (<Part>parts[0]).held:
                parts = []
            if len(parts) == 1 and not self.moves and (<Part>parts[0]).frame_count == 1:
                self.home.append(<Part>parts[0], self.conditions)
            elif parts or self.moves:
                self.home.decide(parts, self.moves, self.conditions)
            else:
                for condition in self.conditions:
                    condition()
            for part in parts:
                if part.count:
                    self.went.append((part.log, part.start, part.count))
        except BaseException:
            self.undone()
            raise
        finally:
            self.home.put_back(parts)

    @property
    def spans(self):
        """After the commit: where everything went, as `[(topic, Span)]`."""
        return [((<Log>log).topic, Span((<Log>log).partition, start, start + count)) for log, start, count in self.went]

    def abort(self):
        """Forget all of it. Nothing was written."""
        self.open = False
        self.home.put_back(self.parts)
        self.parts, self.by_log = [], None
        self.undone()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None or not self.open:
            self.abort()
        else:
            self.commit()

    def __len__(self):
        """Records so far."""
        return sum((<Part>part).count for part in self.parts)

    def __repr__(self):
        return f"<Transaction of {len(self):,} records for {len(self.parts)} partitions{'' if self.open else ', over'}>"
