/* The second product: the graph with global shapes, for an engine that has a partitioner of its own. Such a partitioner
 * takes one program for all devices, so every node runs on the whole mesh. */
#include "emit/emit.h"

static mth_status check_place(const mth__graph *g, const mth__node *n, const mth__placement *on) {
    if (on == g->mesh->whole) return NULL;
    char where[256];
    mth__placement_write(where, sizeof where, on);
    mth_status s = FAIL(MTH_ERROR_UNSUPPORTED,
        F("%s runs on %s, and a partitioner's program runs on the whole mesh", n->op->name, where),
        F("use mesh_context='mpmd', which gives each device a program of its own, or take the device or stage from the "
          "operator"));
    s = mth__error_source(mth__error_operator(s, n->label.module ? n->label.module : n->op->name), n->label.source);
    return mth__error_tensor(s, mth__value_text(n->out[0]));
}

mth_status mth__emit_global(mth__arena *arena, const mth__graph *g, mth__program **out) {
    for (size_t i = 0; i < g->node.n; i++) {
        const mth__node *n = g->node.at[i];
        TRY(check_place(g, n, n->on));
        for (int j = 0; j < n->nin; j++) TRY(check_place(g, n, n->in[j]->sharding.on));
    }
    return mth__emit_program(arena, g, &(mth__emit_options){.views = false}, true, out);
}
