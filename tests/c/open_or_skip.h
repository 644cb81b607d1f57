/* A backend for a test. Whoever skips says why. */
#ifndef OPEN_OR_SKIP_H
#define OPEN_OR_SKIP_H
#include "unit.h"

/* NULL where the engine needs a plugin and none is installed; any other error fails the test. */
static mth_backend *open_or_skip(const char *engine, int devices) {
    mth_backend *backend = NULL;
    mth_status status = mth_backend_create(engine, MTH_OPTIONS({"device_mesh", MTH_INTS(devices)}), &backend);
    if (status && mth_error_get_code(status) == MTH_ERROR_IO) {
        SKIP("%s", mth_error_get_what(status));
        mth_error_free(status);
    } else
        CHECK_STATUS(status);
    return backend;
}
#endif
