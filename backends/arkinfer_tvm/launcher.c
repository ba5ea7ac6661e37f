/* Runs a list of compiled kernels on a few threads, as one parallel region. Knows no model, no file
 * and no TVM library.
 *
 * Every thread walks the whole list. A call has jobs 0 … n-1, which threads claim, a few at a time,
 * so that a thread that lost its processor delays little; where a call says so, all threads meet
 * before the next one. Kernels follow the packed calls of TVM 0.27 (`Argument` is its TVMFFIAny) and
 * take the jobs that they are to do as their last two arguments, [first, last). */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define IDLE 1000000     /* nanoseconds: longer than what lies between two steps of a caller */
#define PHASE_SPINS 4000 /* in a step, before the processor is offered to others */
#define CLAIMS 8         /* of each thread and call, about */
#define MOST_ARGUMENTS 32
#define LINE 64
#define AHEAD (64 << 10) /* bytes that a thread asks for while it waits: a part of a second cache */

enum { INTEGER = 1 }; /* kTVMFFIInt of tvm_ffi/c_api.h */

/* `own`: the value is an offset into the memory that each thread has for itself. */
typedef struct {
  int32_t type;
  uint32_t own;
  union { int64_t number; char *pointer; } value;
} Argument;
typedef int (*Kernel)(void *self, const Argument *arguments, int32_t count, Argument *result);
typedef struct {
  Kernel kernel;
  int64_t first, count;   /* its arguments */
  const int64_t *jobs;    /* how many there are, known when the step begins */
  int64_t meet;           /* whether all threads wait for each other afterwards */
  const char *stream;     /* what its jobs read in order, as much each; NULL: nothing of that kind */
  int64_t bytes;          /* of the stream */
} Call;

typedef struct {
  const Call *calls;
  int64_t count;
  const Argument *arguments;
  char *own; /* `stride` bytes for each thread */
  int64_t stride;
  int64_t *ends; /* NULL: nobody wants to know when calls end */
  int64_t start;
} Step;

typedef struct Pool {
  int threads; /* the caller is one of them */
  int *cpus;   /* NULL: threads may move; else one for each, the caller's first */
  pid_t process;
  pthread_t *workers;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  int asleep; /* under the lock */
  atomic_int stopping;
  Step step;
  atomic_uint *claimed; /* of each call, jobs that somebody has taken */
  _Alignas(64) atomic_uint begun; /* steps */
  _Alignas(64) atomic_uint arrived;
  _Alignas(64) atomic_uint phase;
  _Alignas(64) atomic_llong failed; /* 1 + the call that failed first, or 0 */
  char message[512];
} Pool;

typedef struct { Pool *pool; int thread; } Member;

/* What a thread asks the memory for while it waits: the beginning of its part of the next stream. */
typedef struct { int64_t call; const char *at, *end; } Ahead;

static _Thread_local char message[512];

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int64_t grain(const Pool *pool, int64_t jobs) {
  int64_t some = jobs / (pool->threads * CLAIMS);
  return some < 1 ? 1 : some;
}

/* After the call `done`. Between streams memory is idle, and so are most threads. */
static void look_ahead(const Pool *pool, const Step *step, int64_t done, int thread, Ahead *ahead) {
  if (ahead->call > done) return;
  *ahead = (Ahead){step->count, NULL, NULL};
  for (int64_t call = done + 1; call < step->count; call++) {
    const Call *next = &step->calls[call];
    int64_t jobs = *next->jobs, first = thread * grain(pool, jobs);
    if (next->stream == NULL) continue;
    ahead->call = call;
    if (first >= jobs) return;
    int64_t begin = next->bytes / jobs * first, size = next->bytes - begin;
    ahead->at = next->stream + begin;
    ahead->end = ahead->at + (size < AHEAD ? size : AHEAD);
    return;
  }
}

