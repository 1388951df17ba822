/* atomic.h: the few atomic operations that processes sharing a mapped file need.
 *
 * Every word touched here lives in a shared mapping, is naturally aligned, and is only ever accessed
 * through these functions while others may look at it.  GCC and clang have builtins; MSVC has intrinsics.
 */
#ifndef SEGLOG_ATOMIC_H
#define SEGLOG_ATOMIC_H

#include <stdint.h>

#if defined(_MSC_VER)
#include <intrin.h>

static __inline uint32_t seglog_load_u32(const volatile uint32_t *p) {
    uint32_t v = *p; _ReadWriteBarrier();
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#endif
    return v;
}
static __inline int64_t seglog_load_i64(const volatile int64_t *p) {
    int64_t v = *p; _ReadWriteBarrier();
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#endif
    return v;
}
static __inline void seglog_store_u32(volatile uint32_t *p, uint32_t v) {
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#endif
    _ReadWriteBarrier(); *p = v;
}
static __inline void seglog_store_i64(volatile int64_t *p, int64_t v) {
#if defined(_M_ARM64)
    __dmb(_ARM64_BARRIER_ISH);
#endif
    _ReadWriteBarrier(); *p = v;
}
static __inline uint32_t seglog_exchange_u32(volatile uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedExchange((volatile long *)p, (long)v);
}
static __inline int seglog_cas_u32(volatile uint32_t *p, uint32_t expected, uint32_t v) {
    return (uint32_t)_InterlockedCompareExchange((volatile long *)p, (long)v, (long)expected) == expected;
}
static __inline uint32_t seglog_add_u32(volatile uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedExchangeAdd((volatile long *)p, (long)v);
}
static __inline uint32_t seglog_or_u32(volatile uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedOr((volatile long *)p, (long)v);
}
static __inline uint32_t seglog_and_u32(volatile uint32_t *p, uint32_t v) {
    return (uint32_t)_InterlockedAnd((volatile long *)p, (long)v);
}
static __inline void seglog_fence(void) { volatile long x = 0; _InterlockedExchange(&x, 1); }
static __inline void seglog_pause(void) {
#if defined(_M_ARM64)
    __yield();
#else
    _mm_pause();
#endif
}

#else /* GCC, clang */

static inline uint32_t seglog_load_u32(const volatile uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline int64_t seglog_load_i64(const volatile int64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void seglog_store_u32(volatile uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void seglog_store_i64(volatile int64_t *p, int64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint32_t seglog_exchange_u32(volatile uint32_t *p, uint32_t v) {
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);
}
static inline int seglog_cas_u32(volatile uint32_t *p, uint32_t expected, uint32_t v) {
    return __atomic_compare_exchange_n(p, &expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_ACQUIRE);
}
static inline uint32_t seglog_add_u32(volatile uint32_t *p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);
}
static inline uint32_t seglog_or_u32(volatile uint32_t *p, uint32_t v) {
    return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST);
}
static inline uint32_t seglog_and_u32(volatile uint32_t *p, uint32_t v) {
    return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST);
}
static inline void seglog_fence(void) {
#if defined(__SANITIZE_THREAD__) /* it knows no fences; an exchange it knows orders at least as much */
    static uint32_t word;
    __atomic_exchange_n(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}
static inline void seglog_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}
#endif

#endif
