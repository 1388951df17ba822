"""Membership: who reads for a group, and which partitions each of them should; the folder `groups/<group>`.

    lock             the door for whoever changes the membership: a file lock, which the kernel frees when its holder dies
    members          16 bytes, mapped: home u64, generation u64. One load says whether anything changed
    members-<n>      generation n, as JSON: the members, and who should read what

All of it is transient. A change is made under the lock: read the last generation, write the next one whole under its own name,
then say so in `members`: a process that dies in between has changed nothing. A member is alive while its process is, on the
kernel's word (`Liveness`); nothing beats like a heart, and nobody is put out for being slow.

What a generation says is what *should* be. Who owns a partition stands in the positions file (`engine.places`): a member gives
one up by itself, between two batches, and only then another takes it. So partitions that do not move are read on throughout,
and no partition has two owners. What is free and was given to a member that does not come for it, since it is at work on
something long, goes to the others after a tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seglog.assignment import Assigned, Assignor, Subscriber, assign
from seglog.engine.liveness import Liveness
from seglog.engine.places import home_of
from seglog.errors import ConfigError, Fenced, GroupInUse, GroupNotFound
from seglog.files import O_BINARY, FileLock, make_directory, told, write_all

__all__ = ["Member", "Membership", "State"]

WORDS = struct.Struct("<QQ")  # home, generation
GENERATIONS = 1 << 62  # nobody counts that far
STATE_FILE = re.compile(r"members-\d+(\.tmp)?")


@dataclass(slots=True)
class Member:
    """One consumer of the group."""

    number: int
    """Never used again in this group."""
    word: int
    """Of its process, in the store's liveness."""
    pid: int
    topics: tuple[str, ...]
    joined: float
    """When, in seconds since the epoch."""
    instance: str | None = None
    """The name under which it comes back to its partitions."""
    hold: float = 0.0
    """Seconds for which they wait for it."""
    busy: bool = False
    """Partitions that it was to read lay about, and others took them; until it looks after the group again."""
    gone: float | None = None
    """When it went, by the monotonic clock, while its partitions wait for it; None while it is here."""

    @property
    def owner(self) -> int:
        """How it signs the places it owns."""
        return self.word << 32 | self.number

    @property
    def name(self) -> str:
        return self.instance or f"{self.pid}-{self.number}"


@dataclass(slots=True)
class State:
    """One generation."""

    generation: int = 0
    assignor: str = ""
    next_number: int = 1
    members: list[Member] = field(default_factory=list)
    partitions: dict[str, int] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    """Of these topics: one that was made anew under an old name has another."""
    target: Assigned = field(default_factory=dict)
    instances: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    """What each instance that is not here read last."""
    stale: bool = False
    """Somebody left without deciding who reads what now."""

    def member(self, number: int) -> Member | None:
        return next((member for member in self.members if member.number == number), None)

    def of(self, number: int) -> list[tuple[str, int]]:
        """What that member should read."""
        return [where for where, owner in self.target.items() if owner == number]

    def rebalance(self, custom: Assignor | None) -> None:
        """Decide anew who should read what."""
        subscribers = [Subscriber(member.number, member.topics, member.name, member.busy) for member in self.members]
        read = {topic for member in self.members for topic in member.topics}
        self.partitions = {topic: count for topic, count in self.partitions.items() if topic in read}
        self.ids = {topic: number for topic, number in self.ids.items() if topic in read}
        self.target = assign(self.assignor, custom, subscribers, self.partitions, self.target)
        self.stale = False

    def know(self, topic: str, number: int, count: int) -> None:
        """This topic has so many partitions, and goes by that id."""
        if self.ids.get(topic, number) != number:  # a topic that was deleted, and is somebody's who has not seen it yet
            self.partitions.pop(topic, None)
            self.target = {where: owner for where, owner in self.target.items() if where[0] != topic}
        self.ids[topic] = number
        self.partitions[topic] = max(count, self.partitions.get(topic, 0))

    def take_from(self, where: tuple[str, int]) -> None:
        """Whoever should read this is busy with something else: it is for the others."""
        member = self.member(self.target.pop(where, 0))
        if member is not None:
            member.busy = True

    def remove(self, member: Member, now: float) -> None:
        """It went: its partitions are free, or wait for it a while."""
        if member.instance and member.hold > 0 and member.gone is None:
            member.gone = now
            return
        if member.instance:
            self.instances[member.instance] = self.of(member.number)
        self.members.remove(member)
        self.target = {where: number for where, number in self.target.items() if number != member.number}

    def to_json(self) -> bytes:
        said = {
            "generation": self.generation,
            "assignor": self.assignor,
            "next_number": self.next_number,
            "members": [{name: getattr(member, name) for name in Member.__slots__} for member in self.members],
            "partitions": self.partitions,
            "ids": self.ids,
            "target": [[topic, partition, number] for (topic, partition), number in self.target.items()],
            "instances": self.instances,
            "stale": self.stale,
        }
        return json.dumps(said, separators=(",", ":")).encode()

    @staticmethod
    def from_json(data: bytes) -> State:
        said: dict[str, Any] = json.loads(data)
        said["members"] = [Member(**(m | {"topics": tuple(m["topics"])})) for m in said["members"]]
        said["target"] = {(topic, partition): number for topic, partition, number in said["target"]}
        said["instances"] = {name: [(t, p) for t, p in read] for name, read in said["instances"].items()}
        return State(**said)


