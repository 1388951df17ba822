"""Errors: one tree under `SeglogError`.

The class is what you catch, the fields are what you log, the text is what you read at night: what happened,
with the numbers; what it means for the data; what to do. Where Python has a natural class too, an error is both.
"""

from __future__ import annotations

import errno as _errno
import os as _os

__all__ = [
    "ClosedError",
    "CodecMissing",
    "ConfigError",
    "CorruptBatch",
    "CorruptSegment",
    "CorruptStore",
    "DirectoryInUse",
    "Fenced",
    "ForkedHandle",
    "GroupNotFound",
    "InvalidName",
    "LockTimeout",
    "LogTruncated",
    "NetworkFileSystem",
    "NotAStore",
    "OffsetOutOfRange",
    "PartitionFailed",
    "PartitionNotFound",
    "ReadOnlyStore",
    "RecordTooLarge",
    "SeglogError",
    "StoreFull",
    "StoreIOError",
    "Timeout",
    "TopicExists",
    "TopicMismatch",
    "TopicNotFound",
    "UnsupportedFormat",
    "VersionConflict",
]


class SeglogError(Exception):
    """The root of every error that seglog raises on purpose.

    Keyword arguments become attributes, so that a handler can log fields rather than parse text.

    >>> error = SeglogError("the text", offset=7)
    >>> str(error), error.offset
    ('the text', 7)
    """

    def __init__(self, message: str = "", **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.fields))


def _rebuild(cls: type[SeglogError], message: str, fields: dict[str, object]) -> SeglogError:
    """Unpickle an error: the fields travel with it between processes."""
    return cls(message, **fields)


class ConfigError(SeglogError, ValueError):
    """A setting has a value that cannot work; `setting` and `value` say which."""


class InvalidName(SeglogError, ValueError):
    """A name that cannot be a directory of its own on every system; `name` is the offender."""


class ClosedError(SeglogError, ValueError):
    """The object was closed before this call. Nothing was read or written."""


class ForkedHandle(SeglogError, RuntimeError):
    """The handle was carried across `fork`; the child must open the store itself. Nothing was written."""


class ReadOnlyStore(SeglogError, PermissionError):
    """The directory or its files cannot be written by this process; `path` says which."""


class Timeout(SeglogError, TimeoutError):
    """The time given ran out before the call could finish. Nothing was lost; the call may be repeated."""


class LockTimeout(Timeout):
    """A partition stayed locked by a live process; `pid` and `slot` name it. Nothing was written."""


class RecordTooLarge(SeglogError, ValueError):
    """A record, or the frame that it needs, is over the limit; `size` and `limit` are in bytes."""


class OffsetOutOfRange(SeglogError, IndexError):
    """The offset is not in the log. `offset`, `first` and `next` say what was asked and what there is."""


class LogTruncated(OffsetOutOfRange):
    """A power cut took records that were read before it: `offset` is where the reader was, `end` where the log ended then."""


class Fenced(SeglogError, RuntimeError):
    """Somebody newer has taken over what this handle did: `topic` and `partition`, or `producer`. Nothing was written."""


class VersionConflict(SeglogError, RuntimeError):
    """Somebody was quicker: `expected` is not what was found, `actual`; of `partition`, or of its `key`. Nothing was written."""


class LeaseLost(SeglogError, RuntimeError):
    """A message is no longer that delivery's: its lease ended, or it was settled. `offset`, `priority` and `deliveries` say
    which."""


class QueueFull(SeglogError):
    """A bounded queue has no room; `queue`, `max_length` and `max_bytes` say which, `never` whether there can be none. Nothing was
    sent."""


class QueueNotFound(SeglogError, KeyError):
    """There is no queue of that `name`."""

    __str__ = Exception.__str__


class QueueMismatch(SeglogError, ValueError):
    """The queue exists with other settings: `differences` maps each to (asked, existing). Nothing was changed."""


class PartitionNotFound(SeglogError, IndexError):
    """There is no partition of that number; `partition` and `partitions` say what was asked and how many there are."""


class CodecMissing(SeglogError, ImportError):
    """A codec's package is not installed; `extra` names the extra that brings it. The data is intact."""


class _OSLevel(SeglogError, OSError):
    """Shared by the errors that are an `OSError`: `errno` is set, the text is ours."""

    default_errno = _errno.EIO

    def __init__(self, message: str = "", **fields: object) -> None:
        number = fields.pop("errno", None) or self.default_errno
        OSError.__init__(self, number, message)
        self.message = message
        self.fields = {**fields, "errno": number}
        for name, value in fields.items():
            setattr(self, name, value)


class StoreFull(_OSLevel):
    """The disk is full (`errno` is ENOSPC). All before it is intact; appends work again once there is room.

    `accepted` counts the records of a `send_many` that were appended before the disk filled.
    """

    default_errno = _errno.ENOSPC


class StoreIOError(_OSLevel):
    """The file system reported an error; `path` and `errno` say where and which."""


class PartitionFailed(_OSLevel):
    """A sync failed, so what was not yet durable may be lost. Final until the partition is reopened and verified."""


class CorruptStore(SeglogError):
    """Bytes on disk are not what was written. Each subclass says how much is affected; nothing was deleted."""


class CorruptBatch(CorruptStore):
    """A frame fails its hash. Fields: `path`, `position`, `offset`, `resume_offset`: read on from there."""


class CorruptSegment(CorruptStore):
    """A whole segment cannot be read, or is missing. Fields: `path`, `offset`, `resume_offset`."""


class NetworkFileSystem(SeglogError, OSError):
    """The directory lies on a network file system, whose pages and locks are not shared between machines; `path`."""


class NotAStore(SeglogError, ValueError):
    """The directory holds something else; seglog does not touch other programs' files."""


class UnsupportedFormat(SeglogError):
    """Written by a newer seglog; `found` and `supported` are format versions. Nothing was changed."""


class DirectoryInUse(SeglogError):
    """Another opener holds the directory in a way that excludes this one."""


class TopicNotFound(SeglogError, KeyError):
    """There is no topic of that name; `name` is what was asked."""


class GroupNotFound(SeglogError, KeyError):
    """There is no consumer group, or no member of one, of that name; `name` is what was asked."""


class TopicExists(SeglogError, ValueError):
    """A topic of that name exists already."""


class TopicMismatch(SeglogError, ValueError):
    """The topic exists with other settings; `differences` maps each to (asked, existing)."""


def os_error(code: int, doing: str, path: str) -> OSError:
    """The error of the tree for the operating system's -errno `code`."""
    text = _os.strerror(-code)
    if -code in (_errno.ENOSPC, getattr(_errno, "EDQUOT", _errno.ENOSPC)):
        return StoreFull(
            f"the disk is full: {doing} {path}: {text}. Everything before is intact; appends work "
            "again once there is room.",
            errno=_errno.ENOSPC,
            path=path,
        )
    if -code in (_errno.EACCES, _errno.EROFS, _errno.EPERM):
        return ReadOnlyStore(f"{doing} {path}: {text}. Nothing was changed.", path=path, errno=-code)
    return StoreIOError(f"{doing} {path}: {text}", errno=-code, path=path)
