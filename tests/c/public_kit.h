/* What tests share that compose and compile by the public functions alone. */
#ifndef PUBLIC_KIT_H
#define PUBLIC_KIT_H
#include "unit.h"
#define UNUSED __attribute__((unused))

UNUSED static mth_model *model(void) {
    mth_model *made = NULL;
    CHECK_STATUS(mth_model_create(&made));
    return made;
}
UNUSED static mth_status try_add(mth_model *model, const char *type, const mth_option *options, size_t n,
    const mth_wire *wire, size_t wires, mth_add_mode mode) {
    mth_module *module;
    mth_status status = mth_module_create(type, options, n, &module);
    if (status) return status;
    status = mth_model_add(model, module, wire, wires, mode);
    mth_module_free(module);
    return status;
}
#define NOTHING NULL, 0
#define ADD(...) CHECK_STATUS(try_add(__VA_ARGS__))

/* A backend, and the model compiled for it. */
typedef struct {
    mth_backend *backend;
    mth_compiled *compiled;
} opened;
UNUSED static opened open_compiled(
    const char *engine, mth_arg mesh, const mth_model *model, const mth_option *options, size_t n) {
    opened made = {NULL, NULL};
    CHECK_STATUS(mth_backend_create(engine, MTH_OPTIONS({"device_mesh", mesh}), &made.backend));
    CHECK_STATUS(mth_compile(model, made.backend, options, n, &made.compiled));
    return made;
}
UNUSED static void close_compiled(opened made) {
    mth_compiled_free(made.compiled);
    mth_backend_free(made.backend);
}
#endif
