/* Journeys through the public API: what a user does, what goes wrong on the way, and memory that fails anywhere. */
#include "public_kit.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static mth_module *module(const char *type, const mth_option *option, size_t n) {
    mth_module *m = NULL;
    CHECK_STATUS(mth_module_create(type, option, n, &m));
    return m;
}

/* 6 -> 10 -> 3, column then row parallel, with a mixture of experts behind. */
static mth_status build(mth_model **out) {
    mth_model *model = NULL;
    mth_status status = mth_model_create(&model);
    if (!status)
        status = try_add(model, "Linear",
            MTH_OPTIONS({"dimension", mth_int(10)}, {"weight_shard_spec", MTH_SPEC(MTH_NONE, mth_int(0))}),
            MTH_WIRES({"input", "input"}), MTH_PLAIN);
    if (!status) status = try_add(model, "Gelu", NULL, 0, NULL, 0, MTH_CHAIN);
    if (!status)
        status = try_add(model, "Linear",
            MTH_OPTIONS({"dimension", mth_int(3)}, {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}), NULL, 0,
            MTH_CHAIN);
    if (!status)
        status = try_add(model, "MoE",
            MTH_OPTIONS({"num_experts", mth_int(4)}, {"expert_dim", mth_int(5)},
                {"expert_distribution", mth_string("one_per_device")}),
            MTH_WIRES({"output", "output"}), MTH_CHAIN);
    if (status)
        mth_model_free(model);
    else
        *out = model;
    return status;
}

/* Everything once: compose, compile, plan, run with gradients, read. Frees all, whatever happens. */
static mth_status journey(void) {
    mth_model *model = NULL;
    mth_backend *backend = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL, *seed = NULL;
    mth_arrays *parameters = NULL, *outputs = NULL, *gradients = NULL;
    mth_partition_trace *trace = NULL;
    char *plan = NULL, *again = NULL;
    mth_memory_usage memory[3];
    mth_status status = build(&model);
    if (!status)
        status = mth_backend_create("native",
            MTH_OPTIONS({"device_mesh", MTH_INTS(3)}, {"threads", mth_int(1)},
                {"partition_policy", mth_string("parameters")}, {"trace_module_partitioning", mth_bool(true)}),
            &backend);
    if (!status) status = mth_compile(model, backend, NULL, 0, &compiled);
    if (!status) status = mth_array_randn(backend, 2, (int64_t[]){4, 6}, 1, NULL, &array);
    if (!status) status = mth_array_full(backend, MTH_FLOAT32, 1, 2, (int64_t[]){4, 3}, NULL, &seed);
    mth_named input = {"input", array}, given = {"output", seed};
    mth_gradient_request request = {&given, 1, NULL, 0};
    if (!status) status = mth_get_parameters(compiled, &input, 1, 0, &parameters);
    if (!status) status = mth_evaluate(compiled, parameters, &input, 1, &request, &outputs, &gradients);
    if (!status) status = mth_get_memory_usage(compiled, &input, 1, memory, 3);
    if (!status) status = mth_backend_get_partition_trace(backend, &trace);
    if (!status)
        CHECK(mth_partition_trace_get_count(trace) == 4 && strstr(mth_partition_trace_get_text(trace), "gelu_0"));
    if (!status) status = mth_plan_print(compiled, &plan);
    if (!status) status = mth_plan_verify_text(plan);
    if (!status) status = mth_plan_reprint(plan, &again);
    if (!status) CHECK(strcmp(plan, again) == 0);
    mth_text_free(plan);
    mth_text_free(again);
    mth_partition_trace_free(trace);
    mth_arrays_free(gradients);
    mth_arrays_free(outputs);
    mth_arrays_free(parameters);
    mth_array_free(seed);
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
    return status;
}

TEST(journey_leaves_nothing_behind) {
    CHECK_STATUS(journey());
    int64_t before = mth_debug_live_allocations();
    CHECK_STATUS(journey());
    CHECK(mth_debug_live_allocations() == before);
}

