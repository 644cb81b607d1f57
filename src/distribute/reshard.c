/* Communication appears. Where a node needs an operand otherwise than it is, the moves between the two become nodes: in
 * front of the first consumer, except that outputs are settled right behind their maker. Each value remembers what has
 * been made of it, so that consumers with one need share one move, and a later need starts from the nearest version.
 * But a parameter that is stored in parts is gathered again by a consumer far from the last one, or of the other
 * direction: whole, it would lie there in the meantime. An activation that is split is gathered again in backward, for
 *   the same reason. */
#include "distribute/decide.h"
#include <string.h>

/* Of a value: newest first, the value itself not listed. reader, at: its last consumer, and where that stood. */
typedef struct resharded {
    mth__value *value;
    const mth__node *reader;
    size_t at;
    struct resharded *next;
} resharded;
enum { NEAR = 16 }; /* nodes */

typedef struct {
    mth__graph *graph;
    mth__arena *arena;
    mth__rewrite rewrite;
    BY_VALUE(resharded *) versions;
} reshard_pass;

static resharded *versions_of(reshard_pass *s, const mth__value *value) {
    return *AT_VALUE(s->arena, s->versions, value);
}

bool mth__kept(const mth__value *v, const mth__sharding *one, mth__phase made, mth__phase consumer) {
    return mth__same_time(made, consumer) || v->kind == MTH__VALUE_PARAMETER ||
        mth__local_size(v->shape, one) <= mth__local_size(v->shape, &v->sharding);
}

static bool same(const mth__value *v, const mth__sharding *s) {
    return v->sharding.on == s->on && mth__sharding_equal(&v->sharding, s, v->shape.rank);
}

static bool at_hand(const reshard_pass *s, const mth__value *v, const resharded *k, const mth__node *consumer) {
    if (k->reader && consumer && !mth__kept(v, &k->value->sharding, k->reader->label.phase, consumer->label.phase))
        return false;
    if (!v->read) return true;
    return consumer && k->reader && mth__same_unit(&k->reader->label, &consumer->label) &&
        s->graph->node.n <= k->at + NEAR;
}

/* The version from which `need` is cheapest to reach; of equals, one that needs the fewest moves. */
static mth__value *nearest(reshard_pass *s, mth__value *v, const mth__sharding *need, const mth__node *consumer) {
    mth__value *best = v;
    if (same(v, need)) return v;
    resharded *newest = versions_of(s, v);
    for (resharded *k = newest; k; k = k->next)
        if (same(k->value, need) && at_hand(s, v, k, consumer)) {
            k->reader = consumer;
            k->at = s->graph->node.n;
            return k->value;
        }
    if (!newest) return v;
    double least = mth__cost_reshard(v, &v->sharding, need);
    for (resharded *k = newest; k; k = k->next) {
        if ((k->value->sharding.partial & ~need->partial && k->value != v) || !at_hand(s, v, k, consumer)) continue;
        double cost = mth__cost_reshard(v, &k->value->sharding, need);
        if (cost <= least) {
            least = cost;
            best = k->value;
        }
    }
    return best;
}

/* Whose label a move bears: a reduction its maker's, all else the consumer's. */
static mth__builder labels(const reshard_pass *s, const mth__value *v, const mth__move *m, const mth__node *consumer) {
    const mth__node *maker = v->node;
    bool reduces = m->row == MTH__ROW_all_reduce || m->row == MTH__ROW_reduce_scatter;
    const mth__node *like = (maker && reduces) || !consumer ? maker : consumer;
    return (mth__builder){
        .graph = s->graph, .label = like ? like->label : mth__label_outside(NULL, MTH__FORWARD), .on = m->to.on};
}

static mth_status move(
    reshard_pass *s, mth__value *v, const mth__sharding *need, const mth__node *consumer, mth__value **out) {
    mth__value *at = nearest(s, v, need, consumer);
    mth__move moves[MTH__MOST_MOVES];
    if (at->sharding.partial != v->sharding.partial && (need->partial & ~at->sharding.partial)) at = v;
    int n = mth__moves(v->shape, mth_dtype_size(v->dtype), &at->sharding, need, moves);
    for (int k = 0; k < n; k++) {
        mth__builder b = labels(s, at, &moves[k], consumer);
        mth__value *next;
        TRY(mth__build(&b, mth__row_op(moves[k].row), &moves[k].attrs, 1, &at, &next));
        mth__node *node = next->node;
        node->need = NEW(s->graph->arena, mth__sharding);
        node->need[0] = at->sharding;
        next->sharding = moves[k].to;
        next->origin = v->origin;
        resharded *made = NEW(s->arena, resharded);
        *made = (resharded){next, consumer, s->graph->node.n, versions_of(s, v)};
        *AT_VALUE(s->arena, s->versions, v) = made;
        at = next;
    }
    *out = at;
    return NULL;
}

static mth_status settle_outputs(reshard_pass *s, mth__value *v, const int *next, int first) {
    for (int i = first; i >= 0; i = next[i]) {
        mth__output *out = &s->graph->output.at[i];
        TRY(move(s, v, &out->leaves, NULL, &out->value));
    }
    return NULL;
}

static mth_status run(reshard_pass *s) {
    mth__graph *graph = s->graph;
    const int values = graph->values;
    int *first = NEW_ARRAY(s->arena, int, values), *next = NEW_ARRAY(s->arena, int, graph->output.n + 1);
    memset(first, -1, sizeof(int) * (size_t)values); /* outputs by value, as lists */
    for (size_t i = graph->output.n; i-- > 0;) {
        next[i] = first[graph->output.at[i].value->id];
        first[graph->output.at[i].value->id] = (int)i;
    }
    s->rewrite = mth__rewrite_begin(s->arena, graph);
    for (size_t i = 0; i < mth__graph_sources(graph); i++) {
        mth__value *source = mth__graph_source(graph, i);
        TRY(settle_outputs(s, source, next, first[source->id]));
    }
    for (size_t i = 0; i < s->rewrite.nodes; i++) {
        mth__node *node = s->rewrite.old[i];
        for (int j = 0; j < node->nin; j++)
            if (!same(node->in[j], &node->need[j])) TRY(move(s, node->in[j], &node->need[j], node, &node->in[j]));
        mth__rewrite_push(&s->rewrite, node);
        for (int k = 0; k < node->nout; k++) TRY(settle_outputs(s, node->out[k], next, first[node->out[k]->id]));
    }
    mth__rewrite_end(&s->rewrite);
    return NULL;
}

mth_status mth__reshard(mth__graph *graph) {
    mth__arena *arena = mth__arena_new();
    reshard_pass s = {.graph = graph, .arena = arena};
    mth_status status = run(&s);
    mth__arena_free(arena);
    return status;
}
