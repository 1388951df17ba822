from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from typing_extensions import disjoint_base

from seglog.engine.keymap import Keymap
from seglog.engine.log import Log

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
@disjoint_base
class Sieve(Pass): ...

def sift(
    log: Log, bases: list[int], bits: bytes | bytearray, origin: int, *, stop: Callable[[], bool] | None = None
) -> dict[str, int] | None: ...
def alone(log: Log) -> AbstractContextManager[None]: ...
