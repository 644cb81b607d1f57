/* What the tests of composition share: models in few words, their graphs, and what these hold as text. */
#ifndef COMPOSE_KIT_H
#define COMPOSE_KIT_H
#include "public_kit.h"
#include "compose/model.h"

#define X(...) ((mth__shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
#define FLOATS(n, ...)                                                                                                 \
    { n, MTH_FLOAT32, X(__VA_ARGS__) }
#define IDS(n, ...)                                                                                                    \
    { n, MTH_INT32, X(__VA_ARGS__) }
#define INPUTS(...)                                                                                                    \
    (const mth__input_description[]){__VA_ARGS__},                                                                     \
        sizeof((const mth__input_description[]){__VA_ARGS__}) / sizeof(mth__input_description)
#define MESH(...) (const int64_t[]){__VA_ARGS__}, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

typedef struct {
    const mth_model *model;
    const int64_t *mesh;
    int naxes;
    const mth__input_description *input;
    size_t count;
    void (*look)(mth__graph *);
    bool wiring_alone;
} expansion;

UNUSED static mth_status expand_body(void *context) {
    const expansion *asked = context;
    mth__arena *arena = mth__arena_new();
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, asked->naxes, asked->mesh, &mesh));
    TRY(mth__model_resolve(asked->model, mesh, false));
    if (!asked->wiring_alone) {
        mth__graph *graph = mth__graph_new(arena, mesh);
        TRY(mth__expand(asked->model, asked->input, asked->count, graph));
        TRY(mth__graph_check(graph));
        if (asked->look) asked->look(graph);
    }
    mth__arena_free(arena);
    return NULL;
}
UNUSED static mth_status expand_on(const mth_model *model, const int64_t *mesh, int naxes,
    const mth__input_description *input, size_t count, void (*look)(mth__graph *)) {
    return mth__guard(expand_body, &(expansion){model, mesh, naxes, input, count, look, false});
}
UNUSED static mth_status resolve_on(const mth_model *model, const int64_t *mesh, int naxes) {
    return mth__guard(expand_body, &(expansion){model, mesh, naxes, NULL, 0, NULL, true});
}
#define EXPAND(m, look, ...) expand_on(m, MESH(4), INPUTS(__VA_ARGS__), look)

/* "a, b" of the inputs, outputs or parameters */
static char listed[4096];
UNUSED static const char *list_inputs(const mth_model *model) {
    listed[0] = 0;
    for (size_t i = 0; i < mth__model_input_count(model); i++)
        strcat(strcat(listed, i ? ", " : ""), mth__model_input_name(model, i));
    return listed;
}
UNUSED static const char *list_outputs(const mth_model *model) {
    listed[0] = 0;
    for (size_t i = 0; i < mth__model_output_count(model); i++)
        strcat(strcat(listed, i ? ", " : ""), mth__model_output_name(model, i));
    return listed;
}
UNUSED static void list_parameters(mth__graph *graph) {
    listed[0] = 0;
    for (size_t i = 0; i < graph->parameter.n; i++) {
        char shape[128];
        mth__shape_write(shape, sizeof shape, graph->parameter.at[i]->shape);
        strcat(strcat(strcat(listed, i ? " " : ""), graph->parameter.at[i]->name), shape);
    }
}
UNUSED static void list_ops(mth__graph *graph) {
    listed[0] = 0;
    for (size_t i = 0; i < graph->node.n; i++) strcat(strcat(listed, i ? " " : ""), graph->node.at[i]->op->name);
}
#define SAME(text, want)                                                                                               \
    do {                                                                                                               \
        const char *same_ = (text);                                                                                    \
        if (strcmp(same_, want)) {                                                                                     \
            CHECK(!"same text");                                                                                       \
            printf("    got  %s\n    want %s\n", same_, want);                                                         \
        }                                                                                                              \
    } while (0)

#define WIDTH(n) MTH_OPTIONS({"dimension", mth_int(n)})
UNUSED static void linear(mth_model *model, int64_t width, const char *in, const char *out) {
    ADD(model, "Linear", WIDTH(width), MTH_WIRES({"input", in}, {"output", out}), MTH_PLAIN);
}
UNUSED static void relu(mth_model *model, const char *in, const char *out) {
    ADD(model, "Relu", NOTHING, MTH_WIRES({"input", in}, {"output", out}), MTH_PLAIN);
}
/* A block of one Relu, from `in` to `out`. */
UNUSED static mth_model *block(const char *in, const char *out) {
    mth_model *made = model();
    relu(made, in, out);
    return made;
}
UNUSED static void add_model(mth_model *model, mth_model *sub, const mth_wire *wire, size_t n, mth_add_mode mode) {
    CHECK_STATUS(mth_model_add_model(model, sub, NULL, wire, n, mode));
    mth_model_free(sub);
}
#define LINEAR(...) MTH_OPTIONS({"dimension", mth_int(8)}, __VA_ARGS__)
#endif
