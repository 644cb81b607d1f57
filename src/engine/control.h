/* What a run is given besides its buffers: whether to end early, where to record what it did, whom to ask before bytes
 * go from one device to another. */
#ifndef MTH__CONTROL_H
#define MTH__CONTROL_H
#include "base/stop.h"
#include "engine/record.h"

/* Before `bytes` of a channel go from device `from` into the memory of `to`. An error ends the run. */
typedef mth_status mth__crossing(void *context, const char *channel, int from, int to, int64_t bytes);
/* All of it may be absent, and the control itself NULL. */
typedef struct {
    const mth__stop *stop;
    mth__recorder *recorder;
    mth__crossing *crossing; /* traits.crossings says whether the engine calls it; UNSUPPORTED where it doesn't */
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
        F("use the reference engine, or run without a hook of crossings"));
}
#endif
