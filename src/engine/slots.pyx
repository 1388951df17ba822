# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Slots: what became of each message of one level of a queue, 32 bytes each, in chunks of 65,536 that all processes map.

    queue/<level>-<number>         a chunk: header, 1,024 blocks, slots; the slot of an offset is at offset - number x 65,536
    queue/<level>-<number>.done    all of them are settled (`reclaim`)

The slot's word is the truth: one aligned store says all of it, so whoever is killed in between leaves the old or the new. Everything else,
counts by state and the earliest times of blocks, chunks and levels, follows from the words, and is counted again after a holder of the lock
died (`recount`), and in a new boot. A message that was never handed out has no slot, or one of zeros: what waits costs nothing here.

After a power cut a word may be an older one, which only means that the message comes again. A word whose check is wrong counts as ready:
again, it only comes once more.

It leaves to `delivery` who may do what, and its lock protects everything here.
"""
import bisect
import errno
import os

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from seglog.engine cimport platform
from seglog.engine.batch cimport Batch, Walk
from seglog.engine.checksum cimport xxh3_64
from seglog.engine.frame cimport FRAME_OK, frame_check
from seglog.engine.layout cimport (
    BLOCK_SLOTS, CHUNK_BLOCKS, CHUNK_BYTES, CHUNK_FIRST, CHUNK_GROWS, CHUNK_HEADER, CHUNK_MAGIC, CHUNK_SLOTS, CHUNK_VERSION, HAS_HEADERS, Block,
    ChunkHeader, LevelWords, MessageSlot,
)
from seglog.engine.liveness cimport Liveness
from seglog.engine.log cimport Log
from seglog.engine.mapping cimport map_fd
from seglog.engine.segment cimport open_file
from seglog.engine.tail cimport FSYNC_NEVER

from seglog.engine.errors import os_error
from seglog.engine.segment import sync_directory

cdef int64_t NEVER = 0x7FFFFFFFFFFFFFFF


cdef int64_t block_min(Block *b, MessageSlot *slots, bint leases) noexcept nogil:
    """The earliest time of the block's slots: of leases, or of what is due or expires."""
    cdef int64_t found = NEVER
    cdef int i, state
    for i in range(BLOCK_SLOTS):
        state = state_of(slots[i].word)
        if (state == LEASED) == leases and state < SETTLED and state != DOOMED and slots[i].when:
            found = min(found, slots[i].when)
    return found


cdef int write_over(int fd, const char *data, int64_t start, int64_t stop) except -99:
    cdef bytes held = data[start:stop]
    return platform.pwrite_all(fd, held, stop - start, start)


