from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

from typing_extensions import disjoint_base

from seglog.engine.batch import Batch
from seglog.engine.liveness import Liveness
from seglog.engine.record import Record, Span

class Loss(NamedTuple):
    kind: str
    path: str
    position: int
    start: int
    stop: int
    size: int
    note: str

@disjoint_base
class Times:
    def __init__(self, timestamps: Any) -> None: ...

@disjoint_base
class Log:
    def __init__(
        self,
        path: str,
        *,
        create: bool = True,
        partition: int = 0,
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
        lock_timeout: float = 30.0,
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
    ) -> Iterator[Batch]: ...
    def records(self, start: int = -1, stop: int = -1) -> Iterator[Record]: ...
    def wait(self, offset: int, timeout: float | None = None, *, durable: bool = False) -> bool: ...
    def offset_for_time(self, timestamp: Any) -> int: ...
    def trim(self, before: int) -> int: ...
    def sync(self) -> int: ...
    def upkeep(self) -> None: ...
    def verify(self) -> list[Loss]: ...
    def statistics(self) -> dict[str, int]: ...
    def close(self) -> None: ...
    def delete(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        *exc: type[BaseException] | BaseException | TracebackType | None,
    ) -> None: ...
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
    def dirty(self) -> bool: ...
    @property
    def epoch(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def losses(self) -> tuple[Loss, ...]: ...
