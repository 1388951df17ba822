# layout: where every field of every file lies. The one place that numbers come from; docs/format.md draws it.
#
# Structs hold only naturally aligned little-endian integers, so the C compiler adds no padding; `tests/format`
# checks each offset against an independent reader.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    FORMAT_VERSION = 1

    # ---- frame: 64 bytes, then the body, padded to 8 ----
    FRAME_MAGIC = 0x01424C53            # "SLB" and 1, the frame's own version
    FRAME_HEADER = 64
    FRAME_HASHED = 56                   # the header hash covers the bytes before itself
    FRAME_BYTES_MAX = 1 << 30           # int32 offsets address the blobs; 1 GiB leaves room for the columns

    # frame flags, in the order their columns stand in the body
    HAS_TIMESTAMPS = 1                  # int64[n]: the records' timestamps differ
    HAS_DELTAS = 2                      # int32[n]: offset - base_offset, where offsets have gaps
    HAS_KEYS = 4                        # int32[n+1]
    HAS_KEY_NULLS = 8                   # bitmap of n bits: 1 = there is a key
    HAS_HEADERS = 16                    # int32[n+1]
    FIXED_STRIDE = 32                   # no value offsets: the values have one length
    HAS_NULLS = 64                      # bitmap of n bits: 1 = there is a value (0: tombstone)
    IN_TRANSACTION = 128                # holds only if the transaction log has a record of it
    KNOWN_FLAGS = 255

    # codecs of the blobs
    CODEC_NONE = 0
    CODEC_ZSTD = 1
    CODEC_LZ4 = 2

    # ---- segment ----
    SEGMENT_VERSION = 1
    SEGMENT_HEADER = 4096               # one page; frames begin behind it
    SEGMENT_BYTES_MAX = 0x7FFFF000      # positions are 32 bits in an index, with room to spare
    SEGMENT_COPY = 2048                 # the header stands twice, in sectors far apart: one rotten bit cannot
                                        # take the salt, and with it every record of the segment
    MARK_A = 512                        # durable mark slots, each in its own sector: a torn write hits one
    MARK_B = 1024
    MARK_SEALED = 1                     # end_position and end_offset are final
    MARK_CLEAN = 2                      # closed cleanly: nothing was ever appended behind durable_position
    MARK_UNSYNCED = 4                   # written with fsync="never": says nothing about what is on disk
    MARK_COMPACTED = 8                  # holds of each key only what is kept, seen from its own end
    MARK_MERGED = 16                    # written by a compaction: segments that begin below end_offset are in here
    SEGMENT_SPARSE = 1                  # not allocated: to be written by pwrite, never through the map

    # ---- index ----
    INDEX_VERSION = 1
    INDEX_HEADER = 64
    INDEX_EVERY = 4096                  # bytes of frames between two entries
    INDEX_SEALED = 1

    # ---- committed positions ----
    PLACE_MAGIC = 0x50434C53            # "SLCP"
    PLACE_SECTOR = 512                  # each slot in its own: a torn write costs one of a pair
    PLACE_PAIR = 1024
    PLACE_OWNER = 64                    # where in a pair the owner stands
    PLACE_YOUNG = 128                   # and two more slots, for this boot only: what may not be on disk before a transaction is

    # ---- shared memory of a partition (transient, native) ----
    SHARED_VERSION = 2
    SHARED_BYTES = 4096
    SHARED_READY = 1
    SHARED_FAILED = 2                   # a sync failed; only recovery makes it ready again
    SHARED_DELETED = 3

    # ---- delivery state of a queue: chunks of slots, one slot per message ----
    CHUNK_VERSION = 1
    CHUNK_SLOTS = 65536
    BLOCK_SLOTS = 64
    CHUNK_BLOCKS = 1024
    CHUNK_HEADER = 4096
    CHUNK_TABLE = 32768                 # the blocks, 32 bytes each, behind the header
    CHUNK_FIRST = 36864                 # the slots, behind the blocks
    CHUNK_BYTES = 2134016               # 36,864 + 65,536 x 32
    CHUNK_GROWS = 4096                  # slots that are allocated at first, then twice as many each time

    # ---- shared memory of a queue (transient, native): a page of SharedWords, one of QueueWords, then these ----
    QUEUE_VERSION = 1
    QUEUE_LEVELS = 8192                 # where LevelWords begin: 258 of them
    QUEUE_OWNERS = 45056                # where OwnerWords begin, one per process slot
    QUEUE_BYTES = 110592                # the whole file
    LEVELS_MAX = 258

    # ---- shared memory of a store: process slots ----
    SLOTS = 1024
    SLOT_HEADER = 4096


