/* The resolved model and the descriptions of its inputs -> the graph: blocks in their order, each through its type's
 * expand. */
#include "compose/model.h"
#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    mth__graph *graph;
    mth__site site;
    const char *prefix; /* "model_0." */
    struct mth__made_parameters *made;
} context;

/* ---------------------------------------------------------------- parameters */
mth__value *mth__expansion_input(const mth__expansion *expansion, const char *port) {
    for (int i = 0; i < expansion->nin; i++)
        if (!strcmp(expansion->in_port[i], port)) return expansion->in[i];
    return NULL;
}

/* Parameters are of the operands' floating type. */
static mth_dtype parameter_dtype(const mth__expansion *expansion) {
    for (int i = 0; i < expansion->nin; i++)
        if (mth__is_float(expansion->in[i]->dtype)) return expansion->in[i]->dtype;
    return MTH_FLOAT32;
}

static const mth_arg *own_spec(const mth__expansion *expansion, const char *suffix) {
    const mth_arg *specs = mth__module_option(expansion->module, "shard_specs");
    for (size_t i = 0; specs && i < specs->count; i++)
        if (!strcmp(specs->keys[i], suffix)) return &specs->items[i];
    return NULL;
}

typedef struct mth__made_parameters {
    const mth__sharing *sharing;
    mth__value **value; /* by number of the parameter; NULL: not made yet */
    const char **maker; /* by number: the module that asked for it first */
} made_parameters;

/* Two uses of one parameter want it alike. */
static mth_status check_use(
    const mth__expansion *expansion, const mth__value *value, mth__shape shape, mth_dtype dtype, int number) {
    char taken[256];
    if (value->dtype == dtype && mth__shape_equal(value->shape, shape)) return NULL;
    const char *maker = expansion->made->maker[number];
    mth__shape_write(taken, sizeof taken, shape);
    mth_status status = value->dtype != dtype
        ? FAIL(MTH_ERROR_TYPE,
              F("%s shares %s with %s, and computes in %s", expansion->builder.label.module, value->name, maker,
                  mth_dtype_name(dtype)),
              F("give both inputs of one dtype"))
        : FAIL(MTH_ERROR_VALUE,
              F("%s shares %s with %s, and takes it as %s", expansion->builder.label.module, value->name, maker, taken),
              F("give both the same sizes, or each its own weights: another module object, or mth_module_copy"));
    return mth__error_tensor(status, mth__value_text(value));
}

static mth_status find_or_make(mth__expansion *expansion, int number, mth__shape shape, bool *fresh, mth__value **out) {
    const mth_dtype dtype = parameter_dtype(expansion);
    mth__value **value = &expansion->made->value[number];
    *fresh = !*value;
    if (*fresh) {
        TRY(mth__shape_check(shape, dtype));
        *value = mth__graph_value(expansion->builder.graph, MTH__VALUE_PARAMETER,
            expansion->made->sharing->parameter.name.at[number], dtype, shape);
        expansion->made->maker[number] = expansion->builder.label.module;
    }
    TRY(check_use(expansion, *value, shape, dtype, number));
    *out = *value;
    return NULL;
}

/* The sharding is what the module says that owns the parameter. Until that module is expanded, and if it never is, the
 * sharding is what the first module says that shares the parameter. */
