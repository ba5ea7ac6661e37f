/* What a machine can do at most: bytes read from memory, products of int8 added up in int32.

Compiled where it runs, for the processor there (benchmarks/limits.py). Every call starts its
threads, lets all of them begin at once, and returns the seconds until the last one was done. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define MOST 256
#define HUGE_PAGE ((size_t)2 << 20)

typedef uint64_t wide __attribute__((vector_size(64)));

struct job {
    const uint8_t *begin; /* of what this thread reads */
    size_t bytes;         /* a multiple of 256 */
    int64_t times;        /* how often it reads that, or how many blocks of products it computes */
    uint64_t left;        /* keeps the compiler from dropping the work */
    pthread_barrier_t *start;
    int cpu; /* where it runs; negative: anywhere */
    struct timespec began, ended;
};

static void read_all(struct job *job) {
    wide a = {0}, b = {0}, c = {0}, d = {0};
    for (int64_t turn = 0; turn < job->times; turn++) {
        for (size_t at = 0; at < job->bytes; at += 256) {
            const wide *from = (const wide *)(job->begin + at);
            __builtin_prefetch(job->begin + at + 4096);
            __builtin_prefetch(job->begin + at + 4160);
            __builtin_prefetch(job->begin + at + 4224);
            __builtin_prefetch(job->begin + at + 4288);
            a ^= from[0];
            b ^= from[1];
            c ^= from[2];
            d ^= from[3];
        }
        __asm__ volatile("" ::: "memory"); /* the next turn reads again */
    }
    a ^= b ^ c ^ d;
    for (int lane = 0; lane < 8; lane++) job->left ^= a[lane];
}

/* DOT adds products of int8 lanes of x and y to int32 lanes of a; LANES of them. */
#if defined(__AVX512VNNI__)
#include <immintrin.h>
typedef __m512i lanes;
#define NAME "AVX512-VNNI"
#define LANES 64
#define DOT(a, x, y) _mm512_dpbusd_epi32(a, x, y)
#elif defined(__AVXVNNI__)
#include <immintrin.h>
typedef __m256i lanes;
#define NAME "AVX-VNNI"
#define LANES 32
#define DOT(a, x, y) _mm256_dpbusd_avx_epi32(a, x, y)
#elif defined(__AVX2__)
#include <immintrin.h>
typedef __m256i lanes;
#define NAME "AVX2"
#define LANES 32
#define DOT(a, x, y) \
    _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)))
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include <arm_neon.h>
typedef int32x4_t lanes;
#define NAME "i8mm"
#define LANES 32
#define DOT(a, x, y) vmmlaq_s32(a, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y))
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
typedef int32x4_t lanes;
#define NAME "dotprod"
#define LANES 16
#define DOT(a, x, y) vdotq_s32(a, vreinterpretq_s8_s32(x), vreinterpretq_s8_s32(y))
#else /* as good as the compiler makes it */
typedef int32_t lanes __attribute__((vector_size(16)));
#define NAME "none"
#define LANES 4
#define DOT(a, x, y) ((a) + (x) * (y))
#endif

#define SUMS 12 /* chains, so that none waits for the one before */
#define REPEATS 64
#define BLOCK ((int64_t)SUMS * REPEATS * LANES)

static lanes filled(int byte) {
    lanes made;
    memset(&made, byte, sizeof made);
    return made;
}

/* Addresses of what lives in registers are not taken: it would be stored in every turn. */
static void multiply_all(struct job *job) {
    lanes sum[SUMS], x = filled(3), y = filled(1);
#pragma GCC unroll 12
    for (int i = 0; i < SUMS; i++) sum[i] = filled(i); /* alike, they would be computed once */
    for (int64_t turn = 0; turn < job->times; turn++) {
        for (int repeat = 0; repeat < REPEATS; repeat++) {
#if defined(__x86_64__)
            __asm__ volatile("" : "+v"(x)); /* not known, so that no product is computed before */
#else
            __asm__ volatile("" : "+w"(x));
#endif
#pragma GCC unroll 12
            for (int i = 0; i < SUMS; i++) sum[i] = DOT(sum[i], x, y);
        }
    }
    lanes all = sum[0];
#pragma GCC unroll 12
    for (int i = 1; i < SUMS; i++) all ^= sum[i];
    uint8_t bytes[sizeof all];
    memcpy(bytes, &all, sizeof all);
    for (size_t i = 0; i < sizeof bytes; i++) job->left += bytes[i];
}

struct thread {
    struct job *job;
    void (*work)(struct job *);
};

static void *run(void *given) {
    struct thread *thread = given;
    struct job *job = thread->job;
    if (job->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(job->cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    pthread_barrier_wait(job->start);
    clock_gettime(CLOCK_MONOTONIC, &job->began);
    thread->work(job);
    clock_gettime(CLOCK_MONOTONIC, &job->ended);
    return NULL;
}

static double at(struct timespec t) { return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }

static double run_all(struct job *jobs, int count, void (*work)(struct job *)) {
    struct thread threads[MOST];
    pthread_t ids[MOST];
    pthread_barrier_t start;
    cpu_set_t set;
    int cpu = 0, usable = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 0;
    pthread_barrier_init(&start, NULL, (unsigned)count);
    for (int i = 0; i < count; i++) {
        jobs[i].start = &start;
        jobs[i].cpu = -1;
        if (count <= usable) {
            while (!CPU_ISSET(cpu, &set)) cpu++;
            jobs[i].cpu = cpu++;
        }
        threads[i] = (struct thread){&jobs[i], work};
        if (pthread_create(&ids[i], NULL, run, &threads[i])) abort();
    }
    for (int i = 0; i < count; i++) pthread_join(ids[i], NULL);
    pthread_barrier_destroy(&start);
    double began = at(jobs[0].began), ended = at(jobs[0].ended);
    for (int i = 1; i < count; i++) {
        if (at(jobs[i].began) < began) began = at(jobs[i].began);
        if (at(jobs[i].ended) > ended) ended = at(jobs[i].ended);
    }
    return ended - began;
}

/* The instructions that multiply. */
const char *limit_dot_name(void) { return NAME; }

/* Memory that is really there, in huge pages where the system gives them; NULL: there is none. */
uint8_t *limit_memory(size_t bytes) {
    size_t size = (bytes + 2 * HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    uint8_t *found = aligned_alloc(HUGE_PAGE, size);
    if (!found) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(found, size, MADV_HUGEPAGE);
#endif
    memset(found, 1, size);
    return found;
}

/* Seconds for reading `bytes` of memory `times` times; each thread reads its own part. */
double limit_read(const uint8_t *memory, size_t bytes, int64_t times, int threads) {
    struct job jobs[MOST] = {0};
    size_t part = bytes / (size_t)threads / 256 * 256;
    for (int i = 0; i < threads; i++) {
        jobs[i].begin = memory + part * (size_t)i;
        jobs[i].bytes = part;
        jobs[i].times = times;
    }
    return run_all(jobs, threads, read_all);
}

/* Seconds for that many products and as many additions, shared by all threads. */
double limit_dot(int64_t products, int threads) {
    struct job jobs[MOST] = {0};
    int64_t blocks = (products + BLOCK - 1) / BLOCK;
    for (int i = 0; i < threads; i++)
        jobs[i].times = blocks * (i + 1) / threads - blocks * i / threads;
    return run_all(jobs, threads, multiply_all);
}