TEST(allocation_fails_at_every_index) {
    CHECK_STATUS(journey()); /* what is made once a process is made */
    int64_t live = mth_debug_live_allocations(), count = mth_debug_allocation_count();
    CHECK_STATUS(journey());
    count = mth_debug_allocation_count() - count;
    CHECK(count > 50);
    for (int64_t i = 0; i < count; i++) {
        mth_debug_fail_allocation(i);
        mth_status status = journey();
        mth_debug_fail_allocation(-1);
        if (!status) continue; /* made good: an engine that keeps buffers lets them go and tries again */
        if (mth_error_get_code(status) != MTH_ERROR_MEMORY) {
            unit_failures++;
            printf("  allocation %lld: %s\n", (long long)i, mth_error_get_message(status));
        }
        mth_error_free(status);
        if (mth_debug_live_allocations() != live) {
            unit_failures++;
            printf("  allocation %lld: %lld allocations leak\n", (long long)i,
                (long long)(mth_debug_live_allocations() - live));
            live = mth_debug_live_allocations();
        }
        if (unit_failures > 10) break;
    }
    CHECK_STATUS(journey()); /* all is usable afterwards */
}

typedef struct {
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x;
    mth_arrays *parameters;
} session;

static session begin(int64_t rows) {
    session e = {0};
    mth_model *model = NULL;
    CHECK_STATUS(build(&model));
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(3)}), &e.backend));
    CHECK_STATUS(mth_compile(model, e.backend, NULL, 0, &e.compiled));
    mth_model_free(model);
    CHECK_STATUS(mth_array_randn(e.backend, 2, (int64_t[]){rows, 6}, 1, NULL, &e.x));
    mth_named input = {"input", e.x};
    CHECK_STATUS(mth_get_parameters(e.compiled, &input, 1, 0, &e.parameters));
    return e;
}

static void end(session *e) {
    mth_arrays_free(e->parameters);
    mth_array_free(e->x);
    mth_compiled_free(e->compiled);
    mth_backend_free(e->backend);
}

TEST(bad_calls_change_nothing) {
    session e = begin(4);
    mth_named input = {"input", e.x}, wrong = {"inptu", e.x};
    mth_arrays *out = NULL, *few = NULL;
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &wrong, 1, NULL, &out, NULL), MTH_ERROR_KEY, "input");
    CHECK_FAILS(mth_evaluate(e.compiled, NULL, &input, 1, NULL, &out, NULL), MTH_ERROR_KEY, "linear_0.weight");
    mth_named one[] = {mth_arrays_get(e.parameters, 0)};
    CHECK_STATUS(mth_arrays_create(one, 1, &few));
    CHECK_FAILS(mth_evaluate(e.compiled, few, &input, 1, NULL, &out, NULL), MTH_ERROR_KEY, "linear_0.bias");
    mth_arrays_free(few);
    mth_array *narrow = NULL;
    CHECK_STATUS(mth_array_randn(e.backend, 2, (int64_t[]){4, 5}, 1, NULL, &narrow));
    mth_named bad = {"input", narrow};
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &bad, 1, NULL, &out, NULL), MTH_ERROR_VALUE, "");
    mth_named seed = {"outptu", narrow};
    mth_gradient_request request = {&seed, 1, NULL, 0};
    mth_arrays *slopes = NULL;
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &input, 1, &request, &out, &slopes), MTH_ERROR_KEY, "output");
    seed.name = "output";
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &input, 1, &request, &out, &slopes), MTH_ERROR_VALUE, "output");
    mth_array_free(narrow);
    CHECK(!out && !slopes);
    CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL));
    mth_arrays_free(out);
    end(&e);
}

static void *evaluate_often(void *context) {
    session *e = context;
    float first[12], now[12];
    for (int i = 0; i < 50; i++) {
        mth_named input = {"input", e->x};
        mth_arrays *out = NULL;
        mth_status status = mth_evaluate(e->compiled, e->parameters, &input, 1, NULL, &out, NULL);
        if (!status) status = mth_array_gather(mth_arrays_find(out, "output"), i ? now : first);
        if (status || (i && memcmp(first, now, sizeof now))) {
            mth_error_free(status);
            return "differs";
        }
        mth_arrays_free(out);
    }
    return NULL;
}

