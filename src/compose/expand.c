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
mth__value *mth__expansion_input(const mth__expansion *e, const char *port) {
    for (int i = 0; i < e->nin; i++)
        if (!strcmp(e->in_port[i], port)) return e->in[i];
    return NULL;
}

/* Parameters are of the operands' floating type. */
static mth_dtype parameter_dtype(const mth__expansion *e) {
    for (int i = 0; i < e->nin; i++)
        if (mth__is_float(e->in[i]->dtype)) return e->in[i]->dtype;
    return MTH_FLOAT32;
}

static const mth_arg *own_spec(const mth__expansion *e, const char *suffix) {
    const mth_arg *specs = mth__module_option(e->module, "shard_specs");
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
    const mth__expansion *e, const mth__value *v, mth__shape shape, mth_dtype dtype, int number) {
    char wants[256];
    if (v->dtype == dtype && mth__shape_equal(v->shape, shape)) return NULL;
    const char *maker = e->made->maker[number];
    mth__shape_write(wants, sizeof wants, shape);
    mth_status s = v->dtype != dtype
        ? FAIL(MTH_ERROR_TYPE,
              F("%s shares %s with %s, and computes in %s", e->builder.label.module, v->name, maker,
                  mth_dtype_name(dtype)),
              F("give both inputs of one dtype"))
        : FAIL(MTH_ERROR_VALUE,
              F("%s shares %s with %s, and takes it as %s", e->builder.label.module, v->name, maker, wants),
              F("give both the same sizes, or each its own weights: another module object, or mth_module_copy"));
    return mth__error_tensor(s, mth__value_text(v));
}

static mth_status find_or_make(mth__expansion *e, int number, mth__shape shape, bool *fresh, mth__value **out) {
    const mth_dtype dtype = parameter_dtype(e);
    mth__value **v = &e->made->value[number];
    *fresh = !*v;
    if (*fresh) {
        TRY(mth__shape_check(shape, dtype));
        *v = mth__graph_value(
            e->builder.graph, MTH__VALUE_PARAMETER, e->made->sharing->parameter.name.at[number], dtype, shape);
        e->made->maker[number] = e->builder.label.module;
    }
    TRY(check_use(e, *v, shape, dtype, number));
    *out = *v;
    return NULL;
}

/* The sharding is what the module says whose parameter it is; until that is expanded, and where it never is, what the
 * first that shares it would say. */
mth_status mth__expansion_parameter_as(mth__expansion *e, const char *suffix, mth__shape shape, int init, double scale,
    const mth__sharding *sharding, mth__value **out) {
    mth__graph *g = e->builder.graph;
    const mth__sharing *sharing = e->made->sharing;
    const int number = mth__sharing_number(g->arena, sharing, e->builder.label.module, suffix);
    if (number < 0)
        return INTERNAL("%s makes the parameter %s, which its type doesn't list", e->builder.label.module, suffix);
    bool fresh;
    mth__value *v;
    TRY(find_or_make(e, number, shape, &fresh, &v));
    *out = v;
    if (!fresh && strcmp(sharing->use.at[sharing->owner.at[number]].path, e->builder.label.module)) return NULL;
    mth__sharding said = {.on = e->builder.on};
    const mth_arg *spec = own_spec(e, suffix);
    bool pinned = sharding && sharding->on;
    if (pinned) said = *sharding;
    if (spec) {
        TRY(mth__spec_read(*spec, e->mesh, shape.rank, v->name, &said));
        for (int d = 0; d < shape.rank; d++)
            if (sharding) said.dim[d].grain = sharding->dim[d].cyclic ? 1 : sharding->dim[d].grain;
        pinned = true;
    }
    v->init = init;
    v->init_scale = scale;
    v->sharding = said;
    v->pinned = pinned;
    for (int d = 0; d < shape.rank; d++) v->fixed[d] = pinned;
    if (pinned) {
        v->origin = mth__format(g->arena, "user, %s", e->builder.label.module);
        mth__sharding_canonical(&v->sharding, shape);
    }
    return NULL;
}

mth_status mth__expansion_weight(mth__expansion *e, const char *suffix, mth__shape shape, int init, double scale,
    const mth_arg *spec, const int32_t *grain, mth__value **out, bool *across) {
    const mth_arg *shared = mth__module_option(e->module, "weight");
    *across = false;
    if (!shared || shared->kind != MTH_ARG_STRING)
        return mth__expansion_parameter(e, suffix, shape, init, scale, spec, grain, out);
    const mth__sharing *sharing = e->made->sharing;
    const int number = sharing->use.at[mth__names_find(&sharing->path, e->builder.label.module)].weight;
    const mth_module *owner = sharing->use.at[sharing->owner.at[number]].module;
    *across = owner->type->table != e->module->type->table;
    if (*across) shape = (mth__shape){2, {shape.dim[1], shape.dim[0]}};
    bool fresh;
    TRY(find_or_make(e, number, shape, &fresh, out));
    if (!fresh) return NULL;
    (*out)->init = init;
    (*out)->init_scale = scale;
    return NULL;
}

