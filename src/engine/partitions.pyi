from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from typing_extensions import disjoint_base

from seglog.engine.log import Log
from seglog.engine.record import Position, Record, Span
from seglog.engine.transactions import Transaction

def murmur2(key: bytes) -> int: ...
def partition_for(key: bytes, partitions: int, partitioner: str = "xxh3") -> int: ...

@disjoint_base
class Partitions:
    def __init__(self, logs: Sequence[Log], partitioner: str | Callable[[bytes, int], int] = "xxh3") -> None: ...
    @overload
    def send(
        self,
        value: Any,
        key: Any = None,
        headers: Any = None,
        *,
        timestamp: Any = None,
        partition: int | None = None,
        tx: None = None,
        expected_offset: int | None = None,
        expected_version: int | None = None,
        dedup_id: Any = None,
    ) -> Position: ...
    @overload
    def send(
        self,
        value: Any,
        key: Any = None,
        headers: Any = None,
        *,
        timestamp: Any = None,
        partition: int | None = None,
        tx: Transaction,
        expected_offset: int | None = None,
        expected_version: int | None = None,
        dedup_id: Any = None,
    ) -> None: ...
    def send_many(
        self,
        values: Any,
        keys: Any = None,
        headers: Any = None,
        *,
        timestamps: Any = None,
        partition: int | None = None,
        tx: Transaction | None = None,
        expected_offset: int | None = None,
        expected_version: int | None = None,
    ) -> list[Span]: ...
    def partition_of(self, key: Any) -> int: ...
    def _send_if(self, *how: Any) -> Any: ...
    def _send_many_if(self, *how: Any) -> Any: ...
    def __getitem__(self, where: tuple[int, int] | Position) -> Record: ...
    def merged(self, starts: Sequence[int], stops: Sequence[int]) -> Iterator[Record]: ...
    def _attach(self, logs: Sequence[Log]) -> None: ...
    @property
    def logs(self) -> tuple[Log, ...]: ...

@disjoint_base
class Merge:
    def __init__(self, sources: Sequence[Iterator[Any]]) -> None: ...
    def __iter__(self) -> Iterator[Record]: ...
    def __next__(self) -> Record: ...