cdef class Chunk:
    """65,536 slots of one level, mapped."""

    cdef int grow(self, int64_t i) except -1:
        """Real blocks for slot i and those before: a store into a hole could fail by a signal. Raises StoreFull."""
        cdef int rc, fd
        # Twice as many each time: the others wait meanwhile.
        cdef int64_t wanted = min(max(i - i % CHUNK_GROWS + CHUNK_GROWS, 2 * self.h.allocated), CHUNK_SLOTS)
        if i < self.h.allocated:
            return 0
        fd = open_file(self.path, os.O_RDWR)
        try:
            rc = platform.allocate(fd, CHUNK_FIRST + wanted * <int64_t>sizeof(MessageSlot))
            if rc == -errno.EOPNOTSUPP:
                # Real blocks by writing what is there, which is zeros where nothing was.
                rc = write_over(fd, self.mapping.data, CHUNK_FIRST + self.h.allocated * <int64_t>sizeof(MessageSlot),
                                CHUNK_FIRST + wanted * <int64_t>sizeof(MessageSlot))
        finally:
            os.close(fd)
        if rc:
            raise os_error(rc, "cannot allocate the delivery state in", self.path)
        platform.store_i64(&self.h.allocated, wanted)
        return 0

    cdef int sync(self, Liveness liveness) except -1:
        """Returns when all that was stored before is on the disk. One fdatasync serves all who wait, in whatever process."""
        cdef int64_t wanted = platform.load_i64(&self.h.stored)
        cdef uint32_t holder, me = liveness.my_word()
        while platform.load_i64(&self.h.synced) < wanted:
            if platform.cas_u32(&self.h.sync_lock, 0, me):
                try:
                    self.sync_now()
                finally:
                    platform.exchange_u32(&self.h.sync_lock, 0)
                    platform.wake_u32(&self.h.sync_lock, 0x7FFFFFFF)
                continue
            holder = platform.load_u32(&self.h.sync_lock)
            if holder and not liveness.is_alive(holder):
                platform.cas_u32(&self.h.sync_lock, holder, 0)
            elif holder:
                with nogil:
                    platform.wait_u32(&self.h.sync_lock, holder, 5000)
                PyErr_CheckSignals()
        return 0

    cdef int sync_now(self) except -1:
        cdef int rc, fd
        cdef int64_t i, stored
        try:
            fd = open_file(self.path, os.O_RDWR)
        except FileNotFoundError:           # all of it is settled, and that is on the disk (`reclaim`)
            self.dirty = False
            platform.store_i64(&self.h.synced, self.h.stored)
            return 0
        try:
            if platform.load_u32(&self.h.failed):
                # The kernel may call pages clean that are not on the disk: make them dirty again.
                for i in range(0, self.h.allocated, 128):
                    platform.store_i64(<int64_t *>&self.slots[i].first, platform.load_i64(<int64_t *>&self.slots[i].first))
            self.dirty = False
            stored = platform.load_i64(&self.h.stored)
            with nogil:
                rc = platform.datasync(fd)
            platform.store_u32(&self.h.failed, rc != 0)
        finally:
            os.close(fd)
        if rc:
            self.dirty = True
            raise os_error(rc, "cannot sync the delivery state in", self.path)
        platform.store_i64(&self.h.synced, stored)
        return 0


cdef Chunk map_chunk(str path, int fd):
    cdef Chunk c = Chunk.__new__(Chunk)
    c.path = path
    c.mapping = map_fd(fd, CHUNK_BYTES, True)
    c.h = <ChunkHeader *>c.mapping.data
    c.blocks = <Block *>(c.mapping.data + CHUNK_HEADER)
    c.slots = <MessageSlot *>(c.mapping.data + CHUNK_FIRST)
    return c


cdef class Reader:
    """The records of a log from some offset on, one at a time, checked in runs."""

    def __cinit__(self, Log log):
        self.log = log

    cdef int begin(self, Batch batch) except -1:
        """At the first record of a batch."""
        cdef Walk walk = Walk.__new__(Walk)
        walk.batch, walk.position, walk.left = batch, batch.start, batch.count
        walk.c.count = walk.i = 0
        self.batch, self.walk = batch, walk
        self.plain = batch.count == batch.next_offset - batch.first_offset and not batch.any_frame(HAS_HEADERS)
        walk.advance(&self.e)
        return 0

    cdef int seek(self, int64_t offset, int64_t stop) except -1:
        """1, and `e` is the first record at or behind `offset`; 0 when there is none below `stop`. Over as many batches as lie between: whoever
        gave up early would take a message for one without a record."""
        cdef int64_t at = offset
        cdef Batch batch
        while True:
            if self.batch is None or at >= self.batch.next_offset or offset < self.e.offset:
                # Backwards, or to one that this run jumps over: `e` is behind it then, and asked for only when a gap lies between.
                if at >= stop:
                    return 0
                if self.batch is not None and 0 <= at - self.batch.next_offset < AHEAD \
                        and self.batch.next_offset >= platform.load_i64(&self.log.w.first_offset):
                    # Perhaps over some that another process has: nearer than by way of an index.
                    batch = self.log.following(self.batch, stop, AHEAD)
                else:
                    batch = self.log.collect(at, stop, AHEAD, AHEAD_BYTES)
                if batch is None:
                    return 0
                self.begin(batch)
            while self.e.offset < offset:
                if not self.walk.advance(&self.e):
                    at = max(offset, self.batch.next_offset)
                    break
            else:
                return 1


