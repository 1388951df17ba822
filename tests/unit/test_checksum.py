"""The checksum is XXH3-64, bit for bit: the same number as the xxhash package, whatever the length, the seed, the path
through xxh3.h and the place in memory.

Where numbers are random, their seed is printed; SEGLOG_TEST_SEED repeats a run.
"""

import array
import doctest
import mmap
import os
import random
import sys
import threading

import numpy as np
import pytest
import xxhash

from seglog.engine import checksum
from seglog.engine.checksum import paths, xxh3, xxh3_path

MIB = 1 << 20
SEED_MAX = 2**64 - 1

# Every length up to here: the four ranges of short inputs (they end at 16, 128 and 240), and long ones of up to
# four blocks of 1024 bytes, each with every length of a last, incomplete stripe.
LENGTH_MAX = 4096


@pytest.fixture
def rng():
    seed = int(os.environ.get("SEGLOG_TEST_SEED", random.randrange(2**32)))
    print(f"SEGLOG_TEST_SEED={seed}")
    return random.Random(seed)


def seeds(rng):
    """The ends of the range, both sides of its middle, and some from within."""
    return [0, 1, 2**32 - 1, 2**63 - 1, 2**63 + 12345, SEED_MAX, rng.getrandbits(64), rng.getrandbits(64)]


def expected(data, seed=0):
    return xxhash.xxh3_64_intdigest(data, seed)


# -- the number ----------------------------------------------------------------------------------------------------


def test_the_hash_of_nothing_is_the_published_one():
    assert xxh3(b"") == 0x2D06800538D394C2


def test_every_host_has_the_portable_path_and_names_no_path_twice():
    assert paths()[0] == "portable"
    assert len(set(paths())) == len(paths())


@pytest.mark.parametrize("path", paths())
def test_every_short_length_equals_xxhash_on_every_path(path, rng):
    data = rng.randbytes(LENGTH_MAX)
    for seed in seeds(rng):
        wrong = [n for n in range(LENGTH_MAX + 1) if xxh3_path(data[:n], seed, path) != expected(data[:n], seed)]
        assert wrong == [], f"seed {seed:#x}"


def test_every_short_length_equals_xxhash_by_the_path_the_host_chooses(rng):
    data = rng.randbytes(LENGTH_MAX)
    for seed in seeds(rng):
        wrong = [n for n in range(LENGTH_MAX + 1) if xxh3(data[:n], seed) != expected(data[:n], seed)]
        assert wrong == [], f"seed {seed:#x}"


