/* Which parameters a model has, and which modules share them: names follow from options and from where a block stands,
 * so that all of it is known before any shape is.
 *   - A module object that is added twice, by itself or inside of a model that is, is one set of weights: the first
 *     block in the order of composition has the parameters, and the others use them.
 *   - The option `weight` names another parameter. The name is looked for from where the module stands outward: in its
 *     own model, then in the one around it. */
#include "compose/model.h"
#include <string.h>

typedef struct {
    mth__arena *arena;
    mth__sharing *out;
    VEC(uint64_t) object; /* of the modules so far */
    VEC(int) first_use;   /* by object */
    mth__table known;     /* of objects */
} parameter_listing;

typedef struct {
    const parameter_listing *pass;
    uint64_t object;
} object_key;
static bool is_object(const void *key, int number) {
    const object_key *wanted = key;
    return wanted->pass->object.at[number] == wanted->object;
}

/* Not part of the walk below: that one has a frame for each level of models. */
__attribute__((noinline)) static void list_module(parameter_listing *pass, const mth__block *block, const char *path) {
    const int use = mth__names_add(pass->arena, &pass->out->path, path), next = (int)pass->object.n;
    const object_key key = {pass, block->module->object};
    const uint64_t hash = mth__hash_add(mth__hash_key(), key.object);
    const int object = mth__table_add(pass->arena, &pass->known, hash, is_object, &key, next);
    if (object == next) {
        PUSH(pass->arena, pass->object, key.object);
        PUSH(pass->arena, pass->first_use, use);
        size_t n;
        for (const char *name = NULL; (name = mth__module_parameter(block->module, name, &n));) {
            mth__names_add(pass->arena, &pass->out->parameter, mth__format(pass->arena, "%s.%.*s", path, (int)n, name));
            PUSH(pass->arena, pass->out->owner, use);
        }
    }
    PUSH(pass->arena, pass->out->use,
        ((mth__module_use){block->module, path, block->line, pass->first_use.at[object], -1}));
}

