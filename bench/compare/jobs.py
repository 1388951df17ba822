"""Jobs: the queues that live in a program, as bench/queues.py uses them, here for any number of workers."""

from __future__ import annotations

from typing import Any

import queues
from compare.peer import Place, Queue


def adapted(theirs: Any, package: str, together: bool = True) -> type[Queue]:
    """One of bench/queues.py, at a Place."""

    def __init__(self: Any, place: Place) -> None:
        theirs.__init__(self, place.path)

    return type(theirs.__name__, (theirs, Queue), {"__init__": __init__, "package": package, "together": together})


EMBEDDED = [
    adapted(queues.RocksQ, "rocksq", together=False),  # one process at a time
    adapted(queues.LMDBQueue, "lmdb-queue"),
    adapted(queues.Huey, "huey"),
    adapted(queues.PersistQueueAck, "persist-queue"),
    adapted(queues.PersistQueueFile, "persist-queue", together=False),  # one process at a time
    adapted(queues.LiteQueue, "litequeue"),
]
