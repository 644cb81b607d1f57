/* Sleeping on a word of memory until another thread of this process changes it, and the pause of who looks at it in a
 * loop. Who waits looks at the word again when he wakes: a signal ends a sleep too. */
#ifndef MTH__FUTEX_H
#define MTH__FUTEX_H
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Sleeps while the word is `seen`; so many nanoseconds at most, fewer than a second; 0: for as long as it takes. */
static inline void mth__futex_wait(atomic_uint *word, unsigned seen, long nanoseconds) {
    const struct timespec most = {.tv_nsec = nanoseconds};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, nanoseconds ? &most : NULL, NULL, 0);
}
static inline void mth__futex_wake(atomic_uint *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Some hundred nanoseconds at most, in which the core's other thread may run. */
static inline void mth__pause(void) {
    for (int i = 0; i < 8; i++) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}
#endif
