"""Queues: which queues a store has; made, opened and deleted.

A queue is an internal topic, `~<name>`, with a partition for each priority, one for delayed messages and one for acks in
transactions, and a folder `queue/` beside these; and its record in the topology, written last and removed first. A topic of
that name without such a record is what a crash left: whoever makes the queue next takes it away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seglog.clock import seconds
from seglog.config import TopicConfig
from seglog.errors import ClosedError, QueueMismatch, QueueNotFound, SeglogError, TopicNotFound
from seglog.files import make_directory, told
from seglog.names import check_name
from seglog.queue import Queue
from seglog.queueconfig import Backoff, QueueConfig

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["Queues"]

KIND = "queue"
FOLDER = "queue"
INTERNAL = "~"
DURATIONS = ("lease", "max_lease", "ttl", "dedup_window", "keep_acked")


class Queues:
    """The queues of one store; made by it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, Queue] = {}

    def queue(self, name: str, settings: Mapping[str, Any]) -> Queue:
        check_name(name, "queue")
        asked = plain(settings)
        wanted = QueueConfig(**({"segment_bytes": self._store.config.segment_bytes} | asked))
        with self._store.lock:
            queue = self.existing(name) or self._create(name, wanted)
            differences = queue.config.differences(asked)
            if differences:
                raise mismatch(name, differences)
            return queue

    def existing(self, name: str) -> Queue | None:
        """The queue, opened; None when there is none."""
        store = self._store
        with store.lock:
            store.topology.refresh()
            entry = store.topology.get(KIND, name)
            queue = self._open.get(name)
            if queue is not None:
                with suppress(TopicNotFound, ClosedError):
                    if (
                        entry is not None
                        and not queue.shut
                        and queue.topic.current()
                        and entry["id"] == queue.topic.topic_id
                    ):
                        return queue
                del self._open[name]
                with suppress(SeglogError):
                    queue.close()
            if entry is None:
                return None
            topic = store.existing(INTERNAL + name)
            queue = self._open[name] = self._made(name, entry, topic.topic_id)
            return queue

    def names(self) -> list[str]:
        self._store.topology.refresh()
        return self._store.topology.names(KIND)

    def delete(self, name: str) -> None:
        check_name(name, "queue")
        store = self._store
        with store.lock:
            store.topology.refresh()
            if store.topology.get(KIND, name) is None:
                raise QueueNotFound(
                    f"there is no queue {name}: it was never made, or it was deleted. Nothing was changed.", name=name
                )
            with store.gate():
                store.topology.refresh()
                if store.topology.get(KIND, name) is not None:
                    store.topology.remove(KIND, name)
            queue = self._open.pop(name, None)
            if queue is not None:
                with suppress(SeglogError):
                    queue.close()
        with suppress(TopicNotFound):
            store.delete_topic(INTERNAL + name)

    def _create(self, name: str, config: QueueConfig) -> Queue:
        store = self._store
        with store.gate():
            store.topology.refresh()
            if store.topology.get(KIND, name) is not None:  # another process was quicker
                found = self.existing(name)
                assert found is not None
                return found
        with suppress(TopicNotFound):  # what a crash left, or the end of a deletion
            store.delete_topic(INTERNAL + name)
        topic = store.internal_topic(
            INTERNAL + name,
            TopicConfig(
                partitions=config.priorities + 2, segment_bytes=config.segment_bytes, dedup_window=config.dedup_window
            ),
        )
        with told(store.path, f"make queue {name}"):
            make_directory(self._folder(name))
        with store.gate():
            store.topology.refresh()
            if store.topology.get(KIND, name) is None:
                store.topology.put(
                    KIND, name, {"id": topic.topic_id, "created": store.clock(), "config": config.to_json()}
                )
        found = self.existing(name)
        assert found is not None
        return found

    def _folder(self, name: str) -> str:
        return os.path.join(self._store.path, "topics", INTERNAL + name, FOLDER)

    def _made(self, name: str, entry: Mapping[str, Any], topic_id: str) -> Queue:
        store = self._store
        config = QueueConfig.from_json(entry["config"], name)
        make_directory(self._folder(name))
        return Queue(
            store,
            name,
            int(topic_id, 16),
            config,
            store.existing(INTERNAL + name),
            self._folder(name),
            store.config.lock_timeout,
        )

    def opened(self) -> list[Queue]:
        """Those that this process has open."""
        return list(self._open.values())

    def close(self) -> None:
        for queue in self.opened():
            queue.close()
        self._open.clear()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were passed, durations as seconds."""
    asked = {setting: value for setting, value in settings.items() if value is not None}
    for setting in DURATIONS:
        if setting in asked:
            asked[setting] = seconds(asked[setting], setting)
    backoff = asked.get("backoff")
    if isinstance(backoff, int | float | timedelta) and not isinstance(backoff, bool):
        asked["backoff"] = Backoff(
            "fixed", first=seconds(backoff, "backoff"), maximum=seconds(backoff, "backoff"), jitter=0.0
        )
    return asked


def mismatch(name: str, differences: Mapping[str, tuple[object, object]]) -> QueueMismatch:
    told_apart = ", ".join(
        f"{setting} is {existing!r}, not {asked!r}" for setting, (asked, existing) in differences.items()
    )
    return QueueMismatch(
        f"queue {name} exists with other settings: {told_apart}. Nothing was changed. Leave the settings out to open it as it is.",
        name=name,
        differences=dict(differences),
    )
