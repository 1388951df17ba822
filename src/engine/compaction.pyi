from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from seglog.engine.keymap import Keymap
from seglog.engine.log import Log

class Halted(Exception): ...

@disjoint_base
class Piece:
    @property
    def path(self) -> str: ...
    @property
    def base(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def closed(self) -> int: ...
    @property
    def used(self) -> int: ...

@disjoint_base
class Feed:
    def __init__(self, piece: Piece) -> None: ...

@disjoint_base
class Writer:
    def __init__(self, piece: Piece, limit: int, batch_bytes: int) -> None: ...
    def discard(self) -> None: ...
    def empty(self) -> None: ...
    @property
    def path(self) -> str: ...
    @property
    def position(self) -> int: ...

@disjoint_base
class Pass:
    def __init__(
        self,
        log: Log,
        keymap: Keymap,
        begin: int,
        now: int,
        grace: int,
        said: dict[str, Any],
        stop: Callable[[], bool] | None,
    ) -> None: ...

def compact(
    log: Log,
    *,
    keep: int = 1,
    memory: int = 134217728,
    min_lag_us: int = 0,
    grace_us: int = 0,
    stop: Callable[[], bool] | None = None,
) -> dict[str, int] | None: ...
def learn(log: Log, keymap: Keymap, start: int, stop: int) -> int: ...
def dirtiness(log: Log, min_lag_us: int = 0) -> tuple[int, int, int | None]: ...
