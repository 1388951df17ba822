"""Images: what the disk may hold after a power cut, built from a history, one of very many.

Nothing is believed of a file system but what POSIX says of fsync. For each page that changed since its file's last sync: the page
as it was then, or as it was at any moment since, and within it each sector of 512 bytes on its own. For each size the same. For names there are two models:

    ordered   as ext4's journal has it: names and sizes are those of one moment, not before the last sync of each directory and file
    bare      as POSIX has it: each name and each size is on its own, old or any since; both names of a rename may be there, or neither

A file whose name is there and which was never synced may so be empty, short, or full of zeros; and (seldom) hold what was on these blocks before.

Transient files (shared memory, locks) are whatever they like: as the models say, gone, or garbage; indexes too.
"""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

from .history import PAGE, SECTOR, Directory, File, History

TRANSIENT = ("shm", "tail.shm", "create.lock", "lock")


class Taste(NamedTuple):
    """How one image leans; drawn anew for each, so that extremes come as well as mixtures."""

    model: str  # "ordered" or "bare"
    newest: float  # how often a page that may be old is as new as can be
    oldest: float  # how often as old as can be; what is left is from in between
    torn: float  # how often the sectors of a page are not of one moment
    name_new: float  # how often a name is as new as can be
    size_new: float
    stale: bool  # pages that were never written may hold what another file had

    @classmethod
    def draw(cls, rng: random.Random) -> Taste:
        newest, oldest = rng.choice(
            [(0, 1), (1, 0), (0.5, 0.5), (0.9, 0.1), (0.1, 0.9), (0.4, 0.3), (0.95, 0.03), (0, 0)]
        )
        return cls(
            model=rng.choice(["ordered", "bare"]),
            newest=newest,
            oldest=oldest,
            torn=rng.choice([0, 0, 0.1, 0.5, 1]),
            name_new=rng.choice([0, 0.5, 0.5, 0.9, 1]),
            size_new=rng.choice([0.3, 0.9, 1]),
            stale=rng.random() < 0.04,
        )


class Image:
    """One image: `write` lays it out as files; `notes` says what was chosen; `transient` is how transient files are treated."""

    def __init__(self, history: History, moment: int, rng: random.Random) -> None:
        self.history, self.moment, self.rng = history, moment, rng
        self.taste = Taste.draw(rng)
        self.transient = rng.choice(["cache", "gone", "garbage", "mixed"])
        self.ordered_at = moment
        if self.taste.model == "ordered" and rng.random() > self.taste.name_new * 0.5:
            floors = [o.floor(moment) for o in history.objects.values()]
            self.ordered_at = rng.randint(min(floors), moment)
        self.notes: list[str] = [f"cut at {moment} of {history.last}, {self.taste}, names as at {self.ordered_at}"]
        self.old_pages = self.old_names = 0  # what is not the newest
        self._pool: list[bytes] = []

    def write(self, to: str) -> None:
        os.makedirs(to)
        self._directory(1, to, {})

    # ---- names ------------------------------------------------------------------------------------------------

    def _directory(self, number: int, path: str, placed: dict[int, str]) -> None:
        directory = self.history.objects[number]
        assert isinstance(directory, Directory)
        floor = directory.floor(self.moment)
        for name in directory.times:
            named = self._named(directory, name, floor)
            if not named:
                continue
            what, where = self.history.objects[named], os.path.join(path, name)
            if isinstance(what, Directory):
                if named not in placed:  # never by two names
                    placed[named] = where
                    os.mkdir(where)
                    self._directory(named, where, placed)
            elif named in placed:
                os.link(placed[named], where)
            else:
                data = self._content(what, name)
                if data is not None:
                    placed[named] = where
                    fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                    try:
                        os.write(fd, data)
                    finally:
                        os.close(fd)

    def _named(self, directory: Directory, name: str, floor: int) -> int:
        if self.taste.model == "ordered":
            chosen = directory.at(name, max(floor, self.ordered_at))
        else:
            choices = directory.between(name, floor, self.moment)
            chosen = (
                choices[-1]
                if len(choices) == 1 or self.rng.random() < self.taste.name_new
                else self.rng.choice(choices[:-1])
            )
        if chosen != directory.at(name, self.moment):
            self.old_names += 1
            self.notes.append(f"{name}: object {chosen} rather than {directory.at(name, self.moment)}")
        return chosen

    # ---- bytes ------------------------------------------------------------------------------------------------

    def _content(self, file: File, name: str) -> bytes | None:
        """The bytes of a file; None when it is not there at all."""
        transient = name in TRANSIENT or name.startswith(("lock.", "groups-"))
        if transient or name.endswith(".idx"):
            how = self.transient
            if how == "mixed" or not transient:
                how = self.rng.choice(
                    ["cache", "gone", "garbage"] if transient else ["cache"] * 8 + ["gone", "garbage"]
                )
            if how == "gone":
                return None
            if how == "garbage":
                self.notes.append(f"{name}: garbage")
                return self.rng.randbytes(self.rng.choice([0, 100, file.size_at(self.moment)]))
        floor = file.floor(self.moment)
        size = self._size(file, floor, name)
        data = bytearray(size)
        rng, taste = self.rng, self.taste
        chosen = []
        for page in range((size + PAGE - 1) // PAGE):
            times = file.times_between(page, file.page_floor(page, self.moment), self.moment)
            if len(times) > 1 and taste.torn and rng.random() < taste.torn:
                bytes_ = b"".join(file.sector_at(page * 8 + i, self._one(times)) for i in range(8))
                chosen.append(f"{page} torn")
                self.old_pages += 1
            else:
                at = self._one(times)
                if at != times[-1]:
                    chosen.append(f"{page} as at {at}")
                    self.old_pages += 1
                bytes_ = file.page_at(page, at) if page in file.page_times else b""
            if taste.stale and page * PAGE >= file.size_at(floor) and not bytes_.strip(b"\0") and rng.random() < 0.5:
                bytes_ = self._stale()
                chosen.append(f"{page} stale")
            if bytes_:
                data[page * PAGE : page * PAGE + len(bytes_)] = bytes_
        if chosen:
            self.notes.append(f"{name} ({file.number}, floor {floor}): pages {', '.join(chosen)}")
        return bytes(data[:size])

    def _one(self, times: list[int]) -> int:
        """One of these moments, as the image leans."""
        if len(times) == 1:
            return times[0]
        dice = self.rng.random()
        if dice < self.taste.newest:
            return times[-1]
        if dice < self.taste.newest + self.taste.oldest:
            return times[0]
        return self.rng.choice(times)

    def _size(self, file: File, floor: int, name: str) -> int:
        if self.taste.model == "ordered":
            size = file.size_at(max(floor, self.ordered_at))
        else:
            sizes = file.sizes_between(floor, self.moment)
            size = sizes[-1] if len(sizes) == 1 or self.rng.random() < self.taste.size_new else self.rng.choice(sizes)
        if size != file.size_at(self.moment):
            self.notes.append(f"{name} ({file.number}): {size} bytes rather than {file.size_at(self.moment)}")
        return size

    def _stale(self) -> bytes:
        """A page that some file has or had."""
        if not self._pool:
            files: list[Any] = [o for o in self.history.objects.values() if isinstance(o, File)]
            self._pool = [file.page_at(page, self.moment) for file in files for page in list(file.page_times)[:40]] or [
                b"\xff" * PAGE
            ]
        return self.rng.choice(self._pool)


assert PAGE % SECTOR == 0
