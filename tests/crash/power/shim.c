/* The shim: what is guaranteed to be on disk, known from outside the program.  Linux; preloaded into a process.
 *
 * It watches the files below one root.  Whenever a file is about to be synced, before the real call, it compares the file's
 * bytes (read from the page cache, so stores through maps count) with what it saw last and notes each sector that changed;
 * when the call has returned 0, it notes that too.  Names are noted as they change: after each call that may change one, the
 * directory is listed and compared with the list before.  At marks that the program sets (power_say) all files are compared, so
 * that what lay in the cache between two syncs is known as well: any of it may be on disk.
 *
 * The history is one run of records in memory that forked children share, under one mutex; images.py reads it.
 *
 *     power_begin(root)      start anew: all that is there now counts as synced; returns the last sequence number of that
 *     power_say(text, size)  a note of the program, in order with everything else; returns its sequence number
 *     power_settle()         all that is there now is on the disk: as after a boot
 *     power_end()            stop
 *     power_log(&size)       where the records are
 *     power_fail(n)          the n-th sync of a file from now on fails with EIO, and the kernel forgets what was dirty, as Linux does
 *     power_mortal(n)        this process is killed at the n-th place from now on where it syncs or changes a name
 *     power_boot(id)         what /proc/sys/kernel/random/boot_id says from now on
 *     power_options(bits)    1: directory syncs are forgotten; 2: file syncs are forgotten (to see that judges notice);
 *                            4: nothing is compared at marks
 *
 * A record: u32 size (of all, a multiple of 8), u16 kind, u16 flag, u64 sequence, u32 id, u32 other, i64 value; then data.
 *
 *     kind         id        other     value             flag        data
 *     1 OBJECT     its own                               1: directory
 *     2 DATA       file                size now                      u32 sector number and 512 bytes, repeated
 *     3 BEGIN      object                                            (a sync is about to be called)
 *     4 END        object              sequence of BEGIN
 *     5 NAME       directory object    group             1: directory  name; other 0: the name is gone
 *     6 SAY                                                          text
 *     7 FAIL       file                                              (a sync that failed)
 *     8 WROTE      file      bytes     position                      (a write; told only after a sync has failed)
 *
 * NAMEs with one group changed together (a rename).  Syncs that failed have no END.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { OBJECT = 1, DATA, BEGIN, END, NAME, SAY, FAIL, WROTE };
enum { FORGET_DIRECTORIES = 1, FORGET_FILES = 2, NO_MARKS = 4 };
enum { SECTOR = 512, OBJECTS = 65536, NAMES = 65536, NAME_BYTES = 128 };

#define LOG_BYTES (1ull << 30) /* of address space; touched as needed */
#define COPY_BYTES (1ull << 30)
#define CHUNK (1 << 20)

struct record { uint32_t size; uint16_t kind, flag; uint64_t sequence; uint32_t id, other; int64_t value; };
struct object { uint64_t device, inode; uint32_t directory, live; int64_t size, room; char *shadow; };
struct name { uint32_t directory, object, seen; char text[NAME_BYTES]; };

static struct state {
    pthread_mutex_t mutex;
    volatile int active, failed;
    int fail_in;
    unsigned options;
    uint64_t sequence;
    size_t logged, taken; /* of the log, and of the memory behind it */
    uint32_t objects, names;
    char root[PATH_MAX], boot[128];
    size_t root_length;
    struct object object[OBJECTS]; /* by id; 0 is none */
    struct name name[NAMES];
    char chunk[CHUNK];
} *S;
static char *log_at, *memory;
static int mortal; /* of this process alone: how many places until it is killed */

#define FIND(name) ({ static void *at; if (!at) at = dlsym(RTLD_NEXT, name); at; })

static void die(const char *why) {
    fprintf(stderr, "power shim: %s\n", why);
    abort();
}

static void lock(void) {
    if (pthread_mutex_lock(&S->mutex) == EOWNERDEAD) pthread_mutex_consistent(&S->mutex);
}

static void unlock(void) { pthread_mutex_unlock(&S->mutex); }

/* A place where something was done, or is about to be: some processes die here. */
static void place(void) {
    if (mortal && __atomic_sub_fetch(&mortal, 1, __ATOMIC_RELAXED) == 0) kill(getpid(), SIGKILL);
}

