/* Small graphs with shardings set by hand, for the tests of emit. */
#ifndef PLANS_H
#define PLANS_H
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" /* no test uses all of them */
#endif
#include "catalog/rows.h"
#include "emit/program.h"
#include "unit.h"

static mth__mesh *plan_mesh(mth__arena *a, int naxes, const int64_t *dim) {
    mth__mesh *m = NULL;
    CHECK_STATUS(mth__mesh_new(a, naxes, dim, &m));
    return m;
}
#define MESH(arena, ...) plan_mesh(arena, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

/* axis[d]: the axis that splits dimension d, or -1. */
static mth__sharding split_by(const mth__placement *on, mth__shape shape, const int *axis) {
    mth__sharding s = {.on = on};
    for (int d = 0; d < shape.rank && d < MTH__RANK; d++)
        if (axis && axis[d] >= 0) s.dim[d] = (mth__split){.naxes = 1, .axis = {(int8_t)axis[d]}};
    mth__sharding_canonical(&s, shape);
    return s;
}
#define SPLIT(...)                                                                                                     \
    (const int[]) { __VA_ARGS__ }

static mth__value *source(mth__graph *g, mth__value_kind kind, const char *name, mth__shape shape,
    const mth__placement *on, const int *axis) {
    mth__value *v = mth__graph_value(g, kind, name, MTH_FLOAT32, shape);
    v->sharding = split_by(on, shape, axis);
    return v;
}

/* A node of one result, sharded so. */
static mth__value *node(mth__builder *b, const char *op, const mth__attrs *attrs, int nin, mth__value **in,
    const mth__placement *on, const int *axis, uint8_t partial) {
    mth__value *out[MTH__MAX_OUT];
    b->on = on;
    CHECK_STATUS(mth__build(b, mth__op_find(op), attrs, nin, in, out));
    out[0]->sharding = split_by(on, out[0]->shape, axis);
    out[0]->sharding.partial = partial;
    return out[0];
}
static mth__value *node1(mth__builder *b, const char *op, const mth__attrs *attrs, mth__value *x,
    const mth__placement *on, const int *axis, uint8_t partial) {
    return node(b, op, attrs, 1, &x, on, axis, partial);
}
static mth__value *node2(mth__builder *b, const char *op, const mth__attrs *attrs, mth__value *x, mth__value *y,
    const mth__placement *on, const int *axis, uint8_t partial) {
    return node(b, op, attrs, 2, (mth__value *[]){x, y}, on, axis, partial);
}
static mth__value *contract(mth__builder *b, const char *spec, mth__value *x, mth__value *y, const mth__placement *on,
    const int *axis, uint8_t partial) {
    return node2(b, "contract", &(mth__attrs){.spec = spec}, x, y, on, axis, partial);
}
static void output(mth__graph *g, const char *name, mth__value *v) {
    PUSH(g->arena, g->output, ((mth__output){.name = name, .value = v}));
}

static mth__program *emit_plan(const mth__graph *g, const mth__emit_options *o) {
    mth__program *p = NULL;
    CHECK_STATUS(mth__graph_check(g));
    CHECK_STATUS(mth__emit(g->arena, g, o, &p));
    if (p) CHECK_STATUS(mth__emit_memory(p, 1));
    return p;
}
static const char *plan_text(const mth__program *p) {
    mth__text t = mth__text_new(p->arena);
    mth__program_print(&t, p);
    return t.at;
}

#define SHAPE(...) ((mth__shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
static mth__builder builder(mth__graph *g) {
    return (mth__builder){.graph = g, .label = mth__label_outside("m", MTH__FORWARD)};
}

/* x (b, i) times a column-split and a row-split weight over axis 0: one partial sum, all-reduced. */
static mth__graph *two_layers(mth__arena *a, mth__mesh *m, int64_t batch, int64_t in, int64_t hidden, int64_t out) {
    mth__graph *g = mth__graph_new(a, m);
    const mth__placement *on = mth__place_whole(m);
    mth__builder b = builder(g);
    mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(batch, in), on, NULL);
    mth__value *w0 = source(g, MTH__VALUE_PARAMETER, "linear_0.weight", SHAPE(in, hidden), on, SPLIT(-1, 0));
    mth__value *w1 = source(g, MTH__VALUE_PARAMETER, "linear_1.weight", SHAPE(hidden, out), on, SPLIT(0, -1));
    b.label.module = "linear_0";
    mth__value *h = contract(&b, "bi,io->bo", x, w0, on, SPLIT(-1, 0), 0);
    b.label.module = "relu_0";
    h = node1(&b, "relu", NULL, h, on, SPLIT(-1, 0), 0);
    b.label.module = "linear_1";
    mth__value *y = contract(&b, "bi,io->bo", h, w1, on, NULL, m->dim[0] > 1);
    if (m->dim[0] > 1) y = node1(&b, "all_reduce", &(mth__attrs){.axes = 1}, y, on, NULL, 0);
    y->name = "y";
    output(g, "y", y);
    return g;
}

/* A pipeline of one contraction a stage, `microbatches` of batch / microbatches rows, each stage on a device of its
 * own. */
static mth__graph *pipeline(mth__arena *a, mth__mesh *m, int stages, int microbatches, int64_t batch, int64_t width) {
    mth__graph *g = mth__graph_new(a, m);
    mth__builder b = builder(g);
    const mth__placement *first = mth__place_device(m, 0), *last = mth__place_device(m, stages - 1);
    mth__value *x = source(g, MTH__VALUE_INPUT, "x", SHAPE(batch, width), first, NULL), *weight[16], *cat[64];
    for (int s = 0; s < stages; s++)
        weight[s] = source(g, MTH__VALUE_PARAMETER, mth__format(a, "stage_%d.weight", s), SHAPE(width, width),
            mth__place_device(m, s), NULL);
    int64_t rows = batch / microbatches;
    for (int k = 0; k < microbatches; k++) {
        b.label.microbatch = k;
        mth__value *h =
            node1(&b, "slice", &(mth__attrs){.start = k * rows, .stop = k * rows + rows}, x, first, NULL, 0);
        for (int s = 0; s < stages; s++) {
            const mth__placement *on = mth__place_device(m, s);
            b.label.region = 0;
            b.label.stage = s;
            if (s) h = node1(&b, "transfer", NULL, h, on, NULL, 0);
            h = contract(&b, "bi,io->bo", h, weight[s], on, NULL, 0);
            h = node1(&b, "relu", NULL, h, on, NULL, 0);
        }
        cat[k] = h;
    }
    output(g, "y", node(&b, "concat", NULL, microbatches, cat, last, NULL, 0));
    return g;
}
#endif