cdef extern from *:
    """
    #define SEGLOG_SEGMENT_MAGIC 0x31474553474F4C53ULL  /* "SLOGSEG1" */
    #define SEGLOG_INDEX_MAGIC   0x31584449474F4C53ULL  /* "SLOGIDX1" */
    #define SEGLOG_SHARED_MAGIC  0x314D4853474F4C53ULL  /* "SLOGSHM1" */
    #define SEGLOG_SLOTS_MAGIC   0x31544C53474F4C53ULL  /* "SLOGSLT1" */
    #define SEGLOG_CHUNK_MAGIC   0x314B4843474F4C53ULL  /* "SLOGCHK1" */
    #define SEGLOG_QUEUE_MAGIC   0x31455551474F4C53ULL  /* "SLOGQUE1" */
    """
    const uint64_t SEGMENT_MAGIC "SEGLOG_SEGMENT_MAGIC"
    const uint64_t INDEX_MAGIC "SEGLOG_INDEX_MAGIC"
    const uint64_t SHARED_MAGIC "SEGLOG_SHARED_MAGIC"
    const uint64_t SLOTS_MAGIC "SEGLOG_SLOTS_MAGIC"
    const uint64_t CHUNK_MAGIC "SEGLOG_CHUNK_MAGIC"
    const uint64_t QUEUE_MAGIC "SEGLOG_QUEUE_MAGIC"
    const int64_t LOWEST "INT64_MIN"    # below every timestamp: nothing was seen yet


cdef struct FrameHeader:
    uint32_t magic
    uint32_t body_length                # bytes of body before the padding to a multiple of 8
    int64_t base_offset
    uint32_t count                      # records, 1 .. span: less than span only where compaction left gaps
    uint16_t flags
    uint8_t codec
    uint8_t reserved                    # 0
    int64_t base_timestamp              # us since the epoch, of the first record
    int64_t max_timestamp
    uint32_t epoch
    uint32_t span                       # offsets it covers: the next frame starts at base_offset + span
    uint64_t body_hash                  # XXH3-64 of the body
    uint64_t header_hash                # XXH3-64, seeded with the segment's salt, of the 56 bytes before


cdef struct SegmentHeader:
    uint64_t magic
    uint32_t version
    uint32_t header_length              # 4096
    int64_t base_offset
    uint64_t salt
    int64_t capacity                    # bytes of the file, header included
    int64_t reserved_offset             # no record of this segment has an offset as high as this
    int64_t created                     # us since the epoch
    uint32_t epoch                      # the epoch it was created in
    uint32_t flags                      # SEGMENT_*
    uint64_t partition_id               # random, the same in every segment of a partition
    int64_t previous_end                # the offset at which the segment before this one ended
    int64_t start_offset                # the partition's first offset when this was created
    uint64_t header_hash                # XXH3-64 of the 88 bytes before


cdef struct Mark:
    uint64_t sequence                   # the higher of the two valid slots counts
    int64_t durable_position            # all bytes before were on disk when this was written
    int64_t durable_offset              # the offset that follows the last durable record
    int64_t start_offset                # the partition's first offset (trim)
    int64_t end_position                # with MARK_SEALED
    int64_t end_offset
    uint32_t flags
    uint32_t epoch
    uint64_t hash                       # XXH3-64, seeded with the segment's salt, of the 56 bytes before


