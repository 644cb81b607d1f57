/* What passes over a graph share: its sources, tables beside it by value id, and the rewriting of its nodes. A pass
 * keeps what it knows in such tables, in an arena of its own; no field of a node or value is lent to it.
 *
 *     mth__rewrite rewrite = mth__rewrite_begin(arena, graph);   takes the graph's nodes away: they are in rewrite.old
 *     for (size_t i = 0; i < rewrite.nodes; i++) {
 *         mth__node *node = rewrite.old[i];
 *         mth__rewrite_operands(&rewrite, node);                 each operand is replaced as decided before
 *         if (...)
 *             mth__rewrite_replace(&rewrite, node->out[0], other);   readers to come take `other` instead
 *         else
 *             mth__rewrite_push(&rewrite, node);                 it stays, behind what mth__build made meanwhile
 *     }
 *     mth__rewrite_end(&rewrite);                                outputs are replaced in the same way */
#ifndef MTH__REWRITE_H
#define MTH__REWRITE_H
#include "base/graph.h"

/* Inputs, then parameters, then seeds, each in order. */
static inline size_t mth__graph_sources(const mth__graph *graph) {
    return graph->input.n + graph->parameter.n + graph->seed.n;
}
mth__value *mth__graph_source(const mth__graph *, size_t k);

/* A table by value id, zero where nothing was put. It grows as the graph gets values: a pointer into it holds until the
   next id above all before. BY_VALUE(int) uses = {0};  *AT_VALUE(arena, uses, value) += 1; */
#define BY_VALUE(type)                                                                                                 \
    struct {                                                                                                           \
        type *at;                                                                                                      \
        int room;                                                                                                      \
    }
#define AT_VALUE(arena, table, value)                                                                                  \
    ((value)->id < (table).room                                                                                        \
            ? &(table).at[(value)->id]                                                                                 \
            : ((table).at = mth__by_value_grow(arena, (table).at, &(table).room, sizeof *(table).at, (value)->id),     \
                  &(table).at[(value)->id]))
void *mth__by_value_grow(mth__arena *, void *at, int *room, size_t element, int id);

/* By value id: how many operands and outputs it is. */
int *mth__graph_uses(mth__arena *, const mth__graph *);
/* A node's id is its position from here on. */
void mth__graph_number(mth__graph *);
/* Those whose `kept`, by position, is false leave; the others are numbered. */
void mth__graph_keep(mth__graph *, const bool *kept);

typedef struct {
    mth__graph *graph;
    mth__arena *arena; /* of the pass */
    mth__node **old;
    size_t nodes;
    BY_VALUE(mth__value *) instead;
} mth__rewrite;
mth__rewrite mth__rewrite_begin(mth__arena *, mth__graph *);
mth__value *mth__rewrite_current(const mth__rewrite *, mth__value *); /* its replacement, or itself if it has none */
void mth__rewrite_operands(const mth__rewrite *, mth__node *);
void mth__rewrite_replace(mth__rewrite *, const mth__value *, mth__value *by);
void mth__rewrite_push(mth__rewrite *, mth__node *);
void mth__rewrite_end(mth__rewrite *);
#endif
