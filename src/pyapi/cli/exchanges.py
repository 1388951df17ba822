"""Exchanges: `seglog exchange ls`, `create`, `describe`, `bind`, `unbind`, `route`, `rm`."""

from __future__ import annotations

import sys
from typing import Annotated, Any, Literal

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import FAILED, Refused
from seglog.cli.show import on_terminal, say, show_json, show_table
from seglog.errors import Unroutable

__all__ = ["bind", "create", "describe", "ls", "rm", "route", "unbind"]

ExchangeName = Annotated[str, typer.Argument(metavar="EXCHANGE", help="The exchange's name.", show_default=False)]
DestinationName = Annotated[
    str,
    typer.Argument(
        metavar="DESTINATION",
        help="A queue, topic or exchange; as in queue:mail where one name is several.",
        show_default=False,
    ),
]
Pattern = Annotated[
    str, typer.Argument(metavar="[PATTERN]", help="What keys must be; the weight, of a hash exchange.", show_default=False)
]
Headers = Annotated[
    list[str] | None,
    typer.Option(
        "--header", "-H", metavar="NAME[=VALUE]", help="A header that messages must have; may be repeated.", show_default=False
    ),
]
Match = Annotated[
    Literal["all", "any", "all-with-x", "any-with-x"], typer.Option("--match", help="How many of the headers.")
]


def ls(data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """List the exchanges.

    \b
    Piped: exchange, type, bindings, alternate, separated by tabs.
        seglog exchange ls
    """
    with options.open_store(data) as store:
        exchanges = [store.exchange(name) for name in store.exchanges()]
        rows = [(one.name, one.type, len(one.bindings()), one.config.alternate) for one in exchanges]
    if as_json:
        show_json([dict(zip(("exchange", "type", "bindings", "alternate"), row, strict=True)) for row in rows])
    else:
        show_table(("exchange", "type", "bindings", "alternate"), rows)


def create(
    name: ExchangeName,
    type: Annotated[
        Literal["direct", "topic", "fanout", "headers", "hash"],
        typer.Option("--type", "-t", help="How bindings are matched.", show_default=False),
    ],
    data: options.Data = options.DATA,
    alternate: Annotated[
        str | None,
        typer.Option(metavar="EXCHANGE", help="Who gets what no binding matches.", show_default="nobody"),
    ] = None,
    hash_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="What a hash exchange hashes.", show_default="the key")
    ] = None,
) -> None:
    """Make an exchange, and the store when there is none. One that is there with these settings is fine; else exits 2.

    \b
        seglog exchange create events --type topic
        seglog exchange create shards --type hash --hash-header customer
    """
    with options.open_store(data, create=True) as store:
        say(f"{store.exchange(name, type, alternate=alternate, hash_header=hash_header)!r} in {store.path}")


def describe(name: ExchangeName, data: options.Data = options.DATA, as_json: options.Json = False) -> None:
    """Show an exchange's settings and what is bound to it.

    \b
    Piped: lines that begin with the word "setting" (name, value) or "binding" (kind and name of the destination, pattern,
    headers), separated by tabs.
        seglog exchange describe events
    """
    with options.open_store(data) as store:
        exchange = store.exchange(name)
        settings, bindings = exchange.config.to_json(), exchange.bindings()
    if as_json:
        show_json(
            {
                "exchange": name,
                "settings": settings,
                "bindings": [
                    {
                        "kind": one.kind,
                        "destination": one.destination,
                        "pattern": one.pattern,
                        "arguments": {header: shown(value) for header, value in one.arguments.items()},
                    }
                    for one in bindings
                ],
            }
        )
        return
    rows = [(one.kind, one.destination, one.pattern, arguments_shown(one)) for one in bindings]
    if on_terminal():
        show_table(("setting", "value"), list(settings.items()), title=name)
        show_table(("to", "name", "pattern", "headers"), rows)
    else:
        show_table((), [("setting", *item) for item in settings.items()] + [("binding", *row) for row in rows])


def bind(
    name: ExchangeName,
    destination: DestinationName,
    pattern: Pattern = "",
    data: options.Data = options.DATA,
    header: Headers = None,
    match: Match = "all",
) -> None:
    """Send what matches on to a queue, a topic or an exchange, which exist. Bound already: nothing happens.

    \b
        seglog exchange bind events mail 'order.*.paid'
        seglog exchange bind events topic:audit '#'
        seglog exchange bind files print -H format=pdf -H urgent --match any
    """
    with options.open_store(data) as store:
        store.exchange(name).bind(destination_of(store, destination), pattern, **arguments(header, match))


