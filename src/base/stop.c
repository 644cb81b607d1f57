#include "base/stop.h"

static _Thread_local mth__stop thread_stop;

void mth_set_interrupt_check(bool (*asked)(void *context), void *context) { thread_stop = (mth__stop){asked, context}; }
const mth__stop *mth__thread_stop(void) { return &thread_stop; }

mth_status mth__interrupted(void) {
    return FAIL(MTH_ERROR_INTERRUPTED, F("the call was interrupted"), F("call again: nothing has changed"));
}

mth_status mth_check_interrupt(void) { return mth__stop_check(); }
