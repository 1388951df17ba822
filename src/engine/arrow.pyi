from collections.abc import Iterable

from typing_extensions import disjoint_base

from seglog.engine.fields import Shape
from seglog.engine.log import Log

@disjoint_base
class Stream:
    def fail(self, error: BaseException) -> None: ...

@disjoint_base
class ArrowTable:
    def __init__(
        self, ranges: Iterable[tuple[Log, int, int]], shape: Shape | None = None, numbered: bool = False
    ) -> None: ...
    def give_schema(self, to: int) -> None: ...
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
