# cython: language_level=3, binding=True
"""Noop: a method that does nothing, with the signature of `Topic.send`: what a call costs, and nothing else; one that copies; bytes out of memory.

Built into build/bench at run time by `contestants`; no part of the package.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.string cimport memcpy


cdef class Noop:
    def send(self, value, key=None, headers=None, *, timestamp=None, partition=None):
        return None


cdef class Copier:
    """Copies what it is sent into memory that is mapped, one behind the other; from the start again at its end."""

    cdef unsigned char[::1] area
    cdef Py_ssize_t at

    def __init__(self, area):
        self.area, self.at = area, 0

    def close(self):
        self.area = None

    def send(self, value, key=None, headers=None, *, timestamp=None, partition=None):
        cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
        if self.at + size > self.area.shape[0]:
            self.at = 0
        memcpy(&self.area[self.at], PyBytes_AS_STRING(value), size)
        self.at += size


def bytes_from(const unsigned char[::1] area, Py_ssize_t start, Py_ssize_t size, Py_ssize_t n):
    """A list of n bytes objects of `size`, made from memory."""
    cdef list made = PyList_New(n)
    cdef Py_ssize_t i
    cdef bytes one
    for i in range(n):
        one = PyBytes_FromStringAndSize(<const char *>&area[start + i * size], size)
        Py_INCREF(one)
        PyList_SET_ITEM(made, i, one)
    return made
