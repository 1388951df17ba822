r"""Messages: what was received or looked at in a queue, as text: lines, or JSON.

Lines     the value and a newline; with -K the key and the separator before it, as `seglog topic read` prints records
Objects   --json: one object per line; bytes that are no UTF-8 are {"base64":"..."}; times in µs since 1970
              {"queue":"jobs","id":"jobs-0-7","priority":0,"sequence":7,"attempts":1,"deliveries":1,"sent_at":1372910400000000,
               "first_received_at":1372910400000000,"key":null,"value":"...","headers":{},"group":null,"dedup_id":null,"deaths":[]}
"""

from __future__ import annotations

import json
from collections.abc import Callable

from seglog import Message
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.lines import UNTERMINATED
from seglog.cli.render import json_of, json_of_headers, quoted

__all__ = ["writer_of"]

Writer = Callable[[Message], bytes]


def writer_of(queue: str, separator: str | None, delimiter: str, as_json: bool) -> Writer:
    """What makes text of each message of `queue`. Raises Refused."""
    if as_json and separator is not None:
        raise Refused("-K and --json each say how messages are printed: leave out one")
    if as_json:
        return lambda message: object_of(queue, message)
    between = None if separator is None else options.unescaped(separator, "-K")
    end = options.one_byte(delimiter, "-D")
    return lambda message: line_of(message, end, between)


def line_of(message: Message, end: bytes, separator: bytes | None) -> bytes:
    text = message.value or b""
    if separator is not None and message.key is not None:
        text = message.key + separator + text
    return text if UNTERMINATED in message.headers else text + end


def object_of(queue: str, message: Message) -> bytes:
    said = {
        "queue": quoted(queue),
        "id": quoted(message.id),
        "priority": str(message.priority),
        "sequence": str(message.sequence),
        "attempts": str(message.attempts),
        "deliveries": str(message.deliveries),
        "sent_at": str(message.sent_at),
        "first_received_at": str(message.first_received_at or "null"),
        "key": json_of(message.key),
        "value": json_of(message.value),
        "headers": json_of_headers(message.headers),
        "group": json_of(message.group),
        "dedup_id": json_of(message.dedup_id),
        "deaths": json.dumps(message.deaths, ensure_ascii=False),
    }
    return ("{" + ",".join(f'"{name}":{text}' for name, text in said.items()) + "}\n").encode()
