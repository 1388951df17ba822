# json: where in a JSON object the values of wanted fields stand.
from libc.stdint cimport int64_t


cdef enum Token:
    MISSING, IS_NULL, IS_TEXT, IS_NUMBER, IS_TRUE, IS_FALSE, IS_NESTED


cdef struct Slot:                   # of one field
    const char *name                # what is looked for
    int64_t name_size
    Token token
    const char *at                  # of a text without its quotes
    int64_t size
    bint plain                      # a text without escapes; a number without fraction and exponent


cdef bint find_fields(const char *at, const char *end, Slot *slots, int n) noexcept nogil