/* ---- the history ------------------------------------------------------------------------------------------- */

static struct record *note(int kind, uint32_t id, uint32_t other, int64_t value, size_t data) {
    struct record *r = (struct record *)(log_at + S->logged);
    size_t size = (sizeof *r + data + 7) & ~(size_t)7;
    if (S->logged + size + sizeof *r > LOG_BYTES) die("the history is full");
    memset(r, 0, sizeof *r);
    r->size = size, r->kind = kind, r->sequence = ++S->sequence, r->id = id, r->other = other, r->value = value;
    S->logged += size;
    return r;
}

static void *take(size_t size) {
    void *at = memory + S->taken;
    S->taken += (size + 63) & ~(size_t)63;
    if (S->taken > COPY_BYTES) die("out of memory for copies");
    return at;
}

static uint32_t find(uint64_t device, uint64_t inode) {
    for (uint32_t i = S->objects; i > 0; i--)
        if (S->object[i].inode == inode && S->object[i].device == device && S->object[i].live) return i;
    return 0;
}

static int path_of(uint32_t id, char *path) { /* by the names as they are now */
    uint32_t n;
    if (id == 1) return snprintf(path, PATH_MAX, "%s", S->root), 1;
    for (n = 0; n < S->names; n++)
        if (S->name[n].object == id) {
            if (!path_of(S->name[n].directory, path)) return 0;
            size_t used = strlen(path);
            return snprintf(path + used, PATH_MAX - used, "/%s", S->name[n].text) < (int)(PATH_MAX - used);
        }
    return 0;
}

static int real_open(const char *path, int flags) { return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0); }

/* Note every sector of the file that is not as it was when we last looked. */
static void compare(uint32_t id, const char *path) {
    struct object *o = &S->object[id];
    struct stat status;
    struct record *r;
    size_t start;
    int64_t at = 0, got, i;
    int fd = real_open(path, O_RDONLY);
    if (fd < 0) return;
    if (fstat(fd, &status) != 0 || status.st_ino != o->inode) { close(fd); return; }
    if (status.st_size > o->room) { /* a larger copy; the old one is left lying */
        int64_t room = status.st_size * 2 + 65536;
        char *larger = take(room);
        memset(larger, 0, room);
        if (o->size) memcpy(larger, o->shadow, o->size);
        o->shadow = larger, o->room = room;
    }
    if (status.st_size < o->size) memset(o->shadow + status.st_size, 0, o->size - status.st_size);
    start = S->logged;
    r = note(DATA, id, 0, status.st_size, 0);
    for (; at < status.st_size; at += got) {
        int64_t want = status.st_size - at < CHUNK ? status.st_size - at : CHUNK;
        got = pread(fd, S->chunk, want, at);
        if (got <= 0) die("a file cannot be read");
        if (got != want) die("a file was read in part");
        memset(S->chunk + got, 0, (SECTOR - got % SECTOR) % SECTOR);
        if (memcmp(S->chunk, o->shadow + at, got) == 0) continue;
        for (i = 0; i < got; i += SECTOR)
            if (memcmp(S->chunk + i, o->shadow + at + i, SECTOR)) {
                char *to = log_at + S->logged;
                uint32_t number = (at + i) / SECTOR;
                if (S->logged + SECTOR + 64 > LOG_BYTES) die("the history is full");
                memcpy(to, &number, 4);
                memcpy(to + 4, S->chunk + i, SECTOR);
                memcpy(o->shadow + at + i, S->chunk + i, SECTOR);
                S->logged += 4 + SECTOR;
            }
    }
    close(fd);
    if (S->logged == start + sizeof *r && status.st_size == o->size) { /* nothing new: as if we had not looked */
        S->logged = start, S->sequence--;
        return;
    }
    o->size = status.st_size;
    S->logged = (S->logged + 7) & ~(size_t)7;
    r->size = S->logged - start;
}

static void compare_all(void) {
    char path[PATH_MAX];
    for (uint32_t i = 1; i <= S->objects; i++)
        if (S->object[i].live && !S->object[i].directory && path_of(i, path)) compare(i, path);
}

static void list(uint32_t directory);

