"""Identity: who a store is, and in which format it is written; the file `SEGLOG`.

    {"created":1700000000000000,"format":1,"uuid":"0b6c...","hash":"9d3f0c52a1b7e846"}

One line of JSON, written once and never changed, so a backup of any age can replace it. `hash` is XXH3-64, in hex, of the
same object without `hash`, as JSON with sorted names and no spaces. That envelope is the same in every format to
come: a reader can always tell damage (the hash is wrong) from news (the hash is right, `format` is higher).

It promises that a directory which holds something else is left as it is.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from seglog.clock import Clock
from seglog.errors import ConfigError, CorruptStore, NotAStore, UnsupportedFormat
from seglog.files import FileLock, make_directory, read_whole, sync_directory, told, write_whole

__all__ = ["FORMAT", "Identity", "establish", "gate"]

FORMAT = 1
FILE = "SEGLOG"
GATE = "create.lock"  # apart from `lock`, whose bytes say which processes live


@dataclass(frozen=True, slots=True)
class Identity:
    """What `SEGLOG` says."""

    uuid: str
    created: int  # µs since the epoch
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        """The line.

        >>> Identity("u", 5).to_bytes()
        b'{"created":5,"format":1,"uuid":"u","hash":"7000d582576da738"}\\n'
        """
        facts = {"format": self.format, "uuid": self.uuid, "created": self.created}
        return f'{canonical(facts)[:-1]},"hash":"{digest(facts)}"}}\n'.encode()

    @classmethod
    def from_bytes(cls, line: bytes, path: str) -> Identity:
        """The reverse. Raises CorruptStore when it is damaged, UnsupportedFormat when it is newer."""
        facts: Any = None
        try:
            facts = json.loads(line)
            sound = facts.pop("hash") == digest(facts) and says_who(facts)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            sound = False
        if not sound:
            raise CorruptStore(
                f"{path} is damaged: its {len(line):,} bytes are not the line that was written. It only says who the "
                "store is; topics and records were not looked at and not touched. Put it back from a backup of any "
                "age, for it never changes; or let `seglog doctor --repair` write a new one.",
                path=path,
            )
        if facts["format"] != FORMAT:
            raise UnsupportedFormat(
                f"{path} says format {facts['format']}, and this seglog reads format {FORMAT}. It was made by another "
                "version; use that. Nothing was changed.",
                path=path,
                found=facts["format"],
                supported=FORMAT,
            )
        return cls(uuid=facts["uuid"], created=facts["created"], format=facts["format"])


def says_who(facts: Mapping[str, object]) -> bool:
    """Whether the line holds what one of this format must; one of a newer format may hold anything beside its number."""
    if type(facts.get("format")) is not int:
        return False
    return facts["format"] != FORMAT or [type(facts.get(name)) for name in ("uuid", "created")] == [str, int]


def canonical(facts: Mapping[str, object]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"))


def digest(facts: Mapping[str, object]) -> str:
    return xxhash.xxh3_64_hexdigest(canonical(facts).encode())


def gate(directory: str, timeout: float) -> FileLock:
    """The door for whoever makes or deletes names in this store: the store itself, topics, groups."""
    return FileLock(os.path.join(directory, GATE), timeout)


def establish(directory: str, *, create: bool, clock: Clock, timeout: float) -> Identity:
    """The identity of the store in `directory`, which is made when there is nothing and `create` says so.

    Raises NotAStore where something else is, or nothing and `create` is false; CorruptStore, UnsupportedFormat and
    ReadOnlyStore as their names say. Several processes may call it at once: one creates, the others find.
    """
    path = os.path.join(directory, FILE)
    with told(directory, "open the store"):
        if not os.path.lexists(path):
            refuse_strangers(directory, create)
            make_directory(directory)
            with gate(directory, timeout):
                if not os.path.lexists(path):
                    write_whole(path, Identity(str(uuid.uuid4()), clock()).to_bytes())
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(13, "the directory is not writable", directory)
        identity = Identity.from_bytes(read_whole(path), path)
        # Who made it may have died between its rename and its fsync of the directory.
        sync_directory(directory)
        return identity


def refuse_strangers(directory: str, create: bool) -> None:
    """Only nothing at all, or what a creation that was cut short left behind, may become a store."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        names = []
    except NotADirectoryError:
        raise NotAStore(
            f"{directory} is a file; a store is a directory. Nothing was changed.", path=directory
        ) from None
    if FILE in names:
        return  # another process made the store between the two looks
    strangers = sorted(
        name for name in names if name != GATE and not (name.startswith(FILE + ".") and name.endswith(".tmp"))
    )
    if strangers:
        raise NotAStore(
            f"{directory} has no {FILE} file but holds {len(strangers):,} other names, for instance "
            f"{strangers[0]!r}. seglog does not mix its files with another program's: choose an empty or a new "
            f"directory. If this was a store, put its {FILE} file back from a backup. Nothing was changed.",
            path=directory,
        )
    if not create:
        raise NotAStore(
            f"there is no store at {directory}, and create=False asks to make none. Nothing was changed.",
            path=directory,
        )


def directory_of(path: str | os.PathLike[str]) -> str:
    """The path that people gave, absolute, so that a later chdir does not move the store."""
    text = os.fsdecode(os.fspath(path))
    if not text or "\0" in text:
        raise ConfigError(f"path is {text!r}; it must name a directory", setting="path", value=text)
    return os.path.abspath(text)