static void list_model(parameter_listing *pass, const mth_model *model, const char *prefix) {
    for (size_t k = 0; k < model->block.n; k++) {
        const mth__block *block = model->block.at[k];
        const char *path = mth__format(pass->arena, "%s%s", prefix, block->name);
        if (block->model) {
            list_model(pass, block->model, mth__format(pass->arena, "%s.", path));
            continue;
        }
        list_module(pass, block, path);
        for (size_t stage = 0; stage < mth__pipeline_stages(block->module); stage++)
            list_model(pass, mth__pipeline_stage(block->module, stage),
                mth__format(pass->arena, "%s.stage_%zu.", path, stage));
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

/* The name that the module's option `weight` says, where the module shares; else NULL. */
static const char *shared_name(const mth__module_use *use) {
    const mth_arg *shared = mth__module_option(use->module, "weight");
    return shared && shared->kind == MTH_ARG_STRING ? shared->string : NULL;
}

/* The use of a module, as seen from `path`, that tells why `name` means no parameter: it shares the weight, or is
 * another module once more. NULL: none does. */
static const mth__module_use *use_without(
    mth__arena *arena, const mth__sharing *sharing, const char *path, const char *name) {
    const char *dot = strrchr(name, '.');
    const char *module = dot ? mth__format(arena, "%.*s", (int)(dot - name), name) : "";
    for (size_t n = strlen(path) + 1; n > 0;) {
        n--;
        while (n > 0 && path[n - 1] != '.') n--;
        const int number = mth__names_find(&sharing->path, mth__format(arena, "%.*s%s", (int)n, path, module));
        if (number < 0) continue;
        const mth__module_use *use = &sharing->use.at[number], *first = &sharing->use.at[use->first];
        if (first != use || (!strcmp(dot, ".weight") && shared_name(first))) return use;
    }
    return NULL;
}

/* The error of a module whose option `weight` names no parameter. If it names a module that shares a weight itself, the
 * chain is followed: it may end at a weight, which is then the one to name; it may come back to a module on the way; or
 * it may end at a module whose own name is the mistake. */
static mth_status no_parameter(mth__arena *arena, const mth__sharing *sharing, const mth__module_use *use) {
    bool *met = NEW_ARRAY(arena, bool, sharing->use.n); /* by first use */
    const mth__module_use *at = use, *without, *next;
    int number;
    for (;; at = next) {
        met[at->first] = true;
        number = find_from(arena, sharing, at->path, shared_name(at));
        without = number < 0 ? use_without(arena, sharing, at->path, shared_name(at)) : NULL;
        next = without ? &sharing->use.at[without->first] : NULL;
        if (!next || !shared_name(next) || met[next->first]) break;
    }
    const char *name = shared_name(at);
    mth_status status;
    if (number >= 0) { /* as the last one says it, where that means the same from here */
        const char *end =
            find_from(arena, sharing, use->path, name) == number ? name : sharing->parameter.name.at[number];
        at = use;
        status = FAIL(MTH_ERROR_VALUE,
            F("weight='%s': that module has no weight of its own, it shares '%s'", shared_name(at), end),
            F("give weight='%s'", end));
    } else if (next && shared_name(next)) {
        at = next;
        status = FAIL(MTH_ERROR_VALUE,
            F("weight='%s': that leads back here, and no module on the way has a weight of its own", shared_name(at)),
            F("leave weight out: then it has a weight of its own"));
    } else if (next)
        status = FAIL(MTH_ERROR_VALUE,
            F("weight='%s': %s is %s once more, and the weights bear the first name", name, without->path, next->path),
            F("give weight='%s%s'", next->path, strrchr(name, '.')));
    else
        status = FAIL(MTH_ERROR_KEY, F("weight='%s': the model has no parameter of that name", name),
            mth__name_fix("parameter", name, sharing->parameter.name.at, sharing->parameter.name.n));
    return mth__error_source(mth__error_operator(status, at->path), at->line);
}

mth_status mth__sharing_find(const mth_model *model, const mth__sharing **out) {
    const mth__sharing **kept = (*model->resolved)->sharing;
    if (!*kept) {
        mth__sharing *sharing = NEW(model->arena, mth__sharing);
        parameter_listing pass = {.arena = model->arena, .out = sharing};
        list_model(&pass, model, "");
        for (size_t i = 0; i < sharing->use.n; i++) {
            mth__module_use *use = &sharing->use.at[i];
            const char *weight = shared_name(use);
            if (!weight) continue;
            const mth__module_use *first = &sharing->use.at[use->first];
            use->weight = find_from(model->arena, sharing, first->path, weight);
            if (use->weight < 0) return no_parameter(model->arena, sharing, first);
        }
        *kept = sharing;
    }
    *out = *kept;
    return NULL;
}

int mth__sharing_number(mth__arena *arena, const mth__sharing *sharing, const char *path, const char *suffix) {
    const int use = mth__names_find(&sharing->path, path);
    if (use < 0) return -1;
    const mth__module_use *first = &sharing->use.at[sharing->use.at[use].first];
    return mth__names_find(&sharing->parameter, mth__format(arena, "%s.%s", first->path, suffix));
}

/* Does an output that compile was asked for depend on a use of a module? By use: uses are listed in this order. */
static void find_needed(const mth_model *model, bool needed, bool *of_use, size_t *uses) {
    const mth__resolved *resolved = *model->resolved;
    for (size_t k = 0; k < model->block.n; k++) {
        const mth__block *block = model->block.at[k];
        const bool here = needed && !resolved->block[k].idle;
        if (block->model) {
            find_needed(block->model, here, of_use, uses);
            continue;
        }
        of_use[(*uses)++] = here;
        for (size_t stage = 0; stage < mth__pipeline_stages(block->module); stage++)
            find_needed(mth__pipeline_stage(block->module, stage), here, of_use, uses);
    }
}

void mth__model_parameters(mth__arena *arena, const mth_model *model, mth__names *out, mth__names *idle) {
    const mth__sharing *sharing;
    mth_error_free(mth__sharing_find(model, &sharing)); /* of a resolved model: it can't fail */
    bool *needed = NEW_ARRAY(arena, bool, sharing->parameter.name.n);
    bool *used = NEW_ARRAY(arena, bool, sharing->use.n); /* by first use: some use of the object is needed */
    bool *of_use = NEW_ARRAY(arena, bool, sharing->use.n);
    size_t uses = 0;
    find_needed(model, true, of_use, &uses);
    for (size_t i = 0; i < sharing->use.n; i++) {
        const mth__module_use *use = &sharing->use.at[i];
        if (!of_use[i]) continue;
        used[use->first] = true;
        if (use->weight >= 0) needed[use->weight] = true;
    }
    for (size_t i = 0; i < sharing->parameter.name.n; i++)
        mth__names_add(arena, needed[i] || used[sharing->owner.at[i]] ? out : idle, sharing->parameter.name.at[i]);
}
