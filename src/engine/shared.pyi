from typing_extensions import disjoint_base

from seglog.engine.liveness import Liveness

@disjoint_base
class Shared:
    @property
    def path(self) -> str: ...
    @property
    def liveness(self) -> Liveness: ...
