/* Public functions around a compiled model: make plans, run them. Those that read plans are in api_read.c. */
#include "compile.h"
#include "base/philox.h"
#include <stdio.h>
#include <string.h>

const mth__opt mth__compile_options[] = {
    {"input_shard_specs", MTH__OPT_DICT, "None", "Shards inputs: {'input': (2, None)} splits the first dimension over axis 2 of the mesh. Inputs not named are replicated.", NULL},
    {"output_shard_specs", MTH__OPT_DICT, "None", "Leaves outputs sharded as said; outputs not named come back whole.", NULL},
    {"shapes", MTH__OPT_DICT, "None", "Shapes of inputs, {'input': (32, 2048)} or {'input': ((32, 512), 'int32')}: for get_parameters before any input is there.", NULL},
    {0}};
static const mth__opt *const compile_tables[] = {mth__compile_options, NULL};

static void write_options(mth__text *t, const void *tables) { mth__options_doc(t, tables, ""); }

const char *mth_compile_option_doc(void) {
    static char *_Atomic text;
    return mth__text_once(&text, write_options, compile_tables);
}

mth_status mth__no_room(void) { return FAIL(MTH_ERROR_MEMORY, F("no memory"), F("free memory, or shard the model over more devices")); }

/* ---------------------------------------------------------------- compile */
static mth_status check_name(const mth_model *m, const char *option, const char *kind, const char *name, const mth__names *known) {
    if (mth__names_find(known, name) >= 0) return NULL;
    char *why = mth__model_why_not(m, name, !strcmp(kind, "output"));
    mth_status s = FAIL(MTH_ERROR_KEY, F("%s: the model has no %s '%s'%s", option, kind, name, why), mth__name_fix(kind, name, known->name.at, known->name.n));
    mth__free(why);
    return s;
}

static mth_status read_specs(mth_compiled *c, const mth_arg *dict, const char *option, const char *kind, const mth__names *known, mth__spec_of *spec, size_t *n) {
    if (dict->kind != MTH_ARG_DICT) return NULL;
    for (size_t i = 0; i < dict->count; i++) {
        mth_arg entry = dict->items[i];
        TRY(check_name(c->model, option, kind, dict->keys[i], known));
        const char *text = mth__arg_text(c->arena, entry); /* here: a jump from among the texts of an error would lose them */
        if (entry.kind != MTH_ARG_LIST || entry.count > MTH__RANK)
            return FAIL(MTH_ERROR_TYPE, F("%s: the spec of '%s' is %s", option, dict->keys[i], text),
                        F("give a tuple with an entry a dimension, at most %d: a mesh axis, a tuple of axes, or None",
                          MTH__RANK));
        mth__spec_of *s = &spec[(*n)++];
        s->name = dict->keys[i];
        s->rank = (int)entry.count;
        TRY(mth__spec_read(entry, mth__place_whole(c->backend->mesh), s->rank, s->name, &s->sharding));
        if (c->backend->spmd) TRY(mth__error_operator(mth__check_partitionable(&s->sharding, s->rank, s->name), s->name));
    }
    return NULL;
}

static mth_status read_shapes(mth_compiled *c, const mth_arg *dict) {
    if (dict->kind != MTH_ARG_DICT) return NULL;
    c->shape = NEW_ARRAY(c->arena, mth__input_description, dict->count);
    for (size_t i = 0; i < dict->count; i++) {
        mth_arg shape = dict->items[i];
        mth__input_description *d = &c->shape[c->shapes++];
        *d = (mth__input_description){dict->keys[i], MTH_FLOAT32, {0}};
        TRY(check_name(c->model, "shapes", "input", d->name, &c->inputs));
        if (shape.kind == MTH_ARG_LIST && shape.count == 2 && shape.items[0].kind == MTH_ARG_LIST && shape.items[1].kind == MTH_ARG_STRING) {
            for (d->dtype = MTH_FLOAT32; d->dtype <= MTH_BFLOAT16 && strcmp(mth_dtype_name(d->dtype), shape.items[1].string); d->dtype++) {}
            if (d->dtype > MTH_BFLOAT16) return FAIL(MTH_ERROR_VALUE, F("shapes: '%s' has the unknown dtype '%s'", d->name, shape.items[1].string), F("use float32, int32, int64 or bool"));
            shape = shape.items[0];
        }
        bool good = shape.kind == MTH_ARG_LIST && shape.count <= MTH__RANK;
        for (size_t k = 0; good && k < shape.count; k++) good = shape.items[k].kind == MTH_ARG_INT;
        const char *text = mth__arg_text(c->arena, dict->items[i]);
        if (!good) return FAIL(MTH_ERROR_TYPE, F("shapes: the shape of '%s' is %s", d->name, text),
                               F("give a tuple of at most %d sizes, or (sizes, dtype)", MTH__RANK));
        d->shape.rank = (int)shape.count;
        for (size_t k = 0; k < shape.count; k++) {
            d->shape.dim[k] = shape.items[k].integer;
            if (d->shape.dim[k] < 1) return FAIL(MTH_ERROR_VALUE, F("shapes: '%s' has the size %lld along dimension %zu", d->name, (long long)d->shape.dim[k], k), F("give it a size of 1 or more along each dimension"));
        }
    }
    return NULL;
}

