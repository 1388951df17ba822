"""History: what the shim saw, and what of it a power cut at some moment may leave on the disk.

A moment is a sequence number: everything up to it happened, nothing behind it did. At each moment an object (a file, or a
directory) has a *floor*: the beginning of the last sync of it that had returned by then. What a file held at its floor is on the disk;
of what was seen in it later, each page, each sector and the size may be on the disk or not. So it is with a directory and its names.
"""

from __future__ import annotations

import ctypes
import json
import struct
from bisect import bisect_left, bisect_right
from typing import Any

OBJECT, DATA, BEGIN, END, NAME, SAY, FAIL, WROTE = range(1, 9)
RECORD = struct.Struct("<IHHQIIq")
SECTOR = 512
PAGE = 4096
ZEROS = bytes(SECTOR)


class Shim:
    """The library that was preloaded into this process; see shim.c."""

    def __init__(self) -> None:
        lib = ctypes.CDLL(None)
        self._begin, self._say, self._log = lib.power_begin, lib.power_say, lib.power_log
        self._begin.argtypes, self._begin.restype = [ctypes.c_char_p], ctypes.c_uint64
        self._say.argtypes, self._say.restype = [ctypes.c_char_p, ctypes.c_size_t], ctypes.c_uint64
        self._log.argtypes, self._log.restype = [ctypes.POINTER(ctypes.c_size_t)], ctypes.c_void_p
        self._end, self._boot, self._options = lib.power_end, lib.power_boot, lib.power_options
        self._settle = lib.power_settle
        self.fail, self.mortal = lib.power_fail, lib.power_mortal  # see shim.c
        self._boot.argtypes = [ctypes.c_char_p]

    def begin(self, root: str, options: int = 0) -> None:
        self._options(options)
        self._first = self._begin(root.encode())

    def say(self, *words: Any) -> None:
        """A note in order with everything else that happens; whatever lies in the cache at this moment is known, too."""
        text = json.dumps(words).encode()
        self._say(text, len(text))

    def end(self) -> History:
        self._end()
        size = ctypes.c_size_t()
        at = self._log(ctypes.byref(size))
        return History(ctypes.string_at(at, size.value), self._first)

    def boot(self, name: str) -> None:
        """From now on this is another boot, which finds on the disk all that is in the files."""
        self._settle()
        self._boot(name.encode())


class File:
    """One inode: its sizes, and its sectors, each as it was from some moment on."""

    def __init__(self, number: int, born: int) -> None:
        self.number, self.born = number, born
        self.size_times: list[int] = [born]
        self.sizes: list[int] = [0]
        self.sector_times: dict[int, list[int]] = {}
        self.sectors: dict[int, list[bytes]] = {}
        self.page_times: dict[int, list[int]] = {}
        self.sync_begins: list[int] = []
        self.sync_ends: list[int] = []
        self.fails: list[int] = []
        self.rewritten: dict[int, list[int]] = {}

    def change(self, at: int, size: int, data: memoryview) -> None:
        if size < self.sizes[-1]:
            for sector in [s for s in self.sectors if s * SECTOR >= size]:
                self.set(at, sector, ZEROS)
        if size != self.sizes[-1]:
            self.size_times.append(at)
            self.sizes.append(size)
        for start in range(0, len(data) - SECTOR - 3, SECTOR + 4):
            number = int.from_bytes(data[start : start + 4], "little")
            self.set(at, number, bytes(data[start + 4 : start + 4 + SECTOR]))

    def set(self, at: int, sector: int, data: bytes) -> None:
        times = self.sector_times.get(sector)
        if times is None:
            self.sector_times[sector], self.sectors[sector] = [at], [data]
        else:
            times.append(at)
            self.sectors[sector].append(data)
        pages = self.page_times.setdefault(sector >> 3, [])
        if not pages or pages[-1] != at:
            pages.append(at)

    def floor(self, moment: int) -> int:
        """From when on nothing is certain, for a cut at this moment."""
        # Ends rise; their begins may not, when two threads sync at once.
        n = bisect_right(self.sync_ends, moment)
        return max(self.sync_begins[:n], default=0)

    def page_floor(self, page: int, moment: int) -> int:
        """The floor of one page. After a failed sync the kernel takes the page for clean, and no sync writes it until it is changed or
        written again."""
        if not self.fails or self.fails[0] > moment:
            return self.floor(moment)
        changes = self.page_times.get(page, [])
        dirtied = sorted([*changes, *self.rewritten.get(page, [])])
        events = [(at, FAIL, at) for at in self.fails] + [(end, END, begin) for begin, end in zip(self.sync_begins, self.sync_ends)]
        floor, forgotten = 0, -1  # when it was forgotten; -1 is never
        for at, kind, begin in sorted(events):
            if at > moment:
                break
            if forgotten >= 0 and bisect_right(dirtied, begin) > bisect_right(dirtied, forgotten):
                forgotten = -1
            if kind == FAIL:
                if bisect_right(dirtied, at) > bisect_right(dirtied, floor):
                    forgotten = at
            elif forgotten < 0:
                floor = max(floor, begin)
        return floor

    def size_at(self, moment: int) -> int:
        n = bisect_right(self.size_times, moment)
        return self.sizes[n - 1] if n else 0

    def sizes_between(self, floor: int, moment: int) -> list[int]:
        """What the size may be: as it was at the floor, or any later one."""
        low, high = bisect_right(self.size_times, floor), bisect_right(self.size_times, moment)
        return [self.size_at(floor), *self.sizes[low:high]]

    def times_between(self, page: int, floor: int, moment: int) -> list[int]:
        """The moments since which the page may be what is on the disk; the floor first."""
        times = self.page_times.get(page)
        if times is None:
            return [floor]
        return [floor, *times[bisect_right(times, floor) : bisect_right(times, moment)]]

    def sector_at(self, sector: int, moment: int) -> bytes:
        times = self.sector_times.get(sector)
        if times is None:
            return ZEROS
        n = bisect_right(times, moment)
        return self.sectors[sector][n - 1] if n else ZEROS

    def page_at(self, page: int, moment: int) -> bytes:
        return b"".join([self.sector_at(sector, moment) for sector in range(page * 8, page * 8 + 8)])