/* All threads of the pool wait here for each other. */
static void meet(Pool *pool, Ahead *ahead) {
  unsigned phase = atomic_load(&pool->phase);
  if (atomic_fetch_add(&pool->arrived, 1) == (unsigned)pool->threads - 1) {
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->phase, phase + 1);
    return;
  }
  for (int spins = 0; atomic_load(&pool->phase) == phase; spins++) {
    if (ahead->at < ahead->end) {
      __builtin_prefetch(ahead->at, 0, 2);
      ahead->at += LINE;
    } else if (spins < PHASE_SPINS) relax();
    else sched_yield(); /* somebody lost the processor */
  }
}

static void fail(Pool *pool, int64_t call) {
  long long none = 0;
  if (atomic_compare_exchange_strong(&pool->failed, &none, call + 1))
    memcpy(pool->message, message, sizeof message);
}

/* The jobs of one call that this thread gets. Of a stream it begins with those that it may have
 * asked for. */
static void work(Pool *pool, const Step *step, int64_t call, int thread) {
  const Call *each = &step->calls[call];
  int64_t jobs = *each->jobs, some = grain(pool, jobs);
  int64_t shared = each->stream ? some * pool->threads : 0; /* from where on jobs are anybody's */
  Argument list[MOST_ARGUMENTS + 2];
  int ready = 0;
  for (int turn = 0;; turn++) {
    int64_t first = some * thread;
    if (turn || !shared)
      first = shared + atomic_fetch_add_explicit(&pool->claimed[call], some, memory_order_relaxed);
    if (first >= jobs) return;
    if (!ready) {
      memcpy(list, step->arguments + each->first, each->count * sizeof *list);
      for (int64_t i = 0; i < each->count; i++)
        if (list[i].own) {
          list[i].value.pointer = step->own + thread * step->stride + list[i].value.number;
          list[i].own = 0;
        }
      list[each->count] = list[each->count + 1] = (Argument){INTEGER, 0, {0}};
      ready = 1;
    }
    list[each->count].value.number = first;
    list[each->count + 1].value.number = first + some < jobs ? first + some : jobs;
    Argument result = {0, 0, {0}};
    message[0] = 0;
    if (each->kernel(NULL, list, (int32_t)each->count + 2, &result)) {
      fail(pool, call);
      return;
    }
  }
}

static void walk(Pool *pool, int thread) {
  Step step = pool->step; /* after the last call, the next step may begin before all have left it */
  Ahead ahead = {-1, NULL, NULL};
  for (int64_t call = 0; call < step.count; call++) {
    work(pool, &step, call, thread);
    if (step.calls[call].meet || step.ends || call + 1 == step.count) {
      look_ahead(pool, &step, call, thread, &ahead);
      meet(pool, &ahead);
    }
    if (step.ends && thread == 0) step.ends[call] = now() - step.start;
  }
}

/* Waits a while for the next step; to wake a thread that sleeps takes some 50 microseconds. */
static void idle(Pool *pool, unsigned seen) {
  for (int64_t until = now() + IDLE; now() < until;)
    for (int spins = 0; spins < 50; spins++) {
      if (atomic_load(&pool->begun) != seen) return;
      relax();
    }
}

static void *serve(void *given) {
  Member self = *(Member *)given;
  Pool *pool = self.pool;
  unsigned seen = 0;
  free(given);
  for (;;) {
    idle(pool, seen);
    if (atomic_load(&pool->begun) == seen) {
      pthread_mutex_lock(&pool->lock);
      pool->asleep++;
      while (atomic_load(&pool->begun) == seen) pthread_cond_wait(&pool->wake, &pool->lock);
      pool->asleep--;
      pthread_mutex_unlock(&pool->lock);
    }
    seen++;
    if (atomic_load(&pool->stopping)) return NULL;
    walk(pool, self.thread);
  }
}