TEST(one_compiled_model_in_several_threads) {
    session e = begin(4);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, evaluate_often, &e);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(thread[i], &result);
        CHECK(!result);
    }
    end(&e);
}

static uint64_t checksum(const mth_arrays *arrays) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < mth_arrays_get_count(arrays); i++) {
        mth_named item = mth_arrays_get(arrays, i);
        size_t n = mth_dtype_size(mth_array_get_dtype(item.array));
        for (int d = 0; d < mth_array_get_rank(item.array); d++) n *= (size_t)mth_array_get_shape(item.array)[d];
        unsigned char *data = malloc(n);
        CHECK_STATUS(mth_array_gather(item.array, data));
        for (size_t k = 0; k < n; k++) h = (h ^ data[k]) * 1099511628211u;
        free(data);
    }
    return h;
}

TEST(same_seed_same_weights_on_any_mesh) {
    const int64_t meshes[][2] = {{1, 0}, {4, 0}, {2, 2}, {3, 0}};
    uint64_t want = 0;
    for (int i = 0; i < 4; i++) {
        mth_model *model = NULL;
        mth_backend *backend = NULL;
        mth_compiled *compiled = NULL;
        mth_arrays *parameters = NULL;
        CHECK_STATUS(build(&model));
        mth_arg dim[2] = {mth_int(meshes[i][0]), mth_int(meshes[i][1])};
        CHECK_STATUS(
            mth_backend_create("native", MTH_OPTIONS({"device_mesh", mth_list(meshes[i][1] ? 2 : 1, dim)}), &backend));
        CHECK_STATUS(mth_compile(model, backend,
            MTH_OPTIONS({"shapes", mth_dict(1, (const char *[]){"input"}, (mth_arg[]){MTH_INTS(4, 6)})}), &compiled));
        CHECK_STATUS(mth_get_parameters(compiled, NULL, 0, 7, &parameters));
        uint64_t have = checksum(parameters);
        if (!i) want = have;
        CHECK(have == want);
        mth_arrays_free(parameters);
        mth_compiled_free(compiled);
        mth_backend_free(backend);
        mth_model_free(model);
    }
}

TEST(options_are_documented) {
    CHECK(strstr(mth_backend_option_doc("native"), "\nthreads: int | None = None: ") &&
        strstr(mth_backend_option_doc("reference"), "device_mesh: tuple: "));
    CHECK(mth_backend_option_doc("abacus") == NULL);
    CHECK(strstr(mth_compile_option_doc(), "\nshapes: dict | None = None: "));
    for (size_t i = 0; i < mth_module_type_count(); i++)
        CHECK(strstr(mth_module_type_doc(mth_module_type_name(i)), "\n    device_mesh: tuple | None = None: "));
}

TEST(plans_for_ever_new_shapes_do_not_pile_up) {
    session e = begin(1);
    int64_t most = 0;
    for (int64_t rows = 1; rows <= 200; rows++) {
        mth_array *array = NULL;
        mth_arrays *out = NULL;
        CHECK_STATUS(mth_array_randn(e.backend, 2, (int64_t[]){rows, 6}, 1, NULL, &array));
        mth_named input = {"input", array};
        CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL));
        CHECK(mth_array_get_shape(mth_arrays_find(out, "output"))[0] == rows);
        mth_arrays_free(out);
        mth_array_free(array);
        if (rows == 100) most = mth_debug_live_allocations();
    }
    CHECK(mth_debug_live_allocations() < most + 200); /* 100 more plans would be thousands */
    end(&e);
}

