/* Public functions that read what was planned. */
#include "plan_cache.h"
#include "observe/report.h"
#include <string.h>

typedef void program_printer(mth__text *, const mth__program *);
typedef struct {
    program_printer *print;
    const mth__plan *plan;
    const char *text;
    char **out;
} plan_reading;

static mth_status publish(const mth__text *t, char **out) {
    char *text = mth__text_publish(t);
    if (!text) return mth__lacks_memory("a text", 0);
    *out = text;
    return NULL;
}

static mth_status print_body(void *context) {
    plan_reading *r = context;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    r->print(&t, r->plan->program);
    mth_status s = publish(&t, r->out);
    mth__arena_free(arena);
    return s;
}

/* The one last used; where there is none yet, that of the shapes given to compile. */
static mth_status last_plan(mth_compiled *c, const mth__plan **out) {
    mth__plan *first = c->last;
    if (!first) TRY(mth__forward_plan(c, NULL, 0, &first));
    *out = first;
    return NULL;
}

static mth_status read_last(mth_compiled *c, program_printer *print, char **out) {
    TRY(mth__result_given(out));
    plan_reading r = {.print = print, .out = out};
    TRY(mth__lock(c));
    mth_status s = last_plan(c, &r.plan);
    if (!s) s = mth__guard(print_body, &r);
    return mth__unlock(c, s);
}

mth_status mth_plan_print(mth_compiled *c, char **out) { return read_last(c, mth__program_print, out); }

mth_status mth_get_placement_text(mth_compiled *c, char **out) { return read_last(c, mth__report_placement, out); }

static mth_status reprint_body(void *context) {
    plan_reading *r = context;
    mth__arena *arena = mth__arena_new();
    mth__program *p;
    TRY(mth__program_parse(arena, r->text, &p));
    if (r->out) {
        mth__text t = mth__text_new(arena);
        mth__program_print(&t, p);
        TRY(mth__stop_check());
        TRY(publish(&t, r->out));
    } else {
        TRY(mth__program_verify(p));
    }
    mth__arena_free(arena);
    return NULL;
}

mth_status mth_plan_reprint(const char *text, char **out) {
    TRY(mth__given(text, "the text of a plan"));
    TRY(mth__result_given(out));
    plan_reading r = {.text = text, .out = out};
    return mth__guard(reprint_body, &r);
}

mth_status mth_plan_verify_text(const char *text) {
    TRY(mth__given(text, "the text of a plan"));
    plan_reading r = {.text = text};
    return mth__guard(reprint_body, &r);
}

static mth_status check_room(const mth_compiled *c, const void *device, size_t devices) {
    TRY(mth__result_given(device));
    int n = c->backend->devices.mesh->count;
    return devices >= (size_t)n
        ? NULL
        : FAIL(MTH_ERROR_VALUE, F("room for %zu devices, the mesh has %d", devices, n), F("give room for %d", n));
}

mth_status mth_get_memory_usage(
    mth_compiled *c, const mth_named *input, size_t count, mth_memory_usage *device, size_t devices) {
    mth__plan *plan;
    TRY(mth__lock(c));
    mth_status s = mth__forward_plan(c, input, count, &plan);
    if (!s) s = check_room(c, device, devices);
    if (!s) s = mth__plan_memory(c, plan, device);
    return mth__unlock(c, s);
}

mth_status mth_get_communication_usage(mth_compiled *c, mth_communication_usage *device, size_t devices) {
    const mth__plan *plan = NULL;
    TRY(mth__lock(c));
    mth_status s = last_plan(c, &plan);
    if (!s) s = check_room(c, device, devices);
    if (!s) s = mth__report_communication(plan->program, device);
    return mth__unlock(c, s);
}

/* ---------------------------------------------------------------- what a compiler behind the engine says */
typedef mth_status asking(mth__executable *, mth__text *);
typedef struct {
    asking *ask;
    mth__executable *executable;
    char **out;
} question;

static mth_status ask_body(void *context) {
    question *q = context;
    mth__arena *arena = mth__arena_new();
    mth__text t = mth__text_new(arena);
    mth_status s = q->ask(q->executable, &t);
    if (!s) s = publish(&t, q->out);
    mth__arena_free(arena);
    return s;
}

static mth_status ask(mth_compiled *c, const mth_named *input, size_t count, asking *a, const char *what, char **out) {
    TRY(mth__result_given(out));
    if (!a)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("the engine %s has no %s: it runs the program itself", c->backend->vtable->name, what),
            F("use the engine pjrt, or read the program: mth_plan_print"));
    mth__plan *plan;
    TRY(mth__lock(c));
    mth_status s = mth__forward_plan(c, input, count, &plan);
    if (!s) s = mth__load_plan(c, plan);
    question q = {a, s ? NULL : plan->executable, out};
    if (!s) s = mth__guard(ask_body, &q);
    return mth__unlock(c, s);
}

mth_status mth_stablehlo(mth_compiled *c, const mth_named *input, size_t count, char **out) {
    TRY(mth__given(c, "the compiled model"));
    return ask(c, input, count, c->backend->vtable->stablehlo, "StableHLO", out);
}

mth_status mth_explain(mth_compiled *c, const mth_named *input, size_t count, char **out) {
    TRY(mth__given(c, "the compiled model"));
    return ask(c, input, count, c->backend->vtable->explain, "compiler to explain", out);
}