static void plan_free(mth_compiled *c, mth__plan *p) {
    if (p->executable) c->backend->vtable->unload(p->executable);
    mth__arena_free(p->arena);
}

static void compiled_destroy(mth_compiled *c) {
    for (mth__plan *p = c->plan, *next; p; p = next) {
        next = p->next;
        plan_free(c, p);
    }
    if (c->model) mth_model_free(c->model);
    mth_backend_free(c->backend);
    mth__arena_free(c->arena);
}

/* Whoever held the lock left the list of plans whole: where a plan was being made, the backend knows. No run of the parent goes on here. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth_compiled *c = object;
    if (moment != MTH__FORK_CHILD) return;
    pthread_mutex_init(&c->lock, NULL);
    for (mth__plan *p = c->plan; p; p = p->next) p->running = 0;
}

/* Which layouts XLA's partitioner refuses, a plan shows. It is not kept: parameters are laid out as the first plan that is asked for says. */
static mth_status try_shapes(const mth_compiled *c) {
    mth__plan *plan;
    mth__request r = {.inputs = c->shapes, .input = c->shape, .outputs = mth__model_output_count(c->model)};
    r.seeded = NEW_ARRAY(c->arena, bool, r.outputs);
    TRY(mth__compile_plan(c, &r, &plan));
    mth__arena_free(plan->arena);
    return NULL;
}

typedef struct { const mth_model *model; mth_backend *backend; const mth_option *option; size_t count; mth_compiled **out; mth_model *copy; } compiling;

static mth_status compile_body(void *context) {
    compiling *k = context;
    mth__arena *arena = mth__arena_new();
    mth_compiled *c = NEW(arena, mth_compiled);
    c->arena = arena;
    c->backend = k->backend;
    c->model = k->copy;
    TRY(mth__model_resolve(c->model, c->backend->mesh, c->backend->spmd));
    for (size_t i = 0; i < mth__model_input_count(c->model); i++) mth__names_add(arena, &c->inputs, mth__model_input_name(c->model, i));
    for (size_t i = 0; i < mth__model_output_count(c->model); i++) mth__names_add(arena, &c->outputs, mth__model_output_name(c->model, i));
    mth_arg *value;
    TRY(mth__options_read(arena, "compile", compile_tables, k->option, k->count, &value));
    const mth_arg *inputs = mth__options_get(compile_tables, value, "input_shard_specs"), *outputs = mth__options_get(compile_tables, value, "output_shard_specs");
    mth__spec_of *spec = NEW_ARRAY(arena, mth__spec_of, inputs->count + outputs->count);
    size_t specs = 0;
    TRY(read_specs(c, inputs, "input_shard_specs", "input", &c->inputs, spec, &specs));
    TRY(read_specs(c, outputs, "output_shard_specs", "output", &c->outputs, spec, &specs));
    TRY(read_shapes(c, mth__options_get(compile_tables, value, "shapes")));
    const bool said = c->shapes;
    if (!said) c->shapes = mth__model_nominal_inputs(arena, c->model, &c->shape);
    c->distribute = (mth__distribute_options){.spec = spec, .specs = specs, .communication_optimization = c->backend->communication_optimization,
                                              .overlap = c->backend->overlap, .pipeline_communication = c->backend->pipeline_communication, .chunk_bytes = 256 << 10,
                                              .sequence = c->backend->sequence, .auto_sharding = c->backend->auto_sharding, .partition_dims = c->backend->partition_dims,
                                              .store_sharded = c->backend->memory_optimization};
    if (said && c->backend->spmd) TRY(try_shapes(c));
    pthread_mutex_init(&c->lock, NULL);
    mth__fork_watch_add(&c->watch, around_fork, c);
    mth__arena_keep(arena);
    *k->out = c;
    return NULL;
}

