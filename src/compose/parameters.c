/* Which parameters a model has, and which modules share them: names follow from options and from where a block stands,
 * so that all of it is known before any shape is.
 *   - A module object that is added twice, by itself or inside of a model that is, is one set of weights: the first
 *     block in the order of composition has the parameters, and the others use them.
 *   - The option `weight` names another parameter. The name is looked for from where the module stands outward: in its
 *     own model, then in the one around it. */
#include "compose/model.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    mth__arena *arena;
    mth__sharing *out;
    mth__names object;  /* of the modules so far */
    VEC(int) first_use; /* by object */
} parameter_listing;

/* Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static void list_module(
    parameter_listing *l, const mth__block *b, const char *path, bool idle) {
    const int use = mth__names_add(l->arena, &l->out->path, path);
    const int object = mth__names_add(l->arena, &l->object, mth__format(l->arena, "%" PRIu64, b->module->object));
    const bool first = (size_t)object == l->first_use.n;
    if (first) PUSH(l->arena, l->first_use, use);
    PUSH(l->arena, l->out->use, ((mth__module_use){b->module, path, b->line, l->first_use.at[object], -1, idle}));
    const mth__ports parameters = first ? mth__module_parameters(l->arena, b->module) : (mth__ports){0};
    for (int i = 0; i < parameters.n; i++) {
        mth__names_add(l->arena, &l->out->parameter, mth__format(l->arena, "%s.%s", path, parameters.at[i].name));
        PUSH(l->arena, l->out->owner, use);
    }
}

static void list_model(parameter_listing *l, const mth_model *m, const char *prefix, bool idle) {
    const mth__resolved *r = *m->resolved;
    for (size_t k = 0; k < m->block.n; k++) {
        const mth__block *b = m->block.at[k];
        const char *path = mth__format(l->arena, "%s%s", prefix, b->name);
        const bool idle_here = idle || r->block[k].idle;
        if (b->model) {
            list_model(l, b->model, mth__format(l->arena, "%s.", path), idle_here);
            continue;
        }
        list_module(l, b, path, idle_here);
        for (size_t s = 0; s < mth__pipeline_stages(b->module); s++)
            list_model(
                l, mth__pipeline_stage(b->module, s), mth__format(l->arena, "%s.stage_%zu.", path, s), idle_here);
    }
}

/* The number of the parameter that is called `name` as seen from the module at `path`; -1: there is none. */
static int find_from(mth__arena *arena, const mth__sharing *sharing, const char *path, const char *name) {
    for (size_t n = strlen(path); n > 0;) {
        while (n > 0 && path[n - 1] != '.') n--;
        const int number = mth__names_find(&sharing->parameter, mth__format(arena, "%.*s%s", (int)n, path, name));
        if (number >= 0) return number;
        if (n > 0) n--;
    }
    return -1;
}

/* A name that means no parameter of its own: of a module that shares, it is told whose it is. */
static mth_status no_parameter(
    mth__arena *arena, const mth__sharing *sharing, const mth__module_use *use, const char *name) {
    const char *dot = strrchr(name, '.');
    const char *module = dot ? mth__format(arena, "%.*s", (int)(dot - name), name) : "";
    mth_status status = NULL;
    for (size_t n = strlen(use->path) + 1; !status && n > 0;) {
        n--;
        while (n > 0 && use->path[n - 1] != '.') n--;
        const int other = mth__names_find(&sharing->path, mth__format(arena, "%.*s%s", (int)n, use->path, module));
        if (other < 0) continue;
        const mth__module_use *at = &sharing->use.at[other];
        const mth__module_use *first = &sharing->use.at[at->first];
        const mth_arg *shared = mth__module_option(first->module, "weight");
        if (shared && shared->kind == MTH_ARG_STRING && !strcmp(dot, ".weight"))
            status = FAIL(MTH_ERROR_VALUE,
                F("weight='%s': that module has no weight of its own, it shares '%s'", name, shared->string),
                strcmp(shared->string, name) ? F("give weight='%s'", shared->string)
                                             : F("leave weight out: then it has a weight of its own"));
        else if (first != at)
            status = FAIL(MTH_ERROR_VALUE,
                F("weight='%s': %s is %s once more, and the weights bear the first name", name, at->path, first->path),
                F("give weight='%s%s'", first->path, dot));
    }
    if (!status)
        status = FAIL(MTH_ERROR_KEY, F("weight='%s': the model has no parameter of that name", name),
            mth__name_fix("parameter", name, sharing->parameter.name.at, sharing->parameter.name.n));
    return mth__error_source(mth__error_operator(status, use->path), use->line);
}

mth_status mth__sharing_find(mth__arena *arena, const mth_model *m, mth__sharing *out) {
    parameter_listing l = {.arena = arena, .out = out};
    *out = (mth__sharing){0};
    list_model(&l, m, "", false);
    for (size_t i = 0; i < out->use.n; i++) {
        mth__module_use *use = &out->use.at[i];
        const mth_arg *weight = mth__module_option(use->module, "weight");
        if (!weight || weight->kind != MTH_ARG_STRING) continue;
        const mth__module_use *first = &out->use.at[use->first];
        use->weight = find_from(arena, out, first->path, weight->string);
        if (use->weight < 0) return no_parameter(arena, out, first, weight->string);
    }
    return NULL;
}

int mth__sharing_number(mth__arena *arena, const mth__sharing *sharing, const char *path, const char *suffix) {
    const int use = mth__names_find(&sharing->path, path);
    if (use < 0) return -1;
    const mth__module_use *first = &sharing->use.at[sharing->use.at[use].first];
    return mth__names_find(&sharing->parameter, mth__format(arena, "%s.%s", first->path, suffix));
}

void mth__model_parameters(mth__arena *arena, const mth_model *m, mth__names *out, mth__names *idle) {
    mth__sharing sharing;
    mth_error_free(mth__sharing_find(arena, m, &sharing)); /* of a resolved model: it can't fail */
    bool *needed = NEW_ARRAY(arena, bool, sharing.parameter.name.n);
    bool *used = NEW_ARRAY(arena, bool, sharing.use.n); /* by first use: some use of the object is needed */
    for (size_t i = 0; i < sharing.use.n; i++) {
        const mth__module_use *use = &sharing.use.at[i];
        if (use->idle) continue;
        used[use->first] = true;
        if (use->weight >= 0) needed[use->weight] = true;
    }
    for (size_t i = 0; i < sharing.parameter.name.n; i++)
        mth__names_add(arena, needed[i] || used[sharing.owner.at[i]] ? out : idle, sharing.parameter.name.at[i]);
}