mth_status mth__expansion_parameter_as(mth__expansion *expansion, const char *suffix, mth__shape shape, int init,
    double scale, const mth__sharding *sharding, mth__value **out) {
    mth__graph *graph = expansion->builder.graph;
    const mth__sharing *sharing = expansion->made->sharing;
    const int number = mth__sharing_number(graph->arena, sharing, expansion->builder.label.module, suffix);
    if (number < 0)
        return INTERNAL(
            "%s makes the parameter %s, which its type doesn't list", expansion->builder.label.module, suffix);
    bool fresh;
    mth__value *value;
    TRY(find_or_make(expansion, number, shape, &fresh, &value));
    *out = value;
    if (!fresh && strcmp(sharing->use.at[sharing->owner.at[number]].path, expansion->builder.label.module)) return NULL;
    mth__sharding said = {.on = expansion->builder.on};
    const mth_arg *spec = own_spec(expansion, suffix);
    bool pinned = sharding && sharding->on;
    if (pinned) said = *sharding;
    if (spec) {
        TRY(mth__spec_read(*spec, expansion->mesh, shape.rank, value->name, &said));
        for (int d = 0; d < shape.rank; d++)
            if (sharding) said.dim[d].grain = sharding->dim[d].cyclic ? 1 : sharding->dim[d].grain;
        pinned = true;
    }
    value->init = init;
    value->init_scale = scale;
    value->sharding = said;
    value->pinned = pinned;
    for (int d = 0; d < shape.rank; d++) value->fixed[d] = pinned;
    if (pinned) {
        value->origin.said = mth__format(graph->arena, "user, %s", expansion->builder.label.module);
        mth__sharding_canonical(&value->sharding, shape);
    }
    return NULL;
}

mth_status mth__expansion_weight(mth__expansion *expansion, const char *suffix, mth__shape shape, int init,
    double scale, const mth_arg *spec, const int32_t *grain, mth__value **out, bool *across) {
    const mth_arg *shared = mth__module_option(expansion->module, "weight");
    *across = false;
    if (!shared || shared->kind != MTH_ARG_STRING)
        return mth__expansion_parameter(expansion, suffix, shape, init, scale, spec, grain, out);
    const mth__sharing *sharing = expansion->made->sharing;
    const int number = sharing->use.at[mth__names_find(&sharing->path, expansion->builder.label.module)].weight;
    const mth_module *owner = sharing->use.at[sharing->owner.at[number]].module;
    *across = owner->type->table != expansion->module->type->table;
    if (*across) shape = (mth__shape){2, {shape.dim[1], shape.dim[0]}};
    bool fresh;
    TRY(find_or_make(expansion, number, shape, &fresh, out));
    if (!fresh) return NULL;
    (*out)->init = init;
    (*out)->init_scale = scale;
    return NULL;
}

mth_status mth__expansion_parameter(mth__expansion *expansion, const char *suffix, mth__shape shape, int init,
    double scale, const mth_arg *spec, const int32_t *grain, mth__value **out) {
    mth__sharding sharding = {.on = NULL};
    bool given = spec && spec->kind != MTH_ARG_NONE;
    if (given)
        TRY(mth__spec_read(*spec, expansion->mesh, shape.rank,
            mth__format(expansion->builder.graph->arena, "%s.%s", expansion->builder.label.module, suffix), &sharding));
    for (int d = 0; grain && d < shape.rank; d++) sharding.dim[d].grain = grain[d];
    return mth__expansion_parameter_as(expansion, suffix, shape, init, scale, &sharding, out);
}

/* A spec may name what the options leave out: query.bias with bias=False. */
static mth_status check_specs_used(const mth__expansion *expansion) {
    const mth_arg *specs = mth__module_option(expansion->module, "shard_specs");
    if (!specs || !specs->count) return NULL;
    for (size_t i = 0; i < specs->count; i++) {
        const char *key = specs->keys[i], *name = NULL;
        size_t n;
        do name = mth__module_parameter(expansion->module, name, &n);
        while (name && (strncmp(name, key, n) || key[n]));
        if (!name)
            return FAIL(MTH_ERROR_KEY, F("shard_specs names '%s', a parameter that the other options leave out", key),
                F("remove '%s' from shard_specs", key));
    }
    return NULL;
}

/* ---------------------------------------------------------------- blocks */
static mth_status expand_model(const context *, const mth_model *, mth__value *const *in, mth__value **out);