cdef struct PlaceSlot:                  # a group's place in a partition; two of them, in turn
    uint32_t magic                      # "SLCP"
    uint32_t partition                  # 0xFFFFFFFF: the pair that says how many partitions follow
    int64_t offset                      # of the next record to be received
    uint64_t sequence
    uint32_t epoch                      # of the partition, when it was committed
    uint32_t generation                 # of the group
    uint64_t topic
    int64_t timestamp
    uint64_t file                       # in the first pair: the file's own number, random; else 0
    uint64_t hash                       # XXH3-64 of the 56 bytes before


cdef struct PlaceOwner:                 # behind slot A: which member may commit; transient, native
    uint64_t home                       # boot, device and inode: what another boot or a copy says is void, the young slots too
    int64_t member                      # 0, or who: the process's liveness word << 32 | the member's number
    uint64_t pending                    # 0, or the sequence of a commit whose transaction may have been decided
    int64_t pending_from                # then its decision stands in the transaction log at or behind this offset
    int64_t decision                    # behind the last decision that the young slots wait for


cdef struct IndexHeader:
    uint64_t magic
    uint32_t version
    uint32_t flags
    uint64_t salt                       # of the segment it describes
    uint64_t boot                       # hash of the boot id under which it was written
    uint32_t count                      # entries
    uint32_t reserved
    uint64_t hash                       # with INDEX_SEALED: XXH3-64 of the entries, seeded with that of the next 16 bytes
    int64_t max_timestamp               # with INDEX_SEALED: of the whole segment
    int64_t end_offset                  # with INDEX_SEALED: where the segment ended when this was written


cdef struct IndexEntry:
    uint32_t offset_delta               # of the frame's base offset from the segment's
    uint32_t position                   # of the frame, in bytes from the start of the file
    int64_t max_timestamp               # of everything in the segment before that frame


# Each group of words has 128 bytes of its own: two cache lines, because neighbours are fetched in pairs.
cdef struct SharedWords:
    # who made it
    uint64_t magic
    uint32_t version
    uint32_t state                      # SHARED_*
    uint64_t boot
    uint64_t device
    uint64_t inode
    uint64_t partition_id
    uint32_t incarnation                # +1 each time it is rebuilt: an old handle must not go on
    uint32_t _a
    uint64_t _pad0[9]
    # the lock
    uint32_t lock                       # 0, or the holder's slot and generation
    uint32_t lock_wanted                # somebody sleeps on it
    uint64_t _pad1[15]
    # the tail; written under the lock. next_offset is the watermark: published last, by a release store
    int64_t next_offset
    int64_t tail_position               # where next_offset will be written; lags when a writer died in between
    int64_t active_base                 # the segment being written
    uint64_t active_salt                # its salt: also tells a segment from the one it replaced
    int64_t max_timestamp               # of the active segment
    int64_t indexed_position            # of the last frame with an index entry
    uint32_t epoch
    uint32_t attention                  # not 0: an append must look before it goes on (ATTENTION_*)
    int64_t first_offset
    int64_t segments                    # +1 whenever the list of segments changes
    # a transaction of whoever holds the lock: stored beyond the watermark, and what the two above will be when it is decided
    uint32_t pending                    # 1: what follows counts
    uint32_t _c
    int64_t pending_next
    int64_t pending_position
    int64_t pending_timestamp
    int64_t pending_from                # the decision, if there is one, is in the transaction log at or after this offset
    int64_t decided                     # behind the last decision about this partition; of the transaction log itself: behind the
                                        # last one that is on disk with all its parts
    int64_t zeroed                      # up to here the active segment's pages are in the cache, written with zeros: a hint (fsync="never")
    # durability
    int64_t durable_offset
    int64_t durable_position            # in durable_base
    int64_t durable_base                # every segment before this one is on disk whole
    uint32_t sync_lock
    uint32_t sync_bell
    uint32_t sync_waiting
    uint32_t _b
    uint64_t _pad3[11]
    # the bell
    uint32_t bell
    uint32_t bell_waiting
    uint64_t _pad4[15]


