/* Opens the engines that need no plugin, with what tests vary of their options. */
#ifndef OPEN_ENGINE_H
#define OPEN_ENGINE_H
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" /* no test uses all of them */
#endif
#include "engine/engine.h"

/* `threads` of the native engine; whether the reference engine has one for each device. */
static mth_status open_engine_with(
    const mth__engine_vtable *vt, const mth__mesh *mesh, int threads, bool device_threads, mth__engine **out) {
    static const mth__opt options[] = {
        {"threads", MTH__OPT_SIZE, "None", "", NULL}, {"device_threads", MTH__OPT_BOOL, "False", "", NULL}, {0}};
    mth_arg value[] = {mth_int(threads), mth_bool(device_threads)};
    return vt->open(&(mth__engine_setup){mesh, (const mth__opt *const[]){options, NULL}, value}, out);
}
static mth_status open_engine(const mth__engine_vtable *vt, const mth__mesh *mesh, mth__engine **out) {
    return open_engine_with(vt, mesh, 2, false, out);
}
#endif
