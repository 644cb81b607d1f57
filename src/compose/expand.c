/* The resolved model and the descriptions of its inputs -> the graph: blocks in their order, each through its type's
 * expand. */
#include "compose/model.h"
#include "compose/parts.h"
#include <inttypes.h>
#include <string.h>

typedef struct {
    mth__graph *graph;
    mth__site site;
    const char *prefix;
} context; /* prefix: "model_0." */

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

mth_status mth__expansion_parameter_as(mth__expansion *e, const char *suffix, mth__shape shape, int init, double scale,
    const mth__sharding *sharding, mth__value **out) {
    mth__graph *g = e->builder.graph;
    const char *name = mth__format(g->arena, "%s.%s", e->builder.label.module, suffix);
    mth_dtype dtype = parameter_dtype(e);
    TRY(mth__shape_check(shape, dtype));
    mth__sharding said = {.on = e->builder.on};
    const mth_arg *spec = own_spec(e, suffix);
    bool pinned = sharding && sharding->on;
    if (pinned) said = *sharding;
    if (spec) {
        TRY(mth__spec_read(*spec, e->mesh, shape.rank, name, &said));
        for (int d = 0; d < shape.rank; d++)
            if (sharding) said.dim[d].grain = sharding->dim[d].cyclic ? 1 : sharding->dim[d].grain;
        pinned = true;
    }
    mth__value *v = mth__graph_value(g, MTH__VALUE_PARAMETER, name, dtype, shape);
    v->init = init;
    v->init_scale = scale;
    v->sharding = said;
    if (pinned) {
        v->pinned = true;
        for (int d = 0; d < shape.rank; d++) v->fixed[d] = true;
        v->origin = mth__format(g->arena, "user, %s", e->builder.label.module);
        mth__sharding_canonical(&v->sharding, shape);
    }
    *out = v;
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
static mth_status check_specs_used(const mth__expansion *e, size_t first) {
    const mth__graph *g = e->builder.graph;
    const mth_arg *specs = mth__module_option(e->module, "shard_specs");
    size_t n = strlen(e->builder.label.module) + 1;
    for (size_t i = 0; specs && i < specs->count; i++) {
        bool used = false;
        for (size_t p = first; p < g->parameter.n; p++) used |= !strcmp(g->parameter.at[p]->name + n, specs->keys[i]);
        if (!used)
            return FAIL(MTH_ERROR_KEY,
                F("shard_specs names '%s', a parameter that the other options leave out", specs->keys[i]),
                F("remove '%s' from shard_specs", specs->keys[i]));
    }
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
        .mesh = c->site.place};
    size_t first = g->parameter.n;
    TRY(mth__site_on(b->module, g->mesh, &c->site, &e.builder.on));
    TRY(b->module->type->expand(&e));
    return check_specs_used(&e, first);
}

/* Parameters stand in the order of composition, whatever the order of expansion was. */
static void order_parameters(mth__graph *g, const mth_model *m, size_t first, const size_t (*range)[2]) {
    bool sorted = true;
    for (size_t k = 0; k < m->block.n; k++) sorted &= (*m->resolved)->order[k] == (int)k;
    if (sorted) return;
    mth__value **all = NEW_ARRAY(g->arena, mth__value *, g->parameter.n - first);
    size_t n = 0;
    for (size_t k = 0; k < m->block.n; k++)
        for (size_t p = range[k][0]; p < range[k][1]; p++) all[n++] = g->parameter.at[p];
    if (n) memcpy(g->parameter.at + first, all, n * sizeof *all);
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
    size_t(*range)[2] = mth__alloc_array(g->arena, m->block.n, sizeof *range), first = g->parameter.n;
    for (size_t i = 0; i < m->block.n; i++) {
        int k = r->order[i];
        const mth__block *b = m->block.at[k];
        const struct mth__inlet *from = &r->block[k];
        made[k] = NEW_ARRAY(g->arena, mth__value *, b->out.n);
        range[k][0] = range[k][1] = g->parameter.n;
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
            context inner = {g, c->site, mth__format(g->arena, "%s.", path)};
            TRY(expand_model(&inner, b->model, operand, made[k]));
        }
        name_outputs(c, b, path, made[k]);
        range[k][1] = g->parameter.n;
    }
    order_parameters(g, m, first, (const size_t(*)[2])range);
    for (int i = 0; i < r->outputs; i++) out[i] = made[r->output[i].block][r->output[i].port];
    return NULL;
}

mth_status mth__expand_stage(mth__expansion *e, const mth_model *stage, const char *name, const mth__site *site,
    mth__value *const *in, mth__value **out) {
    context c = {
        e->builder.graph, *site, mth__format(e->builder.graph->arena, "%s.%s.", e->builder.label.module, name)};
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
    context c = {g, {mth__place_whole(g->mesh), -1, -1}, ""};
    TRY(expand_model(&c, m, in, out));
    for (int i = 0; i < r->outputs; i++) {
        mth__output o = {.name = mth__copy_text(g->arena, r->output[i].name), .value = out[i]};
        PUSH(g->arena, g->output, o);
    }
    return NULL;
}
