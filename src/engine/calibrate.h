/* The machine of a backend: built in, a user's file, or measured. */
#ifndef MTH__CALIBRATE_H
#define MTH__CALIBRATE_H
#include "engine/engine.h"

/* By the value of the option `machine`: "h100", a path, "calibrate", "calibrate:PATH". */
mth_status mth__machine_choose(
    mth__arena *, const mth__engine_vtable *, const mth__engine_setup *, const char *value, mth__machine **out);
#endif
