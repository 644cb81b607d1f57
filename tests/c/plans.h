/* Small graphs with shardings set by hand, for the tests of emit. */
#ifndef PLANS_H
#define PLANS_H
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" /* no test uses all of them */
#endif
#include "catalog/rows.h"
#include "emit/program.h"
#include "unit.h"

static mth__mesh *plan_mesh(mth__arena *arena, int naxes, const int64_t *dim) {
    mth__mesh *mesh = NULL;
    CHECK_STATUS(mth__mesh_new(arena, naxes, dim, &mesh));
    return mesh;
}
#define MESH(arena, ...) plan_mesh(arena, sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

/* axis[d]: the axis that splits dimension d, or -1. */
static mth__sharding split_by(const mth__placement *on, mth__shape shape, const int *axis) {
    mth__sharding sharding = {.on = on};
    for (int d = 0; d < shape.rank && d < MTH__RANK; d++)
        if (axis && axis[d] >= 0) sharding.dim[d] = (mth__split){.naxes = 1, .axis = {(int8_t)axis[d]}};
    mth__sharding_canonical(&sharding, shape);
    return sharding;
}
#define SPLIT(...)                                                                                                     \
    (const int[]) { __VA_ARGS__ }

static mth__value *source(mth__graph *graph, mth__value_kind kind, const char *name, mth__shape shape,
    const mth__placement *on, const int *axis) {
    mth__value *value = mth__graph_value(graph, kind, name, MTH_FLOAT32, shape);
    value->sharding = split_by(on, shape, axis);
    return value;
}

/* A node of one result, sharded so. */
static mth__value *node(mth__builder *builder, const char *op, const mth__attrs *attrs, int nin, mth__value **in,
    const mth__placement *on, const int *axis, uint8_t partial) {
    mth__value *out[MTH__MAX_OUT];
    builder->on = on;
    CHECK_STATUS(mth__build(builder, mth__op_find(op)->row, attrs, nin, in, out));
    out[0]->sharding = split_by(on, out[0]->shape, axis);
    out[0]->sharding.partial = partial;
    return out[0];
}
static mth__value *node1(mth__builder *builder, const char *op, const mth__attrs *attrs, mth__value *x,
    const mth__placement *on, const int *axis, uint8_t partial) {
    return node(builder, op, attrs, 1, &x, on, axis, partial);
}
static mth__value *node2(mth__builder *builder, const char *op, const mth__attrs *attrs, mth__value *x, mth__value *y,
    const mth__placement *on, const int *axis, uint8_t partial) {
    return node(builder, op, attrs, 2, (mth__value *[]){x, y}, on, axis, partial);
}
static mth__value *contract(mth__builder *builder, const char *spec, mth__value *x, mth__value *y,
    const mth__placement *on, const int *axis, uint8_t partial) {
    return node2(builder, "contract", &(mth__attrs){.spec = spec}, x, y, on, axis, partial);
}
static void output(mth__graph *graph, const char *name, mth__value *value) {
    PUSH(graph->arena, graph->output, ((mth__output){.name = name, .value = value}));
}

static mth__program *emit_plan(const mth__graph *graph, const mth__emit_options *options) {
    mth__program *program = NULL;
    CHECK_STATUS(mth__graph_check(graph));
    CHECK_STATUS(mth__emit(graph->arena, graph, options, &program));
    if (program) CHECK_STATUS(mth__emit_memory(program, 1));
    return program;
}
static const char *plan_text(const mth__program *program) {
    mth__text text = mth__text_new(program->arena);
    mth__program_print(&text, program);
    return text.at;
}

#define SHAPE(...) ((mth__shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
static mth__builder builder(mth__graph *graph) {
    return (mth__builder){.graph = graph, .label = mth__label_outside("m", MTH__FORWARD)};
}

/* x (b, i) times a column-split and a row-split weight over axis 0: one partial sum, all-reduced. */
static mth__graph *two_layers(
    mth__arena *arena, mth__mesh *mesh, int64_t batch, int64_t in, int64_t hidden, int64_t out) {
    mth__graph *graph = mth__graph_new(arena, mesh);
    const mth__placement *on = mth__place_whole(mesh);
    mth__builder build = builder(graph);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(batch, in), on, NULL);
    mth__value *w0 = source(graph, MTH__VALUE_PARAMETER, "linear_0.weight", SHAPE(in, hidden), on, SPLIT(-1, 0));
    mth__value *w1 = source(graph, MTH__VALUE_PARAMETER, "linear_1.weight", SHAPE(hidden, out), on, SPLIT(0, -1));
    build.label.module = "linear_0";
    mth__value *value = contract(&build, "bi,io->bo", x, w0, on, SPLIT(-1, 0), 0);
    build.label.module = "relu_0";
    value = node1(&build, "relu", NULL, value, on, SPLIT(-1, 0), 0);
    build.label.module = "linear_1";
    mth__value *y = contract(&build, "bi,io->bo", value, w1, on, NULL, mesh->dim[0] > 1);
    if (mesh->dim[0] > 1) y = node1(&build, "all_reduce", &(mth__attrs){.axes = 1}, y, on, NULL, 0);
    y->name = "y";
    output(graph, "y", y);
    return graph;
}

/* A pipeline of one contraction a stage, `microbatches` of batch / microbatches rows, each stage on a device of its
 * own. */
static mth__graph *pipeline(
    mth__arena *arena, mth__mesh *mesh, int stages, int microbatches, int64_t batch, int64_t width) {
    mth__graph *graph = mth__graph_new(arena, mesh);
    mth__builder build = builder(graph);
    const mth__placement *first = mth__place_device(mesh, 0), *last = mth__place_device(mesh, stages - 1);
    mth__value *x = source(graph, MTH__VALUE_INPUT, "x", SHAPE(batch, width), first, NULL), *weight[16], *cat[64];
    for (int stage = 0; stage < stages; stage++)
        weight[stage] = source(graph, MTH__VALUE_PARAMETER, mth__format(arena, "stage_%d.weight", stage),
            SHAPE(width, width), mth__place_device(mesh, stage), NULL);
    int64_t rows = batch / microbatches;
    for (int k = 0; k < microbatches; k++) {
        build.label.microbatch = k;
        mth__value *value =
            node1(&build, "slice", &(mth__attrs){.start = k * rows, .stop = k * rows + rows}, x, first, NULL, 0);
        for (int stage = 0; stage < stages; stage++) {
            const mth__placement *on = mth__place_device(mesh, stage);
            build.label.region = 0;
            build.label.stage = stage;
            if (stage) value = node1(&build, "transfer", NULL, value, on, NULL, 0);
            value = contract(&build, "bi,io->bo", value, weight[stage], on, NULL, 0);
            value = node1(&build, "relu", NULL, value, on, NULL, 0);
        }
        cat[k] = value;
    }
    output(graph, "y", node(&build, "concat", NULL, microbatches, cat, last, NULL, 0));
    return graph;
}
#endif
