/* Hooks of crossings by the public API: what they are given, their errors, how long they live, memory that fails. */
#include "public_kit.h"

typedef struct {
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x;
    mth_arrays *parameters;
    int64_t received[3], sent[3];
    int calls, refuse, released; /* refuse: the call that fails, counted from 1; 0: none */
    bool nested;
    char cause;
} session;

static void release_context(void *context) { ((session *)context)->released++; }
static void release_cause(void *cause) { (*(char *)cause)++; }

static mth_status hook(void *context, const mth_crossing *crossing) {
    session *s = context;
    int64_t bytes = (int64_t)mth_dtype_size(crossing->dtype);
    for (int d = 0; d < crossing->rank; d++) bytes *= crossing->shape[d];
    s->sent[crossing->from_device] += bytes;
    s->received[crossing->to_device] += bytes;
    CHECK(crossing->name && !strncmp(crossing->label, crossing->name, strlen(crossing->name)));
    CHECK(crossing->dtype == MTH_FLOAT32 && isfinite(*(const float *)crossing->data));
    if (s->nested) {
        mth_arrays *outputs = NULL;
        mth_named input = {"input", s->x};
        CHECK_FAILS(mth_evaluate(s->compiled, s->parameters, &input, 1, NULL, &outputs, NULL), MTH_ERROR_UNSUPPORTED,
            "own backend");
    }
    if (++s->calls == s->refuse)
        return mth_error_create(MTH_ERROR_IO, "the line is cut", "mend it", &s->cause, release_cause);
    return NULL;
}

/* 8 -> 6 -> 4 -> 2: the first on device 0, the second split over all, the last on device 2. */
static mth_status begin(session *s) {
    mth_model *model = NULL;
    mth_status status = mth_model_create(&model);
    if (!status)
        status = try_add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(6)}, {"device_id", mth_int(0)}),
            MTH_WIRES({"input", "input"}), MTH_PLAIN);
    if (!status)
        status = try_add(model, "Linear",
            MTH_OPTIONS({"dimension", mth_int(4)}, {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}), NULL, 0,
            MTH_CHAIN);
    if (!status)
        status = try_add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(2)}, {"device_id", mth_int(2)}),
            MTH_WIRES({"output", "y"}), MTH_CHAIN);
    if (!status)
        status = mth_backend_create(
            "reference", MTH_OPTIONS({"device_mesh", MTH_INTS(3)}, {"use_module_hooks", mth_bool(true)}), &s->backend);
    if (!status) status = mth_compile(model, s->backend, NULL, 0, &s->compiled);
    if (!status) status = mth_array_randn(s->backend, 2, (int64_t[]){4, 8}, 1, NULL, &s->x);
    mth_named input = {"input", s->x};
    if (!status) status = mth_get_parameters(s->compiled, &input, 1, 0, &s->parameters);
    mth_model_free(model);
    return status;
}
static void end(session *s) {
    mth_arrays_free(s->parameters);
    mth_array_free(s->x);
    mth_compiled_free(s->compiled);
    mth_backend_free(s->backend);
}
static mth_status run(session *s) {
    mth_arrays *outputs = NULL;
    mth_named input = {"input", s->x};
    mth_status status = mth_evaluate(s->compiled, s->parameters, &input, 1, NULL, &outputs, NULL);
    mth_arrays_free(outputs);
    return status;
}
static mth_status set(session *s) { return mth_backend_set_crossing_hook(s->backend, hook, s, release_context); }

TEST(what_is_reported_is_what_hooks_see) {
    session s = {0};
    mth_communication_usage usage[3];
    CHECK_STATUS(begin(&s));
    CHECK_STATUS(set(&s));
    CHECK_STATUS(run(&s));
    CHECK_STATUS(mth_get_communication_usage(s.compiled, usage, 3));
    for (int d = 0; d < 3; d++) CHECK(s.received[d] == usage[d].received && s.sent[d] == usage[d].sent);
    CHECK(s.calls > 3 && s.received[2] > 0);
    end(&s);
    CHECK(s.released == 1);
}

