/* Faults: a preloaded library that makes the n-th call of a kind fail, of those that are about files under one directory.
 *
 *     faults_root(path)                     the directory; nothing fails outside it
 *     faults_arm(kind, n, errno, forever)   the n-th call from now on fails (n = 0: none, they are only counted); `forever`: so do all that follow.
 *                                           errno -1: read and write do half of what they were asked for
 *     faults_count(kind)                    how many there were since
 *     faults_fired()                        how many failed since
 *     faults_window(open)                   memory is only counted, and refused, while this is open
 *     faults_code(kind, from, to)           who asks for it from here, asks for memory of this kind
 *
 * A call that fails does nothing, as if the kernel had refused it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPEN, READ, WRITE, ALLOCATE, MAP, POPULATE, TRUNCATE, FSYNC, RENAME, UNLINK, MKDIR, LIST, STAT, LOCK, MSYNC, ENGINE, PYTHON, KINDS };

static char root[PATH_MAX];
static size_t root_length;
static int wanted = -1, at, number, forever, fired, counts[KINDS];

void faults_root(const char *path) { snprintf(root, sizeof root, "%s", path), root_length = strlen(root); }
void faults_arm(int kind, int n, int error, int always) {
    memset(counts, 0, sizeof counts);
    wanted = kind, at = n, number = error, forever = always, fired = 0;
}
int faults_count(int kind) { return counts[kind]; }
int faults_fired(void) { return fired; }

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })

static int inside(const char *path) {
    return root_length && path && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static int ours(int fd) {
    char link[64], path[PATH_MAX];
    ssize_t n;
    int was = errno;
    if (!root_length || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    n = readlink(link, path, sizeof path - 1);
    errno = was;
    return n > 0 && (path[n] = 0, inside(path));
}

static int relative(int dirfd, const char *path) { /* paths here are absolute, or beside a descriptor */
    return path && path[0] == '/' ? inside(path) : dirfd != AT_FDCWD && ours(dirfd);
}

/* One more call of a kind; whether it has to fail. */
static int fails(int kind) {
    int n = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED);
    if (kind != wanted || !at || !(n == at || (forever && n > at))) return 0;
    __atomic_add_fetch(&fired, 1, __ATOMIC_RELAXED);
    return 1;
}

#define FAIL(kind, is_ours, result) if ((is_ours) && fails(kind)) { errno = number; return result; }

/* ---- files ---------------------------------------------------------------------------------------------------- */

#define MODE(flags, mode) \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }

