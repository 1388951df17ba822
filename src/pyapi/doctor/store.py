"""Store: one look at a whole store: who it is, what topics there are, their logs, the places of groups, and what is not ours."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from seglog.config import TopicConfig
from seglog.doctor import mends
from seglog.doctor.log import LogExamination
from seglog.doctor.mends import FIRST, Mend
from seglog.doctor.pages import KEPT, KNOWN_HERE, KNOWN_IN_GROUP, UNFINISHED, bases_in, readable, reason, segment_files
from seglog.doctor.places import Places
from seglog.doctor.queue import FOLDER as STATES
from seglog.doctor.queue import INTERNAL, QueueExamination, called, is_queue
from seglog.doctor.report import Finding, Partition, Report
from seglog.doctor.segment import NAP
from seglog.doctor.things import say
from seglog.engine.liveness import Liveness
from seglog.errors import CorruptBatch, CorruptStore, SeglogError
from seglog.files import read_whole
from seglog.identity import Identity
from seglog.positions import pair_of
from seglog.transactions import FOLDER

__all__ = ["Progress", "StoreExamination"]

Progress = Callable[[int], object]  # is told the bytes of each file that was read
LOOKS = 100  # at one log, while its files change under our eyes
META: dict[str, Any] = {"segment_bytes": 1 << 20, "segment_bytes_min": 1 << 16, "fsync": "always"}
DECISIONS: dict[str, Any] = {"segment_bytes_min": 1 << 16}


def log_name(topic: str, partition: int | str) -> str:
    """What a report calls one log of a topic.

    >>> log_name("orders", 0), log_name("~jobs", 0)
    ('orders/0', 'queue jobs/0')
    """
    return f"{called(topic) if is_queue(topic) else topic}/{partition}"


class StoreExamination:
    """One look at a store. `run` fills `findings`, `partitions`, and `mends`: what repair would do."""

    def __init__(self, directory: str, progress: Progress | None) -> None:
        self.directory = directory
        self.progress = progress or (lambda size: None)
        self.findings: list[Finding] = []
        self.partitions: list[Partition] = []
        self.mends: list[Mend] = []
        self.uuid: str | None = None
        self.meta = LogExamination(self, "meta", self.at("meta"), META)
        self.topics: dict[str, dict[str, Any] | None] = {}  # None: was deleted
        self.said_at: dict[str, int] = {}  # the offset in meta of the last word on each
        self.queues: dict[str, dict[str, Any] | None] = {}
        self.queue_said_at: dict[str, int] = {}
        self.logs_by_identity: dict[int, list[str]] = {}

    def run(self) -> StoreExamination:
        self.meta.run()
        self.identity()
        self.topology()
        self.all_topics()
        self.all_queues()
        self.log(FOLDER, self.at(FOLDER), DECISIONS)
        self.twins()
        self.groups()
        self.groups("producers")
        for name in self.names(self.directory) or ():
            if not KNOWN_HERE.fullmatch(name):
                self.stranger(self.at(name))
        return self

    def report(self, began: float) -> Report:
        return Report(
            path=self.directory,
            uuid=self.uuid,
            findings=tuple(self.findings),
            partitions=tuple(self.partitions),
            size=sum(partition.size for partition in self.partitions),
            seconds=time.monotonic() - began,
        )

    def at(self, *names: str) -> str:
        return os.path.join(self.directory, *names)

    def find(self, code: str, path: str, **about: Any) -> None:
        self.findings.append(say(code, path, **about))

    def mend(self, order: int, path: str, what: str, do: Callable[[Liveness], object], alone: bool = True) -> None:
        self.mends.append(Mend(order, path, what, do, alone))

    # ---- files ------------------------------------------------------------------------------------

    def names(self, folder: str, **about: Any) -> list[str] | None:
        """What is in a folder; nothing when it is not there. None, and a finding, when it cannot be listed."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []
        except OSError as error:
            self.find("unreadable", folder, why=reason(error), **about)
            return None

    def content(self, path: str) -> bytes | None:
        """The bytes of a file; None, and a finding unless it is merely not there, when it cannot be read."""
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
                raise OSError("it is no file")
            return read_whole(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.find("unreadable", path, why=reason(error))
            return None

    def stranger(self, path: str) -> None:
        """A name that no rule of the format gives."""
        if path.endswith(KEPT):
            self.find("kept", path)
        elif UNFINISHED.fullmatch(os.path.basename(path)):
            self.find("unfinished", path)
            self.mend(FIRST, path, "removed a file that was never finished", partial(mends.remove, path))
        else:
            self.find("unknown", path)

    # ---- identity and topology ----------------------------------------------------------------------

    def identity(self) -> None:
        path = self.at("SEGLOG")
        code = "no identity"
        if os.path.lexists(path):
            data = self.content(path)
            if data is None:
                return
            try:
                self.uuid = Identity.from_bytes(data, path).uuid
                return
            except CorruptStore:
                code = "identity"
        created = min((sheet.header["created"] for sheet in self.meta.sound), default=None)
        if created is None:
            self.find("no store", path)
            return
        self.find(code, path)
        self.mend(FIRST, path, "wrote a new identity", partial(mends.new_identity, path, created))

    def topology(self) -> None:
        """Replay the changes that can be read."""
        offset = self.meta.first
        try:
            for record in self.meta.records():
                kind, _, name = (record.key or b"").decode("utf-8", "replace").partition("/")
                offset, value = record.offset, record.value
                thing = None if value is None else json.loads(value)
                if kind == "topic":
                    self.topics[name], self.said_at[name] = thing, offset
                elif kind == "queue":
                    self.queues[name], self.queue_said_at[name] = thing, offset
        except (ValueError, RecursionError, CorruptBatch):
            self.find("not meta", self.meta.path, start=offset, stop=offset + 1, offset=offset)
        topics = self.at("topics")
        there = [name for name in self.names(topics) or () if os.path.isdir(os.path.join(topics, name))]
        if not self.meta.files and there:
            self.find("no meta", self.meta.path, topics=", ".join(map(called, there)))

    def is_certain(self, said_at: int) -> bool:
        """Whether the word at that offset is the last that was said; the store removes files on no other (topology.py)."""
        lost = [*self.meta.lost, *((loss.start, loss.stop) for loss in self.meta.history)]
        return not any(stop < 0 or stop > said_at for _, stop in lost)

    # ---- topics -----------------------------------------------------------------------------------

    def all_topics(self) -> None:
        folder = self.at("topics")
        for name in sorted({*(self.names(folder) or ()), *(name for name, entry in self.topics.items() if entry)}):
            path = os.path.join(folder, name)
            entry = self.topics.get(name)
            if entry:
                told: tuple[list[Any], ...] = (self.findings, self.partitions, self.mends)
                before = [len(one) for one in told]
                self.topic(name, path, entry)
                if self.findings[before[0] :] and not self.is_still(name, entry):
                    for one, length in zip(told, before, strict=True):
                        del one[length:]
            elif not os.path.isdir(path):
                self.stranger(path)
            elif name not in self.topics:
                self.nobodys("orphan", name, path)
            elif self.is_certain(self.said_at[name]):
                self.find("deleted", path, topic=called(name))
            else:
                self.nobodys("doubt", name, path)

    def is_still(self, name: str, entry: dict[str, Any]) -> bool:
        """Whether meta still says so. While others work a topic may be deleted under our eyes, and its files are no loss then."""
        if self.meta.words is None:
            return True
        now = StoreExamination(self.directory, None)
        now.meta.run()
        now.topology()
        return now.topics.get(name) == entry

    def topic(self, name: str, path: str, entry: dict[str, Any]) -> None:
        try:
            config, topic_id = TopicConfig.from_json(entry["config"], name), int(entry["id"], 16)
        except (SeglogError, KeyError, TypeError, ValueError) as error:
            self.find("newer", path, why=f"its settings are not understood: {error}")
            return
        settings: dict[str, Any] = {
            "segment_bytes": config.segment_bytes,
            "segment_bytes_min": min(config.segment_bytes, 1 << 20),
            "codec": config.codec,
            "root": self.directory,
        }
        logs = []
        for partition in range(config.partitions):
            where = os.path.join(path, str(partition))
            log = self.log(log_name(name, partition), where, settings | {"partition": partition})
            logs.append(log)
            if not log.files and not log.unlisted:
                known = self.committed(name, topic_id, partition)
                log.is_gone(f"partition {partition} of {config.partitions:,} of {called(name)}", known)
        wanted = set(map(str, range(config.partitions)))
        for extra in self.names(path) or ():
            where = os.path.join(path, extra)
            if extra in wanted or (extra == STATES and is_queue(name)):
                continue
            if extra.isdigit() and bases_in(where):
                self.find("extra", where, topic=called(name), count=config.partitions)
                LogExamination(self, log_name(name, extra), where, settings).run()
            else:
                self.stranger(where)
        if is_queue(name):
            self.queue(name, path, logs)

    def log(self, name: str, path: str, settings: dict[str, Any]) -> LogExamination:
        """One log; looked at again when something was found, and files went meanwhile: it may be a trim, or a compaction."""
        told: tuple[list[Any], ...] = (self.findings, self.partitions, self.mends)
        for _ in range(LOOKS):
            before, files = [len(one) for one in told], segment_files(path)
            log = LogExamination(self, name, path, settings)
            log.run()
            if len(self.findings) == before[0] or files.items() <= segment_files(path).items():
                break
            for one, length in zip(told, before, strict=True):
                del one[length:]
            for names in self.logs_by_identity.values():
                names[:] = [known for known in names if known != name]
        return log

    def committed(self, topic: str, topic_id: int, partition: int) -> int:
        """Offsets below were given out: the furthest that a group says it came in a partition."""
        known = 0
        for group in self.names(self.at("groups")) or ():
            path = self.at("groups", group, f"{topic}.positions")
            if readable(path):
                commit, _ = pair_of(read_whole(path), partition, topic_id)
                known = max(known, commit.offset if commit else 0)
        return known

    def nobodys(self, code: str, name: str, path: str) -> None:
        """Files of a topic that there is not."""
        self.find(code, path, topic=called(name))
        for extra in self.names(path) or ():
            where = os.path.join(path, extra)
            if extra.isdigit() and bases_in(where):
                LogExamination(self, log_name(name, extra), where, {}).run()
            elif not extra.isdigit() and not (extra == STATES and is_queue(name)):
                self.stranger(where)

    # ---- queues -----------------------------------------------------------------------------------

    def queue(self, topic: str, path: str, logs: list[LogExamination]) -> None:
        """The states of a queue, whose topic this is; or that meta does not know it."""
        name = topic.removeprefix(INTERNAL)
        entry = self.queues.get(name)
        if entry:
            QueueExamination(self, topic, path, logs, entry).run()
        elif self.is_certain(self.queue_said_at.get(name, -1)):
            self.find("no queue", path, topic=called(topic))
        else:
            self.find("lost queue", path, topic=called(topic))

    def all_queues(self) -> None:
        """Queues that meta speaks of, and whose topic it does not know."""
        for name, entry in sorted(self.queues.items()):
            topic = self.topics.get(INTERNAL + name)
            if entry and (not topic or topic.get("id") != entry.get("id")):
                why = "its topic is another one" if topic else "no topic that holds its messages"
                self.find("no messages", self.at("topics", INTERNAL + name), topic=called(INTERNAL + name), why=why)

    def twins(self) -> None:
        """Logs that say that they are the same: one of them holds copies of the other's files."""
        for names in self.logs_by_identity.values():
            if len(names) > 1:
                path = next((one.path for one in self.partitions if one.name == names[-1]), self.at("topics"))
                self.find("twins", path, names=" and ".join(names))

    # ---- groups -----------------------------------------------------------------------------------

    def groups(self, kind: str = "groups") -> None:
        """Of groups, or of producers, whose numbers are kept in the same way."""
        for group in self.names(self.at(kind)) or ():
            folder = self.at(kind, group)
            if not os.path.isdir(folder):
                self.stranger(folder)
                continue
            for name in self.names(folder) or ():
                path = os.path.join(folder, name)
                topic = name.removesuffix(".positions")
                entry = self.topics.get(topic)
                if topic == name:
                    if not KNOWN_IN_GROUP.fullmatch(name):  # transient, all of it
                        self.stranger(path)
                elif entry:
                    self.positions(path, group, topic, entry)
                else:
                    self.find("old place", path, group=group)

    def positions(self, path: str, group: str, topic: str, entry: dict[str, Any]) -> None:
        data = self.content(path)
        if data is None:
            return
        try:
            places = Places(path, group, topic, int(entry["id"], 16), int(entry["config"].get("partitions", 1)))
        except (KeyError, TypeError, ValueError, AttributeError):
            return  # told with the topic
        found, mended = places.look(data)
        if found:  # somebody may be in the middle of a commit
            time.sleep(NAP)
            again = self.content(path)
            if again is None:
                return
            later, mended = places.look(again)
            found = [finding for finding in later if finding in found]
        self.findings += found
        if mended is not None and found:
            what = "mended the committed positions, and kept the old ones as .damaged"
            self.mend(FIRST, path, what, partial(mends.replace_file, path, mended))
