"""Exchanging: what it costs to find out where a message goes, and to send it there.

    python bench/ratios.py exchanges

Lookups are among 10,000 bindings of a topic exchange, for a key that was asked for before ("remembered") and for one that was not
("cold"); the figures are medians over keys, with the slowest in a hundred beside them. `#` everywhere is what a matcher that
tries one way after the other takes for ever for.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence

import seglog
from machine import Figure, one_core, progress
from seglog.routes import binding_name, binding_to_json
from seglog.routing import Binding

__all__ = ["measure"]

BINDINGS, KEYS, SENDS, ROUNDS = 10_000, 5_000, 20_000, 7
VALUE = b"x" * 100


def plain(rng: random.Random) -> str:
    """As people write them: some five words, some of them wildcards."""
    words = [rng.choice("abcdefgh") + str(rng.randrange(30)) for _ in range(rng.randint(3, 5))]
    for _ in range(rng.randrange(3)):
        words[rng.randrange(len(words))] = rng.choice("*#")
    return ".".join(words)


def hashes(rng: random.Random) -> str:
    """`#` before, between and behind the words."""
    return "#." + ".#.".join(f"w{rng.randrange(3000)}" for _ in range(3)) + ".#"


def few_words(rng: random.Random) -> str:
    """The same of so few words that the ways through the trie are many; none of them ends anywhere."""
    return "#." + ".#.".join(rng.choice("abc") for _ in range(4)) + f".#.{rng.randrange(1 << 40)}"


def key_of(pattern: Callable[[random.Random], str], rng: random.Random) -> str:
    """One that a binding may match: its wildcards become words."""
    words = pattern(rng).split(".")
    return ".".join(rng.choice("abc") if word in "*#" else word for word in words)


def bound(store: seglog.Store, name: str, pattern: Callable[[random.Random], str]) -> seglog.Exchange:
    """A topic exchange with so many bindings; written as `bind` does, but for the syncs of 10,000 calls."""
    rng = random.Random(name)
    exchange, topics = store.exchange(name, "topic"), [store.topic(f"to-{n}") for n in range(100)]
    topology = store.topology
    for n in range(BINDINGS):
        to = topics[n % 100]
        binding = Binding(name, "topic", to.name, pattern(rng))
        entry = binding_to_json(binding, exchange.exchange_id, to.topic_id)
        # What `Topology.put` does to this process; the log itself would be synced at each.
        topology.__dict__["_things"][f"binding/{binding_name(binding)}"] = entry
        topology.__dict__["_said_at"][f"binding/{binding_name(binding)}"] = topology.version
    return exchange


def timed(route: Callable[[str], object], keys: Sequence[str]) -> list[float]:
    took = []
    for key in keys:
        start = time.perf_counter()
        route(key)
        took.append(time.perf_counter() - start)
    return sorted(took)


def measure(args: argparse.Namespace, directory: str) -> tuple[list[tuple[str, list[Figure]]], dict[str, object]]:
    progress("exchanges")
    figures, raw = [], {}
    with seglog.open(os.path.join(directory, "exchanges"), fsync="never", upkeep=False) as store, one_core():
        kinds = {
            "words and wildcards": (plain, plain),
            "# everywhere": (hashes, hashes),
            "# everywhere, of 3 words": (few_words, few_words),
            "# everywhere, of 3 words, a key of 127": (few_words, lambda rng: ".".join(rng.choices("abc", k=127))),
        }
        for what, (pattern, key) in kinds.items():
            exchange = bound(store, f"kind-{len(raw)}", pattern)
            store.exchange(f"touch-{exchange.name}", "fanout")  # a change, with which the others are taken in
            rng = random.Random(1)
            keys = list(dict.fromkeys(key_of(key, rng) for _ in range(KEYS)))
            exchange.route("warm.up")
            cold, remembered = timed(exchange.route, keys), timed(exchange.route, keys)
            hit = statistics.mean(len(exchange.route(key)) for key in keys)
            for name, took, most in (("cold", cold, 100.0), ("remembered", remembered, 5.0)):
                figures.append(
                    Figure(
                        f"{BINDINGS:,} bindings, {what}: {name}",
                        statistics.median(took) * 1e6,
                        "us",
                        at_most=most,
                        note=f"99 % {took[len(took) * 99 // 100] * 1e6:,.1f} us; {hit:,.1f} destinations",
                    )
                )
            raw[what] = {"cold": cold, "remembered": remembered}
        figures += publishing(store)
    progress("")
    return [(f"exchanges: one core, {KEYS:,} keys, fsync never", figures)], raw


def publishing(store: seglog.Store) -> list[Figure]:
    """What `Exchange.send` costs beside the sends that it is made of."""
    one, two, three = (store.topic(f"sink-{n}") for n in range(3))
    events = store.exchange("events", "direct")
    for to, key in ((one, "one"), (one, "all"), (two, "all"), (three, "all")):
        events.bind(to, key)

    def transact() -> None:
        with store.transaction() as tx:
            for to in (one, two, three):
                to.send(VALUE, tx=tx)

    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "a publish to 1 topic, of a send": (lambda: events.send(VALUE, routing_key="one"), lambda: one.send(VALUE)),
        "a publish to 3 topics, of a transaction of 3 sends": (lambda: events.send(VALUE, routing_key="all"), transact),
    }
    figures = []
    for name, (publish, bare) in pairs.items():
        laps = []
        for turn in range(ROUNDS + 1):
            lap = []
            for work in (publish, bare):
                start = time.perf_counter()
                for _ in range(SENDS):
                    work()
                lap.append((time.perf_counter() - start) / SENDS)
            if turn:
                laps.append(lap)
        ratio = statistics.median(a / b for a, b in laps)
        figures.append(Figure(name, ratio, "x", note=f"{statistics.median(a for a, _ in laps) * 1e6:,.2f} us each"))
    return figures
