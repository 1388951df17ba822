"""Show: answers that are no records: a table on a terminal, tab-separated lines in a pipe, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["on_terminal", "say", "show_json", "show_table", "table_of"]


def on_terminal() -> bool:
    """Whether a person reads what is printed."""
    return sys.stdout.isatty()


def say(text: str) -> None:
    """Tell a person at a terminal, on stderr; scripts have the exit code."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def show_json(document: object) -> None:
    """One document: indented for a person, one line for a program."""
    print(json.dumps(document, indent=2 if on_terminal() else None, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """A table with a head on a terminal; else the rows alone, tab-separated, numbers as they are."""
    if not on_terminal():
        for row in rows:
            print("\t".join("" if cell is None else str(cell) for cell in row))
        return
    from rich.console import Console  # not before it is needed: it takes longer to import than most commands run

    Console(highlight=False, markup=False).print(table_of(columns, rows, title))


def table_of(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> Table:
    """What a person at a terminal gets: numbers to the right, with commas."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell_text(cell)) for cell in row))
    return table


def cell_text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return str(cell)
