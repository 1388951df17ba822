"""Contestants: seglog, and what the machine does without it.

    a  Python's own buffered file.write of length-prefixed records, and its way of reading them back
    b  memcpy of the same bytes into a freshly allocated, mapped file: the machine's limit for new pages
    c  a Cython method that does nothing: the limit for a call

Each is a function of a `Load` that returns a `machine.Contestant`: opening and closing are its context and are not
timed, the work is. All use the same values, in the same order. (a) is written as well as Python allows: packed lengths,
bound methods, and the buffer is flushed inside the clock.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import seglog
from machine import Contestant

__all__ = [
    "Load", "memcpy_into_new_pages", "noop_send", "python_reads", "python_writes", "seglog_counts", "seglog_reads",
    "seglog_send_many", "seglog_sends",
]

BLOCK = 1000  # records of a send_many, and of the list that is sent again and again
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Load:
    """What is sent: `blocks` times a list of BLOCK different random values of `size` bytes."""

    size: int
    blocks: int

    @property
    def records(self) -> int:
        return self.blocks * BLOCK

    @cached_property
    def values(self) -> list[bytes]:
        source = random.Random(2)
        return [source.randbytes(self.size) for _ in range(BLOCK)]


@contextmanager
def topic_in(place: str, **settings: Any) -> Iterator[seglog.Topic]:
    """As a program would: the public API, fsync="never", everything else at its default.

    A new topic gets a first record: what making files costs is told by `opening`, not here.
    """
    with seglog.open(os.path.join(place, "data"), fsync="never") as store:
        topic = store.topic("bench", **settings)
        if topic.next_offset() == 0:
            topic.send(b"the first")
        yield topic


# ---- writing ------------------------------------------------------------------------------------------------------


def call_each(call: Callable[[bytes], object], load: Load) -> int:
    values = load.values
    for _ in range(load.blocks):
        for value in values:
            call(value)
    return load.records


def write_each(file: Any, load: Load) -> int:
    pack, write, values = struct.Struct("<I").pack, file.write, load.values
    for _ in range(load.blocks):
        for value in values:
            write(pack(len(value)))
            write(value)
    file.flush()
    return load.records


def python_writes(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with open(os.path.join(place, "plain"), "wb") as file:
            yield partial(write_each, file, load)

    return contestant


def seglog_sends(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place) as topic:
            yield partial(call_each, topic.send, load)

    return contestant


def send_blocks(send_many: Callable[[list[bytes]], object], load: Load) -> int:
    values = load.values
    for _ in range(load.blocks):
        send_many(values)
    return load.records


def seglog_send_many(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place) as topic:
            yield partial(send_blocks, topic.send_many, load)

    return contestant


def copy_blocks(view: memoryview, load: Load) -> int:
    block = b"".join(load.values)
    size = len(block)
    for start in range(0, load.blocks * size, size):
        view[start : start + size] = block
    return load.records


def memcpy_into_new_pages(load: Load) -> Contestant:
    """Only the copying is timed, not the allocating and mapping, so nothing that stores through a map can be faster."""

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        size = load.records * load.size
        with open(os.path.join(place, "mapped"), "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            with mmap.mmap(file.fileno(), size) as mapped, memoryview(mapped) as view:
                yield partial(copy_blocks, view, load)

    return contestant


# ---- reading ------------------------------------------------------------------------------------------------------


def read_each(file: Any) -> int:
    unpack, read = struct.Struct("<I").unpack, file.read
    values: list[bytes] = []
    add = values.append
    while prefix := read(4):
        (size,) = unpack(prefix)
        add(read(size))
    return len(values)


def python_reads(load: Load) -> Contestant:
    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        path = os.path.join(place, "plain")
        with open(path, "wb") as file:
            write_each(file, load)
        with open(path, "rb") as file:
            yield partial(read_each, file)

    return contestant


def list_all(topic: seglog.Topic) -> int:
    values: list[bytes] = []
    for batch in topic.batches():
        values += batch.values.tolist()
    return len(values)


def count_all(topic: seglog.Topic) -> int:
    """Every frame's hashes are checked, as in every read; no object is made per record."""
    return sum(len(batch) for batch in topic.batches())


def seglog_reading(load: Load, one_by_one: bool, read: Callable[[seglog.Topic], int]) -> Contestant:
    """Written by one open store, read by the next: its maps are its own."""

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        with topic_in(place) as topic:
            if one_by_one:
                call_each(topic.send, load)
            else:
                send_blocks(topic.send_many, load)
        with topic_in(place) as topic:
            yield partial(read, topic)

    return contestant


def seglog_reads(load: Load, *, one_by_one: bool = False) -> Contestant:
    return seglog_reading(load, one_by_one, list_all)


def seglog_counts(load: Load, *, one_by_one: bool = False) -> Contestant:
    return seglog_reading(load, one_by_one, count_all)


# ---- nothing ------------------------------------------------------------------------------------------------------


def built(name: str) -> ModuleType:
    """bench/<name>.pyx as a module, compiled into build/bench when it or the engine's declarations changed."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    source, folder, engine = HERE / f"{name}.pyx", HERE.parent / "build" / "bench", HERE.parent / "src" / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / (name + importlib.machinery.EXTENSION_SUFFIXES[0])
    sources = [source, *engine.glob("*.pxd"), *engine.glob("*.h")]
    if not target.exists() or target.stat().st_mtime < max(file.stat().st_mtime for file in sources):
        flags = [] if os.name == "nt" else ["-O3", "-fno-strict-aliasing"]
        extension = Extension(name, [str(source)], include_dirs=[str(engine)], extra_compile_args=flags)
        cimport = [str(HERE.parent / "build" / "cimport")]  # where `make build` lays the engine's declarations out
        modules = cythonize([extension], build_dir=str(folder / "cython"), include_path=cimport, quiet=True, force=True)
        distribution = Distribution({"name": name, "ext_modules": modules})
        command = distribution.get_command_obj("build_ext")
        command.build_lib, command.build_temp = str(folder), str(folder / "objects")
        distribution.run_command("build_ext")
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noop_send(load: Load) -> Contestant:
    """Ten times as often as the others send: a lap of a few milliseconds would measure the clock's neighbours."""
    load = Load(load.size, load.blocks * 10)

    class Nothing(built("noop").Noop):  # type: ignore[misc]
        """A Python class over it, as Topic is over the engine's."""

    @contextmanager
    def contestant(place: str) -> Iterator[Callable[[], int]]:
        yield partial(call_each, Nothing().send, load)

    return contestant
