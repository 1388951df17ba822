/* xxh3.h: XXH3-64, the checksum of everything seglog writes.
 *
 * XXH3 is a published algorithm by Yann Collet (doc/xxhash_spec.md in github.com/Cyan4973/xxHash). This file
 * is our own writing of its one-shot 64-bit form. It promises the same number as every other implementation, on
 * every path and every host; tests/unit/test_checksum.py holds it to that, bit for bit, against the xxhash package.
 * It is no defence against someone who wants two inputs to collide: it finds rot and torn writes, not forgery.
 *
 * The length alone decides how the bytes are read. Every range reads from both ends, overlapping in the middle,
 * so that no length needs a loop over leftover bytes:
 *
 *       0         no bytes: the seed and two words of the secret
 *       1 ..   3  first, middle and last byte
 *       4 ..   8  |--first 4--|--last 4--|  overlapping unless there are 8; one 64-bit word
 *       9 ..  16  |--first 8--|--last 8--|  likewise; two words, one 64 x 64 multiplication
 *      17 .. 128  |16|16|  ...  |16|16|  pairs of chunks, one from each end, moving inwards; a multiplication each
 *     129 .. 240  |16|16|...|16|  |16|   8 chunks, stir, the other whole chunks, and the last 16 bytes once more
 *     241 ..      eight 64-bit lanes, fed 64 bytes (a stripe) at a time: what SIMD is for
 *
 * The last range. A block is 16 stripes; each stripe meets the secret 8 bytes further on, and a full block ends
 * with a scramble. The final 64 bytes are a stripe of their own, whatever they overlap:
 *
 *     input   |stripe 0|stripe 1| ... |stripe 15| (scramble) |stripe 16| ... |stripe n|
 *                                                                                  |last 64|
 *     secret   0..63    8..71          120..183    128..191    0..63   ...         121..184
 *
 *     one stripe, lane i:   v = input[i] ^ secret[i]
 *                           lane[i]     += low32(v) * high32(v)
 *                           lane[i ^ 1] += input[i]      (so that a zero half of v cannot hide the other)
 *
 * The header keeps no state: any thread may call anything. Best of 61, 2.8 GHz Ice Lake, gcc -O3: 56 bytes 4.5 ns,
 * 100 bytes 9 ns, 1 KiB 45 ns, 100 KiB at 38 GB/s; 9 GB/s from memory, which is what one core reads there. Measured
 * and left out: AVX-512 (55 GB/s in cache, the same from memory) and prefetching (within the noise).
 */
#ifndef SEGLOG_XXH3_H
#define SEGLOG_XXH3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* seglog's files are little-endian and so are its hosts: words are read as they lie, without a swap. */
#if !defined(_MSC_VER) && !(defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
#error "seglog's xxh3.h reads words as they lie in memory: it needs a little-endian host"
#endif

#if defined(_MSC_VER)
#include <intrin.h>
#define XXH3_INLINE static __forceinline
#define XXH3_NOINLINE static __declspec(noinline)
#define xxh3_swap32 _byteswap_ulong
#define xxh3_swap64 _byteswap_uint64
#else
#define XXH3_INLINE static inline __attribute__((always_inline))
#define XXH3_NOINLINE static __attribute__((noinline))
#define xxh3_swap32 __builtin_bswap32
#define xxh3_swap64 __builtin_bswap64
#endif

/* Which paths this compiler can build. SSE2 belongs to x86-64 and NEON to aarch64, so path 1 needs no check at run
 * time. AVX2 needs one, unless the whole build already assumes it. MSVC has no target attribute and no
 * __builtin_cpu_supports: it gets AVX2 with /arch:AVX2 only. */
#if defined(__SSE2__) || defined(_M_X64)
#define XXH3_SSE2 1
#include <immintrin.h>
#if defined(__AVX2__)
#define XXH3_AVX2 1
#define XXH3_AVX2_TARGET
#define XXH3_HAS_AVX2() 1
#elif !defined(_MSC_VER)
#define XXH3_AVX2 1
#define XXH3_AVX2_TARGET __attribute__((target("avx2")))
/* One load and a test: the compiler's runtime has asked the CPU and the kernel before main, and nobody writes
 * the answer afterwards. Hence no cache of our own, and no race on one. */
