r"""Render: a batch of records as text, one piece of bytes for each record.

Lines     the value and a newline; with -K the key and the separator before it
Format    -f: kcat's tokens
              %s value    %k key            %h headers, name=value,...    %t topic        %p partition    %o offset
              %S its size %K its size       %T timestamp, ms since 1970                   %% a percent sign
              (-1: null)  (-1: null)        \n \r \t \0 \\ \xNN as in C; nothing is added at the end
Objects   --json: one object per line
              {"topic":"t","partition":0,"offset":7,"timestamp":1372910400000000,"key":null,"value":"...","headers":{}}
              timestamp in µs; bytes that are no UTF-8 are {"base64":"..."} in place of the text
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from typing import Protocol

from seglog import Batch
from seglog.cli.exits import Refused
from seglog.cli.lines import UNTERMINATED
from seglog.cli.options import raw, unescaped

__all__ = ["Format", "Lines", "Objects", "Renderer"]

Headers = Mapping[str, bytes | None]

quoted: Callable[[str], str] = json.encoder.encode_basestring


class Renderer(Protocol):
    def pieces(self, batch: Batch) -> list[bytes]:
        """The text of each record."""

    def whole(self, batch: Batch) -> bytes:
        """All of them in a row."""


class Lines:
    """Each value as a line. The reverse of `seglog topic send`, byte by byte: a line is terminated if it was."""

    def __init__(self, delimiter: bytes = b"\n", separator: bytes | None = None) -> None:
        self.delimiter, self.separator = delimiter, separator

    def pieces(self, batch: Batch) -> list[bytes]:
        end, separator = self.delimiter, self.separator
        values = batch.raw.tolist()
        keys = batch.keys if separator is not None else None
        if keys is None or separator is None:
            lines = [value + end if value is not None else end for value in values]
        else:
            lines = [
                (value or b"") + end if key is None else key + separator + (value or b"") + end
                for key, value in zip(keys.tolist(), values, strict=True)
            ]
        for i, headers in enumerate(batch.headers or ()):
            if UNTERMINATED in headers:
                lines[i] = lines[i][: -len(end)]
        return lines

    def whole(self, batch: Batch) -> bytes:
        if (self.separator is None or batch.keys is None) and batch.headers is None:
            values = batch.raw.tolist()
            try:
                return self.delimiter.join(values) + self.delimiter  # type: ignore[arg-type]
            except TypeError:  # a null among them
                pass
        return b"".join(self.pieces(batch))


class Format:
    """Each record as -f says."""

    def __init__(self, text: str, topic: str) -> None:
        self.columns: list[Callable[[Batch], Iterable[object]]] = []
        self.template = b""
        # A backslash is looked at before a percent sign, so that \x25 is one and begins no token.
        for part in re.split(r"(\\x.{0,2}|\\.|%.?)", text):
            if not part.startswith("%"):
                self.template += unescaped(part, "-f").replace(b"%", b"%%")
            elif part == "%%":
                self.template += b"%%"
            elif part == "%t":
                self.template += raw(topic).replace(b"%", b"%%")
            elif part in COLUMNS:
                kind, column = COLUMNS[part]
                self.template += kind
                self.columns += [column]
            else:
                raise Refused(f"-f has {part!r}; the tokens are {' '.join([*COLUMNS, '%t', '%%'])}")

    def pieces(self, batch: Batch) -> list[bytes]:
        if not self.columns:
            return [self.template % ()] * len(batch)
        return list(map(self.template.__mod__, zip(*(column(batch) for column in self.columns))))

    def whole(self, batch: Batch) -> bytes:
        return b"".join(self.pieces(batch))


class Objects:
    """Each record as a line of JSON."""

    def __init__(self, topic: str) -> None:
        self.topic = quoted(topic).replace("%", "%%")

    def pieces(self, batch: Batch) -> list[bytes]:
        return [line.encode() for line in self.lines(batch)]

    def whole(self, batch: Batch) -> bytes:
        return "".join(self.lines(batch)).encode()

    def lines(self, batch: Batch) -> Iterable[str]:
        template = (
            f'{{"topic":{self.topic},"partition":{batch.partition},"offset":%d,"timestamp":%d,'
            '"key":%s,"value":%s,"headers":%s}\n'
        )
        keys = batch.keys
        headers = batch.headers
        return map(
            template.__mod__,
            zip(
                batch.offsets.tolist(),
                batch.timestamps.tolist(),
                repeat("null") if keys is None else map(json_of, keys.tolist()),
                map(json_of, batch.raw.tolist()),
                repeat("{}") if headers is None else map(json_of_headers, headers),
            ),
        )


def nulls_empty(items: Iterable[bytes | None]) -> Iterable[bytes]:
    return (b"" if item is None else item for item in items)


def sizes(items: Iterable[bytes | None]) -> Iterable[int]:
    return (-1 if item is None else len(item) for item in items)


def keys_of(batch: Batch) -> Iterable[bytes | None]:
    keys = batch.keys
    return repeat(None, len(batch)) if keys is None else keys.tolist()


def kcat_headers(batch: Batch) -> Iterable[bytes]:
    for headers in batch.headers or repeat({}, len(batch)):
        yield b",".join(raw(name) + b"=" + (b"NULL" if value is None else value) for name, value in headers.items())


COLUMNS: dict[str, tuple[bytes, Callable[[Batch], Iterable[object]]]] = {
    "%s": (b"%b", lambda batch: nulls_empty(batch.raw.tolist())),
    "%S": (b"%d", lambda batch: sizes(batch.raw.tolist())),
    "%k": (b"%b", lambda batch: nulls_empty(keys_of(batch))),
    "%K": (b"%d", lambda batch: sizes(keys_of(batch))),
    "%h": (b"%b", kcat_headers),
    "%p": (b"%d", lambda batch: repeat(batch.partition, len(batch))),
    "%o": (b"%d", lambda batch: batch.offsets.tolist()),
    "%T": (b"%d", lambda batch: (batch.timestamps // 1000).tolist()),
}


def json_of(item: bytes | None) -> str:
    """Bytes as JSON: text, or base64 that says so."""
    if item is None:
        return "null"
    try:
        return quoted(item.decode())
    except UnicodeDecodeError:
        return f'{{"base64":"{b64encode(item).decode()}"}}'


def json_of_headers(headers: Headers) -> str:
    return "{" + ",".join(f"{quoted(name)}:{json_of(value)}" for name, value in headers.items()) + "}"
