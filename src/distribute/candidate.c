/* What the search tries: for each group of parameters every way to give the axes of its devices to its dimensions, in
 * whole units (heads), so that no device is left without a part; for the inputs, the axes that may share the batch. */
#include "distribute/fold.h"
#include <string.h>

/* Others are left to propagation. */
bool mth__searched(const mth__value *value) {
    bool said = value->pinned;
    for (int d = 0; d < value->shape.rank; d++) said |= value->fixed[d];
    if (said || value->shape.rank < 2 || value->sharding.on->count == 1) return false;
    const mth__placement *on = value->sharding.on;
    return mth__worth_parts(
        on, (1 << on->naxes) - 1, mth__shape_size(value->shape) * (int64_t)mth_dtype_size(value->dtype));
}

uint64_t mth__group_role(mth__role_walk *walk, const mth__value *value) {
    uint64_t hash =
        mth__mix_place(mth__mix_shape(mth__mix_name(value->dtype, value->name), value->shape), value->sharding.on);
    hash = mth__mix(hash, value->copied);
    walk->turn = hash == walk->last && !walk->turn;
    walk->last = hash;
    return mth__mix(hash, (uint64_t)walk->turn);
}

/* ---------------------------------------------------------------- units */
/* The width of a head, found where a reshape takes heads apart or joins them, is the grain of all dimensions that share
 * its factor. */
static void spread(const mth__node *node, int32_t (*grain)[MTH__RANK]) {
    mth__rule rule;
    int32_t of[MTH__FACTORS] = {0};
    mth__op_rule(node, &rule);
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < node->nin + node->nout; j++) {
            const mth__value *value = j < node->nin ? node->in[j] : node->out[j - node->nin];
            const int8_t *factor = j < node->nin ? rule.in[j] : rule.out[j - node->nin];
            const int32_t *unit = j < node->nin ? rule.in_unit[j] : rule.out_unit[j - node->nin];
            for (int d = 0; d < value->shape.rank; d++) {
                int at = factor[d];
                if (at < 0 || rule.factor[at].kind == MTH__WHOLE) continue;
                int32_t *have = &grain[value->id][d], units = *have / unit[d];
                if (pass == 0 && units > of[at]) of[at] = units;
                if (pass == 0 && of[at] < 1) of[at] = 1;
                if (pass == 1 && (int64_t)of[at] * unit[d] > *have && (int64_t)of[at] * unit[d] <= value->shape.dim[d])
                    *have = of[at] * unit[d];
            }
        }
}

static int32_t (*find_grains(mth__arena *arena, const mth__graph *graph))[MTH__RANK] {
    int32_t(*grain)[MTH__RANK] = mth__alloc_array(arena, (size_t)graph->values, sizeof *grain);
    for (size_t i = 0; i < graph->node.n; i++)
        if (!mth__follows_forward(graph->node.at[i]->label.phase)) spread(graph->node.at[i], grain);
    for (size_t i = graph->node.n; i-- > 0;)
        if (!mth__follows_forward(graph->node.at[i]->label.phase)) spread(graph->node.at[i], grain);
    return grain;
}

/* ---------------------------------------------------------------- candidates */
static void add_candidate(mth__group *group, const mth__sharding *sharding) {
    if (group->candidates < MTH__CANDIDATES) group->candidate[group->candidates++] = *sharding;
}

static void split_by(mth__group *group, const int *to, int most) { /* to: by axis a dimension, or -1 */
    mth__sharding sharding;
    int64_t parts[MTH__RANK];
    int split = 0;
    memset(&sharding, 0, sizeof sharding);
    for (int d = 0; d < group->shape.rank; d++) parts[d] = 1;
    for (int axis = 0; axis < group->naxes; axis++) {
        if (to[axis] < 0) continue;
        mth__split *dim_split = &sharding.dim[to[axis]];
        dim_split->axis[dim_split->naxes++] = (int8_t)axis;
        dim_split->grain = group->grain[to[axis]];
        parts[to[axis]] *= group->dim[axis];
    }
    for (int d = 0; d < group->shape.rank; d++) {
        int64_t grain = group->grain[d] > 1 ? group->grain[d] : 1;
        if (parts[d] > 1 && mth__ceil_div(group->shape.dim[d], grain) < parts[d]) return;
        split += parts[d] > 1;
    }
    if (!most || split <= most) add_candidate(group, &sharding);
}