#define XXH3_HAS_AVX2() (__builtin_cpu_supports("avx2") != 0)
#endif
#elif (defined(__ARM_NEON) && defined(__aarch64__)) || defined(_M_ARM64)
#define XXH3_NEON 1
#include <arm_neon.h>
#endif

/* The ways to hash a long input; all give the same number. */
enum {
    SEGLOG_XXH3_BEST = -1,     /* the widest the host has */
    SEGLOG_XXH3_PORTABLE = 0,  /* C alone */
    SEGLOG_XXH3_SIMD128 = 1,   /* SSE2 or NEON */
    SEGLOG_XXH3_AVX2 = 2,
    SEGLOG_XXH3_PATHS = 3      /* how many there are */
};

/* ---- constants: data of the published algorithm ------------------------------------------------------------- */

/* Odd multipliers with an even mix of ones and zeros. The first eight also go back to XXH32 and XXH64. */
#define XXH3_P32_1 0x9E3779B1u
#define XXH3_P32_2 0x85EBCA77u
#define XXH3_P32_3 0xC2B2AE3Du
#define XXH3_P64_1 0x9E3779B185EBCA87u
#define XXH3_P64_2 0xC2B2AE3D27D4EB4Fu
#define XXH3_P64_3 0x165667B19E3779F9u
#define XXH3_P64_4 0x85EBCA77C2B2AE63u
#define XXH3_P64_5 0x27D4EB2F165667C5u
#define XXH3_MX_1 0x165667919E3779F9u /* one bit away from P64_3: not a slip */
#define XXH3_MX_2 0x9FB21C651E98DF25u

enum {
    XXH3_STRIPE = 64,                           /* bytes: eight lanes of eight */
    XXH3_BLOCK_STRIPES = 16,                    /* (192 - 64) / 8: how often the secret can move on by a word */
    XXH3_SECRET = 192,                          /* bytes */
    XXH3_KEY_SCRAMBLE = XXH3_SECRET - 64,       /* the secret's last 64 bytes */
    XXH3_KEY_LAST = XXH3_SECRET - 64 - 7,       /* 7 off, so that it is no key of a whole stripe */
    XXH3_KEY_MERGE = 11,
    XXH3_KEY_MEDIUM = 3,                        /* chunks 8.. of 129 .. 240 bytes: out of step with the first 8 */
    XXH3_KEY_MEDIUM_LAST = 136 - 17             /* 136 is the shortest secret the algorithm allows */
};

/* The default secret: 192 bytes of high entropy, as little-endian words. A seed does not replace it: it is added to
 * the even words and subtracted from the odd ones. */
static const uint64_t xxh3_secret[24] = {
    0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u,
    0x78e5c0cc4ee679cbu, 0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u,
    0xcb00c391bb52283cu, 0xa32e531b8b65d088u, 0x4ef90da297486471u, 0xd8acdea946ef1938u,
    0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au, 0x647378d9c97e9fc8u,
    0xc3ebd33483acc5eau, 0xeb6313faffa081c5u, 0x49daf0b751dd0d17u, 0x9e68d429265516d3u,
    0xfca1477d58be162bu, 0xce31d07ad1b8f88fu, 0x280416958f3acb45u, 0x7e404bbbcafbd7afu,
};

/* ---- words -------------------------------------------------------------------------------------------------- */

/* memcpy is how C reads an unaligned word; every compiler makes it one load. */
XXH3_INLINE uint32_t xxh3_u32(const uint8_t *at) { uint32_t word; memcpy(&word, at, 4); return word; }
XXH3_INLINE uint64_t xxh3_u64(const uint8_t *at) { uint64_t word; memcpy(&word, at, 8); return word; }
XXH3_INLINE uint64_t xxh3_key(size_t at) { return xxh3_u64((const uint8_t *)xxh3_secret + at); }

XXH3_INLINE uint64_t xxh3_rotate(uint64_t x, int left) { return (x << left) | (x >> (64 - left)); }

/* The two halves of the 128-bit product, xored. */
XXH3_INLINE uint64_t xxh3_fold(uint64_t a, uint64_t b)
{
#if defined(__SIZEOF_INT128__)
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
#elif defined(_M_X64) || defined(_M_ARM64)
    return (a * b) ^ __umulh(a, b);
#else
#error "seglog needs a 64-bit host: XXH3 multiplies 64 bits by 64"
#endif
}

