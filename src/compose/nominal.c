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

void mth__model_id_inputs(mth__arena *scratch, const mth_model *m, bool *ids) {
    const mth__resolved *r = *m->resolved;
    for (size_t k = 0; k < m->block.n; k++) {
        const mth__block *b = m->block.at[k];
        if (r->block[k].idle) continue;
        bool *inner = b->model ? NEW_ARRAY(scratch, bool, b->in.n) : NULL;
        if (inner) mth__model_id_inputs(scratch, b->model, inner);
        mth__names stages = {0};
        if (b->module && mth__pipeline_stages(b->module))
            stages = mth__pipeline_marked(b->module, scratch, stage_ids(scratch, b->module));
        for (int i = 0; i < r->block[k].nin; i++) {
            const char *port = r->block[k].port[i];
            if (r->block[k].from[i].block >= 0 || r->block[k].from[i].port < 0) continue;
            bool is = inner ? inner[mth__ports_find(&b->in, port)] : lists(b->module->type->integers, port);
            ids[r->block[k].from[i].port] |= is || mth__names_find(&stages, port) >= 0;
        }
    }
}

/* The same by stage of a Pipeline. */
static bool **stage_ids(mth__arena *scratch, const mth_module *m) {
    size_t n = mth__pipeline_stages(m);
    bool **ids = NEW_ARRAY(scratch, bool *, n);
    for (size_t s = 0; s < n; s++) {
        const mth_model *stage = mth__pipeline_stage(m, s);
        ids[s] = NEW_ARRAY(scratch, bool, mth__model_input_count(stage));
        mth__model_id_inputs(scratch, stage, ids[s]);
    }
    return ids;
}

/* The longest sequence that all of the model takes. */
static int64_t longest(const mth_model *m, int64_t length) {
    for (size_t k = 0; k < m->block.n; k++) {
        const mth__block *b = m->block.at[k];
        if (b->model) length = longest(b->model, length);
        if (b->model) continue;
        for (size_t s = 0; s < mth__pipeline_stages(b->module); s++)
            length = longest(mth__pipeline_stage(b->module, s), length);
        const mth_arg *most = mth__module_option(b->module, "max_len");
        if (most && most->integer < length) length = most->integer;
    }
    return length;
}

size_t mth__model_nominal_inputs(mth__arena *arena, const mth_model *m, mth__input_description **out) {
    size_t n = mth__model_input_count(m);
    mth__input_description *d = NEW_ARRAY(arena, mth__input_description, n);
    int64_t length = longest(m, LENGTH);
    bool *ids = NEW_ARRAY(arena, bool, n);
    mth__model_id_inputs(arena, m, ids);
    for (size_t i = 0; i < n; i++) {
        if (!ids[i]) return 0;
        d[i] = (mth__input_description){mth__model_input_name(m, i), MTH_INT32, {2, {BATCH, length}}};
    }
    *out = d;
    return n;
}
