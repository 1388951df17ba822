"""Verify: `seglog verify`: every record of a store read and compared with its hash."""

from __future__ import annotations

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import REFUSED
from seglog.cli.progress import Progress
from seglog.cli.show import on_terminal, show_json, show_table
from seglog.doctor import examine, size_of
from seglog.engine.losses import standing

__all__ = ["verify"]

COLUMNS = ("kind", "file", "position", "bytes", "first offset", "next offset", "what is wrong")


def verify(
    directory: options.Directory = None, data: options.Data = options.DATA, as_json: options.Json = False
) -> None:
    """Check every record's hash; print what is lost, and change nothing. Exits 2 when there is damage.

    A finding is corrupt (bytes are not what was written), missing (a file or a part is not there), or torn: the end of a
    log that was being written when the power went and had not been synced, which is no damage. All records
    before and after a finding can be read. What earlier openings of the store found lost is told too; what "seglog doctor
    --repair" set aside is not.

    \b
    Use this one every night: it says whether all records can be read. It opens the store as a program does, and so
    recovers what the last crash left. Use "seglog doctor" when this one finds something, on a read-only copy, or when the
    store does not open: it opens nothing, looks at everything else too, and says what can be repaired.

    \b
    Piped: kind, file, position, bytes, first offset, the offset after the last (-1: unknown) and a note, separated
    by tabs; nothing when all is well.
        seglog verify data
        seglog verify data || mail -s 'seglog: damage' ops < /dev/null
    """
    # "skip": damage in what says which topics there are must not keep us from looking at the rest.
    with options.open_store(directory or data, recover="skip") as store:
        with Progress(f"verifying {store.path}", size_of(store.path), "bytes") as progress:
            opened = store.statistics()
            found = examine(store.path, progress=progress.advance).losses
            told = {(loss.path, loss.start) for loss in found}
            findings = [loss for loss in standing(opened.losses) if (loss.path, loss.start) not in told] + list(found)
    damage = [finding for finding in findings if finding.kind != "torn"]
    if as_json:
        show_json(
            {
                "path": opened.path,
                "topics": len(opened.topics),
                "records": opened.records,
                "damaged": bool(damage),
                "findings": [finding._asdict() for finding in findings],
            }
        )
    else:
        show(opened, findings)
    if damage:
        raise typer.Exit(REFUSED)


def show(opened: seglog.StoreStatistics, findings: list[seglog.Loss]) -> None:
    rows = [(f.kind, f.path, f.position, f.size, f.start, f.stop, f.note) for f in findings]
    if rows or not on_terminal():
        show_table(COLUMNS, rows)
    if on_terminal():
        topics = f"{len(opened.topics):,} topic{'' if len(opened.topics) == 1 else 's'}"
        verdict = f"{len(findings):,} finding{'' if len(findings) == 1 else 's'}" if findings else "no damage"
        print(f"{opened.path}: {topics}, {opened.records:,} records, {opened.disk_bytes:,} bytes: {verdict}")
