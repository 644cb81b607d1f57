/* Random graphs, sharded at random: every kind of communication, placement, split and view. */
#ifndef RANDOM_PLAN_H
#define RANDOM_PLAN_H
#include "distribute/decide.h"
#include "plans.h"

typedef struct {
    mth__graph *g;
    mth__builder b;
    unsigned seed;
    mth__value *value[256];
    int values, parameters;
} random_plan;

static int dice(random_plan *r, int n) {
    r->seed = r->seed * 1664525u + 1013904223u;
    return (int)((r->seed >> 10) % (unsigned)n);
}

static const mth__placement *random_place(random_plan *r) {
    mth__mesh *m = r->g->mesh;
    int kind = dice(r, 6);
    if (kind < 3) return mth__place_whole(m);
    if (kind == 3 && m->naxes > 1) {
        int axis = dice(r, m->naxes);
        return mth__place_slice(m, axis, dice(r, m->dim[axis]));
    }
    if (kind == 4 && m->count > 2) {
        int32_t list[3] = {dice(r, m->count)};
        int n = 1;
        for (int tries = 0; tries < 6 && n < 3; tries++) {
            int32_t d = dice(r, m->count);
            bool there = false;
            for (int i = 0; i < n; i++) there |= list[i] == d;
            if (!there) list[n++] = d;
        }
        return mth__place_list(m, n, list);
    }
    return mth__place_device(m, dice(r, m->count));
}

/* Each axis of the placement to at most one of `dims` dimensions. */
static mth__sharding random_split(random_plan *r, mth__shape shape, const mth__placement *on) {
    mth__sharding s = {.on = on};
    for (int a = 0; a < on->naxes; a++) {
        int d = dice(r, shape.rank + 1);
        if (d == shape.rank || s.dim[d].cyclic) continue;
        s.dim[d].axis[s.dim[d].naxes++] = (int8_t)a;
        int style = s.dim[d].naxes == 1 ? dice(r, 8) : 7;
        if (style == 0)
            s.dim[d].cyclic = true;
        else if (style == 1)
            s.dim[d].grain = 2;
    }
    mth__sharding_canonical(&s, shape);
    return s;
}

static mth__value *reshard(random_plan *r, mth__value *v, mth__sharding to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(v->shape, mth_dtype_size(v->dtype), &v->sharding, &to, moves);
    for (int k = 0; k < n; k++) {
        r->b.on = moves[k].to.on;
        mth__value *out = NULL;
        CHECK_STATUS(mth__build(&r->b, mth__op_at(moves[k].row), &moves[k].attrs, 1, &v, &out));
        out->sharding = moves[k].to;
        v = out;
    }
    return v;
}

static mth__sharding settled(const mth__value *v) {
    mth__sharding s = v->sharding;
    s.partial = s.reduce = 0;
    return s;
}

static mth__value *made(random_plan *r, mth__value *v, mth__sharding s) {
    v->sharding = s;
    mth__sharding_canonical(&v->sharding, v->shape);
    return r->value[r->values++] = v;
}

static void random_contract(random_plan *r, mth__value *x) {
    const mth__placement *on = dice(r, 3) ? x->sharding.on : random_place(r);
    int64_t b = x->shape.dim[0], i = x->shape.dim[1], o = (int64_t[]){4, 6, 7, 8}[dice(r, 4)];
    mth__sharding cut = random_split(r, SHAPE(b, i, o), on);
    mth__sharding sx = {.on = on, .dim = {cut.dim[0], cut.dim[1]}}, sw = {.on = on, .dim = {cut.dim[1], cut.dim[2]}},
                  sy = {.on = on, .dim = {cut.dim[0], cut.dim[2]}};
    x = reshard(r, x, sx);
    mth__value *w = mth__graph_value(r->g, MTH__VALUE_PARAMETER, mth__format(r->g->arena, "w%d", r->parameters++),
                   MTH_FLOAT32, SHAPE(i, o)),
               *y;
    w->sharding = random_split(r, w->shape, dice(r, 2) ? on : random_place(r));
    w = reshard(r, w, sw);
    r->b.on = on;
    CHECK_STATUS(mth__build_contract(&r->b, "bi,io->bo", x, w, &y));
    for (int k = 0; k < cut.dim[1].naxes; k++) sy.partial |= (uint8_t)(1u << cut.dim[1].axis[k]);
    mth__value *sum = made(r, y, sy);
    /* a gradient over microbatches, sometimes read in between */
    for (int terms = dice(r, 3); terms > 0; terms--) {
        if (!dice(r, 4)) r->value[r->values++] = reshard(r, sum, random_split(r, sum->shape, random_place(r)));
        r->b.on = on;
        CHECK_STATUS(mth__build_contract(&r->b, "bi,io->bo", x, w, &y));
        y->sharding = sum->sharding;
        r->b.label.phase = MTH__BACKWARD;
        sum = made(r, node2(&r->b, "add", NULL, sum, y, on, NULL, 0), y->sharding);
        r->b.label.phase = MTH__FORWARD;
    }
}