static void add_candidates(mth__group *group, int dims, int most) {
    int free_axes = 0;
    for (int axis = 0; axis < group->naxes; axis++) free_axes += group->dim[axis] > 1;
    for (int used = 1; used <= free_axes; used++) { /* few axes first, should there be too many ways */
        int to[MTH__AXES];
        for (int axis = 0; axis < group->naxes; axis++) to[axis] = -1;
        for (bool more = true; more;) {
            int n = 0;
            for (int axis = 0; axis < group->naxes; axis++) n += to[axis] >= 0;
            if (n == used) split_by(group, to, most);
            more = false;
            for (int axis = group->naxes - 1; axis >= 0 && !more; axis--) {
                if (group->dim[axis] > 1 && ++to[axis] < dims)
                    more = true;
                else
                    to[axis] = -1;
            }
        }
    }
}

static bool has_spec(const mth__distribute_options *options, const char *name) {
    for (size_t i = 0; i < options->specs; i++)
        if (!strcmp(options->spec[i].name, name)) return true;
    return false;
}

/* The inputs' first dimension, where the user left it open. */
static bool batch_group(const mth__graph *graph, const mth__distribute_options *options, mth__group *group) {
    int64_t batch = 0;
    for (size_t i = 0; i < graph->input.n && !batch; i++)
        if (graph->input.at[i]->shape.rank && !has_spec(options, graph->input.at[i]->name))
            batch = graph->input.at[i]->shape.dim[0];
    if (batch < 2 || graph->mesh->count == 1) return false;
    *group = (mth__group){.shape = {1, {batch}}, .naxes = graph->mesh->naxes, .candidates = 1};
    memcpy(group->dim, graph->mesh->dim, sizeof group->dim);
    add_candidates(group, 1, 0);
    return group->candidates > 1;
}

int mth__groups(mth__arena *arena, const mth__graph *graph, const mth__folding *folding,
    const mth__distribute_options *options, mth__group **out, bool *batch) {
    mth__group *group = *out = NEW_ARRAY(arena, mth__group, graph->parameter.n + 1);
    int n = 0;
    *batch = batch_group(graph, options, group);
    if (*batch) n = 1;
    int32_t(*grain)[MTH__RANK] = find_grains(arena, graph);
    const char **reader = NEW_ARRAY(arena, const char *, graph->values); /* by value id */
    for (size_t i = graph->node.n; i-- > 0;)
        for (int j = 0; j < graph->node.at[i]->nin; j++)
            reader[graph->node.at[i]->in[j]->id] = graph->node.at[i]->label.module;
    mth__role_walk walk = {0};
    for (size_t i = 0; i < graph->parameter.n; i++) {
        mth__value *value = graph->parameter.at[i];
        if (!mth__searched(value)) continue;
        uint64_t role = mth__group_role(&walk, value);
        int k = *batch;
        while (k < n && group[k].role != role) k++;
        if (k == n) {
            const mth__placement *on = value->sharding.on;
            group[n] = (mth__group){.role = role, .shape = value->shape, .naxes = on->naxes, .candidates = 2};
            group[n].parameter = NEW_ARRAY(arena, mth__value *, graph->parameter.n - i);
            for (int axis = 0; axis < on->naxes; axis++)
                group[n].dim[axis] = value->copied >> axis & 1 ? 1 : on->dim[axis];
            memcpy(group[n].grain, grain[value->id], sizeof group[n].grain);
            add_candidates(&group[n++], value->shape.rank, options->partition_dims);
        }
        group[k].weight += mth__folded_weight(folding, reader[value->id]);
        group[k].parameter[group[k].parameters++] = value;
    }
    return n;
}
