/* arrow.h: the three structs of the Arrow C data and C stream interfaces, by which libraries hand columns to one another.
 *
 * Written from the published specification (arrow.apache.org/docs/format/CDataInterface.html and CStreamInterface.html). The
 * guards are those that it asks for, so that this may stand beside another library's copy.
 *
 * Whoever holds a struct whose `release` is not NULL must call it once; afterwards it is NULL, and nothing of the struct is
 * to be looked at. A struct is moved by copying it and setting the `release` of the original to NULL.
 */
#ifndef SEGLOG_ARROW_H
#define SEGLOG_ARROW_H

#include <stdint.h>

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE

#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
    const char *format;             /* the type, as a short word: "l" int64, "vz" binary view, "+s" struct, ... */
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;             /* -1: nobody counted */
    int64_t offset;                 /* items of every buffer to be passed over */
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

#endif

#ifndef ARROW_C_STREAM_INTERFACE
#define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {           /* the callbacks return 0, or an errno; get_next gives a released array at the end */
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

#endif
#endif
