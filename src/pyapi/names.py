"""Names: what topics and groups may be called.

A name is a directory's or a file's name on disk, so it is one that every system can hold: 1 to 200 of ASCII letters, digits,
`.`, `_` and `-`, not beginning with a dot. Names that differ only in case are different names; give a store that
travels to macOS or Windows none of those.
"""

from __future__ import annotations

import re

from seglog.errors import InvalidName

__all__ = ["check_name"]

LENGTH_MAX = 200  # characters; with a suffix of ours it still fits the 255 bytes that file systems allow
OURS = "seglog."  # ~seglog.replies, ~seglog.dedup.<queue>: internal topics, as queues are
ALLOWED = re.compile(r"[A-Za-z0-9._-]+")


def check_name(name: str, what: str = "topic") -> str:
    """`name` itself when it may be used; raises InvalidName (a ValueError), or TypeError for what is no str.

    >>> check_name("orders.eu-1")
    'orders.eu-1'
    >>> check_name("a/b")
    Traceback (most recent call last):
    seglog.engine.errors.InvalidName: 'a/b' cannot be the name of a topic: it has '/' at index 1. ...
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a {what} is a str, not {type(name).__name__}: {name!r}")
    if not name:
        reason = "it is empty"
    elif len(name) > LENGTH_MAX:
        reason = f"it has {len(name):,} characters"
    elif name[0] == ".":
        reason = "it begins with a dot"
    elif what == "queue" and name.startswith(OURS):
        reason = f"names that begin with {OURS!r} are for what seglog keeps beside queues"
    elif ALLOWED.fullmatch(name):
        return name
    else:
        at = next(i for i, character in enumerate(name) if not ALLOWED.fullmatch(character))
        reason = f"it has {name[at]!r} at index {at}"
    raise InvalidName(
        f"{shortened(name)!r} cannot be the name of a {what}: {reason}. Names are 1 to {LENGTH_MAX} letters, digits, "
        "'.', '_' and '-', and do not begin with a dot. Nothing was created.",
        name=name,
    )


def shortened(name: str) -> str:
    return name if len(name) <= 60 else name[:50] + "..." + name[-7:]
