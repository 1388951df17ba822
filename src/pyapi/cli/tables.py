"""Tables: `seglog topic export` and `seglog sql`: topics as Arrow tables, for Parquet and for DuckDB."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.show import say, show_json, show_table
from seglog.errors import ExtraMissing

__all__ = ["export", "sql"]

Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="COLUMNS", help="Columns of JSON or msgpack values.", show_default="none"),
]


def columns_of(text: str) -> dict[str, str]:
    """Names and types, as in `carrier string, delay int64`.

    >>> columns_of("carrier string, delay int64")
    {'carrier': 'string', 'delay': 'int64'}
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        name, _, kind = part.strip().rpartition(" ")
        if not name or name in columns:
            raise Refused(f"columns are {text!r}: say names and types, as in 'carrier string, delay int64'")
        columns[name.strip()] = kind
    return columns


def export(
    name: options.TopicName,
    parquet: Annotated[Path, typer.Option("--parquet", metavar="FILE", help="Write this file.", show_default=False)],
    data: options.Data = options.DATA,
    partition: options.Partition = None,
    columns: Annotated[
        str | None, typer.Option("--columns", metavar="COLUMNS", help="Of JSON or msgpack values.", show_default=False)
    ] = None,
) -> None:
    """Write a topic to a file: Parquet, with the columns of `topic.arrow()`.

    The file is whole or not there. Needs pyarrow: pip install 'seglog[arrow]'.

    \b
        seglog topic export orders --parquet orders.parquet
        seglog topic export flights --parquet flights.parquet --columns 'carrier string, distance string'
    """
    with options.open_store(data) as store:
        topic = options.existing_topic(store, name)
        rows = topic.to_parquet(parquet, partition=partition, schema=None if columns is None else columns_of(columns))
        say(f"{rows:,} records of {name} in {parquet}")


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What DuckDB is to run.", show_default=False)],
    data: options.Data = options.DATA,
    columns: Columns = None,
    as_json: options.Json = False,
) -> None:
    """Ask topics with SQL: each topic that the query names is a table, as it is at this moment.

    Needs DuckDB: pip install 'seglog[arrow]'. Columns: offset, timestamp, key, value (bytes; decode(value) is text), and
    partition with several. `--columns 'TOPIC: NAME TYPE, ...'` makes columns of JSON or msgpack values instead; may be
    repeated. A name that is no SQL name is quoted: "my-topic", and so are "offset" and "key".

    \b
        seglog sql 'select count(*), max(octet_length(value)) from orders'
        seglog sql 'select carrier, count(*) from flights group by 1' --columns 'flights: carrier string'
    """
    schemas: dict[str, dict[str, str]] = {}
    for given in columns or ():
        topic, colon, rest = given.partition(":")
        if not colon:
            raise Refused(f"--columns is {given!r}: say whose, as in 'flights: carrier string'")
        schemas[topic.strip()] = columns_of(rest)
    try:
        import duckdb
    except ImportError as error:
        raise ExtraMissing(
            "SQL is run by DuckDB, which is not installed: pip install 'seglog[arrow]'.", extra="arrow"
        ) from error
    with options.open_store(data) as store:
        for name in schemas:
            options.existing_topic(store, name)
        with duckdb.connect(":memory:") as connection:
            for name in named_in(query, store):
                connection.register(name, store.topic(name).arrow(schema=schemas.get(name)))
            try:
                cursor = connection.execute(query)
                rows = cursor.fetchall()
            except duckdb.Error as error:
                raise Refused(" ".join(str(error).split())) from error
            heads = [column[0] for column in cursor.description or ()]
    if as_json:
        show_json([dict(zip(heads, map(plain, row), strict=True)) for row in rows])
    else:
        show_table(heads, [[plain(cell) for cell in row] for row in rows])


def named_in(query: str, store: seglog.Store) -> list[str]:
    """The topics whose names stand in the query, as whole words."""
    return [name for name in store.topics() if re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", query)]


def plain(cell: object) -> object:
    """What JSON and a table can show: bytes as text where they are, times as they are written."""
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "backslashreplace")
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)