/* Every input bit reaches every output bit. The first is XXH3's own; the second, XXH64's, serves 0 .. 3 bytes. */
XXH3_INLINE uint64_t xxh3_avalanche(uint64_t x)
{
    x = (x ^ (x >> 37)) * XXH3_MX_1;
    return x ^ (x >> 32);
}

XXH3_INLINE uint64_t xxh3_avalanche_tiny(uint64_t x)
{
    x = (x ^ (x >> 33)) * XXH3_P64_2;
    x = (x ^ (x >> 29)) * XXH3_P64_3;
    return x ^ (x >> 32);
}

/* ---- 0 .. 240 bytes: inline, no SIMD ------------------------------------------------------------------------ */

XXH3_INLINE uint64_t xxh3_0to16(const uint8_t *in, size_t len, uint64_t seed)
{
    if (len > 8) {
        uint64_t low = xxh3_u64(in) ^ ((xxh3_key(24) ^ xxh3_key(32)) + seed);
        uint64_t high = xxh3_u64(in + len - 8) ^ ((xxh3_key(40) ^ xxh3_key(48)) - seed);
        return xxh3_avalanche(len + xxh3_swap64(low) + high + xxh3_fold(low, high));
    }
    if (len >= 4) {
        uint64_t both = ((uint64_t)xxh3_u32(in) << 32) | xxh3_u32(in + len - 4);
        uint64_t x;
        seed ^= (uint64_t)xxh3_swap32((uint32_t)seed) << 32;
        x = both ^ ((xxh3_key(8) ^ xxh3_key(16)) - seed);
        x ^= xxh3_rotate(x, 49) ^ xxh3_rotate(x, 24);
        x *= XXH3_MX_2;
        x ^= (x >> 35) + len;
        x *= XXH3_MX_2;
        return x ^ (x >> 28);
    }
    if (len > 0) {
        uint32_t first = in[0], middle = in[len >> 1], last = in[len - 1];
        uint32_t word = (middle << 24) | (first << 16) | ((uint32_t)len << 8) | last;
        uint64_t key = (uint32_t)xxh3_key(0) ^ (uint32_t)xxh3_key(4);
        return xxh3_avalanche_tiny(word ^ (key + seed));
    }
    return xxh3_avalanche_tiny(seed ^ xxh3_key(56) ^ xxh3_key(64));
}

/* Sixteen bytes of input, sixteen of the secret, one multiplication. */
XXH3_INLINE uint64_t xxh3_chunk(const uint8_t *in, size_t key, uint64_t seed)
{
    return xxh3_fold(xxh3_u64(in) ^ (xxh3_key(key) + seed), xxh3_u64(in + 8) ^ (xxh3_key(key + 8) - seed));
}

/* A ladder instead of a loop: a caller whose length is a constant gets straight code. The order of the
 * chunks is free, since they are only added. */
XXH3_INLINE uint64_t xxh3_17to128(const uint8_t *in, size_t len, uint64_t seed)
{
    const uint8_t *end = in + len;
    uint64_t sum = len * XXH3_P64_1;
    sum += xxh3_chunk(in, 0, seed) + xxh3_chunk(end - 16, 16, seed);
    if (len > 32) {
        sum += xxh3_chunk(in + 16, 32, seed) + xxh3_chunk(end - 32, 48, seed);
        if (len > 64) {
            sum += xxh3_chunk(in + 32, 64, seed) + xxh3_chunk(end - 48, 80, seed);
            if (len > 96)
                sum += xxh3_chunk(in + 48, 96, seed) + xxh3_chunk(end - 64, 112, seed);
        }
    }
    return xxh3_avalanche(sum);
}

static inline uint64_t xxh3_129to240(const uint8_t *in, size_t len, uint64_t seed)
{
    uint64_t sum = len * XXH3_P64_1;
    size_t at;
    for (at = 0; at < 128; at += 16)
        sum += xxh3_chunk(in + at, at, seed);
    sum = xxh3_avalanche(sum);
    for (; at + 16 <= len; at += 16)
        sum += xxh3_chunk(in + at, at - 128 + XXH3_KEY_MEDIUM, seed);
    sum += xxh3_chunk(in + len - 16, XXH3_KEY_MEDIUM_LAST, seed);
    return xxh3_avalanche(sum);
}

