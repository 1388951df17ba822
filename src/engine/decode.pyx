# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""Decode: columns out of values that are JSON objects, or msgpack maps; the first byte says which.

A field that a value does not have is null, and so is all of a null value. What is there and is not what the schema says is an error, which
names the offset and the field: a query that quietly counted it as null would be wrong. JSON is read where it stands, without an object
per value, as far as it is plain; what has escapes, nests where a column is wanted, or is wrong, goes through the json module, and msgpack
through its package, some microseconds each.

Shared fields: none is written after a `Decoded` was made.
"""
import datetime
import importlib
import json
from collections.abc import Mapping as _Mapping

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memcpy, memset

import numpy as np

from seglog.engine.arrowabi cimport ArrowSchema
from seglog.engine.batch cimport Batch, Walk, new_array
from seglog.engine.frame cimport Entry
from seglog.engine.json cimport IS_FALSE, IS_NULL, IS_NUMBER, IS_TEXT, IS_TRUE, MISSING, Slot, find_fields
from seglog.engine.record cimport to_us

from seglog.engine.errors import CodecMissing, ConfigError

# By name: Arrow's format. The names are Arrow's too.
_FORMATS = {"int64": "l", "float64": "g", "bool": "b", "string": "u", "binary": "z", "timestamp": "tsu:UTC", "json": "u"}
_PYTHON = {int: "int64", float: "float64", bool: "bool", str: "string", bytes: "binary", datetime.datetime: "timestamp"}
_ARROW = {"l": "int64", "g": "float64", "b": "bool", "u": "string", "U": "string", "vu": "string", "z": "binary", "Z": "binary", "vz": "binary"}
cdef extern from "Python.h":
    double PyOS_string_to_double(const char *s, char **end, PyObject *overflow) except? -1.0

_INT32, _INT64, _FLOAT, _BYTE = np.dtype("<i4"), np.dtype("<i8"), np.dtype("<f8"), np.dtype("u1")


def fields_of(schema):
    """{name: kind} of what a caller may give: a mapping of names to kinds or Python types, or whatever has `__arrow_c_schema__`."""
    cdef ArrowSchema *s
    cdef int64_t i
    cdef dict fields = {}
    if hasattr(schema, "__arrow_c_schema__"):
        capsule = schema.__arrow_c_schema__()
        s = <ArrowSchema *>PyCapsule_GetPointer(capsule, b"arrow_schema")
        for i in range(s.n_children):
            format = (<bytes>s.children[i].format).decode()
            name = (<bytes>s.children[i].name).decode()
            fields[name] = "timestamp" if format.startswith("tsu:") else _ARROW.get(format, f"Arrow's {format!r}")
    elif isinstance(schema, _Mapping):
        fields = {name: _PYTHON.get(kind, kind) if isinstance(kind, type) else kind for name, kind in schema.items()}
    else:
        raise TypeError(f"a schema is a mapping of names to types, or an Arrow schema, not {type(schema).__name__}")
    for name, kind in fields.items():
        if not isinstance(name, str) or not isinstance(kind, str) or kind not in _FORMATS:
            raise ConfigError(
                f"field {name!r} of the schema is {kind!r}; it is one of {', '.join(_FORMATS)}", setting="schema", value=kind)
    if not fields:
        raise ConfigError("the schema has no field", setting="schema", value=schema)
    return fields


cdef class Builder:
    """One column, growing. The Arrow way: a bitmap of what is there, and numbers, or the ends of texts and the texts."""

    cdef str name, kind
    cdef bytes utf8                 # the name
    cdef int64_t n, nulls, used, room
    cdef object valid, made         # arrays
    cdef uint8_t *bits
    cdef int64_t *numbers
    cdef double *floats
    cdef uint8_t *truths
    cdef int32_t *ends
    cdef object blob                # a bytearray
    cdef char *into
    # what comes next, once it is known that the whole record fits
    cdef bint there
    cdef int64_t number
    cdef double floating
    cdef const char *at
    cdef int64_t size

    def __init__(self, str name, str kind):
        self.name, self.kind, self.utf8 = name, kind, name.encode()

    cdef int begin(self, int64_t n) except -1:
        cdef char *data
        self.n = self.nulls = self.used = 0
        self.valid = new_array((n + 7) >> 3, _BYTE, &data)
        self.bits = <uint8_t *>data
        memset(self.bits, 0, (n + 7) >> 3)
        self.numbers, self.floats, self.truths, self.ends, self.blob = NULL, NULL, NULL, NULL, None
        if self.kind in ("int64", "timestamp"):
            self.made = new_array(n, _INT64, &data)
            self.numbers = <int64_t *>data
        elif self.kind == "float64":
            self.made = new_array(n, _FLOAT, &data)
            self.floats = <double *>data
        elif self.kind == "bool":
            self.made = new_array((n + 7) >> 3, _BYTE, &data)
            self.truths = <uint8_t *>data
            memset(self.truths, 0, (n + 7) >> 3)
        else:
            self.made = new_array(n + 1, _INT32, &data)
            self.ends = <int32_t *>data
            self.ends[0] = 0
            self.blob, self.room = bytearray(16 * n + 64), 16 * n + 64
            self.into = PyByteArray_AS_STRING(self.blob)
        return 0

    cdef bint fits(self, const Slot *slot) except -1:
        """Whether the field can be taken as it stands there; it is then what comes next. False: a parser is needed, or it is wrong."""
        cdef int64_t i
        cdef char digits[64]
        self.there = slot.token != MISSING and slot.token != IS_NULL
        if not self.there:
            return True
        if self.ends != NULL:
            if slot.token != IS_TEXT or not slot.plain or self.kind == "json":
                return False
            self.at, self.size = slot.at, slot.size
            return True
        if self.truths != NULL:
            self.number = slot.token == IS_TRUE
            return slot.token == IS_TRUE or slot.token == IS_FALSE
        if self.kind == "timestamp" and slot.token == IS_TEXT and slot.plain:
            self.number = micros(slot.at[:slot.size].decode("utf-8"))
            return True
        if slot.token != IS_NUMBER or slot.size > 60:
            return False
        if self.floats != NULL:
            memcpy(digits, slot.at, slot.size)
            digits[slot.size] = 0
            self.floating = PyOS_string_to_double(digits, NULL, NULL)
            return True
        if not slot.plain or slot.size > 18:
            return False
        self.number = 0
        i = 1 if slot.at[0] == c"-" else 0
        for i in range(i, slot.size):
            self.number = 10 * self.number + (slot.at[i] - c"0")
        if slot.at[0] == c"-":
            self.number = -self.number
        return True

    cdef bint suits(self, object item) except -1:
        """The same of an object that a parser made, which `holds` it; TypeError, ValueError, OverflowError: it is wrong."""
        self.there = item is not None
        if not self.there:
            return True
        if self.kind == "int64":
            if type(item) is not int:
                raise TypeError
            self.number = item
        elif self.kind == "timestamp":
            self.number = micros(item)
        elif self.kind == "float64":
            if type(item) is not float and type(item) is not int:
                raise TypeError
            self.floating = item
        elif self.kind == "bool":
            if type(item) is not bool:
                raise TypeError
            self.number = item
        else:
            self.at, self.size = PyBytes_AS_STRING(item), PyBytes_GET_SIZE(item)
        return True

    cdef object encoded(self, object item):
        """The bytes of a text that a parser made; anything else as it is."""
        if self.ends == NULL or item is None:
            return item
        if self.kind == "json":
            item = json.dumps(item, ensure_ascii=False, default=str)
        elif type(item) is not str and (self.kind != "binary" or type(item) is not bytes):
            raise TypeError
        return (<str>item).encode("utf-8", "replace") if type(item) is str else item

    cdef int take(self) except -1:
        """What comes next is there."""
        cdef int64_t i = self.n
        self.n = i + 1
        if self.there:
            self.bits[i >> 3] |= <uint8_t>(1 << (i & 7))
        else:
            self.nulls += 1
            self.number, self.floating, self.size = 0, 0.0, 0
        if self.numbers != NULL:
            self.numbers[i] = self.number
        elif self.floats != NULL:
            self.floats[i] = self.floating
        elif self.truths != NULL:
            self.truths[i >> 3] |= <uint8_t>(self.number << (i & 7))
        else:
            if self.used + self.size > 0x7FFFFFFF:
                raise OverflowError(f"the texts of {self.name} in one record batch are longer than 2 GiB")
            if self.used + self.size > self.room:
                self.room = 2 * self.room + self.size
                PyByteArray_Resize(self.blob, self.room)
                self.into = PyByteArray_AS_STRING(self.blob)
            if self.size > 0:
                memcpy(self.into + self.used, self.at, self.size)
                self.used += self.size
            self.ends[i + 1] = <int32_t>self.used
        return 0

    cdef tuple done(self):
        """(nulls, buffers ...)"""
        cdef tuple made = (self.nulls, self.valid if self.nulls else None, self.made)
        if self.ends != NULL:
            made += (self.blob,)
        self.valid = self.made = self.blob = None
        return made


cdef class Decoded:
    """The shape of values that are decoded: `fields`, and `columns` of a batch."""

    cdef dict kinds
    cdef readonly list fields
    cdef object unpack              # msgpack's, once it is wanted

    def __init__(self, schema):
        self.kinds = fields_of(schema)
        self.fields = [(name, _FORMATS[kind], True) for name, kind in self.kinds.items()]

    def columns(self, Batch batch):
        cdef list builders = [Builder(name, kind) for name, kind in self.kinds.items()]
        cdef int k, n = <int>len(builders)
        cdef int64_t i = 0
        cdef Builder builder
        cdef Walk walk = iter(batch)
        cdef Entry e
        cdef Slot *slots = <Slot *>PyMem_RawMalloc(n * sizeof(Slot))
        if slots == NULL:
            raise MemoryError()
        try:
            for k in range(n):
                builder = <Builder>builders[k]
                builder.begin(batch.count)
                slots[k].name, slots[k].name_size = PyBytes_AS_STRING(builder.utf8), PyBytes_GET_SIZE(builder.utf8)
            while walk.advance(&e):
                if e.value_size < 0:
                    for k in range(n):
                        (<Builder>builders[k]).there = False
                elif not self.fast(&e, slots, builders, n):
                    # It holds what the builders point at until they took it.
                    held = self.slow(batch, i, e.value[:e.value_size], builders)
                for k in range(n):
                    (<Builder>builders[k]).take()
                i += 1
            return [(<Builder>builders[k]).done() for k in range(n)]
        finally:
            PyMem_RawFree(slots)

    cdef bint fast(self, const Entry *e, Slot *slots, list builders, int n) except -1:
        """Whether all fields could be taken from where they stand."""
        cdef int k
        cdef int64_t i
        cdef unsigned char all = 0
        if not find_fields(e.value, e.value + e.value_size, slots, n):
            return False
        for i in range(e.value_size):
            all |= <unsigned char>e.value[i]
        try:
            if all >= 0x80:
                e.value[:e.value_size].decode("utf-8")  # what is none is an error, which the parser tells
            for k in range(n):
                if not (<Builder>builders[k]).fits(&slots[k]):
                    return False
        except (TypeError, ValueError, OverflowError):
            return False
        return True

    cdef list slow(self, Batch batch, int64_t i, bytes value, list builders):
        """The same by a parser; what is wrong is told."""
        cdef Builder builder
        cdef bytes trimmed = value.lstrip(b" \t\r\n")
        cdef uint8_t first = PyBytes_AS_STRING(trimmed)[0] if PyBytes_GET_SIZE(trimmed) else 0
        cdef list held = []
        try:
            if first == c"{":
                row = json.loads(trimmed)
            elif 0x80 <= first <= 0x8F or first == 0xDE or first == 0xDF:
                row = self.unpacked(value)
            else:
                raise ValueError(f"it begins with {value[:8]!r}")
        except (ValueError, RecursionError) as error:
            raise self.wrong(batch, i, f"is neither a JSON object nor a msgpack map: {error}") from None
        for builder in builders:
            item = row.get(builder.name)
            try:
                held.append(builder.encoded(item))
                builder.suits(held[-1])
            except (TypeError, OverflowError, ValueError):
                raise self.wrong(batch, i, f"has {builder.name} = {repr(item)[:60]}, which is no {builder.kind}") from None
        return held

    cdef object unpacked(self, bytes value):
        if self.unpack is None:
            try:
                msgpack = importlib.import_module("msgpack")
            except ImportError:
                raise CodecMissing(
                    "these values are msgpack, which the package msgpack reads: pip install 'seglog[arrow]'. The data is intact.",
                    extra="arrow", codec="msgpack") from None
            self.unpack = msgpack.unpackb
        try:
            return self.unpack(value, raw=False, timestamp=3, strict_map_key=False)
        except Exception as error:      # its errors have no root but this
            raise ValueError(f"{type(error).__name__}: {error}") from None

    cdef object wrong(self, Batch batch, int64_t i, str what):
        return ValueError(f"the value at offset {int(batch.offsets[i]):,} of partition {batch.partition} {what}. The data is intact.")


cdef int64_t micros(object item) except? -1:
    """µs since the epoch: of a number, which is that already, of ISO 8601 (UTC without a zone), of msgpack's own timestamp."""
    if type(item) is str:
        item = datetime.datetime.fromisoformat(item)
        if item.tzinfo is None:
            item = item.replace(tzinfo=datetime.timezone.utc)
    if type(item) is bool or type(item) is float:
        raise TypeError
    return to_us(item)
