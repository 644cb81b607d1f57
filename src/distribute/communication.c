/* communication_optimization, after reshard: fewer messages for the same numbers. Equal moves of one value become one; an all_reduce of
 * which only one part is kept becomes a reduce_scatter; small all_reduces of one group that nobody has read yet become one. Each element
 * is summed by the same devices as before. */
#include "distribute/decide.h"
#include <string.h>

static const int64_t SMALL = 64 << 10, BATCH = 1 << 20; /* bytes of one all_reduce, of a merged one */

mth_status mth__node_like(mth__graph *g, const mth__node *like, enum mth__row row, const mth__attrs *attrs, int nin, mth__value *const *in,
                          const mth__sharding *need, const mth__sharding *result, mth__value **out) {
    mth__builder b = {.graph = g, .module = like->module, .source = like->source, .on = result->on, .region = like->region,
                      .stage = like->stage, .microbatch = like->microbatch, .backward = like->backward};
    TRY(mth__build(&b, mth__row_op(row), attrs, nin, in, out));
    mth__node *n = (*out)->node;
    n->need = NEW_ARRAY(g->arena, mth__sharding, nin);
    for (int j = 0; j < nin; j++) n->need[j] = need[j];
    (*out)->sharding = *result;
    return NULL;
}

typedef struct { mth__graph *graph; mth__arena *arena; int *uses; /* by value id */ } state;

static bool is(const mth__node *n, enum mth__row row) { return n->op == mth__row_op(row); }

static void replace_outputs(mth__graph *g) { /* value->scratch: what stands for it now */
    for (size_t i = 0; i < g->output.n; i++)
        while (g->output.at[i].value->scratch) g->output.at[i].value = g->output.at[i].value->scratch;
}
static mth__value *now(mth__value *v) {
    while (v->scratch) v = v->scratch;
    return v;
}

static void count_uses(state *s) {
    mth__graph *g = s->graph;
    s->uses = NEW_ARRAY(s->arena, int, g->values);
    for (size_t i = 0; i < g->node.n; i++)
        for (int j = 0; j < g->node.at[i]->nin; j++) s->uses[g->node.at[i]->in[j]->id]++;
    for (size_t i = 0; i < g->output.n; i++) s->uses[g->output.at[i].value->id]++;
}

/* ---------------------------------------------------------------- duplicates, and all_reduce + keep */
static void drop_duplicates(state *s) {
    mth__graph *g = s->graph;
    typedef struct made { mth__node *node; struct made *next; } made;
    made **of = NEW_ARRAY(s->arena, made *, g->values);
    size_t kept = 0;
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *n = g->node.at[i];
        for (int j = 0; j < n->nin; j++) n->in[j] = now(n->in[j]);
        if (mth__is_comm(n)) {
            mth__value *v = n->out[0];
            for (made *m = of[n->in[0]->id]; m; m = m->next)
                if (m->node->on == n->on && mth__sharding_equal(&m->node->out[0]->sharding, &v->sharding, v->shape.rank))
                    v->scratch = m->node->out[0];
            if (v->scratch) continue;
            made *m = NEW(s->arena, made);
            *m = (made){n, of[n->in[0]->id]};
            of[n->in[0]->id] = m;
        }
        g->node.at[kept++] = n;
    }
    g->node.n = kept;
    replace_outputs(g);
}

