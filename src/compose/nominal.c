/* Shapes for a plan before any inputs are known: a model whose inputs are all ids or masks (of whole sequences) tells
 * the shapes of its parameters by itself, and a nominal batch is enough to lay them out. */
#include "compose/model.h"
#include <string.h>

enum { BATCH = 8, LENGTH = 128 };

static bool **stage_ids(mth__arena *scratch, const mth_module *);

static bool lists(const char *names, const char *name) {
    size_t n = strlen(name);
    for (const char *at = names; at && (at = strstr(at, name)); at += n)
        if ((at == names || at[-1] == ' ') && (at[n] == 0 || at[n] == ',')) return true;
    return false;
}

void mth__model_id_inputs(mth__arena *scratch, const mth_model *model, bool *ids) {
    const mth__resolved *resolved = *model->resolved;
    for (size_t k = 0; k < model->block.n; k++) {
        const mth__block *block = model->block.at[k];
        if (resolved->block[k].idle) continue;
        bool *inner = block->model ? NEW_ARRAY(scratch, bool, block->in.n) : NULL;
        if (inner) mth__model_id_inputs(scratch, block->model, inner);
        mth__names stages = {0};
        if (block->module && mth__pipeline_stages(block->module))
            stages = mth__pipeline_marked(block->module, scratch, stage_ids(scratch, block->module));
        for (int i = 0; i < resolved->block[k].nin; i++) {
            const char *port = resolved->block[k].port[i];
            if (resolved->block[k].from[i].block >= 0 || resolved->block[k].from[i].port < 0) continue;
            bool is = inner ? inner[mth__ports_find(&block->in, port)] : lists(block->module->type->integers, port);
            ids[resolved->block[k].from[i].port] |= is || mth__names_find(&stages, port) >= 0;
        }
    }
}

/* The same by stage of a Pipeline. */
static bool **stage_ids(mth__arena *scratch, const mth_module *module) {
    size_t n = mth__pipeline_stages(module);
    bool **ids = NEW_ARRAY(scratch, bool *, n);
    for (size_t number = 0; number < n; number++) {
        const mth_model *stage = mth__pipeline_stage(module, number);
        ids[number] = NEW_ARRAY(scratch, bool, mth__model_input_count(stage));
        mth__model_id_inputs(scratch, stage, ids[number]);
    }
    return ids;
}

/* The longest sequence that all of the model takes. */
static int64_t longest(const mth_model *model, int64_t length) {
    for (size_t k = 0; k < model->block.n; k++) {
        const mth__block *block = model->block.at[k];
        if (block->model) length = longest(block->model, length);
        if (block->model) continue;
        for (size_t stage = 0; stage < mth__pipeline_stages(block->module); stage++)
            length = longest(mth__pipeline_stage(block->module, stage), length);
        const mth_arg *most = mth__module_option(block->module, "max_len");
        if (most && most->integer < length) length = most->integer;
    }
    return length;
}

size_t mth__model_nominal_inputs(mth__arena *arena, const mth_model *model, mth__input_description **out) {
    size_t n = mth__model_input_count(model);
    mth__input_description *description = NEW_ARRAY(arena, mth__input_description, n);
    int64_t length = longest(model, LENGTH);
    bool *ids = NEW_ARRAY(arena, bool, n);
    mth__model_id_inputs(arena, model, ids);
    for (size_t i = 0; i < n; i++) {
        if (!ids[i]) return 0;
        description[i] = (mth__input_description){mth__model_input_name(model, i), MTH_INT32, {2, {BATCH, length}}};
    }
    *out = description;
    return n;
}