static uint32_t object_of(const char *path) {
    struct stat status;
    uint32_t id;
    struct record *r;
    if (lstat(path, &status) != 0) return 0;
    if (!S_ISDIR(status.st_mode) && !S_ISREG(status.st_mode)) return 0;
    id = find(status.st_dev, status.st_ino);
    if (id) return id;
    if (S->objects + 1 >= OBJECTS) die("too many files");
    id = ++S->objects;
    memset(&S->object[id], 0, sizeof S->object[id]);
    S->object[id].device = status.st_dev, S->object[id].inode = status.st_ino;
    S->object[id].directory = S_ISDIR(status.st_mode), S->object[id].live = 1;
    r = note(OBJECT, id, 0, 0, 0);
    r->flag = S->object[id].directory;
    return id;
}

static void note_name(uint32_t directory, uint32_t object, uint64_t group, const char *text) {
    size_t length = strlen(text);
    struct record *r = note(NAME, directory, object, group, length + 1);
    memcpy((char *)(r + 1), text, length + 1);
    r->flag = object && S->object[object].directory;
}

/* List a directory, and note what is new and what is gone.  All of it changed at once. */
static void list(uint32_t directory) {
    char path[PATH_MAX], full[PATH_MAX + 300];
    uint32_t n, object, before = S->objects, after;
    uint64_t group = S->sequence + 1;
    struct dirent *entry;
    DIR *open;
    if (!path_of(directory, path) || !(open = opendir(path))) return;
    for (n = 0; n < S->names; n++)
        if (S->name[n].directory == directory) S->name[n].seen = 0;
    while ((entry = readdir(open))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (strlen(entry->d_name) >= NAME_BYTES) die("a name is too long");
        snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
        object = object_of(full);
        if (!object) continue;
        for (n = 0; n < S->names; n++)
            if (S->name[n].directory == directory && !strcmp(S->name[n].text, entry->d_name)) break;
        if (n < S->names && S->name[n].object == object) { S->name[n].seen = 1; continue; }
        if (n == S->names) { /* a free row, or a new one */
            for (n = 0; n < S->names && S->name[n].object; n++) {}
            if (n == S->names && ++S->names > NAMES) die("too many names");
        }
        S->name[n].directory = directory, S->name[n].object = object, S->name[n].seen = 1;
        strcpy(S->name[n].text, entry->d_name);
        note_name(directory, object, group, entry->d_name);
    }
    closedir(open);
    for (n = 0; n < S->names; n++)
        if (S->name[n].object && S->name[n].directory == directory && !S->name[n].seen) {
            note_name(directory, 0, group, S->name[n].text);
            S->name[n].object = S->name[n].directory = 0;
        }
    /* An inode without a name may come back as another file. */
    for (object = 2; object <= S->objects; object++) {
        if (!S->object[object].live) continue;
        for (n = 0; n < S->names && S->name[n].object != object; n++) {}
        if (n == S->names) S->object[object].live = 0;
    }
    for (object = before + 1, after = S->objects; object <= after; object++) { /* those that came */
        if (S->object[object].directory) list(object);
        else if (path_of(object, full)) compare(object, full);
    }
}

/* The directory object that holds `path`, when it lies below the root. */
static uint32_t holder(const char *path) {
    char above[PATH_MAX];
    struct stat status;
    char *slash;
    if (strncmp(path, S->root, S->root_length) || path[S->root_length] != '/') return 0;
    snprintf(above, sizeof above, "%s", path);
    slash = strrchr(above, '/');
    *slash = 0;
    return stat(above, &status) == 0 ? find(status.st_dev, status.st_ino) : 0;
}

static int absolute(int dirfd, const char *path, char *to) { /* 1: lies below the root */
    char link[64];
    ssize_t used = 0;
    if (!S || !S->active || !path) return 0;
    if (path[0] != '/') {
        if (dirfd == AT_FDCWD) {
            if (!getcwd(to, PATH_MAX)) return 0;
            used = strlen(to);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
            used = readlink(link, to, PATH_MAX - 1);
            if (used < 0) return 0;
        }
        to[used++] = '/';
    }
    if (snprintf(to + used, PATH_MAX - used, "%s", path) >= PATH_MAX - used) return 0;
    return strncmp(to, S->root, S->root_length) == 0 && to[S->root_length] == '/';
}

/* ---- what the program calls ---------------------------------------------------------------------------------- */

