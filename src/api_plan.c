/* The plans of a compiled model: found in its cache or made, one thread at a time. */
#include "plan_cache.h"
#include "observe/report.h"
#include <string.h>

mth_status mth__lock(mth_compiled *compiled) {
    TRY(mth__given(compiled, "the compiled model"));
    return mth__lock_run(&compiled->lock, mth__thread_stop());
}

mth_status mth__unlock(mth_compiled *compiled, mth_status status) {
    pthread_mutex_unlock(&compiled->lock);
    return status;
}

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

typedef struct {
    mth_compiled *compiled;
    const mth__request *request;
    mth__plan *plan;
} plan_call;

static mth_status plan_body(void *context) {
    plan_call *call = context;
    return mth__compile_plan(call->compiled, call->request, &call->plan);
}

void mth__plan_free(mth_compiled *compiled, mth__plan *plan) {
    if (plan->executable) compiled->backend->vtable->unload(plan->executable);
    mth__arena_free(plan->arena);
}

/* A caller may come with ever new shapes, so only the plans used last are kept. The first one always stays: the layout
 * of the parameters lives in it. */
enum { PLANS_KEPT = 64 };

static void forget_old_plans(mth_compiled *compiled) {
    int n = 0;
    for (mth__plan **at = &compiled->plan; *at;) {
        mth__plan *plan = *at;
        if (++n <= PLANS_KEPT || plan->running || plan == compiled->last || plan->parameter == compiled->layout) {
            at = &plan->next;
            continue;
        }
        *at = plan->next;
        mth__plan_free(compiled, plan);
    }
}

/* Of a plan that is loaded, where the engine allocates by itself. */
static mth_status plan_memory(const mth_compiled *compiled, const mth__plan *plan, mth_memory_usage *device) {
    const mth__engine_vtable *vtable = compiled->backend->vtable;
    const size_t devices = (size_t)compiled->backend->devices.mesh->count;
    const mth__engine_traits *traits = &vtable->traits;
    if (!traits->allocates) return mth__report_memory(plan->program, traits->pads, traits->keeps, NULL, NULL, device);
    int64_t *working = mth__calloc(2 * devices, sizeof *working), *moving = working + devices;
    mth_status status = working ? vtable->usage(plan->executable, working, moving) : mth__lacks_memory("a report", 0);
    if (!status) status = mth__report_memory(plan->program, traits->pads, traits->keeps, working, moving, device);
    mth__free(working);
    return status;
}

/* Compiles what a run compiles anyway. */
static mth_status check_use(const mth_compiled *compiled, const mth__plan *plan) {
    const size_t devices = (size_t)compiled->backend->devices.mesh->count;
    mth_memory_usage *usage = mth__calloc(devices, sizeof *usage);
    mth_status status = usage ? plan_memory(compiled, plan, usage) : mth__lacks_memory("a report", 0);
    if (!status) status = mth__check_capacity(compiled->backend, usage);
    mth__free(usage);
    return status;
}

mth_status mth__load_plan(mth_compiled *compiled, mth__plan *plan) {
    if (plan->executable) return NULL;
    const mth__engine_vtable *vtable = compiled->backend->vtable;
    TRY(vtable->load(compiled->backend->devices.engine, plan->program, plan->global, &plan->executable));
    if (!vtable->traits.allocates || compiled->backend->devices.mesh->model->device_memory == INT64_MAX) return NULL;
    mth_status status = check_use(compiled, plan);
    if (!status) return NULL;
    vtable->unload(plan->executable);
    plan->executable = NULL;
    return status;
}

mth_status mth__plan_memory(mth_compiled *compiled, mth__plan *plan, mth_memory_usage *device) {
    if (compiled->backend->vtable->traits.allocates) TRY(mth__load_plan(compiled, plan));
    return plan_memory(compiled, plan, device);
}

mth_status mth__plan_for(mth_compiled *compiled, const mth__request *request, bool load, mth__plan **out) {
    mth__plan **at = &compiled->plan, *plan;
    while (*at && !same_request(&(*at)->request, request)) at = &(*at)->next;
    plan = *at;
    if (plan) {
        *at = plan->next;
        plan->next = compiled->plan;
        compiled->plan = plan;
    } else {
        plan_call call = {compiled, request, NULL};
        TRY(mth__backend_lock(compiled->backend));
        mth_status status = mth__guard(plan_body, &call);
        mth__backend_unlock(compiled->backend);
        TRY(status);
        plan = call.plan;
        plan->next = compiled->plan;
        compiled->plan = plan;
        if (!compiled->layout) {
            compiled->layouts = plan->parameters;
            compiled->layout = plan->parameter;
            compiled->module_place = plan->module_place;
        }
        forget_old_plans(compiled);
    }
    if (load) TRY(mth__load_plan(compiled, plan));
    *out = plan;
    return NULL;
}

void mth__request_free(mth__request *request) {
    mth__free(request->input);
    mth__free(request->seeded);
    mth__free(request->wanted_input);
}

