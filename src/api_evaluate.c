/* Public functions that make parameters and run plans. */
#include "plan_cache.h"
#include "engine/fault.h"
#include "base/philox.h"
#include <stdio.h>
#include <string.h>

/* ---------------------------------------------------------------- parameters */
static char *array_text(const char *name, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    mth__value v = {.name = name, .dtype = dtype, .shape = shape};
    if (sharding) v.sharding = *sharding;
    return mth__value_text(&v);
}

static mth_status make_parameters(
    mth_compiled *c, const mth__plan *plan, bool with_data, uint64_t seed, mth_arrays **out) {
    mth_arrays *all;
    TRY(mth__arrays_new(plan->parameters, &all));
    mth_status s = NULL;
    for (size_t i = 0; !s && i < plan->parameters; i++) {
        const mth__parameter *p = &plan->parameter[i];
        mth_array *a;
        s = mth__array_new(&c->backend->devices, p->dtype, p->shape, &p->sharding, with_data, &a);
        if (s)
            s = mth__error_tensor(s, array_text(p->name, p->dtype, p->shape, &p->sharding));
        else
            s = mth__arrays_set(all, i, p->name, a);
        if (!s && with_data) s = mth__array_initialise(a, p->init, p->scale, seed, mth__philox_stream(p->name));
        if (s) s = mth__error_operator(s, p->name);
    }
    if (!s && !with_data) s = mth__arrays_allow(all, &c->idle_parameters);
    if (s)
        mth_arrays_free(all);
    else
        *out = all;
    return s;
}

/* Seconds may go by while many numbers are drawn: others are not kept out meanwhile. */
static mth_status parameters_for(
    mth_compiled *c, const mth_named *input, size_t count, bool with_data, uint64_t seed, mth_arrays **out) {
    mth__plan *plan;
    TRY(mth__result_given(out));
    TRY(mth__lock(c));
    mth_status s = mth__forward_plan(c, input, count, &plan);
    if (s) return mth__unlock(c, s);
    plan->running++;
    pthread_mutex_unlock(&c->lock);
    s = make_parameters(c, plan, with_data, seed, out);
    plan->running--; /* the last touch of the plan, which others may now free */
    return s;
}

mth_status mth_get_parameters(mth_compiled *c, const mth_named *input, size_t count, uint64_t seed, mth_arrays **out) {
    return parameters_for(c, input, count, true, seed, out);
}

mth_status mth_get_parameter_layout(mth_compiled *c, const mth_named *input, size_t count, mth_arrays **out) {
    return parameters_for(c, input, count, false, 0, out);
}

/* ---------------------------------------------------------------- evaluate */
/* A given name, the i-th, is one of the known ones, and is given once: given[] is by number. `m`: whose connections
 * they are, or NULL. */
static mth_status check_given(
    const mth_model *m, const char *what, const char *name, size_t i, const mth__names *known, bool *given) {
    int k = mth__number_of(known, name, i);
    if (k < 0) {
        char *why = m ? mth__model_why_not(m, name, !strcmp(what, "output")) : F("%s", "");
        mth_status s = FAIL(MTH_ERROR_KEY, F("there is no %s '%s'%s", what, name, why),
            m && !strcmp(what, "output") ? mth__model_output_fix(m, name, known->name.at, known->name.n)
                                         : mth__name_fix(what, name, known->name.at, known->name.n));
        mth__free(why);
        return s;
    }
    if (given[k]) return FAIL(MTH_ERROR_KEY, F("the %s '%s' is given twice", what, name), F("give it once"));
    given[k] = true;
    return NULL;
}

static mth_status check_output_gradients(mth_compiled *c, const mth_gradient_request *g, mth__request *r) {
    TRY(mth__named_check(g->output_gradients, g->output_gradient_count, "output_gradients"));
    for (size_t i = 0; i < g->input_gradient_count; i++)
        TRY(mth__given(g->input_gradients ? g->input_gradients[i] : NULL, "a name in input_gradients"));
    for (size_t i = 0; i < g->output_gradient_count; i++)
        TRY(check_given(c->model, "output", g->output_gradients[i].name, i, &c->outputs, r->seeded));
    bool *given = mth__calloc(c->inputs.name.n + 1, sizeof *given);
    mth_status s = given ? NULL : mth__lacks_memory("a call", 0);
    for (size_t i = 0; !s && i < g->input_gradient_count; i++)
        s = check_given(c->model, "input", g->input_gradients[i], i, &c->inputs, given);
    mth__free(given);
    TRY(s);
    r->gradients = true;
    r->wanted = g->input_gradient_count;
    r->wanted_input = mth__calloc(r->wanted + 1, sizeof *r->wanted_input);
    if (!r->wanted_input) return mth__lacks_memory("a call", 0);
    for (size_t i = 0; i < r->wanted; i++) r->wanted_input[i] = g->input_gradients[i];
    return NULL;
}

