/* Which parameters a model has: names follow from options and from where a block stands, so that they are known before
 * any shape is. */
#include "compose/model.h"
#include <string.h>

/* Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static void list_module(
    mth__arena *arena, const mth_module *m, const char *path, mth__names *out) {
    const mth__ports parameters = mth__module_parameters(arena, m);
    for (int i = 0; i < parameters.n; i++)
        mth__names_add(arena, out, mth__format(arena, "%s.%s", path, parameters.at[i].name));
}

static void list_model(mth__arena *arena, const mth_model *m, const char *prefix, mth__names *out) {
    const mth__resolved *r = *m->resolved;
    for (size_t k = 0; k < m->block.n; k++) {
        const mth__block *b = m->block.at[k];
        if (r->block[k].idle) continue;
        const char *path = mth__format(arena, "%s%s", prefix, b->name);
        if (b->model) {
            list_model(arena, b->model, mth__format(arena, "%s.", path), out);
            continue;
        }
        list_module(arena, b->module, path, out);
        for (size_t s = 0; s < mth__pipeline_stages(b->module); s++)
            list_model(arena, mth__pipeline_stage(b->module, s), mth__format(arena, "%s.stage_%zu.", path, s), out);
    }
}

void mth__model_parameters(mth__arena *arena, const mth_model *m, mth__names *out) { list_model(arena, m, "", out); }
