/* The buffers of a run. A cell counts the slots that hold its buffer, and the last one to drop it frees the buffer. */
#include "engine/pjrt/pjrt_job.h"

mth_status mth__buffer_destroy(mth__engine *engine, PJRT_Buffer *buffer) {
    if (mth__plugin_forked(engine->plugin)) return NULL;
    MTH__ARGS(PJRT_Buffer_Destroy, destroy);
    destroy.buffer = buffer;
    return mth__pjrt_status(engine->plugin, engine->plugin->api->PJRT_Buffer_Destroy(&destroy), "free a buffer");
}

void mth__cell_put(mth__executable *executable, int slot, int device, PJRT_Buffer *buffer, bool lent) {
    mth__cell_drop(executable, slot, device);
    mth__cell *cell = executable->unused[--executable->unuseds];
    *cell = (mth__cell){buffer, 1, lent};
    *mth__cell_of(executable, slot, device) = cell;
}

void mth__cell_share(mth__executable *executable, int from_slot, int to_slot, int device) {
    mth__cell *cell = *mth__cell_of(executable, from_slot, device);
    mth__cell_drop(executable, to_slot, device);
    cell->references++;
    *mth__cell_of(executable, to_slot, device) = cell;
}

void mth__cell_drop(mth__executable *executable, int slot, int device) {
    mth__cell **at = mth__cell_of(executable, slot, device), *cell = *at;
    *at = NULL;
    if (!cell || --cell->references) return;
    if (!cell->lent) mth_error_free(mth__buffer_destroy(executable->engine, cell->buffer));
    executable->unused[executable->unuseds++] = cell;
}
