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

static int dice(random_plan *plan, int n) {
    plan->seed = plan->seed * 1664525u + 1013904223u;
    return (int)((plan->seed >> 10) % (unsigned)n);
}

static const mth__placement *random_place(random_plan *plan) {
    mth__mesh *mesh = plan->g->mesh;
    int kind = dice(plan, 6);
    if (kind < 3) return mth__place_whole(mesh);
    if (kind == 3 && mesh->naxes > 1) {
        int axis = dice(plan, mesh->naxes);
        return mth__place_slice(mesh, axis, dice(plan, mesh->dim[axis]));
    }
    if (kind == 4 && mesh->count > 2) {
        int32_t list[3] = {dice(plan, mesh->count)};
        int n = 1;
        for (int tries = 0; tries < 6 && n < 3; tries++) {
            int32_t d = dice(plan, mesh->count);
            bool there = false;
            for (int i = 0; i < n; i++) there |= list[i] == d;
            if (!there) list[n++] = d;
        }
        return mth__place_list(mesh, n, list);
    }
    return mth__place_device(mesh, dice(plan, mesh->count));
}

/* Each axis of the placement to at most one of `dims` dimensions. */
static mth__sharding random_split(random_plan *plan, mth__shape shape, const mth__placement *on) {
    mth__sharding sharding = {.on = on};
    for (int axis = 0; axis < on->naxes; axis++) {
        int d = dice(plan, shape.rank + 1);
        if (d == shape.rank || sharding.dim[d].cyclic) continue;
        sharding.dim[d].axis[sharding.dim[d].naxes++] = (int8_t)axis;
        int style = sharding.dim[d].naxes == 1 ? dice(plan, 8) : 7;
        if (style == 0)
            sharding.dim[d].cyclic = true;
        else if (style == 1)
            sharding.dim[d].grain = 2;
    }
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}

static mth__value *reshard(random_plan *plan, mth__value *value, mth__sharding to) {
    mth__move moves[MTH__MOST_MOVES];
    int n = mth__moves(value->shape, mth_dtype_size(value->dtype), &value->sharding, &to, moves);
    for (int k = 0; k < n; k++) {
        plan->b.on = moves[k].to.on;
        mth__value *out = NULL;
        CHECK_STATUS(mth__build(&plan->b, moves[k].row, &moves[k].attrs, 1, &value, &out));
        out->sharding = moves[k].to;
        value = out;
    }
    return value;
}

static mth__sharding settled(const mth__value *value) {
    mth__sharding sharding = value->sharding;
    sharding.partial = sharding.reduce = 0;
    return sharding;
}

static mth__value *made(random_plan *plan, mth__value *value, mth__sharding sharding) {
    value->sharding = sharding;
    mth__sharding_canonical(&value->sharding, value->shape);
    return plan->value[plan->values++] = value;
}

static void random_contract(random_plan *plan, mth__value *x) {
    const mth__placement *on = dice(plan, 3) ? x->sharding.on : random_place(plan);
    int64_t b = x->shape.dim[0], i = x->shape.dim[1], o = (int64_t[]){4, 6, 7, 8}[dice(plan, 4)];
    mth__sharding cut = random_split(plan, SHAPE(b, i, o), on);
    mth__sharding sx = {.on = on, .dim = {cut.dim[0], cut.dim[1]}}, sw = {.on = on, .dim = {cut.dim[1], cut.dim[2]}},
                  sy = {.on = on, .dim = {cut.dim[0], cut.dim[2]}};
    x = reshard(plan, x, sx);
    mth__value *value = mth__graph_value(plan->g, MTH__VALUE_PARAMETER,
                   mth__format(plan->g->arena, "w%d", plan->parameters++), MTH_FLOAT32, SHAPE(i, o)),
               *y;
    value->sharding = random_split(plan, value->shape, dice(plan, 2) ? on : random_place(plan));
    value = reshard(plan, value, sw);
    plan->b.on = on;
    CHECK_STATUS(mth__build_contract(&plan->b, "bi,io->bo", x, value, &y));
    for (int k = 0; k < cut.dim[1].naxes; k++) sy.partial |= (uint8_t)(1u << cut.dim[1].axis[k]);
    mth__value *sum = made(plan, y, sy);
    /* a gradient over microbatches, sometimes read in between */
    for (int terms = dice(plan, 3); terms > 0; terms--) {
        if (!dice(plan, 4))
            plan->value[plan->values++] = reshard(plan, sum, random_split(plan, sum->shape, random_place(plan)));
        plan->b.on = on;
        CHECK_STATUS(mth__build_contract(&plan->b, "bi,io->bo", x, value, &y));
        y->sharding = sum->sharding;
        plan->b.label.phase = MTH__BACKWARD;
        sum = made(plan, node2(&plan->b, "add", NULL, sum, y, on, NULL, 0), y->sharding);
        plan->b.label.phase = MTH__FORWARD;
    }
}

