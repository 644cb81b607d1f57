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

static mth_status publish(const mth__text *written, char **out) {
    char *text = mth__text_publish(written);
    if (!text) return mth__lacks_memory("a text", 0);
    *out = text;
    return NULL;
}

static mth_status print_body(void *context) {
    plan_reading *reading = context;
    mth__arena *arena = mth__arena_new();
    mth__text text = mth__text_new(arena);
    reading->print(&text, reading->plan->program);
    mth_status status = publish(&text, reading->out);
    mth__arena_free(arena);
    return status;
}

/* The one last used; where there is none yet, that of the shapes given to compile. */
static mth_status last_plan(mth_compiled *compiled, const mth__plan **out) {
    mth__plan *first = compiled->last;
    if (!first) TRY(mth__forward_plan(compiled, NULL, 0, &first));
    *out = first;
    return NULL;
}

static mth_status read_last(mth_compiled *compiled, program_printer *print, char **out) {
    TRY(mth__result_given(out));
    plan_reading reading = {.print = print, .out = out};
    TRY(mth__lock(compiled));
    mth_status status = last_plan(compiled, &reading.plan);
    if (!status) status = mth__guard(print_body, &reading);
    return mth__unlock(compiled, status);
}

mth_status mth_plan_print(mth_compiled *compiled, char **out) { return read_last(compiled, mth__program_print, out); }

mth_status mth_get_placement_text(mth_compiled *compiled, char **out) {
    return read_last(compiled, mth__report_placement, out);
}

static mth_status reprint_body(void *context) {
    plan_reading *reading = context;
    mth__arena *arena = mth__arena_new();
    mth__program *program;
    TRY(mth__program_parse(arena, reading->text, &program));
    if (reading->out) {
        mth__text text = mth__text_new(arena);
        mth__program_print(&text, program);
        TRY(mth__stop_check());
        TRY(publish(&text, reading->out));
    } else {
        TRY(mth__program_verify(program));
    }
    mth__arena_free(arena);
    return NULL;
}

mth_status mth_plan_reprint(const char *text, char **out) {
    TRY(mth__given(text, "the text of a plan"));
    TRY(mth__result_given(out));
    plan_reading reading = {.text = text, .out = out};
    return mth__guard(reprint_body, &reading);
}

mth_status mth_plan_verify_text(const char *text) {
    TRY(mth__given(text, "the text of a plan"));
    plan_reading reading = {.text = text};
    return mth__guard(reprint_body, &reading);
}

static mth_status check_room(const mth_compiled *compiled, const void *device, size_t devices) {
    TRY(mth__result_given(device));
    int n = compiled->backend->devices.mesh->count;
    return devices >= (size_t)n
        ? NULL
        : FAIL(MTH_ERROR_VALUE, F("room for %zu devices, the mesh has %d", devices, n), F("give room for %d", n));
}

mth_status mth_get_memory_usage(
    mth_compiled *compiled, const mth_named *input, size_t count, mth_memory_usage *device, size_t devices) {
    mth__plan *plan;
    TRY(mth__lock(compiled));
    mth_status status = mth__forward_plan(compiled, input, count, &plan);
    if (!status) status = check_room(compiled, device, devices);
    if (!status) status = mth__plan_memory(compiled, plan, device);
    return mth__unlock(compiled, status);
}

mth_status mth_get_communication_usage(mth_compiled *compiled, mth_communication_usage *device, size_t devices) {
    const mth__plan *plan = NULL;
    TRY(mth__lock(compiled));
    mth_status status = last_plan(compiled, &plan);
    if (!status) status = check_room(compiled, device, devices);
    if (!status) status = mth__report_communication(plan->program, device);
    return mth__unlock(compiled, status);
}

/* ---------------------------------------------------------------- what a compiler behind the engine says */
typedef mth_status asking(mth__executable *, mth__text *);
typedef struct {
    asking *ask;
    mth__executable *executable;
    char **out;
} question;

static mth_status ask_body(void *context) {
    question *asked = context;
    mth__arena *arena = mth__arena_new();
    mth__text text = mth__text_new(arena);
    mth_status status = asked->ask(asked->executable, &text);
    if (!status) status = publish(&text, asked->out);
    mth__arena_free(arena);
    return status;
}

static mth_status ask(
    mth_compiled *compiled, const mth_named *input, size_t count, asking *callback, const char *what, char **out) {
    TRY(mth__result_given(out));
    if (!callback)
        return FAIL(MTH_ERROR_UNSUPPORTED,
            F("the engine %s has no %s: it runs the program itself", compiled->backend->vtable->name, what),
            F("use the engine pjrt, or read the program: mth_plan_print"));
    mth__plan *plan;
    TRY(mth__lock(compiled));
    mth_status status = mth__forward_plan(compiled, input, count, &plan);
    if (!status) status = mth__load_plan(compiled, plan);
    question asked = {callback, status ? NULL : plan->executable, out};
    if (!status) status = mth__guard(ask_body, &asked);
    return mth__unlock(compiled, status);
}

mth_status mth_stablehlo(mth_compiled *compiled, const mth_named *input, size_t count, char **out) {
    TRY(mth__given(compiled, "the compiled model"));
    return ask(compiled, input, count, compiled->backend->vtable->stablehlo, "StableHLO", out);
}

mth_status mth_explain(mth_compiled *compiled, const mth_named *input, size_t count, char **out) {
    TRY(mth__given(compiled, "the compiled model"));
    return ask(compiled, input, count, compiled->backend->vtable->explain, "compiler to explain", out);
}