static int opened(int dirfd, const char *path, int flags, mode_t mode) {
    FAIL(OPEN, relative(dirfd, path), -1)
    return syscall(SYS_openat, dirfd, path, flags, mode);
}
int open(const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { mode_t mode = 0; MODE(flags, mode) return opened(dirfd, path, flags | O_LARGEFILE, mode); }

#define HALF(kind, fd, size) if (ours(fd) && fails(kind)) { if (number >= 0) { errno = number; return -1; } size = (size + 1) / 2; }

ssize_t read(int fd, void *data, size_t size) { HALF(READ, fd, size) return syscall(SYS_read, fd, data, size); }
ssize_t pread64(int fd, void *data, size_t size, off64_t position) { HALF(READ, fd, size) return syscall(SYS_pread64, fd, data, size, position); }
ssize_t pread(int fd, void *data, size_t size, off_t position) { return pread64(fd, data, size, position); }
ssize_t write(int fd, const void *data, size_t size) { HALF(WRITE, fd, size) return syscall(SYS_write, fd, data, size); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t position) { HALF(WRITE, fd, size) return syscall(SYS_pwrite64, fd, data, size, position); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t position) { return pwrite64(fd, data, size, position); }

int fallocate64(int fd, int mode, off64_t position, off64_t size) {
    FAIL(ALLOCATE, ours(fd), -1)
    return syscall(SYS_fallocate, fd, mode, position, size);
}
int fallocate(int fd, int mode, off_t position, off_t size) { return fallocate64(fd, mode, position, size); }
int ftruncate64(int fd, off64_t size) { FAIL(TRUNCATE, ours(fd), -1) return syscall(SYS_ftruncate, fd, size); }
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int fsync(int fd) { FAIL(FSYNC, ours(fd), -1) return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { FAIL(FSYNC, ours(fd), -1) return syscall(SYS_fdatasync, fd); }
int flock(int fd, int how) { FAIL(LOCK, ours(fd) && !(how & LOCK_UN), -1) return syscall(SYS_flock, fd, how); }

int fcntl64(int fd, int what, ...) {
    va_list more;
    void *argument;
    va_start(more, what), argument = va_arg(more, void *), va_end(more);
    FAIL(LOCK, (what == F_OFD_SETLK || what == F_OFD_SETLKW || what == F_SETLK || what == F_SETLKW || what == F_OFD_GETLK) && ours(fd), -1)
    return syscall(SYS_fcntl, fd, what, argument);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static struct { int kind; char *from, *to; } code[256];
static int codes, window;

void faults_window(int open) { window = open; }
void faults_code(int kind, void *from, void *to) {
    if (kind < 0) codes = 0; /* all anew */
    else if (codes < 256) code[codes].kind = kind, code[codes].from = from, code[codes].to = to, codes++;
}

/* Whether this caller gets none. Python's allocators, told to be malloc, jump to it, so that the caller is theirs. */
static int starves(const void *caller) {
    for (int i = 0; window && i < codes; i++)
        if (code[i].from <= (char *)caller && (char *)caller < code[i].to) return fails(code[i].kind) && (errno = ENOMEM, 1);
    return 0;
}
#define CALLER __builtin_return_address(0)

#ifdef __GLIBC__
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
void *malloc(size_t size) { return starves(CALLER) ? NULL : __libc_malloc(size); }
void *calloc(size_t n, size_t size) { return starves(CALLER) ? NULL : __libc_calloc(n, size); }
void *realloc(void *old, size_t size) { return starves(CALLER) ? NULL : __libc_realloc(old, size); }
#endif

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t position) {
    if ((flags & MAP_ANONYMOUS) && starves(CALLER)) return MAP_FAILED;
    FAIL(MAP, !(flags & MAP_ANONYMOUS) && ours(fd), MAP_FAILED)
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, position);
}
void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t position) {
    if ((flags & MAP_ANONYMOUS) && starves(CALLER)) return MAP_FAILED;
    FAIL(MAP, !(flags & MAP_ANONYMOUS) && ours(fd), MAP_FAILED)
    return (void *)syscall(SYS_mmap, address, size, protection, flags, fd, position);
}
int madvise(void *address, size_t size, int advice) {
    FAIL(POPULATE, root_length && advice == 23 /* MADV_POPULATE_WRITE: nobody else here does that */, -1)
    return syscall(SYS_madvise, address, size, advice);
}
int msync(void *address, size_t size, int flags) { FAIL(MSYNC, root_length, -1) return syscall(SYS_msync, address, size, flags); }

/* ---- names ---------------------------------------------------------------------------------------------------- */

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    FAIL(RENAME, relative(to, new), -1)
    return syscall(SYS_renameat2, from, old, to, new, flags);
}
int renameat(int from, const char *old, int to, const char *new) { return renameat2(from, old, to, new, 0); }
int rename(const char *old, const char *new) { return renameat2(AT_FDCWD, old, AT_FDCWD, new, 0); }
int unlinkat(int dirfd, const char *path, int flags) { FAIL(UNLINK, relative(dirfd, path), -1) return syscall(SYS_unlinkat, dirfd, path, flags); }
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int dirfd, const char *path, mode_t mode) { FAIL(MKDIR, relative(dirfd, path), -1) return syscall(SYS_mkdirat, dirfd, path, mode); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

DIR *opendir(const char *path) { FAIL(LIST, inside(path), NULL) return REAL(opendir)(path); }
DIR *fdopendir(int fd) { FAIL(LIST, ours(fd), NULL) return REAL(fdopendir)(fd); }
struct dirent64 *readdir64(DIR *directory) { FAIL(LIST, ours(dirfd(directory)), NULL) return REAL(readdir64)(directory); }

int stat64(const char *path, struct stat64 *status) { FAIL(STAT, inside(path), -1) return REAL(stat64)(path, status); }
int lstat64(const char *path, struct stat64 *status) { FAIL(STAT, inside(path), -1) return REAL(lstat64)(path, status); }
int fstat64(int fd, struct stat64 *status) { FAIL(STAT, ours(fd), -1) return REAL(fstat64)(fd, status); }
int fstatat64(int dirfd, const char *path, struct stat64 *status, int flags) {
    FAIL(STAT, relative(dirfd, path), -1)
    return REAL(fstatat64)(dirfd, path, status, flags);
}
int stat(const char *path, struct stat *status) { FAIL(STAT, inside(path), -1) return REAL(stat)(path, status); }
int lstat(const char *path, struct stat *status) { FAIL(STAT, inside(path), -1) return REAL(lstat)(path, status); }
int fstat(int fd, struct stat *status) { FAIL(STAT, ours(fd), -1) return REAL(fstat)(fd, status); }
int fstatat(int dirfd, const char *path, struct stat *status, int flags) {
    FAIL(STAT, relative(dirfd, path), -1)
    return REAL(fstatat)(dirfd, path, status, flags);
}
