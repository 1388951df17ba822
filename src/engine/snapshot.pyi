from typing_extensions import disjoint_base

from seglog.engine.log import Log

@disjoint_base
class Snapshot(Log):
    @property
    def start(self) -> int: ...
    @property
    def stop(self) -> int: ...
