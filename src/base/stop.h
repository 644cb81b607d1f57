/* Whether a caller wants long work to end: it is asked between pieces of the work, and what ends so has changed
 * nothing. */
#ifndef MTH__STOP_H
#define MTH__STOP_H
#include "base/status.h"

/* asked(context) is true once the work should end, and from then on. A call has its own; NULL, or one whose `asked` is
 * NULL, asks nothing. */
typedef struct {
    bool (*asked)(void *context);
    void *context;
} mth__stop;
static inline bool mth__stop_asked(const mth__stop *stop) { return stop && stop->asked && stop->asked(stop->context); }

const mth__stop *mth__thread_stop(void); /* what mth_set_interrupt_check set for this thread */
static inline bool mth__thread_stopped(void) { return mth__stop_asked(mth__thread_stop()); }
mth_status mth__interrupted(void); /* the error: MTH_ERROR_INTERRUPTED */
enum { MTH__STOP_EVERY = 256 };    /* a long walk of short steps asks at every so many of them */
static inline mth_status mth__stop_check(void) { return mth__thread_stopped() ? mth__interrupted() : NULL; }
#endif