/* keep splits one dimension further by just the axis that was reduced: all devices but one of each part reduced in vain. */
static void scatter_instead(state *s) {
    mth__graph *g = s->graph;
    count_uses(s);
    size_t kept = 0;
    for (size_t i = 0; i < g->node.n; i++) {
        mth__node *n = g->node.at[i];
        mth__value *sum = n->in[0];
        bool only_part = is(n, MTH__ROW_keep) && sum->node && is(sum->node, MTH__ROW_all_reduce) && s->uses[sum->id] == 1;
        if (only_part && n->on == sum->node->on && sum->node->in[0]->sharding.reduce == MTH__REDUCE_SUM) {
            mth__move m[MTH__MOVES];
            if (mth__moves(sum->shape, &sum->node->in[0]->sharding, &n->out[0]->sharding, m) == 1 && m[0].row == MTH__ROW_reduce_scatter) {
                n->op = mth__row_op(MTH__ROW_reduce_scatter);
                memcpy(n->attrs.i, m[0].i, sizeof m[0].i);
                n->need[0] = sum->node->in[0]->sharding;
                n->in[0] = sum->node->in[0];
                sum->node->nin = 0; /* marks it */
            }
        }
    }
    for (size_t i = 0; i < g->node.n; i++)
        if (g->node.at[i]->nin || !is(g->node.at[i], MTH__ROW_all_reduce)) g->node.at[kept++] = g->node.at[i];
    g->node.n = kept;
}

/* ---------------------------------------------------------------- merging */
/* A value of which each device holds the same part of a row of `parts` equal parts can be laid beside others: (parts, elements / parts),
 * split by the axes of its one split dimension. 0: it can't. */
