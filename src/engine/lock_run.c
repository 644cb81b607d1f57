/* Locks that are held for the length of a run. */
#include "engine/engine.h"
#include <errno.h>
#include <time.h>

mth_status mth__lock_run(pthread_mutex_t *lock, const mth__stop *stop) {
    enum { PATIENCE = 10 * 1000 * 1000 /* ns between two looks at stop */, SECOND = 1000 * 1000 * 1000 };
    if (pthread_mutex_trylock(lock) == 0) return NULL;
    for (;;) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += PATIENCE;
        if (until.tv_nsec >= SECOND) {
            until.tv_nsec -= SECOND;
            until.tv_sec++;
        }
        if (pthread_mutex_timedlock(lock, &until) != ETIMEDOUT) return NULL;
        if (mth__stop_asked(stop)) return mth__interrupted();
    }
}
