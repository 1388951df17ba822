"""Routing: which destinations a message goes to, given what is bound: the tables of the five types of exchange.

    direct    the routing key is the pattern
    topic     words between dots: `*` is one word, `#` any number of them, also none; both stand anywhere
    fanout    everything goes everywhere
    headers   the message's headers are those of the binding: all of them, or any
    hash      one of the destinations, by the hash of the key; the pattern is its weight

It promises AMQP 0-9-1's meanings, as RabbitMQ has them, and that no pattern makes a lookup take longer than the words of the key
times the nodes of the trie. Nothing here knows of a store, or of other exchanges: that is `seglog.routes`.

>>> table = TopicTable()
>>> table.bind("1", Binding("events", "queue", "mail", "order.*.paid"))
>>> table.bind("2", Binding("events", "topic", "audit", "order.#"))
>>> sorted(to.name for to in table.match("order.42.paid", {}))
['audit', 'mail']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import xxhash

from seglog.errors import ConfigError

__all__ = [
    "TABLES",
    "TYPES",
    "Binding",
    "Destination",
    "DestinationKind",
    "ExchangeType",
    "Table",
    "TopicTable",
    "arguments_of",
    "check_binding",
    "check_key",
]

ExchangeType = Literal["direct", "topic", "fanout", "headers", "hash"]
DestinationKind = Literal["queue", "topic", "exchange"]

KEY_BYTES_MAX = 255  # of UTF-8, in a routing key and in a pattern: AMQP's short string
WEIGHT_MAX = 1e6
MATCH = "x-match"
MATCHES = ("all", "any", "all-with-x", "any-with-x")


class Destination(NamedTuple):
    """Where a message goes: a queue, a topic or, on the way, an exchange, and its name."""

    kind: DestinationKind
    name: str


@dataclass(frozen=True, slots=True)
class Binding:
    """One binding of an exchange, `source`, to a destination; frozen. Equal ones are the same binding."""

    source: str
    kind: DestinationKind
    destination: str
    pattern: str = ""
    arguments: Mapping[str, bytes | str | None] = field(default_factory=dict)
    """Of a headers exchange: what each header must be (None: it must only be there), and `x-match`, which is a str."""

    @property
    def to(self) -> Destination:
        return Destination(self.kind, self.destination)


class Table(Protocol):
    """The bindings of one exchange, each by a name that `unbind` takes."""

    by_headers: bool
    """Whether what matches depends on headers, and cannot be remembered by its key."""

    def bind(self, name: str, binding: Binding) -> None: ...

    def unbind(self, name: str, binding: Binding) -> None: ...

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]: ...


class DirectTable:
    """Key equals pattern. A lookup is O(1)."""

    by_headers = False

    def __init__(self) -> None:
        self._bound: dict[str, dict[str, Destination]] = {}

    def bind(self, name: str, binding: Binding) -> None:
        self._bound.setdefault(binding.pattern, {})[name] = binding.to

    def unbind(self, name: str, binding: Binding) -> None:
        bound = self._bound.get(binding.pattern, {})
        bound.pop(name, None)
        if not bound:
            self._bound.pop(binding.pattern, None)

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]:
        return self._bound.get(key, {}).values()


class FanoutTable:
    """All of them."""

    by_headers = False

    def __init__(self) -> None:
        self._bound: dict[str, Destination] = {}

    def bind(self, name: str, binding: Binding) -> None:
        self._bound[name] = binding.to

    def unbind(self, name: str, binding: Binding) -> None:
        self._bound.pop(name, None)

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]:
        return self._bound.values()


class Node:
    """A place in patterns: what was read so far.

    `ends` are the bindings whose patterns end here; `words`, `any` and `rest` lead on, for a word, for `*` and for `#`.
    """

    __slots__ = ("any", "ends", "rest", "words")

    def __init__(self) -> None:
        self.words: dict[str, Node] = {}
        self.any: Node | None = None
        self.rest: Node | None = None
        self.ends: dict[str, Destination] = {}

    @property
    def empty(self) -> bool:
        return not (self.words or self.any or self.rest or self.ends)


class TopicTable:
    """Patterns of words, in a trie.

    All ways through it are followed at once, word by word, and none twice. Behind a `#` comes, as patterns are written here
    (`words_of`), a word or nothing; so once it was reached it stays reached, whatever is read, and need not be looked at again
    unless a word leads on from it.
    """

    by_headers = False

    def __init__(self) -> None:
        self._root = Node()

    def bind(self, name: str, binding: Binding) -> None:
        node = self._root
        for word in words_of(binding.pattern):
            if word == "#":
                node.rest = following = node.rest or Node()
            elif word == "*":
                node.any = following = node.any or Node()
            else:
                following = node.words.setdefault(word, Node())
            node = following
        node.ends[name] = binding.to

    def unbind(self, name: str, binding: Binding) -> None:
        node, path = self._root, []
        for word in words_of(binding.pattern):
            path.append((node, word))
            following = node.rest if word == "#" else node.any if word == "*" else node.words.get(word)
            if following is None:
                return
            node = following
        node.ends.pop(name, None)
        for parent, word in reversed(path):
            if not node.empty:
                return
            if word == "#":
                parent.rest = None
            elif word == "*":
                parent.any = None
            else:
                del parent.words[word]
            node = parent

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]:
        way = Way(key)
        now = [self._root]  # who has read exactly the words so far
        if self._root.rest is not None:
            way.reach(self._root.rest)
        for word in way.words:
            then = [*way.again.get(word, ()), *way.once.pop(word, ())]
            for node in now:
                following = node.words.get(word)
                if following is not None:
                    then.append(following)
                if node.any is not None:
                    then.append(node.any)
            now = then  # each node has one way in, so none is there twice
            for node in now:
                if node.rest is not None and node.rest not in way.reached:
                    way.reach(node.rest)
        for node in now:
            way.found.update(node.ends.values())
        return way.found


class Way:
    """What was found for one key so far, and what leads on from the `#`s that were reached: by the words to come.

    A word that leads from a `#` only to the next `#` need not be read twice (`once`).
    """

    __slots__ = ("again", "distinct", "found", "once", "reached", "words")

    def __init__(self, key: str) -> None:
        self.words = key.split(".") if key else []
        self.distinct = set(self.words)
        self.found: set[Destination] = set()
        self.reached: set[Node] = set()
        self.again: dict[str, list[Node]] = {}
        self.once: dict[str, list[Node]] = {}

    def reach(self, rest: Node) -> None:
        """Come by a `#` for the first time: it matches whatever remains."""
        self.reached.add(rest)
        self.found.update(rest.ends.values())
        for word in rest.words.keys() & self.distinct:
            node = rest.words[word]
            (self.again if node.words or node.any or node.ends else self.once).setdefault(word, []).append(node)


def words_of(pattern: str) -> list[str]:
    """The words of a pattern, in the form that the trie holds: of wildcards beside each other the `*` first, then one `#`.

    >>> words_of("a.#.*.#.b"), words_of("")
    (['a', '*', '#', 'b'], [])
    """
    words: list[str] = []
    pending = False  # a `#` that is still to be written
    for word in pattern.split(".") if pattern else ():
        if word == "#":
            pending = True
        elif word == "*":
            words.append(word)
        else:
            words += ["#", word] if pending else [word]
            pending = False
    return words + ["#"] if pending else words


class HeadersTable:
    """Headers that are, or have, what the binding says. A lookup is O(bindings)."""

    by_headers = True

    def __init__(self) -> None:
        self._bound: dict[str, tuple[Destination, Callable[[Mapping[str, object]], bool]]] = {}

    def bind(self, name: str, binding: Binding) -> None:
        self._bound[name] = binding.to, matcher(binding.arguments)

    def unbind(self, name: str, binding: Binding) -> None:
        self._bound.pop(name, None)

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]:
        return [to for to, matches in self._bound.values() if matches(headers)]


def matcher(arguments: Mapping[str, object]) -> Callable[[Mapping[str, object]], bool]:
    """Whether headers are those of a binding: "all" of nothing is true of any message, "any" of nothing of none."""
    how = str(arguments.get(MATCH, "all"))
    with_x = how.endswith("-with-x")
    wanted = [
        (name, value) for name, value in arguments.items() if name != MATCH and (with_x or not name.startswith("x-"))
    ]
    every = all if how.startswith("all") else any

    def matches(headers: Mapping[str, object]) -> bool:
        return every(name in headers and value in (None, headers[name]) for name, value in wanted)

    return matches


class HashTable:
    """One destination for a key, the same each time: weighted rendezvous hashing.

    Each destination draws from the key's hash, with itself as the seed, a number that is the larger the heavier it is; the largest
    has it. So a destination that comes takes keys only for itself, one that goes leaves its keys to all the others, and no
    other key moves. A lookup is O(destinations), some 0.3 us each.

    (C. Schindelhauer, G. Schomaker: Weighted distributed hash tables, 2005.)
    """

    def __init__(self, header: str | None = None) -> None:
        self._header = header
        self.by_headers = header is not None
        self._bound: dict[str, tuple[Destination, float]] = {}
        self._weights: list[tuple[int, float, Destination]] | None = (
            None  # seed, weight; made when it is first looked at
        )

    def bind(self, name: str, binding: Binding) -> None:
        self._bound[name] = binding.to, float(binding.pattern)
        self._weights = None

    def unbind(self, name: str, binding: Binding) -> None:
        self._bound.pop(name, None)
        self._weights = None

    def _weighed(self) -> list[tuple[int, float, Destination]]:
        weights: dict[Destination, float] = {}
        for to, weight in self._bound.values():
            weights[to] = weights.get(to, 0.0) + weight
        return [(xxhash.xxh64_intdigest("/".join(to).encode()), weight, to) for to, weight in sorted(weights.items())]

    def match(self, key: str, headers: Mapping[str, Any]) -> Iterable[Destination]:
        if self._weights is None:
            self._weights = self._weighed()
        hashed = key.encode() if self._header is None else headers.get(self._header) or b""
        best, chosen = -1.0, None
        for seed, weight, to in self._weights:
            # 52 bits and a half: never 0 and never 1, also as a float.
            share = ((xxhash.xxh64_intdigest(hashed, seed) >> 12) + 0.5) / (1 << 52)
            drawn = -weight / math.log(share)
            if drawn > best:
                best, chosen = drawn, to
        return () if chosen is None else (chosen,)


TABLES: dict[ExchangeType, Callable[[str | None], Table]] = {
    "direct": lambda header: DirectTable(),
    "topic": lambda header: TopicTable(),
    "fanout": lambda header: FanoutTable(),
    "headers": lambda header: HeadersTable(),
    "hash": HashTable,
}
TYPES: tuple[str, ...] = tuple(TABLES)


# ---- what may be said -----------------------------------------------------------------------------------------------


def check_key(key: object, what: str = "routing_key") -> str:
    """`key` itself when it may be one: a str of at most 255 bytes. Raises TypeError, ConfigError."""
    if not isinstance(key, str):
        raise TypeError(f"{what} is a str, words between dots; not {type(key).__name__}: {key!r}")
    try:
        size = len(key) if key.isascii() else len(key.encode())
    except UnicodeEncodeError:
        refuse(what, key, "it has half a surrogate pair, which no UTF-8 says")
    if size > KEY_BYTES_MAX:
        refuse(what, key[:40] + "...", f"it takes {size:,} bytes of UTF-8, and at most {KEY_BYTES_MAX} are allowed")
    return key


def arguments_of(given: Mapping[str, Any]) -> dict[str, bytes | str | None]:
    """The arguments of a binding as they are kept: what headers must be as bytes, `x-match` as its word.

    >>> arguments_of({"format": bytearray(b"pdf"), "signed": None, "x_match": "any"})
    {'format': b'pdf', 'signed': None, 'x-match': 'any'}
    """
    arguments: dict[str, bytes | str | None] = {}
    for name, value in sorted(given.items()):
        if name in (MATCH, "x_match"):
            if not isinstance(value, str) or value not in MATCHES:
                refuse(MATCH, value, f"it is one of {', '.join(map(repr, MATCHES))}")
            arguments[MATCH] = value
        elif isinstance(value, str):
            raise TypeError(f"a header is bytes, not str; encode what {name!r} must be: {value!r}.encode()")
        else:
            arguments[check_key(name, "the name of a header")] = None if value is None else bytes(memoryview(value))
    if arguments.get(MATCH) == "all":  # which is what nothing said means
        del arguments[MATCH]
    return arguments


def check_binding(type: ExchangeType, pattern: object, arguments: Mapping[str, object]) -> None:
    """Raises ConfigError for a pattern or arguments that an exchange of this type would not look at, or could not use."""
    text = check_key(pattern, "pattern")
    if arguments and type != "headers":
        refuse("arguments", sorted(arguments), f"a {type} exchange does not look at headers; a headers exchange does")
    if text and type in ("fanout", "headers"):
        refuse("pattern", text, f"a {type} exchange does not look at it; leave it out")
    if type == "hash":
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not 0.0 < weight <= WEIGHT_MAX:  # also what is not a number
            refuse("pattern", text, f"for a hash exchange it is the weight: a number above 0, up to {WEIGHT_MAX:,.0f}")


def refuse(setting: str, value: object, why: str) -> None:
    raise ConfigError(f"{setting} is {value!r}: {why}. Nothing was changed.", setting=setting, value=value)
