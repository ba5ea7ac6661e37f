/* Runs steps of known arithmetic on the launcher, to be compiled with the thread sanitizer: each call
 * adds what the one before it left, so that a thread that runs ahead, or a job done twice, shows. */
#include "launcher.c"

void *__TVMBackendParallelLaunch;

enum { WIDTH = 97, CALLS = 40 };
static int64_t rows[CALLS + 1][WIDTH];
static const int64_t jobs[3] = {WIDTH, 1, 0};

static int add(void *self, const Argument *list, int32_t count, Argument *result) {
  const int64_t *from = (const int64_t *)list[0].value.pointer;
  int64_t *to = (int64_t *)list[1].value.pointer, *own = (int64_t *)list[2].value.pointer;
  (void)self, (void)count, (void)result;
  for (int64_t i = list[3].value.number; i < list[4].value.number; i++) {
    *own = from[i] + from[(i + 1) % WIDTH];
    to[i] = *own % 1000003;
  }
  return 0;
}

static int wrong(void *self, const Argument *list, int32_t count, Argument *result) {
  const char *parts[] = {"row ", "too long"};
  (void)self, (void)list, (void)count, (void)result;
  TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 2);
  return -1;
}

int main(int count, char **given) {
  int threads = atoi(given[1]), steps = atoi(given[2]);
  Pool *pool = ark_open(threads, CALLS, NULL);
  char *own = aligned_alloc(64, 64 * threads);
  Argument arguments[3 * CALLS];
  Call calls[CALLS];
  int64_t expected[WIDTH], next[WIDTH], ends[CALLS];
  (void)count;
  for (int c = 0; c < CALLS; c++) {
    arguments[3 * c] = (Argument){4, 0, {.pointer = (char *)rows[c]}};
    arguments[3 * c + 1] = (Argument){4, 0, {.pointer = (char *)rows[c + 1]}};
    arguments[3 * c + 2] = (Argument){4, 1, {.number = 8}};
    calls[c] = (Call){add, 3 * c, 3, &jobs[0], 1, NULL, 0};
    if (c % 3 == 0) { /* jobs that read in order: threads begin with their own, and look ahead */
      calls[c].stream = (const char *)rows[c];
      calls[c].bytes = sizeof rows[c];
    }
  }
  for (int step = 0; step < steps; step++) {
    for (int i = 0; i < WIDTH; i++) expected[i] = rows[0][i] = step * 31 + i;
    for (int c = 0; c < CALLS; c++) {
      for (int i = 0; i < WIDTH; i++) next[i] = (expected[i] + expected[(i + 1) % WIDTH]) % 1000003;
      memcpy(expected, next, sizeof next);
    }
    if (ark_run(pool, calls, CALLS, arguments, own, 64, step % 3 ? NULL : ends)) return 2;
    if (memcmp(expected, rows[CALLS], sizeof expected)) return 3;
    if (step % 50 == 7) usleep(2000); /* workers fall asleep */
  }
  calls[3].kernel = wrong;
  calls[5].jobs = calls[9].jobs = &jobs[2]; /* of the second, a stream, there is nothing to read */
  calls[6].jobs = &jobs[1];
  int64_t failed = ark_run(pool, calls, CALLS, arguments, own, 64, NULL);
  printf("%d threads, call %d: %s\n", ark_threads(pool), (int)failed, ark_message(pool));
  ark_close(pool);
  free(own);
  return 0;
}
