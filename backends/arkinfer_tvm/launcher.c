/* Runs a list of compiled kernels on a few threads. Knows no model, no file and no TVM library.
 *
 * Kernels follow two conventions of TVM 0.27: its packed calls (`Argument` is its TVMFFIAny) and
 * its parallel loops, which call a launcher through __TVMBackendParallelLaunch. */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define SPINS 2000     /* some microseconds: longer than what lies between two kernels */
#define TASKS 4        /* per thread, so that a thread that lost its processor delays little */

typedef struct { int32_t type; uint32_t padding; void *value; } Argument;
typedef int (*Kernel)(void *self, const Argument *arguments, int32_t count, Argument *result);
typedef struct { Kernel kernel; int64_t first; int64_t count; } Call;

typedef struct { void *sync; int32_t tasks; } Group;
typedef int (*Task)(int index, Group *group, void *data);

/* A round is one parallel loop. Its tasks are claimed one by one through `ticket`, whose upper half
 * is the round and whose lower half the next task: a worker that comes late finds nothing left, and
 * the caller never waits for a worker that has not begun. Between rounds, all tasks are claimed. */
typedef struct Pool {
  int threads; /* the caller is one of them */
  pid_t process;
  pthread_t *workers;
  pthread_mutex_t lock;
  pthread_cond_t wake;
  atomic_int asleep;
  atomic_int stopping;
  atomic_uint_fast64_t ticket;
  atomic_int done;
  atomic_int failed;
  Task task;
  void *data;
  Group group;
} Pool;

static _Thread_local Pool *current;
static _Thread_local char message[512];

static void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static int available(Pool *pool) {
  return (uint32_t)atomic_load(&pool->ticket) < (uint32_t)pool->group.tasks;
}

/* Runs one task, if there is one. */
static int help(Pool *pool) {
  uint_fast64_t ticket = atomic_load(&pool->ticket);
  do {
    if ((uint32_t)ticket >= (uint32_t)pool->group.tasks) return 0;
  } while (!atomic_compare_exchange_weak(&pool->ticket, &ticket, ticket + 1));
  /* The round cannot end before this task does, so `task` and `data` are its own. */
  if (pool->task((int)(uint32_t)ticket, &pool->group, pool->data)) atomic_store(&pool->failed, 1);
  atomic_fetch_add(&pool->done, 1);
  return 1;
}

static void *work(void *given) {
  Pool *pool = given;
  for (int spins = 0; !atomic_load(&pool->stopping);) {
    if (help(pool)) {
      spins = 0;
    } else if (spins++ < SPINS) {
      relax();
    } else {
      pthread_mutex_lock(&pool->lock);
      atomic_fetch_add(&pool->asleep, 1);
      while (!available(pool) && !atomic_load(&pool->stopping))
        pthread_cond_wait(&pool->wake, &pool->lock);
      atomic_fetch_sub(&pool->asleep, 1);
      pthread_mutex_unlock(&pool->lock);
      spins = 0;
    }
  }
  return NULL;
}

static void wake(Pool *pool) {
  if (atomic_load(&pool->asleep) == 0) return;
  pthread_mutex_lock(&pool->lock);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->lock);
}

/* What a parallel loop calls: every task takes its share of the loop's range. */
static int launch(Task task, void *data, int32_t wanted) {
  Pool *pool = current;
  (void)wanted;
  if (pool->threads == 1) {
    Group group = {NULL, 1};
    return task(0, &group, data);
  }
  pool->task = task;
  pool->data = data;
  atomic_store(&pool->done, 0);
  atomic_store(&pool->failed, 0);
  atomic_store(&pool->ticket, ((atomic_load(&pool->ticket) >> 32) + 1) << 32);
  wake(pool);
  while (help(pool)) continue;
  for (int spins = 0; atomic_load(&pool->done) < pool->group.tasks; spins++) {
    if (spins < SPINS) relax();
    else sched_yield(); /* a worker lost its processor within a task */
  }
  return atomic_load(&pool->failed) ? -1 : 0;
}

extern void *__TVMBackendParallelLaunch;

__attribute__((constructor)) static void connect(void) {
  __TVMBackendParallelLaunch = (void *)launch;
}

/* What a kernel calls when its arguments are wrong. */
EXPORT void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  int used = snprintf(message, sizeof message, "%s: ", kind);
  for (int i = 0; i < count && used < (int)sizeof message; i++)
    if (parts[i]) used += snprintf(message + used, sizeof message - used, "%s", parts[i]);
}

/* A pool of `threads`; fewer when the system gives no more; NULL without memory. */
EXPORT Pool *ark_open(int threads) {
  Pool *pool = calloc(1, sizeof *pool);
  if (pool == NULL) return NULL;
  pool->workers = calloc(threads, sizeof *pool->workers);
  if (pool->workers == NULL) {
    free(pool);
    return NULL;
  }
  pool->threads = 1;
  pool->process = getpid();
  pool->group = (Group){NULL, threads * TASKS};
  atomic_store(&pool->ticket, (uint32_t)pool->group.tasks);
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->wake, NULL);
  sigset_t all, before; /* signals are the caller's */
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  while (pool->threads < threads) {
    if (pthread_create(&pool->workers[pool->threads], NULL, work, pool)) break;
    pool->threads++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return pool;
}

EXPORT int ark_threads(const Pool *pool) { return pool->threads; }

static int64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Runs the calls in order, and writes down when each has ended where there is room for that, in
 * nanoseconds after the first has begun. Returns 0, or 1 + the index of the call that failed. */
EXPORT int64_t ark_run_timed(Pool *pool, const Call *calls, int64_t count,
                             const Argument *arguments, int64_t *ends) {
  if (pool->process != getpid()) pool->threads = 1; /* a fork has no workers */
  current = pool;
  message[0] = 0;
  int64_t start = ends ? now() : 0;
  for (int64_t i = 0; i < count; i++) {
    Argument result = {0, 0, NULL};
    if (calls[i].kernel(NULL, arguments + calls[i].first, (int32_t)calls[i].count, &result))
      return i + 1;
    if (ends) ends[i] = now() - start;
  }
  return 0;
}

EXPORT int64_t ark_run(Pool *pool, const Call *calls, int64_t count, const Argument *arguments) {
  return ark_run_timed(pool, calls, count, arguments, NULL);
}

/* Why the last call on this thread failed. */
EXPORT const char *ark_message(void) { return message; }

/* In a fork there is nobody to wait for, and its condition variable still counts the sleepers. */
EXPORT void ark_close(Pool *pool) {
  if (pool->process == getpid()) {
    atomic_store(&pool->stopping, 1);
    wake(pool);
    for (int i = 1; i < pool->threads; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->lock);
  }
  free(pool->workers);
  free(pool);
}
