"""Config: the settings of a store and of a topic, checked, frozen, and each with its unit, default and reason.

A `StoreConfig` belongs to one opening of a store: two processes may open one directory with different ones. A
`TopicConfig` belongs to the topic: it is written down when the topic is created, and whoever opens it later gets it.

>>> TopicConfig(partitions=4).segment_bytes
67108864
>>> TopicConfig(partitions=0)
Traceback (most recent call last):
seglog.engine.errors.ConfigError: partitions is 0; it must be an int of 1 .. 4,096. Nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

from seglog.dtypes import dtype_of, text_of
from seglog.errors import ConfigError, UnsupportedFormat
from seglog.names import check_name

__all__ = [
    "Codec",
    "Fsync",
    "Partitioner",
    "Recover",
    "StoreConfig",
    "TopicConfig",
    "Write",
]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

Fsync = Literal["never", "interval", "always"]
Recover = Literal["raise", "skip"]
Write = Literal["auto", "map", "pwrite"]
Codec = Literal["none", "zstd", "lz4"]
Partitioner = Literal["xxh3", "murmur2", "custom"]

SECONDS_MAX = 1e8  # three years: beyond it, somebody meant another unit
PARTITIONS_MAX = 4096  # each is a directory, a map and a few descriptors in every process that opens it
SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX = 64 * KIB, 2 * GIB  # positions inside a segment are 32-bit in its index
BATCH_BYTES_MIN, BATCH_BYTES_MAX = 4 * KIB, 64 * MIB
COMPACT_KEEP_MAX = 1000  # each takes 8 bytes a key while compacting
RECORD_BYTES_MAX = 512 * MIB  # lengths inside a frame are 32-bit and signed


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """How this process uses a store. Raises ConfigError for a value that cannot work."""

    fsync: Fsync = "interval"
    """What survives a power cut. "always": a record is on disk before its send returns. "interval": at most the
    last `fsync_interval` is at risk. "never": the kernel decides, often 30 s. What a send returned survives the
    death of the process in all three. The default risks a tenth of a second and costs almost nothing."""

    fsync_interval: float = 0.1
    """Seconds from one background sync to the next, with "interval". Shorter only makes the disk busier."""

    segment_bytes: int = 64 * MIB
    """Bytes of a full segment of a topic that is created without its own `segment_bytes`. Topics begin with small
    segments and double them up to this, so a thousand small topics cost little; trimming frees whole segments."""

    recover: Recover = "raise"
    """What a read does at a frame that fails its hash. "raise": CorruptBatch, naming where to read on. "skip": go
    on behind it; `verify()` tells what was skipped. Damage should be seen before it is accepted: "raise"."""

    write: Write = "auto"
    """How bytes reach a segment. "map" stores through the mapping, "pwrite" calls the system, "auto" takes the
    first where the file system can promise that a store does not fail. To be forced in tests, or by advice."""

    upkeep: bool = True
    """Whether a background thread does the interval syncs and the rolling by age; without it call `store.upkeep()`."""

    lock_timeout: float = 30.0
    """Seconds to wait for a lock that a live process holds before LockTimeout. Locks are held for nanoseconds; only a
    stopped process holds one longer, and it is never displaced."""

    allow_network: bool = False
    """Whether to open a store on a network file system (NFS, SMB, 9p, ...). Its memory maps are not shared between
    machines and its locks may not be, so two machines that write there destroy each other's records: refused, unless
    you know that only one machine ever opens it."""

    def __post_init__(self) -> None:
        choice("fsync", self.fsync, get_args(Fsync))
        number("fsync_interval", self.fsync_interval, 0.001, 3600.0)
        integer("segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
        choice("recover", self.recover, get_args(Recover))
        choice("write", self.write, get_args(Write))
        flag("upkeep", self.upkeep)
        flag("allow_network", self.allow_network)
        number("lock_timeout", self.lock_timeout, 0.001, SECONDS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicConfig:
    """What a topic is. Raises ConfigError for a value that cannot work."""

    partitions: int = 1
    """How many logs the topic consists of. Records are in order inside one; each is read by one member of a group, so
    this bounds how many share the work. It can grow later; with it, keys move. One keeps everything in order."""

    segment_bytes: int = 64 * MIB
    """Bytes of a full segment: what trimming frees at once, and what recovery reads at most."""

    segment_age: float | None = None
    """Seconds after which a segment is closed even if it is not full, so that old records of a quiet topic can be
    trimmed. None, the default: size alone decides."""

    codec: Codec = "none"
    """How the values, keys and headers of a batch are compressed: "zstd" and "lz4" are extras. Offsets and times stay
    readable without them. A single send is a batch of one, which compresses badly: "none" unless batches are sent."""

    partitioner: Partitioner = "xxh3"
    """How a key finds its partition. "xxh3": fast and even. "murmur2": exactly where Kafka's Java client puts it.
    "custom": a callable, which cannot be written down and is passed at each opening."""

    record_bytes_max: int = 64 * MIB
    """Bytes of the largest record (value, key and headers): larger ones raise RecordTooLarge and nothing is written.
    A bound protects readers' memory; large objects are better kept in files and named in a record."""

    batch_bytes: int = 256 * KIB
    """Bytes at which `send_many` closes a frame and begins the next: what a flipped bit costs at most, against a
    header of 64 bytes per frame."""

    dedup_window: float = 300.0
    """Seconds for which `send(dedup_id=)` knows an id again. 5 minutes, as in SQS."""

    dedup_records: int = 100_000
    """Offsets of a partition for which it does: what is further back is sent again. Their ids are held in memory by a process that
    uses them, and read from the log when it does so first."""

    dtype: str | None = None
    """What each value is, as a numpy dtype (see `seglog.dtypes` for the text): `batch.values` is then an array of it, and a
    value of another size is refused, a null one too. None, the default: values are bytes of any length."""

    retention: float | None = None
    """Seconds that records are kept, by their timestamps: a full segment goes when its newest record is older. Segments are
    closed at this age too, so that those of a quiet topic go as well. None, the default: age alone deletes nothing."""

    retention_bytes: int | None = None
    """Bytes on disk, per partition, that are kept: the oldest segment goes while that much remains without it. So a partition has
    at most this much, and one segment more. None: size deletes nothing."""

    retention_records: int | None = None
    """How many offsets of a partition are kept, in the same way: at least that many. None: their number deletes nothing."""

    keep_for_groups: tuple[str, ...] = ()
    """Groups that must have passed a record before it goes; one that never committed has passed nothing. With one of the limits
    above, what is over the limit waits for these groups; without any, what all of them have passed goes at once."""

    retention_max_bytes: int | None = None
    """Bytes on disk, per partition, above which the oldest segment goes whatever `keep_for_groups` says: a group that stands still
    must not fill the disk. statistics().warnings tells from 80 % on. None, the default: groups hold what they have not read."""

    compact: bool = False
    """Whether of each key only the last records stay (see `compact_keep`), once their segment is closed. A record with a
    null value, a tombstone, deletes its key. Records without a key stay. Off: records are history, and history is not
    to be rewritten."""

    compact_keep: int = 1
    """How many of the last records of a key stay. One is a table; more are its recent past. A tombstone counts as one,
    and ends what is before it."""

    compact_min_lag: float = 0.0
    """Seconds for which compaction removes no record: who is at most this far behind sees every one. A closed segment
    with a younger timestamp is left alone, and so are all after it."""

    compact_max_lag: float | None = None
    """Seconds after which a segment is closed, and compacted, however little there is to gain: a bound on how long a deleted value
    can still be read. None: only `compact_dirty_ratio` decides."""

    compact_dirty_ratio: float = 0.5
    """The share of the closed segments' bytes that must be new since the last time before upkeep compacts again. Less compacts
    more often, and writes more: at 0.5 each byte is rewritten about twice."""

    tombstone_grace: float = 86400.0
    """Seconds that a tombstone stays after its segment was closed. A reader that builds a table and takes longer than
    this to come by may never see that the key was deleted. A day, as in Kafka."""

    compact_memory: int = 128 * MIB
    """Bytes for remembering keys while compacting, 40 a key. With more keys than fit the log is gone through several times."""

    def __post_init__(self) -> None:
        integer("partitions", self.partitions, 1, PARTITIONS_MAX)
        integer("segment_bytes", self.segment_bytes, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
        if self.segment_age is not None:
            number("segment_age", self.segment_age, 0.001, SECONDS_MAX)
        choice("codec", self.codec, get_args(Codec))
        choice("partitioner", self.partitioner, get_args(Partitioner))
        integer("record_bytes_max", self.record_bytes_max, 1, RECORD_BYTES_MAX)
        integer("batch_bytes", self.batch_bytes, BATCH_BYTES_MIN, BATCH_BYTES_MAX)
        number("dedup_window", self.dedup_window, 0.001, SECONDS_MAX)
        integer("dedup_records", self.dedup_records, 1, 1 << 40)
        if self.dtype is not None:
            if self.dtype != text_of(self.dtype):
                refuse("dtype", self.dtype, f"written as {text_of(self.dtype)!r}")
            integer("record_bytes_max", self.record_bytes_max, dtype_of(self.dtype).itemsize, RECORD_BYTES_MAX)
        for setting in ("retention", "compact_max_lag"):
            if getattr(self, setting) is not None:
                number(setting, getattr(self, setting), 0.001, SECONDS_MAX)
        for setting in ("retention_bytes", "retention_records", "retention_max_bytes"):
            if getattr(self, setting) is not None:
                integer(setting, getattr(self, setting), 1, 1 << 62)
        groups: object = self.keep_for_groups
        if not isinstance(groups, tuple):
            refuse("keep_for_groups", groups, "a tuple of group names")
        for group in self.keep_for_groups:
            check_name(group, "group")
        flag("compact", self.compact)
        integer("compact_keep", self.compact_keep, 1, COMPACT_KEEP_MAX)
        number("compact_min_lag", self.compact_min_lag, 0.0, SECONDS_MAX)
        if not isinstance(self.compact_dirty_ratio, float | int) or not 0.01 <= self.compact_dirty_ratio <= 1.0:
            refuse("compact_dirty_ratio", self.compact_dirty_ratio, "a number from 0.01 to 1")
        number("tombstone_grace", self.tombstone_grace, 0.0, SECONDS_MAX)
        integer("compact_memory", self.compact_memory, 64 * KIB, 1 << 40)

    @property
    def close_at_age(self) -> float | None:
        """Seconds after which a segment is closed: `segment_age`, or earlier where retention or compaction could not keep their
        word otherwise."""
        ages = [self.segment_age, self.retention, self.compact_max_lag if self.compact else None]
        return min((age for age in ages if age is not None), default=None)

    @property
    def bounded(self) -> bool:
        """Whether upkeep may delete old records."""
        return bool(self.limited or self.keep_for_groups or self.retention_max_bytes)

    @property
    def limited(self) -> bool:
        """Whether age, size or number do."""
        return any(limit is not None for limit in (self.retention, self.retention_bytes, self.retention_records))

    def to_json(self) -> dict[str, object]:
        """The settings as plain JSON values, for the topology log.

        >>> TopicConfig.from_json(TopicConfig(partitions=3).to_json()).partitions
        3
        """
        return asdict(self)

    @classmethod
    def from_json(cls, settings: Mapping[str, object], name: str = "?") -> TopicConfig:
        """The reverse. A setting that is missing has its default, for an older seglog wrote it; one that is
        unknown raises UnsupportedFormat, since ignoring what a newer seglog promised would break the promise."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(settings) - known)
        if unknown:
            raise UnsupportedFormat(
                f"topic {name} has settings that this version of seglog does not know: {', '.join(unknown)}. It was "
                "made by a newer one; use that. Nothing was changed.",
                found=unknown,
                supported=sorted(known),
            )
        lists = {setting: tuple(value) for setting, value in settings.items() if isinstance(value, list)}
        return cls(**{**settings, **lists})  # type: ignore[arg-type]

    def differences(self, asked: Mapping[str, object]) -> dict[str, tuple[object, object]]:
        """setting -> (asked, existing), for each of `asked` that is otherwise here."""
        mine = asdict(self)
        return {setting: (value, mine[setting]) for setting, value in asked.items() if value != mine[setting]}


def choice(setting: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        refuse(setting, value, "one of " + ", ".join(map(repr, allowed)))


def integer(setting: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        refuse(setting, value, f"an int of {low:,} .. {high:,}")


def number(setting: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        refuse(setting, value, f"a number of seconds from {low:,g} to {high:,g}")


def flag(setting: str, value: object) -> None:
    if not isinstance(value, bool):
        refuse(setting, value, "True or False")


def refuse(setting: str, value: object, allowed: str) -> None:
    raise ConfigError(
        f"{setting} is {value!r}; it must be {allowed}. Nothing was changed.", setting=setting, value=value
    )