mth_status mth_compile(const mth_model *model, mth_backend *backend, const mth_option *option, size_t count, mth_compiled **out) {
    compiling k = {model, backend, option, count, out, NULL};
    TRY(mth__given(model, "the model"));
    TRY(mth__given(backend, "the backend"));
    TRY(mth__result_given(out));
    TRY(mth__model_copy(model, &k.copy));
    mth_status s = mth__backend_lock(backend);
    if (!s) {
        s = mth__guard(compile_body, &k);
        mth__backend_unlock(backend);
    }
    if (s) mth_model_free(k.copy);
    else mth__backend_retain(backend);
    return s;
}

void mth_compiled_free(mth_compiled *c) {
    if (!c) return;
    mth__fork_watch_remove(&c->watch);
    pthread_mutex_destroy(&c->lock);
    compiled_destroy(c);
}

void mth_compiled_interrupt(mth_compiled *c) {
    if (c) atomic_fetch_add(&c->interrupts, 1);
}

mth_status mth__lock(mth_compiled *c) {
    TRY(mth__given(c, "the compiled model"));
    pthread_mutex_lock(&c->lock);
    return NULL;
}

mth_status mth__unlock(mth_compiled *c, mth_status s) {
    pthread_mutex_unlock(&c->lock);
    return s;
}

/* ---------------------------------------------------------------- plans */
static bool same_inputs(const mth__request *a, const mth__request *b) {
    if (a->inputs != b->inputs) return false;
    for (size_t i = 0; i < a->inputs; i++) {
        const mth__input_description *x = &a->input[i], *y = &b->input[i];
        if (strcmp(x->name, y->name) || x->dtype != y->dtype || !mth__shape_equal(x->shape, y->shape)) return false;
    }
    return true;
}

static bool same_request(const mth__request *a, const mth__request *b) {
    if (a->gradients != b->gradients || !same_inputs(a, b)) return false;
    if (!a->gradients) return true;
    if (memcmp(a->seeded, b->seeded, a->outputs * sizeof(bool)) || a->wanted != b->wanted) return false;
    for (size_t i = 0; i < a->wanted; i++)
        if (strcmp(a->wanted_input[i], b->wanted_input[i])) return false;
    return true;
}

typedef struct { mth_compiled *compiled; const mth__request *request; mth__plan *plan; } plan_call;

static mth_status plan_body(void *context) {
    plan_call *p = context;
    return mth__compile_plan(p->compiled, p->request, &p->plan);
}

/* Of the plans for ever new shapes those used last are kept. The first one stays: the layout of the parameters lives in it. */
enum { PLANS_KEPT = 64 };

static void forget_old_plans(mth_compiled *c) {
    int n = 0;
    for (mth__plan **at = &c->plan; *at;) {
        mth__plan *p = *at;
        if (++n <= PLANS_KEPT || p->running || p == c->last || p->parameter == c->layout) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        plan_free(c, p);
    }
}

mth_status mth__load_plan(mth_compiled *c, mth__plan *plan) {
    return plan->executable ? NULL : c->backend->vtable->load(c->backend->engine, plan->program, plan->global, &plan->executable);
}

