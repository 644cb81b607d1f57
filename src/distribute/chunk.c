/* pipeline_communication: a communication of more than a chunk travels in chunks along a dimension that no axis
 * splits. The matrix product that makes the value and the elementwise rows that read it are cut with it where they can
 * be, so that the chunks of one overlap with the others' (overlap.c); else the value is cut and joined again. */
#include "distribute/decide.h"
#include <string.h>

enum { CHAIN = 4, CHUNKS = 16 };
/* A chunk takes so many times the latency that each one costs: 256 KiB on the nominal machine. */
static const double CHUNK = 2.62144;
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    mth__distribute_options options;
    int *uses;          /* by value id: how many nodes read it */
    mth__node **reader; /* by value id: the last node that reads it */
    bool *absorbed;     /* by node id: cut together with its communication */
    mth__rewrite *rewrite;
} chunk_pass;
typedef struct {
    mth__node *node;
    int dim, chunks;
    mth__node *maker;
    int sliced; /* a contract whose operand `sliced` has the dimension, at sliced_dim */
    int sliced_dim;
    mth__node *chain[CHAIN];
    int links; /* readers, each of the one before */
} plan;

static bool whole_in(const mth__sharding *sharding, int d) { return sharding->dim[d].naxes == 0; }

static void find_maker(const chunk_pass *pass, plan *chunked) {
    mth__node *node = chunked->node->in[0]->node;
    if (!node || !pass->options.overlap || !(node->op->flags & MTH__PRODUCT)) return;
    if (pass->uses[node->out[0]->id] != 1 || node->on != chunked->node->in[0]->sharding.on) return;
    mth__rule rule;
    mth__op_rule(node, &rule);
    int factor = rule.out[0][chunked->dim], in = -1, dim = 0;
    for (int j = 0; j < node->nin; j++)
        for (int d = 0; d < node->in[j]->shape.rank; d++)
            if (rule.in[j][d] == factor) {
                if (in >= 0) return;
                in = j;
                dim = d;
            }
    if (in < 0 || !whole_in(&node->need[in], dim) || node->in[in]->sharding.partial) return;
    chunked->maker = node;
    chunked->sliced = in;
    chunked->sliced_dim = dim;
}

static void find_chain(const chunk_pass *pass, plan *chunked) {
    mth__value *value = chunked->node->out[0];
    while (chunked->links < CHAIN && pass->uses[value->id] == 1 && pass->reader[value->id]) {
        mth__node *node = pass->reader[value->id];
        if (!(node->op->flags & MTH__ELEMENTWISE) || (node->op->flags & MTH__NEEDS_START)) return;
        if (node->nout != 1 || node->on != value->sharding.on || !mth__shape_equal(node->out[0]->shape, value->shape))
            return;
        if (!mth__sharding_equal(&node->out[0]->sharding, &value->sharding, value->shape.rank) || mth__is_comm(node))
            return;
        for (int j = 0; j < node->nin; j++) {
            const mth__value *other = node->in[j];
            int d = chunked->dim - (value->shape.rank - other->shape.rank);
            if (other == value) continue;
            if ((d >= 0 && other->shape.dim[d] != 1) || (other->node && other->node->id > chunked->node->id)) return;
        }
        chunked->chain[chunked->links++] = node;
        value = node->out[0];
    }
}

static bool find_plan(const chunk_pass *pass, mth__node *node, plan *chunked) {
    memset(chunked, 0, sizeof *chunked);
    if (!mth__communicates(node)) return false;
    const mth__value *value = node->in[0], *to = node->out[0];
    int64_t a = mth__local_size(value->shape, &value->sharding), b = mth__local_size(value->shape, &to->sharding);
    int64_t bytes = (a > b ? a : b) * (int64_t)mth_dtype_size(value->dtype);
    int64_t chunk = mth__latency_bytes(value->sharding.on, node->attrs.axes, CHUNK);
    if (bytes <= chunk) return false;
    chunked->node = node;
    for (chunked->dim = 0; chunked->dim < value->shape.rank; chunked->dim++)
        if (value->shape.dim[chunked->dim] > 1 && whole_in(&value->sharding, chunked->dim) &&
            whole_in(&to->sharding, chunked->dim))
            break;
    if (chunked->dim == value->shape.rank) return false;
    int64_t chunks = chunk < mth__ceil_div(bytes, CHUNKS) ? CHUNKS : mth__ceil_div(bytes, chunk);
    chunked->chunks = (int)(chunks < value->shape.dim[chunked->dim] ? chunks : value->shape.dim[chunked->dim]);
    find_maker(pass, chunked);
    find_chain(pass, chunked);
    return true;
}