class Membership:
    """A group's members, as this process sees them; `join` makes it one of theirs."""

    def __init__(self, folder: str, group: str, liveness: Liveness, timeout: float) -> None:
        self.folder = folder
        self.group = group
        self.liveness = liveness
        self.number = 0  # of our own member
        self._timeout = timeout
        self._state = State()
        self._path = os.path.join(folder, "members")
        with told(self._path, "open the group"):
            while not self._open():
                pass

    def _open(self) -> bool:
        """False when somebody deleted the group meanwhile."""
        make_directory(self.folder)
        try:
            with FileLock(os.path.join(self.folder, "lock"), timeout=self._timeout) as door:
                if not door.is_there:
                    return False
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | O_BINARY, 0o666)
                try:
                    self._file_id = os.fstat(fd)
                    if self._file_id.st_size < WORDS.size:
                        write_all(fd, bytes(WORDS.size))  # real zeros, before it is mapped
                    self._words = memoryview(mmap.mmap(fd, WORDS.size)).cast("Q")
                    known = self._words[0] == home_of(fd) and self._words[1] < GENERATIONS
                    if not known:  # another boot's, or a copy: nobody in it is alive
                        self._words[1] = self._words[1] % GENERATIONS + 1
                        self._words[0] = home_of(fd)
                    self._tidy(keep=known)
                finally:
                    os.close(fd)
        except FileNotFoundError:
            return False
        return True

    def _tidy(self, keep: bool) -> None:
        """Remove what those left who died in the middle of a change; without `keep` the present state as well."""
        present = os.path.basename(self._file(self._words[1])) if keep else ""
        for name in os.listdir(self.folder):
            if STATE_FILE.fullmatch(name) and name != present:
                os.unlink(os.path.join(self.folder, name))

    @contextlib.contextmanager
    def _door(self, patience: float | None) -> Iterator[None]:
        """The group's lock; for at most so long, or for as long as the store says. Raises DirectoryInUse then."""
        timeout = self._timeout if patience is None else min(patience, self._timeout)
        try:
            with FileLock(os.path.join(self.folder, "lock"), timeout=timeout):
                # It may be another group's by now, made anew under the name of ours.
                if not os.path.samestat(os.stat(self._path), self._file_id):
                    raise FileNotFoundError
                yield
        except FileNotFoundError as error:
            if os.path.exists(self._path) and os.path.samestat(os.stat(self._path), self._file_id):
                raise
            raise GroupNotFound(
                f"group {self.group} was deleted meanwhile. Nothing was changed.", name=self.group
            ) from error

    # ---- look -------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Grows with each change. One load."""
        return self._words[1]

    def state(self) -> State:
        """The membership as it is now."""
        generation = self._words[1]
        while self._state.generation != generation:
            try:
                with open(self._file(generation), "rb") as file:
                    self._state = State.from_json(file.read())
            except FileNotFoundError:
                if self._words[1] == generation:  # nobody has joined since it was made
                    self._state = State(generation=generation)
            generation = self._words[1]
        return self._state

    def _file(self, generation: int) -> str:
        return os.path.join(self.folder, f"members-{generation}")

    def dead(self) -> list[Member]:
        """Members whose process is gone, or whose time to come back is over. One system call per process."""
        now = time.monotonic()
        living: dict[int, bool] = {}
        found = []
        for member in self.state().members:
            if member.gone is not None:
                if now - member.gone >= member.hold:
                    found.append(member)
                continue
            if member.word not in living:
                living[member.word] = member.word == self.liveness.word or self.liveness.alive(member.word)
            if not living[member.word]:
                found.append(member)
        return found

    # ---- change -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def change(self, patience: float | None = None) -> Iterator[State]:
        """Under the group's lock: the state, to be changed in place; written and told to all unless the block raises, or
        changes nothing. Waits at most `patience` seconds, or as long as the store says, for the lock."""
        with told(self.folder, "change the group"), self._door(patience):
            said = self.state().to_json()
            state = State.from_json(said)  # a copy: what raises has changed nothing
            now = time.monotonic()
            for member in self.dead():
                copy = state.member(member.number)
                if copy is not None:
                    state.remove(copy, now)
            yield state
            if state.to_json() == said:  # another member was quicker
                return
            before, state.generation = state.generation, self._words[1] + 1
            temporary = os.path.join(self.folder, f"members-{os.getpid()}.tmp")
            try:
                with open(temporary, "wb") as file:
                    file.write(state.to_json())
                os.replace(temporary, self._file(state.generation))
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            self._words[1] = state.generation
            self._state = state
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(before))
        self.liveness.ring()

    @contextlib.contextmanager
    def still(self, patience: float | None = None) -> Iterator[State]:
        """Under the group's lock: the state, to look at while owners change. Waits as `change` does."""
        with told(self.folder, "look at the group"), self._door(patience):
            yield self.state()

    def join(
        self,
        state: State,
        partitions: Mapping[str, int],
        ids: Mapping[str, int],
        assignor: str,
        custom: Assignor | None,
        instance: str | None,
        hold: float,
    ) -> None:
        """Within `change`: become a member that reads these topics. Raises ConfigError when the others assign otherwise,
        GroupInUse when the instance is here already."""
        here = [member for member in state.members if member.gone is None]
        if here and state.assignor != assignor:
            raise ConfigError(
                f"group {self.group} assigns partitions by {state.assignor}, not {assignor}: all members must say the same "
                f"assignor=. It has {len(here)} live members. Nothing was changed.",
                setting="assignor",
                value=assignor,
            )
        state.assignor = assignor
        member = Member(
            number=state.next_number,
            word=self.liveness.word,
            pid=os.getpid(),
            topics=tuple(sorted(partitions)),
            joined=time.time(),
            instance=instance,
            hold=hold,
        )
        state.next_number += 1
        if instance is not None:
            earlier = next((m for m in state.members if m.instance == instance), None)
            if earlier is not None and earlier.gone is None:
                raise GroupInUse(
                    f"{instance} of group {self.group} is alive, in process {earlier.pid}: an instance is there once. Close "
                    "that consumer, wait for its end, or take another name. Nothing was changed.",
                    group=self.group,
                    members=(earlier.name,),
                )
            read = state.instances.pop(instance, [])
            if earlier is not None:
                read = state.of(earlier.number)
                state.members.remove(earlier)
            # As if it had never been away; balance comes next.
            state.target |= dict.fromkeys(read, member.number)
        state.members.append(member)
        for topic, count in partitions.items():
            state.know(topic, ids[topic], count)
        state.rebalance(custom)
        self.number = member.number

    def leave(self, custom: Assignor | None) -> None:
        """Be no member any more; the others share what it had, at once."""
        with self.change() as state:
            member = state.member(self.number)
            if member is not None:
                state.remove(member, time.monotonic())
                if custom is None:
                    state.rebalance(None)
                else:
                    state.stale = True  # a callable that fails must not keep us here: the others call theirs
        self.number = 0

    def me(self) -> Member:
        """Our member. Raises Fenced when the group no longer has it."""
        member = self.state().member(self.number)
        if member is None:
            raise Fenced(
                f"this consumer is no member of group {self.group} any more: it was evicted, or it was closed. Nothing was read "
                "or committed. Open a new one.",
                group=self.group,
                member=self.number,
            )
        return member