static void random_step(random_plan *r) {
    mth__value *x = r->value[dice(r, r->values)], *y = NULL;
    r->b.on = x->sharding.on;
    switch (dice(r, 8)) {
    case 0: made(r, node1(&r->b, "relu", NULL, reshard(r, x, settled(x)), x->sharding.on, NULL, 0), settled(x)); break;
    /* partial sums pass */
    case 1: made(r, node1(&r->b, "scale", &(mth__attrs){.by = 0.5}, x, x->sharding.on, NULL, 0), x->sharding); break;
    case 2: {
        mth__value *other = r->value[dice(r, r->values)];
        if (!mth__shape_equal(other->shape, x->shape)) break;
        if (other->sharding.partial != x->sharding.partial || other->sharding.on != x->sharding.on)
            x = reshard(r, x, settled(x));
        if (!mth__sharding_equal(&other->sharding, &x->sharding, x->shape.rank)) other = reshard(r, other, settled(x));
        if (!mth__sharding_equal(&other->sharding, &x->sharding, x->shape.rank)) x = reshard(r, x, other->sharding);
        made(r, node2(&r->b, "add", NULL, x, other, x->sharding.on, NULL, 0), x->sharding);
        break;
    }
    case 3: r->value[r->values++] = reshard(r, x, random_split(r, x->shape, random_place(r))); break;
    case 4: { /* rows of a value that is whole along them */
        mth__sharding s = settled(x);
        s.dim[0] = (mth__split){0};
        x = reshard(r, x, s);
        int64_t n = x->shape.dim[0], start = dice(r, (int)n), stop = start + 1 + dice(r, (int)(n - start));
        y = node1(&r->b, "slice", &(mth__attrs){.start = start, .stop = stop}, x, x->sharding.on, NULL, 0);
        made(r, y, x->sharding);
        break;
    }
    case 5: { /* a view and back */
        mth__sharding s = settled(x);
        s.dim[0] = s.dim[1] = (mth__split){0};
        x = reshard(r, x, s);
        y = node1(&r->b, "reshape", &(mth__attrs){.rank = 1, .shape = {x->shape.dim[0] * x->shape.dim[1]}}, x,
            x->sharding.on, NULL, 0);
        y->sharding = s;
        y = node1(&r->b, "exp", NULL, y, x->sharding.on, NULL, 0);
        y = node1(&r->b, "reshape", &(mth__attrs){.rank = 2, .shape = {x->shape.dim[0], x->shape.dim[1]}}, y,
            x->sharding.on, NULL, 0);
        made(r, y, s);
        break;
    }
    default: random_contract(r, x);
    }
}

static mth__graph *random_graph(mth__arena *a, unsigned seed) {
    static const int64_t meshes[][3] = {{1}, {2}, {3}, {4}, {5}, {2, 2}, {2, 3}, {3, 2}, {2, 2, 2}};
    random_plan r = {.seed = seed * 2654435761u + 1};
    const int64_t *dim = meshes[dice(&r, 9)];
    r.g = mth__graph_new(a, plan_mesh(a, dim[2] ? 3 : dim[1] ? 2 : 1, dim));
    r.b = builder(r.g);
    int inputs = 1 + dice(&r, 2), steps = 2 + dice(&r, 14);
    for (int i = 0; i < inputs; i++) {
        mth__value *x = mth__graph_value(
            r.g, MTH__VALUE_INPUT, mth__format(a, "x%d", i), MTH_FLOAT32, SHAPE(3 + dice(&r, 6), 4 + dice(&r, 5)));
        x->sharding = random_split(&r, x->shape, random_place(&r));
        r.value[r.values++] = x;
    }
    for (int i = 0; i < steps; i++) random_step(&r);
    for (int i = 0; i < 3; i++) {
        mth__value *v = r.value[dice(&r, r.values)];
        output(r.g, mth__format(a, "out%d", i), reshard(&r, v, settled(v)));
    }
    for (size_t i = 0; i < r.g->node.n; i++) {
        mth__node *n = r.g->node.at[i];
        n->need = NEW_ARRAY(a, mth__sharding, n->nin);
        for (int j = 0; j < n->nin; j++) n->need[j] = n->in[j]->sharding;
    }
    CHECK_STATUS(mth__accumulate(r.g));
    return r.g;
}

/* Overlap, views and an algorithm for each kind of collective. */
static mth__emit_options random_emit_options(unsigned seed) {
    static const char *const names[] = {"direct", "ring", "tree", "hierarchical"};
    mth__emit_options o = {.overlap = seed % 2, .views = seed % 3 != 0};
    for (int k = 0; k < MTH__TRANSFER; k++) o.algorithm[k] = names[(seed / 2 + (unsigned)k * (seed / 8)) % 4];
    return o;
}
#endif
