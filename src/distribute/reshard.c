/* Communication appears. Where a node needs an operand otherwise than it is, the moves between the two become nodes: in
 * front of the first consumer, except that outputs are settled right behind their maker. Each value remembers what has
 * been made of it, so that consumers with one need share one move, and a later need starts from the nearest version.
 * But a parameter that is stored in parts is gathered again by a consumer far from the last one, or of the other
 * direction: whole, it would lie there in the meantime. An activation that is split is gathered again in backward, for
 * the same reason. */
#include "distribute/decide.h"
#include <string.h>

/* What has been made of a value, newest first; the value itself is not in the list. `reader` is the last consumer of
 * the version, `at` its position in the graph. */
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

static resharded *versions_of(reshard_pass *pass, const mth__value *value) {
    return *AT_VALUE(pass->arena, pass->versions, value);
}

bool mth__version_lasts(const mth__value *value, const mth__sharding *one, mth__phase made, mth__phase consumer) {
    return mth__same_time(made, consumer) || value->kind == MTH__VALUE_PARAMETER ||
        mth__local_size(value->shape, one) <= mth__local_size(value->shape, &value->sharding);
}

static bool same(const mth__value *value, const mth__sharding *sharding) {
    return value->sharding.on == sharding->on && mth__sharding_equal(&value->sharding, sharding, value->shape.rank);
}

static bool at_hand(
    const reshard_pass *pass, const mth__value *value, const resharded *version, const mth__node *consumer) {
    if (version->reader && consumer &&
        !mth__version_lasts(value, &version->value->sharding, version->reader->label.phase, consumer->label.phase))
        return false;
    if (!value->read_as) return true;
    return consumer && version->reader && mth__same_unit(&version->reader->label, &consumer->label) &&
        pass->graph->node.n <= version->at + NEAR;
}

/* The version from which `need` is cheapest to reach; of equals, one that needs the fewest moves. */
static mth__value *nearest(
    reshard_pass *pass, mth__value *value, const mth__sharding *need, const mth__node *consumer) {
    mth__value *best = value;
    if (same(value, need)) return value;
    resharded *newest = versions_of(pass, value);
    for (resharded *version = newest; version; version = version->next)
        if (same(version->value, need) && at_hand(pass, value, version, consumer)) {
            version->reader = consumer;
            version->at = pass->graph->node.n;
            return version->value;
        }
    if (!newest) return value;
    double least = mth__cost_reshard(value, &value->sharding, need);
    for (resharded *version = newest; version; version = version->next) {
        if ((version->value->sharding.partial & ~need->partial && version->value != value) ||
            !at_hand(pass, value, version, consumer))
            continue;
        double cost = mth__cost_reshard(value, &version->value->sharding, need);
        if (cost <= least) {
            least = cost;
            best = version->value;
        }
    }
    return best;
}

/* The node whose label a move bears: of a reduction the maker of the value, else the consumer. */
static mth__builder labels(
    const reshard_pass *pass, const mth__value *value, const mth__move *move, const mth__node *consumer) {
    const mth__node *maker = value->node;
    bool reduces = move->row == MTH__ROW_all_reduce || move->row == MTH__ROW_reduce_scatter;
    const mth__node *like = (maker && reduces) || !consumer ? maker : consumer;
    return (mth__builder){
        .graph = pass->graph, .label = like ? like->label : mth__label_outside(NULL, MTH__FORWARD), .on = move->to.on};
}

static mth_status move(
    reshard_pass *pass, mth__value *value, const mth__sharding *need, const mth__node *consumer, mth__value **out) {
    mth__value *at = nearest(pass, value, need, consumer);
    mth__move moves[MTH__MOST_MOVES];
    if (at->sharding.partial != value->sharding.partial && (need->partial & ~at->sharding.partial)) at = value;
    int n = mth__moves(value->shape, mth_dtype_size(value->dtype), &at->sharding, need, moves);
    for (int k = 0; k < n; k++) {
        mth__builder builder = labels(pass, at, &moves[k], consumer);
        mth__value *next;
        TRY(mth__build(&builder, moves[k].row, &moves[k].attrs, 1, &at, &next));
        mth__node *node = next->node;
        node->need = NEW(pass->graph->arena, mth__sharding);
        node->need[0] = at->sharding;
        next->sharding = moves[k].to;
        next->origin = value->origin;
        resharded *made = NEW(pass->arena, resharded);
        *made = (resharded){next, consumer, pass->graph->node.n, versions_of(pass, value)};
        *AT_VALUE(pass->arena, pass->versions, value) = made;
        at = next;
    }
    *out = at;
    return NULL;
}

static mth_status settle_outputs(reshard_pass *pass, mth__value *value, const int *next, int first) {
    for (int i = first; i >= 0; i = next[i]) {
        mth__output *out = &pass->graph->output.at[i];
        TRY(move(pass, value, &out->leaves, NULL, &out->value));
    }
    return NULL;
}

static mth_status reshard_nodes(reshard_pass *pass) {
    mth__graph *graph = pass->graph;
    const int values = graph->values;
    int *first = NEW_ARRAY(pass->arena, int, values), *next = NEW_ARRAY(pass->arena, int, graph->output.n + 1);
    memset(first, -1, sizeof(int) * (size_t)values); /* outputs by value, as lists */
    for (size_t i = graph->output.n; i-- > 0;) {
        next[i] = first[graph->output.at[i].value->id];
        first[graph->output.at[i].value->id] = (int)i;
    }
    pass->rewrite = mth__rewrite_begin(pass->arena, graph);
    for (size_t i = 0; i < mth__graph_sources(graph); i++) {
        mth__value *source = mth__graph_source(graph, i);
        TRY(settle_outputs(pass, source, next, first[source->id]));
    }
    for (size_t i = 0; i < pass->rewrite.nodes; i++) {
        mth__node *node = pass->rewrite.old[i];
        for (int j = 0; j < node->nin; j++)
            if (!same(node->in[j], &node->need[j])) TRY(move(pass, node->in[j], &node->need[j], node, &node->in[j]));
        mth__rewrite_push(&pass->rewrite, node);
        for (int k = 0; k < node->nout; k++) TRY(settle_outputs(pass, node->out[k], next, first[node->out[k]->id]));
    }
    mth__rewrite_end(&pass->rewrite);
    return NULL;
}

mth_status mth__reshard(mth__graph *graph) {
    mth__arena *arena = mth__arena_new();
    reshard_pass pass = {.graph = graph, .arena = arena};
    mth_status status = reshard_nodes(&pass);
    mth__arena_free(arena);
    return status;
}
