/* Tests of what is done to a graph: g, over a mesh of four devices, and b, which builds in it. */
#ifndef GRAPH_CASE_H
#define GRAPH_CASE_H
#include "catalog/rows.h"
#include "unit.h"

typedef struct {
    void (*run)(mth__graph *, mth__builder *);
} graph_case;
static mth_status in_graph(void *argument) {
    mth__arena *arena = mth__arena_new();
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (int64_t[]){4}, &mesh));
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder builder = {.graph = graph, .label = mth__label_outside("block_0", MTH__FORWARD)};
    ((graph_case *)argument)->run(graph, &builder);
    mth__arena_free(arena);
    return NULL;
}
#define IN_GRAPH(id)                                                                                                   \
    static void in_##id(mth__graph *g, mth__builder *b);                                                               \
    TEST(id) { CHECK_STATUS(mth__guard(in_graph, &(graph_case){in_##id})); }                                           \
    static void in_##id(mth__graph *g, __attribute__((unused)) mth__builder *b)
#endif
