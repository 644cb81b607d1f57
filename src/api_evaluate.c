/* Public functions that make parameters and run plans. */
#include "plan_cache.h"
#include "engine/fault.h"
#include "engine/hook.h"
#include "base/philox.h"
#include <string.h>

/* ---------------------------------------------------------------- parameters */
static char *array_text(const char *name, mth_dtype dtype, mth__shape shape, const mth__sharding *sharding) {
    mth__value value = {.name = name, .dtype = dtype, .shape = shape};
    if (sharding) value.sharding = *sharding;
    return mth__value_text(&value);
}

static mth_status make_parameters(
    mth_compiled *compiled, const mth__plan *plan, bool with_data, uint64_t seed, mth_arrays **out) {
    mth_arrays *all;
    TRY(mth__arrays_new(plan->parameters, &all));
    mth_status status = NULL;
    for (size_t i = 0; !status && i < plan->parameters; i++) {
        const mth__parameter *parameter = &plan->parameter[i];
        mth_array *array;
        status = mth__array_new(
            &compiled->backend->devices, parameter->dtype, parameter->shape, &parameter->sharding, with_data, &array);
        if (status)
            status = mth__error_tensor(
                status, array_text(parameter->name, parameter->dtype, parameter->shape, &parameter->sharding));
        else
            status = mth__arrays_set(all, i, parameter->name, array);
        if (!status && with_data)
            status = mth__array_initialise(
                array, parameter->init, parameter->scale, seed, mth__philox_stream(parameter->name));
        if (status) status = mth__error_operator(status, parameter->name);
    }
    if (!status && !with_data) status = mth__arrays_allow(all, &compiled->idle_parameters);
    if (status)
        mth_arrays_free(all);
    else
        *out = all;
    return status;
}

/* Seconds may go by while many numbers are drawn: others are not kept out meanwhile. */
static mth_status parameters_for(
    mth_compiled *compiled, const mth_named *input, size_t count, bool with_data, uint64_t seed, mth_arrays **out) {
    mth__plan *plan;
    TRY(mth__result_given(out));
    TRY(mth__lock(compiled));
    mth_status status = mth__forward_plan(compiled, input, count, &plan);
    if (status) return mth__unlock(compiled, status);
    plan->running++;
    pthread_mutex_unlock(&compiled->lock);
    status = make_parameters(compiled, plan, with_data, seed, out);
    plan->running--; /* the last touch of the plan, which others may now free */
    return status;
}

mth_status mth_get_parameters(
    mth_compiled *compiled, const mth_named *input, size_t count, uint64_t seed, mth_arrays **out) {
    return parameters_for(compiled, input, count, true, seed, out);
}

mth_status mth_get_parameter_layout(mth_compiled *compiled, const mth_named *input, size_t count, mth_arrays **out) {
    return parameters_for(compiled, input, count, false, 0, out);
}

/* ---------------------------------------------------------------- evaluate */
/* A given name, the i-th, is one of the known ones, and is given once: given[] is by number. `model`: whose connections
 * they are, or NULL. */
static mth_status check_given(
    const mth_model *model, const char *what, const char *name, size_t i, const mth__names *known, bool *given) {
    int k = mth__number_of(known, name, i);
    if (k < 0) {
        char *why = model ? mth__model_why_not(model, name, !strcmp(what, "output")) : F("%s", "");
        mth_status status = FAIL(MTH_ERROR_KEY, F("there is no %s '%s'%s", what, name, why),
            model && !strcmp(what, "output") ? mth__model_output_fix(model, name, known->name.at, known->name.n)
                                             : mth__name_fix(what, name, known->name.at, known->name.n));
        mth__free(why);
        return status;
    }
    if (given[k]) return FAIL(MTH_ERROR_KEY, F("the %s '%s' is given twice", what, name), F("give it once"));
    given[k] = true;
    return NULL;
}

