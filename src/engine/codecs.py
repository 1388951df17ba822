"""Codecs: how blobs are squeezed. Each is a package of its own, asked for only when a topic or a batch uses it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from seglog.engine.errors import CodecMissing, ConfigError

NAMES = {"none": 0, "zstd": 1, "lz4": 2}

Squeeze = Callable[[bytes], bytes]
Expand = Callable[[bytes, int], bytes]  # (compressed, raw size) -> raw


def load(name: str) -> tuple[Squeeze, Expand]:
    """The two functions of a codec. Raises CodecMissing, naming the extra, when its package is not installed."""
    if name == "zstd":
        try:
            import zstandard
        except ImportError as error:
            raise _missing(name, "zstandard") from error
        # One (de)compressor per call: they are cheap to make, and must not be shared between threads.
        return (
            lambda raw: zstandard.ZstdCompressor(level=3).compress(raw),
            lambda small, size: _one_frame(zstandard, small, size),
        )
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


def _one_frame(zstandard: Any, small: bytes, size: int) -> bytes:
    """What one Zstandard frame, and nothing behind it, expands to. What it says about its size is not taken for memory unseen."""
    if zstandard.frame_content_size(small) not in (size, -1):
        raise ValueError("the frame says another size")
    raw: bytes = zstandard.ZstdDecompressor().decompress(small, max_output_size=size, allow_extra_data=False)
    return raw


def _missing(name: str, package: str) -> CodecMissing:
    return CodecMissing(
        f"the codec {name} needs the package {package}: pip install 'seglog[{name}]'. The data is intact.",
        extra=name,
        codec=name,
    )
