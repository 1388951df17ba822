"""Dtypes: the numpy dtype of a topic's values, as one writes it down.

A plain one is its numpy string, `<f8`; one with fields is numpy's description as JSON, `[["at","<i8"],["price","<f8"]]`. Its byte
order is part of it, so that it reads the same on every machine.

>>> text_of([("at", "i8"), ("price", "f8")])
'[["at","<i8"],["price","<f8"]]'
>>> dtype_of(text_of("f4"))
dtype('float32')
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from seglog.errors import ConfigError

__all__ = ["Dtype", "dtype_of", "text_of"]

Dtype = np.dtype[Any]


def text_of(dtype: Any) -> str:
    """What `numpy.dtype` takes, as text. Raises ConfigError for what no bytes on a disk can be."""
    try:
        found: Dtype = np.dtype(dtype_of(dtype) if isinstance(dtype, str) and dtype.startswith("[") else dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise refused(dtype, f"no numpy dtype: {error}") from error
    if found.hasobject:
        raise refused(dtype, "one with Python objects, which are no bytes")
    if found.itemsize == 0 or found.subdtype is not None or found.kind == "T":
        raise refused(dtype, "one without a size of its own; name it as a field")
    descr: Any = np.lib.format.dtype_to_descr(found)
    return descr if isinstance(descr, str) else json.dumps(descr, separators=(",", ":"))


def dtype_of(text: str) -> Dtype:
    """The dtype that `text_of` wrote down. Raises ConfigError."""
    if not text.startswith("["):
        return np.dtype(text)
    try:
        found: Dtype = np.lib.format.descr_to_dtype(fields_of(json.loads(text)))
    except (TypeError, ValueError, IndexError) as error:
        raise refused(text, f"no description of a dtype: {error}") from error
    return found


def fields_of(read: Any) -> Any:
    """numpy tells a field from a list of fields by the tuple, which JSON does not have."""
    if isinstance(read, str):
        return read
    return [(name, fields_of(kind), *(tuple(shape) for shape in rest)) for name, kind, *rest in read]


def refused(dtype: object, why: str) -> ConfigError:
    return ConfigError(f"dtype {dtype!r} is {why}. Nothing was changed.", setting="dtype", value=dtype)
