#include "base/rewrite.h"
#include <string.h>

mth__value *mth__graph_source(const mth__graph *graph, size_t k) {
    if (k < graph->input.n) return graph->input.at[k];
    k -= graph->input.n;
    return k < graph->parameter.n ? graph->parameter.at[k] : graph->seed.at[k - graph->parameter.n];
}

void *mth__by_value_grow(mth__arena *arena, void *at, int *room, size_t element, int id) {
    const int had = *room, need = id < 32 ? 64 : 2 * id;
    char *grown = mth__alloc_array(arena, (size_t)need, element);
    if (had) memcpy(grown, at, (size_t)had * element);
    *room = need;
    return grown;
}

int *mth__graph_uses(mth__arena *arena, const mth__graph *graph) {
    int *uses = NEW_ARRAY(arena, int, graph->values);
    for (size_t i = 0; i < graph->node.n; i++)
        for (int j = 0; j < graph->node.at[i]->nin; j++) uses[graph->node.at[i]->in[j]->id]++;
    for (size_t i = 0; i < graph->output.n; i++) uses[graph->output.at[i].value->id]++;
    return uses;
}

void mth__graph_number(mth__graph *graph) {
    for (size_t i = 0; i < graph->node.n; i++) graph->node.at[i]->id = (int)i;
}

void mth__graph_keep(mth__graph *graph, const bool *kept) {
    size_t count = 0;
    for (size_t i = 0; i < graph->node.n; i++)
        if (kept[i]) graph->node.at[count++] = graph->node.at[i];
    graph->node.n = count;
    mth__graph_number(graph);
}

/* ---------------------------------------------------------------- rewriting */
mth__rewrite mth__rewrite_begin(mth__arena *arena, mth__graph *graph) {
    mth__rewrite rewrite = {.graph = graph, .arena = arena, .old = graph->node.at, .nodes = graph->node.n};
    graph->node.at = NULL;
    graph->node.n = graph->node.room = 0;
    return rewrite;
}

mth__value *mth__rewrite_current(const mth__rewrite *rewrite, mth__value *value) {
    while (value->id < rewrite->instead.room && rewrite->instead.at[value->id]) value = rewrite->instead.at[value->id];
    return value;
}

void mth__rewrite_operands(const mth__rewrite *rewrite, mth__node *node) {
    for (int j = 0; j < node->nin; j++) node->in[j] = mth__rewrite_current(rewrite, node->in[j]);
}

void mth__rewrite_replace(mth__rewrite *rewrite, const mth__value *value, mth__value *by) {
    *AT_VALUE(rewrite->arena, rewrite->instead, value) = by;
}

void mth__rewrite_push(mth__rewrite *rewrite, mth__node *node) {
    node->id = (int)rewrite->graph->node.n;
    PUSH(rewrite->graph->arena, rewrite->graph->node, node);
}

void mth__rewrite_end(mth__rewrite *rewrite) {
    mth__graph *graph = rewrite->graph;
    for (size_t i = 0; i < graph->output.n; i++)
        graph->output.at[i].value = mth__rewrite_current(rewrite, graph->output.at[i].value);
    mth__graph_number(graph);
}
