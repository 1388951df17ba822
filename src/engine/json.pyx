# cython: language_level=3, freethreading_compatible=True, embedsignature=True, auto_pickle=False, boundscheck=True, wraparound=True
"""JSON: where in an object the values of wanted fields stand, found in one pass that makes nothing.

It promises less than a parser and no more: True means that the bytes are one JSON object (RFC 8259; that it is UTF-8 is
left to who asks), and each slot says what its field has, the last time it is named. False means: ask a parser, which knows better, or tells
what is wrong. Objects and arrays within are gone through up to a depth of 32. No byte behind `end` is looked at.
"""
from libc.stdint cimport int64_t
from libc.string cimport memcmp

cdef enum:
    DEPTH = 32


cdef inline const char *blank(const char *at, const char *end) noexcept nogil:
    while at < end and (at[0] == c" " or at[0] == c"\n" or at[0] == c"\t" or at[0] == c"\r"):
        at += 1
    return at


cdef inline bint is_digit(const char *at, const char *end) noexcept nogil:
    return at < end and c"0" <= at[0] <= c"9"


cdef const char *text(const char *at, const char *end, bint *plain) noexcept nogil:
    """`at` stands behind the opening quote; the closing one, or NULL."""
    cdef int i
    plain[0] = True
    while at < end:
        if at[0] == c'"':
            return at
        if <unsigned char>at[0] < 0x20:
            return NULL
        if at[0] == c"\\":
            plain[0] = False
            at += 1
            if at >= end:
                return NULL
            if at[0] == c"u":
                for i in range(4):
                    at += 1
                    if at >= end or not (c"0" <= at[0] <= c"9" or c"a" <= at[0] <= c"f" or c"A" <= at[0] <= c"F"):
                        return NULL
            elif not (at[0] == c'"' or at[0] == c"\\" or at[0] == c"/" or at[0] == c"b" or at[0] == c"f" or at[0] == c"n"
                      or at[0] == c"r" or at[0] == c"t"):
                return NULL
        at += 1
    return NULL


cdef const char *number(const char *at, const char *end, bint *plain) noexcept nogil:
    """Behind the number that begins at `at`, or NULL."""
    plain[0] = True
    if at < end and at[0] == c"-":
        at += 1
    if not is_digit(at, end):
        return NULL
    if at[0] == c"0":
        at += 1
    else:
        while is_digit(at, end):
            at += 1
    if at < end and at[0] == c".":
        plain[0] = False
        at += 1
        if not is_digit(at, end):
            return NULL
        while is_digit(at, end):
            at += 1
    if at < end and (at[0] == c"e" or at[0] == c"E"):
        plain[0] = False
        at += 1
        if at < end and (at[0] == c"+" or at[0] == c"-"):
            at += 1
        if not is_digit(at, end):
            return NULL
        while is_digit(at, end):
            at += 1
    return at


cdef const char *word(const char *at, const char *end, const char *wanted, int64_t size) noexcept nogil:
    return at + size if end - at >= size and memcmp(at, wanted, size) == 0 else NULL


cdef const char *value(const char *at, const char *end, Slot *slot, int depth) noexcept nogil:
    """Behind the value that begins at `at`, which `slot` then tells of; NULL when it is none, or too deep."""
    cdef const char *stop
    cdef Slot inner
    if at >= end or depth > DEPTH:
        return NULL
    if at[0] == c'"':
        stop = text(at + 1, end, &slot.plain)
        if stop == NULL:
            return NULL
        slot.token, slot.at, slot.size = IS_TEXT, at + 1, stop - at - 1
        return stop + 1
    if at[0] == c"-" or c"0" <= at[0] <= c"9":
        stop = number(at, end, &slot.plain)
        if stop != NULL:
            slot.token, slot.at, slot.size = IS_NUMBER, at, stop - at
        return stop
    if at[0] == c"t":
        slot.token = IS_TRUE
        return word(at, end, b"true", 4)
    if at[0] == c"f":
        slot.token = IS_FALSE
        return word(at, end, b"false", 5)
    if at[0] == c"n":
        slot.token = IS_NULL
        return word(at, end, b"null", 4)
    slot.token = IS_NESTED
    if at[0] == c"{":
        return members(at + 1, end, NULL, 0, depth + 1)
    if at[0] != c"[":
        return NULL
    at = blank(at + 1, end)
    if at < end and at[0] == c"]":
        return at + 1
    while True:
        at = value(blank(at, end), end, &inner, depth + 1)
        if at == NULL:
            return NULL
        at = blank(at, end)
        if at >= end or (at[0] != c"," and at[0] != c"]"):
            return NULL
        at += 1
        if at[-1] == c"]":
            return at


cdef const char *members(const char *at, const char *end, Slot *slots, int n, int depth) noexcept nogil:
    """Behind the object whose brace stands before `at`, or NULL."""
    cdef const char *stop
    cdef bint plain
    cdef Slot passed
    cdef Slot *slot
    cdef int i, following = 0
    at = blank(at, end)
    if at < end and at[0] == c"}":
        return at + 1
    while True:
        at = blank(at, end)
        if at >= end or at[0] != c'"':
            return NULL
        stop = text(at + 1, end, &plain)
        if stop == NULL or (not plain and n):
            return NULL             # a name with escapes may be any name
        slot = &passed
        for i in range(n):
            # Objects of one kind name their fields in one order: look behind the last one first.
            if slots[following].name_size == stop - at - 1 and memcmp(slots[following].name, at + 1, stop - at - 1) == 0:
                slot = &slots[following]
                following = (following + 1) % n
                break
            following = (following + 1) % n
        at = blank(stop + 1, end)
        if at >= end or at[0] != c":":
            return NULL
        at = value(blank(at + 1, end), end, slot, depth)
        if at == NULL:
            return NULL
        at = blank(at, end)
        if at >= end or (at[0] != c"," and at[0] != c"}"):
            return NULL
        at += 1
        if at[-1] == c"}":
            return at


cdef bint find_fields(const char *at, const char *end, Slot *slots, int n) noexcept nogil:
    """Whether the bytes from `at` to `end` are a JSON object; each slot then tells what its field has."""
    cdef int i
    for i in range(n):
        slots[i].token = MISSING
    at = blank(at, end)
    if at >= end or at[0] != c"{":
        return False
    at = members(at + 1, end, slots, n, 1)
    return at != NULL and blank(at, end) == end
