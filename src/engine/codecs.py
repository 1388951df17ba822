"""Codecs: how blobs are squeezed. Each is a package of its own, asked for only when a topic or a batch uses it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from seglog.engine.errors import CodecMissing, ConfigError

NAMES = {"none": 0, "zstd": 1, "lz4": 2}

Blob = bytes | memoryview
Squeeze = Callable[[Blob], bytes]
Expand = Callable[[Blob, int], bytes]  # (compressed, raw size) -> raw


def load(name: str) -> tuple[Squeeze, Expand]:
    """The two functions of a codec. Raises CodecMissing, naming the extra, when its package is not installed."""
    if name == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise _missing(name, "zstandard") from error

        class Own(threading.local):
            """One of each for each thread: they must not be shared, and to make one costs more than to squeeze a kilobyte."""

            def __init__(self) -> None:
                self.squeeze = zstandard.ZstdCompressor(level=3).compress
                self.expand = zstandard.ZstdDecompressor().decompress

        own, told = Own(), zstandard.frame_content_size

        def expand(small: Blob, size: int) -> bytes:
            """What one Zstandard frame, and nothing behind it, is. What it says about its size is not taken for memory unseen."""
            if told(small) not in (size, -1):
                raise ValueError("the frame says another size")
            raw: bytes = own.expand(small, max_output_size=size, allow_extra_data=False)
            return raw

        return lambda raw: own.squeeze(raw), expand
    if name == "lz4":
        try:
            import lz4.block
        except ImportError as error:
            raise _missing(name, "lz4") from error
        return (
            lambda raw: lz4.block.compress(raw, store_size=False),
            lambda small, size: lz4.block.decompress(small, uncompressed_size=size),
        )
    raise ConfigError(f"there is no codec {name!r}; choose one of {', '.join(NAMES)}", setting="codec", value=name)


def _missing(name: str, package: str) -> CodecMissing:
    return CodecMissing(
        f"the codec {name} needs the package {package}: pip install 'seglog[{name}]'. The data is intact.",
        extra=name,
        codec=name,
    )
