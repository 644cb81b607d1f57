/* The buffers of a run: counted, and freed with their last reader. */
#include "engine/pjrt/pjrt_job.h"

mth_status mth__buffer_destroy(mth__engine *e, PJRT_Buffer *buffer) {
    if (mth__plugin_forked(e->plugin)) return NULL;
    MTH__ARGS(PJRT_Buffer_Destroy, destroy);
    destroy.buffer = buffer;
    return mth__pjrt_status(e->plugin, e->plugin->api->PJRT_Buffer_Destroy(&destroy), "free a buffer");
}

void mth__cell_put(mth__executable *x, int slot, int device, PJRT_Buffer *buffer, bool lent) {
    mth__cell_drop(x, slot, device);
    mth__cell *c = x->unused[--x->unuseds];
    *c = (mth__cell){buffer, 1, lent};
    x->at[mth__cell_place(x, slot, device)] = c;
}

void mth__cell_share(mth__executable *x, int from_slot, int to_slot, int device) {
    mth__cell *c = x->at[mth__cell_place(x, from_slot, device)];
    mth__cell_drop(x, to_slot, device);
    c->references++;
    x->at[mth__cell_place(x, to_slot, device)] = c;
}

void mth__cell_drop(mth__executable *x, int slot, int device) {
    mth__cell **at = &x->at[mth__cell_place(x, slot, device)], *c = *at;
    *at = NULL;
    if (!c || --c->references) return;
    if (!c->lent) mth_error_free(mth__buffer_destroy(x->engine, c->buffer));
    x->unused[x->unuseds++] = c;
}
