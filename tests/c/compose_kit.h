/* What the tests of composition share: models in few words, their graphs, and what these hold as text. */
#ifndef COMPOSE_KIT_H
#define COMPOSE_KIT_H
#include "unit.h"
#include "compose/model.h"
#define UNUSED __attribute__((unused))

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
    const expansion *e = context;
    mth__arena *arena = mth__arena_new();
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, e->naxes, e->mesh, &mesh));
    TRY(mth__model_resolve(e->model, mesh, false));
    if (!e->wiring_alone) {
        mth__graph *g = mth__graph_new(arena, mesh);
        TRY(mth__expand(e->model, e->input, e->count, g));
        TRY(mth__graph_check(g));
        if (e->look) e->look(g);
    }
    mth__arena_free(arena);
    return NULL;
}
UNUSED static mth_status expand_on(const mth_model *m, const int64_t *mesh, int naxes,
    const mth__input_description *input, size_t count, void (*look)(mth__graph *)) {
    return mth__guard(expand_body, &(expansion){m, mesh, naxes, input, count, look, false});
}
UNUSED static mth_status resolve_on(const mth_model *m, const int64_t *mesh, int naxes) {
    return mth__guard(expand_body, &(expansion){m, mesh, naxes, NULL, 0, NULL, true});
}
#define EXPAND(m, look, ...) expand_on(m, MESH(4), INPUTS(__VA_ARGS__), look)

/* "a, b" of the inputs, outputs or parameters */
static char listed[4096];
UNUSED static const char *list_inputs(const mth_model *m) {
    listed[0] = 0;
    for (size_t i = 0; i < mth__model_input_count(m); i++)
        strcat(strcat(listed, i ? ", " : ""), mth__model_input_name(m, i));
    return listed;
}
UNUSED static const char *list_outputs(const mth_model *m) {
    listed[0] = 0;
    for (size_t i = 0; i < mth__model_output_count(m); i++)
        strcat(strcat(listed, i ? ", " : ""), mth__model_output_name(m, i));
    return listed;
}
UNUSED static void list_parameters(mth__graph *g) {
    listed[0] = 0;
    for (size_t i = 0; i < g->parameter.n; i++) {
        char shape[128];
        mth__shape_write(shape, sizeof shape, g->parameter.at[i]->shape);
        strcat(strcat(strcat(listed, i ? " " : ""), g->parameter.at[i]->name), shape);
    }
}
UNUSED static void list_ops(mth__graph *g) {
    listed[0] = 0;
    for (size_t i = 0; i < g->node.n; i++) strcat(strcat(listed, i ? " " : ""), g->node.at[i]->op->name);
}
#define SAME(text, want)                                                                                               \
    do {                                                                                                               \
        const char *same_ = (text);                                                                                    \
        if (strcmp(same_, want)) {                                                                                     \
            CHECK(!"same text");                                                                                       \
            printf("    got  %s\n    want %s\n", same_, want);                                                         \
        }                                                                                                              \
    } while (0)

UNUSED static mth_model *model(void) {
    mth_model *m = NULL;
    CHECK_STATUS(mth_model_create(&m));
    return m;
}
UNUSED static mth_status try_add(
    mth_model *m, const char *type, const mth_option *o, size_t n, const mth_wire *w, size_t wires, mth_add_mode mode) {
    mth_module *module;
    TRY(mth_module_create(type, o, n, &module));
    mth_status s = mth_model_add(m, module, w, wires, mode);
    mth_module_free(module);
    return s;
}
#define NOTHING NULL, 0
#define ADD(...) CHECK_STATUS(try_add(__VA_ARGS__))
#define WIDTH(n) MTH_OPTIONS({"dimension", mth_int(n)})
UNUSED static void linear(mth_model *m, int64_t width, const char *in, const char *out) {
    ADD(m, "Linear", WIDTH(width), MTH_WIRES({"input", in}, {"output", out}), MTH_PLAIN);
}
UNUSED static void relu(mth_model *m, const char *in, const char *out) {
    ADD(m, "Relu", NOTHING, MTH_WIRES({"input", in}, {"output", out}), MTH_PLAIN);
}
/* A block of one Relu, from `in` to `out`. */
UNUSED static mth_model *block(const char *in, const char *out) {
    mth_model *m = model();
    relu(m, in, out);
    return m;
}
UNUSED static void add_model(mth_model *m, mth_model *sub, const mth_wire *w, size_t n, mth_add_mode mode) {
    CHECK_STATUS(mth_model_add_model(m, sub, NULL, w, n, mode));
    mth_model_free(sub);
}
#define LINEAR(...) MTH_OPTIONS({"dimension", mth_int(8)}, __VA_ARGS__)
#endif