TEST(errors_name_the_line_that_composed_the_operator) {
    mth_model *model = NULL;
    mth_backend *backend = NULL;
    mth_compiled *compiled = NULL;
    mth_array *x = NULL, *y = NULL;
    mth_arrays *parameters = NULL, *out = NULL, *slopes = NULL;
    CHECK_STATUS(mth_model_create(&model));
    mth_set_source_line("model.py:7");
    CHECK_STATUS(try_add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(3)}),
        MTH_WIRES({"input", "a"}, {"output", "h"}), MTH_PLAIN));
    CHECK_STATUS(
        try_add(model, "Add", NULL, 0, MTH_WIRES({"inputs", "h"}, {"inputs", "b"}, {"output", "y"}), MTH_PLAIN));
    mth_set_source_line("train.py:50");
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){4, 6}, 1, NULL, &x));
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){4, 5}, 1, NULL, &y));
    mth_named input[] = {{"a", x}, {"b", y}};
    CHECK_FAILS(mth_get_parameters(compiled, input, 2, 0, &parameters), MTH_ERROR_VALUE, "at model.py:7");
    CHECK_FAILS(mth_get_parameters(compiled, input, 2, 0, &parameters), MTH_ERROR_VALUE, "h: float32 (4, 3)");
    CHECK_FAILS(mth_get_parameters(compiled, input, 1, 0, &parameters), MTH_ERROR_KEY, "at train.py:50");
    mth_set_source_line(NULL);
    mth_status status = mth_get_parameters(compiled, input, 1, 0, &parameters);
    mth_error_set_source_line(status, NULL);
    CHECK(!strstr(mth_error_get_message(status), "\n  at "));
    mth_error_set_source_line(status, "train.py:51");
    CHECK(strstr(mth_error_get_message(status), "\n  at train.py:51\n"));
    mth_error_set_source_line(status, "train.py:52");
    CHECK(strstr(mth_error_get_message(status), "\n  at train.py:52\n"));
    mth_error_free(status);
    status = mth_get_parameters(compiled, input, 2, 0, &parameters);
    mth_error_set_source_line(status, "train.py:53");
    CHECK(strstr(mth_error_get_message(status), "\n  at model.py:7\n"));
    mth_error_free(status);
    mth_array_free(y);
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){4, 3}, 1, NULL, &y));
    input[1].array = y;
    mth_named seed = {"elsewhere", y};
    mth_gradient_request request = {&seed, 1, NULL, 0};
    CHECK_STATUS(mth_get_parameters(compiled, input, 2, 0, &parameters));
    CHECK_FAILS(
        mth_evaluate(compiled, parameters, input, 2, &request, &out, &slopes), MTH_ERROR_KEY, "the only output is 'y'");
    mth_arrays_free(parameters);
    mth_array_free(x);
    mth_array_free(y);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
}

