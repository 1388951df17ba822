"""Topology: what a store consists of, by kind and name; the log under `meta/`.

Each change is one record of an ordinary log, synced before it counts: its key is `<kind>/<name>`, for instance
`topic/orders`, its value JSON, or null when the thing was deleted. The last record of a key is what holds. Whoever
opens the store replays it; whoever has it open looks whether it grew, which is one load from shared memory.

It promises that what another process created is seen by the next look, and that a deletion which a crash interrupted can
be told from a thing that never was. Kinds and their JSON are their owners' business; so is the door (`identity.gate`)
that lets one process at a time change what several may want to.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any

from seglog.config import StoreConfig
from seglog.engine.liveness import Liveness
from seglog.engine.log import Log
from seglog.engine.losses import Loss, standing
from seglog.errors import CorruptStore
from seglog.files import has_segments, listed
from seglog.names import check_name

__all__ = ["Topology"]

FOLDER = "meta"
SEGMENT_BYTES, SEGMENT_BYTES_MIN = 1 << 20, 1 << 16  # a topic takes some 300 bytes: thousands in one segment


def check_entry(name: str, thing: object) -> None:
    """Raises ValueError when no store would have said this of a thing; what comes of it are paths and numbers."""
    kind, _, own = name.partition("/")
    check_name(own.removeprefix("~") if kind == "topic" else own, kind or "thing")
    if thing is None or kind != "topic":
        return
    if not isinstance(thing, dict) or not isinstance(thing.get("config"), dict) or not isinstance(thing.get("id"), str):
        raise ValueError(f"it does not say the id and the config of {name}")
    if not 0 <= int(thing["id"], 16) < 1 << 64:
        raise ValueError(f"{thing['id']!r} is no id")


class Topology:
    """The things of one store: `get`, `names`, `put`, `remove`.

    Cost: opening replays every change ever made; a look is O(1); a change is one fsync. Threads may share it.
    """

    def __init__(self, directory: str, config: StoreConfig, liveness: Liveness | None) -> None:
        path = os.path.join(directory, FOLDER)
        topics = os.path.join(directory, "topics")
        if not has_segments(path) and listed(topics):
            raise CorruptStore(
                f"the log in {path} is missing, which says what topics there are and how they are set; {topics} is not "
                "empty. Put it back from a backup; the records themselves were not touched. Nothing was changed.",
                path=path,
            )
        self._log = Log(
            path,
            segment_bytes=SEGMENT_BYTES,
            segment_bytes_min=SEGMENT_BYTES_MIN,
            fsync="always",
            write=config.write,
            recover=config.recover,
            liveness=liveness,
            lock_timeout=config.lock_timeout,
        )
        self._seen = self._log.first_offset
        self._things: dict[str, dict[str, Any] | None] = {}  # None: was deleted
        self._said_at: dict[str, int] = {}  # the offset of each one's last word, in that order
        self._lock = threading.Lock()
        try:
            self.refresh()
        except BaseException:
            self._log.close()
            raise

    @property
    def version(self) -> int:
        """Grows with each change that was seen."""
        return self._seen

    def refresh(self) -> bool:
        """Take in what other processes changed; whether there was anything."""
        after = self._log.next_offset
        if after == self._seen:
            return False
        with self._lock:
            if after > self._seen:  # else another thread was quicker
                for record in self._log.records(self._seen, after):
                    self._take(record.key, record.value, record.offset)
                self._seen = after
        return True

    def _take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        try:
            name = (key or b"").decode()
            thing = None if value is None else json.loads(value)
            check_entry(name, thing)
            self._things[name] = thing
            self._said_at.pop(name, None)
            self._said_at[name] = offset
        except (ValueError, RecursionError) as error:
            raise CorruptStore(
                f"record {offset} of {self._log.path} passes its hash but is no topology record: {error}. Nothing was "
                "changed; it was written by something that is not seglog.",
                path=self._log.path,
                offset=offset,
            ) from error

    def names(self, kind: str) -> list[str]:
        """What there is of a kind, sorted."""
        with self._lock:
            return sorted(
                key.removeprefix(kind + "/")
                for key, thing in self._things.items()
                if thing is not None and key.startswith(kind + "/")
            )

    def deleted(self, kind: str) -> list[str]:
        """What there was of a kind, and was deleted."""
        with self._lock:
            return sorted(
                key.removeprefix(kind + "/")
                for key, thing in self._things.items()
                if thing is None and key.startswith(kind + "/")
            )

    def changed(self, since: int) -> list[str]:
        """The `<kind>/<name>` of what was created, changed or deleted after `version` was `since`, the latest first. O(those)."""
        with self._lock:
            return list(takewhile(lambda name: self._said_at[name] >= since, reversed(self._said_at)))

    def get(self, kind: str, name: str) -> Mapping[str, Any] | None:
        """What is written down about it; None when there is no such thing."""
        return self._things.get(f"{kind}/{name}")

    def put(self, kind: str, name: str, thing: Mapping[str, Any]) -> None:
        """Returns when it is on the disk."""
        value = json.dumps(thing, sort_keys=True, separators=(",", ":")).encode()
        self._log.append(value, f"{kind}/{name}".encode())
        self.refresh()

    def remove(self, kind: str, name: str) -> None:
        """Returns when its end is on the disk."""
        self._log.append(None, f"{kind}/{name}".encode())
        self.refresh()

    def losses(self) -> list[Loss]:
        """What of it cannot be read now, and what earlier recoveries found lost. Reads all of it."""
        return list(dict.fromkeys([*self._log.losses, *self._log.verify()]))

    def certain(self, kind: str, names: Iterable[str]) -> list[str]:
        """Those of the names whose last word is the last that was said: nothing behind it was ever lost.

        Of a topic that was deleted and made anew, damage to the second making leaves a deletion: no word to act upon, for
        ever, whatever became of the damage. Reads all of it.
        """
        losses = self.losses()
        return [
            name
            for name in names
            if not any(loss.stop < 0 or loss.stop > self._said_at.get(f"{kind}/{name}", -1) for loss in losses)
        ]

    def settled(self) -> bool:
        """Whether all of it can be read but what `seglog doctor --repair` set aside, as whoever asked for that was told."""
        return not standing(self._log.verify())

    def upkeep(self) -> None:
        self._log.upkeep()

    def after_fork(self) -> None:
        """In the child: a lock that no other thread holds."""
        self._lock = threading.Lock()

    def close(self) -> None:
        self._log.close()

    def __repr__(self) -> str:
        return f"<Topology {self._log.path}, {len(self._things)} things after {self._seen} changes>"
