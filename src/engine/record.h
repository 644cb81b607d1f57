/* What a run did, and when: each thread writes to a ring of its own, without locks, and one reader takes the events
 * out, also while threads write. A full ring drops what comes, and counts it. */
#ifndef MTH__RECORD_H
#define MTH__RECORD_H
#include "base/status.h"
#include <stdint.h>

typedef struct {
    int32_t device, stream;
    int32_t first, last; /* instructions of the device's role; -1: the engine does not know them */
    int64_t begin, end;  /* nanoseconds of mth__record_now */
} mth__recorded;
typedef struct mth__recorder mth__recorder;

/* Rings for so many threads, of at least so many events each. Freed when no run uses it. */
mth_status mth__recorder_new(int threads, size_t events, mth__recorder **out);
void mth__recorder_free(mth__recorder *);
/* By the thread that ran the instructions. */
void mth__record(mth__recorder *, const mth__recorded *);
int64_t mth__record_now(void);
/* Moves at most `most` events to `out`, those of a thread in the order in which it wrote them; returns how many. One
   reader at a time. */
size_t mth__recorder_take(mth__recorder *, mth__recorded *out, size_t most);
int64_t mth__recorder_dropped(const mth__recorder *); /* since it was made */
#endif