/* Finds or makes the plan, with the compiled model's lock held; `load` also makes its executable. */
static mth_status plan_for(mth_compiled *c, const mth__request *request, bool load, mth__plan **out) {
    mth__plan **at = &c->plan, *plan;
    while (*at && !same_request(&(*at)->request, request)) at = &(*at)->next;
    plan = *at;
    if (plan) {
        *at = plan->next;
        plan->next = c->plan;
        c->plan = plan;
    } else {
        plan_call call = {c, request, NULL};
        TRY(mth__backend_lock(c->backend));
        mth_status s = mth__guard(plan_body, &call);
        mth__backend_unlock(c->backend);
        TRY(s);
        plan = call.plan;
        plan->next = c->plan;
        c->plan = plan;
        if (!c->layout) {
            c->layouts = plan->parameters;
            c->layout = plan->parameter;
        }
        forget_old_plans(c);
    }
    if (load) TRY(mth__load_plan(c, plan));
    *out = plan;
    return NULL;
}

/* The request for these inputs, in the model's order; what is missing or too much is left to expand's errors. Freed by request_free. */
static void request_free(mth__request *r) {
    mth__free(r->input);
    mth__free(r->seeded);
    mth__free(r->wanted_input);
}

/* The number of a name, -1 where it is none of them; as a rule it is the one that is expected. */
static int number_of(const mth__names *known, const char *name, size_t expected) {
    if (expected < known->name.n && !strcmp(known->name.at[expected], name)) return (int)expected;
    return mth__names_find(known, name);
}

static mth__input_description description_of(const mth_compiled *c, const mth_named *input) {
    mth_dtype dtype = input->array->dtype;
    if (mth__is_float(dtype) && c->backend->vtable->lacks(mth__op_find("add"), dtype)) dtype = MTH_FLOAT32; /* what it computes in */
    return (mth__input_description){input->name, dtype, input->array->shape};
}

static mth_status request_for(mth_compiled *c, const mth_named *input, size_t count, mth__request *r) {
    TRY(mth__named_check(input, count, "inputs"));
    const size_t known = c->inputs.name.n;
    size_t n = 0, rest = known;
    *r = (mth__request){.outputs = c->outputs.name.n};
    r->input = mth__calloc(count + known + 1, sizeof *r->input);
    r->seeded = mth__calloc(r->outputs + 1, sizeof(bool));
    if (!r->input || !r->seeded) { request_free(r); return mth__no_room(); }
    for (size_t i = 0; i < count; i++) { /* each to its place; unknown ones and those given again behind */
        int k = number_of(&c->inputs, input[i].name, i);
        r->input[k >= 0 && !r->input[k].name ? (size_t)k : rest++] = description_of(c, &input[i]);
    }
    for (size_t k = 0; k < rest; k++)
        if (r->input[k].name) r->input[n++] = r->input[k];
    r->inputs = n;
    return NULL;
}

/* Without inputs: those of the plan last used, else the shapes given to compile. */
static mth_status request_or_last(mth_compiled *c, const mth_named *input, size_t count, mth__request *r) {
    if (count || !mth__model_input_count(c->model)) return request_for(c, input, count, r);
    *r = (mth__request){.outputs = mth__model_output_count(c->model)};
    const mth__input_description *from = c->last ? c->last->request.input : c->shape;
    r->inputs = c->last ? c->last->request.inputs : c->shapes;
    if (!r->inputs)
        return FAIL(MTH_ERROR_VALUE, F("the shapes of the inputs are not known yet"), F("give inputs, or compile with shapes={'%s': ...}", mth__model_input_name(c->model, 0)));
    r->input = mth__calloc(r->inputs, sizeof *r->input);
    r->seeded = mth__calloc(r->outputs + 1, sizeof(bool));
    if (!r->input || !r->seeded) { request_free(r); return mth__no_room(); }
    memcpy(r->input, from, r->inputs * sizeof *r->input);
    return NULL;
}

mth_status mth__forward_plan(mth_compiled *c, const mth_named *input, size_t count, mth__plan **out) {
    mth__request r;
    TRY(request_or_last(c, input, count, &r));
    mth_status s;
    if (c->last && same_inputs(&c->last->request, &r)) {
        *out = c->last;
        s = NULL;
    } else if (!(s = plan_for(c, &r, false, out)))
        c->last = *out;
    request_free(&r);
    return s;
}


