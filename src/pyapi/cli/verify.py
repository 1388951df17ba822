"""Verify: `seglog verify`: every record of a store read and compared with its hash."""

from __future__ import annotations

from contextlib import suppress

import typer

from seglog import doctor as examiner
from seglog.cli import options
from seglog.cli.exits import REFUSED
from seglog.cli.progress import Progress
from seglog.cli.show import on_terminal, show_json, show_table
from seglog.engine.losses import standing
from seglog.errors import SeglogError
from seglog.topic import plural

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
        with Progress(f"verifying {store.path}", examiner.size_of(store.path), "bytes") as progress:
            topics = store.topics()
            for name in topics:
                with suppress(SeglogError):  # what cannot be opened is told below
                    store.topic(name)  # which recovers it
            report = examiner.examine(store.path, progress=progress.advance)
    told_of = {(loss.path, loss.start) for loss in report.losses}
    past = standing(loss for partition in report.partitions for loss in partition.history)
    findings = [*(loss for loss in past if (loss.path, loss.start) not in told_of), *report.losses]
    records = sum(log.next_offset - log.first_offset for log in report.partitions if log.name not in ("meta", "txn"))
    damage = [finding for finding in findings if finding.kind != "torn"]
    if as_json:
        show_json(
            {
                "path": report.path,
                "topics": len(topics),
                "records": records,
                "damaged": bool(damage),
                "findings": [finding._asdict() for finding in findings],
            }
        )
    else:
        rows = [(f.kind, f.path, f.position, f.size, f.start, f.stop, f.note) for f in findings]
        if rows or not on_terminal():
            show_table(COLUMNS, rows)
        if on_terminal():
            verdict = plural(len(findings), "finding") if findings else "no damage"
            print(
                f"{report.path}: {plural(len(topics), 'topic')}, {plural(records, 'record')}, {report.size:,} bytes: {verdict}"
            )
    if damage:
        raise typer.Exit(REFUSED)
