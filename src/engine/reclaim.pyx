# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Reclaim: the space of settled messages is given back, also behind one that is not.

    confirm    what a transaction settled is settled for good, once that is on the disk; then the records that say so go
    trim       of each log what lies before the first message that is not settled
    chunks     the states of 65,536 messages that are all settled become the name of an empty file, `<level>-<number>.done`
    sift       a sealed segment in which more than half is settled is written anew without that; offsets stay

Each step is one that a crash may interrupt: a message without a record is not handed out, whatever its state; a record goes only when its
message is settled, and, if by a transaction, when that is on the disk.
"""
import os

from libc.stdint cimport int64_t, uint64_t

from seglog.engine cimport platform
from seglog.engine.delivery cimport Delivery
from seglog.engine.layout cimport CHUNK_SLOTS
from seglog.engine.log cimport Log
from seglog.engine.slots cimport DECIDED, SETTLED, UNTOUCHED, Chunk, Level, attempts_of, deliveries_of, reason_of, state_of

from seglog.engine.compaction import sift
from seglog.engine.segment import sync_directory

cdef enum:
    AT_ONCE = 10000                 # records of acks that are gone through under one hold of the lock
    SPAN_MAX = 1 << 28              # offsets that are sifted at once: 32 MiB of bits


def confirm(Delivery queue not None):
    """What transactions settled, and what is on the disk of it, is settled for good. Raises what a sync raises."""
    cdef Log log = queue.settled
    cdef int64_t stop, start = log.first_offset
    cdef list some
    if platform.load_i64(&log.w.next_offset) <= start:
        return
    log.sync()                      # whatever `fsync` says: a sync may have covered it, and the records that say so go
    stop = log.w.durable_offset
    some = []
    for batch in log.batches(start, stop):
        for record in batch:
            some.extend(queue.settlements_in(record.value or b""))
        if len(some) >= AT_ONCE:
            confirm_some(queue, some)
            some = []
    confirm_some(queue, some)
    queue._sync()
    platform.failpoint("reclaim.confirmed")
    log.trim(stop)


cdef int confirm_some(Delivery queue, list settlements) except -1:
    cdef Level level
    cdef Chunk c
    cdef int64_t i
    cdef uint64_t word
    queue.lock()
    try:
        for number, offset in settlements:
            level = <Level>queue.levels[number]
            c = level.chunk(offset // CHUNK_SLOTS, NULL)
            if c is not None:
                i = offset % CHUNK_SLOTS
                word = c.slots[i].word
                if state_of(word) == DECIDED:
                    level.change(c, i, SETTLED, attempts_of(word), deliveries_of(word), 0, reason_of(word), 0)
    finally:
        queue.unlock(False)
    return 0


cdef int64_t floor_of(Level level) except -1:
    """The lowest offset whose message is not settled for good, or was not handed out."""
    cdef int64_t floor = level.w.cursor, found
    cdef int state
    for state in (1, 2, 3, 4, 5, DECIDED):
        if level.w.n[state]:
            found = level.lowest(state, 0)
            if found >= 0:
                floor = min(floor, found)
    return floor


def reclaim(Delivery queue not None, int64_t older_than, bint keeps, stop=None):
    """Give back what can be. `older_than` (µs): segments with a younger record stay as they are. `keeps`: settled messages are to be read again while
    they are there, so that their states stay too. How many bytes of segment files went."""
    cdef Level level
    cdef int64_t before = 0, after = 0
    for level in queue.levels:
        before += sum([disk for _, _, disk in level.log.segments()])
        trim_level(queue, level, older_than)
        settle_chunks(queue, level, keeps)
        if not keeps:
            sift_level(queue, level, older_than, stop)
        after += sum([disk for _, _, disk in level.log.segments()])
    return max(before - after, 0)


cdef bint is_young(Log log, int64_t base, int64_t end, int64_t older_than) except -1:
    """Whether a record of the segment is younger than `older_than`."""
    if older_than >= <int64_t>1 << 62:
        return False
    newest = log.newest_timestamp(base)
    if newest is None:                  # a power cut came before its index was finished: ask the records
        for batch in log.batches(max(base, log.first_offset), end):
            if max(batch.timestamps.tolist()) > older_than:
                return True
        return False
    return newest > older_than


cdef int trim_level(Delivery queue, Level level, int64_t older_than) except -1:
    cdef int64_t floor, upto = -1
    cdef list bases
    queue.lock()
    try:
        floor = floor_of(level)
    finally:
        queue.unlock(False)
    bases = level.log.current_bases()
    for i in range(len(bases) - 1):
        if bases[i + 1] > floor:
            break
        if is_young(level.log, bases[i], bases[i + 1], older_than):
            break
        upto = bases[i + 1]
    if upto > level.log.first_offset:
        level.log.trim(upto)
    return 0


cdef int settle_chunks(Delivery queue, Level level, bint keeps) except -1:
    cdef Chunk c
    cdef int64_t first = level.log.first_offset, number
    cdef bint changed = False
    queue.lock()
    try:
        if queue.grouping:
            # Lists run through the slots: only what lies before all that waits may go.
            first = min(first, floor_of(level))
            queue.clean_heads()
        for number in [n for n in level.numbers if (n + 1) * CHUNK_SLOTS <= first] + [n for n in level.done if (n + 1) * CHUNK_SLOTS <= first]:
            for name in (f"{level.index}-{number}", f"{level.index}-{number}.done"):
                try:
                    os.unlink(os.path.join(level.folder, name))
                except FileNotFoundError:
                    pass
            changed = True
        if not keeps and not queue.grouping and not changed:
            for number in level.numbers:
                if (number + 1) * CHUNK_SLOTS > level.w.cursor:
                    break
                c = level.chunk(number, NULL)
                if c is None or c.h.n[SETTLED] != sum([c.h.n[k] for k in range(1, 8)]):
                    continue
                path = level.path_of(number)
                os.close(os.open(path + ".done", os.O_CREAT | os.O_RDWR, 0o666))
                sync_directory(level.folder)        # whatever `fsync` says: the words that go may have been synced
                platform.failpoint("reclaim.done")
                level.w.n[SETTLED] -= c.h.n[SETTLED]
                os.unlink(path)
                platform.failpoint("reclaim.unlinked")
                changed = True
        if changed:
            queue.q.chunks += 1
    finally:
        queue.unlock(False)
    return 0


cdef int sift_level(Delivery queue, Level level, int64_t older_than, stop) except -1:
    """Sealed segments in which more than half is settled, as long as some of it is not."""
    cdef list bases = level.log.current_bases(), chosen = []
    cdef int64_t base, end, origin = -1, i, live, count
    cdef bytearray bits = bytearray()
    if len(bases) < 2 or level.w.n[SETTLED] + len(level.done) == 0:
        return 0
    for k in range(len(bases) - 1):
        base, end = bases[k], level.log.end_of(bases, k)
        if end <= level.log.first_offset or end > level.w.cursor:
            continue
        if is_young(level.log, base, end, older_than):
            continue
        if level.sifted.get(base) == end:
            count = level.sifted_live.get(base, 0)
        else:
            count = end - max(base, level.log.first_offset)
        if origin < 0:
            origin = base
        if end - origin > SPAN_MAX:
            break
        queue.lock()
        try:
            live = mark_live(level, bits, origin, base, end)
        finally:
            queue.unlock(False)
        if live * 2 < count:
            chosen.append(base)
    if not chosen:
        return 0
    if sift(level.log, chosen, bits, origin, stop=stop) is not None:
        bases = level.log.current_bases()
        for k in range(len(bases) - 1):
            if bases[k] in chosen:
                # What lives of it now is what it has: it is written anew again when half of that is settled.
                end = level.log.end_of(bases, k)
                queue.lock()
                try:
                    level.sifted_live[bases[k]] = mark_live(level, bytearray(), bases[k], bases[k], end)
                finally:
                    queue.unlock(False)
                level.sifted[bases[k]] = end
    return 0


cdef int64_t mark_live(Level level, bytearray bits, int64_t origin, int64_t start, int64_t stop) except -1:
    """Set the bits of what is not settled for good; how many those are."""
    cdef int64_t offset = start, i, number, live = 0, upto
    cdef Chunk c
    cdef unsigned char *data
    bits.extend(bytes(max((stop - origin + 7) // 8 - len(bits), 0)))
    data = bits
    while offset < stop:
        number = offset // CHUNK_SLOTS
        upto = min(stop, (number + 1) * CHUNK_SLOTS)
        if number in level.done:
            offset = upto
            continue
        c = level.chunk(number, NULL)
        while offset < upto:
            i = offset % CHUNK_SLOTS
            if c is None or state_of(c.slots[i].word) != SETTLED:
                data[(offset - origin) >> 3] |= 1 << ((offset - origin) & 7)
                if c is not None and c.slots[i].word:
                    live += 1
            offset += 1
    return live
