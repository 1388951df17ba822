"""Routes: where a message goes, over all exchanges of a store: their tables, kept up with the topology, and the way through them.

    exchange/<name>     {"id", "created", "config": {"type", "alternate", "hash_header"}}
    binding/<hash>      {"source", "source_id", "kind", "destination", "destination_id", "pattern", "arguments"}

A binding names both of its ends with their ids, and holds while both are there with these ids. So it goes, for every process, in
the moment in which either end is deleted, whatever dies after that, and does not come back with another thing of the same name;
its record is only litter then, which the next change of a binding takes away (`stale`).

It promises that what any process changed is seen by the next look, which is one load from shared memory when nothing was; and
that a key whose way was found is answered from memory, of which that takes some 10 MB at most.
"""

from __future__ import annotations

import hashlib
import json
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from seglog.errors import CorruptStore, ExchangeNotFound, UnsupportedFormat
from seglog.routing import TABLES, TYPES, Binding, Destination, DestinationKind, ExchangeType, Table
from seglog.topology import Topology

__all__ = ["BINDING", "EXCHANGE", "ExchangeConfig", "Routes", "binding_name", "binding_to_json", "not_found"]

EXCHANGE: Final = "exchange"  # the kinds, in the topology
BINDING: Final = "binding"
ENDS = (EXCHANGE, "queue", "topic")  # what a binding can begin or end at
CACHE_MAX = 1 << 17  # what the routes of one generation of the cache may weigh; see `Cache`
ROUTE_WEIGHT = 8  # of an answer; each destination in it weighs 1 more

Found = tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """The settings of an exchange; frozen."""

    type: ExchangeType
    """How it finds the bindings that match: "direct", "topic", "fanout", "headers" or "hash"."""

    alternate: str | None = None
    """The exchange that gets what no binding matches. None: that is unroutable."""

    hash_header: str | None = None
    """Of a hash exchange: the header whose value is hashed. None: the routing key."""

    def to_json(self) -> dict[str, object]:
        return {"type": self.type, "alternate": self.alternate, "hash_header": self.hash_header}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any], name: str) -> ExchangeConfig:
        """The reverse. Raises UnsupportedFormat for what only a newer seglog can have written."""
        unknown = sorted(set(settings) - set(cls.__slots__))
        if unknown or settings.get("type") not in TYPES:
            what = f"settings {', '.join(unknown)}" if unknown else f"the type {settings.get('type')!r}"
            raise UnsupportedFormat(
                f"exchange {name} has {what}, which this version of seglog does not know. It was made by a newer one; use "
                "that. Nothing was changed.",
                found=unknown or [settings.get("type")],
                supported=sorted(cls.__slots__),
            )
        return cls(**settings)

    def differences(self, asked: Mapping[str, object]) -> dict[str, tuple[object, object]]:
        """setting -> (asked, existing), for each of `asked` that is otherwise here."""
        return {name: (value, getattr(self, name)) for name, value in asked.items() if value != getattr(self, name)}


class Bound(NamedTuple):
    """A binding as the topology has it."""

    binding: Binding
    source_id: str
    destination_id: str


class Cache:
    """Answers, by an exchange's id and a key: bounded, and what was asked for of late stays.

    Two generations: when the young one is full it becomes the old."""

    def __init__(self) -> None:
        self._young: dict[tuple[str, str], Found] = {}
        self._old: dict[tuple[str, str], Found] = {}
        self._weight = 0

    def get(self, key: tuple[str, str]) -> Found | None:
        """Without a lock: the worst that another thread's `put` does to it is that it finds nothing."""
        found = self._young.get(key)
        if found is not None:
            return found
        found = self._old.get(key)
        if found is not None:
            self.put(key, found)
        return found

    def put(self, key: tuple[str, str], found: Found) -> None:
        self._young[key] = found
        self._weight += ROUTE_WEIGHT + len(found)
        if self._weight > CACHE_MAX:
            self._old, self._young, self._weight = self._young, {}, 0


