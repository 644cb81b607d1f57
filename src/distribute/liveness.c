#include "distribute/liveness.h"
#include "distribute/decide.h"
#include <string.h>

typedef struct {
    const mth__graph *graph;
    int device;
    bool views;
    int *base;         /* by value id: the value whose bytes it is a view of, itself, or -1: none of this device */
    int *last;         /* by id of a base: its last reader */
    int *block;        /* by value id: the live it lies in, or -1 */
    bool *leaves;      /* by value id: its bytes are an output's */
    int64_t *bytes;    /* by value id: of this device's part */
    const bool *owned; /* by value id */
    VEC(mth__live) live;
    VEC(bool) in_output; /* by live: an output has taken it over, so its bytes are in the output's own memory */
    VEC(int) written;    /* by live: the last node of which a result lies in it */
} liveness;

static bool here(const liveness *life, const mth__placement *on) { return on->rank_of[life->device] >= 0; }

static int64_t part_bytes(const liveness *life, const mth__value *value) {
    const int rank = value->sharding.on->rank_of[life->device];
    return mth__shape_size(mth__local_shape(value->shape, &value->sharding, rank, NULL, NULL)) *
        (int64_t)mth_dtype_size(value->dtype);
}

/* A slice of which the device holds one piece. */
static bool in_one_piece(const liveness *life, const mth__node *node) {
    const mth__value *from = node->in[0], *to = node->out[0];
    const int dimension = (int)node->attrs.dimension;
    if (from->sharding.dim[dimension].naxes || to->sharding.dim[dimension].naxes) return false;
    mth__shape local =
        mth__local_shape(from->shape, &from->sharding, from->sharding.on->rank_of[life->device], NULL, NULL);
    for (int d = 0; d < dimension; d++)
        if (local.dim[d] > 1) return false;
    return true;
}

static bool is_view(const liveness *life, const mth__node *node) {
    if (node->op->flags & MTH__ALIAS) return true;
    if (mth__keeps_whole(node)) return !life->leaves[node->out[0]->id];
    return life->views && node->op->row == MTH__ROW_slice && !life->leaves[node->out[0]->id] &&
        in_one_piece(life, node);
}

/* Marks the values whose bytes are in an output's memory. For a view that is an output, the value that it is a view of
   lies there too, if a node makes that value. */
static void find_leaving(liveness *life) {
    for (size_t i = 0; i < life->graph->output.n; i++) {
        const mth__value *value = life->graph->output.at[i].value;
        life->leaves[value->id] = true;
        while (value->node && value->node->op->flags & MTH__ALIAS) value = value->node->in[0];
        life->leaves[value->id] |= value->node != NULL;
    }
}

static void find_bases(liveness *life) {
    const mth__graph *graph = life->graph;
    memset(life->base, -1, sizeof(int) * (size_t)graph->values);
    for (size_t i = 0; i < mth__graph_sources(graph); i++) {
        const mth__value *source = mth__graph_source(graph, i);
        if (here(life, source->sharding.on)) life->base[source->id] = source->id;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        const bool runs = here(life, node->on), view = runs && is_view(life, node);
        /* a view is read where its readers are; a sender reads what goes elsewhere */
        for (int j = 0; j < node->nin && !view && (runs || mth__communicates(node)); j++)
            if (life->base[node->in[j]->id] >= 0) life->last[life->base[node->in[j]->id]] = (int)i;
        for (int k = 0; k < node->nout && runs; k++) {
            const mth__value *value = node->out[k];
            life->base[value->id] = view ? life->base[node->in[0]->id] : value->id;
            if (life->base[value->id] == value->id) life->last[value->id] = (int)i;
            life->bytes[value->id] = part_bytes(life, value);
        }
    }
}

