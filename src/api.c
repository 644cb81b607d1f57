/* Public functions that make and free compiled models. Their plans are made in api_plan.c, run in api_evaluate.c and
   read in api_read.c. */
#include "plan_cache.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    const mth_arg *input_shard_specs, *output_shard_specs, *outputs, *shapes;
} compile_options;
#define VALUE(field) .read = mth__read_value, .at = offsetof(compile_options, field)
const mth__opt mth__compile_options[] = {
    {"input_shard_specs", MTH__OPT_DICT, "None",
        "Shards inputs: {'input': (2, None)} splits the first dimension over axis 2 of the mesh. Inputs not named are "
        "replicated.",
        VALUE(input_shard_specs)},
    {"output_shard_specs", MTH__OPT_DICT, "None", "Leaves outputs sharded as said; outputs not named come back whole.",
        VALUE(output_shard_specs)},
    {"outputs", MTH__OPT_LIST, "None",
        "The names of the connections that are the outputs, in their order: those and no others, whatever reads them. "
        "What none of them needs is not computed, and is no input and no parameter; what is given for the inputs and "
        "parameters of the whole model is taken all the same. None: what nothing reads.",
        VALUE(outputs)},
    {"shapes", MTH__OPT_DICT, "None",
        "Shapes of inputs, {'input': (32, 2048)} or {'input': ((32, 512), 'int32')}: for get_parameters before any "
        "input is there.",
        VALUE(shapes)},
    {0}};
#undef VALUE
static const mth__opt *const compile_tables[] = {mth__compile_options, NULL};

static void write_options(mth__text *text, const void *tables) { mth__options_doc(text, tables, ""); }

const char *mth_compile_option_doc(void) {
    static char *_Atomic text;
    return mth__text_once(&text, write_options, compile_tables);
}

/* ---------------------------------------------------------------- compile */
/* An input that the outputs don't need is checked and then left alone. */
static mth_status check_name(
    const mth_compiled *compiled, const char *option, const char *name, bool output, bool *is_idle) {
    const mth__names *known = output ? &compiled->outputs : &compiled->inputs;
    *is_idle = !output && mth__names_find(&compiled->idle_inputs, name) >= 0;
    if (*is_idle || mth__names_find(known, name) >= 0) return NULL;
    const char *kind = output ? "output" : "input";
    char *why = mth__model_why_not(compiled->model, name, output);
    mth_status status = FAIL(MTH_ERROR_KEY, F("%s: the model has no %s '%s'%s", option, kind, name, why),
        output ? mth__model_output_fix(compiled->model, name, known->name.at, known->name.n)
               : mth__name_fix(kind, name, known->name.at, known->name.n));
    mth__free(why);
    return status;
}

static mth_status read_specs(
    mth_compiled *compiled, const mth_arg *dict, const char *option, bool output, mth__spec_of *spec, size_t *n) {
    if (dict->kind != MTH_ARG_DICT) return NULL;
    for (size_t i = 0; i < dict->count; i++) {
        mth_arg entry = dict->items[i];
        bool is_idle;
        TRY(check_name(compiled, option, dict->keys[i], output, &is_idle));
        /* here: a jump from among the texts of an error would lose them */
        const char *text = mth__arg_text(compiled->arena, entry);
        if (entry.kind != MTH_ARG_LIST || entry.count > MTH__RANK)
            return FAIL(MTH_ERROR_TYPE, F("%s: the spec of '%s' is %s", option, dict->keys[i], text),
                F("give a tuple with an entry a dimension, at most %d: a mesh axis, a tuple of axes, or None",
                    MTH__RANK));
        mth__spec_of *read = &spec[*n];
        read->name = dict->keys[i];
        read->rank = (int)entry.count;
        TRY(mth__spec_read(
            entry, mth__place_whole(compiled->backend->devices.mesh), read->rank, read->name, &read->sharding));
        if (compiled->backend->spmd)
            TRY(mth__error_operator(mth__check_partitionable(&read->sharding, read->rank, read->name), read->name));
        *n += !is_idle;
    }
    return NULL;
}