/* ---- 241 bytes and more: eight lanes, in whatever registers there are ---------------------------------------- */

/* Each path says how it keeps the lanes (a struct of registers), what a stripe does to them and how they are scrambled.
 * XXH3_PATH adds the loop, the same for all: every whole stripe that leaves at least one byte behind, a scramble after
 * each sixteenth, then the last 64 bytes. It all inlines into one function and the lanes stay in registers; stripes are
 * spelled out because gcc -O2 would keep an array under a loop variable in memory. */
#define XXH3_PATH(NAME, TARGET)                                                                                  \
    TARGET XXH3_NOINLINE void xxh3_##NAME(uint64_t *lane, const uint8_t *in, size_t len, const uint8_t *secret)  \
    {                                                                                                            \
        const uint8_t *last = in + len - XXH3_STRIPE;                                                            \
        size_t stripes = (len - 1) / XXH3_STRIPE, i;                                                             \
        xxh3_##NAME##_lanes lanes;                                                                               \
        memcpy(&lanes, lane, XXH3_STRIPE);                                                                       \
        for (; stripes >= XXH3_BLOCK_STRIPES; stripes -= XXH3_BLOCK_STRIPES) {                                   \
            for (i = 0; i < XXH3_BLOCK_STRIPES; i++, in += XXH3_STRIPE)                                          \
                xxh3_##NAME##_stripe(&lanes, in, secret + 8 * i);                                                \
            xxh3_##NAME##_scramble(&lanes, secret + XXH3_KEY_SCRAMBLE);                                          \
        }                                                                                                        \
        for (i = 0; i < stripes; i++, in += XXH3_STRIPE)                                                         \
            xxh3_##NAME##_stripe(&lanes, in, secret + 8 * i);                                                    \
        xxh3_##NAME##_stripe(&lanes, last, secret + XXH3_KEY_LAST);                                              \
        memcpy(lane, &lanes, XXH3_STRIPE);                                                                       \
    }

/* Portable: the definition itself. */
typedef struct { uint64_t x[8]; } xxh3_portable_lanes;

XXH3_INLINE void xxh3_portable_stripe(xxh3_portable_lanes *lanes, const uint8_t *in, const uint8_t *key)
{
    int i;
    for (i = 0; i < 8; i++) {
        uint64_t word = xxh3_u64(in + 8 * i), v = word ^ xxh3_u64(key + 8 * i);
        lanes->x[i ^ 1] += word;
        lanes->x[i] += (v & UINT32_MAX) * (v >> 32);
    }
}

XXH3_INLINE void xxh3_portable_scramble(xxh3_portable_lanes *lanes, const uint8_t *key)
{
    int i;
    for (i = 0; i < 8; i++)
        lanes->x[i] = (lanes->x[i] ^ (lanes->x[i] >> 47) ^ xxh3_u64(key + 8 * i)) * XXH3_P32_1;
}

XXH3_PATH(portable, )

#if defined(XXH3_SSE2)
/* Two lanes a register. The multiplier takes the low 32 bits of each lane, so the high ones are shifted down for it;
 * "the other lane" is a shuffle. There is no 64-bit multiplication: the scramble does it in two halves. */
typedef struct { __m128i x[4]; } xxh3_simd128_lanes;

XXH3_INLINE __m128i xxh3_simd128_add(__m128i lane, const uint8_t *in, const uint8_t *key)
{
    __m128i word = _mm_loadu_si128((const __m128i *)in);
    __m128i v = _mm_xor_si128(word, _mm_loadu_si128((const __m128i *)key));
    __m128i product = _mm_mul_epu32(v, _mm_srli_epi64(v, 32));
    return _mm_add_epi64(lane, _mm_add_epi64(product, _mm_shuffle_epi32(word, _MM_SHUFFLE(1, 0, 3, 2))));
}

XXH3_INLINE __m128i xxh3_simd128_mix(__m128i lane, const uint8_t *key)
{
    const __m128i prime = _mm_set1_epi32((int)XXH3_P32_1);
    __m128i v = _mm_xor_si128(lane, _mm_srli_epi64(lane, 47));
    v = _mm_xor_si128(v, _mm_loadu_si128((const __m128i *)key));
    return _mm_add_epi64(_mm_mul_epu32(v, prime),
                         _mm_slli_epi64(_mm_mul_epu32(_mm_srli_epi64(v, 32), prime), 32));
}

