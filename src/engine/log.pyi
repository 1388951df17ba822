from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from typing_extensions import disjoint_base

from seglog.engine.batch import Batch
from seglog.engine.decisions import Decisions
from seglog.engine.liveness import Liveness
from seglog.engine.losses import Loss
from seglog.engine.record import Record, Span
from seglog.engine.tail import Tail

@disjoint_base
class Log(Tail):
    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        partition: int = 0,
        topic: str | None = None,
        segment_bytes: int = 67108864,
        segment_bytes_min: int = 1048576,
        segment_age: float = 0.0,
        fsync: str = "interval",
        write: str = "auto",
        codec: str = "none",
        batch_bytes: int = 262144,
        record_bytes_max: int = 67108864,
        recover: str = "raise",
        clock: Callable[[], int] | None = None,
        liveness: Liveness | None = None,
        decisions: Decisions | None = None,
        lock_timeout: float = 30.0,
        dtype: Any = None,
    ) -> None: ...
    def append(self, value: Any, key: Any = None, headers: Any = None, timestamp: Any = None) -> int: ...
    def append_many(self, values: Any, keys: Any = None, headers: Any = None, timestamps: Any = None) -> list[Span]: ...
    def read(
        self,
        offset: int,
        max_records: int = 10000,
        max_bytes: int = 1048576,
        *,
        durable: bool = False,
        stop: int = -1,
        check_hashes: bool = True,
    ) -> Batch | None: ...
    def record(self, offset: int) -> Record: ...
    def batches(
        self,
        start: int = -1,
        stop: int = -1,
        max_records: int = 10000,
        max_bytes: int = 1048576,
        *,
        durable: bool = False,
        check_hashes: bool = True,
    ) -> Iterator[Batch]: ...
    def records(self, start: int = -1, stop: int = -1) -> Iterator[Record]: ...
    def wait(self, offset: int, timeout: float | None = None, *, durable: bool = False) -> bool: ...
    def offset_for_time(self, timestamp: Any) -> int: ...
    def end_of_epoch(self, epoch: int) -> int: ...
    def verify(self) -> list[Loss]: ...
    def segments(self) -> list[tuple[int, int, int]]: ...
    def newest_timestamp(self, base: int) -> int | None: ...
    def statistics(self) -> dict[str, int]: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        *exc: type[BaseException] | BaseException | TracebackType | None,
    ) -> None: ...
