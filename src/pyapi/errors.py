"""Errors: one tree under `SeglogError`; what the engine raises and what the face adds, in one place.

The class is what you catch, the fields are what you log, the text is what you read at night. A wrong *type* is a
plain `TypeError`, as everywhere in Python; everything else that seglog raises on purpose is in this tree.

>>> import seglog
>>> issubclass(seglog.TopicNotFound, (seglog.SeglogError, KeyError))
True
"""

from __future__ import annotations

from seglog.engine.errors import (
    ClosedError,
    CodecMissing,
    ConfigError,
    CorruptBatch,
    CorruptSegment,
    CorruptStore,
    DirectoryInUse,
    Fenced,
    ForkedHandle,
    GroupNotFound,
    InvalidName,
    LeaseLost,
    LockTimeout,
    LogTruncated,
    NetworkFileSystem,
    NotAStore,
    OffsetOutOfRange,
    PartitionFailed,
    PartitionNotFound,
    QueueFull,
    QueueMismatch,
    QueueNotFound,
    ReadOnlyStore,
    RecordTooLarge,
    SeglogError,
    StoreFull,
    StoreIOError,
    Timeout,
    TopicExists,
    TopicMismatch,
    TopicNotFound,
    UnsupportedFormat,
    VersionConflict,
)

__all__ = [
    "ClosedError",
    "CodecMissing",
    "ConfigError",
    "CorruptBatch",
    "CorruptSegment",
    "CorruptStore",
    "DirectoryInUse",
    "ExchangeMismatch",
    "ExchangeNotFound",
    "ExtraMissing",
    "Fenced",
    "ForkedHandle",
    "GroupInUse",
    "GroupNotFound",
    "InvalidName",
    "LeaseLost",
    "LockTimeout",
    "LogTruncated",
    "NetworkFileSystem",
    "NotAStore",
    "OffsetOutOfRange",
    "PartitionFailed",
    "PartitionNotFound",
    "QueueFull",
    "QueueMismatch",
    "QueueNotFound",
    "ReadOnlyStore",
    "RecordTooLarge",
    "ReplyError",
    "RequestTimeout",
    "SeglogError",
    "StoreFull",
    "StoreIOError",
    "Timeout",
    "TopicExists",
    "TopicMismatch",
    "TopicNotFound",
    "Unroutable",
    "UnsupportedFormat",
    "VersionConflict",
]


class GroupInUse(SeglogError):
    """The group has live members, or a live one of that name; `group` and `members` say which.

    Nothing was changed. Close them, or wait until their processes end.
    """


class RequestTimeout(Timeout):
    """No reply came in time: `queue`, `timeout` (s). The request expired with it; a later reply is dropped, and counted."""


class ReplyError(SeglogError, RuntimeError):
    """The replier raised an exception: `type`, `text` and `traceback` are its own, as text, and `queue` says where it serves.

    The request is settled: it was tried, and is not tried again.
    """


class ExchangeNotFound(SeglogError, KeyError):
    """There is no exchange of that `name`: it was never made, or it was deleted."""


class ExchangeMismatch(SeglogError, ValueError):
    """The exchange exists with other settings: `differences` maps each to (asked, existing). Nothing was changed."""


class ExtraMissing(SeglogError, ImportError):
    """A package that seglog does without until it is asked for this is not installed; `extra` names the extra that brings it."""


class Unroutable(SeglogError):
    """No binding matches, nor has the exchange an alternate that leads anywhere; `exchange` and `routing_key` say of what.

    Nothing was written. `send(mandatory=False)` drops such messages, and counts them.
    """