cdef struct MessageSlot:                # the state of one message
    uint64_t word                       # 0: never handed out. Else state, attempts, deliveries, owner, reason and a check of them (slots.pyx)
    int64_t when                        # us: of a lease its end (monotonic), else when it is due, or expires (wall clock)
    int64_t first                       # us since the epoch: when it was handed out first; of one that waits: the next one of its group
    uint32_t group                      # FIFO queues: its group's number; transient
    uint32_t _pad


cdef struct Block:                      # of 64 slots; derived from them
    int64_t lease_min                   # no lease ends before
    int64_t due_min                     # nothing is due, or expires, before
    uint8_t n[8]                        # how many by state
    uint64_t _pad


cdef struct ChunkHeader:
    uint64_t magic
    uint32_t version
    uint32_t level
    int64_t number                      # of the chunk: its first slot is that of offset number x 65,536
    uint64_t partition_id               # of the log whose messages these are
    uint64_t hash                       # XXH3-64 of the 32 bytes before
    # derived, except `allocated`
    int64_t allocated                   # slots that have real blocks in the file
    int64_t lease_min
    int64_t due_min
    uint32_t n[8]
    uint32_t failed                     # a sync of it failed: the next one stores all of it again first
    uint32_t sync_lock                  # who syncs it: his liveness word
    int64_t stored                      # changes so far, of this boot
    int64_t synced                      # of those on the disk


cdef struct QueueWords:                 # behind the lock and the bell of the first page
    uint64_t magic
    uint32_t version
    uint32_t rebuilding                 # counters and lists are being made anew from the slots
    uint64_t queue_id
    int64_t chunks                      # +1 whenever a chunk comes or goes
    int64_t settle_seen                 # the log of acks in transactions was taken in up to here
    int64_t probed                      # us, monotonic: when the owners' lives were last asked for
    int64_t active                      # single active consumer: liveness word << 32 | number; 0: nobody
    int64_t expired
    int64_t dropped
    int64_t dead
    int64_t bytes_out                   # bounded by bytes: of all that was handed out or settled
    int64_t dedup                       # us since the epoch: when somebody sent with a dedup_id last; 0: nobody
    int64_t damaged                     # slots whose check was wrong
    int64_t turn                        # weighted levels, fair groups
    uint32_t space_bell                 # senders that wait for room
    uint32_t space_waiting
    int64_t groups                      # the number of the table of groups; 0: none yet
    int64_t bytes_in                    # bounded by bytes: of all that was made ready


cdef struct LevelWords:                 # 128 bytes
    int64_t cursor                      # what is here and behind was never handed out
    int64_t gap                         # offsets from the cursor on that no record has
    int64_t ahead                       # records from the cursor on that are settled already
    int64_t ready_from                  # nothing before is READY
    int64_t scanned                     # records before were looked at for a time to live of their own
    int64_t lease_min
    int64_t due_min
    int64_t credit                      # weighted: what it is owed
    int64_t n[8]                        # slots by state


cdef struct OwnerWords:                 # the process that has this slot of the store, and how many messages it holds
    uint32_t word
    uint32_t _pad
    int64_t leased
    int64_t acked                       # by whoever had this row
    uint64_t _pad0[5]                   # a line of its own: two that work at once store here at each receive and ack


cdef enum:
    ATTENTION_CLEAN = 1                 # the clean mark must go before the next record comes
    ATTENTION_FAILED = 2
    ATTENTION_DELETED = 4
    ATTENTION_REPAIR = 8                # a holder died, and the repair behind it did not end well yet


cdef inline int64_t align8(int64_t n) noexcept nogil:
    return (n + 7) & ~<int64_t>7


cdef inline int64_t frame_length(const FrameHeader *h) noexcept nogil:
    return FRAME_HEADER + align8(h.body_length)


cdef inline int64_t next_offset_of(const FrameHeader *h) noexcept nogil:
    return h.base_offset + h.span
