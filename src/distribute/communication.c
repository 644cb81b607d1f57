/* communication_optimization, after reshard: fewer messages for the same numbers. What is there need not travel
 * (redundant.c); an all_reduce of which only one part is kept becomes a reduce_scatter; small all_reduces of one group
 * that don't wait for each other become one, and so do all_gathers, reduce_scatters, and transfers of the same way.
 * Each element is summed by the same devices as before. */
#include "distribute/decide.h"
#include <string.h>

static const int64_t SMALL = 64 << 10, BATCH = 1 << 20; /* bytes of one that is merged, of a merged one */

typedef struct {
    mth__graph *graph;
    mth__arena *arena;
} communication_pass;

static bool is(const mth__node *n, enum mth__row row) { return n->op == mth__row_op(row); }

/* keep splits one dimension further by just the axis that was reduced: all devices but one of each part reduced in
 * vain. */
static void scatter_instead(communication_pass *s) {
    mth__graph *graph = s->graph;
    const int *uses = mth__graph_uses(s->arena, graph);
    bool *kept = NEW_ARRAY(s->arena, bool, graph->node.n + 1);
    for (size_t i = 0; i < graph->node.n; i++) {
        mth__node *node = graph->node.at[i], *reduction = is(node, MTH__ROW_keep) ? node->in[0]->node : NULL;
        kept[i] = true;
        if (!reduction || !is(reduction, MTH__ROW_all_reduce) || uses[node->in[0]->id] != 1) continue;
        mth__value *terms = reduction->in[0];
        if (node->on != reduction->on || terms->sharding.reduce != MTH__REDUCE_SUM) continue;
        mth__move moves[MTH__MOST_MOVES];
        size_t element = mth_dtype_size(terms->dtype);
        int count = mth__moves(terms->shape, element, &terms->sharding, &node->out[0]->sharding, moves);
        if (count != 1 || moves[0].row != MTH__ROW_reduce_scatter) continue;
        node->op = mth__row_op(MTH__ROW_reduce_scatter);
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
static int64_t parts_of(const mth__value *v) {
    int64_t parts = 1;
    for (int d = 0; d < v->shape.rank; d++) {
        const mth__split *s = &v->sharding.dim[d];
        if (!s->naxes) continue;
        if (s->cyclic || parts > 1) return 0;
        for (int e = 0; e < d; e++)
            if (v->shape.dim[e] != 1) return 0;
        for (int k = 0; k < s->naxes; k++) parts *= v->sharding.on->dim[s->axis[k]];
        if (v->shape.dim[d] % parts || (s->grain > 1 && v->shape.dim[d] / parts % s->grain)) return 0;
    }
    return parts;
}
static const mth__split *split_of(const mth__value *v) {
    for (int d = 0; d < v->shape.rank; d++)
        if (v->sharding.dim[d].naxes) return &v->sharding.dim[d];
    return NULL;
}

/* The larger of what is there before and behind: bytes of a device. */
static int64_t bytes_of(const mth__node *n) {
    int64_t a = mth__local_size(n->in[0]->shape, &n->in[0]->sharding),
            b = mth__local_size(n->in[0]->shape, &n->out[0]->sharding);
    return (a > b ? a : b) * (int64_t)mth_dtype_size(n->in[0]->dtype);
}
/* Rows before and behind of one that gathers or scatters them: the one that has more has a multiple of the other. */
static int64_t rows_of(const mth__node *n) {
    int64_t in = parts_of(n->in[0]), out = parts_of(n->out[0]);
    return in > out ? in : out;
}

static bool mergeable(const mth__node *n) {
    const mth__value *v = n->in[0];
    int64_t bytes = bytes_of(n), in = parts_of(v), out = parts_of(n->out[0]);
    if (bytes <= 0 || bytes >= SMALL || !in || !out) return false;
    /* in a pipeline each has its turn */
    if (is(n, MTH__ROW_transfer)) return n->label.region < 0 && !v->sharding.partial && in == 1 && out == 1;
    if (is(n, MTH__ROW_all_gather)) return !v->sharding.partial;
    return (is(n, MTH__ROW_all_reduce) || is(n, MTH__ROW_reduce_scatter)) && v->sharding.partial == n->attrs.axes;
}
static bool same_rows(const mth__value *x, const mth__value *y) {
    const mth__split *s = split_of(x), *t = split_of(y);
    if (s && t && (s->naxes != t->naxes || memcmp(s->axis, t->axis, (size_t)s->naxes))) return false;
    return !s == !t && x->sharding.on == y->sharding.on && x->sharding.partial == y->sharding.partial &&
        x->sharding.reduce == y->sharding.reduce;
}
static bool together(const mth__node *a, const mth__node *b) {
    const mth__value *x = a->in[0], *y = b->in[0];
    /* a would wait for what b sends */
    if (is(b, MTH__ROW_transfer) && y->node && y->node->id > a->id) return false;
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

static mth__sharding row_sharding(const mth__value *v, int64_t rows) { /* of (rows, elements) */
    mth__sharding s = {.on = v->sharding.on};
    const mth__split *split = split_of(v);
    if (split) {
        s.dim[0] = *split;
        s.dim[0].grain = 0;
    }
    s.partial = v->sharding.partial;
    s.reduce = v->sharding.reduce;
    mth__sharding_canonical(&s, (mth__shape){2, {rows, 1}});
    return s;
}

static mth_status reshape(
    mth__graph *g, const mth__node *like, mth__value *v, mth__shape to, const mth__sharding *result, mth__value **out) {
    mth__attrs a = mth__attrs_of_shape(to);
    return mth__node_like(g, like, MTH__ROW_reshape, &a, 1, &v, &v->sharding, result, out);
}

static mth_status emit_batch(mth__rewrite *rewrite, const batch *b) {
    mth__graph *g = rewrite->graph;
    mth__node *like = b->node[0];
    int64_t rows = rows_of(like), at = 0;
    mth__sharding apart = row_sharding(like->in[0], rows), joined = row_sharding(like->out[0], rows),
                  needs[MTH__MAX_IN];
    mth__value *row[MTH__MAX_IN], *all;
    for (int k = 0; k < b->n; k++) {
        mth__value *v = b->node[k]->in[0];
        TRY(reshape(g, like, v, (mth__shape){2, {rows, mth__shape_size(v->shape) / rows}}, &apart, &row[k]));
        needs[k] = apart;
    }
    TRY(mth__node_like(g, like, MTH__ROW_concat, &(mth__attrs){.dimension = 1}, b->n, row, needs, &apart, &all));
    mth__attrs over = {.axes = like->attrs.axes};
    TRY(mth__node_like(g, like, (enum mth__row)mth__op_index(like->op), &over, 1, &all, &apart, &joined, &all));
    for (int k = 0; k < b->n; k++) {
        mth__value *old = b->node[k]->out[0], *piece;
        int64_t width = row[k]->shape.dim[1];
        TRY(mth__node_like(g, b->node[k], MTH__ROW_slice,
            &(mth__attrs){.dimension = 1, .start = at, .stop = at + width}, 1, &all, &joined, &joined, &piece));
        TRY(reshape(g, b->node[k], piece, old->shape, &old->sharding, &piece));
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

static void close(gathering *g, batch *b) {
    for (int k = 0; k < OPEN; k++)
        if (g->open[k] == b) g->open[k] = NULL;
    b->closed = true;
}

static void join(gathering *g, mth__node *x) {
    int64_t bytes = bytes_of(x);
    int to = -1, empty = -1;
    for (int k = 0; k < OPEN; k++) {
        if (!g->open[k])
            empty = k;
        else if (to < 0 && together(g->open[k]->node[0], x))
            to = k;
    }
    if (to >= 0 && (g->open[to]->n == MTH__MAX_IN || g->open[to]->bytes + bytes > BATCH))
        close(g, g->open[empty = to]), to = -1;
    if (to < 0) {
        to = empty >= 0 ? empty : x->id % OPEN;
        if (g->open[to]) close(g, g->open[to]);
        g->open[to] = NEW(g->arena, batch);
    }
    batch *b = g->of[x->id] = g->open[to];
    b->node[b->n++] = x;
    b->bytes += bytes;
}

static void release(gathering *g);

static void consider(gathering *g, mth__node *x) {
    g->aside[x->id] = false;
    for (int j = 0; j < x->nin && !g->aside[x->id]; j++) {
        const mth__node *maker = x->in[j]->node;
        g->aside[x->id] = maker && (g->aside[maker->id] || (g->of[maker->id] && !g->of[maker->id]->closed));
    }
    if (!g->aside[x->id]) {
        if (mergeable(x)) join(g, x);
        return;
    }
    g->waiting[g->waits++] = x;
    if (g->waits == WINDOW) release(g);
}

/* the first of those that wait goes on: WINDOW is not reached again inside */
static void release(gathering *g) {
    mth__node *waiting[WINDOW];
    int n = g->waits;
    for (int i = 0; i < n; i++) {
        waiting[i] = g->waiting[i];
        for (int j = 0; j < waiting[i]->nin; j++) {
            batch *b = waiting[i]->in[j]->node ? g->of[waiting[i]->in[j]->node->id] : NULL;
            if (b && !b->closed) close(g, b);
        }
    }
    g->waits = 0;
    for (int i = 0; i < n; i++) consider(g, waiting[i]);
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

static bool ready(const placing *p, const mth__node *x) {
    for (int j = 0; j < x->nin; j++)
        if (x->in[j]->node && x->in[j]->id < p->values && !p->made[x->in[j]->id]) return false;
    return true;
}

static mth_status place(placing *p, mth__node *x, bool *closed) {
    batch *b = p->of[x->id];
    mth__rewrite_operands(p->rewrite, x);
    if (!b || b->n == 1) {
        mth__rewrite_push(p->rewrite, x);
        for (int k = 0; k < x->nout; k++) p->made[x->out[k]->id] = true;
    } else if (++b->arrived == b->n) {
        TRY(emit_batch(p->rewrite, b));
        for (int k = 0; k < b->n; k++) p->made[b->node[k]->out[0]->id] = true;
        *closed = true;
    }
    return NULL;
}

static mth_status place_late(placing *p) {
    for (bool closed = true; closed;) {
        size_t kept = 0, n = p->late.n;
        closed = false;
        for (size_t i = 0; i < n; i++) {
            mth__node *x = p->late.at[i];
            if (ready(p, x))
                TRY(place(p, x, &closed));
            else
                p->late.at[kept++] = x;
        }
        p->late.n = kept;
    }
    return NULL;
}

static mth_status merge(communication_pass *s) {
    mth__graph *graph = s->graph;
    const size_t nodes = graph->node.n;
    gathering *groups = NEW(s->arena, gathering);
    *groups = (gathering){
        .arena = s->arena, .of = NEW_ARRAY(s->arena, batch *, nodes), .aside = NEW_ARRAY(s->arena, bool, nodes)};
    for (size_t i = 0; i < nodes; i++) consider(groups, graph->node.at[i]);
    while (groups->waits) release(groups);
    mth__rewrite rewrite = mth__rewrite_begin(s->arena, graph);
    placing walk = {.graph = graph,
        .of = groups->of,
        .made = NEW_ARRAY(s->arena, bool, graph->values),
        .values = graph->values,
        .arena = s->arena,
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
    communication_pass s = {.graph = graph, .arena = arena};
    TRY(mth__drop_redundant(graph));
    scatter_instead(&s);
    return merge(&s);
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