#elif defined(XXH3_NEON)
/* The same two lanes a register; the multiplier takes 32-bit halves narrowed out of the lanes, and adds as well. */
typedef struct { uint64x2_t x[4]; } xxh3_simd128_lanes;

XXH3_INLINE uint64x2_t xxh3_simd128_load(const uint8_t *at) { return vreinterpretq_u64_u8(vld1q_u8(at)); }

XXH3_INLINE uint64x2_t xxh3_simd128_add(uint64x2_t lane, const uint8_t *in, const uint8_t *key)
{
    uint64x2_t word = xxh3_simd128_load(in);
    uint64x2_t v = veorq_u64(word, xxh3_simd128_load(key));
    lane = vaddq_u64(lane, vextq_u64(word, word, 1));
    return vmlal_u32(lane, vmovn_u64(v), vshrn_n_u64(v, 32));
}

XXH3_INLINE uint64x2_t xxh3_simd128_mix(uint64x2_t lane, const uint8_t *key)
{
    const uint32x2_t prime = vdup_n_u32(XXH3_P32_1);
    uint64x2_t v = veorq_u64(veorq_u64(lane, vshrq_n_u64(lane, 47)), xxh3_simd128_load(key));
    return vmlal_u32(vshlq_n_u64(vmull_u32(vshrn_n_u64(v, 32), prime), 32), vmovn_u64(v), prime);
}
#endif

#if defined(XXH3_SSE2) || defined(XXH3_NEON)
XXH3_INLINE void xxh3_simd128_stripe(xxh3_simd128_lanes *lanes, const uint8_t *in, const uint8_t *key)
{
    lanes->x[0] = xxh3_simd128_add(lanes->x[0], in, key);
    lanes->x[1] = xxh3_simd128_add(lanes->x[1], in + 16, key + 16);
    lanes->x[2] = xxh3_simd128_add(lanes->x[2], in + 32, key + 32);
    lanes->x[3] = xxh3_simd128_add(lanes->x[3], in + 48, key + 48);
}

XXH3_INLINE void xxh3_simd128_scramble(xxh3_simd128_lanes *lanes, const uint8_t *key)
{
    lanes->x[0] = xxh3_simd128_mix(lanes->x[0], key);
    lanes->x[1] = xxh3_simd128_mix(lanes->x[1], key + 16);
    lanes->x[2] = xxh3_simd128_mix(lanes->x[2], key + 32);
    lanes->x[3] = xxh3_simd128_mix(lanes->x[3], key + 48);
}

XXH3_PATH(simd128, )
#endif

#if defined(XXH3_AVX2)
/* Four lanes a register: SSE2 twice as wide, compiled for a CPU that the rest of the build does not assume. */
typedef struct { __m256i x[2]; } xxh3_avx2_lanes;

XXH3_AVX2_TARGET XXH3_INLINE __m256i xxh3_avx2_add(__m256i lane, const uint8_t *in, const uint8_t *key)
{
    __m256i word = _mm256_loadu_si256((const __m256i *)in);
    __m256i v = _mm256_xor_si256(word, _mm256_loadu_si256((const __m256i *)key));
    __m256i product = _mm256_mul_epu32(v, _mm256_srli_epi64(v, 32));
    return _mm256_add_epi64(lane, _mm256_add_epi64(product, _mm256_shuffle_epi32(word, _MM_SHUFFLE(1, 0, 3, 2))));
}

XXH3_AVX2_TARGET XXH3_INLINE __m256i xxh3_avx2_mix(__m256i lane, const uint8_t *key)
{
    const __m256i prime = _mm256_set1_epi32((int)XXH3_P32_1);
    __m256i v = _mm256_xor_si256(lane, _mm256_srli_epi64(lane, 47));
    v = _mm256_xor_si256(v, _mm256_loadu_si256((const __m256i *)key));
    return _mm256_add_epi64(_mm256_mul_epu32(v, prime),
                            _mm256_slli_epi64(_mm256_mul_epu32(_mm256_srli_epi64(v, 32), prime), 32));
}

XXH3_AVX2_TARGET XXH3_INLINE void xxh3_avx2_stripe(xxh3_avx2_lanes *lanes, const uint8_t *in, const uint8_t *key)
{
    lanes->x[0] = xxh3_avx2_add(lanes->x[0], in, key);
    lanes->x[1] = xxh3_avx2_add(lanes->x[1], in + 32, key + 32);
}