mth_status mth_plan(mth_compiled *c, const mth_named *input, size_t count, bool gradients) {
    TRY(mth__lock(c));
    mth__request r;
    mth__plan *plan;
    mth_status s = request_or_last(c, input, count, &r);
    if (!s) {
        r.gradients = gradients;
        memset(r.seeded, gradients, r.outputs);
        s = plan_for(c, &r, false, &plan);
        if (!s) c->last = plan;
        request_free(&r);
    }
    return mth__unlock(c, s);
}

/* ---------------------------------------------------------------- parameters */
static char *array_text(const char *name, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    mth__value v = {.name = name, .dtype = dtype, .shape = shape};
    if (sharding) v.sharding = *sharding;
    return mth__value_text(&v);
}

static mth_status make_parameters(mth_compiled *c, const mth__plan *plan, bool with_data, uint64_t seed, mth_arrays **out) {
    mth_arrays *all;
    TRY(mth__arrays_new(plan->parameters, &all));
    mth_status s = NULL;
    for (size_t i = 0; !s && i < plan->parameters; i++) {
        const mth__parameter *p = &plan->parameter[i];
        mth_array *a;
        s = mth__array_new(c->backend, p->dtype, p->shape, &p->sharding, with_data, &a);
        if (s) s = mth__error_tensor(s, array_text(p->name, p->dtype, p->shape, &p->sharding));
        else s = mth__arrays_set(all, i, p->name, a);
        if (!s && with_data) s = mth__array_initialise(a, p->init, p->scale, seed, mth__philox_stream(p->name));
        if (s) s = mth__error_operator(s, p->name);
    }
    if (s) mth_arrays_free(all);
    else *out = all;
    return s;
}

/* Seconds may go by while many numbers are drawn: others are not kept out meanwhile. */
static mth_status parameters_for(mth_compiled *c, const mth_named *input, size_t count, bool with_data, uint64_t seed, mth_arrays **out) {
    mth__plan *plan;
    TRY(mth__result_given(out));
    TRY(mth__lock(c));
    mth_status s = mth__forward_plan(c, input, count, &plan);
    if (s) return mth__unlock(c, s);
    plan->running++;
    pthread_mutex_unlock(&c->lock);
    s = make_parameters(c, plan, with_data, seed, out);
    pthread_mutex_lock(&c->lock);
    plan->running--;
    return mth__unlock(c, s);
}

mth_status mth_get_parameters(mth_compiled *c, const mth_named *input, size_t count, uint64_t seed, mth_arrays **out) {
    return parameters_for(c, input, count, true, seed, out);
}

mth_status mth_get_parameter_layout(mth_compiled *c, const mth_named *input, size_t count, mth_arrays **out) {
    return parameters_for(c, input, count, false, 0, out);
}

/* ---------------------------------------------------------------- evaluate */
/* A given name, the i-th, is one of the known ones, and is given once: given[] is by number. `m`: whose connections they are, or NULL. */
static mth_status check_given(const mth_model *m, const char *what, const char *name, size_t i, const mth__names *known, bool *given) {
    int k = number_of(known, name, i);
    if (k < 0) {
        char *why = m ? mth__model_why_not(m, name, !strcmp(what, "output")) : F("%s", "");
        mth_status s = FAIL(MTH_ERROR_KEY, F("there is no %s '%s'%s", what, name, why), mth__name_fix(what, name, known->name.at, known->name.n));
        mth__free(why);
        return s;
    }
    if (given[k]) return FAIL(MTH_ERROR_KEY, F("the %s '%s' is given twice", what, name), F("give it once"));
    given[k] = true;
    return NULL;
}

static mth_status check_output_gradients(mth_compiled *c, const mth_gradient_request *g, mth__request *r) {
    TRY(mth__named_check(g->output_gradients, g->output_gradient_count, "output_gradients"));
    for (size_t i = 0; i < g->input_gradient_count; i++) TRY(mth__given(g->input_gradients ? g->input_gradients[i] : NULL, "a name in input_gradients"));
    for (size_t i = 0; i < g->output_gradient_count; i++)
        TRY(check_given(c->model, "output", g->output_gradients[i].name, i, &c->outputs, r->seeded));
    bool *given = mth__calloc(c->inputs.name.n + 1, sizeof *given);
    mth_status s = given ? NULL : mth__no_room();
    for (size_t i = 0; !s && i < g->input_gradient_count; i++) s = check_given(c->model, "input", g->input_gradients[i], i, &c->inputs, given);
    mth__free(given);
    TRY(s);
    r->gradients = true;
    r->wanted = g->input_gradient_count;
    r->wanted_input = mth__calloc(r->wanted + 1, sizeof *r->wanted_input);
    if (!r->wanted_input) return mth__no_room();
    for (size_t i = 0; i < r->wanted; i++) r->wanted_input[i] = g->input_gradients[i];
    return NULL;
}