TEST(an_error_of_a_hook_comes_out) {
    session s = {.refuse = 2};
    CHECK_STATUS(begin(&s));
    CHECK_STATUS(set(&s));
    mth_status status = run(&s);
    CHECK(status && mth_error_get_code(status) == MTH_ERROR_IO && mth_error_get_cause(status) == &s.cause);
    CHECK(!strcmp(mth_error_get_what(status), "the line is cut") && !strcmp(mth_error_get_fix(status), "mend it"));
    CHECK(s.calls == 2 && s.cause == 0);
    mth_error_free(status);
    CHECK(s.cause == 1);
    CHECK_STATUS(run(&s)); /* as if nothing had been */
    end(&s);
    status = mth_error_create(MTH_ERROR_VALUE, NULL, NULL, NULL, NULL);
    CHECK(status && !mth_error_get_cause(status) && !mth_error_get_cause(NULL));
    mth_error_free(status);
}

TEST(hooks_replace_each_other) {
    session s = {.nested = true}, other = {0};
    CHECK_STATUS(begin(&s));
    CHECK_STATUS(set(&s));
    CHECK_STATUS(run(&s));
    const int calls = s.calls;
    CHECK_STATUS(mth_backend_set_crossing_hook(s.backend, hook, &other, release_context));
    CHECK(s.released == 1);
    CHECK_STATUS(run(&s));
    CHECK(s.calls == calls && other.calls == calls);
    CHECK_STATUS(mth_backend_set_crossing_hook(s.backend, NULL, NULL, NULL));
    CHECK(other.released == 1);
    CHECK_STATUS(run(&s));
    CHECK(other.calls == calls);
    end(&s);
}

TEST(backends_without_the_option_refuse_hooks) {
    mth_backend *backend = NULL;
    session s = {0};
    CHECK_FAILS(mth_backend_create("native",
                    MTH_OPTIONS({"device_mesh", MTH_INTS(2)}, {"use_module_hooks", mth_bool(true)}), &backend),
        MTH_ERROR_UNSUPPORTED, "use_module_hooks");
    CHECK(!backend);
    CHECK_STATUS(mth_backend_create("reference", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_FAILS(
        mth_backend_set_crossing_hook(backend, hook, &s, release_context), MTH_ERROR_VALUE, "use_module_hooks=True");
    CHECK_FAILS(mth_backend_set_crossing_hook(NULL, hook, &s, release_context), MTH_ERROR_TYPE, "NULL");
    mth_backend_free(backend);
    CHECK(s.released == 0);
}

/* Each allocation of a run with a hook, and of a hook's error, fails once. */
TEST(memory_fails_under_a_hook) {
    session s = {.refuse = 3};
    CHECK_STATUS(begin(&s));
    CHECK_STATUS(run(&s)); /* what is made once is made */
    const int64_t live = mth_debug_live_allocations();
    for (int64_t i = 0, failed = 1; failed && i < 1000; i++) {
        s.calls = 0, s.cause = 0, s.released = 0;
        mth_debug_fail_allocation(i);
        mth_status set_status = set(&s), status = set_status ? NULL : run(&s);
        mth_debug_fail_allocation(-1);
        failed = set_status || !status || mth_error_get_code(status) != MTH_ERROR_IO ||
            strcmp(mth_error_get_message(status), "the line is cut\n  fix: mend it");
        mth_error_free(set_status);
        mth_error_free(status);
        CHECK(s.cause == (s.calls == 3)); /* it is released, whatever became of the error */
        CHECK_STATUS(mth_backend_set_crossing_hook(s.backend, NULL, NULL, NULL));
        CHECK(s.released == !set_status);
        CHECK(i < 999);
        if (!failed) CHECK(mth_debug_live_allocations() == live);
    }
    s.calls = 9;
    CHECK_STATUS(run(&s));
    end(&s);
}
RUN()