static mth_status expand_module(const context *scope, const mth__block *block, const char *path, int nin,
    mth__value **in, const char *const *port, mth__value **out) {
    mth__graph *graph = scope->graph;
    mth__expansion expansion = {.builder = {.graph = graph,
                                    .label = {.module = path,
                                        .source = block->line ? mth__copy_text(graph->arena, block->line) : NULL,
                                        .region = scope->site.region,
                                        .stage = scope->site.stage,
                                        .microbatch = -1}},
        .module = block->module,
        .nin = nin,
        .in = in,
        .in_port = port,
        .nout = block->out.n,
        .out = out,
        .mesh = scope->site.place,
        .made = scope->made};
    TRY(mth__site_on(block->module, graph->mesh, &scope->site, &expansion.builder.on));
    if (!mth__pipeline_stages(block->module)) {
        const char *reason = mth__site_reason(graph->arena, block->module, &scope->site, graph);
        PUSH(graph->arena, graph->module_place,
            (mth__module_place){path, expansion.builder.on, reason ? "user" : NULL, reason});
    }
    TRY(block->module->type->expand(&expansion));
    return check_specs_used(&expansion);
}

/* The connections that a block's outputs are, as its user calls them. */
static void name_outputs(const context *scope, const mth__block *block, const char *path, mth__value **out) {
    for (int i = 0; i < block->out.n; i++) {
        if (!out[i] || out[i]->name || out[i]->wire) continue;
        out[i]->wire = block->out_name[i] ? mth__format(scope->graph->arena, "%s%s", scope->prefix, block->out_name[i])
                                          : mth__format(scope->graph->arena, "%s.%s", path, block->out.at[i].name);
    }
}

static mth_status expand_model(const context *scope, const mth_model *model, mth__value *const *in, mth__value **out) {
    mth__graph *graph = scope->graph;
    const mth__resolved *resolved = *model->resolved;
    mth__value ***made = NEW_ARRAY(graph->arena, mth__value **, model->block.n);
    for (size_t i = 0; i < model->block.n; i++) {
        int k = resolved->order[i];
        const mth__block *block = model->block.at[k];
        const struct mth__inlet *from = &resolved->block[k];
        made[k] = NEW_ARRAY(graph->arena, mth__value *, block->out.n);
        if (from->idle) continue;
        mth__value **operand = NEW_ARRAY(graph->arena, mth__value *, from->nin);
        for (int j = 0; j < from->nin; j++) {
            mth__source source = from->from[j];
            operand[j] = source.block >= 0 ? made[source.block][source.port]
                : source.port >= 0         ? in[source.port]
                                           : NULL;
        }
        const char *path = mth__format(graph->arena, "%s%s", scope->prefix, block->name);
        if (block->module) {
            TRY(mth__error_source(
                mth__error_operator(expand_module(scope, block, path, from->nin, operand, from->port, made[k]), path),
                block->line));
        } else {
            context inner = {graph, scope->site, mth__format(graph->arena, "%s.", path), scope->made};
            TRY(expand_model(&inner, block->model, operand, made[k]));
        }
        name_outputs(scope, block, path, made[k]);
    }
    for (int i = 0; i < resolved->outputs; i++) out[i] = made[resolved->output[i].block][resolved->output[i].port];
    return NULL;
}

mth_status mth__expand_stage(mth__expansion *expansion, const mth_model *stage, const char *name, const mth__site *site,
    mth__value *const *in, mth__value **out) {
    const char *prefix = mth__format(expansion->builder.graph->arena, "%s.%s.", expansion->builder.label.module, name);
    context scope = {expansion->builder.graph, *site, prefix, expansion->made};
    return expand_model(&scope, stage, in, out);
}

/* ---------------------------------------------------------------- the whole model */
static mth_status missing_input(const mth__graph *graph, const mth_model *model, const char *name,
    const mth__input_description *given, size_t count) {
    const char **names = NEW_ARRAY(graph->arena, const char *, count);
    mth__names inputs = {0};
    size_t n = 0;
    for (size_t i = 0; i < mth__model_input_count(model); i++)
        mth__names_add(graph->arena, &inputs, mth__model_input_name(model, i));
    for (size_t i = 0; i < count; i++)
        if (mth__names_find(&inputs, given[i].name) < 0) names[n++] = given[i].name;
    const char *near = mth__nearest(name, names, n);
    mth_status status = FAIL(MTH_ERROR_KEY, F("the input '%s' is missing", name),
        near ? F("it was given as '%s': name it '%s'", near, name) : F("give the input '%s' an array", name));
    for (size_t k = 0; k < model->block.n; k++) /* the first block that reads it */
        for (int j = 0; j < (*model->resolved)->block[k].nin; j++) {
            mth__source from = (*model->resolved)->block[k].from[j];
            if (from.block < 0 && !strcmp((*model->resolved)->input[from.port], name))
                return mth__error_operator(status, model->block.at[k]->name);
        }
    return status;
}