def unbind(
    name: ExchangeName,
    destination: DestinationName,
    pattern: Pattern = "",
    data: options.Data = options.DATA,
    header: Headers = None,
    match: Match = "all",
) -> None:
    """Undo a binding: the same words as for `bind`. Exits 2 when there is none.

    \b
        seglog exchange unbind events mail 'order.*.paid'
    """
    with options.open_store(data) as store:
        exchange, to = store.exchange(name), destination_of(store, destination)
        before = len(exchange.bindings())
        exchange.unbind(to, pattern, **arguments(header, match))
        if len(exchange.bindings()) == before:
            raise Refused(
                f"exchange {name} has no such binding to {destination}; `seglog exchange describe {name}` lists them. Nothing "
                "was changed."
            )


def route(
    name: ExchangeName,
    key: Annotated[str, typer.Argument(metavar="KEY", help="The routing key.", show_default=False)] = "",
    data: options.Data = options.DATA,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="NAME=VALUE", help="A header of the message.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say where it would go.")] = False,
    as_json: options.Json = False,
) -> None:
    """Send standard input, as one message; or only say where a message would go. Exits 2 when that is nowhere.

    \b
    Piped: kind and name of each destination and, when it was sent, its position there, separated by tabs.
        seglog exchange route events order.42.paid --dry-run
        echo -n 42 | seglog exchange route events order.42.paid
    """
    headers = dict(pair(one) for one in header or ())
    if without := [one for one, value in headers.items() if value is None]:
        raise Refused(f"-H {without[0]!r}: say NAME=VALUE")
    rows: list[tuple[Any, ...]]
    with options.open_store(data) as store:
        exchange = store.exchange(name)
        if dry_run:
            rows = [(to.kind, to.name) for to in exchange.route(key, headers)]
            if not rows:
                raise Unroutable(
                    f"no binding of exchange {name} matches the routing key {key!r}: it would go nowhere.",
                    exchange=name,
                    routing_key=key,
                )
        else:
            sent = exchange.send(sys.stdin.buffer.read(), routing_key=key, headers=headers)
            rows = [(to.kind, to.name, *(to.position or (None, None))) for to in sent]
    columns = ("to", "name") if dry_run else ("to", "name", "partition", "offset")
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        show_table(columns, rows)


def rm(
    name: ExchangeName,
    data: options.Data = options.DATA,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an exchange with its bindings, for every process. What is in queues and topics stays. Asks first.

    \b
        seglog exchange rm events --yes
    """
    with options.open_store(data) as store:
        count = len(store.exchange(name).bindings())
        if not yes:
            print(
                f"Delete exchange {name} with its {count:,} bindings from {store.path}? [y/N] ",
                end="", file=sys.stderr, flush=True,
            )  # fmt: skip
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                print("Nothing was deleted.", file=sys.stderr)
                raise typer.Exit(FAILED)
        store.delete_exchange(name)


def destination_of(store: seglog.Store, text: str) -> seglog.Queue | seglog.Topic | seglog.Exchange:
    """What `queue:mail` names; or `mail` alone, when only one thing is called that."""
    kind, colon, name = text.rpartition(":")
    there = {"queue": store.queues(), "topic": store.topics(), "exchange": store.exchanges()}
    if colon and kind not in there:
        raise Refused(f"{text!r} is no destination: say a name, or queue:NAME, topic:NAME or exchange:NAME")
    kinds = [one for one, names in there.items() if name in names and (kind or one) == one]
    if not kinds:
        raise Refused(f"there is no {kind or 'queue, topic or exchange'} {name} in {store.path}. Nothing was changed.")
    if len(kinds) > 1:
        raise Refused(f"there is a {' and a '.join(kinds)} {name}: say which, as in {kinds[0]}:{name}")
    if kinds == ["queue"]:
        return store.queue(name)
    return store.topic(name) if kinds == ["topic"] else store.exchange(name)


def arguments(header: list[str] | None, match: str) -> dict[str, Any]:
    wanted: dict[str, Any] = dict(pair(one) for one in header or ())
    return wanted if match == "all" else wanted | {"x-match": match}


def pair(text: str) -> tuple[str, bytes | None]:
    name, equals, value = text.partition("=")
    if not name:
        raise Refused(f"-H {text!r}: say NAME=VALUE")
    return name, options.raw(value) if equals else None


def shown(value: bytes | str | None) -> str | None:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def arguments_shown(binding: seglog.Binding) -> str:
    parts = [name if value is None else f"{name}={shown(value)}" for name, value in binding.arguments.items()]
    return ", ".join(parts)