TEST(null_is_an_error_not_a_crash) {
    session e = begin(4);
    mth_named nameless = {NULL, e.x}, empty = {"input", NULL}, input = {"input", e.x};
    mth_gradient_request request = {NULL, 1, NULL, 0};
    mth_arrays *out = NULL, *layout = NULL;
    mth_array *array = NULL;
    mth_compiled *compiled = NULL;
    mth_backend *backend = NULL;
    mth_module *module = NULL;
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &nameless, 1, NULL, &out, NULL), MTH_ERROR_TYPE, "name");
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, &empty, 1, NULL, &out, NULL), MTH_ERROR_TYPE,
        "the array of 'input' is NULL");
    CHECK_FAILS(mth_evaluate(e.compiled, e.parameters, NULL, 1, NULL, &out, NULL), MTH_ERROR_TYPE, "NULL");
    CHECK_FAILS(
        mth_evaluate(e.compiled, e.parameters, &input, 1, &request, &out, NULL), MTH_ERROR_TYPE, "output_gradients");
    request = (mth_gradient_request){NULL, 0, NULL, 1};
    CHECK_FAILS(
        mth_evaluate(e.compiled, e.parameters, &input, 1, &request, &out, NULL), MTH_ERROR_TYPE, "input_gradients");
    request = (mth_gradient_request){0};
    /* gradients nobody takes */
    CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, &request, &out, NULL));
    mth_arrays_free(out);
    out = NULL;
    CHECK_STATUS(mth_get_parameter_layout(e.compiled, &input, 1, &layout));
    CHECK_FAILS(mth_evaluate(e.compiled, layout, &input, 1, NULL, &out, NULL), MTH_ERROR_VALUE, "layout");
    mth_arrays_free(layout);
    CHECK_FAILS(mth_arrays_create(&empty, 1, &out), MTH_ERROR_TYPE, "'input'");
    CHECK_FAILS(
        mth_array_from_data(e.backend, MTH_FLOAT32, 1, (int64_t[]){3}, NULL, NULL, &array), MTH_ERROR_TYPE, "the data");
    CHECK_FAILS(mth_array_randn(e.backend, 1, NULL, 0, NULL, &array), MTH_ERROR_TYPE, "the shape");
    CHECK_FAILS(mth_array_randn(NULL, 0, NULL, 0, NULL, &array), MTH_ERROR_TYPE, "the backend");
    CHECK_FAILS(mth_array_full(e.backend, MTH_INT32, 3e9, 0, NULL, NULL, &array), MTH_ERROR_VALUE, "does not fit");
    CHECK_FAILS(
        mth_array_full(e.backend, MTH_FLOAT32, 0, 3, (int64_t[]){(int64_t)1 << 40, (int64_t)1 << 40, 0}, NULL, &array),
        MTH_ERROR_VALUE, "2^62");
    CHECK_FAILS(mth_array_from_safetensors(e.backend, NULL, "a", false, NULL, &array), MTH_ERROR_TYPE, "the path");
    CHECK_FAILS(mth_compile(NULL, e.backend, NULL, 0, &compiled), MTH_ERROR_TYPE, "the model");
    CHECK_FAILS(mth_backend_create(NULL, NULL, 0, &backend), MTH_ERROR_TYPE, "engine");
    CHECK_FAILS(
        mth_module_create("Linear", MTH_OPTIONS({NULL, mth_int(1)}), &module), MTH_ERROR_TYPE, "name of an option");
    CHECK(!out && !array && !compiled && !backend && !module);
    CHECK_STATUS(mth_array_from_data(e.backend, MTH_FLOAT32, 1, (int64_t[]){0}, NULL, NULL, &array));
    mth_array_free(array);
    end(&e);
}

TEST(what_an_engine_lacks_has_a_fix) {
    session e = begin(4);
    char *text = NULL;
    CHECK_FAILS(mth_stablehlo(e.compiled, NULL, 0, &text), MTH_ERROR_UNSUPPORTED, "use the engine pjrt");
    CHECK_FAILS(mth_explain(e.compiled, NULL, 0, &text), MTH_ERROR_UNSUPPORTED, "read the program: mth_plan_print");
    mth_backend *backend = NULL;
    CHECK_FAILS(mth_backend_create("ntaive", NULL, 0, &backend), MTH_ERROR_VALUE, "use 'native'");
    CHECK_FAILS(mth_backend_create("abacus", NULL, 0, &backend), MTH_ERROR_VALUE, "'reference'");
    CHECK(!text && !backend);
    end(&e);
}

#ifndef __SANITIZE_THREAD__ /* it ends a child by fork that makes threads */
TEST(a_fork_runs_and_ends) {
    session e = begin(4);
    mth_named input = {"input", e.x};
    mth_arrays *out = NULL;
    CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL));
    mth_arrays_free(out);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        mth_status s = mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL);
        if (!s) mth_arrays_free(out);
        end(&e);
        _exit(s != NULL);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    end(&e);
}
#endif

TEST(objects_may_be_freed_in_any_order) {
    session e = begin(4);
    mth_named input = {"input", e.x};
    mth_arrays *out = NULL;
    CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL));
    mth_backend_free(e.backend);
    mth_compiled_free(e.compiled);
    mth_arrays_free(e.parameters);
    mth_array *kept = mth_arrays_find(out, "output");
    mth_array_retain(kept);
    mth_arrays_free(out);
    mth_array_free(e.x);
    float data[12];
    CHECK_STATUS(mth_array_gather(kept, data));
    CHECK(strstr(mth_array_get_sharding(kept), "mesh (3,)"));
    mth_array_free(kept);
}

/* More shapes than plans are kept, in threads that also read plans, draw parameters and place arrays: nobody loses what
 * he uses. */
