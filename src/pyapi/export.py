"""Export: an Arrow table, written as a file of another kind.

It promises that the file is whole or not there: it is written beside its name, and takes it at the end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module

from seglog.engine.arrow import ArrowTable
from seglog.errors import ExtraMissing

__all__ = ["write_parquet"]


def write_parquet(table: ArrowTable, path: str | os.PathLike[str]) -> int:
    """Write it as Parquet, batch by batch; how many rows. Raises ExtraMissing without pyarrow."""
    try:
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExtraMissing(
            "Parquet is written by pyarrow, which is not installed: pip install 'seglog[arrow]'. Nothing was written.",
            extra="arrow",
        ) from error
    rows, path = 0, os.fspath(path)
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        reader = pyarrow.RecordBatchReader.from_stream(table)
        with parquet.ParquetWriter(beside, reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(beside)
    return rows
