"""Marks: the ids of messages that a handler is done with, so that none is done twice.

A mark is a record in an internal topic, `~seglog.dedup.<queue>`, with the id as its key. It is sent in the transaction of
the ack, and on the condition that there is none yet: of two workers that have the same id in their hands, one commits, and what
the other did with its `tx` is given up. So a mark is there if and only if the message counts as done.

It promises that for `KEEP` seconds. Older marks go with their segments, which is what bounds the disk; in memory each process
remembers some 50 bytes an id, up to 64 MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from seglog.config import TopicConfig
from seglog.engine.transactions import Transaction
from seglog.errors import VersionConflict
from seglog.names import check_name

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["KEEP", "Marks"]

KEEP = 7 * 86400  # seconds: longer than a message is usually tried for, and dead letters usually lie


class Marks:
    """Of one queue, or one group of a topic."""

    def __init__(self, store: Store, name: str) -> None:
        self._topic = store.internal_topic(
            "~" + check_name("seglog.dedup." + name.replace(":", ".")), TopicConfig(retention=KEEP)
        )

    def has(self, ident: bytes) -> bool:
        """Whether it is done. A look at each segment of marks, newest first; a dict each, once this process knows them."""
        return self._topic.version(ident) >= 0

    def add(self, ident: bytes, tx: Transaction) -> None:
        """It is done if `tx` commits, which raises VersionConflict when somebody else did it meanwhile."""
        self._topic.send(b"", key=ident, expected_version=-1, tx=tx)

    def refused(self, error: BaseException) -> bool:
        """Whether that is what was raised."""
        return isinstance(error, VersionConflict) and error.fields.get("topic") == self._topic.name
