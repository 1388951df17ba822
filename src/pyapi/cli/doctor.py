"""Doctor: `seglog doctor`: what is wrong with a store, what it costs, and setting right what can be."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from seglog import doctor as examiner
from seglog.cli import options
from seglog.cli.exits import DONE, FAILED, REFUSED, told
from seglog.cli.progress import Progress
from seglog.cli.show import on_terminal, show_json, show_table
from seglog.doctor import Finding, Report

__all__ = ["doctor"]

COLUMNS = ("severity", "kind", "file", "position", "bytes", "first offset", "next offset", "what it means", "repair")
Repair = Annotated[bool, typer.Option("--repair", help="Set right what can be; nobody else may have the store open.")]


def doctor(
    directory: options.Directory = None,
    data: options.Data = options.DATA,
    repair: Repair = False,
    as_json: options.Json = False,
) -> None:
    """Look at every byte of a store, say what is wrong, and prove what can be read. Changes nothing without --repair.

    Works on a read-only mount and while others write. A finding is damage; harmless: costs no record; a note; or unexamined: could
    not be read. --repair mends what stands twice, puts files back under their names, recovers torn tails, and sets damage aside, so
    that reads pass over it without an error. It deletes no data, and says what it changed. For a daily check of the records alone,
    use "seglog verify".

    \b
    Exit codes: 0 nothing is damaged, or nothing is any more after --repair; 2 there is damage (with --repair: still);
    1 the store, or a part of it, could not be examined.

    \b
    Piped: severity, kind, file, position, bytes, first offset, the offset after the last (-1: unknown; both empty: none is
    affected), what it means, and what --repair would do, separated by tabs; nothing when all is well. With --repair that is
    what is left, and a line "changed" or "failed" follows for each thing that was done or tried.
        seglog doctor data
        seglog doctor data --repair --json > report.json
    """
    path = directory or data
    try:
        total = examiner.size_of(path)
        with Progress(f"examining {path}", None if repair else total, "bytes") as progress:
            work = examiner.repair if repair else examiner.examine
            report = work(path, progress=progress.advance)
    except Exception as error:  # whatever it is, the store was not examined
        told(error)
        raise typer.Exit(FAILED) from None
    if as_json:
        show_json(report.to_json())
    else:
        show(report)
    raise typer.Exit(REFUSED if report.damage else FAILED if report.unexamined else DONE)


def show(report: Report) -> None:
    if not on_terminal():
        rows = [row(finding) for finding in report.findings]
        rows += [(kind, None, None, None, None, None, None, text, None) for kind, text in done(report)]
        show_table(COLUMNS, rows)
        return
    from rich.console import Console  # not before it is needed

    console = Console(highlight=False, markup=False, soft_wrap=True)
    for finding in report.findings:
        console.print(f"{finding.severity}: {finding.kind}", style=STYLES[finding.severity], end="  ")
        console.print(where(finding, report.path), style="bold")
        console.print(f"    {finding.meaning}.")
        if finding.repair:
            console.print(f"    --repair {finding.repair}.", style="dim")
    for kind, text in done(report):
        console.print(f"{kind}: {text.removeprefix(report.path + os.sep)}", style=STYLES[kind])
    show_table(
        ("log", "records", "bytes", "proof"),
        [(partition.name, partition.records, partition.size, partition.told) for partition in report.partitions],
    )
    print(
        f"{report.path}: {report.size:,} bytes compared with their hashes in {report.seconds:.2f} s: {verdict(report)}"
    )


STYLES = {
    "damage": "red",
    "unexamined": "magenta",
    "harmless": "yellow",
    "note": "dim",
    "changed": "green",
    "failed": "red",
}


def done(report: Report) -> list[tuple[str, str]]:
    """What repair changed, and what it could not."""
    return [("changed", text) for text in report.changes] + [("failed", text) for text in report.failures]


def row(finding: Finding) -> tuple[object, ...]:
    offsets: tuple[int | None, int | None] = (None, None) if finding.start < 0 else (finding.start, finding.stop)
    return (
        finding.severity,
        finding.kind,
        finding.path,
        finding.position,
        finding.size,
        *offsets,
        finding.meaning,
        finding.repair,
    )


def where(finding: Finding, store: str) -> str:
    said = os.path.relpath(finding.path, store)
    if finding.size:
        said += f", bytes {finding.position:,}..{finding.position + finding.size - 1:,}"
    if finding.start >= 0:
        said += f", offsets {finding.start:,}.." + (f"{finding.stop - 1:,}" if finding.stop >= 0 else "")
    return said


def verdict(report: Report) -> str:
    if report.damage:
        return f"{len(report.damage):,} damaged" + ("" if report.changes else "; --repair sets right what can be")
    if report.unexamined:
        return f"{len(report.unexamined):,} not examined"
    return "repaired" if report.changes else "no damage"
