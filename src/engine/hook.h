/* Hooks of crossings, as users set them: a backend's hook sees each piece of a tensor before it goes from one device to
 * another. Engines with traits.crossings announce pieces to control->crossing, which a run points here. */
#ifndef MTH__HOOK_H
#define MTH__HOOK_H
#include "engine/backend.h"

typedef struct mth__hook mth__hook;
/* What the backend has now, NULL: nothing; it stays, whatever is set meanwhile, until it is let go of. */
mth__hook *mth__hook_hold(mth_backend *);
void mth__hook_let_go(mth__hook *);
void mth__hook_forget_calls(mth__hook *); /* in a child by fork: threads that called it are not there */
/* control->crossing, with a mth__hook_run as its context */
typedef struct {
    mth__hook *hook;
    const mth__stop *stop; /* of the run: asked while another call of the hook goes on */
} mth__hook_run;
mth_status mth__hook_call(void *run, const mth__crossing *);
/* An error where this thread is in a call of the backend's hook: a run would wait for its own end. */
mth_status mth__hook_check_outside(const mth_backend *);
#endif
