"""Exchange: the place that messages are sent to by those who do not know, or do not care, who wants them.

Whoever wants them binds a queue or a topic to it, with a pattern; what is sent goes to every destination whose binding matches,
once each. The words are RabbitMQ's, and so is what they mean.

It promises: a message for several destinations is in all of them or in none (a transaction); one that nobody wants raises
Unroutable, unless the sender says that it may be dropped; a binding holds until it is undone or one of its ends is deleted, for
every process, from its next send on. It leaves to `seglog.routing` which bindings match, to `seglog.routes` the way through several
exchanges, and to queues and topics everything that happens behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from seglog.engine.transactions import Transaction
from seglog.errors import ClosedError, ConfigError, QueueNotFound, TopicNotFound, Unroutable
from seglog.queue import Queue
from seglog.record import Position
from seglog.routes import ExchangeConfig, Routes
from seglog.routing import Binding, Destination, DestinationKind, arguments_of, check_binding, check_key
from seglog.topic import Topic

__all__ = ["Exchange", "ExchangeStatistics", "Sent"]


class Home(Protocol):
    """What an exchange asks of those who made it."""

    routes: Routes

    def bind(self, binding: Binding, source_id: str, destination_id: str) -> None: ...

    def unbind(self, binding: Binding) -> None: ...

    def opened(self, destination: Destination) -> Queue | Topic:
        """Raises QueueNotFound, TopicNotFound."""

    def transaction(self) -> Transaction: ...


class Sent(NamedTuple):
    """Where a message went: the kind and the name of the destination, and its position there.

    The position is None inside a transaction, which is not over yet, and where a full queue drops what is new.
    """

    kind: DestinationKind
    name: str
    position: Position | None


@dataclass(frozen=True, slots=True)
class ExchangeStatistics:
    """What this process sent through an exchange since it opened it; frozen."""

    name: str
    bindings: int
    """How many begin at it, now."""
    sent: int
    """Messages that went somewhere."""
    copies: int
    """To how many destinations, all together."""
    unroutable: int
    """Messages that raised Unroutable."""
    dropped: int
    """Messages that no binding matched and that were sent with `mandatory=False`."""


class Exchange:
    """What `store.exchange(name, type)` returns: the same object for the same name. Threads may share it.

    >>> import seglog
    >>> with seglog.open("data") as store:
    ...     events = store.exchange("events", "topic")
    ...     events.bind(store.queue("mail"), "order.*.paid")
    ...     events.bind(store.topic("audit"), "order.#")
    ...     _ = events.send(b"42", routing_key="order.42.paid")
    ...     [record.value for record in store.topic("audit").read()], store.queue("mail").statistics().ready
    ([b'42'], 1)
    """

    def __init__(self, home: Home, name: str, exchange_id: str, config: ExchangeConfig) -> None:
        """Made by `Store.exchange`."""
        self._home = home
        self._routes = home.routes
        self._name = name
        self._config = config
        self.exchange_id = exchange_id
        self._opened: dict[Destination, Queue | Topic] = {}  # as long as the topology is as it was
        self._opened_at = -1
        self._sent = self._copies = self._unroutable = self._dropped = 0

    # ---- what it is -------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def type(self) -> str:
        """ "direct", "topic", "fanout", "headers" or "hash"."""
        return self._config.type

    @property
    def config(self) -> ExchangeConfig:
        """Its settings."""
        return self._config

    def statistics(self) -> ExchangeStatistics:
        """What this process sent through it, counted; frozen. O(bindings)."""
        bindings = len(self.bindings())
        return ExchangeStatistics(self._name, bindings, self._sent, self._copies, self._unroutable, self._dropped)

    def __repr__(self) -> str:
        return f"<Exchange {self._name}, {self._config.type}>"

    # ---- bindings ---------------------------------------------------------------------------------

    def bind(self, destination: Queue | Topic | Exchange, /, pattern: str = "", **arguments: Any) -> None:
        """Have messages that match go to `destination` too, from every process, until `unbind`. Bound already: nothing happens.

        * direct: `pattern` is the routing key; topic: words between dots, where `*` is one word and `#` any number, also none;
          fanout: no pattern; hash: the weight of the destination, a positive number as text.
        * headers: no pattern, but the headers that a message must have, `format=b"pdf"`; None asks only that it is there.
          `x_match` (or `x-match`) says how: "all", the default, or "any" of them; headers that begin with `x-` count only with
          "all-with-x" and "any-with-x". Names that are no Python names: `**{"content-type": b"pdf"}`.

        Binding an exchange sends what matches on through its bindings; circles are fine. A destination gets one copy however
        many of its bindings match. Cost: an fsync. Raises ConfigError for a pattern or arguments that this type does not look at,
        ExchangeNotFound, QueueNotFound or TopicNotFound when one of the two was deleted.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     files = store.exchange("files", "headers")
        ...     files.bind(store.queue("print"), format=b"pdf", x_match="any", urgent=None)
        ...     files.route("", {"urgent": b""}), files.route("", {"format": b"png"})
        ([Destination(kind='queue', name='print')], [])
        """
        binding = self._binding(destination, pattern, arguments)
        check_binding(self._config.type, binding.pattern, binding.arguments)
        self._home.bind(binding, self.exchange_id, id_of(destination))

    def unbind(self, destination: Queue | Topic | Exchange, /, pattern: str = "", **arguments: Any) -> None:
        """Undo the `bind` of the same destination, pattern and arguments; nothing happens when there was none. Cost: an fsync."""
        self._home.unbind(self._binding(destination, pattern, arguments))

    def bindings(self) -> list[Binding]:
        """What is bound to it, sorted by destination. Raises ExchangeNotFound."""
        self._routes.check(self._name, self.exchange_id)
        return self._routes.bindings(self._name)

    def _binding(self, destination: object, pattern: str, arguments: Mapping[str, object]) -> Binding:
        kind = kind_of(destination)
        return Binding(self._name, kind, destination.name, check_key(pattern, "pattern"), arguments_of(arguments))  # type: ignore[attr-defined]

    # ---- send -------------------------------------------------------------------------------------

    def route(self, routing_key: str = "", headers: Mapping[str, Any] | None = None) -> list[Destination]:
        """The queues and topics that such a message would go to now, sorted; nothing is sent. [] when there are none.

        Exchanges on the way are gone through: their destinations are here, each once. Cost: with 10,000 topic bindings a few
        hundred ns for a key that was asked for before, and some 10 us for another. Raises ExchangeNotFound.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     all_events, eu = store.exchange("all", "fanout"), store.exchange("eu", "topic")
        ...     all_events.bind(eu)
        ...     eu.bind(store.topic("audit"), "#.eu")
        ...     all_events.route("order.eu"), all_events.route("order.us")
        ([Destination(kind='topic', name='audit')], [])
        """
        return list(self._route(check_key(routing_key), headers))

    def send(
        self,
        value: Any,
        *,
        routing_key: str = "",
        key: Any = None,
        headers: Mapping[str, Any] | None = None,
        mandatory: bool = True,
        tx: Transaction | None = None,
        priority: int | None = None,
        delay: float | timedelta | None = None,
        deliver_at: datetime | int | None = None,
        ttl: float | timedelta | None = None,
        dedup_id: Any = None,
        group: Any = None,
        timeout: float | timedelta | None = None,
    ) -> list[Sent]:
        """Send a message to every destination whose binding matches; where it went, sorted by kind and name.

        `routing_key` is what bindings are matched against, and is not kept; `value`, `key` and `headers` are the message. To
        several destinations it is a transaction, to one a plain send, and with `tx` a part of yours: then nothing is written
        before that ends, and positions are None.

        What no binding matches goes to the alternate exchange; where that leads nowhere either, it raises Unroutable, or with
        `mandatory=False` it is dropped and counted, and [] returned.

        `priority`, `delay`, `deliver_at`, `ttl`, `group` and `timeout` are for the queues among the destinations (`Queue.send`); a
        topic keeps no message back, so there they do nothing. `dedup_id` is for queues and topics, but only where one of them
        matches: with several it raises ConfigError. A bounded queue that is full makes others wait only where it is the only
        destination; of several it raises QueueFull at once, and nothing is written.

        Cost: some us more than the sends. Raises what these raise; ConfigError for a key of more than 255 bytes; ExchangeNotFound.

        >>> import seglog
        >>> with seglog.open("data") as store:
        ...     events = store.exchange("events", "fanout")
        ...     for name in ("audit", "stock"):
        ...         events.bind(store.topic(name))
        ...     [(sent.name, sent.position.offset) for sent in events.send(b"one")]
        [('audit', 0), ('stock', 0)]
        """
        check_key(routing_key)
        options = given(priority=priority, delay=delay, deliver_at=deliver_at, ttl=ttl, group=group, timeout=timeout)
        message = Outgoing(value, key, headers, dedup_id, options)
        while True:
            found = self._route(routing_key, headers)
            if not found:
                return self._unwanted(routing_key, mandatory)
            if dedup_id is not None and (len(found) > 1 or tx is not None):
                raise ConfigError(
                    f"dedup_id is looked up by one destination outside of transactions; {len(found)} match {routing_key!r}. "
                    "Nothing was sent.",
                    setting="dedup_id",
                    value=dedup_id,
                )
            try:
                sent = self._deliver(found, message, tx)
            except (TopicNotFound, QueueNotFound, ClosedError):
                # A destination may have been deleted since: with it went its bindings, and there is another route. Or it was
                # closed, and is to be opened again. When neither is so, it is something else, and told.
                known = bool(self._opened)
                self._opened = {}
                if (tx is not None and not tx.open) or (self._route(routing_key, headers) == found and not known):
                    raise
                continue
            with self._routes.lock:
                self._sent += 1
                self._copies += len(sent)
            return sent

    def _route(self, routing_key: str, headers: Mapping[str, Any] | None) -> tuple[Destination, ...]:
        return self._routes.route(self._name, self.exchange_id, routing_key, headers or {})

    def _unwanted(self, routing_key: str, mandatory: bool) -> list[Sent]:
        with self._routes.lock:
            if mandatory:
                self._unroutable += 1
            else:
                self._dropped += 1
        if not mandatory:
            return []
        beyond = self._config.alternate
        raise Unroutable(
            f"no binding of exchange {self._name} ({self._config.type}) matches the routing key {routing_key!r}"
            + (f", and its alternate, {beyond}, leads nowhere" if beyond else "")
            + ". Nothing was written. Bind a queue or a topic, or name an alternate exchange; or send with mandatory=False, which "
            "drops it.",
            exchange=self._name,
            routing_key=routing_key,
        )

    def _deliver(self, found: Sequence[Destination], message: Outgoing, tx: Transaction | None) -> list[Sent]:
        if self._opened_at != self._routes.version:
            self._opened, self._opened_at = {}, self._routes.version
        handles = self._opened
        opened = []
        for to in found:
            handle = handles.get(to)
            if handle is None:
                handle = handles[to] = self._home.opened(to)
            opened.append(handle)
        if len(opened) == 1:
            return [Sent(*found[0], message.send(opened[0], tx))]
        own = self._home.transaction() if tx is None else tx
        before = len(own)
        try:
            for destination in opened:
                message.send(destination, own)
        except BaseException:
            if tx is None or len(own) > before:  # half of a message is none
                own.abort()
            raise
        if tx is not None:
            return [Sent(*to, None) for to in found]
        own.commit()
        went = {log: Position(span.partition, span.start) for log, span in own.spans}
        return [Sent(*to, went.get(log_name(to))) for to in found]


def given(**options: Any) -> dict[str, Any]:
    """Those that were passed."""
    return {name: option for name, option in options.items() if option is not None}


class Outgoing(NamedTuple):
    """What is sent, with all that is said about how."""

    value: Any
    key: Any
    headers: Mapping[str, Any] | None
    dedup_id: Any
    options: Mapping[str, Any]

    def send(self, destination: Queue | Topic, tx: Transaction | None) -> Position | None:
        options = self.options if isinstance(destination, Queue) else {}
        if self.dedup_id is not None:
            options = {**options, "dedup_id": self.dedup_id}
        position: Position | None = destination.send(self.value, self.key, self.headers, tx=tx, **options)
        return position


def kind_of(destination: object) -> DestinationKind:
    if isinstance(destination, Queue):
        return "queue"
    if isinstance(destination, Topic):
        return "topic"
    if isinstance(destination, Exchange):
        return "exchange"
    hint = (
        ": pass what store.queue(), store.topic() or store.exchange() returns" if isinstance(destination, str) else ""
    )
    raise TypeError(f"a destination is a Queue, a Topic or an Exchange, not {type(destination).__name__}{hint}")


def id_of(destination: Queue | Topic | Exchange) -> str:
    """The id that tells it from another of that name."""
    if isinstance(destination, Exchange):
        return destination.exchange_id
    return destination.topic.topic_id if isinstance(destination, Queue) else destination.topic_id


def log_name(to: Destination) -> str:
    """What the logs of a queue or a topic are called in a transaction."""
    return f"~{to.name}" if to.kind == "queue" else to.name