/* The number of the live that result k takes over from an operand that nobody needs after node `at`; -1: none. */
static int taken_over(const liveness *life, const mth__node *node, int at, int k) {
    const mth__value *sum = mth__sum_below(node, k), *value = node->out[k];
    if (sum) return life->block[life->base[sum->id]];
    if (!((node->op->flags & MTH__ELEMENTWISE) || node->op->row == MTH__ROW_all_reduce) || life->owned[value->id])
        return -1;
    for (int j = 0; j < node->nin; j++) {
        const int base = life->base[node->in[j]->id], block_number = life->block[base];
        if (block_number < 0 || life->in_output.at[block_number] || life->live.at[block_number].last != at) continue;
        if (life->live.at[block_number].owned) continue;
        if (life->written.at[block_number] == at) continue; /* by another result of the node */
        if (node->in[j]->dtype != value->dtype || life->bytes[node->in[j]->id] != life->bytes[value->id]) continue;
        if (life->bytes[base] == life->bytes[value->id]) return block_number;
    }
    return -1;
}

static void place_result(liveness *life, mth__arena *arena, const mth__node *node, int at, int k) {
    const mth__value *value = node->out[k];
    if (life->base[value->id] != value->id) return;
    int block_number = taken_over(life, node, at, k);
    if (block_number < 0) {
        if (life->leaves[value->id] || life->bytes[value->id] == 0) return;
        const bool owned = life->owned[value->id];
        const int64_t bytes = life->bytes[value->id], units = mth__ceil_div(bytes, MTH__ALIGNMENT);
        block_number = (int)life->live.n;
        PUSH(arena, life->live,
            ((mth__live){
                .value = value->id, .first = at, .owned = owned, .bytes = owned ? bytes : units * MTH__ALIGNMENT}));
        PUSH(arena, life->in_output, false);
        PUSH(arena, life->written, at);
    }
    life->block[value->id] = block_number;
    life->live.at[block_number].last = life->last[value->id];
    life->written.at[block_number] = at;
    life->in_output.at[block_number] |= life->leaves[value->id];
}

static void find_lives(liveness *life, mth__arena *arena) {
    const mth__graph *graph = life->graph;
    memset(life->block, -1, sizeof(int) * (size_t)graph->values);
    for (int i = 0; i < (int)graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        if (!here(life, node->on)) continue;
        for (int k = 0; k < node->nout; k++) /* the others may lie on no operand that is a sum */
            if (mth__sum_below(node, k)) place_result(life, arena, node, i, k);
        for (int k = 0; k < node->nout; k++)
            if (!mth__sum_below(node, k)) place_result(life, arena, node, i, k);
    }
}

int mth__live_values(
    mth__arena *arena, const mth__graph *graph, int device, bool views, mth__owns *owns, mth__live **out) {
    mth__arena *scratch = mth__arena_new();
    liveness life = {.graph = graph,
        .device = device,
        .views = views,
        .base = NEW_ARRAY(scratch, int, graph->values),
        .last = NEW_ARRAY(scratch, int, graph->values),
        .block = NEW_ARRAY(scratch, int, graph->values),
        .leaves = NEW_ARRAY(scratch, bool, graph->values),
        .bytes = NEW_ARRAY(scratch, int64_t, graph->values)};
    find_leaving(&life);
    life.owned = mth__owned_values(scratch, graph, owns, life.leaves);
    find_bases(&life);
    find_lives(&life, scratch);
    int count = 0;
    *out = NEW_ARRAY(arena, mth__live, life.live.n + 1);
    for (size_t number = 0; number < life.live.n; number++)
        if (!life.in_output.at[number]) (*out)[count++] = life.live.at[number];
    mth__arena_free(scratch);
    return count;
}

int64_t mth__live_peak(const mth__graph *graph, int device, bool views, mth__owns *owns, int *at) {
    mth__arena *arena = mth__arena_new();
    mth__live *live;
    const int count = mth__live_values(arena, graph, device, views, owns, &live);
    int64_t *change = NEW_ARRAY(arena, int64_t, graph->node.n + 1), bytes = 0, most = 0;
    *at = 0;
    for (int number = 0; number < count; number++) {
        change[live[number].first] += live[number].bytes;
        change[live[number].last + 1] -= live[number].bytes;
    }
    for (size_t i = 0; i < graph->node.n; i++) {
        bytes += change[i];
        if (bytes > most) most = bytes, *at = (int)i;
    }
    mth__arena_free(arena);
    return most;
}