cdef class Level:
    """The messages of one priority, or those that are delayed."""

    def __cinit__(self, Log log, int index, str folder):
        self.log, self.index, self.folder = log, index, folder
        self.chunks, self.numbers, self.done, self.seen = {}, [], set(), -1
        self.sifted, self.sifted_live = {}, {}
        self.front, self.back = Reader(log), Reader(log)

    # ---- chunks ------------------------------------------------------------------------------------------------

    cdef int look(self, int64_t version) except -1:
        """Under the lock: which chunks there are, if that changed."""
        cdef str begin
        if version == self.seen:
            return 0
        begin = f"{self.index}-"
        names = [name[len(begin):] for name in os.listdir(self.folder) if name.startswith(begin)]
        self.done = {int(name[:-5]) for name in names if name.endswith(".done") and name[:-5].isdigit()}
        self.numbers = sorted([int(name) for name in names if name.isdigit() and int(name) not in self.done])
        for number in list(self.chunks):
            if number not in self.numbers:
                del self.chunks[number]
        self.near = None
        self.seen = version
        return 0

    cdef Chunk chunk(self, int64_t number, int64_t *version):
        """The chunk; made when there is none and `version`, which counts chunks, is given; else None then."""
        cdef Chunk c = self.near
        if c is not None and c.h.number == number:
            return c
        c = self.chunks.get(number)
        if c is None:
            i = bisect.bisect_left(self.numbers, number)
            if i < len(self.numbers) and self.numbers[i] == number:
                c = self.opened(number)
            if c is None:
                if version == NULL:
                    return None
                c = self.made(number)
                version[0] += 1
                bisect.insort(self.numbers, number)
                self.seen = version[0]
            self.chunks[number] = c
        self.near = c
        return c

    def path_of(self, number):
        return os.path.join(self.folder, f"{self.index}-{number}")

    cdef Chunk opened(self, int64_t number):
        """None for a file that is no chunk of this level: it is put aside, and its messages come again."""
        cdef Chunk c
        cdef str path = self.path_of(number)
        cdef int fd = open_file(path, os.O_RDWR)
        try:
            if os.fstat(fd).st_size <= CHUNK_BYTES:
                os.ftruncate(fd, CHUNK_BYTES)           # a power cut may have left it shorter
                c = map_chunk(path, fd)
                if c.h.magic == CHUNK_MAGIC and c.h.version == CHUNK_VERSION and c.h.level == <uint32_t>self.index and c.h.number == number \
                        and c.h.partition_id == self.log.w.partition_id and c.h.hash == xxh3_64(<const char *>c.h, 32):
                    return c
        finally:
            os.close(fd)
        os.replace(path, path + ".bad")
        self.numbers.remove(number)
        return None

    cdef Chunk made(self, int64_t number):
        """Header, blocks and the first slots are written in one go, and mapped then: to touch each page in the map costs several times as much."""
        cdef str path = self.path_of(number)
        cdef str new = path + ".new"
        cdef int fd = open_file(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC), rc
        cdef bytes image = bytes(CHUNK_FIRST + 4096)
        cdef ChunkHeader *h = <ChunkHeader *>PyBytes_AS_STRING(image)
        cdef Block *blocks = <Block *>(PyBytes_AS_STRING(image) + CHUNK_HEADER)
        cdef Chunk c
        try:
            h.magic, h.version, h.level, h.number = CHUNK_MAGIC, CHUNK_VERSION, <uint32_t>self.index, number
            h.partition_id = self.log.w.partition_id
            h.hash = xxh3_64(<const char *>h, 32)
            h.allocated = CHUNK_GROWS
            h.lease_min = h.due_min = NEVER
            for i in range(CHUNK_BLOCKS):
                blocks[i].lease_min = blocks[i].due_min = NEVER
            os.ftruncate(fd, CHUNK_BYTES)
            rc = platform.allocate(fd, CHUNK_FIRST + CHUNK_GROWS * <int64_t>sizeof(MessageSlot))
            if rc == -errno.EOPNOTSUPP:
                rc = platform.pwrite_all(fd, bytes(CHUNK_GROWS * sizeof(MessageSlot)), CHUNK_GROWS * <int64_t>sizeof(MessageSlot), CHUNK_FIRST)
            if rc == 0:
                rc = platform.pwrite_all(fd, PyBytes_AS_STRING(image), CHUNK_FIRST + 4096, 0)
            if rc:
                raise os_error(rc, "cannot allocate the delivery state in", path)
            c = map_chunk(path, fd)
            if self.log.fsync != FSYNC_NEVER:
                rc = platform.datasync(fd)          # whoever finds the name after a power cut finds a chunk
                if rc:
                    raise os_error(rc, "cannot sync the delivery state in", path)
        except BaseException:
            os.unlink(new)
            raise
        finally:
            os.close(fd)
        platform.failpoint("chunk.made")
        os.rename(new, path)
        platform.failpoint("chunk.named")
        if self.log.fsync != FSYNC_NEVER:
            sync_directory(self.folder)
        return c

    # ---- states ------------------------------------------------------------------------------------------------

    cdef void change(self, Chunk c, int64_t i, int state, int attempts, int deliveries, int owner, int reason, int64_t when) noexcept:
        """The slot's new state: the word first, which is the truth, then what is counted. The slot has real blocks."""
        cdef MessageSlot *s = &c.slots[i]
        cdef Block *b = &c.blocks[i // BLOCK_SLOTS]
        cdef int old = state_of(s.word)
        cdef int64_t offset = c.h.number * CHUNK_SLOTS + i
        s.when = when
        platform.store_i64(<int64_t *>&s.word, <int64_t>word_of(state, attempts, deliveries, owner, reason, offset))
        c.dirty = True
        platform.failpoint("slot.stored")
        if old != UNTOUCHED:
            b.n[old] -= 1
            c.h.n[old] -= 1
            self.w.n[old] -= 1
        b.n[state] += 1
        c.h.n[state] += 1
        self.w.n[state] += 1
        platform.store_i64(&c.h.stored, c.h.stored + 1)
        if state == LEASED:
            b.lease_min = min(b.lease_min, when)
            c.h.lease_min = min(c.h.lease_min, when)
            self.w.lease_min = min(self.w.lease_min, when)
        elif when and state < DOOMED or (when and state == WAITING):
            b.due_min = min(b.due_min, when)
            c.h.due_min = min(c.h.due_min, when)
            self.w.due_min = min(self.w.due_min, when)
        if state == READY and offset < self.w.ready_from:
            self.w.ready_from = offset

    cdef int64_t lease_untouched(self, Chunk c, int64_t i, int64_t n, int owner, int64_t when, int64_t wall) noexcept:
        """Lease the slots from i on, for the first time, as far as nobody touched them: at most n, in one block. How many."""
        cdef Block *b = &c.blocks[i // BLOCK_SLOTS]
        cdef MessageSlot *s
        cdef int64_t at = i, stop = min(i + n, (i // BLOCK_SLOTS + 1) * BLOCK_SLOTS)
        while at < stop and c.slots[at].word == 0:
            s = &c.slots[at]
            s.when, s.first = when, wall
            platform.store_i64(<int64_t *>&s.word, <int64_t>word_of(LEASED, 1, 1, owner, 0, c.h.number * CHUNK_SLOTS + at))
            platform.failpoint("slot.stored")
            at += 1
        n = at - i
        if n:
            c.dirty = True
            b.n[LEASED] += <uint8_t>n
            c.h.n[LEASED] += <uint32_t>n
            self.w.n[LEASED] += n
            platform.store_i64(&c.h.stored, c.h.stored + n)
            b.lease_min = min(b.lease_min, when)
            c.h.lease_min = min(c.h.lease_min, when)
            self.w.lease_min = min(self.w.lease_min, when)
        return n

    cdef void count_settled(self, Chunk c, int64_t block, int64_t n) noexcept:
        """n slots of a block whose words said LEASED say SETTLED by now."""
        c.dirty = True
        c.blocks[block].n[LEASED] -= <uint8_t>n
        c.blocks[block].n[SETTLED] += <uint8_t>n
        c.h.n[LEASED] -= <uint32_t>n
        c.h.n[SETTLED] += <uint32_t>n
        self.w.n[LEASED] -= n
        self.w.n[SETTLED] += n
        platform.store_i64(&c.h.stored, c.h.stored + n)

    cdef int64_t lowest(self, int state, int64_t start) except -2:
        """The lowest offset from `start` on in this state; -1 when there is none."""
        cdef Chunk c
        cdef int64_t number, i, b
        if self.w.n[state] == 0:
            return -1
        for number in self.numbers[bisect.bisect_left(self.numbers, start // CHUNK_SLOTS):]:
            c = self.chunk(number, NULL)
            if c is None or c.h.n[state] == 0:
                continue
            i = max(start - number * CHUNK_SLOTS, 0)
            b = i // BLOCK_SLOTS
            while b < CHUNK_BLOCKS:
                if c.blocks[b].n[state]:
                    i = max(i, b * BLOCK_SLOTS)
                    while i < (b + 1) * BLOCK_SLOTS:
                        if state_of(c.slots[i].word) == state:
                            return number * CHUNK_SLOTS + i
                        i += 1
                b += 1
        return -1

    cdef int64_t untouched(self) noexcept:
        """How many messages were never handed out, and are not settled either."""
        return max(platform.load_i64(&self.log.w.next_offset) - self.w.cursor - self.w.gap - self.w.ahead, 0)

    cdef int recount(self, bint anew, int64_t *damaged) except -1:
        """Everything that follows from the words, from the words. `anew`: in a new boot, where no lease of the last one holds."""
        cdef LevelWords *w = self.w
        cdef Chunk c
        cdef int64_t number, i, j, first, offset, highest = -1, cursor = w.cursor, start, end, ahead = 0, at
        cdef uint64_t word
        cdef int state
        cdef Block *b
        cdef list bases = self.log.current_bases()
        cdef list extents = [(bases[i], self.log.end_of(bases, i)) for i in range(len(bases))]
        memset(w.n, 0, sizeof(w.n))
        w.lease_min = w.due_min = NEVER
        w.ready_from = NEVER
        for number in list(self.numbers):
            c = self.chunk(number, NULL)
            if c is None:
                continue
            if anew:
                # No message has an offset as high as the log's end: what says so is damage, and would hide the one that gets it.
                damaged[0] += self.forget(c, platform.load_i64(&self.log.w.next_offset), (number + 1) * CHUNK_SLOTS)
                # Nor does one lie between segments, or before the first: a power cut took it, or the word that it was settled.
                at = number * CHUNK_SLOTS
                for start, end in extents[max(bisect.bisect_right(bases, at) - 1, 0):]:
                    self.forget(c, at, min(max(start, self.log.first_offset), (number + 1) * CHUNK_SLOTS))
                    at = max(at, end)
                    if at >= (number + 1) * CHUNK_SLOTS:
                        break
                i = self.last_touched(c)
                c.h.sync_lock = 0
                c.h.stored, c.h.synced = 1, 0
                if not 0 <= c.h.allocated <= CHUNK_SLOTS:
                    c.h.allocated = 0
                if i >= 0:
                    c.grow(i)           # how far it grew may not have reached the disk
                    self.give_back_all(c, damaged)
                    highest = number * CHUNK_SLOTS + i
        for number in self.done:
            highest = max(highest, (number + 1) * CHUNK_SLOTS - 1)
        if anew:
            # Below the highest one that was handed out, all that says nothing is ready.
            first = self.log.first_offset
            cursor = first
            for start, end in extents:
                offset = max(start, first)
                if highest >= offset:
                    self.touch(offset, min(end, highest + 1))
                    cursor = min(end, highest + 1)
                    if cursor == highest + 1:
                        break
            cursor = max(cursor, highest + 1)
        for number in self.numbers:
            c = self.chunk(number, NULL)
            memset(c.h.n, 0, sizeof(c.h.n))
            c.h.lease_min = c.h.due_min = NEVER
            for j in range(CHUNK_BLOCKS):
                b = &c.blocks[j]
                memset(b.n, 0, sizeof(b.n))
                if j * BLOCK_SLOTS < c.h.allocated:
                    for i in range(j * BLOCK_SLOTS, (j + 1) * BLOCK_SLOTS):
                        state = state_of(c.slots[i].word)
                        if state:
                            b.n[state] += 1
                            offset = number * CHUNK_SLOTS + i
                            if state == READY and offset < w.ready_from:
                                w.ready_from = offset
                            if offset >= cursor:
                                ahead += 1
                b.lease_min = block_min(b, &c.slots[j * BLOCK_SLOTS], True) if b.n[LEASED] else NEVER
                b.due_min = block_min(b, &c.slots[j * BLOCK_SLOTS], False) if j * BLOCK_SLOTS < c.h.allocated else NEVER
                c.h.lease_min = min(c.h.lease_min, b.lease_min)
                c.h.due_min = min(c.h.due_min, b.due_min)
                for state in range(1, 8):
                    c.h.n[state] += b.n[state]
            for state in range(1, 8):
                w.n[state] += c.h.n[state]
            w.lease_min = min(w.lease_min, c.h.lease_min)
            w.due_min = min(w.due_min, c.h.due_min)
        w.cursor, w.ahead = cursor, ahead
        # Offsets that were reserved and never given out lie between segments.
        w.gap = max(self.log.end_of(bases, len(bases) - 1) - cursor, 0)
        for start, end in extents:
            w.gap -= max(end - max(start, cursor), 0)
        return 0

    cdef int give_back_all(self, Chunk c, int64_t *damaged) except -1:
        """In a new boot: whoever had a message has it no more; what a transaction settled is asked of its log again; what a group
        waits for is found again."""
        cdef int64_t i, offset
        cdef uint64_t word
        cdef int state
        for i in range(CHUNK_SLOTS):
            word = c.slots[i].word
            if word == 0:
                continue
            offset = c.h.number * CHUNK_SLOTS + i
            state = state_of(word)
            c.slots[i].group = 0
            if state == UNTOUCHED or word >> 48 != check_of(word & 0xFFFFFFFFFFFF, offset):
                damaged[0] += 1
                c.slots[i].word = word_of(READY, 0, 0, 0, 0, offset)
                c.slots[i].when = 0
            elif state == LEASED or state == DECIDED or state == WAITING:
                if state == LEASED:
                    c.slots[i].when = 0
                elif state == WAITING:
                    c.slots[i].first = 0
                c.slots[i].word = word_of(READY, attempts_of(word), deliveries_of(word), 0, 0, offset)
        return 0

    cdef int64_t forget(self, Chunk c, int64_t start, int64_t stop) except -1:
        """Slots of offsets start .. stop-1 say nothing; how many did."""
        cdef int64_t i, n = 0, base = c.h.number * CHUNK_SLOTS
        for i in range(max(start - base, 0), stop - base):
            if c.slots[i].word or c.slots[i].when:
                c.grow(i)
                memset(&c.slots[i], 0, sizeof(MessageSlot))
                n += 1
        return n

    cdef int64_t last_touched(self, Chunk c) except -2:
        cdef int64_t i = CHUNK_SLOTS - 1
        while i >= 0 and c.slots[i].word == 0:
            i -= 1
        return i

    cdef int touch(self, int64_t start, int64_t stop) except -1:
        """Messages start .. stop-1 that have no state are ready. Where a chunk is missing, so is the state of all of its messages."""
        cdef Chunk c
        cdef int64_t offset = start, number, i, version = 0
        while offset < stop:
            number, i = offset // CHUNK_SLOTS, offset % CHUNK_SLOTS
            if number in self.done:
                offset = (number + 1) * CHUNK_SLOTS
                continue
            c = self.chunk(number, &version)
            c.grow(min(stop - number * CHUNK_SLOTS, <int64_t>CHUNK_SLOTS) - 1)
            while i < CHUNK_SLOTS and offset < stop:
                if c.slots[i].word == 0:
                    c.slots[i].word = word_of(READY, 0, 0, 0, 0, offset)
                    c.slots[i].when = 0
                i += 1
                offset += 1
        return 0