/* What was given, by number of its name: of inputs, parameters and output gradients. */
typedef struct {
    mth_array **of[3];
} given_arrays;

static void list_given(const mth__names *known, const mth_named *item, size_t count, mth_array **of) {
    for (size_t i = 0; i < count; i++) {
        int k = mth__number_of(known, item[i].name, i);
        if (k >= 0 && !of[k]) of[k] = item[i].array;
    }
}

/* The array that an entry takes, checked against what the plan says. */
static const char *const what[] = {"input", "parameter", "gradient of output"}; /* by kind of entry */
static mth_status entry_array(const mth__plan *plan, size_t entry, const given_arrays *given, mth_array **out) {
    const mth__entry *e = &plan->program->entry.at[entry];
    mth_array *a = given->of[e->kind][plan->number[entry]];
    bool dtype = a && a->dtype != e->dtype && !(mth__is_float(a->dtype) && mth__is_float(e->dtype));
    if (a && !dtype && mth__shape_equal(a->shape, e->shape)) {
        *out = a;
        return NULL;
    }
    mth_status s = !a
        ? FAIL(MTH_ERROR_KEY, F("%s '%s' is missing", what[e->kind], e->name),
              F("give '%s'%s", e->name, e->kind == MTH__ENTRY_PARAMETER ? ": mth_get_parameters has it" : ""))
        : FAIL(dtype ? MTH_ERROR_TYPE : MTH_ERROR_VALUE,
              F("%s '%s' has another %s than the model's", what[e->kind], e->name, dtype ? "dtype" : "shape"),
              dtype ? F("convert it to %s", mth_dtype_name(e->dtype)) : F("give an array of the expected shape"));
    const char *module = mth__program_reader(plan->program, (int)entry);
    if (module) s = mth__error_operator(s, module);
    if (a) s = mth__error_tensor(s, array_text("given", a->dtype, a->shape, NULL));
    return mth__error_tensor(s, array_text(a ? "expected" : e->name, e->dtype, e->shape, &e->sharding));
}

/* Rounding makes 0 of 1e-60, and 1 of what is next to it: a mask is examined as it was given. */
static mth_status check_mask(const mth_array *a, const char *name) {
    const int64_t n = mth__shape_size(a->shape), bytes = n * (int64_t)mth_dtype_size(a->dtype);
    void *gathered = mth_array_get_whole(a) ? NULL : mth__malloc((size_t)bytes);
    const void *values = gathered ? gathered : mth_array_get_whole(a);
    mth_status s = !values ? mth__lacks_memory("a mask", bytes) : gathered ? mth_array_gather(a, gathered) : NULL;
    for (int64_t i = 0; !s && i < n; i++) {
        const double number = mth__dtype_load(a->dtype, values, i);
        if (number != 0 && number != 1) s = mth__mask_error(number, name, "");
    }
    mth__free(gathered);
    return s;
}

/* The array as the plan takes it: in its layout and dtype, on the backend's devices. */
static mth_status hold(const mth_compiled *c, const mth__plan *plan, size_t entry, mth_array *a, mth_array **out) {
    const mth__entry *e = &plan->program->entry.at[entry];
    char name[256];
    snprintf(name, sizeof name, "%s '%s'", what[e->kind], e->name);
    const bool is_mask = e->kind == MTH__ENTRY_INPUT && a->dtype != e->dtype && c->ids[plan->number[entry]];
    mth_status s = is_mask ? check_mask(a, name) : NULL;
    if (!s) s = mth__array_as(a, name, &c->backend->devices, e->dtype, &e->sharding, out);
    const char *module = s ? mth__program_reader(plan->program, (int)entry) : NULL;
    return module ? mth__error_operator(s, module) : s;
}

/* The parameters of the whole model may be given, whichever of them the outputs need: mth_arrays have each name once.
 */
static mth_status check_parameter_names(const mth_compiled *c, const mth__plan *plan, const mth_arrays *parameters) {
    bool *given = mth__calloc(plan->parameters + 1, sizeof *given);
    mth_status s = given ? NULL : mth__lacks_memory("a call", 0);
    for (size_t i = 0; !s && i < mth_arrays_get_count(parameters); i++) {
        const char *name = parameters->item[i].name;
        if (mth__names_find(&c->idle_parameters, name) < 0)
            s = check_given(NULL, "parameter", name, i, &plan->names, given);
    }
    mth__free(given);
    return s;
}

