from collections.abc import Mapping
from typing import Any

from typing_extensions import disjoint_base

from seglog.engine.batch import Batch

def fields_of(schema: Mapping[str, Any] | Any) -> dict[str, str]: ...

@disjoint_base
class Builder:
    def __init__(self, name: str, kind: str) -> None: ...

@disjoint_base
class Decoded:
    def __init__(self, schema: Mapping[str, Any] | Any) -> None: ...
    @property
    def fields(self) -> list[tuple[str, str, bool]]: ...
    def columns(self, batch: Batch) -> list[tuple[Any, ...]]: ...
