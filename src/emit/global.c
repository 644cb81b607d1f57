/* The second product: the graph with global shapes, for an engine that has a partitioner of its own. Such a partitioner
 * takes one program for all devices, so every node runs on the whole mesh. */
#include "emit/emit.h"

static mth_status check_place(const mth__graph *graph, const mth__node *node, const mth__placement *on) {
    if (on == graph->mesh->whole) return NULL;
    char where[256];
    mth__placement_write(where, sizeof where, on);
    mth_status status = FAIL(MTH_ERROR_UNSUPPORTED,
        F("%s runs on %s, and a partitioner's program runs on the whole mesh", node->op->name, where),
        F("use mesh_context='mpmd', which gives each device a program of its own, or take the device or stage from the "
          "operator"));
    status = mth__error_source(
        mth__error_operator(status, node->label.module ? node->label.module : node->op->name), node->label.source);
    return mth__error_tensor(status, mth__value_text(node->out[0]));
}

mth_status mth__emit_global(mth__arena *arena, const mth__graph *graph, mth__program **out) {
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        TRY(check_place(graph, node, node->on));
        for (int j = 0; j < node->nin; j++) TRY(check_place(graph, node, node->in[j]->sharding.on));
    }
    return mth__emit_program(arena, graph, &(mth__emit_options){.views = false}, true, out);
}
