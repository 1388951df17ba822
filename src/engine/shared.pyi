from seglog.engine.liveness import Liveness

class Shared:
    @property
    def path(self) -> str: ...
    @property
    def liveness(self) -> Liveness: ...
