/* What a fork does to objects. The child has all of the memory and one of the threads: locks that others held stay
 * taken in it, and what they were changing stays half changed. So an object with a lock says here what is to be done
 * around a fork: short locks are held while it happens, so that the child finds what they guard whole; what may be held
 * for long is made anew in the child. */
#ifndef MTH__FORK_H
#define MTH__FORK_H
#include "base/status.h"

/* before; after it, in either process */
typedef enum { MTH__FORK_BEFORE, MTH__FORK_PARENT, MTH__FORK_CHILD } mth__fork_moment;
typedef struct mth__fork_watch {
    /* by the thread that forks; takes no lock in whose hold others watch or unwatch */
    void (*around)(void *object, mth__fork_moment);
    void *object;
    struct mth__fork_watch *next, **link; /* link NULL: not watched */
} mth__fork_watch;
void mth__fork_watch_add(mth__fork_watch *, void (*around)(void *, mth__fork_moment), void *object);
void mth__fork_watch_remove(mth__fork_watch *); /* one that was never added is fine */
mth_status mth__fork_ready(void);               /* MEMORY where the process could not be told to call us */

/* The lock of what the process has once, such as texts that are made when first asked for: for short work, and held
 * over a fork. A thread may take it several times. */
void mth__process_lock(void);
void mth__process_unlock(void);
#endif