/* Splits the exits of a run into outputs and gradients, which take the buffers; the caller frees those left. */
static mth_status collect(
    mth_compiled *c, const mth__plan *plan, mth__buffer **buffer, bool gradients, mth_arrays **out) {
    const mth__program *program = plan->program;
    size_t n = 0;
    for (size_t i = 0; i < program->exit.n; i++) n += (program->exit.at[i].kind == MTH__EXIT_GRADIENT) == gradients;
    mth_arrays *all;
    TRY(mth__arrays_new(n, &all));
    mth_status s = NULL;
    n = 0;
    for (size_t i = 0; !s && i < program->exit.n; i++) {
        const mth__exit *e = &program->exit.at[i];
        if ((e->kind == MTH__EXIT_GRADIENT) != gradients) continue;
        mth_array *array;
        s = mth__array_wrap(
            &c->backend->devices, e->dtype, e->shape, &e->sharding, buffer + plan->offset.exit[i], &array);
        if (!s) s = mth__arrays_set(all, n++, e->name, array);
    }
    if (s)
        mth_arrays_free(all);
    else
        *out = all;
    return s;
}

static mth_status run(mth_compiled *c, mth__plan *plan, const mth_arrays *parameters, const mth_named *input,
    size_t count, const mth_gradient_request *g, const mth__stop *stop, mth_arrays **outputs, mth_arrays **gradients) {
    const mth__program *p = plan->program;
    const size_t entries = p->entry.n, exits = p->exit.n, results = (size_t)plan->offset.exit[exits];
    TRY(check_parameter_names(c, plan, parameters));
    const size_t inputs = c->inputs.name.n, seeds = c->outputs.name.n;
    mth_array **held = mth__calloc(entries + 1, sizeof *held),
              **all = mth__calloc(inputs + plan->parameters + seeds + 1, sizeof *all);
    mth__buffer **entry = mth__calloc((size_t)plan->offset.entry[entries] + 1, sizeof *entry),
                **exit = mth__calloc(results + 1, sizeof *exit);
    mth_status s = held && all && entry && exit ? NULL : mth__lacks_memory("a call", 0);
    given_arrays given = {{[MTH__ENTRY_INPUT] = all,
        [MTH__ENTRY_PARAMETER] = all + inputs,
        [MTH__ENTRY_SEED] = all + inputs + plan->parameters}};
    if (!s) list_given(&c->inputs, input, count, given.of[MTH__ENTRY_INPUT]);
    if (!s && parameters) list_given(&plan->names, parameters->item, parameters->count, given.of[MTH__ENTRY_PARAMETER]);
    if (!s && g) list_given(&c->outputs, g->output_gradients, g->output_gradient_count, given.of[MTH__ENTRY_SEED]);
    for (size_t i = 0; !s && i < entries; i++) {
        mth_array *a = NULL;
        s = entry_array(plan, i, &given, &a);
        if (!s) s = hold(c, plan, i, a, &held[i]);
        for (int r = 0; !s && r < held[i]->count; r++) entry[plan->offset.entry[i] + r] = mth__array_buffer(held[i], r);
    }
    if (!s) s = c->backend->vtable->run(plan->executable, entry, exit, &(mth__control){.stop = stop});
    for (size_t i = 0; !s && i < exits; i++) { /* a successor takes over its entry's memory, and no other exit does */
        const mth__exit *e = &p->exit.at[i];
        if (e->kind == MTH__EXIT_SUCCESSOR)
            s = mth__array_unlend(held[e->entry], exit + plan->offset.exit[i], (size_t)e->sharding.on->count);
    }
    mth_arrays *values = NULL, *slopes = NULL;
    if (!s) s = collect(c, plan, exit, false, &values);
    if (!s && gradients) s = collect(c, plan, exit, true, &slopes);
    for (size_t i = 0; exit && i < results; i++)
        if (exit[i]) c->backend->devices.memory->release(exit[i]);
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
typedef struct {
    const mth_compiled *compiled;
    unsigned before;
    const mth__stop *of_thread;
} interruptible_call;

static bool is_interrupted(void *context) {
    const interruptible_call *e = context;
    if (atomic_load_explicit(&e->compiled->interrupts, memory_order_relaxed) != e->before) return true;
    return mth__stop_asked(e->of_thread);
}

mth_status mth_evaluate(mth_compiled *c, const mth_arrays *parameters, const mth_named *input, size_t count,
    const mth_gradient_request *g, mth_arrays **outputs, mth_arrays **gradients) {
    mth__request r;
    mth__plan *plan;
    TRY(mth__given(c, "the compiled model"));
    TRY(mth__result_given(outputs));
    interruptible_call e = {c, atomic_load(&c->interrupts), mth__thread_stop()};
    TRY(mth__request_for(c, input, count, &r));
    mth_status s = g ? check_output_gradients(c, g, &r) : NULL;
    if (s) {
        mth__request_free(&r);
        return s;
    }
    const mth__stop stop = {is_interrupted, &e};
    s = mth__lock_run(&c->lock, &stop);
    if (!s) {
        s = mth__plan_for(c, &r, true, &plan);
        if (!s) {
            c->last = plan;
            plan->running++;
        }
        s = mth__unlock(c, s);
    }
    mth__request_free(&r);
    if (s) return s;
    s = run(c, plan, parameters, input, count, g, &stop, outputs, g ? gradients : NULL);
    plan->running--; /* the last touch of the plan, which others may now free */
    return s;
}
