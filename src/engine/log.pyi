from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from seglog.engine.batch import Batch
from seglog.engine.liveness import Liveness
from seglog.engine.record import Record, Span

class Loss(NamedTuple):
    """What recovery found missing, or damaged: offsets `start .. stop-1` (stop is -1 when unknown)."""
    kind: str  # "torn" | "corrupt" | "missing"
    path: str
    position: int
    start: int
    stop: int
    size: int  # bytes
    note: str

class Log:
    """One partition: an append-only run of records in ordered segments, in one directory."""
    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        partition: int = 0,
        segment_bytes: int = 67108864,
        segment_bytes_min: int = 1048576,
        segment_age: float = 0.0,  # seconds, 0: never roll by age
        fsync: str = "interval",  # "never" | "interval" | "always"
        write: str = "auto",  # "auto" | "map" | "pwrite"
        codec: str = "none",  # "none" | "zstd" | "lz4"
        batch_bytes: int = 262144,
        record_bytes_max: int = 67108864,
        recover: str = "raise",  # "raise" | "skip": what a read does at a corrupt frame
        clock: Callable[[], int] | None = None,  # µs since the epoch
        liveness: Liveness | None = None,
        lock_timeout: float = 30.0,
    ) -> None: ...
    def append(
        self, value: Any, key: Any = None, headers: Any = None, timestamp: Any = None
    ) -> int: ...
    def append_many(
        self, values: Any, keys: Any = None, headers: Any = None, timestamps: Any = None
    ) -> list[Span]: ...
    def read(
        self,
        offset: int,
        max_records: int = 10000,
        max_bytes: int = 1048576,
        *,
        durable: bool = False,
        stop: int = -1,
    ) -> Batch | None: ...  # None: nothing at or after offset (yet); batch starts at the first record at or after offset
    def record(self, offset: int) -> Record: ...  # OffsetOutOfRange when not there
    def batches(
        self, start: int = -1, stop: int = -1, max_records: int = 10000, max_bytes: int = 1048576, *, durable: bool = False
    ) -> Iterator[Batch]: ...  # lazy; ends at what is there when it gets there, or at stop
    def records(self, start: int = -1, stop: int = -1) -> Iterator[Record]: ...
    def wait(self, offset: int, timeout: float | None = None) -> bool: ...  # True once next_offset > offset; GIL released; Ctrl-C works
    def offset_for_time(self, timestamp: int) -> int: ...  # first offset with timestamp >= it; next_offset when none
    def trim(self, before: int) -> int: ...  # new first offset
    def sync(self) -> int: ...  # everything before the returned offset is durable
    def upkeep(self) -> None: ...  # roll by age, sync when due
    def verify(self) -> list[Loss]: ...  # every hash of every frame; reads with pread; changes nothing
    def statistics(self) -> dict[str, int]: ...  # first_offset next_offset durable_offset segments size_bytes epoch ...
    def close(self) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def first_offset(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def durable_offset(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def losses(self) -> tuple[Loss, ...]: ...
    @property
    def dirty(self) -> bool: ...  # next_offset > durable_offset
    def delete(self) -> None: ...  # marks the partition deleted for every process, unlinks its files