static void *use_all_of_it(void *context) {
    session *e = context;
    static _Atomic int64_t rows;
    const char *wrong = NULL;
    for (int i = 0; i < 25 && !wrong; i++) {
        int64_t n = 1 + (rows++ * 7) % 90;
        mth_array *array = NULL, *sharded = NULL;
        mth_arrays *out = NULL, *parameters = NULL;
        char *text = NULL;
        mth_memory_usage memory[3];
        mth_arg spec = MTH_SPEC(mth_int(0), MTH_NONE);
        mth_status status = mth_array_randn(e->backend, 2, (int64_t[]){n, 6}, 1, NULL, &array);
        if (!status) status = mth_array_randn(e->backend, 2, (int64_t[]){n, 6}, 1, &spec, &sharded);
        mth_named input = {"input", i % 2 ? array : sharded};
        if (!status) status = mth_evaluate(e->compiled, e->parameters, &input, 1, NULL, &out, NULL);
        if (!status && mth_array_get_shape(mth_arrays_find(out, "output"))[0] != n) wrong = "another shape";
        if (!status && i % 5 == 0) status = mth_get_parameters(e->compiled, &input, 1, 3, &parameters);
        if (!status && i % 5 == 1) status = mth_plan_print(e->compiled, &text);
        if (!status && i % 5 == 2) status = mth_get_memory_usage(e->compiled, &input, 1, memory, 3);
        if (status) {
            printf("  %s\n", mth_error_get_message(status));
            wrong = "an error";
        }
        mth_error_free(status);
        mth_text_free(text);
        mth_arrays_free(parameters);
        mth_arrays_free(out);
        mth_array_free(sharded);
        mth_array_free(array);
    }
    return (void *)wrong;
}

TEST(plans_are_let_go_while_others_run) {
    session e = begin(4);
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, use_all_of_it, &e);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(thread[i], &wrong);
        CHECK(!wrong);
    }
    end(&e);
}

typedef struct {
    session *session;
    atomic_int over;
} watch;
static void *interrupt_often(void *context) {
    watch *w = context;
    while (!atomic_load(&w->over)) {
        mth_compiled_interrupt(w->session->compiled);
        usleep(100);
    }
    return NULL;
}

/* The hidden layer of build()'s model, which a Gelu reads, as an output beside the last; and its gradient alone. */
TEST(a_connection_that_is_read_is_an_output) {
    session e = begin(4);
    mth_model *model = NULL;
    mth_compiled *compiled = NULL;
    mth_arrays *outputs = NULL, *gradients = NULL;
    mth_array *ones = NULL;
    mth_arg names[] = {mth_string("output"), mth_string("linear_0.output")};
    CHECK_STATUS(build(&model));
    CHECK_STATUS(mth_compile(model, e.backend, MTH_OPTIONS({"outputs", mth_list(2, names)}), &compiled));
    if (!compiled) return;
    size_t count = 0;
    const char *const *output = mth_compiled_get_outputs(compiled, &count);
    CHECK(count == 2 && !strcmp(output[0], "output") && !strcmp(output[1], "linear_0.output"));
    const char *const *input = mth_compiled_get_inputs(compiled, &count);
    CHECK(count == 1 && !strcmp(input[0], "input"));
    const char *const *parameter = mth_compiled_get_parameters(compiled, &count);
    CHECK(count == mth_arrays_get_count(e.parameters));
    for (size_t i = 0; i < count; i++) CHECK(!strcmp(parameter[i], mth_arrays_get(e.parameters, i).name));
    mth_named named = {"input", e.x};
    CHECK_STATUS(mth_evaluate(compiled, e.parameters, &named, 1, NULL, &outputs, NULL));
    const mth_array *array = mth_arrays_find(outputs, "linear_0.output");
    CHECK(mth_arrays_get_count(outputs) == 2 && array);
    CHECK_STATUS(
        mth_array_full(e.backend, MTH_FLOAT32, 1, mth_array_get_rank(array), mth_array_get_shape(array), NULL, &ones));
    mth_arrays_free(outputs);
    CHECK_STATUS(mth_evaluate(compiled, e.parameters, &named, 1,
        &(mth_gradient_request){.output_gradients = &(mth_named){"linear_0.output", ones}, .output_gradient_count = 1},
        &outputs, &gradients));
    const mth_array *bias = mth_arrays_find(gradients, parameter[1]);
    float *sums = calloc((size_t)mth_array_get_shape(bias)[0], sizeof *sums);
    CHECK_STATUS(mth_array_gather(bias, sums));
    for (int64_t i = 0; i < mth_array_get_shape(bias)[0]; i++)
        CHECK(sums[i] ==
            (float)mth_array_get_shape(mth_arrays_find(outputs, "linear_0.output"))[0]); /* a term for each row */
    free(sums);
    mth_array_free(ones);
    mth_arrays_free(outputs);
    mth_arrays_free(gradients);
    mth_compiled_free(compiled);
    names[1] = mth_string("input");
    CHECK_FAILS(mth_compile(model, e.backend, MTH_OPTIONS({"outputs", mth_list(2, names)}), &compiled), MTH_ERROR_VALUE,
        "'input' is an input of the model");
    mth_model_free(model);
    end(&e);
}