static mth_status cut(mth__graph *graph, const mth__node *like, mth__value *value, int dim, int64_t start, int64_t stop,
    mth__value **out) {
    mth__node placed = *like;
    return mth__node_like(graph, &placed, MTH__ROW_slice, &(mth__attrs){.dimension = dim, .start = start, .stop = stop},
        1, &value, &value->sharding, &value->sharding, out);
}

static mth_status same_node(mth__graph *graph, const mth__node *node, mth__value *const *in, mth__value **out) {
    return mth__node_like(
        graph, node, node->op->row, &node->attrs, node->nin, in, node->need, &node->out[0]->sharding, out);
}

static mth_status apply(const chunk_pass *pass, const plan *chunked) {
    mth__graph *graph = pass->graph;
    mth__node *node = chunked->node;
    mth__value *piece[CHUNKS], *last = chunked->links ? chunked->chain[chunked->links - 1]->out[0] : node->out[0];
    mth__sharding needs[CHUNKS];
    int64_t size = node->in[0]->shape.dim[chunked->dim], step = mth__ceil_div(size, chunked->chunks);
    int made = 0;
    for (int64_t start = 0; start < size; start += step, made++) {
        int64_t stop = start + step < size ? start + step : size;
        mth__value *in[MTH__MAX_IN], *value;
        if (chunked->maker) {
            for (int j = 0; j < chunked->maker->nin; j++) in[j] = chunked->maker->in[j];
            TRY(cut(
                graph, chunked->maker, in[chunked->sliced], chunked->sliced_dim, start, stop, &in[chunked->sliced]));
            TRY(same_node(graph, chunked->maker, in, &value));
        } else
            TRY(cut(graph, node, node->in[0], chunked->dim, start, stop, &value));
        TRY(same_node(graph, node, &value, &value));
        for (int k = 0; k < chunked->links; k++) {
            const mth__node *link = chunked->chain[k];
            const mth__value *before = k ? chunked->chain[k - 1]->out[0] : node->out[0];
            for (int j = 0; j < link->nin; j++) in[j] = link->in[j] == before ? value : link->in[j];
            TRY(same_node(graph, link, in, &value));
        }
        piece[made] = value;
        needs[made] = last->sharding;
    }
    mth__value *all;
    const mth__node *like = chunked->links ? chunked->chain[chunked->links - 1] : node;
    TRY(mth__node_like(graph, like, MTH__ROW_concat, &(mth__attrs){.dimension = chunked->dim}, made, piece, needs,
        &last->sharding, &all));
    all->name = last->name;
    all->origin = last->origin;
    mth__rewrite_replace(pass->rewrite, last, all);
    return NULL;
}

static mth_status chunk_nodes(chunk_pass *pass) {
    mth__graph *graph = pass->graph;
    size_t n = graph->node.n;
    plan *plans = NEW_ARRAY(pass->arena, plan, n);
    for (size_t i = 0; i < n; i++) {
        plan *chunked = &plans[i];
        if (pass->absorbed[i] || !find_plan(pass, graph->node.at[i], chunked)) {
            chunked->node = NULL;
            continue;
        }
        if (chunked->maker && pass->absorbed[chunked->maker->id]) chunked->maker = NULL;
        if (chunked->maker) pass->absorbed[chunked->maker->id] = true;
        for (int k = 0; k < chunked->links; k++) pass->absorbed[chunked->chain[k]->id] = true;
    }
    mth__rewrite rewrite = mth__rewrite_begin(pass->arena, graph);
    pass->rewrite = &rewrite;
    for (size_t i = 0; i < n; i++) {
        mth__node *node = rewrite.old[i];
        mth__rewrite_operands(&rewrite, node);
        if (plans[i].node) {
            /* operands from before may have been joined anew */
            for (int k = 0; k < plans[i].links; k++) mth__rewrite_operands(&rewrite, plans[i].chain[k]);
            TRY(apply(pass, &plans[i]));
        } else if (!pass->absorbed[i])
            mth__rewrite_push(&rewrite, node);
    }
    mth__rewrite_end(&rewrite);
    return NULL;
}

mth_status mth__chunk_communication(mth__graph *graph, const mth__distribute_options *options) {
    mth__arena *arena = mth__arena_new();
    chunk_pass pass = {.graph = graph,
        .arena = arena,
        .options = *options,
        .uses = mth__graph_uses(arena, graph),
        .reader = NEW_ARRAY(arena, mth__node *, graph->values),
        .absorbed = NEW_ARRAY(arena, bool, graph->node.n + 1)};
    for (size_t i = 0; i < graph->node.n; i++)
        for (int j = 0; j < graph->node.at[i]->nin; j++) pass.reader[graph->node.at[i]->in[j]->id] = graph->node.at[i];
    for (size_t i = 0; i < graph->output.n; i++) pass.reader[graph->output.at[i].value->id] = NULL;
    mth_status status = chunk_nodes(&pass);
    mth__arena_free(arena);
    return status;
}