class Routes:
    """The exchanges of one store, as this process sees them. Threads may share it.

    Cost: what changed in the topology is taken in once, O(1) each and O(its bindings) for an end of bindings; a route is a dict
    lookup when its key was asked for before, else a look into the table of each exchange on the way.
    """

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self.lock = threading.Lock()
        self._seen = -1
        self._cache = Cache()
        self._configs: dict[str, tuple[ExchangeConfig, str]] = {}  # and the id
        self._tables: dict[str, Table] = {}
        self._bound: dict[str, Bound] = {}  # by the binding's name: all there are
        self._live: dict[str, Binding] = {}  # those that stand in a table
        self._at: dict[Destination, set[str]] = {}  # the bindings that begin or end there

    # ---- look -----------------------------------------------------------------------------------

    def route(self, exchange: str, exchange_id: str, key: str, headers: Mapping[str, object]) -> Found:
        """The queues and topics that a message goes to, sorted, each once; those that match no binding go by the alternate.

        Raises ExchangeNotFound when there is no exchange of that name and id.
        """
        self.follow()
        cache = self._cache
        found = cache.get((exchange_id, key))
        if found is None:
            with self.lock:
                config, own = self._configs.get(exchange, (None, None))
                if config is None or own != exchange_id:
                    raise not_found(exchange)
                found, by_headers = self._passed(exchange, key, headers)
                if not by_headers:
                    self._cache.put((exchange_id, key), found)
        return found

    def _passed(self, exchange: str, key: str, headers: Mapping[str, object]) -> tuple[Found, bool]:
        """One pass: no exchange is entered twice, so circles end. And whether any on the way looked at headers."""
        found: set[Destination] = set()
        entered, waiting, by_headers = {exchange}, [exchange], False
        while waiting:
            name = waiting.pop()
            table = self._tables[name]
            by_headers |= table.by_headers
            matched: Iterable[Destination] = table.match(key, headers)
            if not matched:
                alternate = self._configs[name][0].alternate
                matched = [Destination(EXCHANGE, alternate)] if alternate in self._tables else ()
            for to in matched:
                if to.kind != EXCHANGE:
                    found.add(to)
                elif to.name not in entered:
                    entered.add(to.name)
                    waiting.append(to.name)
        return tuple(sorted(found)), by_headers

    def existing(self, exchange: str) -> tuple[ExchangeConfig, str] | None:
        """Its settings and its id; None when there is no such exchange."""
        self.follow()
        return self._configs.get(exchange)

    def check(self, exchange: str, exchange_id: str) -> None:
        """Raises ExchangeNotFound when there is no exchange of that name and id."""
        found = self.existing(exchange)
        if found is None or found[1] != exchange_id:
            raise not_found(exchange)

    def bindings(self, exchange: str) -> list[Binding]:
        """Those that begin at it, sorted by destination."""
        self.follow()
        with self.lock:
            live = (self._live.get(name) for name in self._at.get(Destination(EXCHANGE, exchange), ()))
            own = [binding for binding in live if binding is not None and binding.source == exchange]
        return sorted(own, key=lambda binding: (*binding.to, binding.pattern, binding_name(binding)))

    def stale(self) -> list[str]:
        """The names of the bindings that do not hold, sorted; they never will again."""
        self.follow()
        with self.lock:
            return sorted(self._bound.keys() - self._live.keys())

    @property
    def version(self) -> int:
        """Grows with each change of the topology that was taken in."""
        return self._seen

    # ---- follow the topology --------------------------------------------------------------------

    def follow(self) -> None:
        """Take in what changed, in this process or another. One load from shared memory when nothing did."""
        self._topology.refresh()
        if self._seen == self._topology.version:
            return
        with self.lock:
            version = self._topology.version
            for key in self._topology.changed(self._seen):
                kind, _, name = key.partition("/")
                if kind == BINDING:
                    self._learn(name)
                elif kind in ENDS:
                    if kind == EXCHANGE:
                        self._declare(name)
                    for binding in list(self._at.get(Destination(cast(DestinationKind, kind), name), ())):
                        self._weigh(binding)
            self._cache = Cache()  # a new one: who found the old way just now puts it into the old
            self._seen = version

    def _declare(self, name: str) -> None:
        entry = self._topology.get(EXCHANGE, name)
        if entry is None:
            self._configs.pop(name, None)
        elif self._configs.get(name, (None, None))[1] == entry["id"]:
            return
        else:
            config = ExchangeConfig.from_json(entry["config"], name)
            self._configs[name] = config, entry["id"]
        for binding in self._at.get(Destination(EXCHANGE, name), ()):  # they stood in the table that goes
            if self._bound[binding].binding.source == name:
                self._live.pop(binding, None)
        self._tables.pop(name, None)
        if entry is not None:
            self._tables[name] = TABLES[config.type](config.hash_header)

    def _learn(self, name: str) -> None:
        entry = self._topology.get(BINDING, name)
        before, now = self._bound.get(name), None if entry is None else bound_of(name, entry)
        if before == now:
            return
        if before is not None:
            del self._bound[name]
            self._drop(name)
            for end in ends(before.binding):
                self._at[end].discard(name)
                if not self._at[end]:
                    del self._at[end]
        if now is not None:
            self._bound[name] = now
            for end in ends(now.binding):
                self._at.setdefault(end, set()).add(name)
            self._weigh(name)

    def _weigh(self, name: str) -> None:
        """Have the binding in the table of its source if both its ends are there, and only then."""
        binding, source_id, destination_id = self._bound[name]
        if binding.kind == EXCHANGE:  # not what the topology says meanwhile, but what has a table here
            there = self._configs.get(binding.destination, (None, None))[1]
        else:
            there = (self._topology.get(binding.kind, binding.destination) or {}).get("id")
        holds = there == destination_id and self._configs.get(binding.source, (None, None))[1] == source_id
        if holds and name not in self._live:
            self._tables[binding.source].bind(name, binding)
            self._live[name] = binding
        elif not holds:
            self._drop(name)

    def _drop(self, name: str) -> None:
        binding = self._live.pop(name, None)
        if binding is not None:
            self._tables[binding.source].unbind(name, binding)

    def after_fork(self) -> None:
        """In the child: a lock that no other thread holds. Who held it may have been in the middle: everything is read again."""
        self.__init__(self._topology)  # type: ignore[misc]