/* What was given, by number of its name: of inputs, parameters and output gradients. */
typedef struct { mth_array **of[3]; } given_arrays;

static void list_given(const mth__names *known, const mth_named *item, size_t count, mth_array **of) {
    for (size_t i = 0; i < count; i++) {
        int k = number_of(known, item[i].name, i);
        if (k >= 0 && !of[k]) of[k] = item[i].array;
    }
}

/* The array that an entry takes, checked against what the plan says. */
static mth_status entry_array(const mth__plan *plan, size_t entry, const given_arrays *given, mth_array **out) {
    static const char *const what[] = {"input", "parameter", "gradient of output"};
    const mth__entry *e = &plan->program->entry.at[entry];
    mth_array *a = given->of[e->kind][plan->number[entry]];
    bool dtype = a && a->dtype != e->dtype && !(mth__is_float(a->dtype) && mth__is_float(e->dtype));
    if (a && !dtype && mth__shape_equal(a->shape, e->shape)) {
        *out = a;
        return NULL;
    }
    mth_status s = !a ? FAIL(MTH_ERROR_KEY, F("%s '%s' is missing", what[e->kind], e->name),
                             F("give '%s'%s", e->name, e->kind == MTH__ENTRY_PARAMETER ? ": mth_get_parameters has it" : ""))
                      : FAIL(dtype ? MTH_ERROR_TYPE : MTH_ERROR_VALUE,
                             F("%s '%s' has another %s than the model's", what[e->kind], e->name, dtype ? "dtype" : "shape"),
                             dtype ? F("convert it to %s", mth_dtype_name(e->dtype)) : F("give an array of the expected shape"));
    const char *module = mth__program_reader(plan->program, (int)entry);
    if (module) s = mth__error_operator(s, module);
    if (a) s = mth__error_tensor(s, array_text("given", a->dtype, a->shape, NULL));
    return mth__error_tensor(s, array_text(a ? "expected" : e->name, e->dtype, e->shape, &e->sharding));
}

static mth_status check_parameter_names(const mth__plan *plan, const mth_arrays *parameters) {
    bool *given = mth__calloc(plan->parameters + 1, sizeof *given);
    mth_status s = given ? NULL : mth__no_room();
    for (size_t i = 0; !s && i < mth_arrays_get_count(parameters); i++) s = check_given(NULL, "parameter", parameters->item[i].name, i, &plan->names, given);
    mth__free(given);
    return s;
}

/* Splits the exits of a run into outputs and gradients; takes over the buffers, also where it fails. */
static mth_status collect(mth_compiled *c, const mth__program *program, mth__buffer **exit, bool gradients, mth_arrays **out) {
    size_t n = 0, devices = (size_t)program->mesh->count;
    for (size_t i = 0; i < program->exit.n; i++) n += program->exit.at[i].gradient == gradients;
    mth_arrays *all;
    TRY(mth__arrays_new(n, &all));
    mth_status s = NULL;
    n = 0;
    for (size_t i = 0; !s && i < program->exit.n; i++) {
        const mth__exit *e = &program->exit.at[i];
        if (e->gradient != gradients) continue;
        mth_array *a;
        s = mth__array_wrap(c->backend, e->dtype, e->shape, &e->sharding, exit + i * devices, &a);
        if (s) break;
        memset(exit + i * devices, 0, devices * sizeof *exit);
        s = mth__arrays_set(all, n++, e->name, a);
    }
    if (s) mth_arrays_free(all);
    else *out = all;
    return s;
}