class Directory:
    """One directory: for each name, what it named from some moment on."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.times: dict[str, list[int]] = {}
        self.named: dict[str, list[int]] = {}
        self.sync_begins: list[int] = []
        self.sync_ends: list[int] = []

    floor = File.floor

    def change(self, at: int, name: str, number: int) -> None:
        self.times.setdefault(name, []).append(at)
        self.named.setdefault(name, []).append(number)

    def at(self, name: str, moment: int) -> int:
        n = bisect_right(self.times[name], moment)
        return self.named[name][n - 1] if n else 0

    def between(self, name: str, floor: int, moment: int) -> list[int]:
        """What the name may name: as at the floor, or as after any change since."""
        times = self.times[name]
        return [self.at(name, floor), *self.named[name][bisect_right(times, floor) : bisect_right(times, moment)]]


class History:
    """What one run of a program did to the files below its root, in order."""

    def __init__(self, log: bytes, first: int) -> None:
        self.objects: dict[int, File | Directory] = {}
        self.said: list[tuple[int, list[Any]]] = []
        self.kinds: dict[int, list[int]] = {BEGIN: [], END: [], NAME: [], SAY: []}
        self.first = self.last = first  # when the program began its work
        view, at = memoryview(log), 0
        while at < len(log):
            size, kind, flag, sequence, number, other, value = RECORD.unpack_from(log, at)
            data = view[at + RECORD.size : at + size]
            if kind == OBJECT:
                self.objects[number] = Directory(number) if flag else File(number, sequence)
            elif kind == DATA:
                self.objects[number].change(sequence, value, data)  # type: ignore[arg-type, union-attr, call-arg]
            elif kind == END:
                self.objects[number].sync_begins.append(value)
                self.objects[number].sync_ends.append(sequence)
            elif kind == NAME:
                name = bytes(data).split(b"\0", 1)[0].decode()
                self.objects[number].change(value, name, other)  # type: ignore[arg-type]
            elif kind == FAIL:
                self.objects[number].fails.append(sequence)  # type: ignore[union-attr]
            elif kind == WROTE:
                for page in range(value // PAGE, (value + other - 1) // PAGE + 1):
                    self.objects[number].rewritten.setdefault(page, []).append(sequence)  # type: ignore[union-attr]
            elif kind == SAY:
                self.said.append((sequence, json.loads(bytes(data[:value]))))
            if kind in self.kinds:
                self.kinds[kind].append(sequence)
            self.last = sequence
            at += size

    def said_by(self, moment: int) -> list[list[Any]]:
        return [words for at, words in self.said if at <= moment]

    def moment(self, rng: Any, after: int = 0) -> int:
        """A moment to cut at: anywhere, and more often around syncs, changes of names, and what the program says."""
        low = max(self.first, after)
        kind = rng.choice([None, None, BEGIN, END, NAME, NAME, SAY])
        times = self.kinds[kind] if kind else []
        start, stop = bisect_left(times, low), bisect_right(times, self.last)
        if start < stop:
            return max(low, min(self.last, times[rng.randrange(start, stop)] + rng.choice([-1, 0, 0, 0, 1])))
        return rng.randint(low, self.last)
