/* A graph built by hand, the passes of distribute/ over it, and questions to ask of the result. */
#ifndef WORLD_H
#define WORLD_H
#include "catalog/rows.h"
#include "distribute/distribute.h"
#include "derive/derive.h"
#include "unit.h"

typedef struct {
    mth__arena *arena;
    mth__mesh *mesh;
    mth__graph *graph;
    mth__builder b;
    mth__distribute_options options;
} world;

static mth_status (*the_test)(world *);
static int64_t mesh_dim[4];
static int mesh_axes;

static mth_status with_world(void *unused) {
    (void)unused;
    world w = {.arena = mth__arena_new()};
    mth_status status = mth__mesh_new(w.arena, mesh_axes, mesh_dim, &w.mesh);
    if (!status) {
        w.graph = mth__graph_new(w.arena, w.mesh);
        w.b = (mth__builder){.graph = w.graph, .label = mth__label_outside("m", MTH__FORWARD)};
        status = the_test(&w);
    }
    if (getenv("SHOW") && !status) {
        mth__text text = mth__text_new(w.arena);
        mth__graph_print(&text, w.graph);
        printf("%.*s", (int)text.n, text.at);
    }
    mth__arena_free(w.arena);
    return status;
}
#define WORLD_TEST(id, ...)                                                                                            \
    static mth_status in_##id(world *);                                                                                \
    TEST(id) {                                                                                                         \
        int64_t dims[] = {__VA_ARGS__};                                                                                \
        mesh_axes = (int)(sizeof dims / sizeof *dims);                                                                 \
        memcpy(mesh_dim, dims, sizeof dims);                                                                           \
        the_test = in_##id;                                                                                            \
        CHECK_STATUS(mth__guard(with_world, NULL));                                                                    \
    }                                                                                                                  \
    static mth_status in_##id(world *w)

/* ---------------------------------------------------------------- building */
static inline mth__shape shape_of(int rank, const int64_t *dim) {
    mth__shape shape = {.rank = rank};
    for (int d = 0; d < rank; d++) shape.dim[d] = dim[d];
    return shape;
}
#define SHAPE(...) shape_of((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})
static inline mth__value *source(world *w, mth__value_kind kind, const char *name, mth_dtype dtype, mth__shape shape) {
    return mth__graph_value(w->graph, kind, name, dtype, shape);
}
#define input(w, name, shape) source(w, MTH__VALUE_INPUT, name, MTH_FLOAT32, shape)
#define ids(w, name, shape) source(w, MTH__VALUE_INPUT, name, MTH_INT32, shape)
#define parameter(w, name, shape) source(w, MTH__VALUE_PARAMETER, name, MTH_FLOAT32, shape)
/* axis of each dimension, -1: none; the user's word */
static inline mth__value *pin(world *w, mth__value *value, int grain, const int *axis) {
    value->sharding.on = mth__place_whole(w->mesh);
    value->pinned = true;
    for (int d = 0; d < value->shape.rank; d++)
        if (axis[d] >= 0) value->sharding.dim[d] = (mth__split){.naxes = 1, .axis = {(int8_t)axis[d]}, .grain = grain};
    value->origin.said = "user, test";
    return value;
}
#define PIN(w, v, ...) pin(w, v, 1, (int[]){__VA_ARGS__})
static inline void output(world *w, const char *name, mth__value *value) {
    value->name = name;
    PUSH(w->graph->arena, w->graph->output, (mth__output){.name = name, .value = value});
}
static inline mth__value *one(world *w, const char *op, mth__value *x) {
    mth__value *y = NULL;
    CHECK_STATUS(mth__build1(&w->b, mth__op_find(op)->row, NULL, x, &y));
    return y;
}
static inline mth__value *two(world *w, const char *op, mth__value *x, mth__value *value) {
    mth__value *y = NULL;
    CHECK_STATUS(mth__build2(&w->b, mth__op_find(op)->row, NULL, x, value, &y));
    return y;
}
static inline mth__value *contract(world *w, const char *spec, mth__value *x, mth__value *value) {
    mth__value *y = NULL;
    CHECK_STATUS(mth__build_contract(&w->b, spec, x, value, &y));
    return y;
}
static inline mth__value *with(world *w, const char *op, mth__attrs attrs, mth__value *x) {
    mth__value *y = NULL;
    CHECK_STATUS(mth__build1(&w->b, mth__op_find(op)->row, &attrs, x, &y));
    return y;
}
static mth_status plan(world *w, bool gradients) {
    TRY(mth__distribute(w->graph, &w->options, MTH__PASS_MICROBATCH, MTH__PASS_MICROBATCH));
    if (gradients) {
        bool seeded[8] = {true, true, true, true, true, true, true, true};
        mth__gradient_options options = {.seeded = seeded};
        TRY(mth__gradients(w->graph, &options));
    }
    for (int pass = MTH__PASS_PLACE; pass <= MTH__PASS_OVERLAP; pass++) {
        TRY(mth__distribute(w->graph, &w->options, (mth__distribute_pass)pass, (mth__distribute_pass)pass));
        TRY(mth__distribute_check(w->graph, (mth__distribute_pass)pass));
    }
    return NULL;
}

/* ---------------------------------------------------------------- looking */
static inline int count(const world *w, const char *op) {
    int n = 0;
    for (size_t i = 0; i < w->graph->node.n; i++) n += !strcmp(w->graph->node.at[i]->op->name, op);
    return n;
}
static inline int moving(const world *w) { /* communication that moves anything */
    int n = 0;
    for (size_t i = 0; i < w->graph->node.n; i++)
        n += (w->graph->node.at[i]->op->flags & MTH__COMM) && strcmp(w->graph->node.at[i]->op->name, "keep");
    return n;
}
static inline bool is_sharded(const world *w, const mth__value *value, const char *text) {
    const char *have = mth__sharding_text(w->arena, &value->sharding, value->shape.rank);
    if (!strcmp(have, text)) return true;
    printf("  %s is %s\n", mth__value_label(w->arena, value), have);
    return false;
}

#endif