static void random_step(random_plan *plan) {
    mth__value *x = plan->value[dice(plan, plan->values)], *y = NULL;
    plan->b.on = x->sharding.on;
    switch (dice(plan, 8)) {
    case 0:
        made(plan, node1(&plan->b, "relu", NULL, reshard(plan, x, settled(x)), x->sharding.on, NULL, 0), settled(x));
        break;
    /* partial sums pass */
    case 1:
        made(plan, node1(&plan->b, "scale", &(mth__attrs){.by = 0.5}, x, x->sharding.on, NULL, 0), x->sharding);
        break;
    case 2: {
        mth__value *other = plan->value[dice(plan, plan->values)];
        if (!mth__shape_equal(other->shape, x->shape)) break;
        if (other->sharding.partial != x->sharding.partial || other->sharding.on != x->sharding.on)
            x = reshard(plan, x, settled(x));
        if (!mth__sharding_equal(&other->sharding, &x->sharding, x->shape.rank))
            other = reshard(plan, other, settled(x));
        if (!mth__sharding_equal(&other->sharding, &x->sharding, x->shape.rank)) x = reshard(plan, x, other->sharding);
        made(plan, node2(&plan->b, "add", NULL, x, other, x->sharding.on, NULL, 0), x->sharding);
        break;
    }
    case 3: plan->value[plan->values++] = reshard(plan, x, random_split(plan, x->shape, random_place(plan))); break;
    case 4: { /* rows of a value that is whole along them */
        mth__sharding sharding = settled(x);
        sharding.dim[0] = (mth__split){0};
        x = reshard(plan, x, sharding);
        int64_t n = x->shape.dim[0], start = dice(plan, (int)n), stop = start + 1 + dice(plan, (int)(n - start));
        y = node1(&plan->b, "slice", &(mth__attrs){.start = start, .stop = stop}, x, x->sharding.on, NULL, 0);
        made(plan, y, x->sharding);
        break;
    }
    case 5: { /* a view and back */
        mth__sharding sharding = settled(x);
        sharding.dim[0] = sharding.dim[1] = (mth__split){0};
        x = reshard(plan, x, sharding);
        y = node1(&plan->b, "reshape", &(mth__attrs){.rank = 1, .shape = {x->shape.dim[0] * x->shape.dim[1]}}, x,
            x->sharding.on, NULL, 0);
        y->sharding = sharding;
        y = node1(&plan->b, "exp", NULL, y, x->sharding.on, NULL, 0);
        y = node1(&plan->b, "reshape", &(mth__attrs){.rank = 2, .shape = {x->shape.dim[0], x->shape.dim[1]}}, y,
            x->sharding.on, NULL, 0);
        made(plan, y, sharding);
        break;
    }
    default: random_contract(plan, x);
    }
}

static mth__graph *random_graph(mth__arena *arena, unsigned seed) {
    static const int64_t meshes[][3] = {{1}, {2}, {3}, {4}, {5}, {2, 2}, {2, 3}, {3, 2}, {2, 2, 2}};
    random_plan plan = {.seed = seed * 2654435761u + 1};
    const int64_t *dim = meshes[dice(&plan, 9)];
    plan.g = mth__graph_new(arena, plan_mesh(arena, dim[2] ? 3 : dim[1] ? 2 : 1, dim));
    plan.b = builder(plan.g);
    int inputs = 1 + dice(&plan, 2), steps = 2 + dice(&plan, 14);
    for (int i = 0; i < inputs; i++) {
        mth__value *x = mth__graph_value(plan.g, MTH__VALUE_INPUT, mth__format(arena, "x%d", i), MTH_FLOAT32,
            SHAPE(3 + dice(&plan, 6), 4 + dice(&plan, 5)));
        x->sharding = random_split(&plan, x->shape, random_place(&plan));
        plan.value[plan.values++] = x;
    }
    for (int i = 0; i < steps; i++) random_step(&plan);
    for (int i = 0; i < 3; i++) {
        mth__value *value = plan.value[dice(&plan, plan.values)];
        output(plan.g, mth__format(arena, "out%d", i), reshard(&plan, value, settled(value)));
    }
    for (size_t i = 0; i < plan.g->node.n; i++) {
        mth__node *node = plan.g->node.at[i];
        node->need = NEW_ARRAY(arena, mth__sharding, node->nin);
        for (int j = 0; j < node->nin; j++) node->need[j] = node->in[j]->sharding;
    }
    CHECK_STATUS(mth__accumulate(plan.g));
    return plan.g;
}

/* Of an engine whose library allocates half of the results, chosen by the node's number. */
static unsigned owned_salt;
static bool owns_some(const mth__node *node, int result) {
    return ((unsigned)(node->id * 5 + result + 1) * 2654435761u ^ owned_salt * 2246822519u) >> 16 & 1;
}

/* Overlap, views and an algorithm for each kind of collective. */
static mth__emit_options random_emit_options(unsigned seed) {
    static const char *const names[] = {"direct", "ring", "tree", "hierarchical"};
    mth__emit_options options = {.overlap = seed % 2, .views = seed % 3 != 0};
    for (int k = 0; k < MTH__TRANSFER; k++) options.algorithm[k] = names[(seed / 2 + (unsigned)k * (seed / 8)) % 4];
    return options;
}
#endif