static void begin(Pool *pool) {
  pthread_mutex_lock(&pool->lock); /* whoever is about to sleep sees it, or is woken */
  atomic_fetch_add(&pool->begun, 1);
  if (pool->asleep) pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

/* What a kernel calls when its arguments are wrong. */
EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  int used = snprintf(message, sizeof message, "%s: ", kind);
  for (int i = 0; i < count && used < (int)sizeof message; i++)
    if (parts[i]) used += snprintf(message + used, sizeof message - used, "%s", parts[i]);
}

static int start(Pool *pool) {
  Member *member = malloc(sizeof *member);
  if (member == NULL) return 0;
  *member = (Member){pool, pool->threads};
  if (pthread_create(&pool->workers[pool->threads], NULL, serve, member)) {
    free(member);
    return 0;
  }
  return 1;
}

static void stay(pthread_t thread, int cpu) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(cpu, &one);
  pthread_setaffinity_np(thread, sizeof one, &one);
}

static void discard(Pool *pool) {
  free(pool->workers);
  free(pool->claimed);
  free(pool->cpus);
  free(pool);
}

/* A pool of `threads` for steps of at most `calls`; fewer threads when the system gives no more;
 * NULL without memory. With `cpus`, thread i stays on processor cpus[i]; the caller while a step
 * runs, and only if it would share another thread's. */
EXPORT Pool *ark_open(int threads, int64_t calls, const int *cpus) {
  Pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
  if (pool == NULL) return NULL;
  memset(pool, 0, sizeof *pool);
  pool->workers = calloc(threads, sizeof *pool->workers);
  pool->claimed = calloc(calls + 1, sizeof *pool->claimed);
  if (pool->workers == NULL || pool->claimed == NULL) {
    discard(pool);
    return NULL;
  }
  pool->threads = 1;
  pool->process = getpid();
  if (cpus && (pool->cpus = malloc(threads * sizeof *cpus)))
    memcpy(pool->cpus, cpus, threads * sizeof *cpus);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  sigset_t all, before; /* signals are the caller's */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->threads < threads && start(pool)) {
    if (cpus) stay(pool->workers[pool->threads], cpus[pool->threads]);
    pool->threads++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool;
}

EXPORT int ark_threads(const Pool *pool) { return pool->threads; }

/* Whether the caller is on the processor of one of the workers. */
static int in_the_way(const Pool *pool) {
  int here = pool->cpus ? sched_getcpu() : -1;
  for (int i = 1; i < pool->threads && here >= 0; i++)
    if (pool->cpus[i] == here) return 1;
  return 0;
}

/* Runs the calls in order, and writes down when each has ended where there is room for that, in
 * nanoseconds after the first has begun. Returns 0, or 1 + the index of the call that failed. */
EXPORT int64_t ark_run(Pool *pool, const Call *calls, int64_t count, const Argument *arguments,
                       char *own, int64_t stride, int64_t *ends) {
  if (count == 0) return 0;
  if (pool->process != getpid()) { /* a fork has no workers */
    pool->threads = 1;
    atomic_store(&pool->arrived, 0);
  }
  memset(pool->claimed, 0, count * sizeof *pool->claimed);
  atomic_store(&pool->failed, 0);
  pool->step = (Step){calls, count, arguments, own, stride, ends, ends ? now() : 0};
  cpu_set_t before;
  int moved = in_the_way(pool) && !pthread_getaffinity_np(pthread_self(), sizeof before, &before);
  if (moved) stay(pthread_self(), pool->cpus[0]);
  if (pool->threads > 1) begin(pool);
  walk(pool, 0);
  if (moved) pthread_setaffinity_np(pthread_self(), sizeof before, &before);
  return atomic_load(&pool->failed);
}

/* Why the last run failed. */
EXPORT const char *ark_message(const Pool *pool) { return pool->message; }

/* In a fork there is nobody to wait for, and its condition variable still counts the sleepers. */
EXPORT void ark_close(Pool *pool) {
  if (pool->process == getpid()) {
    atomic_store(&pool->stopping, 1);
    begin(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
  }
  discard(pool);
}