static mth_status extra_input(const mth__graph *graph, const mth_model *model, const char *name) {
    size_t n = mth__model_input_count(model);
    const char **names = NEW_ARRAY(graph->arena, const char *, n);
    mth__text text = mth__text_new(graph->arena);
    for (size_t i = 0; i < n; i++) {
        names[i] = mth__model_input_name(model, i);
        mth__text_add(&text, i ? ", %s" : "%s", names[i]);
    }
    const char *near = mth__nearest(name, names, n);
    char *why = mth__model_why_not(model, name, false);
    mth_status status = FAIL(MTH_ERROR_KEY, F("the model has no input '%s'%s", name, why),
        near ? F("did you mean '%s'?", near) : F("its inputs are: %s", n ? text.at : "none"));
    mth__free(why);
    return status;
}

static mth_status check_input(const mth__input_description *description) {
    char shape[256];
    mth_status status = NULL;
    for (int i = 0; !status && i < description->shape.rank; i++)
        if (description->shape.dim[i] == 0)
            status = FAIL(MTH_ERROR_VALUE, F("the input '%s' has nothing along dimension %d", description->name, i),
                F("give it a size of 1 or more along each dimension"));
    if (!status) status = mth__shape_check(description->shape, description->dtype);
    if (!status) return NULL;
    mth__shape_write(shape, sizeof shape, description->shape);
    return mth__error_tensor(status, F("%s: %s %s", description->name, mth_dtype_name(description->dtype), shape));
}

mth_status mth__expand(const mth_model *model, const mth__input_description *given, size_t count, mth__graph *graph) {
    const mth__resolved *resolved = *model->resolved;
    mth__value **in = NEW_ARRAY(graph->arena, mth__value *, resolved->inputs),
               **out = NEW_ARRAY(graph->arena, mth__value *, resolved->outputs);
    mth__names names = {0};
    bool *known = NEW_ARRAY(graph->arena, bool, count);
    for (size_t i = 0; i < count; i++)
        if (mth__names_add(graph->arena, &names, given[i].name) != (int)i)
            return FAIL(MTH_ERROR_KEY, F("the input '%s' is given twice", given[i].name), F("give it once"));
    for (int i = 0; i < resolved->inputs; i++) {
        int k = mth__names_find(&names, resolved->input[i]);
        if (k < 0) return missing_input(graph, model, resolved->input[i], given, count);
        const mth__input_description *description = &given[k];
        known[k] = true;
        TRY(check_input(description));
        in[i] = mth__graph_value(graph, MTH__VALUE_INPUT, description->name, description->dtype, description->shape);
        if (description->given) in[i]->given = mth__copy_text(graph->arena, description->given);
    }
    for (size_t k = 0; k < count; k++)
        if (!known[k]) return extra_input(graph, model, given[k].name);
    const mth__sharing *sharing;
    TRY(mth__sharing_find(model, &sharing));
    const size_t parameters = sharing->parameter.name.n;
    made_parameters made = {
        sharing, NEW_ARRAY(graph->arena, mth__value *, parameters), NEW_ARRAY(graph->arena, const char *, parameters)};
    context scope = {graph, {mth__place_whole(graph->mesh), -1, -1}, "", &made};
    TRY(expand_model(&scope, model, in, out));
    graph->parameter.n = 0; /* in the order of composition, whatever the order of expansion was */
    for (size_t i = 0; i < parameters; i++)
        if (made.value[i]) PUSH(graph->arena, graph->parameter, made.value[i]);
    for (int i = 0; i < resolved->outputs; i++) {
        mth__output output = {.name = mth__copy_text(graph->arena, resolved->output[i].name), .value = out[i]};
        PUSH(graph->arena, graph->output, output);
    }
    return NULL;
}
