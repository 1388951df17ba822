"""Groups: what an operator sees of a consumer group, and may do to it, without being one of its members.

It promises that looking changes nothing, and that places are moved (`reset`) or removed only while no live member owns them:
otherwise it raises GroupInUse, naming the members. `evict` is the exception, for a member that is stopped and cannot be
killed: what it commits later raises Fenced.

>>> import seglog
>>> with seglog.open("data") as store:
...     orders = store.topic("orders")
...     _ = orders.send_many([b"one", b"two", b"three"])
...     with orders.consumer("billing", commit="after") as consumer:
...         _ = consumer.receive(max_records=2)
...     group = store.group("billing")
...     [(place.topic, place.partition, place.committed, place.lag) for place in group.describe().places]
...     group.reset("earliest")
[('orders', 0, 2, 1)]
{('orders', 0): (2, 0)}
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from seglog.consumer import age_of_next
from seglog.engine.places import Place
from seglog.errors import ConfigError, CorruptStore, GroupInUse, GroupNotFound, PartitionNotFound
from seglog.files import sync_directory, told
from seglog.membership import Member, Membership
from seglog.names import check_name
from seglog.start import Start, one_offset_needs_one_partition, start_of, whole
from seglog.store import Store

__all__ = ["Group", "GroupDescription", "MemberDescription", "PlaceDescription", "groups_of"]

SUFFIX = ".positions"


@dataclass(frozen=True, slots=True)
class MemberDescription:
    """One member, as `seglog group describe` shows it."""

    name: str
    pid: int
    topics: tuple[str, ...]
    joined: float
    """Seconds since the epoch."""
    state: str
    """"alive"; "stopped" (SIGSTOP, or a debugger); "dead", and about to be replaced; "away", an instance that is waited for."""
    partitions: tuple[tuple[str, int], ...]
    """What it reads now."""
    waits_for: tuple[tuple[str, int], ...]
    """What it is to read, once the owner gives it up."""


@dataclass(frozen=True, slots=True)
class PlaceDescription:
    """One partition of one topic, as the group sees it."""

    topic: str
    partition: int
    committed: int | None
    committed_at: float | None
    """When, in seconds since the epoch."""
    first_offset: int
    next_offset: int
    lag: int
    """Records behind the last commit."""
    lag_seconds: float
    """The age of the first of them."""
    owner: str | None
    """The member that reads it."""


@dataclass(frozen=True, slots=True)
class GroupDescription:
    """A moment of a group; frozen."""

    name: str
    generation: int
    assignor: str
    members: tuple[MemberDescription, ...]
    places: tuple[PlaceDescription, ...]

    @property
    def lag(self) -> int:
        return sum(place.lag for place in self.places)

    @property
    def lag_seconds(self) -> float:
        return max((place.lag_seconds for place in self.places), default=0.0)


class Group:
    """What `store.group(name)` returns."""

    def __init__(self, store: Store, name: str) -> None:
        check_name(name, "group")
        self.name = name
        self._store = store
        self._path = store.group_path(name)
        if not os.path.isdir(self._path):
            raise GroupNotFound(
                f"there is no group {name}: none of that name has read anything here. Nothing was changed.", name=name
            )
        self._membership = Membership(self._path, name, store.liveness, store.config.lock_timeout)

    @property
    def topics(self) -> list[str]:
        """The topics in which it has places, and which still exist; sorted."""
        there = set(self._store.topics())
        named = (name.removesuffix(SUFFIX) for name in os.listdir(self._path) if name.endswith(SUFFIX))
        return sorted(there.intersection(named))

    # ---- look -------------------------------------------------------------------------------------

    def describe(self) -> GroupDescription:
        """Members, places and lag, at this moment. O(partitions), and a read for each that lags."""
        with self._membership.still() as state:
            opened = self._places(self.topics)
            dead = {member.number for member in self._membership.dead()}
        names = {member.owner: member.name for member in state.members}
        owned: dict[int, list[tuple[str, int]]] = {}
        places = []
        for place in opened:
            mark, log = place.committed(), place.log
            at = log.first_offset if mark is None else max(mark[0], log.first_offset)
            owned.setdefault(place.owner, []).append(where(place))
            places.append(
                PlaceDescription(
                    topic=log.topic or "",
                    partition=log.partition,
                    committed=None if mark is None else mark[0],
                    committed_at=None if mark is None else mark[3] / 1e6,
                    first_offset=log.first_offset,
                    next_offset=log.next_offset,
                    lag=max(0, log.next_offset - at),
                    lag_seconds=age_of_next(log, at, self._store.clock),
                    owner=names.get(place.owner),
                )
            )
        members = [
            MemberDescription(
                name=member.name,
                pid=member.pid,
                topics=member.topics,
                joined=member.joined,
                state=condition(member, member.number in dead),
                partitions=tuple(owned.get(member.owner, ())),
                waits_for=tuple(sorted(set(state.of(member.number)) - set(owned.get(member.owner, ())))),
            )
            for member in state.members
        ]
        return GroupDescription(self.name, state.generation, state.assignor, tuple(members), tuple(places))

    def lag(self, topic: str | None = None) -> int:
        """How many records behind its commits the group is, in one topic or in all."""
        return sum(place.lag for place in self.describe().places if topic in (None, place.topic))

    def explain(self) -> list[str]:
        """Why the group lags, or a member is idle: one sentence each; empty when nothing is to be said."""
        now = self._store.clock() / 1e6
        it = self.describe()
        said = []
        alive = [member for member in it.members if member.state in ("alive", "stopped")]
        if it.lag and not alive:
            said.append(f"{it.lag:,} records wait, and group {self.name} has no live member: start a consumer.")
        for member in it.members:
            who = f"member {member.name} (process {member.pid})"
            if member.state == "stopped":
                said.append(
                    f"{who} is stopped, by a signal or a debugger: it keeps {spoken(member.partitions)}. Continue it, end it, "
                    "or evict it."
                )
            elif member.state == "dead":
                said.append(f"{who} is dead; whoever receives next takes over {spoken(member.partitions)}.")
            elif member.state == "away":
                said.append(f"{who} is away, and its partitions wait for it to come back (rejoin_within).")
            elif member.waits_for:
                said.append(f"{who} waits for {spoken(member.waits_for)}, which its owner gives up at its next receive.")
            elif not member.partitions:
                read = [place for place in it.places if place.topic in member.topics]
                said.append(
                    f"{who} is idle: {len(read)} partitions, {len(alive)} members, and a partition has one reader. Add "
                    "partitions, or let it stand by."
                )
        for place in it.places:
            if not place.lag:
                continue
            where = f"{place.topic}[{place.partition}]"
            since = "it has never committed there"
            if place.committed_at is not None:
                since = f"its last commit is {now - place.committed_at:,.1f} s old"
            if place.owner is not None:
                said.append(
                    f"{where} is {place.lag:,} records and {place.lag_seconds:,.1f} s behind: {place.owner} reads it, and {since}."
                )
            elif alive:
                said.append(f"{where} is {place.lag:,} records behind, and nobody reads it: {since}.")
        return said

    # ---- change -----------------------------------------------------------------------------------

    def reset(
        self,
        to: Start | None = None,
        *,
        topic: str | None = None,
        partition: int | None = None,
        shift_by: int | None = None,
        dry_run: bool = False,
    ) -> dict[tuple[str, int], tuple[int | None, int]]:
        """Commit another place: `to` an offset (of one partition), an aware datetime, "earliest" or "latest"; or `shift_by` records
        from where it is, as far as there are any. Returns (before, after) of each partition; `dry_run` only does that.

        Raises GroupInUse while a live member owns one of them, OffsetOutOfRange, ConfigError.
        """
        if (to is None) == (shift_by is None):
            raise ConfigError("a reset says either where to, or shift_by=; one of the two", setting="to", value=to)
        topics = self.topics if topic is None else [topic]
        moved: dict[tuple[str, int], tuple[int | None, int]] = {}
        with self._unused(topics, partition) as places:
            if to is not None:
                one_offset_needs_one_partition(to, "to", [place.log for place in places])
            for place in places:
                log = place.log
                try:
                    mark = place.committed()
                except CorruptStore:  # this is how it gets a place again, unless the old one is what counts
                    if to is None:
                        raise
                    mark = None
                before = None if mark is None else mark[0]
                if to is not None:
                    after = start_of(to, log)
                else:
                    at = (log.first_offset if before is None else before) + whole(shift_by, "shift_by", "an int")
                    after = min(max(at, log.first_offset), log.next_offset)
                moved[where(place)] = (before, after)
            if not dry_run:
                for place in places:
                    place.put(moved[where(place)][1], self._membership.generation)
                for name in topics:
                    self._store.sync_positions(self.name, name)
        return moved

    def evict(self, member: str) -> None:
        """Put a member out, alive or not: its partitions go to the others at once, and what it still commits raises Fenced."""
        with self._membership.change() as state:
            found = next((m for m in state.members if member in (m.name, str(m.number))), None)
            if found is None:
                raise GroupNotFound(
                    f"group {self.name} has no member {member}. Nothing was changed.",
                    name=member,
                    members=tuple(m.name for m in state.members),
                )
            state.members.remove(found)
            state.target = {where: number for where, number in state.target.items() if number != found.number}
            if state.assignor == "custom":
                state.stale = True
            else:
                state.rebalance(None)
            for place in self._places(self.topics):
                if place.owner == found.owner:
                    place.expel()

    def delete(self) -> None:
        """Forget the group: its members and its places. Raises GroupInUse while it has live members. Final."""
        with self._membership.still() as state, told(self._path, f"delete group {self.name}"):
            dead = {member.number for member in self._membership.dead()}
            if live := [member for member in state.members if member.number not in dead]:
                raise in_use(self.name, live)
            # In one step, for all who look; whoever waits for the lock is told that the group is gone.
            gone = os.path.join(os.path.dirname(self._path), f".{self.name}.{os.getpid()}")
            shutil.rmtree(gone, ignore_errors=True)  # of one who died here
            os.rename(self._path, gone)
            sync_directory(os.path.dirname(self._path))
            shutil.rmtree(gone)

    @contextmanager
    def _unused(self, topics: Sequence[str], partition: int | None) -> Iterator[list[Place]]:
        """Under the group's lock: the places in these topics, when nobody alive owns one."""
        with self._membership.still() as state:
            dead = {member.number for member in self._membership.dead()}
            alive = {member.owner: member for member in state.members if member.number not in dead and member.gone is None}
            places = [place for place in self._places(topics) if partition in (None, place.log.partition)]
            if partition is not None and not places:
                raise PartitionNotFound(
                    f"group {self.name} has no place in partition {partition} of {', '.join(topics)}.",
                    partition=partition,
                    partitions=0,
                )
            owners = {place.owner for place in places}
            if busy := [member for owner, member in alive.items() if owner in owners]:
                raise in_use(self.name, busy)
            yield places

    def _places(self, topics: Sequence[str]) -> list[Place]:
        """Under the group's lock: a place keeps its map when the file is closed."""
        places = []
        for name in topics:
            topic = self._store.existing(name)
            positions = self._store.positions(self.name, topic)
            places += [positions.place(log) for log in topic.current()]
            positions.close()
        return places

    def __repr__(self) -> str:
        return f"<Group {self.name} of {', '.join(self.topics) or 'no topic'}>"


