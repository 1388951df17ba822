"""seglog: the log and the queue that live in your process.

>>> import seglog
>>> with seglog.open("data") as store:
...     orders = store.topic("orders", partitions=4)
...     _ = orders.send(b"one", key=b"customer-42")
...     [record.value for record in orders.read()]
[b'one']
"""

from __future__ import annotations

from importlib.metadata import version as _version

from seglog import errors
from seglog.clock import Clock, ManualClock
from seglog.config import StoreConfig, TopicConfig
from seglog.consumer import Consumer
from seglog.errors import *  # noqa: F403
from seglog.exchange import Exchange, ExchangeStatistics, Sent
from seglog.groups import Group, GroupDescription, MemberDescription, PlaceDescription
from seglog.handlers import Handler, Reject, Retry
from seglog.limits import RateLimit
from seglog.producer import Producer
from seglog.queue import Message, Queue
from seglog.queueconfig import Backoff, QueueConfig
from seglog.queuestatistics import QueueStatistics
from seglog.record import Batch, Column, Loss, Packed, Position, Record, Span
from seglog.requests import Requests, RequestStatistics
from seglog.routes import ExchangeConfig
from seglog.routing import Binding, Destination
from seglog.statistics import PartitionStatistics, StoreStatistics, TopicStatistics
from seglog.store import Store, open
from seglog.topic import Topic
from seglog.workers import Workers, WorkerStatistics

__version__ = _version("seglog")

__all__ = [
    "Backoff",
    "Batch",
    "Binding",
    "Clock",
    "Column",
    "Consumer",
    "Destination",
    "Exchange",
    "ExchangeConfig",
    "ExchangeStatistics",
    "Group",
    "GroupDescription",
    "Handler",
    "Loss",
    "ManualClock",
    "MemberDescription",
    "Message",
    "Packed",
    "PartitionStatistics",
    "PlaceDescription",
    "Position",
    "Producer",
    "Queue",
    "QueueConfig",
    "QueueStatistics",
    "RateLimit",
    "Record",
    "Reject",
    "RequestStatistics",
    "Requests",
    "Retry",
    "Sent",
    "Span",
    "Store",
    "StoreConfig",
    "StoreStatistics",
    "Topic",
    "TopicConfig",
    "TopicStatistics",
    "WorkerStatistics",
    "Workers",
    "__version__",
    "open",
]
__all__ += errors.__all__
