# cython: language_level=3
"""The checksum as C: what the engine's other modules cimport. It keeps no state and needs no GIL."""

from libc.stdint cimport uint64_t


cdef extern from "xxh3.h" nogil:
    uint64_t xxh3_64 "seglog_xxh3"(const void *data, size_t size) noexcept
    uint64_t xxh3_64_seed "seglog_xxh3_seed"(const void *data, size_t size, uint64_t seed) noexcept

    # By one path of xxh3.h (0 .. XXH3_PATHS - 1), and that path's name: NULL if this host cannot run it. For tests.
    enum:
        XXH3_BEST "SEGLOG_XXH3_BEST"
        XXH3_PATHS "SEGLOG_XXH3_PATHS"
    uint64_t xxh3_64_path "seglog_xxh3_path"(const void *data, size_t size, uint64_t seed, int path) noexcept
    const char *xxh3_64_name "seglog_xxh3_name"(int path) noexcept
