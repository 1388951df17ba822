/* platform.h: what differs between operating systems, and nothing else.
 *
 * Each function returns 0 (or a count) on success and -errno on failure, touches no Python object, and may be
 * called without the GIL.  Linux is the reference; macOS and Windows follow the same contract.  SEGLOG_PORTABLE=1
 * in the environment (see seglog_portable) takes the fallback of every optional facility, so that the same tests
 * run on it.
 */
#ifndef SEGLOG_PLATFORM_H
#define SEGLOG_PLATFORM_H

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "seglog's files are little-endian and so must the machine be"
#endif

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "atomic.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#include <io.h>
#include <process.h>
#pragma comment(lib, "Synchronization.lib")
#else
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#endif

#ifndef ENOTSUP
#define ENOTSUP EOPNOTSUPP
#endif

static inline int seglog_portable(void) {
    /* Read once; the answer never changes in a process.  Two threads may both read it: same answer. */
    static volatile uint32_t known = 0; /* 0: not asked yet, 1: no, 2: yes */
    uint32_t answer = seglog_load_u32(&known);
    if (answer == 0) {
        const char *e = getenv("SEGLOG_PORTABLE");
        answer = (e && *e && *e != '0') ? 2 : 1;
        seglog_store_u32(&known, answer);
    }
    return answer == 2;
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

/* memcpy for records: below a few hundred bytes a call costs more than the copy.  Moves of 32 bytes, the last one
 * overlapping the one before; nothing outside [from, from+n) is read, nothing outside [to, to+n) written. */
static inline void seglog_copy(char *to, const char *from, int64_t n) {
    if (n > 256) {
        memcpy(to, from, (size_t)n);
    } else if (n >= 32) {
        int64_t i;
        for (i = 0; i + 32 <= n; i += 32) memcpy(to + i, from + i, 32);
        memcpy(to + n - 32, from + n - 32, 32);
    } else if (n >= 16) {
        memcpy(to, from, 16);
        memcpy(to + n - 16, from + n - 16, 16);
    } else if (n >= 8) {
        memcpy(to, from, 8);
        memcpy(to + n - 8, from + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, from, 4);
        memcpy(to + n - 4, from + n - 4, 4);
    } else {
        while (n-- > 0) to[n] = from[n];
    }
}

#ifdef Py_GIL_DISABLED
#define SEGLOG_FREE_THREADED 1
#else
#define SEGLOG_FREE_THREADED 0
#endif

/* ---- failpoints ------------------------------------------------------------------------------------------ */

/* In debug builds SEGLOG_FAIL="place.header:3" kills the process with SIGKILL at the third arrival at that point;
 * "place.header:3:stop" stops it instead.  In release builds a failpoint is nothing at all. */
#if defined(SEGLOG_DEBUG) && !defined(_WIN32)
#include <signal.h>
#include <stdio.h>
static inline void seglog_failpoint(const char *name) {
    static const char *wanted = NULL;
    static char point[64], action[16];
    static long countdown = -1;
    if (wanted == NULL) {
        const char *e = getenv("SEGLOG_FAIL");
        wanted = e ? e : "";
        action[0] = 0;
        if (sscanf(wanted, "%63[^:]:%ld:%15s", point, &countdown, action) < 2) countdown = -1;
    }
    if (countdown > 0 && strcmp(name, point) == 0 && --countdown == 0)
        kill(getpid(), strcmp(action, "stop") == 0 ? SIGSTOP : SIGKILL);
}
#else
#define seglog_failpoint(name) ((void)0)
#endif

/* ---- time ------------------------------------------------------------------------------------------------ */

static inline int64_t seglog_now_us(void) { /* µs since the epoch */
#if defined(_WIN32)
    FILETIME f; ULARGE_INTEGER u;
    GetSystemTimePreciseAsFileTime(&f);
    u.LowPart = f.dwLowDateTime; u.HighPart = f.dwHighDateTime;
    return (int64_t)((u.QuadPart - 116444736000000000ULL) / 10);
#else
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
#endif
}

static inline int64_t seglog_monotonic_us(void) {
#if defined(_WIN32)
    return (int64_t)GetTickCount64() * 1000;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
#endif
}

static inline void seglog_sleep_us(int64_t us) {
#if defined(_WIN32)
    Sleep((DWORD)((us + 999) / 1000));
#else
    struct timespec t = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
#endif
}

/* ---- files ----------------------------------------------------------------------------------------------- */

/* Reserve real blocks for [0, size) and make the file that long.  -EOPNOTSUPP where the file system has no such
 * thing (or only emulates it, or copies on write so that a reservation promises nothing): use pwrite there. */
static inline int seglog_allocate(int fd, int64_t size) {
#if defined(__linux__)
    struct statfs fs;
    if (fstatfs(fd, &fs) == 0) {
        unsigned long type = (unsigned long)fs.f_type & 0xffffffffUL;
        if (type == 0x9123683EUL /* btrfs */ || type == 0x2FC12FC1UL /* zfs */ || type == 0x6969UL /* nfs */ ||
            type == 0xF2F52010UL /* f2fs */)
            return -EOPNOTSUPP;
    }
    for (;;) {
        if (fallocate(fd, 0, 0, (off_t)size) == 0) return 0;
        if (errno == EINTR) continue;
        return (errno == ENOSYS || errno == EINVAL || errno == ENODEV) ? -EOPNOTSUPP : -errno;
    }
#elif defined(__APPLE__)
    fstore_t s = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, (off_t)size, 0};
    if (fcntl(fd, F_PREALLOCATE, &s) == -1) return errno == ENOTSUP ? -EOPNOTSUPP : -errno;
    return ftruncate(fd, (off_t)size) == 0 ? 0 : -errno;
#elif defined(_WIN32)
    FILE_ALLOCATION_INFO a; FILE_END_OF_FILE_INFO e;
    HANDLE h = (HANDLE)_get_osfhandle(fd);
    a.AllocationSize.QuadPart = size; e.EndOfFile.QuadPart = size;
    if (!SetFileInformationByHandle(h, FileAllocationInfo, &a, sizeof a) ||
        !SetFileInformationByHandle(h, FileEndOfFileInfo, &e, sizeof e))
        return GetLastError() == ERROR_DISK_FULL ? -ENOSPC : -EIO;
    return 0;
#else
    (void)fd; (void)size;
    return -EOPNOTSUPP;
#endif
}

