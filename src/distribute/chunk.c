/* pipeline_communication: a communication of more than chunk_bytes travels in chunks along a dimension that no axis
 * splits. The matrix product that makes the value and the elementwise rows that read it are cut with it where they can
 * be, so that the chunks of one overlap with the others' (overlap.c); else the value is cut and joined again. */
#include "distribute/decide.h"
#include <string.h>

enum { CHAIN = 4, CHUNKS = 16 };
typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    mth__distribute_options options;
    int *uses;
    mth__node **reader; /* by value id: how many read it, the last one */
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

static bool whole_in(const mth__sharding *s, int d) { return s->dim[d].naxes == 0; }

static void find_maker(const chunk_pass *s, plan *p) {
    mth__node *m = p->node->in[0]->node;
    if (!m || !s->options.overlap || !(m->op->flags & MTH__PRODUCT)) return;
    if (s->uses[m->out[0]->id] != 1 || m->on != p->node->in[0]->sharding.on) return;
    mth__rule r;
    mth__op_rule(m, &r);
    int f = r.out[0][p->dim], in = -1, dim = 0;
    for (int j = 0; j < m->nin; j++)
        for (int d = 0; d < m->in[j]->shape.rank; d++)
            if (r.in[j][d] == f) {
                if (in >= 0) return;
                in = j;
                dim = d;
            }
    if (in < 0 || !whole_in(&m->need[in], dim) || m->in[in]->sharding.partial) return;
    p->maker = m;
    p->sliced = in;
    p->sliced_dim = dim;
}

static void find_chain(const chunk_pass *s, plan *p) {
    mth__value *v = p->node->out[0];
    while (p->links < CHAIN && s->uses[v->id] == 1 && s->reader[v->id]) {
        mth__node *x = s->reader[v->id];
        if (!(x->op->flags & MTH__ELEMENTWISE) || (x->op->flags & MTH__NEEDS_START)) return;
        if (x->nout != 1 || x->on != v->sharding.on || !mth__shape_equal(x->out[0]->shape, v->shape)) return;
        if (!mth__sharding_equal(&x->out[0]->sharding, &v->sharding, v->shape.rank) || mth__is_comm(x)) return;
        for (int j = 0; j < x->nin; j++) {
            const mth__value *other = x->in[j];
            int d = p->dim - (v->shape.rank - other->shape.rank);
            if (other == v) continue;
            if ((d >= 0 && other->shape.dim[d] != 1) || (other->node && other->node->id > p->node->id)) return;
        }
        p->chain[p->links++] = x;
        v = x->out[0];
    }
}

static bool find_plan(const chunk_pass *s, mth__node *n, plan *p) {
    memset(p, 0, sizeof *p);
    if (!mth__communicates(n)) return false;
    const mth__value *v = n->in[0], *to = n->out[0];
    int64_t a = mth__local_size(v->shape, &v->sharding), b = mth__local_size(v->shape, &to->sharding);
    int64_t bytes = (a > b ? a : b) * (int64_t)mth_dtype_size(v->dtype);
    if (bytes <= s->options.chunk_bytes) return false;
    p->node = n;
    for (p->dim = 0; p->dim < v->shape.rank; p->dim++)
        if (v->shape.dim[p->dim] > 1 && whole_in(&v->sharding, p->dim) && whole_in(&to->sharding, p->dim)) break;
    if (p->dim == v->shape.rank) return false;
    int64_t chunks = mth__ceil_div(bytes, s->options.chunk_bytes);
    if (chunks > CHUNKS) chunks = CHUNKS;
    p->chunks = (int)(chunks < v->shape.dim[p->dim] ? chunks : v->shape.dim[p->dim]);
    find_maker(s, p);
    find_chain(s, p);
    return true;
}

static mth_status cut(
    mth__graph *g, const mth__node *like, mth__value *v, int dim, int64_t start, int64_t stop, mth__value **out) {
    mth__node placed = *like;
    return mth__node_like(g, &placed, MTH__ROW_slice, &(mth__attrs){.dimension = dim, .start = start, .stop = stop}, 1,
        &v, &v->sharding, &v->sharding, out);
}

static mth_status same_node(mth__graph *g, const mth__node *n, mth__value *const *in, mth__value **out) {
    return mth__node_like(
        g, n, (enum mth__row)mth__op_index(n->op), &n->attrs, n->nin, in, n->need, &n->out[0]->sharding, out);
}

