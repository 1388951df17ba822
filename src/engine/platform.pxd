# platform: the declarations of platform.h and atomic.h.
from libc.stdint cimport int64_t, uint32_t

cdef extern from "platform.h" nogil:
    int portable "seglog_portable"() noexcept
    const bint FREE_THREADED "SEGLOG_FREE_THREADED"    # threads run Python at once
    void copy "seglog_copy"(char *to, const char *source, int64_t n) noexcept
    void failpoint "seglog_failpoint"(const char *name) noexcept
    int is_network "seglog_is_network"(const char *path) noexcept
    int64_t now_us "seglog_now_us"() noexcept
    int64_t monotonic_us "seglog_monotonic_us"() noexcept
    void sleep_us "seglog_sleep_us"(int64_t us) noexcept
    int allocate "seglog_allocate"(int fd, int64_t size) noexcept
    int zero "seglog_zero"(int fd, int64_t start, int64_t stop) noexcept
    void punch "seglog_punch"(int fd, int64_t start, int64_t stop) noexcept
    int pwrite_all "seglog_pwrite"(int fd, const char *data, int64_t size, int64_t position) noexcept
    int64_t pread_all "seglog_pread"(int fd, char *data, int64_t size, int64_t position) noexcept
    int datasync "seglog_datasync"(int fd) noexcept
    int flush_view "seglog_flush_view"(char *data, int64_t size) noexcept
    int populate "seglog_populate"(char *data, int64_t size) noexcept
    void wait_u32 "seglog_wait_u32"(uint32_t *word, uint32_t value, int64_t timeout_us) noexcept
    void wake_u32 "seglog_wake_u32"(uint32_t *word, int count) noexcept
    int lock_byte "seglog_lock_byte"(int fd, int64_t byte) noexcept
    int byte_locked "seglog_byte_locked"(int fd, int64_t byte) noexcept
    int lock_file "seglog_lock_file"(int fd) noexcept
    int file_locked "seglog_file_locked"(const char *path) noexcept
    int has_byte_locks "seglog_has_byte_locks"() noexcept
    int64_t process_id "seglog_pid"() noexcept

    uint32_t load_u32 "seglog_load_u32"(const uint32_t *p) noexcept
    int64_t load_i64 "seglog_load_i64"(const int64_t *p) noexcept
    void store_u32 "seglog_store_u32"(uint32_t *p, uint32_t v) noexcept
    void store_i64 "seglog_store_i64"(int64_t *p, int64_t v) noexcept
    uint32_t exchange_u32 "seglog_exchange_u32"(uint32_t *p, uint32_t v) noexcept
    int cas_u32 "seglog_cas_u32"(uint32_t *p, uint32_t expected, uint32_t v) noexcept
    uint32_t add_u32 "seglog_add_u32"(uint32_t *p, uint32_t v) noexcept
    uint32_t or_u32 "seglog_or_u32"(uint32_t *p, uint32_t v) noexcept
    uint32_t and_u32 "seglog_and_u32"(uint32_t *p, uint32_t v) noexcept
    void fence "seglog_fence"() noexcept
    void cpu_pause "seglog_pause"() noexcept