static int64_t parts_of(const mth__value *v) {
    int64_t parts = 1;
    for (int d = 0; d < v->shape.rank; d++) {
        const mth__split *s = &v->sharding.dim[d];
        if (!s->naxes) continue;
        if (s->cyclic || parts > 1) return 0;
        for (int e = 0; e < d; e++) if (v->shape.dim[e] != 1) return 0;
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

static bool mergeable(const mth__node *n) {
    const mth__value *v = n->in[0];
    int64_t bytes = mth__local_size(v->shape, &v->sharding) * (int64_t)mth_dtype_size(v->dtype);
    return is(n, MTH__ROW_all_reduce) && bytes > 0 && bytes < SMALL && v->sharding.partial == n->attrs.i[0] && parts_of(v) > 0;
}
static bool together(const mth__node *a, const mth__node *b) {
    const mth__value *x = a->in[0], *y = b->in[0];
    const mth__split *s = split_of(x), *t = split_of(y);
    if (s && t && (s->naxes != t->naxes || memcmp(s->axis, t->axis, (size_t)s->naxes))) return false;
    return a->on == b->on && x->dtype == y->dtype && x->sharding.partial == y->sharding.partial &&
           x->sharding.reduce == y->sharding.reduce && !s == !t && mth__same_unit(a, b);
}

enum { OPEN = 8 };
typedef struct { int n; int64_t bytes; mth__node *node[MTH__MAX_IN]; } batch; /* all_reduces put off until one of their results is read */

static mth__sharding row_sharding(const mth__value *v, bool partial) { /* of (parts, elements) */
    mth__sharding s = {.on = v->sharding.on};
    const mth__split *split = split_of(v);
    if (split) {
        s.dim[0] = *split;
        s.dim[0].grain = 0;
    }
    if (partial) {
        s.partial = v->sharding.partial;
        s.reduce = v->sharding.reduce;
    }
    mth__sharding_canonical(&s, (mth__shape){2, {parts_of(v), 1}});
    return s;
}

static mth_status reshape(mth__graph *g, const mth__node *like, mth__value *v, mth__shape to, const mth__sharding *result,
                          mth__value **out) {
    mth__attrs a = {.i = {to.rank}};
    for (int d = 0; d < to.rank; d++) a.i[1 + d] = to.dim[d];
    return mth__node_like(g, like, MTH__ROW_reshape, &a, 1, &v, &v->sharding, result, out);
}

static mth_status close_batch(state *s, batch *b) {
    mth__graph *g = s->graph;
    int n = b->n;
    b->n = 0;
    if (n == 1) {
        PUSH(g->arena, g->node, b->node[0]);
        return NULL;
    }
    mth__node *like = b->node[0];
    int64_t parts = parts_of(like->in[0]), at = 0;
    mth__sharding partial = row_sharding(like->in[0], true), sum = row_sharding(like->in[0], false), needs[MTH__MAX_IN];
    mth__value *row[MTH__MAX_IN], *all;
    for (int k = 0; k < n; k++) {
        mth__value *v = b->node[k]->in[0];
        TRY(reshape(g, like, v, (mth__shape){2, {parts, mth__shape_size(v->shape) / parts}}, &partial, &row[k]));
        needs[k] = partial;
    }
    TRY(mth__node_like(g, like, MTH__ROW_concat, &(mth__attrs){.i = {1}}, n, row, needs, &partial, &all));
    TRY(mth__node_like(g, like, MTH__ROW_all_reduce, &like->attrs, 1, &all, &partial, &sum, &all));
    for (int k = 0; k < n; k++) {
        mth__value *old = b->node[k]->out[0], *piece;
        int64_t width = row[k]->shape.dim[1];
        TRY(mth__node_like(g, b->node[k], MTH__ROW_slice, &(mth__attrs){.i = {1, at, at + width}}, 1, &all, &sum, &sum, &piece));
        TRY(reshape(g, b->node[k], piece, old->shape, &old->sharding, &piece));
        piece->name = old->name;
        piece->origin = old->origin;
        old->scratch = piece;
        at += width;
    }
    return NULL;
}

static mth_status merge(state *s) {
    mth__graph *g = s->graph;
    mth__node **old = g->node.at;
    size_t n = g->node.n;
    batch open[OPEN];
    int *waiting = NEW_ARRAY(s->arena, int, g->values), values = g->values; /* value -> open batch + 1 */
    memset(open, 0, sizeof open);
    g->node.at = NULL;
    g->node.n = g->node.room = 0;
    for (size_t i = 0; i < n; i++) {
        mth__node *x = old[i];
        for (int j = 0; j < x->nin; j++) {
            int w = x->in[j]->id < values ? waiting[x->in[j]->id] : 0;
            if (w && open[w - 1].n)
                for (int k = 0; k < open[w - 1].n; k++)
                    if (open[w - 1].node[k]->out[0] == x->in[j]) {
                        TRY(close_batch(s, &open[w - 1]));
                        break;
                    }
            x->in[j] = now(x->in[j]);
        }
        if (!mergeable(x)) {
            PUSH(g->arena, g->node, x);
            continue;
        }
        int64_t bytes = mth__local_size(x->in[0]->shape, &x->in[0]->sharding) * (int64_t)mth_dtype_size(x->in[0]->dtype);
        int to = -1, empty = -1;
        for (int b = 0; b < OPEN; b++) {
            if (!open[b].n) empty = b;
            else if (to < 0 && together(open[b].node[0], x)) to = b;
        }
        if (to >= 0 && (open[to].n == MTH__MAX_IN || open[to].bytes + bytes > BATCH)) TRY(close_batch(s, &open[to]));
        if (to < 0) to = empty >= 0 ? empty : (int)(i % OPEN);
        if (open[to].n && !together(open[to].node[0], x)) TRY(close_batch(s, &open[to]));
        if (!open[to].n) open[to].bytes = 0;
        open[to].node[open[to].n++] = x;
        open[to].bytes += bytes;
        waiting[x->out[0]->id] = to + 1;
    }
    for (int b = 0; b < OPEN; b++)
        if (open[b].n) TRY(close_batch(s, &open[b]));
    replace_outputs(g);
    return NULL;
}

static void clear(mth__graph *g) {
    for (size_t i = 0; i < g->node.n; i++) {
        g->node.at[i]->id = (int)i;
        for (int k = 0; k < g->node.at[i]->nout; k++) g->node.at[i]->out[k]->scratch = NULL;
    }
}

mth_status mth__communication(mth__graph *g, const mth__distribute_options *o) {
    if (o->communication_optimization) {
        state s = {.graph = g, .arena = mth__arena_new()};
        clear(g);
        drop_duplicates(&s);
        scatter_instead(&s);
        mth_status status = merge(&s);
        clear(g);
        mth__arena_free(s.arena);
        TRY(status);
    }
    return o->pipeline_communication ? mth__chunk_communication(g, o) : NULL;
}
