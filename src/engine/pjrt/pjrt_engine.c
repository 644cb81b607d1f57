/* The vtable of the engine "pjrt". */
#include "base/cores.h"
#include "engine/pjrt/hlo.h"
#include "engine/pjrt/pjrt.h"
#include <string.h>

static const mth__opt *const tables[] = {mth__mesh_options, mth__communication_options, mth__pjrt_options,
    mth__partition_options, mth__machine_options, NULL};

static const char *lacks(const mth__op *op, mth_dtype dtype) {
    const int row = mth__op_index(op);
    if (!mth__hlo_rows[row] && !(op->flags & MTH__COMM)) return "the XLA engine has no StableHLO for this row";
    if (op->flags & MTH__MOVES) return NULL;
    if (row == MTH__ROW_cast) return NULL;
    if (dtype == MTH_FLOAT64) return "the XLA engine computes in float32; the reference engine has float64";
    return mth__is_half(dtype) ? "the XLA engine computes in float32 alone" : NULL;
}

/* A CPU's devices share the machine. */
static int cores(mth__engine *e) { return strcmp(e->platform_name, "cpu") ? 0 : mth__core_count(); }

const mth__engine_vtable mth__engine_pjrt = {
    .name = "pjrt",
    .options = tables,
    .traits = {.streams = 2, .allocates = true, .pads = true},
    .cores = cores,
    .open = mth__pjrt_open,
    .close = mth__pjrt_close,
    .describe = mth__pjrt_describe,
    .lacks = lacks,
    .memory =
        {
            .new = mth__pjrt_buffer_new,
            .borrow = mth__pjrt_buffer_borrow,
            .retain = mth__pjrt_buffer_retain,
            .release = mth__pjrt_buffer_release,
            .host = mth__pjrt_buffer_host,
            .fill = mth__pjrt_buffer_fill,
            .write = mth__pjrt_buffer_write,
            .read = mth__pjrt_buffer_read,
        },
    .check_global = mth__pjrt_check_global,
    .load = mth__pjrt_load,
    .unload = mth__pjrt_unload,
    .run = mth__pjrt_run,
    .stablehlo = mth__pjrt_stablehlo,
    .explain = mth__pjrt_explain,
    .usage = mth__pjrt_memory,
};
