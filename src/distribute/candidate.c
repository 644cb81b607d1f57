/* What the search tries: for each group of parameters every way to give the axes of its devices to its dimensions, in
 * whole units (heads), so that no device is left without a part; for the inputs, the axes that may share the batch. */
#include "distribute/fold.h"
#include <string.h>

static const int64_t SMALL = 4 << 10; /* bytes: a parameter that the search leaves to propagation */

bool mth__searched(const mth__value *v) {
    bool said = v->pinned;
    for (int d = 0; d < v->shape.rank; d++) said |= v->fixed[d];
    if (said || v->shape.rank < 2 || v->sharding.on->count == 1) return false;
    return mth__shape_size(v->shape) * (int64_t)mth_dtype_size(v->dtype) >= SMALL;
}

uint64_t mth__group_role(mth__role_walk *w, const mth__value *v) {
    uint64_t h = mth__mix_place(mth__mix_shape(mth__mix_name(v->dtype, v->name), v->shape), v->sharding.on);
    h = mth__mix(h, v->copied);
    w->turn = h == w->last && !w->turn;
    w->last = h;
    return mth__mix(h, (uint64_t)w->turn);
}

/* ---------------------------------------------------------------- units */
/* The width of a head, found where a reshape takes heads apart or joins them, is the grain of all dimensions that share
 * its factor. */
static void spread(const mth__node *n, int32_t (*grain)[MTH__RANK]) {
    mth__rule r;
    int32_t of[MTH__FACTORS] = {0};
    mth__op_rule(n, &r);
    for (int pass = 0; pass < 2; pass++)
        for (int j = 0; j < n->nin + n->nout; j++) {
            const mth__value *v = j < n->nin ? n->in[j] : n->out[j - n->nin];
            const int8_t *factor = j < n->nin ? r.in[j] : r.out[j - n->nin];
            const int32_t *unit = j < n->nin ? r.in_unit[j] : r.out_unit[j - n->nin];
            for (int d = 0; d < v->shape.rank; d++) {
                int f = factor[d];
                if (f < 0 || r.factor[f].kind == MTH__WHOLE) continue;
                int32_t *have = &grain[v->id][d], units = *have / unit[d];
                if (pass == 0 && units > of[f]) of[f] = units;
                if (pass == 0 && of[f] < 1) of[f] = 1;
                if (pass == 1 && (int64_t)of[f] * unit[d] > *have && (int64_t)of[f] * unit[d] <= v->shape.dim[d])
                    *have = of[f] * unit[d];
            }
        }
}

static int32_t (*find_grains(mth__arena *arena, const mth__graph *g))[MTH__RANK] {
    int32_t(*grain)[MTH__RANK] = mth__alloc_array(arena, (size_t)g->values, sizeof *grain);
    for (size_t i = 0; i < g->node.n; i++)
        if (!mth__follows_forward(g->node.at[i]->label.phase)) spread(g->node.at[i], grain);
    for (size_t i = g->node.n; i-- > 0;)
        if (!mth__follows_forward(g->node.at[i]->label.phase)) spread(g->node.at[i], grain);
    return grain;
}

/* ---------------------------------------------------------------- candidates */
static void add(mth__group *g, const mth__sharding *s) {
    if (g->candidates < MTH__CANDIDATES) g->candidate[g->candidates++] = *s;
}

static void split_by(mth__group *g, const int *to, int most) { /* to: by axis a dimension, or -1 */
    mth__sharding s;
    int64_t parts[MTH__RANK];
    int split = 0;
    memset(&s, 0, sizeof s);
    for (int d = 0; d < g->shape.rank; d++) parts[d] = 1;
    for (int a = 0; a < g->naxes; a++) {
        if (to[a] < 0) continue;
        mth__split *t = &s.dim[to[a]];
        t->axis[t->naxes++] = (int8_t)a;
        t->grain = g->grain[to[a]];
        parts[to[a]] *= g->dim[a];
    }
    for (int d = 0; d < g->shape.rank; d++) {
        int64_t grain = g->grain[d] > 1 ? g->grain[d] : 1;
        if (parts[d] > 1 && mth__ceil_div(g->shape.dim[d], grain) < parts[d]) return;
        split += parts[d] > 1;
    }
    if (!most || split <= most) add(g, &s);
}

