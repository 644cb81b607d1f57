/* communication_optimization, after reshard: fewer messages for the same numbers. What is there need not travel
 * (redundant.c); an all_reduce of which only one part is kept becomes a reduce_scatter; small all_reduces of one group
 * that don't wait for each other become one, and so do all_gathers, reduce_scatters, and transfers of the same way.
 * Each element is summed by the same devices as before. */
#include "distribute/decide.h"
#include <string.h>

/* Of one that is merged and of a merged one, at most: bytes that take so many times the latency that merging saves;
 * 64 KiB and 1 MiB on the nominal machine. */
static const double SMALL = 0.65536, BATCH = 10.48576;

typedef struct {
    mth__graph *graph;
    mth__arena *arena;
} communication_pass;

/* keep splits one dimension further by just the axis that was reduced: all devices but one of each part reduced in
 * vain. */
static void scatter_instead(communication_pass *pass) {
    mth__graph *graph = pass->graph;
    const int *uses = mth__graph_uses(pass->arena, graph);
    bool *kept = NEW_ARRAY(pass->arena, bool, graph->node.n + 1);
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i], *reduction = node->op->row == MTH__ROW_keep ? node->in[0]->node : NULL;
        kept[i] = true;
        if (!reduction || reduction->op->row != MTH__ROW_all_reduce || uses[node->in[0]->id] != 1) continue;
        mth__value *terms = reduction->in[0];
        if (node->on != reduction->on || terms->sharding.reduce != MTH__REDUCE_SUM) continue;
        mth__move moves[MTH__MOST_MOVES];
        size_t element = mth_dtype_size(terms->dtype);
        int count = mth__moves(terms->shape, element, &terms->sharding, &node->out[0]->sharding, moves);
        if (count != 1 || moves[0].row != MTH__ROW_reduce_scatter) continue;
        node->op = mth__op_at(MTH__ROW_reduce_scatter);
        node->attrs = moves[0].attrs;
        node->need[0] = terms->sharding;
        node->in[0] = terms;
        kept[reduction->id] = false;
    }
    mth__graph_keep(graph, kept);
}

/* ---------------------------------------------------------------- merging */
/* A value of which each device holds the same part of a row of `parts` equal parts can be laid beside others: (parts,
 * elements / parts), split by the axes of its one split dimension. 0: it can't. */
static int64_t parts_of(const mth__value *value) {
    int64_t parts = 1;
    for (int d = 0; d < value->shape.rank; d++) {
        const mth__split *split = &value->sharding.dim[d];
        if (!split->naxes) continue;
        if (split->cyclic || parts > 1) return 0;
        for (int m = 0; m < d; m++)
            if (value->shape.dim[m] != 1) return 0;
        for (int k = 0; k < split->naxes; k++) parts *= value->sharding.on->dim[split->axis[k]];
        if (value->shape.dim[d] % parts || (split->grain > 1 && value->shape.dim[d] / parts % split->grain)) return 0;
    }
    return parts;
}
static const mth__split *split_of(const mth__value *value) {
    for (int d = 0; d < value->shape.rank; d++)
        if (value->sharding.dim[d].naxes) return &value->sharding.dim[d];
    return NULL;
}

/* The larger of what is there before and behind: bytes of a device. */
static int64_t bytes_of(const mth__node *node) {
    int64_t a = mth__local_size(node->in[0]->shape, &node->in[0]->sharding),
            b = mth__local_size(node->in[0]->shape, &node->out[0]->sharding);
    return (a > b ? a : b) * (int64_t)mth_dtype_size(node->in[0]->dtype);
}
/* Rows before and behind of one that gathers or scatters them: the one that has more has a multiple of the other. */
static int64_t rows_of(const mth__node *node) {
    int64_t in = parts_of(node->in[0]), out = parts_of(node->out[0]);
    return in > out ? in : out;
}

static int64_t limit_of(const mth__node *node, double latencies) {
    return mth__latency_bytes(node->in[0]->sharding.on, node->attrs.axes, latencies);
}

static bool mergeable(const mth__node *node) {
    const mth__value *value = node->in[0];
    int64_t bytes = bytes_of(node), in = parts_of(value), out = parts_of(node->out[0]);
    if (bytes <= 0 || bytes >= limit_of(node, SMALL) || !in || !out) return false;
    /* in a pipeline each has its turn */
    if (node->op->row == MTH__ROW_transfer)
        return node->label.region < 0 && !value->sharding.partial && in == 1 && out == 1;
    if (node->op->row == MTH__ROW_all_gather) return !value->sharding.partial;
    return (node->op->row == MTH__ROW_all_reduce || node->op->row == MTH__ROW_reduce_scatter) &&
        value->sharding.partial == node->attrs.axes;
}
static bool same_rows(const mth__value *x, const mth__value *y) {
    const mth__split *split = split_of(x), *other = split_of(y);
    if (split && other && (split->naxes != other->naxes || memcmp(split->axis, other->axis, (size_t)split->naxes)))
        return false;
    return !split == !other && x->sharding.on == y->sharding.on && x->sharding.partial == y->sharding.partial &&
        x->sharding.reduce == y->sharding.reduce;
}
static bool together(const mth__node *a, const mth__node *b) {
    const mth__value *x = a->in[0], *y = b->in[0];
    /* merged, `a` would wait for the operand of `b`, which is made later */
    if (b->op->row == MTH__ROW_transfer && y->node && y->node->id > a->id) return false;
    return a->op == b->op && x->dtype == y->dtype && same_rows(x, y) && same_rows(a->out[0], b->out[0]) &&
        mth__same_unit(&a->label, &b->label);
}

