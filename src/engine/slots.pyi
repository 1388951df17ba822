from typing_extensions import disjoint_base

from seglog.engine.log import Log

@disjoint_base
class Chunk:
    @property
    def path(self) -> str: ...

@disjoint_base
class Reader: ...

@disjoint_base
class Level:
    @property
    def log(self) -> Log: ...
    @property
    def index(self) -> int: ...
    def path_of(self, number: int) -> str: ...
