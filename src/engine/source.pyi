from typing import Any

from typing_extensions import disjoint_base

@disjoint_base
class Packed:
    def __init__(self, data: Any, offsets: Any, ends: Any = None) -> None: ...
    @property
    def count(self) -> int: ...
    def __len__(self) -> int: ...

@disjoint_base
@disjoint_base
class Times:
    def __init__(self, timestamps: Any) -> None: ...