@pytest.mark.parametrize("path", paths())
@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x80\x00\x00\x00\x00\x00\x00\x00"])
def test_monotonous_bytes_equal_xxhash(path, fill):
    data = fill * (LENGTH_MAX // len(fill))
    for size in range(0, LENGTH_MAX + 1, 7):
        assert xxh3_path(data[:size], 0, path) == expected(data[:size])


@pytest.mark.parametrize("path", paths())
def test_lengths_around_a_mebibyte_equal_xxhash(path, rng):
    """Where the GIL is let go, and where the last block of 1024 bytes is full, empty, or one byte long."""
    data = memoryview(rng.randbytes(MIB + 2048))
    seed = rng.getrandbits(64)
    for size in [*range(MIB - 1100, MIB + 1100, 13), MIB - 1, MIB, MIB + 1, MIB + 1023, MIB + 1024, MIB + 1025]:
        assert xxh3_path(data[:size], seed, path) == expected(data[:size], seed), size


@pytest.mark.parametrize("path", paths())
def test_large_inputs_equal_xxhash(path, rng):
    data = memoryview(rng.randbytes(64 * MIB))
    for size in [64 * MIB, 64 * MIB - 1, *(rng.randrange(MIB, 64 * MIB) for _ in range(4))]:
        for seed in (0, rng.getrandbits(64)):
            assert xxh3_path(data[:size], seed, path) == expected(data[:size], seed), (size, seed)


@pytest.mark.parametrize("path", paths())
def test_the_place_in_memory_does_not_matter(path, rng):
    data = memoryview(rng.randbytes(LENGTH_MAX + 128))
    for size in (0, 1, 3, 4, 8, 9, 16, 17, 56, 100, 128, 129, 240, 241, 1024, 1025, 4000):
        for start in range(65):
            piece = data[start : start + size]
            assert xxh3_path(piece, 5, path) == expected(bytes(piece), 5), (size, start)


@pytest.mark.parametrize("path", paths())
def test_any_flipped_bit_changes_the_hash(path, rng):
    data = bytearray(rng.randbytes(1200))
    for size in (1, 8, 16, 56, 128, 240, 1200):
        before = xxh3_path(memoryview(data)[:size], 0, path)
        for bit in range(size * 8):
            data[bit >> 3] ^= 1 << (bit & 7)
            assert xxh3_path(memoryview(data)[:size], 0, path) != before, (size, bit)
            data[bit >> 3] ^= 1 << (bit & 7)


# -- what may be hashed --------------------------------------------------------------------------------------------


def test_anything_with_contiguous_bytes_is_hashed_where_it_lies(rng):
    class Named(bytes):
        pass

    data = rng.randbytes(4096)
    with mmap.mmap(-1, 4096) as mapped:
        mapped[:] = data
        for thing in (
            Named(data),
            bytearray(data),
            memoryview(data),
            memoryview(data).cast("d"),
            array.array("q", data),
            np.frombuffer(data, np.uint16).reshape(2, 64, 16),
            mapped,
        ):
            assert xxh3(thing) == xxh3(thing, 0) == expected(data), type(thing)
            assert xxh3(thing, seed=9) == expected(data, 9), type(thing)


def test_a_buffer_is_let_go_after_the_hash():
    data = bytearray(b"seglog")
    xxh3(data)
    data += b" grows, which a pinned bytearray refuses"


@pytest.mark.parametrize("thing", ["text", 7, None, [1, 2], 1.5])
def test_what_has_no_bytes_is_a_type_error(thing):
    with pytest.raises(TypeError):
        xxh3(thing)
    with pytest.raises(TypeError):
        xxh3_path(thing, 0, "portable")


@pytest.mark.parametrize("thing", [memoryview(b"seglog")[::2], memoryview(b"seglog")[::-1], np.zeros((4, 4))[:, 1]])
def test_memory_with_gaps_is_refused(thing):
    with pytest.raises((BufferError, ValueError)):
        xxh3(thing)


def test_a_released_memoryview_is_refused():
    view = memoryview(b"seglog")
    view.release()
    with pytest.raises(ValueError, match="released"):
        xxh3(view)


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**64, 2**70])
def test_a_seed_out_of_range_is_an_overflow_error(seed):
    with pytest.raises(OverflowError):
        xxh3(b"seglog", seed)
    with pytest.raises(OverflowError):
        xxh3_path(b"seglog", seed, "portable")


@pytest.mark.parametrize("seed", ["1", 1.5, None])
def test_a_seed_that_is_no_integer_is_a_type_error(seed):
    with pytest.raises(TypeError):
        xxh3(b"seglog", seed)


def test_an_unknown_path_is_a_value_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="'mmx'.*portable"):
        xxh3_path(b"seglog", 0, "mmx")


# -- how it behaves ------------------------------------------------------------------------------------------------


def test_other_threads_run_during_a_long_hash():
    """With a switch interval of an hour, the GIL passes only to someone it was given to."""
    data = bytes(64 * MIB)
    ran, go = [], threading.Semaphore(0)

    def waiter():
        while True:
            go.acquire()
            ran.append(True)

    threading.Thread(target=waiter, daemon=True).start()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    try:
        for _ in range(20):
            go.release()
            xxh3(data)
            if ran:
                break
        assert ran
    finally:
        sys.setswitchinterval(interval)


def test_the_examples_in_the_docstrings_run():
    failed, tried = doctest.testmod(checksum)
    assert tried > 0
    assert failed == 0
