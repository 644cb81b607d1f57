/* The vtable of the engine "pjrt". */
#include "base/cores.h"
#include "engine/pjrt/hlo.h"
#include "engine/pjrt/pjrt.h"
#include <string.h>

static const mth__opt *const tables[] = {mth__mesh_options, mth__communication_options, mth__pjrt_options,
    mth__partition_options, mth__machine_options, NULL};

static const char *lacks(const mth__node *node, int *at) {
    *at = -1;
    if (!mth__hlo_rows[node->op->row] && !(node->op->flags & MTH__COMM))
        return "the XLA engine has no StableHLO for this row";
    if (node->op->flags & MTH__MOVES || node->op->row == MTH__ROW_cast) return NULL;
    *at = mth__first_floating_but(node, MTH_FLOAT32);
    if (*at < 0) return NULL;
    return mth__is_half(mth__operand_or_result(node, *at)->dtype)
        ? "the XLA engine computes in float32 alone"
        : "the XLA engine computes in float32; the reference engine has float64";
}

/* A CPU's devices share the machine. */
static int cores(mth__engine *engine) { return strcmp(engine->platform_name, "cpu") ? 0 : mth__core_count(); }

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
