# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Compaction: of each key only the last records stay, and the sealed segments become fewer and fuller.

    learn      walk what was not compacted yet, oldest first, and remember each key's last offset, until the memory is full
    rewrite    walk everything up to there, oldest first; where something is dead, write what lives of a run of segments into a new one
    replace    <base>.log.tmp, on disk -> renamed over the first segment of the run -> directory on disk -> the others are unlinked
    again      from where the memory was full, until the end

It promises: offsets, order, epochs, timestamps and headers stay as they are; records without a key stay; the active segment is never touched; who reads
meanwhile reads on, from old files or new ones; at any moment every live record is in a file that is on disk. A tombstone goes only
when everything that it hides is gone. Damage stays where it is, in its segment, which is left alone.

Why a crash is harmless: what was unlinked lies in a segment that says so (MERGED, `end_offset`); what was not unlinked holds nothing
that is not in there, or was dead. Runs are replaced oldest first, so a dead record never outlives what killed it.

It keeps to one process at a time by a lock file. Reading is by pread, and the GIL is held between frames only. Memory: the keymap's budget, a
buffer or two of the largest frame. It leaves to others when to compact.
"""
import contextlib
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch, Walk
from seglog.engine.frame cimport FRAME_BODY_BAD, FRAME_OK, FRAME_UNKNOWN, Entry, columns_entry, columns_parse
from seglog.engine.index cimport build_index
from seglog.engine.keymap cimport Keymap
from seglog.engine.layout cimport CODEC_NONE, MARK_COMPACTED, MARK_MERGED, MARK_SEALED, SEGMENT_HEADER, Mark, SegmentHeader
from seglog.engine.log cimport Log
from seglog.engine.pieces cimport AT_END, COMPRESSED, NO_MEMORY, PAUSE_BYTES, Feed, Piece, Writer
from seglog.engine.segment cimport Segment, first_page, list_bases, open_segment, remove_segment, superseded_bases

from seglog.engine.errors import CorruptSegment, DirectoryInUse, SeglogError, UnsupportedFormat, os_error
from seglog.engine.liveness import file_lock
from seglog.engine.losses import quarantine_path
from seglog.engine.pieces import Halted
from seglog.engine.segment import segment_name

cdef enum Doing:
    LEARN, RECALL, LOOK, COPY

cdef enum:                          # beside the codes of frames, which are 0 and below, and those of pieces
    PAUSE = 3                       # time to look whether somebody wants it to stop
    FRAME_FULL = 4                  # write the frame, then add this record
    MAP_FULL = 5                    # `seen` is the offset of the first record that found no room
    DEAD = 6                        # one record that need not stay
    SEGMENT_FULL = 8

# Deltas are 31 bits: a segment that covered more offsets could have a gap that no frame covers.
cdef int64_t OFFSETS_MAX = <int64_t>0x7FFFFFFF

_BINARY = getattr(os, "O_BINARY", 0)


cdef list pieces_of(Log log, int64_t now, int64_t min_lag):
    """The sealed segments that may be compacted, oldest first: those before the first one with a record younger than `min_lag`."""
    cdef list pieces = []
    cdef Piece piece
    cdef int64_t sealed = -1
    cdef Mark mark
    cdef Piece before = None
    cdef Segment segment
    log.bases_version = -1
    for base in log.current_bases():
        piece = Piece.__new__(Piece)
        piece.base = base
        piece.path = os.path.join(log.path, segment_name(base))
        piece.damaged = True            # until it is known to be sound
        # Not kept open: there may be more of them than a process may have descriptors.
        try:
            segment = open_segment(piece.path, False, False)
            piece.header, piece.inode, piece.used = segment.header, segment.inode, segment.size
            if segment.header.partition_id == log.w.partition_id:
                piece.damaged = False
            if segment.read_mark(&mark):
                piece.flags = mark.flags
        except FileNotFoundError:
            continue                    # trimmed a moment ago
        except CorruptSegment:
            segment = None
            memset(&mark, 0, sizeof(mark))
        if before is not None:
            if piece.damaged:
                before.end, before.closed, before.damaged = base, now, True
            else:
                before.end, before.closed = piece.header.previous_end, piece.header.created
                if sealed >= 0 and sealed != before.end:
                    before.damaged = True           # segments between the two are gone
            if min_lag > 0:
                newest = log.newest_timestamp(before.base)
                if newest is not None and newest > now - min_lag:
                    break
            pieces.append(before)
        if base >= log.w.active_base:
            break
        sealed = -1
        if mark.flags & MARK_SEALED:
            sealed = mark.end_offset
            piece.used = min(piece.used, mark.end_position)
        if os.path.exists(quarantine_path(log.path, base)):
            piece.damaged = True
        before = piece
    return pieces


# ---- one way through ------------------------------------------------------------------------------------------------


cdef class Pass:
    """Learn keys from `begin` on, as many as fit; then rewrite everything below `seen`."""

    def __init__(self, Log log, Keymap keymap, int64_t begin, int64_t now, int64_t grace, dict said, stop):
        self.log, self.keymap, self.begin, self.seen = log, keymap, begin, begin
        self.first = log.first_offset
        self.now, self.grace, self.said, self.stop = now, grace, said, stop

    cdef bint dead(self, const Entry *e, const uint64_t *hashes) noexcept nogil:
        """Whether a record need not stay. The last one that the map knows always stays, so that a segment ends with one."""
        if e.offset >= self.seen - 1:
            return False
        if e.offset < self.first:
            return True
        if e.key_size < 0:
            return False
        return self.keymap.superseded(hashes, e.offset) or (e.value_size < 0 and self.drop_tombstones)

    cdef int frame(self, Feed feed) noexcept nogil:
        """The records of the frame at hand, from `i` on: FRAME_OK when all were done. Some at a time, so that their places in the
        map come into the cache beside each other."""
        cdef Entry entries[AHEAD]
        cdef uint64_t hashes[2 * AHEAD]
        cdef uint32_t n, k
        cdef int code
        while self.i < feed.c.count:
            n = min(<uint32_t>AHEAD, feed.c.count - self.i)
            for k in range(n):
                columns_entry(&feed.c, self.i + k, &entries[k])
                if entries[k].key_size >= 0:
                    self.keymap.hash(entries[k].key, entries[k].key_size, &hashes[2 * k])
            for k in range(n):
                code = self.record(&entries[k], &hashes[2 * k], feed.h.epoch, feed.h.codec)
                if code != FRAME_OK:
                    return code
                self.i = self.i + 1
        self.i = 0
        return FRAME_OK

    cdef int record(self, const Entry *e, const uint64_t *hashes, uint32_t epoch, int codec) noexcept nogil:
        cdef int64_t *found
        cdef int code
        if self.doing == COPY:
            if self.dead(e, hashes):
                self.removed = self.removed + 1
                return FRAME_OK
            if not self.writer.fits(e, epoch, codec):
                return FRAME_FULL
            code = self.writer.add(e)
            if code == FRAME_OK:
                self.kept = self.kept + 1
            return code
        if self.doing == LOOK:
            return DEAD if self.dead(e, hashes) else FRAME_OK
        if e.key_size < 0 or e.offset < self.first:
            return FRAME_OK
        if self.doing == LEARN:
            if e.offset >= self.begin:
                found = self.keymap.put(hashes)
                if found == NULL:
                    self.seen = e.offset
                    return MAP_FULL
                self.keymap.learn_at(found, e.offset, e.value_size < 0)
        else:
            found = self.keymap.find(hashes)
            if found != NULL:
                self.keymap.recall_at(found, e.offset, e.value_size < 0, self.begin)
        return FRAME_OK

    cdef int singles(self, Feed feed) noexcept nogil:
        """Gather the record of the frame at hand, and those behind it that are alone in theirs too: as `frame` does within one."""
        cdef int n = 0, code = FRAME_OK
        while True:
            columns_entry(&feed.c, 0, &self.alone[n])
            if self.alone[n].key_size >= 0:
                self.keymap.hash(self.alone[n].key, self.alone[n].key_size, &self.hashes[2 * n])
            self.epochs[n] = feed.h.epoch
            n += 1
            if n == AHEAD or not feed.ahead():
                break
            code = feed.step()
            if code != FRAME_OK:
                break
            if feed.c.count != 1:
                self.within = True
                break
        self.count, self.done, self.then = n, 0, code
        return FRAME_OK

    cdef int go_on(self, Feed feed) noexcept nogil:
        """See to what was gathered, and to the frame at hand."""
        cdef int code, k
        while self.done < self.count:
            k = self.done
            code = self.record(&self.alone[k], &self.hashes[2 * k], self.epochs[k], CODEC_NONE)
            if code != FRAME_OK:
                return code
            self.done = k + 1
        if self.within:
            code = self.frame(feed)
            if code == FRAME_OK:
                self.within = False
            return code
        code, self.then = self.then, FRAME_OK
        return code

    cdef int frames(self, Feed feed) noexcept nogil:
        """Frame after frame, until something else must be done first."""
        cdef int64_t heard = feed.position
        cdef int code
        while True:
            code = feed.step()
            if code != FRAME_OK:
                return code
            if feed.c.count == 1:
                self.singles(feed)
            else:
                self.within = True
            code = self.go_on(feed)
            if code != FRAME_OK:
                return code
            if feed.position - heard >= PAUSE_BYTES:
                return PAUSE

    cdef int go_through(self, Piece piece) except? -100:
        """Do to all records of a segment what is being done: AT_END, MAP_FULL, DEAD, SEGMENT_FULL, or what is wrong with a frame."""
        cdef Feed feed
        cdef int code
        self.halt()
        feed = Feed(piece)
        self.i = 0
        self.within = False
        self.count = self.done = self.then = 0
        self.drop_tombstones = not self.blocked and self.now - piece.closed >= self.grace
        while True:
            with nogil:
                code = self.frames(feed)
            while code in (COMPRESSED, FRAME_FULL):
                if code == COMPRESSED:
                    feed.expanded = self.log.expand_blobs(feed.h, None, 0)
                    if feed.expanded is None:
                        return FRAME_BODY_BAD
                    code = columns_parse(feed.h, PyBytes_AS_STRING(feed.expanded), PyBytes_GET_SIZE(feed.expanded), &feed.c)
                    if code != FRAME_OK:
                        return code
                    self.within = True
                elif not self.writer.flush(-1):
                    return SEGMENT_FULL
                with nogil:
                    code = self.go_on(feed)
            if code == NO_MEMORY:
                raise MemoryError("no memory for a frame")
            if code == FRAME_UNKNOWN:
                raise UnsupportedFormat(
                    f"{piece.path} holds a frame at {feed.position:,} of a kind that this version does not know. It was left as it "
                    "is; use a newer seglog.", path=piece.path, found=-1, supported=1)
            if code not in (FRAME_OK, PAUSE):
                return code
            self.halt()

    cdef int halt(self) except -1:
        """Raise what wants it to stop, if anything does."""
        PyErr_CheckSignals()
        self.log.check_state()
        if self.stop is not None and self.stop():
            raise Halted
        return 0

    cdef int learn(self, list pieces) except -1:
        """Fill the map, from `begin` on; `seen` is how far it got."""
        cdef Piece piece
        cdef int code
        self.doing = LEARN
        for piece in pieces:
            if piece.end <= self.begin:
                continue
            code = AT_END
            if not piece.damaged:
                code = self.go_through(piece)
                if code == MAP_FULL:
                    break
                if code != AT_END:
                    piece.damaged = True
            self.seen = piece.end
        if self.keymap.keep > 1:
            # What is older counts too, where fewer than enough are younger.
            self.doing = RECALL
            for piece in pieces:
                if piece.base >= self.begin:
                    break
                if not piece.damaged and self.go_through(piece) != AT_END:
                    piece.damaged = True
        return 0

    cdef int settle_on(self, Piece piece) except -1:
        """The segment stays as it is."""
        if piece.damaged:
            self.blocked = True
        if piece.end <= self.seen and piece.inode:
            self.mark_clean(piece)
        return 0

    cdef int rewrite(self, list pieces) except -1:
        """Everything below `seen`, oldest first."""
        cdef Py_ssize_t i = 0
        cdef Piece piece
        cdef int code
        while i < len(pieces):
            piece = pieces[i]
            if piece.base >= self.seen:
                break
            code = AT_END
            if not piece.damaged:
                self.doing = LOOK
                code = self.go_through(piece)
                piece.damaged = code not in (AT_END, DEAD)
            if code == DEAD:
                i = self.run(pieces, i)
            else:
                self.settle_on(piece)
                i += 1
        return 0

    cdef Py_ssize_t run(self, list pieces, Py_ssize_t i) except -1:
        """Write what lives of pieces `i` and up into one segment, as many of them as fit; the first piece that is not in it."""
        cdef Piece first = pieces[i], piece, before = None
        cdef Log log = self.log
        cdef Writer writer = Writer(first, log.segment_bytes, log.batch_bytes)
        cdef Py_ssize_t j = i, good = i - 1
        cdef int64_t good_position = 0, good_kept = 0, good_removed = 0, taken = 0
        cdef int code
        self.writer = writer
        self.kept = self.removed = 0
        try:
            while j < len(pieces):
                piece = pieces[j]
                if piece.damaged or piece.base >= self.seen or piece.end - first.base > OFFSETS_MAX:
                    break
                if before is not None and piece.header.previous_end != before.end:
                    break
                if good >= i:
                    # Going by what lived of those before: is it worth trying?
                    if writer.position + 0.9 * piece.used * (writer.position - SEGMENT_HEADER) / taken > writer.limit:
                        break
                self.doing = COPY
                code = self.go_through(piece)
                if code == SEGMENT_FULL:
                    break
                if code != AT_END:
                    piece.damaged = True
                    break
                taken += piece.used
                if writer.n:
                    if not writer.flush(piece.end):
                        break
                    writer.bounded = True
                    good, good_position, good_kept, good_removed = j, writer.position, self.kept, self.removed
                elif writer.next_base == piece.end:
                    good, good_position, good_kept, good_removed = j, writer.position, self.kept, self.removed
                before = piece
                j += 1
            if good < i:
                # Nothing of them lives, and what follows cannot take their offsets over: they stay, dead records and all.
                writer.discard()
                self.blocked = True
                for piece in pieces[i:j]:
                    self.settle_on(piece)
                return max(j, i + 1) if not first.damaged else i
            writer.position = good_position
            self.kept, self.removed = good_kept, good_removed
            self.finish(pieces[i:good + 1])
            return good + 1
        except BaseException:
            writer.discard()
            raise
        finally:
            self.writer = None

    cdef int finish(self, list run) except -1:
        """The new segment is whole: make it so on disk, and put it in the place of the run."""
        cdef Writer writer = self.writer
        cdef Piece first = run[0], last = run[len(run) - 1], piece
        cdef Log log = self.log
        cdef SegmentHeader header
        cdef Mark mark
        cdef char page[4096]
        cdef int rc
        cdef int64_t capacity = (writer.position + 4095) & ~<int64_t>4095
        header = first.header
        header.salt = writer.salt
        header.capacity = capacity
        header.flags = 0
        for piece in run:
            header.reserved_offset = max(header.reserved_offset, piece.header.reserved_offset)
            header.created = max(header.created, piece.header.created)
        memset(&mark, 0, sizeof(mark))
        mark.durable_position = mark.end_position = writer.position
        mark.durable_offset = mark.end_offset = last.end
        mark.start_offset = first.header.start_offset
        mark.flags = MARK_SEALED | MARK_MERGED | (MARK_COMPACTED if last.end <= self.seen else 0)
        mark.epoch = last.header.epoch
        first_page(page, &header, &mark)
        with nogil:
            rc = platform.pwrite_all(writer.fd, page, SEGMENT_HEADER, 0)
        if rc:
            raise os_error(rc, "cannot write to", writer.path)
        os.ftruncate(writer.fd, writer.position)        # what did not fit goes
        os.ftruncate(writer.fd, capacity)
        platform.failpoint("compact.written")
        with nogil:
            rc = platform.datasync(writer.fd)
        if rc:
            raise os_error(rc, "cannot sync", writer.path)
        inode = os.fstat(writer.fd).st_ino
        os.close(writer.fd)
        writer.fd = -1
        self.halt()
        self.replace(run, inode)
        said = self.said
        said["segments_before"] += len(run)
        said["segments_after"] += 1
        said["bytes_before"] += sum([(<Piece>piece).used for piece in run])
        said["bytes_after"] += writer.position
        said["records_removed"] += self.removed
        return 0

    cdef int replace(self, list run, uint64_t inode) except -1:
        cdef Log log = self.log
        cdef Piece first = run[0], piece
        cdef Segment fresh
        platform.failpoint("compact.synced")
        log.lock()
        try:
            log.check_state()
            for piece in run:
                if not stands(piece.path, piece.inode):
                    raise Halted            # trimmed meanwhile
            platform.failpoint("compact.locked")
            try:
                os.replace(self.writer.path, first.path)
            except PermissionError as error:
                if os.name == "nt":
                    raise Halted from error     # Windows: somebody reads it
                raise
            platform.failpoint("compact.named")
            platform.store_i64(&log.w.segments, log.w.segments + 1)
        finally:
            log.shared.unlock()
        platform.failpoint("compact.switched")
        # Before one of the others goes, what took their place is there by its name.
        log.sync_names()
        platform.failpoint("compact.durable")
        for piece in run[1:]:
            log.lock()
            try:
                log.check_state()
                if not stands(first.path, inode):
                    # Somebody trimmed, and took the new one for what it was before. The others are as good as ever.
                    raise Halted
                remove_segment(log.path, piece.base)
                platform.store_i64(&log.w.segments, log.w.segments + 1)
            finally:
                log.shared.unlock()
            platform.failpoint("compact.removed")
        # For speed only: whoever misses it makes it.
        try:
            fresh = open_segment(first.path, False, False)
            build_index(fresh, fresh.size, (<Piece>run[len(run) - 1]).end, True)
        except (FileNotFoundError, CorruptSegment):
            pass
        platform.failpoint("compact.indexed")
        return 0

    cdef int mark_clean(self, Piece piece) except -1:
        """Nothing need be done here again until later segments bring keys. Not synced: without it, it is looked at once more."""
        cdef Segment segment
        cdef Mark mark
        cdef int rc = 0
        if piece.flags & MARK_COMPACTED:
            return 0
        # Under the lock: a roll may be about to write the same mark.
        self.log.lock()
        try:
            self.log.check_state()
            if not stands(piece.path, piece.inode):
                return 0
            segment = open_segment(piece.path, True, False)
            if segment.read_mark(&mark):
                mark.flags |= MARK_COMPACTED
                rc = segment.write_mark(&mark)
        finally:
            self.log.shared.unlock()
        if rc:
            raise os_error(rc, "cannot write to", piece.path)
        platform.failpoint("compact.marked")
        return 0


cdef class Sieve(Pass):
    """Keep what a map of bits says, whatever its key: bit i is that of offset `origin` + i."""

    cdef bint dead(self, const Entry *e, const uint64_t *hashes) noexcept nogil:
        cdef int64_t i = e.offset - self.origin
        if e.offset >= self.seen - 1 or i < 0 or i >= self.size * 8:
            return False
        return e.offset < self.first or not (self.bits[i >> 3] >> (i & 7)) & 1


cdef bint stands(str path, uint64_t inode) except -1:
    """Whether this very file still has that name."""
    try:
        return <uint64_t>os.stat(path).st_ino == inode
    except FileNotFoundError:
        return False
    except OSError as error:
        raise os_error(-error.errno, "cannot look at", path) from error


# ---- the whole ------------------------------------------------------------------------------------------------------


def compact(Log log not None, *, int keep=1, int64_t memory=134217728, int64_t min_lag_us=0, int64_t grace_us=0, stop=None):
    """Compact the sealed segments of a partition now; what came of it, as a dict of numbers, or None when another is at it.

    `keep`: how many of the last records of a key stay. `memory`: bytes for remembering keys; with more keys than fit (40 bytes each)
    the log is gone through several times. `min_lag_us`: a segment with a younger record, and all behind it, are left alone.
    `grace_us`: how long after its segment was closed a tombstone stays. `stop` is called now and then, and returns True to
    have it end early; then `finished` is False, and everything is sound.

    Cost: twice reading what was sent since the last time and once what was there before, and writing what lives where something
    died. Raises StoreFull and what reading raises; what was replaced before stays replaced, and nothing is lost.
    """
    cdef Keymap keymap
    cdef Pass way
    cdef list pieces
    cdef Piece piece
    cdef int64_t now, begin = -1, dirty
    said = nothing_yet()
    log.check_state()
    now = log.now()
    try:
        with alone(log):
            while True:
                pieces = pieces_of(log, now, min_lag_us)
                if not pieces:
                    break
                # All that is in them is on disk then, whatever `fsync` says: what killed a record before that goes, and every other
                # part of a transaction before its own is no longer told from what was always there.
                log.sync()
                if begin < 0:
                    begin = pieces[-1].end
                    for piece in pieces:
                        if not piece.flags & MARK_COMPACTED:
                            begin = piece.base
                            break
                keymap = Keymap(memory, keep)
                way = Pass(log, keymap, begin, now, grace_us, said, stop)
                way.learn(pieces)
                way.rewrite(pieces)
                said["passes"] += 1
                if way.seen >= (<Piece>pieces[-1]).end:
                    break
                begin = way.seen
        said["finished"] = True
    except DirectoryInUse:
        return None
    except Halted:
        pass
    return said


def sift(Log log not None, list bases not None, bits not None, int64_t origin, *, stop=None):
    """Write the sealed segments that begin at `bases` anew, without the records whose bit is 0; as `compact`, in all that it promises.

    `bits`: bytes; bit i (the lowest first) is that of offset `origin` + i. What the bits do not cover stays, and so does the last record of all.
    """
    cdef Sieve way
    cdef list pieces
    cdef Piece piece
    cdef bytes held = bytes(bits)
    said = nothing_yet()
    log.check_state()
    try:
        with alone(log):
            pieces = [piece for piece in pieces_of(log, log.now(), 0) if piece.base in bases]
            if pieces:
                log.sync()
                way = Sieve(log, Keymap(65536, 1), (<Piece>pieces[-1]).end, log.now(), 0, said, stop)
                way.held, way.bits, way.size, way.origin = held, <const unsigned char *>PyBytes_AS_STRING(held), PyBytes_GET_SIZE(held), origin
                way.rewrite(pieces)
                said["passes"] = 1
        said["finished"] = True
    except DirectoryInUse:
        return None
    except Halted:
        pass
    return said


cdef dict nothing_yet():
    return {
        "passes": 0, "records_removed": 0, "segments_before": 0, "segments_after": 0, "bytes_before": 0, "bytes_after": 0,
        "finished": False,
    }


@contextlib.contextmanager
def alone(Log log):
    """The one process that compacts this partition; DirectoryInUse when another is at it."""
    name = os.path.join(log.path, "compact.lock")
    try:
        fd = os.open(name, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
    except OSError as error:
        raise os_error(-error.errno, "cannot make", name) from error
    try:
        with file_lock(fd, name, 0.0):
            clear_strays(log)
            yield
    except OSError as error:
        if isinstance(error, SeglogError):
            raise
        raise os_error(-error.errno, "cannot compact", error.filename or log.path) from error
    finally:
        os.close(fd)


cdef int clear_strays(Log log) except -1:
    """What a compaction that was killed left behind: its temporary file, and segments whose records are in the one before."""
    for name in os.listdir(log.path):
        # A roll under way has one too, of the offset at which it goes on.
        if name.endswith(".log.tmp") and name[:20].isdigit() and int(name[:20]) < log.w.active_base:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(log.path, name))
    log.lock()
    try:
        log.check_state()
        bases = superseded_bases(log.path, [base for base in list_bases(log.path) if base <= log.w.active_base])
        if bases:
            log.sync_names()                # it may have died before its own
            for base in bases:
                remove_segment(log.path, base)
                platform.failpoint("compact.superseded")
            platform.store_i64(&log.w.segments, log.w.segments + 1)
    finally:
        log.shared.unlock()
    return 0


def learn(Log log not None, Keymap keymap not None, int64_t start, int64_t stop):
    """Let the map learn the keys of the records from offset `start` up to `stop`; where it stopped: `stop`, or the first offset that
    found no room. Raises what reading raises."""
    cdef Batch batch
    cdef Walk walk
    cdef Entry e
    cdef int64_t *found
    cdef uint64_t hashes[2]
    while start < stop:
        batch = log.read(start, 1 << 20, 1 << 20, stop=stop)
        if batch is None:
            break
        walk = iter(batch)
        while walk.advance(&e):
            if e.key_size >= 0:
                keymap.hash(e.key, e.key_size, hashes)
                found = keymap.put(hashes)
                if found == NULL:
                    return e.offset
                keymap.learn_at(found, e.offset, e.value_size < 0)
        start = batch.next_offset
    return stop


def dirtiness(Log log not None, int64_t min_lag_us=0):
    """(bytes that were compacted already, bytes that were not, when the oldest of the latter was begun (µs) or None): of the sealed
    segments that may be compacted. A look at each segment's first page."""
    cdef Piece piece
    cdef int64_t clean = 0, dirty = 0
    oldest = None
    log.check_state()
    for piece in pieces_of(log, log.now(), min_lag_us):
        if piece.flags & MARK_COMPACTED:
            clean += piece.used
        else:
            dirty += piece.used
            if oldest is None and piece.inode:
                oldest = piece.header.created
    return clean, dirty, oldest
