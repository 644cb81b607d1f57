/* Threads that stay, one for each device: for engines that drive each device from a thread of its own, because calls
 * wait for the device or because a library keeps settings by thread. They are made at the first run, and in the child
 * of a fork, which has none of its parent's, at its first; between runs they sleep. No signal reaches them, so those of
 * the process, such as Ctrl-C, arrive at the threads of the program. */
#ifndef MTH__CREW_H
#define MTH__CREW_H
#include "base/stop.h"
#include <stdint.h>

typedef struct mth__crew mth__crew;
/* Each thread calls `begin` before its first work; NULL: nothing. */
mth_status mth__crew_new(int devices, void (*begin)(void *context, int device), void *context, mth__crew **out);
void mth__crew_free(mth__crew *); /* NULL is fine; no run is under way */

/* Calls work(context, device) for each of the n devices on its thread, and returns when all have returned. Who calls
 * during another's run waits for its end, unless `stop` is asked for meanwhile: then, and where the system gives no
 * thread, nothing was called. */
mth_status mth__crew_run(mth__crew *, const int32_t *device, int n, void (*work)(void *context, int device),
    void *context, const mth__stop *stop);
#endif
