/* overlap_communication: communication begins as early, and its consumers stand as late, as the dependencies allow, so
 * that independent computation goes between (emit makes START/WAIT pairs). A list scheduler in simulated time with a
 * window of nodes: of those that are ready, communication first; then the first node whose operands have arrived; then
 * the first one of all. The window bounds how far a node moves, and with that what a pipeline's schedule and the memory
 * lose. */
#include "distribute/decide.h"
#include <string.h>

enum { WINDOW = 48 };

mth_status mth__overlap(mth__graph *graph, const mth__distribute_options *options) {
    if (!options->overlap || !graph->node.n) return NULL;
    mth__arena *arena = mth__arena_new();
    size_t n = graph->node.n;
    mth__node **order = NEW_ARRAY(arena, mth__node *, n);
    /* by old position: when its results are there */
    double *arrives = NEW_ARRAY(arena, double, n), now = 0, link = 0;
    bool *done = NEW_ARRAY(arena, bool, n);
    size_t first = 0;
    for (size_t made = 0; made < n; made++) {
        while (done[first]) first++;
        size_t pick = n, fallback = n;
        for (size_t i = first, seen = 0; i < n && seen < WINDOW && pick == n; i++) {
            const mth__node *node = graph->node.at[i];
            if (done[i]) continue;
            seen++;
            bool ready = true;
            for (int j = 0; j < node->nin && ready; j++) ready = !node->in[j]->node || done[node->in[j]->node->id];
            if (ready && mth__communicates(node))
                pick = i;
            else if (ready && fallback == n)
                fallback = i;
        }
        for (size_t i = first, seen = 0; i < n && seen < WINDOW && pick == n; i++) {
            const mth__node *node = graph->node.at[i];
            if (done[i]) continue;
            seen++;
            bool ready = true;
            for (int j = 0; j < node->nin && ready; j++)
                ready = !node->in[j]->node || (done[node->in[j]->node->id] && arrives[node->in[j]->node->id] <= now);
            if (ready) pick = i;
        }
        if (pick == n) pick = fallback; /* the first node left is always ready */
        mth__node *node = graph->node.at[pick];
        double begin = mth__communicates(node) ? link : now, seconds = mth__cost_node(node);
        for (int j = 0; j < node->nin; j++)
            if (node->in[j]->node && arrives[node->in[j]->node->id] > begin) begin = arrives[node->in[j]->node->id];
        if (mth__communicates(node) && begin < now) begin = now;
        arrives[pick] = begin + seconds;
        if (mth__communicates(node))
            link = arrives[pick];
        else
            now = arrives[pick];
        done[pick] = true;
        order[made] = node;
    }
    memcpy(graph->node.at, order, sizeof *order * n);
    mth__graph_number(graph);
    mth__arena_free(arena);
    return NULL;
}
