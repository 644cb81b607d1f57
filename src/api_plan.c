/* The plans of a compiled model: found in its cache or made, one thread at a time. */
#include "plan_cache.h"
#include "observe/report.h"
#include <string.h>

mth_status mth__lock(mth_compiled *c) {
    TRY(mth__given(c, "the compiled model"));
    return mth__lock_run(&c->lock, mth__thread_stop());
}

mth_status mth__unlock(mth_compiled *c, mth_status s) {
    pthread_mutex_unlock(&c->lock);
    return s;
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
    plan_call *p = context;
    return mth__compile_plan(p->compiled, p->request, &p->plan);
}

void mth__plan_free(mth_compiled *c, mth__plan *p) {
    if (p->executable) c->backend->vtable->unload(p->executable);
    mth__arena_free(p->arena);
}

/* Of the plans for ever new shapes those used last are kept. The first one stays: the layout of the parameters lives in
 * it. */
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
        mth__plan_free(c, p);
    }
}

/* Of a plan that is loaded, where the engine allocates by itself. */
static mth_status plan_memory(const mth_compiled *c, const mth__plan *plan, mth_memory_usage *device) {
    const mth__engine_vtable *vtable = c->backend->vtable;
    const size_t devices = (size_t)c->backend->devices.mesh->count;
    if (!vtable->traits.allocates) return mth__report_memory(plan->program, vtable->traits.pads, NULL, NULL, device);
    int64_t *working = mth__calloc(2 * devices, sizeof *working), *moving = working + devices;
    mth_status s = working ? vtable->usage(plan->executable, working, moving) : mth__lacks_memory("a report", 0);
    if (!s) s = mth__report_memory(plan->program, vtable->traits.pads, working, moving, device);
    mth__free(working);
    return s;
}

/* Compiles what a run compiles anyway. */
static mth_status check_use(const mth_compiled *c, const mth__plan *plan) {
    const size_t devices = (size_t)c->backend->devices.mesh->count;
    mth_memory_usage *usage = mth__calloc(devices, sizeof *usage);
    mth_status s = usage ? plan_memory(c, plan, usage) : mth__lacks_memory("a report", 0);
    if (!s) s = mth__check_capacity(c->backend, usage);
    mth__free(usage);
    return s;
}

mth_status mth__load_plan(mth_compiled *c, mth__plan *plan) {
    if (plan->executable) return NULL;
    const mth__engine_vtable *vtable = c->backend->vtable;
    TRY(vtable->load(c->backend->devices.engine, plan->program, plan->global, &plan->executable));
    if (!vtable->traits.allocates || c->backend->devices.mesh->model->device_memory == INT64_MAX) return NULL;
    mth_status s = check_use(c, plan);
    if (!s) return NULL;
    vtable->unload(plan->executable);
    plan->executable = NULL;
    return s;
}

mth_status mth__plan_memory(mth_compiled *c, mth__plan *plan, mth_memory_usage *device) {
    if (c->backend->vtable->traits.allocates) TRY(mth__load_plan(c, plan));
    return plan_memory(c, plan, device);
}

mth_status mth__plan_for(mth_compiled *c, const mth__request *request, bool load, mth__plan **out) {
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

void mth__request_free(mth__request *r) {
    mth__free(r->input);
    mth__free(r->seeded);
    mth__free(r->wanted_input);
}

int mth__number_of(const mth__names *known, const char *name, size_t expected) {
    if (expected < known->name.n && !strcmp(known->name.at[expected], name)) return (int)expected;
    return mth__names_find(known, name);
}

mth_dtype mth__input_dtype(const mth_compiled *c, mth_dtype dtype) {
    const bool stays = !mth__is_float(dtype) || (dtype == MTH_FLOAT64 && c->backend->vtable->traits.doubles);
    return stays ? dtype : MTH_FLOAT32;
}

static mth__input_description description_of(const mth_compiled *c, const mth_named *input) {
    return (mth__input_description){input->name, mth__input_dtype(c, input->array->dtype), input->array->shape};
}

/* Inputs that the outputs don't need are not looked at, but that each is given once. */
static mth_status check_idle(const mth_compiled *c, const mth_named *input, size_t count) {
    const size_t idle = c->idle_inputs.name.n;
    if (!idle) return NULL;
    bool *given = mth__calloc(idle, sizeof *given);
    mth_status s = given ? NULL : mth__lacks_memory("a plan", 0);
    for (size_t i = 0; !s && i < count; i++) {
        const int k = mth__names_find(&c->idle_inputs, input[i].name);
        if (k >= 0 && given[k])
            s = FAIL(MTH_ERROR_KEY, F("the input '%s' is given twice", input[i].name), F("give it once"));
        if (k >= 0) given[k] = true;
    }
    mth__free(given);
    return s;
}

mth_status mth__request_for(mth_compiled *c, const mth_named *input, size_t count, mth__request *r) {
    TRY(mth__named_check(input, count, "inputs"));
    const size_t known = c->inputs.name.n;
    size_t n = 0, rest = known;
    TRY(check_idle(c, input, count));
    *r = (mth__request){.outputs = c->outputs.name.n};
    r->input = mth__calloc(count + known + 1, sizeof *r->input);
    r->seeded = mth__calloc(r->outputs + 1, sizeof(bool));
    if (!r->input || !r->seeded) {
        mth__request_free(r);
        return mth__lacks_memory("a plan", 0);
    }
    for (size_t i = 0; i < count; i++) { /* each to its place; unknown ones and those given again behind */
        if (mth__names_find(&c->idle_inputs, input[i].name) >= 0) continue;
        int k = mth__number_of(&c->inputs, input[i].name, i);
        r->input[k >= 0 && !r->input[k].name ? (size_t)k : rest++] = description_of(c, &input[i]);
    }
    for (size_t k = 0; k < rest; k++)
        if (r->input[k].name) r->input[n++] = r->input[k];
    r->inputs = n;
    return NULL;
}

/* Without inputs: those of the plan last used, else the shapes given to compile. */
static mth_status request_or_last(mth_compiled *c, const mth_named *input, size_t count, mth__request *r) {
    if (count || !mth__model_input_count(c->model)) return mth__request_for(c, input, count, r);
    *r = (mth__request){.outputs = mth__model_output_count(c->model)};
    const mth__input_description *from = c->last ? c->last->request.input : c->shape;
    r->inputs = c->last ? c->last->request.inputs : c->shapes;
    if (!r->inputs)
        return FAIL(MTH_ERROR_VALUE, F("the shapes of the inputs are not known yet"),
            F("give inputs, or compile with shapes={'%s': ...}", mth__model_input_name(c->model, 0)));
    r->input = mth__calloc(r->inputs, sizeof *r->input);
    r->seeded = mth__calloc(r->outputs + 1, sizeof(bool));
    if (!r->input || !r->seeded) {
        mth__request_free(r);
        return mth__lacks_memory("a plan", 0);
    }
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
    } else if (!(s = mth__plan_for(c, &r, false, out)))
        c->last = *out;
    mth__request_free(&r);
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
        s = mth__plan_for(c, &r, false, &plan);
        if (!s) c->last = plan;
        mth__request_free(&r);
    }
    return mth__unlock(c, s);
}