int mth__number_of(const mth__names *known, const char *name, size_t expected) {
    if (expected < known->name.n && !strcmp(known->name.at[expected], name)) return (int)expected;
    return mth__names_find(known, name);
}

mth_dtype mth__input_dtype(const mth_compiled *compiled, mth_dtype dtype) {
    const bool stays = !mth__is_float(dtype) || (dtype == MTH_FLOAT64 && compiled->backend->vtable->traits.doubles);
    return stays ? dtype : MTH_FLOAT32;
}

static mth__input_description description_of(const mth_compiled *compiled, const mth_named *input) {
    const mth_dtype own = input->array->dtype, dtype = mth__input_dtype(compiled, own);
    const char *given = input->given ? input->given : dtype != own ? mth_dtype_name(own) : NULL;
    return (mth__input_description){input->name, dtype, input->array->shape, given};
}

/* Inputs that the outputs don't need are not looked at, but that each is given once. */
static mth_status check_idle(const mth_compiled *compiled, const mth_named *input, size_t count) {
    const size_t idle = compiled->idle_inputs.name.n;
    if (!idle) return NULL;
    bool *given = mth__calloc(idle, sizeof *given);
    mth_status status = given ? NULL : mth__lacks_memory("a plan", 0);
    for (size_t i = 0; !status && i < count; i++) {
        const int k = mth__names_find(&compiled->idle_inputs, input[i].name);
        if (k >= 0 && given[k])
            status = FAIL(MTH_ERROR_KEY, F("the input '%s' is given twice", input[i].name), F("give it once"));
        if (k >= 0) given[k] = true;
    }
    mth__free(given);
    return status;
}

mth_status mth__request_for(mth_compiled *compiled, const mth_named *input, size_t count, mth__request *request) {
    TRY(mth__named_check(input, count, "inputs"));
    const size_t known = compiled->inputs.name.n;
    size_t n = 0, rest = known;
    TRY(check_idle(compiled, input, count));
    *request = (mth__request){.outputs = compiled->outputs.name.n};
    request->input = mth__calloc(count + known + 1, sizeof *request->input);
    request->seeded = mth__calloc(request->outputs + 1, sizeof(bool));
    if (!request->input || !request->seeded) {
        mth__request_free(request);
        return mth__lacks_memory("a plan", 0);
    }
    for (size_t i = 0; i < count; i++) { /* each to its place; unknown ones and those given again behind */
        if (mth__names_find(&compiled->idle_inputs, input[i].name) >= 0) continue;
        int k = mth__number_of(&compiled->inputs, input[i].name, i);
        request->input[k >= 0 && !request->input[k].name ? (size_t)k : rest++] = description_of(compiled, &input[i]);
    }
    for (size_t k = 0; k < rest; k++)
        if (request->input[k].name) request->input[n++] = request->input[k];
    request->inputs = n;
    return NULL;
}

/* Without inputs: those of the plan last used, else the shapes given to compile. */
static mth_status request_or_last(mth_compiled *compiled, const mth_named *input, size_t count, mth__request *request) {
    if (count || !mth__model_input_count(compiled->model)) return mth__request_for(compiled, input, count, request);
    *request = (mth__request){.outputs = mth__model_output_count(compiled->model)};
    const mth__input_description *from = compiled->last ? compiled->last->request.input : compiled->shape;
    request->inputs = compiled->last ? compiled->last->request.inputs : compiled->shapes;
    if (!request->inputs)
        return FAIL(MTH_ERROR_VALUE, F("the shapes of the inputs are not known yet"),
            F("give inputs, or compile with shapes={'%s': ...}", mth__model_input_name(compiled->model, 0)));
    request->input = mth__calloc(request->inputs, sizeof *request->input);
    request->seeded = mth__calloc(request->outputs + 1, sizeof(bool));
    if (!request->input || !request->seeded) {
        mth__request_free(request);
        return mth__lacks_memory("a plan", 0);
    }
    memcpy(request->input, from, request->inputs * sizeof *request->input);
    return NULL;
}

mth_status mth__forward_plan(mth_compiled *compiled, const mth_named *input, size_t count, mth__plan **out) {
    mth__request request;
    TRY(request_or_last(compiled, input, count, &request));
    mth_status status;
    if (compiled->last && same_inputs(&compiled->last->request, &request)) {
        *out = compiled->last;
        status = NULL;
    } else if (!(status = mth__plan_for(compiled, &request, false, out)))
        compiled->last = *out;
    mth__request_free(&request);
    return status;
}

mth_status mth_plan(mth_compiled *compiled, const mth_named *input, size_t count, bool gradients) {
    TRY(mth__lock(compiled));
    mth__request request;
    mth__plan *plan;
    mth_status status = request_or_last(compiled, input, count, &request);
    if (!status) {
        request.gradients = gradients;
        memset(request.seeded, gradients, request.outputs);
        status = mth__plan_for(compiled, &request, false, &plan);
        if (!status) compiled->last = plan;
        mth__request_free(&request);
    }
    return mth__unlock(compiled, status);
}
