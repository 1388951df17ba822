from types import TracebackType
from typing import Any

from typing_extensions import disjoint_base

from seglog.engine.partitions import Partitions
from seglog.engine.record import Position

@disjoint_base
class Claim:
    def __init__(
        self,
        home: Partitions,
        n_bytes: int,
        key: Any = None,
        headers: Any = None,
        timestamp: Any = None,
        partition: int | None = None,
        tx: Any = None,
        dtype: Any = None,
    ) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    @property
    def position(self) -> Position | None: ...
