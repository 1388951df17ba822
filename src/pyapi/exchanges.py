"""Exchanges: which exchanges a store has, and what is bound to them; made, opened and deleted.

Each change is one record of the topology, so it happened or it did not. An exchange is deleted outside in: its own record first,
and from then on nothing is sent through it or to it; then the records of its bindings, which are litter by then, and which
whoever binds, unbinds or deletes next takes away if nobody has (`seglog.routes` says why they do no harm).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from seglog.config import choice
from seglog.engine.transactions import Transaction
from seglog.errors import ConfigError, ExchangeMismatch, InvalidName, QueueNotFound, TopicNotFound
from seglog.exchange import Exchange
from seglog.names import check_name
from seglog.queue import Queue
from seglog.routes import BINDING, EXCHANGE, ExchangeConfig, Routes, binding_name, binding_to_json, not_found
from seglog.routing import TYPES, Binding, Destination
from seglog.topic import Topic

if TYPE_CHECKING:
    from seglog.store import Store

__all__ = ["Exchanges"]


class Exchanges:
    """The exchanges of one store; made by it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._topology = store.topology
        self._open: dict[str, Exchange] = {}
        self.routes = Routes(store.topology)

    # ---- exchanges --------------------------------------------------------------------------------

    def exchange(self, name: str, settings: Mapping[str, Any]) -> Exchange:
        """See `Store.exchange`."""
        check_exchange_name(name)
        asked = plain(name, settings)
        with self._store.lock:
            exchange = self._existing(name)
            if exchange is None:
                if "type" not in asked:
                    raise not_found(name)
                exchange = self._create(name, ExchangeConfig(**asked))
            differences = exchange.config.differences(asked)
            if differences:
                raise mismatch(name, differences)
            return exchange

    def names(self) -> list[str]:
        self._topology.refresh()
        return self._topology.names(EXCHANGE)

    def delete(self, name: str) -> None:
        """See `Store.delete_exchange`."""
        check_exchange_name(name)
        with self._store.lock:
            if self.routes.existing(name) is None:
                raise not_found(name)
            with self._store.gate():
                if self.routes.existing(name) is None:
                    raise not_found(name)
                self._topology.remove(EXCHANGE, name)
                self._open.pop(name, None)
                self.sweep()

    def _existing(self, name: str) -> Exchange | None:
        found = self.routes.existing(name)
        if found is None:
            return None
        config, exchange_id = found
        exchange = self._open.get(name)
        if exchange is None or exchange.exchange_id != exchange_id:  # another process may have made it anew
            exchange = self._open[name] = Exchange(self, name, exchange_id, config)
        return exchange

    def _create(self, name: str, config: ExchangeConfig) -> Exchange:
        with self._store.gate():
            exchange = self._existing(name)
            if exchange is None:  # else another process was quicker
                entry = {"id": secrets.token_hex(8), "created": self._store.clock(), "config": config.to_json()}
                self._topology.put(EXCHANGE, name, entry)
                exchange = self._existing(name)
                assert exchange is not None
            return exchange

    # ---- bindings ---------------------------------------------------------------------------------

    def bind(self, binding: Binding, source_id: str, destination_id: str) -> None:
        """Write it down, if it is not there: both ends must be, and are, while the gate is held."""
        name, entry = binding_name(binding), binding_to_json(binding, source_id, destination_id)
        with self._store.lock:
            self._check_ends(binding, source_id, destination_id)
            if self._topology.get(BINDING, name) == entry:
                return
            with self._store.gate():
                self._check_ends(binding, source_id, destination_id)
                if self._topology.get(BINDING, name) != entry:
                    self._topology.put(BINDING, name, entry)
                self.sweep()

    def unbind(self, binding: Binding) -> None:
        name = binding_name(binding)
        with self._store.lock:
            self._topology.refresh()
            if self._topology.get(BINDING, name) is None:
                return
            with self._store.gate():
                self._topology.refresh()
                if self._topology.get(BINDING, name) is not None:
                    self._topology.remove(BINDING, name)
                self.sweep()

    def sweep(self) -> None:
        """Through the gate, after a deletion: take away the bindings that went with it. Not while anything of the topology is lost:
        it may be the making of an end."""
        stale = self.routes.stale()
        if stale and not self._topology.losses():
            for name in stale:
                self._topology.remove(BINDING, name)

    def _check_ends(self, binding: Binding, source_id: str, destination_id: str) -> None:
        self.routes.check(binding.source, source_id)
        entry = self._topology.get(binding.kind, binding.destination)
        if entry is not None and entry["id"] == destination_id:
            return
        if binding.kind == EXCHANGE:
            raise not_found(binding.destination)
        error = QueueNotFound if binding.kind == "queue" else TopicNotFound
        raise error(
            f"the {binding.kind} {binding.destination} is none of this store, or was deleted. Nothing was bound.",
            name=binding.destination,
        )

    # ---- what an exchange asks for (exchange.Home) --------------------------------------------------

    def opened(self, destination: Destination) -> Queue | Topic:
        """The queue or topic, opened if need be. Raises QueueNotFound, TopicNotFound."""
        if destination.kind == "topic":
            return self._store.existing(destination.name)
        queue = self._store.queue_of(destination.name)
        if queue is None:
            raise QueueNotFound(f"there is no queue {destination.name}. Nothing was sent.", name=destination.name)
        return queue

    def transaction(self) -> Transaction:
        return self._store.transaction()


def check_exchange_name(name: str) -> None:
    if name == "":
        raise InvalidName(
            "the exchange '' is every queue by its own name, and needs no exchange here: store.queue(name).send() is it. "
            "Nothing was created.",
            name=name,
        )
    check_name(name, "exchange")


def plain(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were passed, checked; exchanges by their names."""
    asked = {setting: value for setting, value in settings.items() if value is not None}
    if "type" in asked:
        choice("type", asked["type"], TYPES)
    if "alternate" in asked:
        alternate = asked["alternate"]
        asked["alternate"] = alternate.name if isinstance(alternate, Exchange) else check_name(alternate, "exchange")
        if asked["alternate"] == name:
            raise ConfigError(
                f"exchange {name} cannot be its own alternate: what it does not match, it does not match. Nothing was changed.",
                setting="alternate",
                value=name,
            )
    if "hash_header" in asked:
        header = asked["hash_header"]
        if not isinstance(header, str):
            raise TypeError(f"hash_header is the name of a header, a str, not {type(header).__name__}")
        if not header or asked.get("type", "hash") != "hash":
            raise ConfigError(
                f"hash_header is {header!r}: it names the header that an exchange of type 'hash' hashes. Nothing was changed.",
                setting="hash_header",
                value=header,
            )
    return asked


def mismatch(name: str, differences: Mapping[str, tuple[object, object]]) -> ExchangeMismatch:
    told_apart = ", ".join(
        f"{setting} is {existing!r}, not {asked!r}" for setting, (asked, existing) in differences.items()
    )
    return ExchangeMismatch(
        f"exchange {name} exists with other settings: {told_apart}. Nothing was changed. Leave the settings out to open it "
        "as it is.",
        name=name,
        differences=dict(differences),
    )
