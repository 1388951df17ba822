"""Fields: the columns that values of one numpy dtype become in Arrow.

A plain dtype is one column, `value`, lent as it lies; each field of a structured one is a column of its own, gathered by numpy,
once per batch. Numbers are little-endian afterwards, truth is one bit, times are Arrow's, of numpy's unit; NaT is null. What Arrow
has no word for, complex numbers, text of four bytes a letter, fields within fields, is fixed_size_binary, as it lies in the record.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Made = tuple[Any, ...]  # how many nulls, then the buffers of the column

NUMBERS = {"i1": "c", "u1": "C", "i2": "s", "u2": "S", "i4": "i", "u4": "I", "i8": "l", "u8": "L", "f2": "e", "f4": "f", "f8": "g"}
UNITS = {"s": "s", "ms": "m", "us": "u", "ns": "n"}


class Shape(Protocol):
    """What makes columns of values: `fields`, (name, Arrow's format, nullable) of each, and `columns`, what each is of a batch."""

    @property
    def fields(self) -> list[tuple[str, str, bool]]: ...

    def columns(self, batch: Any, /) -> list[Made]: ...


class Fields:
    """The shape of values of one dtype: `fields`, and `columns` of a batch."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._names = dtype.names
        parts = [("value", dtype)] if dtype.names is None else [(name, dtype[name]) for name in dtype.names]
        self.fields: list[tuple[str, str, bool]] = []
        self._makers: list[Callable[[Array], Made]] = []
        for name, part in parts:
            format, maker = column_of(part)
            self.fields.append((name, format, part.kind in "mM"))
            self._makers.append(maker)

    def columns(self, batch: Any) -> list[Made]:
        values = batch.values
        parts = [values] if self._names is None else [values[name] for name in self._names]
        return [maker(part) for maker, part in zip(self._makers, parts, strict=True)]


def column_of(dtype: np.dtype[Any]) -> tuple[str, Callable[[Array], Made]]:
    """A column's Arrow format, and what makes (nulls, buffers...) of an array."""
    if dtype.str[1:] in NUMBERS:
        native = dtype.newbyteorder("<")
        return NUMBERS[dtype.str[1:]], lambda array: (0, None, np.ascontiguousarray(array, native))
    if dtype.kind == "b":
        return "b", lambda array: (0, None, np.packbits(array, bitorder="little"))
    if dtype.kind in "mM" and np.datetime_data(dtype)[0] != "generic":
        unit, count = np.datetime_data(dtype)
        unit = unit if unit in UNITS and count == 1 else "ns" if unit in ("ps", "fs", "as") else "us" if unit in UNITS else "s"
        native = np.dtype(f"<{dtype.kind}8[{unit}]")
        return f"ts{UNITS[unit]}:" if dtype.kind == "M" else f"tD{UNITS[unit]}", lambda array: times(array, native)
    return f"w:{dtype.itemsize}", lambda array: (0, None, np.ascontiguousarray(array))


def times(array: Array, native: np.dtype[Any]) -> Made:
    array = np.ascontiguousarray(array, native)
    missing = np.isnat(array)
    if not missing.any():
        return 0, None, array.view(np.int64)
    return int(missing.sum()), np.packbits(~missing, bitorder="little"), array.view(np.int64)