static mth_status apply(const chunk_pass *s, const plan *p) {
    mth__graph *g = s->graph;
    mth__node *n = p->node;
    mth__value *piece[CHUNKS], *last = p->links ? p->chain[p->links - 1]->out[0] : n->out[0];
    mth__sharding needs[CHUNKS];
    int64_t size = n->in[0]->shape.dim[p->dim], step = mth__ceil_div(size, p->chunks);
    int made = 0;
    for (int64_t start = 0; start < size; start += step, made++) {
        int64_t stop = start + step < size ? start + step : size;
        mth__value *in[MTH__MAX_IN], *v;
        if (p->maker) {
            for (int j = 0; j < p->maker->nin; j++) in[j] = p->maker->in[j];
            TRY(cut(g, p->maker, in[p->sliced], p->sliced_dim, start, stop, &in[p->sliced]));
            TRY(same_node(g, p->maker, in, &v));
        } else
            TRY(cut(g, n, n->in[0], p->dim, start, stop, &v));
        TRY(same_node(g, n, &v, &v));
        for (int k = 0; k < p->links; k++) {
            const mth__node *x = p->chain[k];
            const mth__value *before = k ? p->chain[k - 1]->out[0] : n->out[0];
            for (int j = 0; j < x->nin; j++) in[j] = x->in[j] == before ? v : x->in[j];
            TRY(same_node(g, x, in, &v));
        }
        piece[made] = v;
        needs[made] = last->sharding;
    }
    mth__value *all;
    const mth__node *like = p->links ? p->chain[p->links - 1] : n;
    TRY(mth__node_like(
        g, like, MTH__ROW_concat, &(mth__attrs){.dimension = p->dim}, made, piece, needs, &last->sharding, &all));
    all->name = last->name;
    all->origin = last->origin;
    mth__rewrite_replace(s->rewrite, last, all);
    return NULL;
}

static mth_status run(chunk_pass *s) {
    mth__graph *g = s->graph;
    size_t n = g->node.n;
    plan *plans = NEW_ARRAY(s->arena, plan, n);
    for (size_t i = 0; i < n; i++) {
        plan *p = &plans[i];
        if (s->absorbed[i] || !find_plan(s, g->node.at[i], p)) {
            p->node = NULL;
            continue;
        }
        if (p->maker && s->absorbed[p->maker->id]) p->maker = NULL;
        if (p->maker) s->absorbed[p->maker->id] = true;
        for (int k = 0; k < p->links; k++) s->absorbed[p->chain[k]->id] = true;
    }
    mth__rewrite rewrite = mth__rewrite_begin(s->arena, g);
    s->rewrite = &rewrite;
    for (size_t i = 0; i < n; i++) {
        mth__node *node = rewrite.old[i];
        mth__rewrite_operands(&rewrite, node);
        if (plans[i].node) {
            /* operands from before may have been joined anew */
            for (int k = 0; k < plans[i].links; k++) mth__rewrite_operands(&rewrite, plans[i].chain[k]);
            TRY(apply(s, &plans[i]));
        } else if (!s->absorbed[i])
            mth__rewrite_push(&rewrite, node);
    }
    mth__rewrite_end(&rewrite);
    return NULL;
}

mth_status mth__chunk_communication(mth__graph *graph, const mth__distribute_options *options) {
    mth__arena *arena = mth__arena_new();
    chunk_pass s = {.graph = graph,
        .arena = arena,
        .options = *options,
        .uses = mth__graph_uses(arena, graph),
        .reader = NEW_ARRAY(arena, mth__node *, graph->values),
        .absorbed = NEW_ARRAY(arena, bool, graph->node.n + 1)};
    if (s.options.chunk_bytes <= 0) s.options.chunk_bytes = 256 << 10;
    for (size_t i = 0; i < graph->node.n; i++)
        for (int j = 0; j < graph->node.at[i]->nin; j++) s.reader[graph->node.at[i]->in[j]->id] = graph->node.at[i];
    for (size_t i = 0; i < graph->output.n; i++) s.reader[graph->output.at[i].value->id] = NULL;
    mth_status status = run(&s);
    mth__arena_free(arena);
    return status;
}