static mth_status check_output_gradients(
    mth_compiled *compiled, const mth_gradient_request *wanted, mth__request *request) {
    TRY(mth__named_check(wanted->output_gradients, wanted->output_gradient_count, "output_gradients"));
    for (size_t i = 0; i < wanted->input_gradient_count; i++)
        TRY(mth__given(wanted->input_gradients ? wanted->input_gradients[i] : NULL, "a name in input_gradients"));
    for (size_t i = 0; i < wanted->output_gradient_count; i++)
        TRY(check_given(
            compiled->model, "output", wanted->output_gradients[i].name, i, &compiled->outputs, request->seeded));
    bool *given = mth__calloc(compiled->inputs.name.n + 1, sizeof *given);
    mth_status status = given ? NULL : mth__lacks_memory("a call", 0);
    for (size_t i = 0; !status && i < wanted->input_gradient_count; i++)
        status = check_given(compiled->model, "input", wanted->input_gradients[i], i, &compiled->inputs, given);
    mth__free(given);
    TRY(status);
    request->gradients = true;
    request->wanted = wanted->input_gradient_count;
    request->wanted_input = mth__calloc(request->wanted + 1, sizeof *request->wanted_input);
    if (!request->wanted_input) return mth__lacks_memory("a call", 0);
    for (size_t i = 0; i < request->wanted; i++) request->wanted_input[i] = wanted->input_gradients[i];
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
static mth_status entry_array(const mth__plan *plan, size_t entry_number, const given_arrays *given, mth_array **out) {
    const mth__entry *entry = &plan->program->entry.at[entry_number];
    mth_array *array = given->of[entry->kind][plan->number[entry_number]];
    bool dtype = array && array->dtype != entry->dtype && !(mth__is_float(array->dtype) && mth__is_float(entry->dtype));
    if (array && !dtype && mth__shape_equal(array->shape, entry->shape)) {
        *out = array;
        return NULL;
    }
    mth_status status = !array
        ? FAIL(MTH_ERROR_KEY, F("%s '%s' is missing", what[entry->kind], entry->name),
              F("give '%s'%s", entry->name, entry->kind == MTH__ENTRY_PARAMETER ? ": mth_get_parameters has it" : ""))
        : FAIL(dtype ? MTH_ERROR_TYPE : MTH_ERROR_VALUE,
              F("%s '%s' has another %s than the model's", what[entry->kind], entry->name, dtype ? "dtype" : "shape"),
              dtype ? F("convert it to %s", mth_dtype_name(entry->dtype)) : F("give an array of the expected shape"));
    const char *module = mth__program_reader(plan->program, (int)entry_number);
    if (module) status = mth__error_operator(status, module);
    if (array) status = mth__error_tensor(status, array_text("given", array->dtype, array->shape, NULL));
    return mth__error_tensor(
        status, array_text(array ? "expected" : entry->name, entry->dtype, entry->shape, &entry->sharding));
}

/* Rounding makes 0 of 1e-60, and 1 of what is next to it: a mask is examined as it was given. */
static mth_status check_mask(const mth_array *array, const char *name) {
    const int64_t n = mth__shape_size(array->shape), bytes = n * (int64_t)mth_dtype_size(array->dtype);
    void *gathered = mth_array_get_whole(array) ? NULL : mth__malloc((size_t)bytes);
    const void *values = gathered ? gathered : mth_array_get_whole(array);
    mth_status status = !values ? mth__lacks_memory("a mask", bytes)
        : gathered              ? mth_array_gather(array, gathered)
                                : NULL;
    for (int64_t i = 0; !status && i < n; i++) {
        const double number = mth__dtype_load(array->dtype, values, i);
        if (number == 0 || number == 1) continue;
        char *holder = F("input '%s'", name);
        status = mth__mask_error(number, holder, "", "");
        mth__free(holder);
    }
    mth__free(gathered);
    return status;
}

/* The array as the plan takes it: in its layout and dtype, on the backend's devices. */
static mth_status hold(
    const mth_compiled *compiled, const mth__plan *plan, size_t entry_number, mth_array *array, mth_array **out) {
    const mth__entry *entry = &plan->program->entry.at[entry_number];
    const bool is_mask =
        entry->kind == MTH__ENTRY_INPUT && array->dtype != entry->dtype && compiled->ids[plan->number[entry_number]];
    mth_status status = is_mask ? check_mask(array, entry->name) : NULL;
    if (!status)
        status = mth__array_as(
            array, what[entry->kind], entry->name, &compiled->backend->devices, entry->dtype, &entry->sharding, out);
    const char *module = status ? mth__program_reader(plan->program, (int)entry_number) : NULL;
    return module ? mth__error_operator(status, module) : status;
}

/* The parameters of the whole model may be given, whichever of them the outputs need: mth_arrays has each name once. */
static mth_status check_parameter_names(
    const mth_compiled *compiled, const mth__plan *plan, const mth_arrays *parameters) {
    bool *given = mth__calloc(plan->parameters + 1, sizeof *given);
    mth_status status = given ? NULL : mth__lacks_memory("a call", 0);
    for (size_t i = 0; !status && i < mth_arrays_get_count(parameters); i++) {
        const char *name = parameters->item[i].name;
        if (mth__names_find(&compiled->idle_parameters, name) < 0)
            status = check_given(NULL, "parameter", name, i, &plan->names, given);
    }
    mth__free(given);
    return status;
}

/* Splits the exits of a run into outputs and gradients, which take the buffers; the caller frees those left. */
static mth_status collect(
    mth_compiled *compiled, const mth__plan *plan, mth__buffer **buffer, bool gradients, mth_arrays **out) {
    const mth__program *program = plan->program;
    size_t n = 0;
    for (size_t i = 0; i < program->exit.n; i++) n += (program->exit.at[i].kind == MTH__EXIT_GRADIENT) == gradients;
    mth_arrays *all;
    TRY(mth__arrays_new(n, &all));
    mth_status status = NULL;
    n = 0;
    for (size_t i = 0; !status && i < program->exit.n; i++) {
        const mth__exit *exit = &program->exit.at[i];
        if ((exit->kind == MTH__EXIT_GRADIENT) != gradients) continue;
        mth_array *array;
        status = mth__array_wrap(&compiled->backend->devices, exit->dtype, exit->shape, &exit->sharding,
            buffer + plan->offset.exit[i], &array);
        if (!status) status = mth__arrays_set(all, n++, exit->name, array);
    }
    if (status)
        mth_arrays_free(all);
    else
        *out = all;
    return status;
}

static mth_status run_plan(mth_compiled *compiled, mth__plan *plan, const mth_arrays *parameters,
    const mth_named *input, size_t count, const mth_gradient_request *request, const mth__stop *stop,
    mth_arrays **outputs, mth_arrays **gradients) {
    const mth__program *program = plan->program;
    const size_t entries = program->entry.n, exits = program->exit.n, results = (size_t)plan->offset.exit[exits];
    TRY(check_parameter_names(compiled, plan, parameters));
    const size_t inputs = compiled->inputs.name.n, seeds = compiled->outputs.name.n;
    mth_array **held = mth__calloc(entries + 1, sizeof *held),
              **all = mth__calloc(inputs + plan->parameters + seeds + 1, sizeof *all);
    mth__buffer **entry = mth__calloc((size_t)plan->offset.entry[entries] + 1, sizeof *entry),
                **exit = mth__calloc(results + 1, sizeof *exit);
    mth_status status = held && all && entry && exit ? NULL : mth__lacks_memory("a call", 0);
    given_arrays given = {{[MTH__ENTRY_INPUT] = all,
        [MTH__ENTRY_PARAMETER] = all + inputs,
        [MTH__ENTRY_SEED] = all + inputs + plan->parameters}};
    if (!status) list_given(&compiled->inputs, input, count, given.of[MTH__ENTRY_INPUT]);
    if (!status && parameters)
        list_given(&plan->names, parameters->item, parameters->count, given.of[MTH__ENTRY_PARAMETER]);
    if (!status && request)
        list_given(
            &compiled->outputs, request->output_gradients, request->output_gradient_count, given.of[MTH__ENTRY_SEED]);
    for (size_t i = 0; !status && i < entries; i++) {
        mth_array *array = NULL;
        status = entry_array(plan, i, &given, &array);
        if (!status) status = hold(compiled, plan, i, array, &held[i]);
        for (int rank = 0; !status && rank < held[i]->count; rank++)
            entry[plan->offset.entry[i] + rank] = mth__array_buffer(held[i], rank);
    }
    if (!status) {
        mth__hook_run hook = {mth__hook_hold(compiled->backend), stop};
        const mth__control control = {
            .stop = stop, .crossing = hook.hook ? mth__hook_call : NULL, .crossing_context = &hook};
        status = compiled->backend->vtable->run(plan->executable, entry, exit, &control);
        mth__hook_let_go(hook.hook);
    }
    for (size_t i = 0; !status && i < exits;
        i++) { /* a successor takes over its entry's memory, and no other exit does */
        const mth__exit *leaving = &program->exit.at[i];
        if (leaving->kind == MTH__EXIT_SUCCESSOR)
            status = mth__array_unlend(
                held[leaving->entry], exit + plan->offset.exit[i], (size_t)leaving->sharding.on->count);
    }
    mth_arrays *values = NULL, *gradients_made = NULL;
    if (!status) status = collect(compiled, plan, exit, false, &values);
    if (!status && gradients) status = collect(compiled, plan, exit, true, &gradients_made);
    for (size_t i = 0; exit && i < results; i++)
        if (exit[i]) compiled->backend->devices.memory->release(exit[i]);
    for (size_t i = 0; held && i < entries; i++) mth_array_free(held[i]);
    mth__free(held);
    mth__free(all);
    mth__free(entry);
    mth__free(exit);
    if (status) {
        mth_arrays_free(values);
        return status;
    }
    *outputs = values;
    if (gradients) *gradients = gradients_made;
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
    const interruptible_call *call = context;
    if (atomic_load_explicit(&call->compiled->interrupts, memory_order_relaxed) != call->before) return true;
    return mth__stop_asked(call->of_thread);
}

mth_status mth_evaluate(mth_compiled *compiled, const mth_arrays *parameters, const mth_named *input, size_t count,
    const mth_gradient_request *wanted, mth_arrays **outputs, mth_arrays **gradients) {
    mth__request request;
    mth__plan *plan;
    TRY(mth__given(compiled, "the compiled model"));
    TRY(mth__result_given(outputs));
    TRY(mth__hook_check_outside(compiled->backend));
    interruptible_call call = {compiled, atomic_load(&compiled->interrupts), mth__thread_stop()};
    TRY(mth__request_for(compiled, input, count, &request));
    mth_status status = wanted ? check_output_gradients(compiled, wanted, &request) : NULL;
    if (status) {
        mth__request_free(&request);
        return status;
    }
    const mth__stop stop = {is_interrupted, &call};
    status = mth__lock_run(&compiled->lock, &stop);
    if (!status) {
        status = mth__plan_for(compiled, &request, true, &plan);
        if (!status) {
            compiled->last = plan;
            plan->running++;
        }
        status = mth__unlock(compiled, status);
    }
    mth__request_free(&request);
    if (status) return status;
    status = run_plan(compiled, plan, parameters, input, count, wanted, &stop, outputs, wanted ? gradients : NULL);
    plan->running--; /* the last touch of the plan, which others may now free */
    return status;
}