mth_status mth__expansion_parameter(mth__expansion *e, const char *suffix, mth__shape shape, int init, double scale,
    const mth_arg *spec, const int32_t *grain, mth__value **out) {
    mth__sharding s = {.on = NULL};
    bool given = spec && spec->kind != MTH_ARG_NONE;
    if (given)
        TRY(mth__spec_read(*spec, e->mesh, shape.rank,
            mth__format(e->builder.graph->arena, "%s.%s", e->builder.label.module, suffix), &s));
    for (int d = 0; grain && d < shape.rank; d++) s.dim[d].grain = grain[d];
    return mth__expansion_parameter_as(e, suffix, shape, init, scale, &s, out);
}

/* A spec may name what the options leave out: query.bias with bias=False. */
static mth_status check_specs_used(const mth__expansion *e) {
    const mth_arg *specs = mth__module_option(e->module, "shard_specs");
    if (!specs || !specs->count) return NULL;
    const mth__ports here = mth__module_parameters(e->builder.graph->arena, e->module);
    for (size_t i = 0; i < specs->count; i++)
        if (mth__ports_find(&here, specs->keys[i]) < 0)
            return FAIL(MTH_ERROR_KEY,
                F("shard_specs names '%s', a parameter that the other options leave out", specs->keys[i]),
                F("remove '%s' from shard_specs", specs->keys[i]));
    return NULL;
}

/* ---------------------------------------------------------------- blocks */
static mth_status expand_model(const context *, const mth_model *, mth__value *const *in, mth__value **out);

static mth_status expand_module(const context *c, const mth__block *b, const char *path, int nin, mth__value **in,
    const char *const *port, mth__value **out) {
    mth__graph *g = c->graph;
    mth__expansion e = {.builder = {.graph = g,
                            .label = {.module = path,
                                .source = b->line ? mth__copy_text(g->arena, b->line) : NULL,
                                .region = c->site.region,
                                .stage = c->site.stage,
                                .microbatch = -1}},
        .module = b->module,
        .nin = nin,
        .in = in,
        .in_port = port,
        .nout = b->out.n,
        .out = out,
        .mesh = c->site.place,
        .made = c->made};
    TRY(mth__site_on(b->module, g->mesh, &c->site, &e.builder.on));
    TRY(b->module->type->expand(&e));
    return check_specs_used(&e);
}

/* The connections that a block's outputs are, as its user calls them. */
static void name_outputs(const context *c, const mth__block *b, const char *path, mth__value **out) {
    for (int i = 0; i < b->out.n; i++) {
        if (!out[i] || out[i]->name || out[i]->wire) continue;
        out[i]->wire = b->out_name[i] ? mth__format(c->graph->arena, "%s%s", c->prefix, b->out_name[i])
                                      : mth__format(c->graph->arena, "%s.%s", path, b->out.at[i].name);
    }
}

static mth_status expand_model(const context *c, const mth_model *m, mth__value *const *in, mth__value **out) {
    mth__graph *g = c->graph;
    const mth__resolved *r = *m->resolved;
    mth__value ***made = NEW_ARRAY(g->arena, mth__value **, m->block.n);
    for (size_t i = 0; i < m->block.n; i++) {
        int k = r->order[i];
        const mth__block *b = m->block.at[k];
        const struct mth__inlet *from = &r->block[k];
        made[k] = NEW_ARRAY(g->arena, mth__value *, b->out.n);
        if (from->idle) continue;
        mth__value **operand = NEW_ARRAY(g->arena, mth__value *, from->nin);
        for (int j = 0; j < from->nin; j++) {
            mth__source s = from->from[j];
            operand[j] = s.block >= 0 ? made[s.block][s.port] : s.port >= 0 ? in[s.port] : NULL;
        }
        const char *path = mth__format(g->arena, "%s%s", c->prefix, b->name);
        if (b->module) {
            TRY(mth__error_source(
                mth__error_operator(expand_module(c, b, path, from->nin, operand, from->port, made[k]), path),
                b->line));
        } else {
            context inner = {g, c->site, mth__format(g->arena, "%s.", path), c->made};
            TRY(expand_model(&inner, b->model, operand, made[k]));
        }
        name_outputs(c, b, path, made[k]);
    }
    for (int i = 0; i < r->outputs; i++) out[i] = made[r->output[i].block][r->output[i].port];
    return NULL;
}

mth_status mth__expand_stage(mth__expansion *e, const mth_model *stage, const char *name, const mth__site *site,
    mth__value *const *in, mth__value **out) {
    const char *prefix = mth__format(e->builder.graph->arena, "%s.%s.", e->builder.label.module, name);
    context c = {e->builder.graph, *site, prefix, e->made};
    return expand_model(&c, stage, in, out);
}

