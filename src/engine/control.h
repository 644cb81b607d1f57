/* What a run is given besides its buffers: whether to end early, where to record what it did, whom to ask before bytes
 * go from one device to another. */
#ifndef MTH__CONTROL_H
#define MTH__CONTROL_H
#include "base/label.h"
#include "base/stop.h"
#include "base/types.h"
#include "engine/record.h"

/* A piece of a tensor that is about to go from one device's memory into another's: a box of a channel's tensor. */
typedef struct mth__crossing {
    const char *channel;     /* its label, "linear_1: transfer" */
    const mth__label *label; /* of the instruction that it is for */
    int from, to;
    mth_dtype dtype;
    mth__shape shape;
    int64_t bytes;
    /* Copies the piece, row-major, `bytes` of them. */
    mth_status (*read)(const struct mth__crossing *, void *data);
    void *engine; /* what `read` needs */
    const void *move;
} mth__crossing;
/* Called before the piece goes. An error ends the run. */
typedef mth_status mth__crossing_hook(void *context, const mth__crossing *);
/* All of it may be absent, and the control itself NULL. */
typedef struct {
    const mth__stop *stop;
    mth__recorder *recorder;
    mth__crossing_hook *crossing; /* traits.crossings says whether the engine calls it; UNSUPPORTED where it doesn't */
    void *crossing_context;
} mth__control;

static inline const mth__stop *mth__control_stop(const mth__control *control) { return control ? control->stop : NULL; }
static inline mth__recorder *mth__control_recorder(const mth__control *control) {
    return control ? control->recorder : NULL;
}
/* For an engine that asks nobody: an error where somebody is to be asked. */
static inline mth_status mth__control_uncrossed(const mth__control *control) {
    if (!control || !control->crossing) return NULL;
    return FAIL(MTH_ERROR_UNSUPPORTED, F("this engine can't say beforehand what goes from device to device"),
        F("use the torch engine or the reference engine, or run without a hook of crossings"));
}
#endif
