from collections.abc import Callable, Iterator, Sequence
from typing import Any
from seglog.engine.log import Log
from seglog.engine.record import Position, Record, Span

def murmur2(key: bytes) -> int: ...  # Kafka's Java client: toPositive(murmur2(key)) (before the modulo)
def partition_for(key: bytes, partitions: int, partitioner: str = "xxh3") -> int: ...

class Partitions:
    """Logs addressed by number or by key: the hot verbs of a topic. Subclassed by the face's Topic."""
    def __init__(
        self, logs: Sequence[Log], partitioner: str | Callable[[bytes, int], int] = "xxh3"
    ) -> None: ...
    def send(
        self,
        value: Any,
        key: Any = None,
        headers: Any = None,
        *,
        timestamp: Any = None,
        partition: int | None = None,
    ) -> Position: ...
    def send_many(
        self,
        values: Any,
        keys: Any = None,
        headers: Any = None,
        *,
        timestamps: Any = None,
        partition: int | None = None,
    ) -> list[Span]: ...
    def __getitem__(self, where: tuple[int, int] | Position) -> Record: ...
    def merged(self, starts: Sequence[int], stops: Sequence[int]) -> Iterator[Record]: ...  # by timestamp across partitions, offset order inside each
    def _attach(self, logs: Sequence[Log]) -> None: ...  # replace the logs (after adding partitions, or after close)
    @property
    def logs(self) -> tuple[Log, ...]: ...
