/* Sums without their terms: where a term is made by a row that can add what it computes to a sum so far (a product, a
 * scatter, a reduction: op->accumulates), the addition leaves and the row does it, in the bytes of the sum. So a
 * parameter's gradient takes no more memory over many microbatches or uses than over one. This holds for sums of
 * gradients, and for those over microbatches; a residual sum forward stays, lest a product's blocks be rounded one by
 * one at the size of the stream.
 *
 * After schedule: which of the two operands of an addition is made later is known, and that is the one that adds. The
 * sum so far has bytes of its own, doesn't leave the program, and nobody sends it or reads it once the term is made.
 * The order of additions stays the graph's. */
#include "distribute/decide.h"
#include <string.h>

typedef struct {
    /* positions of the last two readers, -1: none; the program's end reads outputs */
    int last, before;
    mth__node *reader; /* the last one */
    bool lent;         /* a view or a communication reads it, which holds its bytes for longer */
} readers;
typedef struct {
    mth__graph *graph;
    readers *of; /* by value id */
    bool *kept;  /* by node: additions that rows do leave */
} accumulate_pass;

/* Has the result of the node bytes of its own? Emit may make a view of an alias row or of a slice. */
static bool has_bytes(const mth__node *node) {
    return !(node->op->flags & MTH__ALIAS) && node->op->row != MTH__ROW_slice;
}

static void read_at(accumulate_pass *pass, const mth__value *value, int at, mth__node *by) {
    readers *uses = &pass->of[value->id];
    uses->before = uses->last;
    uses->last = at;
    uses->reader = by;
    uses->lent |= by && (!has_bytes(by) || mth__communicates(by));
}

static bool same(const mth__value *a, const mth__value *b) {
    return a->dtype == b->dtype && mth__shape_equal(a->shape, b->shape) &&
        mth__sharding_equal(&a->sharding, &b->sharding, a->shape.rank);
}

static bool of_microbatches(const mth__node *a, const mth__node *b) {
    return a->label.region >= 0 && a->label.region == b->label.region && a->label.microbatch != b->label.microbatch;
}

/* The node that adds the term to a sum so far, which is made before the term and has the addition as its last reader;
 * NULL: there is none. */
static mth__node *addition_of(const accumulate_pass *pass, const mth__value *term, mth__value **sum) {
    const readers *of_term = &pass->of[term->id];
    mth__node *add = of_term->reader;
    if (of_term->before >= 0 || !add || add->op->row != MTH__ROW_add || add->on != term->node->on) return NULL;
    *sum = add->in[add->in[0] == term];
    const mth__node *maker = (*sum)->node;
    const readers *of_sum = &pass->of[(*sum)->id];
    if (!maker || maker->id >= term->node->id || !has_bytes(maker)) return NULL;
    if (of_sum->lent || of_sum->reader != add || of_sum->before >= term->node->id) return NULL;
    if (!mth__makes_gradients(add->label.phase) && !of_microbatches(maker, term->node)) return NULL;
    return same(*sum, term) && same(add->out[0], term) ? add : NULL;
}

/* All results that the row can add, or none. */
static void fuse(accumulate_pass *pass, mth__node *node) {
    mth__node *add[MTH__MAX_OUT];
    mth__value *sum[MTH__MAX_OUT];
    const int sums = __builtin_popcount(node->op->accumulates);
    if (node->nin + sums > MTH__MAX_IN) return;
    for (int k = 0; k < node->nout; k++)
        if (node->op->accumulates >> k & 1 && !(add[k] = addition_of(pass, node->out[k], &sum[k]))) return;
    mth__value **in = NEW_ARRAY(pass->graph->arena, mth__value *, node->nin + sums);
    mth__sharding *need = NEW_ARRAY(pass->graph->arena, mth__sharding, node->nin + sums);
    memcpy(in, node->in, sizeof *in * (size_t)node->nin);
    memcpy(need, node->need, sizeof *need * (size_t)node->nin);
    for (int k = 0, j = node->nin; k < node->nout; k++) {
        if (!(node->op->accumulates >> k & 1)) continue;
        in[j] = sum[k];
        need[j++] = sum[k]->sharding;
        node->out[k] = add[k]->out[0];
        node->out[k]->node = node;
        node->out[k]->index = k;
        pass->kept[add[k]->id] = false;
    }
    node->in = in;
    node->need = need;
    node->nin += sums;
    node->accumulates = true;
}

mth_status mth__accumulate(mth__graph *graph) {
    mth__arena *arena = mth__arena_new();
    accumulate_pass pass = {.graph = graph,
        .of = NEW_ARRAY(arena, readers, graph->values),
        .kept = NEW_ARRAY(arena, bool, graph->node.n + 1)};
    for (int id = 0; id < graph->values; id++) pass.of[id] = (readers){.last = -1, .before = -1};
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i];
        pass.kept[i] = true;
        for (int j = 0; j < node->nin; j++) read_at(&pass, node->in[j], (int)i, node);
    }
    for (size_t i = 0; i < graph->output.n; i++) read_at(&pass, graph->output.at[i].value, (int)graph->node.n, NULL);
    for (size_t i = 0; i < graph->node.n; i++)
        if (pass.kept[i] && graph->node.at[i]->op->accumulates) fuse(&pass, graph->node.at[i]);
    mth__graph_keep(graph, pass.kept);
    mth__arena_free(arena);
    return NULL;
}