/* Make [start, stop) read as zeros and give its blocks back where that can be done without changing the size. */
static inline int seglog_pwrite(int fd, const char *data, int64_t size, int64_t position);
static inline int seglog_zero(int fd, int64_t start, int64_t stop) {
    static const char zeros[4096];
    int rc;
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    int64_t a = (start + 4095) & ~(int64_t)4095, b = stop & ~(int64_t)4095;
    if (!seglog_portable() && a < b &&
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)a, (off_t)(b - a)) == 0) {
        if (start < a && (rc = seglog_pwrite(fd, zeros, a - start, start)) < 0) return rc;
        if (b < stop && (rc = seglog_pwrite(fd, zeros, stop - b, b)) < 0) return rc;
        return 0;
    }
#endif
    while (start < stop) {
        int64_t n = stop - start < 4096 ? stop - start : 4096;
        if ((rc = seglog_pwrite(fd, zeros, n, start)) < 0) return rc;
        start += n;
    }
    return 0;
}

/* Give back the blocks of [start, stop) behind a sealed segment's end.  Advisory: failure costs only space. */
static inline void seglog_punch(int fd, int64_t start, int64_t stop) {
#if defined(__linux__) && defined(FALLOC_FL_PUNCH_HOLE)
    int64_t a = (start + 4095) & ~(int64_t)4095;
    if (a < stop) (void)!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)a, (off_t)(stop - a));
#else
    (void)fd; (void)start; (void)stop;
#endif
}

static inline int seglog_pwrite(int fd, const char *data, int64_t size, int64_t position) {
    while (size > 0) {
#if defined(_WIN32)
        OVERLAPPED o; DWORD n = 0, want = size > (1 << 30) ? (1u << 30) : (DWORD)size;
        memset(&o, 0, sizeof o);
        o.Offset = (DWORD)position; o.OffsetHigh = (DWORD)(position >> 32);
        if (!WriteFile((HANDLE)_get_osfhandle(fd), data, want, &n, &o))
            return GetLastError() == ERROR_DISK_FULL ? -ENOSPC : -EIO;
#else
        ssize_t n = pwrite(fd, data, (size_t)size, (off_t)position);
        if (n < 0) { if (errno == EINTR) continue; return -errno; }
        if (n == 0) return -ENOSPC;
#endif
        data += n; position += n; size -= n;
    }
    return 0;
}

