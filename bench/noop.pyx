# cython: language_level=3, binding=True
"""Noop: a method that does nothing, with the signature of `Topic.send`. What a call costs, and nothing else.

Built into build/bench at run time by `contestants.noop_send`; no part of the package.
"""


cdef class Noop:
    def send(self, value, key=None, headers=None, *, timestamp=None, partition=None):
        return None