TEST(an_interrupt_ends_a_run_and_nothing_else) {
    session e = begin(64);
    watch w = {.session = &e};
    pthread_t thread;
    int stopped = 0;
    mth_named input = {"input", e.x};
    pthread_create(&thread, NULL, interrupt_often, &w);
    for (int i = 0; i < 200 || (!stopped && i < 200000); i++) {
        mth_arrays *out = NULL;
        mth_status status = mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL);
        if (status) {
            CHECK(!out && mth_error_get_code(status) == MTH_ERROR_INTERRUPTED);
            stopped++;
        }
        mth_error_free(status);
        mth_arrays_free(out);
    }
    atomic_store(&w.over, 1);
    pthread_join(thread, NULL);
    CHECK(stopped > 0);
    mth_arrays *out = NULL;
    CHECK_STATUS(mth_evaluate(e.compiled, e.parameters, &input, 1, NULL, &out, NULL));
    mth_arrays_free(out);
    end(&e);
}

TEST(safetensors_slices_and_lies) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    char path[] = "/tmp/mithril_test_XXXXXX";
    int fd = mkstemp(path);
    const char *header =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},\"__metadata__\":{\"format\":\"pt\"}}";
    uint64_t n = strlen(header);
    float data[6] = {0, 1, 2, 3, 4, 5}, back[6];
    FILE *file = fdopen(fd, "wb");
    fwrite(&n, 8, 1, file);
    fwrite(header, 1, n, file);
    fwrite(data, 1, sizeof data, file);
    fclose(file);
    mth_array *array = NULL;
    mth_arg spec = MTH_SPEC(mth_int(0), MTH_NONE);
    CHECK_STATUS(mth_array_from_safetensors(backend, path, "a", true, &spec, &array));
    CHECK(array && mth_array_get_shape(array)[0] == 3 && mth_array_get_shard(array, 0).size[0] == 2 &&
        mth_array_get_shard(array, 1).size[0] == 1);
    CHECK_STATUS(mth_array_gather(array, back));
    for (int i = 0; i < 3; i++) CHECK(back[2 * i] == data[i] && back[2 * i + 1] == data[3 + i]);
    mth_array_free(array);
    array = NULL;
    CHECK_FAILS(mth_array_from_safetensors(backend, path, "c", false, NULL, &array), MTH_ERROR_KEY, "no tensor 'c'");
    CHECK_FAILS(mth_array_from_safetensors(backend, "/nowhere", "c", false, NULL, &array), MTH_ERROR_IO, "/nowhere");
    if (truncate(path, 12)) CHECK(false);
    CHECK_FAILS(mth_array_from_safetensors(backend, path, "a", false, NULL, &array), MTH_ERROR_IO, "claims");
    unlink(path);
    mth_backend_free(backend);
    mth_module_free(module("Relu", NULL, 0));
}
RUN()