__attribute__((constructor)) static void start(void) {
    pthread_mutexattr_t how;
    size_t own = (sizeof *S + 4095) & ~(size_t)4095;
    char *at = mmap(NULL, own + LOG_BYTES + COPY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) die("no memory");
    S = (struct state *)at, log_at = at + own, memory = log_at + LOG_BYTES;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&S->mutex, &how);
}

uint64_t power_begin(const char *root) {
    uint64_t first;
    uint32_t i;
    lock();
    if (S->logged + S->taken > 256u << 20) { /* give back what a large run took */
        madvise(log_at, S->logged & ~(size_t)4095, MADV_REMOVE);
        madvise(memory, S->taken & ~(size_t)4095, MADV_REMOVE);
    }
    S->logged = S->taken = 0, S->sequence = 0, S->objects = S->names = 0, S->failed = S->fail_in = 0;
    snprintf(S->root, sizeof S->root, "%s", root);
    S->root_length = strlen(S->root);
    if (object_of(S->root) != 1) die("the root is not there");
    list(1);
    for (i = 1; i <= S->objects; i++) {
        uint64_t begun = note(BEGIN, i, 0, 0, 0)->sequence;
        note(END, i, 0, begun, 0);
    }
    S->active = 1;
    first = S->sequence;
    unlock();
    return first;
}

void power_settle(void) {
    uint32_t i;
    if (!S->active) return;
    lock();
    compare_all();
    for (i = 1; i <= S->objects; i++)
        if (S->object[i].live) {
            uint64_t begun = note(BEGIN, i, 0, 0, 0)->sequence;
            note(END, i, 0, begun, 0);
        }
    unlock();
}

void power_end(void) {
    lock();
    S->active = 0;
    unlock();
}

uint64_t power_say(const char *text, size_t size) {
    uint64_t sequence;
    struct record *r;
    if (!S->active) return 0;
    lock();
    if (!(S->options & NO_MARKS)) compare_all();
    r = note(SAY, 0, 0, size, size);
    memcpy((char *)(r + 1), text, size);
    sequence = r->sequence;
    unlock();
    return sequence;
}

void power_options(unsigned options) { S->options = options; }

const char *power_log(size_t *size) {
    *size = S->logged;
    return log_at;
}

void power_fail(int n) { S->fail_in = n; }
void power_mortal(int n) { mortal = n; }
void power_boot(const char *id) { snprintf(S->boot, sizeof S->boot, "%s\n", id); }

/* ---- syncs ------------------------------------------------------------------------------------------------- */

static uint64_t sync_begin(uint64_t device, uint64_t inode, uint32_t *id) {
    char path[PATH_MAX];
    uint64_t begun = 0;
    int was = errno;
    lock();
    *id = find(device, inode);
    if (*id) {
        if (!S->object[*id].directory && path_of(*id, path)) compare(*id, path);
        begun = note(BEGIN, *id, 0, 0, 0)->sequence;
    }
    unlock();
    errno = was;
    return begun;
}

static void sync_end(uint32_t id, uint64_t begun) {
    int was = errno;
    lock();
    if (!(S->options & (S->object[id].directory ? FORGET_DIRECTORIES : FORGET_FILES))) note(END, id, 0, begun, 0);
    unlock();
    errno = was;
}

static int synced(int fd, int (*real)(int)) {
    struct stat status;
    uint64_t begun = 0;
    uint32_t id = 0;
    int rc;
    if (S && S->active && fstat(fd, &status) == 0) begun = sync_begin(status.st_dev, status.st_ino, &id);
    if (begun) {
        place();
        if (S->fail_in && !S->object[id].directory && __atomic_sub_fetch(&S->fail_in, 1, __ATOMIC_RELAXED) == 0) {
            lock();
            note(FAIL, id, 0, begun, 0);
            S->failed = 1;
            unlock();
            errno = EIO;
            return -1;
        }
    }
    rc = real(fd);
    if (rc == 0 && begun) {
        sync_end(id, begun);
        place();
    }
    return rc;
}

/* After a failed sync the kernel calls pages clean that the disk never saw; only what is written again is dirty again. */
static ssize_t wrote(int fd, ssize_t size, off_t position) {
    struct stat status;
    uint32_t id;
    int was = errno;
    if (size <= 0 || !S || !S->active || !S->failed || fstat(fd, &status) != 0) return size;
    if (position < 0) position = lseek(fd, 0, SEEK_CUR) - size;
    lock();
    if ((id = find(status.st_dev, status.st_ino))) note(WROTE, id, size, position, 0);
    unlock();
    errno = was;
    return size;
}

