/* Included before the launcher: makes its library load on systems with an older glibc than that of
 * the machine that compiles it. glibc 2.34 gave what it moved out of libpthread a new version, and
 * has the old one, too. A new function here shows in a test of tests/backends/tvm/test_build.py. */
#include <features.h>
#ifdef __GLIBC__
#if defined(__x86_64__)
#define FIRST "GLIBC_2.2.5"
#define SINCE_AFFINITY "GLIBC_2.3.4"
#elif defined(__aarch64__)
#define FIRST "GLIBC_2.17"
#define SINCE_AFFINITY "GLIBC_2.17"
#endif
#ifdef FIRST
__asm__(".symver pthread_create, pthread_create@" FIRST);
__asm__(".symver pthread_join, pthread_join@" FIRST);
__asm__(".symver pthread_sigmask, pthread_sigmask@" FIRST);
__asm__(".symver pthread_getaffinity_np, pthread_getaffinity_np@" SINCE_AFFINITY);
__asm__(".symver pthread_setaffinity_np, pthread_setaffinity_np@" SINCE_AFFINITY);
#endif
#endif