static mth_status read_shapes(mth_compiled *compiled, const mth_arg *dict) {
    if (dict->kind != MTH_ARG_DICT) return NULL;
    compiled->shape = NEW_ARRAY(compiled->arena, mth__input_description, dict->count);
    for (size_t i = 0; i < dict->count; i++) {
        mth_arg shape = dict->items[i];
        mth__input_description *description = &compiled->shape[compiled->shapes];
        bool is_idle;
        *description = (mth__input_description){dict->keys[i], MTH_FLOAT32, {0}};
        TRY(check_name(compiled, "shapes", description->name, false, &is_idle));
        if (shape.kind == MTH_ARG_LIST && shape.count == 2 && shape.items[0].kind == MTH_ARG_LIST &&
            shape.items[1].kind == MTH_ARG_STRING) {
            description->dtype = mth_dtype_find(shape.items[1].string);
            if (!description->dtype)
                return FAIL(MTH_ERROR_VALUE,
                    F("shapes: '%s' has the unknown dtype '%s'", description->name, shape.items[1].string),
                    F("use %s", mth_dtype_names()));
            description->dtype = mth__input_dtype(compiled, description->dtype);
            shape = shape.items[0];
        }
        bool good = shape.kind == MTH_ARG_LIST && shape.count <= MTH__RANK;
        for (size_t k = 0; good && k < shape.count; k++) good = shape.items[k].kind == MTH_ARG_INT;
        const char *text = mth__arg_text(compiled->arena, dict->items[i]);
        if (!good)
            return FAIL(MTH_ERROR_TYPE, F("shapes: the shape of '%s' is %s", description->name, text),
                F("give a tuple of at most %d sizes, or (sizes, dtype)", MTH__RANK));
        description->shape.rank = (int)shape.count;
        for (size_t k = 0; k < shape.count; k++) {
            description->shape.dim[k] = shape.items[k].integer;
            if (description->shape.dim[k] < 1)
                return FAIL(MTH_ERROR_VALUE,
                    F("shapes: '%s' has the size %lld along dimension %zu", description->name,
                        (long long)description->shape.dim[k], k),
                    F("give it a size of 1 or more along each dimension"));
        }
        compiled->shapes += !is_idle;
    }
    return NULL;
}

static void compiled_destroy(mth_compiled *compiled) {
    for (mth__plan *plan = compiled->plan, *next; plan; plan = next) {
        next = plan->next;
        mth__plan_free(compiled, plan);
    }
    if (compiled->model) mth_model_free(compiled->model);
    mth_backend_free(compiled->backend);
    mth__arena_free(compiled->arena);
}

/* Whoever held the lock left the list of plans whole: where a plan was being made, the backend knows. No run of the
 * parent goes on here. */
static void around_fork(void *object, mth__fork_moment moment) {
    mth_compiled *compiled = object;
    if (moment != MTH__FORK_CHILD) return;
    pthread_mutex_init(&compiled->lock, NULL);
    for (mth__plan *plan = compiled->plan; plan; plan = plan->next) plan->running = 0;
}

/* Only a plan shows which layouts XLA's partitioner refuses. This one is not kept: parameters are laid out as the first
 * plan that is asked for says. */
static mth_status try_shapes(const mth_compiled *compiled) {
    mth__plan *plan;
    mth__request request = {
        .inputs = compiled->shapes, .input = compiled->shape, .outputs = mth__model_output_count(compiled->model)};
    request.seeded = NEW_ARRAY(compiled->arena, bool, request.outputs);
    TRY(mth__compile_plan(compiled, &request, &plan));
    mth__arena_free(plan->arena);
    return NULL;
}

typedef struct {
    const mth_model *model;
    mth_backend *backend;
    const mth_option *option;
    size_t count;
    mth_compiled **out;
    mth_model *copy;
} compiling;