ssize_t write(int fd, const void *data, size_t size) { return wrote(fd, syscall(SYS_write, fd, data, size), -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { return wrote(fd, syscall(SYS_pwrite64, fd, data, size, at), at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off_t at) { return pwrite(fd, data, size, at); }

int fsync(int fd) { return synced(fd, FIND("fsync")); }
int fdatasync(int fd) { return synced(fd, FIND("fdatasync")); }

int msync(void *address, size_t length, int flags) {
    int (*real)(void *, size_t, int) = FIND("msync");
    char line[PATH_MAX + 128];
    unsigned long low, high, offset, major, minor, inode;
    uint64_t begun = 0;
    uint32_t id = 0;
    int rc;
    FILE *maps;
    if (S && S->active && flags & MS_SYNC && (maps = fopen("/proc/self/maps", "re"))) {
        while (fgets(line, sizeof line, maps)) {
            if (sscanf(line, "%lx-%lx %*s %lx %lx:%lx %lu", &low, &high, &offset, &major, &minor, &inode) != 6) continue;
            if ((unsigned long)address < low || (unsigned long)address >= high) continue;
            /* Only a sync of the whole map, from the file's start, counts; less proves less. */
            if (inode && offset == 0 && (unsigned long)address == low && (unsigned long)address + length + 4095 >= high)
                begun = sync_begin(makedev(major, minor), inode, &id);
            break;
        }
        fclose(maps);
        if (begun && (int64_t)(high - low) < S->object[id].size) begun = 0;
    }
    rc = real(address, length, flags);
    if (rc == 0 && begun) sync_end(id, begun);
    return rc;
}

/* ---- names -------------------------------------------------------------------------------------------------- */

static int changed(const char *path, const char *other) { /* with the mutex held, after the real call */
    int was = errno;
    uint32_t one = path ? holder(path) : 0, two = other ? holder(other) : 0;
    if (one) list(one);
    if (two && two != one) list(two);
    errno = was;
    return 0;
}

static int opened(int dirfd, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    struct stat status;
    uint32_t id;
    int fd, was;
    if (S && S->boot[0] && path && !strcmp(path, "/proc/sys/kernel/random/boot_id")) {
        fd = memfd_create("boot_id", flags & O_CLOEXEC ? MFD_CLOEXEC : 0);
        if (fd >= 0 && (write(fd, S->boot, strlen(S->boot)) < 0 || lseek(fd, 0, SEEK_SET) < 0)) die("cannot pretend a boot");
        return fd;
    }
    if (!(flags & (O_CREAT | O_TRUNC)) || !absolute(dirfd, path, full)) return syscall(SYS_openat, dirfd, path, flags, mode);
    place();
    lock();
    fd = syscall(SYS_openat, dirfd, path, flags, mode);
    was = errno;
    if (fd >= 0) {
        changed(full, NULL);
        if (flags & O_TRUNC && fstat(fd, &status) == 0 && (id = find(status.st_dev, status.st_ino))) compare(id, full);
    }
    unlock();
    place();
    errno = was;
    return fd;
}

#define MODE(flags, mode) \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

int open(const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(dirfd, path, flags | O_LARGEFILE, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

#define CHANGING(one, other, call) \
    char first[PATH_MAX], second[PATH_MAX]; \
    int a = (one), b = (other), rc; \
    (void)first, (void)second; \
    if (!a && !b) return (call); \
    place(); \
    lock(); \
    rc = (call); \
    if (rc == 0) changed(a ? first : NULL, b ? second : NULL); \
    unlock(); \
    place(); \
    return rc

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    CHANGING(absolute(from, old, first), absolute(to, new, second), syscall(SYS_renameat2, from, old, to, new, flags));
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int unlinkat(int dirfd, const char *path, int flags) {
    CHANGING(absolute(dirfd, path, first), 0, syscall(SYS_unlinkat, dirfd, path, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int dirfd, const char *path, mode_t mode) {
    CHANGING(absolute(dirfd, path, first), 0, syscall(SYS_mkdirat, dirfd, path, mode));
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    CHANGING(0, absolute(to, new, second), syscall(SYS_linkat, from, old, to, new, flags));
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