static inline int64_t seglog_pread(int fd, char *data, int64_t size, int64_t position) { /* bytes read, short at the end */
    int64_t done = 0;
    while (done < size) {
#if defined(_WIN32)
        OVERLAPPED o; DWORD n = 0, want = size - done > (1 << 30) ? (1u << 30) : (DWORD)(size - done);
        memset(&o, 0, sizeof o);
        o.Offset = (DWORD)(position + done); o.OffsetHigh = (DWORD)((position + done) >> 32);
        if (!ReadFile((HANDLE)_get_osfhandle(fd), data + done, want, &n, &o))
            return GetLastError() == ERROR_HANDLE_EOF ? done : -EIO;
#else
        ssize_t n = pread(fd, data + done, (size_t)(size - done), (off_t)(position + done));
        if (n < 0) { if (errno == EINTR) continue; return -errno; }
#endif
        if (n == 0) break;
        done += n;
    }
    return done;
}

/* The bytes of fd are on the disk, also those stored through a map, when this returns 0. */
static inline int seglog_datasync(int fd) {
#if defined(_WIN32)
    return FlushFileBuffers((HANDLE)_get_osfhandle(fd)) ? 0 : -EIO;
#elif defined(__APPLE__)
    if (fcntl(fd, F_FULLFSYNC) == 0 || fsync(fd) == 0) return 0;
    return -errno;
#else
    while (fdatasync(fd) != 0) if (errno != EINTR) return -errno;
    return 0;
#endif
}

/* Windows flushes files, not the views over them: views first.  Elsewhere the page cache is one. */
static inline int seglog_flush_view(char *data, int64_t size) {
#if defined(_WIN32)
    return FlushViewOfFile(data, (SIZE_T)size) ? 0 : -EIO;
#else
    (void)data; (void)size;
    return 0;
#endif
}

/* Fault in [data, data+size) for writing now, so that a store cannot fail later.  0 also where it is not known. */
static inline int seglog_populate(char *data, int64_t size) {
#if defined(__linux__)
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
    if (seglog_portable()) return 0;
    for (;;) {
        if (madvise(data, (size_t)size, MADV_POPULATE_WRITE) == 0) return 0;
        if (errno == EINTR || errno == EAGAIN) continue;
        if (errno == EINVAL || errno == ENOSYS) return 0; /* a kernel before 5.14 */
        return errno == EFAULT || errno == EHWPOISON ? -EIO : -errno;
    }
#else
    (void)data; (void)size;
    return 0;
#endif
}

/* 1 when the file system of `path` lives on another machine: its pages are not shared between kernels. */
static inline int seglog_is_network(const char *path) {
#if defined(__linux__)
    struct statfs fs;
    if (statfs(path, &fs) != 0) return -errno;
    switch ((unsigned long)fs.f_type & 0xffffffffUL) {
    case 0x6969UL: /* nfs */ case 0xFF534D42UL: /* cifs */ case 0xFE534D42UL: /* smb2 */ case 0x517BUL: /* smb */
    case 0x00C36400UL: /* ceph */ case 0x0BD00BD0UL: /* lustre */ case 0x01021997UL: /* 9p */ case 0x5346414FUL: /* afs */
    case 0x47504653UL: /* gpfs */ case 0x7461636FUL: /* ocfs2 */ case 0x01161970UL: /* gfs2 */
        return 1;
    }
#else
    (void)path;
#endif
    return 0;
}

/* ---- waiting on a shared word ------------------------------------------------------------------------------ */