static void add_candidates(mth__group *g, int dims, int most) {
    int free_axes = 0;
    for (int a = 0; a < g->naxes; a++) free_axes += g->dim[a] > 1;
    for (int used = 1; used <= free_axes; used++) { /* few axes first, should there be too many ways */
        int to[MTH__AXES];
        for (int a = 0; a < g->naxes; a++) to[a] = -1;
        for (bool more = true; more;) {
            int n = 0;
            for (int a = 0; a < g->naxes; a++) n += to[a] >= 0;
            if (n == used) split_by(g, to, most);
            more = false;
            for (int a = g->naxes - 1; a >= 0 && !more; a--) {
                if (g->dim[a] > 1 && ++to[a] < dims)
                    more = true;
                else
                    to[a] = -1;
            }
        }
    }
}

static bool has_spec(const mth__distribute_options *o, const char *name) {
    for (size_t i = 0; i < o->specs; i++)
        if (!strcmp(o->spec[i].name, name)) return true;
    return false;
}

/* The inputs' first dimension, where the user left it open. */
static bool batch_group(const mth__graph *g, const mth__distribute_options *o, mth__group *group) {
    int64_t batch = 0;
    for (size_t i = 0; i < g->input.n && !batch; i++)
        if (g->input.at[i]->shape.rank && !has_spec(o, g->input.at[i]->name)) batch = g->input.at[i]->shape.dim[0];
    if (batch < 2 || g->mesh->count == 1) return false;
    *group = (mth__group){.shape = {1, {batch}}, .naxes = g->mesh->naxes, .candidates = 1};
    memcpy(group->dim, g->mesh->dim, sizeof group->dim);
    add_candidates(group, 1, 0);
    return group->candidates > 1;
}

int mth__groups(mth__arena *arena, const mth__graph *g, const mth__folding *f, const mth__distribute_options *o,
    mth__group **out, bool *batch) {
    mth__group *group = *out = NEW_ARRAY(arena, mth__group, g->parameter.n + 1);
    int n = 0;
    *batch = batch_group(g, o, group);
    if (*batch) n = 1;
    int32_t(*grain)[MTH__RANK] = find_grains(arena, g);
    const char **reader = NEW_ARRAY(arena, const char *, g->values); /* by value id */
    for (size_t i = g->node.n; i-- > 0;)
        for (int j = 0; j < g->node.at[i]->nin; j++) reader[g->node.at[i]->in[j]->id] = g->node.at[i]->label.module;
    mth__role_walk walk = {0};
    for (size_t i = 0; i < g->parameter.n; i++) {
        mth__value *v = g->parameter.at[i];
        if (!mth__searched(v)) continue;
        uint64_t role = mth__group_role(&walk, v);
        int k = *batch;
        while (k < n && group[k].role != role) k++;
        if (k == n) {
            const mth__placement *on = v->sharding.on;
            group[n] = (mth__group){.role = role, .shape = v->shape, .naxes = on->naxes, .candidates = 2};
            group[n].parameter = NEW_ARRAY(arena, mth__value *, g->parameter.n - i);
            for (int a = 0; a < on->naxes; a++) group[n].dim[a] = v->copied >> a & 1 ? 1 : on->dim[a];
            memcpy(group[n].grain, grain[v->id], sizeof group[n].grain);
            add_candidates(&group[n++], v->shape.rank, o->partition_dims);
        }
        group[k].weight += mth__folded_weight(f, reader[v->id]);
        group[k].parameter[group[k].parameters++] = v;
    }
    return n;
}