def where(place: Place) -> tuple[str, int]:
    return place.log.topic or "", place.log.partition


def groups_of(store: Store) -> list[str]:
    """The names of the groups there are, sorted."""
    folder = os.path.join(store.path, "groups")
    with suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(folder) if name[0] != "." and os.path.isdir(os.path.join(folder, name)))
    return []


def condition(member: Member, is_dead: bool) -> str:
    if member.gone is not None:
        return "away"
    if is_dead:
        return "dead"
    if sys.platform == "linux":
        with suppress(OSError, IndexError):
            with open(f"/proc/{member.pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] in "Tt":
                    return "stopped"
    return "alive"


def in_use(group: str, members: Sequence[Member]) -> GroupInUse:
    listed = ", ".join(f"{member.name} (process {member.pid})" for member in members)
    return GroupInUse(
        f"group {group} has live members: {listed}. A place is moved only while nobody reads on from it. Close them, or "
        "evict them. Nothing was changed.",
        group=group,
        members=tuple(member.name for member in members),
    )


def spoken(partitions: Sequence[tuple[str, int]]) -> str:
    said = ", ".join(f"{topic}[{partition}]" for topic, partition in partitions[:8])
    return (said or "no partition") + (f" and {len(partitions) - 8} more" if partitions[8:] else "")