static mth_status compile_body(void *context) {
    compiling *job = context;
    mth__arena *arena = mth__arena_new();
    mth_compiled *compiled = NEW(arena, mth_compiled);
    compiled->arena = arena;
    compiled->backend = job->backend;
    compiled->model = job->copy;
    TRY(mth__model_resolve(compiled->model, compiled->backend->devices.mesh, compiled->backend->spmd));
    mth_arg *value;
    TRY(mth__options_read(arena, "compile", compile_tables, job->option, job->count, &value));
    compile_options given;
    TRY(mth__options_hand_out(compile_tables, value, mth__compile_options, &given));
    mth__names whole = {0};
    for (size_t i = 0; i < mth__model_input_count(compiled->model); i++)
        mth__names_add(arena, &whole, mth__model_input_name(compiled->model, i));
    if (given.outputs->kind == MTH_ARG_LIST) TRY(mth__model_select(compiled->model, given.outputs));
    for (size_t i = 0; i < mth__model_input_count(compiled->model); i++)
        mth__names_add(arena, &compiled->inputs, mth__model_input_name(compiled->model, i));
    for (size_t i = 0; i < whole.name.n; i++)
        if (mth__names_find(&compiled->inputs, whole.name.at[i]) < 0)
            mth__names_add(arena, &compiled->idle_inputs, whole.name.at[i]);
    for (size_t i = 0; i < mth__model_output_count(compiled->model); i++)
        mth__names_add(arena, &compiled->outputs, mth__model_output_name(compiled->model, i));
    mth__model_parameters(arena, compiled->model, &compiled->parameters, &compiled->idle_parameters);
    compiled->ids = NEW_ARRAY(arena, bool, compiled->inputs.name.n);
    mth__model_id_inputs(arena, compiled->model, compiled->ids);
    const mth_arg *inputs = given.input_shard_specs, *outputs = given.output_shard_specs;
    mth__spec_of *spec = NEW_ARRAY(arena, mth__spec_of, inputs->count + outputs->count);
    size_t specs = 0;
    TRY(read_specs(compiled, inputs, "input_shard_specs", false, spec, &specs));
    TRY(read_specs(compiled, outputs, "output_shard_specs", true, spec, &specs));
    TRY(read_shapes(compiled, given.shapes));
    const bool said = compiled->shapes;
    if (!said) compiled->shapes = mth__model_nominal_inputs(arena, compiled->model, &compiled->shape);
    compiled->distribute = compiled->backend->distribute;
    compiled->distribute.spec = spec;
    compiled->distribute.specs = specs;
    compiled->number = compiled->backend->models;
    if (said && compiled->backend->spmd) TRY(try_shapes(compiled));
    pthread_mutex_init(&compiled->lock, NULL);
    mth__fork_watch_add(&compiled->watch, around_fork, compiled);
    mth__arena_keep(arena);
    compiled->backend->models++;
    *job->out = compiled;
    return NULL;
}

mth_status mth_compile(
    const mth_model *model, mth_backend *backend, const mth_option *option, size_t count, mth_compiled **out) {
    compiling job = {model, backend, option, count, out, NULL};
    TRY(mth__given(model, "the model"));
    TRY(mth__given(backend, "the backend"));
    TRY(mth__result_given(out));
    TRY(mth__model_snapshot(model, &job.copy));
    mth_status status = mth__backend_lock(backend);
    if (!status) {
        status = mth__guard(compile_body, &job);
        mth__backend_unlock(backend);
    }
    if (status)
        mth_model_free(job.copy);
    else
        mth__devices_retain(&backend->devices);
    return status;
}

void mth_compiled_free(mth_compiled *compiled) {
    if (!compiled) return;
    mth__fork_watch_remove(&compiled->watch);
    pthread_mutex_destroy(&compiled->lock);
    compiled_destroy(compiled);
}

static const char *const *list_names(const mth__names *names, size_t *count) {
    if (count) *count = names ? names->name.n : 0;
    return names ? names->name.at : NULL;
}
const char *const *mth_compiled_get_inputs(const mth_compiled *compiled, size_t *count) {
    return list_names(compiled ? &compiled->inputs : NULL, count);
}
const char *const *mth_compiled_get_outputs(const mth_compiled *compiled, size_t *count) {
    return list_names(compiled ? &compiled->outputs : NULL, count);
}
const char *const *mth_compiled_get_parameters(const mth_compiled *compiled, size_t *count) {
    return list_names(compiled ? &compiled->parameters : NULL, count);
}

bool mth_takes_mask(const mth_compiled *compiled, const char *input) {
    const int number = compiled && input ? mth__names_find(&compiled->inputs, input) : -1;
    return number >= 0 && compiled->ids[number];
}

void mth_compiled_interrupt(mth_compiled *compiled) {
    if (compiled) atomic_fetch_add(&compiled->interrupts, 1);
}