XXH3_AVX2_TARGET XXH3_INLINE void xxh3_avx2_scramble(xxh3_avx2_lanes *lanes, const uint8_t *key)
{
    lanes->x[0] = xxh3_avx2_mix(lanes->x[0], key);
    lanes->x[1] = xxh3_avx2_mix(lanes->x[1], key + 32);
}

XXH3_PATH(avx2, XXH3_AVX2_TARGET)
#endif

/* Out of line: past 240 bytes a call costs nothing that could be measured, and the callers stay small. */
XXH3_NOINLINE uint64_t xxh3_long(const uint8_t *in, size_t len, uint64_t seed, int path)
{
    uint64_t lane[8] = {XXH3_P32_3, XXH3_P64_1, XXH3_P64_2, XXH3_P64_3,
                        XXH3_P64_4, XXH3_P32_2, XXH3_P64_5, XXH3_P32_1};
    uint64_t seeded[24], sum = len * XXH3_P64_1;
    const uint8_t *secret = (const uint8_t *)xxh3_secret;
    int i;
    if (seed != 0) {
        for (i = 0; i < 24; i += 2) {
            seeded[i] = xxh3_secret[i] + seed;
            seeded[i + 1] = xxh3_secret[i + 1] - seed;
        }
        secret = (const uint8_t *)seeded;
    }
#if defined(XXH3_AVX2)
    if ((path == SEGLOG_XXH3_BEST || path == SEGLOG_XXH3_AVX2) && XXH3_HAS_AVX2())
        xxh3_avx2(lane, in, len, secret);
    else
#endif
#if defined(XXH3_SSE2) || defined(XXH3_NEON)
    if (path != SEGLOG_XXH3_PORTABLE)
        xxh3_simd128(lane, in, len, secret);
    else
#endif
        xxh3_portable(lane, in, len, secret);
    (void)path;
    for (i = 0; i < 8; i += 2)
        sum += xxh3_fold(lane[i] ^ xxh3_u64(secret + XXH3_KEY_MERGE + 8 * i),
                         lane[i + 1] ^ xxh3_u64(secret + XXH3_KEY_MERGE + 8 * i + 8));
    return xxh3_avalanche(sum);
}

/* ---- what others call ---------------------------------------------------------------------------------------- */

/* The name of a path this host can run, NULL for one it cannot. */
static inline const char *seglog_xxh3_name(int path)
{
    switch (path) {
    case SEGLOG_XXH3_PORTABLE: return "portable";
#if defined(XXH3_SSE2)
    case SEGLOG_XXH3_SIMD128: return "sse2";
#elif defined(XXH3_NEON)
    case SEGLOG_XXH3_SIMD128: return "neon";
#endif
#if defined(XXH3_AVX2)
    case SEGLOG_XXH3_AVX2: return XXH3_HAS_AVX2() ? "avx2" : NULL;
#endif
    default: return NULL;
    }
}

static inline int seglog_xxh3_has(int path) { return seglog_xxh3_name(path) != NULL; }

/* The hash by one path, for tests. A path the host lacks falls back to the next narrower: the number is the same. */
static inline uint64_t seglog_xxh3_path(const void *data, size_t len, uint64_t seed, int path)
{
    const uint8_t *in = (const uint8_t *)data;
    if (len <= 16) return xxh3_0to16(in, len, seed);
    if (len <= 128) return xxh3_17to128(in, len, seed);
    if (len <= 240) return xxh3_129to240(in, len, seed);
    return xxh3_long(in, len, seed, path);
}

static inline uint64_t seglog_xxh3_portable(const void *data, size_t len, uint64_t seed)
{
    return seglog_xxh3_path(data, len, seed, SEGLOG_XXH3_PORTABLE);
}

/* XXH3-64 of len bytes at data (NULL if there are none). Never fails, never allocates. */
static inline uint64_t seglog_xxh3_seed(const void *data, size_t len, uint64_t seed)
{
    return seglog_xxh3_path(data, len, seed, SEGLOG_XXH3_BEST);
}

static inline uint64_t seglog_xxh3(const void *data, size_t len)
{
    return seglog_xxh3_seed(data, len, 0);
}

#endif /* SEGLOG_XXH3_H */