static mth_status run(mth_compiled *c, mth__plan *plan, const mth_arrays *parameters, const mth_named *input, size_t count,
                      const mth_gradient_request *g, const mth__stop *stop, mth_arrays **outputs, mth_arrays **gradients) {
    const mth__program *p = plan->program;
    size_t devices = (size_t)p->mesh->count, entries = p->entry.n, exits = p->exit.n;
    TRY(check_parameter_names(plan, parameters));
    const size_t inputs = c->inputs.name.n, seeds = c->outputs.name.n;
    mth_array **held = mth__calloc(entries + 1, sizeof *held), **all = mth__calloc(inputs + plan->parameters + seeds + 1, sizeof *all);
    mth__buffer **entry = mth__calloc(entries * devices + 1, sizeof *entry), **exit = mth__calloc(exits * devices + 1, sizeof *exit);
    mth_status s = held && all && entry && exit ? NULL : mth__no_room();
    given_arrays given = {{[MTH__ENTRY_INPUT] = all, [MTH__ENTRY_PARAMETER] = all + inputs, [MTH__ENTRY_SEED] = all + inputs + plan->parameters}};
    if (!s) list_given(&c->inputs, input, count, given.of[MTH__ENTRY_INPUT]);
    if (!s && parameters) list_given(&plan->names, parameters->item, parameters->count, given.of[MTH__ENTRY_PARAMETER]);
    if (!s && g) list_given(&c->outputs, g->output_gradients, g->output_gradient_count, given.of[MTH__ENTRY_SEED]);
    for (size_t i = 0; !s && i < entries; i++) {
        mth_array *a = NULL;
        s = entry_array(plan, i, &given, &a);
        if (!s) s = mth__array_as(a, c->backend, p->entry.at[i].dtype, &p->entry.at[i].sharding, &held[i]);
        for (int r = 0; !s && r < held[i]->count; r++) entry[i * devices + (size_t)held[i]->held[r].device] = held[i]->held[r].buffer;
    }
    if (!s) s = c->backend->vtable->run(plan->executable, entry, exit, stop);
    for (size_t i = 0; !s && i < entries; i++)
        s = mth__array_unlend(held[i], exit, exits * devices);
    mth_arrays *values = NULL, *slopes = NULL;
    if (!s) s = collect(c, p, exit, false, &values);
    if (!s && gradients) s = collect(c, p, exit, true, &slopes);
    for (size_t i = 0; exit && i < exits * devices; i++)
        if (exit[i]) c->backend->vtable->buffer_release(exit[i]);
    for (size_t i = 0; held && i < entries; i++) mth_array_free(held[i]);
    mth__free(held);
    mth__free(all);
    mth__free(entry);
    mth__free(exit);
    if (s) {
        mth_arrays_free(values);
        return s;
    }
    *outputs = values;
    if (gradients) *gradients = slopes;
    return NULL;
}

/* ---------------------------------------------------------------- interrupts */
/* One call of mth_evaluate: what was asked before it began is not for it. */
typedef struct { const mth_compiled *compiled; unsigned before; const mth__stop *of_thread; } evaluation;

static bool is_interrupted(void *context) {
    const evaluation *e = context;
    if (atomic_load_explicit(&e->compiled->interrupts, memory_order_relaxed) != e->before) return true;
    return mth__stop_asked(e->of_thread);
}

mth_status mth_evaluate(mth_compiled *c, const mth_arrays *parameters, const mth_named *input, size_t count, const mth_gradient_request *g, mth_arrays **outputs, mth_arrays **gradients) {
    mth__request r;
    mth__plan *plan;
    TRY(mth__given(c, "the compiled model"));
    TRY(mth__result_given(outputs));
    evaluation e = {c, atomic_load(&c->interrupts), mth__thread_stop()};
    TRY(request_for(c, input, count, &r));
    mth_status s = g ? check_output_gradients(c, g, &r) : NULL;
    if (s) {
        request_free(&r);
        return s;
    }
    pthread_mutex_lock(&c->lock);
    s = plan_for(c, &r, true, &plan);
    request_free(&r);
    if (!s) {
        c->last = plan;
        plan->running++;
        pthread_mutex_unlock(&c->lock);
        s = run(c, plan, parameters, input, count, g, &(mth__stop){is_interrupted, &e}, outputs, g ? gradients : NULL);
        pthread_mutex_lock(&c->lock);
        plan->running--;
    }
    return mth__unlock(c, s);
}