enum { OPEN = 8, WINDOW = 64 };
typedef struct {
    int n, arrived;
    int64_t bytes;
    bool closed;
    mth__node *node[MTH__MAX_IN];
} batch;

static mth__sharding row_sharding(const mth__value *value, int64_t rows) { /* of (rows, elements) */
    mth__sharding sharding = {.on = value->sharding.on};
    const mth__split *split = split_of(value);
    if (split) {
        sharding.dim[0] = *split;
        sharding.dim[0].grain = 0;
    }
    sharding.partial = value->sharding.partial;
    sharding.reduce = value->sharding.reduce;
    mth__sharding_canonical(&sharding, (mth__shape){2, {rows, 1}});
    return sharding;
}

static mth_status reshape(mth__graph *graph, const mth__node *like, mth__value *value, mth__shape to,
    const mth__sharding *result, mth__value **out) {
    mth__attrs attrs = mth__attrs_of_shape(to);
    return mth__node_like(graph, like, MTH__ROW_reshape, &attrs, 1, &value, &value->sharding, result, out);
}

static mth_status emit_batch(mth__rewrite *rewrite, const batch *members) {
    mth__graph *graph = rewrite->graph;
    mth__node *like = members->node[0];
    int64_t rows = rows_of(like), at = 0;
    mth__sharding apart = row_sharding(like->in[0], rows), joined = row_sharding(like->out[0], rows),
                  needs[MTH__MAX_IN];
    mth__value *row[MTH__MAX_IN], *all;
    for (int k = 0; k < members->n; k++) {
        mth__value *value = members->node[k]->in[0];
        TRY(reshape(
            graph, like, value, (mth__shape){2, {rows, mth__shape_size(value->shape) / rows}}, &apart, &row[k]));
        needs[k] = apart;
    }
    TRY(mth__node_like(
        graph, like, MTH__ROW_concat, &(mth__attrs){.dimension = 1}, members->n, row, needs, &apart, &all));
    mth__attrs over = {.axes = like->attrs.axes};
    TRY(mth__node_like(graph, like, like->op->row, &over, 1, &all, &apart, &joined, &all));
    for (int k = 0; k < members->n; k++) {
        mth__value *old = members->node[k]->out[0], *piece;
        int64_t width = row[k]->shape.dim[1];
        TRY(mth__node_like(graph, members->node[k], MTH__ROW_slice,
            &(mth__attrs){.dimension = 1, .start = at, .stop = at + width}, 1, &all, &joined, &joined, &piece));
        TRY(reshape(graph, members->node[k], piece, old->shape, &old->sharding, &piece));
        piece->name = old->name;
        piece->origin = old->origin;
        mth__rewrite_replace(rewrite, old, piece);
        at += width;
    }
    return NULL;
}

/* First, which become one. A walk over the nodes leaves aside what waits for an open batch, so that all that doesn't
 * comes first and may join it; when WINDOW nodes wait, the batches that they wait for are closed. */
typedef struct {
    mth__arena *arena;
    batch *open[OPEN], **of; /* of: by node */
    bool *aside;             /* by node */
    mth__node *waiting[WINDOW];
    int waits;
} gathering;

static void close(gathering *pass, batch *joined) {
    for (int k = 0; k < OPEN; k++)
        if (pass->open[k] == joined) pass->open[k] = NULL;
    joined->closed = true;
}

static void join(gathering *pass, mth__node *node) {
    int64_t bytes = bytes_of(node);
    int to = -1, empty = -1;
    for (int k = 0; k < OPEN; k++) {
        if (!pass->open[k])
            empty = k;
        else if (to < 0 && together(pass->open[k]->node[0], node))
            to = k;
    }
    if (to >= 0 && (pass->open[to]->n == MTH__MAX_IN || pass->open[to]->bytes + bytes > limit_of(node, BATCH)))
        close(pass, pass->open[empty = to]), to = -1;
    if (to < 0) {
        to = empty >= 0 ? empty : node->id % OPEN;
        if (pass->open[to]) close(pass, pass->open[to]);
        pass->open[to] = NEW(pass->arena, batch);
    }
    batch *joined = pass->of[node->id] = pass->open[to];
    joined->node[joined->n++] = node;
    joined->bytes += bytes;
}