# ---- what is written down -------------------------------------------------------------------------------------------


def ends(binding: Binding) -> tuple[Destination, Destination]:
    return Destination(EXCHANGE, binding.source), binding.to


def arguments_to_json(binding: Binding) -> dict[str, object]:
    """Text stays text, bytes become base64 in a list of one: JSON knows no bytes."""
    return {
        name: [b64encode(value).decode()] if isinstance(value, bytes) else value
        for name, value in binding.arguments.items()
    }


def binding_name(binding: Binding) -> str:
    """What a binding is called in the topology: the same for equal ones."""
    it = [binding.source, binding.kind, binding.destination, binding.pattern, arguments_to_json(binding)]
    return hashlib.blake2b(json.dumps(it, sort_keys=True).encode(), digest_size=16).hexdigest()


def binding_to_json(binding: Binding, source_id: str, destination_id: str) -> dict[str, object]:
    return {
        "source": binding.source,
        "source_id": source_id,
        "kind": binding.kind,
        "destination": binding.destination,
        "destination_id": destination_id,
        "pattern": binding.pattern,
        "arguments": arguments_to_json(binding),
    }


def bound_of(name: str, entry: Mapping[str, Any]) -> Bound:
    """The reverse. Raises CorruptStore for what no seglog wrote."""
    try:
        arguments = {
            header: b64decode(value[0]) if isinstance(value, list) else value
            for header, value in entry["arguments"].items()
        }
        binding = Binding(entry["source"], entry["kind"], entry["destination"], entry["pattern"], arguments)
        if binding.kind not in ENDS or binding_name(binding) != name:
            raise ValueError("it is not what its name says")
        return Bound(binding, entry["source_id"], entry["destination_id"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CorruptStore(
            f"binding/{name} in the topology log is no binding: {error!r}. Nothing was changed; it was written by something "
            "that is not seglog.",
            name=name,
        ) from error


def not_found(name: str) -> ExchangeNotFound:
    return ExchangeNotFound(
        f"there is no exchange {name}: it was never made, or it was deleted, with its bindings. store.exchange({name!r}, type) "
        "makes one. Nothing was sent or changed.",
        name=name,
    )
