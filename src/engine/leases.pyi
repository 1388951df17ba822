from collections.abc import Sequence

from typing_extensions import disjoint_base

from seglog.engine.log import Log
from seglog.engine.message import Home, Message
from seglog.engine.transactions import Transaction

@disjoint_base
class Leases(Home):
    @property
    def shut(self) -> bool: ...
    def _attach(
        self,
        folder: str,
        logs: Sequence[Log],
        settled: Log,
        queue_id: int,
        *,
        lease_us: int,
        max_lease_us: int,
        ttl_us: int,
        max_attempts: int,
        keeps_dead: bool,
        keeps_expired: bool,
        weighted: bool,
        single: bool,
        plain: bool,
        by_bytes: bool,
        grouping: int,
        lookahead: int,
        lock_timeout: float,
    ) -> None: ...
    def ring(self, space: bool) -> None: ...
    def _add_settled(self, tx: Transaction, messages: list[Message], reason: int) -> None: ...
    def settlements_in(self, value: bytes) -> list[tuple[int, int]]: ...
    def _still(self, messages: list[Message]) -> None: ...
    def _count_bytes(self) -> None: ...