static void release(gathering *pass);

static void consider(gathering *pass, mth__node *node) {
    pass->aside[node->id] = false;
    for (int j = 0; j < node->nin && !pass->aside[node->id]; j++) {
        const mth__node *maker = node->in[j]->node;
        pass->aside[node->id] =
            maker && (pass->aside[maker->id] || (pass->of[maker->id] && !pass->of[maker->id]->closed));
    }
    if (!pass->aside[node->id]) {
        if (mergeable(node)) join(pass, node);
        return;
    }
    pass->waiting[pass->waits++] = node;
    if (pass->waits == WINDOW) release(pass);
}

/* the first of those that wait goes on: WINDOW is not reached again inside */
static void release(gathering *pass) {
    mth__node *waiting[WINDOW];
    int n = pass->waits;
    for (int i = 0; i < n; i++) {
        waiting[i] = pass->waiting[i];
        for (int j = 0; j < waiting[i]->nin; j++) {
            batch *joined = waiting[i]->in[j]->node ? pass->of[waiting[i]->in[j]->node->id] : NULL;
            if (joined && !joined->closed) close(pass, joined);
        }
    }
    pass->waits = 0;
    for (int i = 0; i < n; i++) consider(pass, waiting[i]);
}

/* Then the nodes in their order, except that a batch stands where its last one stood, and what reads it behind. */
typedef struct {
    mth__graph *graph;
    batch **of;
    bool *made;
    int values;
    VEC(mth__node *) late;
    mth__arena *arena;
    mth__rewrite *rewrite;
} placing;

static bool ready(const placing *pass, const mth__node *node) {
    for (int j = 0; j < node->nin; j++)
        if (node->in[j]->node && node->in[j]->id < pass->values && !pass->made[node->in[j]->id]) return false;
    return true;
}

static mth_status place(placing *pass, mth__node *node, bool *closed) {
    batch *joined = pass->of[node->id];
    mth__rewrite_operands(pass->rewrite, node);
    if (!joined || joined->n == 1) {
        mth__rewrite_push(pass->rewrite, node);
        for (int k = 0; k < node->nout; k++) pass->made[node->out[k]->id] = true;
    } else if (++joined->arrived == joined->n) {
        TRY(emit_batch(pass->rewrite, joined));
        for (int k = 0; k < joined->n; k++) pass->made[joined->node[k]->out[0]->id] = true;
        *closed = true;
    }
    return NULL;
}

static mth_status place_late(placing *pass) {
    for (bool closed = true; closed;) {
        size_t kept = 0, n = pass->late.n;
        closed = false;
        for (size_t i = 0; i < n; i++) {
            mth__node *node = pass->late.at[i];
            if (ready(pass, node))
                TRY(place(pass, node, &closed));
            else
                pass->late.at[kept++] = node;
        }
        pass->late.n = kept;
    }
    return NULL;
}

static mth_status merge(communication_pass *pass) {
    mth__graph *graph = pass->graph;
    const size_t nodes = graph->node.n;
    gathering *groups = NEW(pass->arena, gathering);
    *groups = (gathering){.arena = pass->arena,
        .of = NEW_ARRAY(pass->arena, batch *, nodes),
        .aside = NEW_ARRAY(pass->arena, bool, nodes)};
    for (size_t i = 0; i < nodes; i++) consider(groups, graph->node.at[i]);
    while (groups->waits) release(groups);
    mth__rewrite rewrite = mth__rewrite_begin(pass->arena, graph);
    placing walk = {.graph = graph,
        .of = groups->of,
        .made = NEW_ARRAY(pass->arena, bool, graph->values),
        .values = graph->values,
        .arena = pass->arena,
        .rewrite = &rewrite};
    for (size_t i = 0; i < nodes; i++) {
        mth__node *node = rewrite.old[i];
        bool closed = false;
        if (!ready(&walk, node))
            PUSH(walk.arena, walk.late, node);
        else
            TRY(place(&walk, node, &closed));
        if (closed) TRY(place_late(&walk));
    }
    mth__rewrite_end(&rewrite);
    return NULL;
}

static mth_status optimize(mth__graph *graph, mth__arena *arena) {
    communication_pass pass = {.graph = graph, .arena = arena};
    TRY(mth__drop_redundant(graph));
    scatter_instead(&pass);
    return merge(&pass);
}

mth_status mth__communication(mth__graph *graph, const mth__distribute_options *options) {
    if (options->communication_optimization) {
        mth__arena *arena = mth__arena_new();
        mth_status status = optimize(graph, arena);
        mth__arena_free(arena);
        TRY(status);
    }
    return options->pipeline_communication ? mth__chunk_communication(graph, options) : NULL;
}