/* Sleep while *word == value, at most timeout_us.  Spurious returns are fine: callers look again. */
static inline void seglog_wait_u32(volatile uint32_t *word, uint32_t value, int64_t timeout_us) {
    if (timeout_us <= 0) return;
#if defined(__linux__)
    if (!seglog_portable()) {
        struct timespec t = {(time_t)(timeout_us / 1000000), (long)(timeout_us % 1000000) * 1000};
        syscall(SYS_futex, word, FUTEX_WAIT, value, &t, NULL, 0);
        return;
    }
#endif
    /* Polling, 20 us at first and 1 ms at most: the portable fallback. */
    {
        int64_t nap = 20, end = seglog_monotonic_us() + timeout_us;
        while (seglog_load_u32(word) == value && seglog_monotonic_us() < end) {
            seglog_sleep_us(nap);
            if (nap < 1000) nap *= 2;
            if (nap > 1000) nap = 1000;
        }
    }
}

static inline void seglog_wake_u32(volatile uint32_t *word, int count) {
#if defined(__linux__)
    if (!seglog_portable()) syscall(SYS_futex, word, FUTEX_WAKE, count, NULL, NULL, 0);
#else
    (void)word; (void)count; /* the waiters poll */
#endif
}

/* ---- being alive --------------------------------------------------------------------------------------------- */

/* One byte of a file, locked for the life of an open file description: the kernel drops it when the last copy of
 * that description is closed, however the process ends.  Returns 0, -EAGAIN when another holds it, -errno. */
static inline int seglog_lock_byte(int fd, int64_t byte) {
#if defined(_WIN32)
    OVERLAPPED o; memset(&o, 0, sizeof o); o.Offset = (DWORD)byte;
    return LockFileEx((HANDLE)_get_osfhandle(fd), LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &o)
        ? 0 : -EAGAIN;
#elif defined(F_OFD_SETLK)
    struct flock l; memset(&l, 0, sizeof l);
    l.l_type = F_WRLCK; l.l_whence = SEEK_SET; l.l_start = (off_t)byte; l.l_len = 1;
    if (fcntl(fd, F_OFD_SETLK, &l) == 0) return 0;
    return errno == EACCES || errno == EAGAIN ? -EAGAIN : -errno;
#else
    (void)fd; (void)byte;
    return -ENOTSUP;
#endif
}

/* 1: somebody (through another description) holds the byte; 0: nobody; -errno: cannot tell. */
static inline int seglog_byte_locked(int fd, int64_t byte) {
#if defined(_WIN32)
    OVERLAPPED o; memset(&o, 0, sizeof o); o.Offset = (DWORD)byte;
    if (!LockFileEx((HANDLE)_get_osfhandle(fd), LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &o)) return 1;
    UnlockFileEx((HANDLE)_get_osfhandle(fd), 0, 1, 0, &o);
    return 0;
#elif defined(F_OFD_GETLK)
    struct flock l; memset(&l, 0, sizeof l);
    l.l_type = F_WRLCK; l.l_whence = SEEK_SET; l.l_start = (off_t)byte; l.l_len = 1;
    if (fcntl(fd, F_OFD_GETLK, &l) != 0) return -errno;
    return l.l_type != F_UNLCK;
#else
    (void)fd; (void)byte;
    return -ENOTSUP;
#endif
}

/* The portable fallback: a whole small file per process, held by flock.  Probing takes it shared for a moment, so
 * that two probers do not mistake each other for its owner. */
static inline int seglog_lock_file(int fd) {
#if defined(_WIN32)
    return seglog_lock_byte(fd, 0);
#else
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return 0;
    return errno == EWOULDBLOCK ? -EAGAIN : -errno;
#endif
}

static inline int seglog_file_locked(const char *path) {
#if defined(_WIN32)
    (void)path;
    return -ENOTSUP;
#else
    int fd = open(path, O_RDWR | O_CLOEXEC), rc;
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    rc = flock(fd, LOCK_SH | LOCK_NB) == 0 ? 0 : (errno == EWOULDBLOCK ? 1 : -errno);
    close(fd);
    return rc;
#endif
}

static inline int seglog_has_byte_locks(void) {
#if defined(_WIN32)
    return 1;
#elif defined(F_OFD_SETLK)
    return !seglog_portable();
#else
    return 0;
#endif
}

static inline int64_t seglog_pid(void) {
#if defined(_WIN32)
    return (int64_t)_getpid();
#else
    return (int64_t)getpid();
#endif
}

#endif
