"""Assignment: which member of a group reads which partition. Pure functions, so that every member finds the same.

    range        per topic, runs of neighbours: partition 0 of two topics lands with the same member
    roundrobin   all partitions dealt out in turn
    sticky       as even as can be, moving as few partitions as that takes; the default
    a callable   (members, partitions) -> assignment, all three as in `Assignor`

Each partition goes to one member that subscribes to its topic; members beyond the number of partitions get none, and step in
when there is something. Ties go to the member that joined first.

The sticky rule is the one of Kafka's KIP-54: balance first, then as many of the earlier assignments as balance allows.

>>> sticky([Subscriber(1, ("t",)), Subscriber(2, ("t",))], {"t": 3}, {("t", 0): 2, ("t", 1): 2, ("t", 2): 2})
{('t', 0): 2, ('t', 1): 2, ('t', 2): 1}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Literal, NamedTuple

from seglog.errors import ConfigError

__all__ = ["ASSIGNORS", "Assigned", "Assignor", "AssignorName", "Subscriber", "assign"]

AssignorName = Literal["sticky", "range", "roundrobin"]
Assignor = Callable[[Mapping[str, Sequence[str]], Mapping[str, int]], Mapping[str, Mapping[str, Sequence[int]]]]
"""`(members, partitions) -> {member: {topic: [partition, ...]}}`, where `members` maps names to the topics that each reads,
in the order in which they joined, and `partitions` topics to how many partitions they have."""

TopicPartition = tuple[str, int]
Assigned = dict[TopicPartition, int]  # the member's number


class Subscriber(NamedTuple):
    """One member, as far as assigning is concerned."""

    number: int
    topics: tuple[str, ...]
    name: str = ""
    busy: bool = False
    """It keeps what it has, and takes nothing new for now."""


def spread_range(members: Sequence[Subscriber], partitions: Mapping[str, int], before: Assigned) -> Assigned:
    """Per topic, in runs; the first members get one more where it does not come out even. `before` plays no part."""
    assigned: Assigned = {}
    for topic, count in sorted(partitions.items()):
        readers = [member.number for member in members if topic in member.topics]
        at = 0
        for i, number in enumerate(readers):
            for _ in range(count // len(readers) + (i < count % len(readers))):
                assigned[topic, at] = number
                at += 1
    return assigned


def roundrobin(members: Sequence[Subscriber], partitions: Mapping[str, int], before: Assigned) -> Assigned:
    """Dealt out in turn, past those that do not read the topic. `before` plays no part."""
    assigned: Assigned = {}
    turn = cycle(members)
    for topic, partition in everything(partitions):
        if any(topic in member.topics for member in members):
            assigned[topic, partition] = next(member.number for member in turn if topic in member.topics)
    return assigned


def sticky(members: Sequence[Subscriber], partitions: Mapping[str, int], before: Assigned) -> Assigned:
    """Even, and of all even ones one that keeps most of `before`. O(partitions x members) at the worst."""
    topics = {member.number: frozenset(member.topics) for member in members}
    takers = [member.number for member in members if not member.busy] or list(topics)
    held: dict[int, list[TopicPartition]] = {member.number: [] for member in members}
    free: list[TopicPartition] = []
    for where in everything(partitions):
        number = before.get(where)
        (held[number] if number is not None and where[0] in topics.get(number, ()) else free).append(where)
    for where in free:
        readers = [number for number in takers if where[0] in topics[number]]
        readers = readers or [number for number, read in topics.items() if where[0] in read]
        if readers:
            held[min(readers, key=lambda number: len(held[number]))].append(where)
    while True:  # each turn makes two members more alike by one partition, so it ends
        few = sorted(held, key=lambda number: len(held[number]))
        move = next(
            (
                (giver, taker, where)
                for taker in few
                if taker in takers
                for giver in reversed(few)
                if len(held[giver]) > len(held[taker]) + 1
                for where in reversed(held[giver])
                if where[0] in topics[taker]
            ),
            None,
        )
        if move is None:
            return dict(sorted((where, number) for number, given in held.items() for where in given))
        giver, taker, where = move
        held[giver].remove(where)
        held[taker].append(where)


ASSIGNORS: dict[str, Callable[[Sequence[Subscriber], Mapping[str, int], Assigned], Assigned]] = {
    "sticky": sticky,
    "range": spread_range,
    "roundrobin": roundrobin,
}


def assign(
    how: str, custom: Assignor | None, members: Sequence[Subscriber], partitions: Mapping[str, int], before: Assigned
) -> Assigned:
    """By the assignor of that name, or by `custom`, whose answer is checked: raises ConfigError for one that gives a
    partition to two members, to one that does not read its topic or does not exist, or to none."""
    if not members:
        return {}
    spread = ASSIGNORS[how] if custom is None else by_callable(custom)
    busy = {member.number: member for member in members if member.busy}
    if not busy or how == "sticky":
        return spread(members, partitions, before)
    # Whoever is at work on something long keeps what it has; the rest is for those who come for it, if they read it.
    others = [member for member in members if not member.busy]
    read = {topic for member in others for topic in member.topics}
    assigned = spread(members, {t: n for t, n in partitions.items() if t not in read}, before) if partitions.keys() - read else {}
    if others:
        assigned |= spread(others, {t: n for t, n in partitions.items() if t in read}, before)
    for topic, partition in everything(partitions):
        keeper = busy.get(before.get((topic, partition), 0))
        if keeper is not None and topic in keeper.topics:
            assigned[topic, partition] = keeper.number
    return dict(sorted(assigned.items()))


def by_callable(custom: Assignor) -> Callable[[Sequence[Subscriber], Mapping[str, int], Assigned], Assigned]:
    return lambda members, partitions, before: asked(custom, members, partitions)


def asked(custom: Assignor, members: Sequence[Subscriber], partitions: Mapping[str, int]) -> Assigned:
    by_name = {member.name: member for member in members}
    read_here = {name: tuple(t for t in m.topics if t in partitions) for name, m in by_name.items()}
    answer = custom(read_here, dict(partitions))
    assigned: Assigned = {}
    for name, topics in answer.items():
        for topic, numbers in topics.items():
            for partition in numbers:
                if topic not in read_here.get(name, ()) or not 0 <= partition < partitions[topic]:
                    raise wrong(f"gives {topic}[{partition}] to {name!r}, which cannot read it")
                if (topic, partition) in assigned:
                    raise wrong(f"gives {topic}[{partition}] to two members")
                assigned[topic, partition] = by_name[name].number
    read = {topic for topics in read_here.values() for topic in topics}
    left = [where for where in everything(partitions) if where not in assigned and where[0] in read]
    if left:
        raise wrong(f"leaves {left[0][0]}[{left[0][1]}] to nobody" + (f", and {len(left) - 1} more" if left[1:] else ""))
    return dict(sorted(assigned.items()))


def everything(partitions: Mapping[str, int]) -> list[TopicPartition]:
    return [(topic, partition) for topic, count in sorted(partitions.items()) for partition in range(count)]


def wrong(what: str) -> ConfigError:
    return ConfigError(
        f"the assignor {what}. The group keeps the assignment it had.", setting="assignor", value=what
    )