/* ---------------------------------------------------------------- the whole model */
static mth_status missing_input(
    const mth__graph *g, const mth_model *m, const char *name, const mth__input_description *given, size_t count) {
    const char **names = NEW_ARRAY(g->arena, const char *, count);
    mth__names inputs = {0};
    size_t n = 0;
    for (size_t i = 0; i < mth__model_input_count(m); i++)
        mth__names_add(g->arena, &inputs, mth__model_input_name(m, i));
    for (size_t i = 0; i < count; i++)
        if (mth__names_find(&inputs, given[i].name) < 0) names[n++] = given[i].name;
    const char *near = mth__nearest(name, names, n);
    mth_status s = FAIL(MTH_ERROR_KEY, F("the input '%s' is missing", name),
        near ? F("it was given as '%s': name it '%s'", near, name) : F("give the input '%s' an array", name));
    for (size_t k = 0; k < m->block.n; k++) /* the first block that reads it */
        for (int j = 0; j < (*m->resolved)->block[k].nin; j++) {
            mth__source from = (*m->resolved)->block[k].from[j];
            if (from.block < 0 && !strcmp((*m->resolved)->input[from.port], name))
                return mth__error_operator(s, m->block.at[k]->name);
        }
    return s;
}

static mth_status extra_input(const mth__graph *g, const mth_model *m, const char *name) {
    size_t n = mth__model_input_count(m);
    const char **names = NEW_ARRAY(g->arena, const char *, n);
    mth__text t = mth__text_new(g->arena);
    for (size_t i = 0; i < n; i++) {
        names[i] = mth__model_input_name(m, i);
        mth__text_add(&t, i ? ", %s" : "%s", names[i]);
    }
    const char *near = mth__nearest(name, names, n);
    char *why = mth__model_why_not(m, name, false);
    mth_status s = FAIL(MTH_ERROR_KEY, F("the model has no input '%s'%s", name, why),
        near ? F("did you mean '%s'?", near) : F("its inputs are: %s", n ? t.at : "none"));
    mth__free(why);
    return s;
}

static mth_status check_input(const mth__input_description *d) {
    char shape[256];
    mth_status s = NULL;
    for (int i = 0; !s && i < d->shape.rank; i++)
        if (d->shape.dim[i] == 0)
            s = FAIL(MTH_ERROR_VALUE, F("the input '%s' has nothing along dimension %d", d->name, i),
                F("give it a size of 1 or more along each dimension"));
    if (!s) s = mth__shape_check(d->shape, d->dtype);
    if (!s) return NULL;
    mth__shape_write(shape, sizeof shape, d->shape);
    return mth__error_tensor(s, F("%s: %s %s", d->name, mth_dtype_name(d->dtype), shape));
}

mth_status mth__expand(const mth_model *m, const mth__input_description *given, size_t count, mth__graph *g) {
    const mth__resolved *r = *m->resolved;
    mth__value **in = NEW_ARRAY(g->arena, mth__value *, r->inputs),
               **out = NEW_ARRAY(g->arena, mth__value *, r->outputs);
    mth__names names = {0};
    bool *known = NEW_ARRAY(g->arena, bool, count);
    for (size_t i = 0; i < count; i++)
        if (mth__names_add(g->arena, &names, given[i].name) != (int)i)
            return FAIL(MTH_ERROR_KEY, F("the input '%s' is given twice", given[i].name), F("give it once"));
    for (int i = 0; i < r->inputs; i++) {
        int k = mth__names_find(&names, r->input[i]);
        if (k < 0) return missing_input(g, m, r->input[i], given, count);
        const mth__input_description *d = &given[k];
        known[k] = true;
        TRY(check_input(d));
        in[i] = mth__graph_value(g, MTH__VALUE_INPUT, d->name, d->dtype, d->shape);
    }
    for (size_t k = 0; k < count; k++)
        if (!known[k]) return extra_input(g, m, given[k].name);
    mth__sharing sharing;
    TRY(mth__sharing_find(g->arena, m, &sharing));
    const size_t parameters = sharing.parameter.name.n;
    made_parameters made = {
        &sharing, NEW_ARRAY(g->arena, mth__value *, parameters), NEW_ARRAY(g->arena, const char *, parameters)};
    context c = {g, {mth__place_whole(g->mesh), -1, -1}, "", &made};
    TRY(expand_model(&c, m, in, out));
    g->parameter.n = 0; /* in the order of composition, whatever the order of expansion was */
    for (size_t i = 0; i < parameters; i++)
        if (made.value[i]) PUSH(g->arena, g->parameter, made.value[i]);
    for (int i = 0; i < r->outputs; i++) {
        mth__output o = {.name = mth__copy_text(g->arena, r->output[i].name), .value = out[i]};
        PUSH(g->arena, g->output, o);
    }
    return NULL;
}
