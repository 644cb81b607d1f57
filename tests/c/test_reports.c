/* What is read of backends and plans, with each engine: where an allocation fails, the report fails or does without
 * (what a plugin doesn't tell is left out of explain), nothing of it is left, and the next one goes well. */
#include "open_or_skip.h"

typedef struct {
    mth_model *model;
    mth_backend *backend;
    mth_compiled *compiled;
} planned;

static planned plan_on(mth_backend *backend) {
    planned p = {.backend = backend};
    mth_module *linear = NULL;
    CHECK_STATUS(mth_model_create(&p.model));
    CHECK_STATUS(mth_module_create("Linear",
        MTH_OPTIONS({"dimension", mth_int(4)}, {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}), &linear));
    CHECK_STATUS(mth_model_add(p.model, linear, MTH_WIRES({"input", "x"}, {"output", "y"}), MTH_PLAIN));
    mth_module_free(linear);
    const char *name = "x";
    mth_arg shape = MTH_SPEC(mth_int(2), mth_int(8));
    CHECK_STATUS(mth_compile(p.model, backend, MTH_OPTIONS({"shapes", mth_dict(1, &name, &shape)}), &p.compiled));
    return p;
}

static mth_status say(mth_status status, char *text, const char *part) {
    if (!status) CHECK(strstr(text, part) != NULL);
    if (!status) mth_text_free(text);
    return status;
}
static mth_status program(const planned *p) {
    char *text = NULL;
    mth_status status = mth_plan_print(p->compiled, &text);
    return say(status, text, "all_reduce");
}
static mth_status placement(const planned *p) {
    char *text = NULL;
    mth_status status = mth_get_placement_text(p->compiled, &text);
    return say(status, text, "linear_0");
}
static mth_status describe(const planned *p) {
    char *text = NULL;
    mth_status status = mth_backend_describe(p->backend, &text);
    return say(status, text, "2 devices");
}
static mth_status stablehlo(const planned *p) {
    char *text = NULL;
    mth_status status = mth_stablehlo(p->compiled, NULL, 0, &text);
    return say(status, text, "stablehlo.");
}
static mth_status explain(const planned *p) {
    char *text = NULL;
    mth_status status = mth_explain(p->compiled, NULL, 0, &text);
    return say(status, text, "module 1");
}
static mth_status memory(const planned *p) {
    mth_memory_usage device[2] = {0};
    mth_status status = mth_get_memory_usage(p->compiled, NULL, 0, device, 2);
    if (!status) CHECK(device[1].weights == (4 * 4 + 4) * 4);
    return status;
}
static mth_status communication(const planned *p) {
    mth_communication_usage device[2] = {0};
    mth_status status = mth_get_communication_usage(p->compiled, device, 2);
    if (!status) CHECK(device[0].sent > 0 && device[1].received > 0);
    return status;
}
static mth_status model(const planned *p) {
    char *text = NULL;
    mth_status status = mth_model_print(p->model, &text);
    return say(status, text, "Linear");
}

static const struct {
    const char *name;
    mth_status (*read)(const planned *);
    bool of_xla;
} reports[] = {{"the program", program, false}, {"the placement", placement, false}, {"the backend", describe, false},
    {"the memory", memory, false}, {"the communication", communication, false}, {"the model", model, false},
    {"StableHLO", stablehlo, true}, {"explain", explain, true}};

static void fail_at_every_index(const char *name, mth_status (*read)(const planned *), const planned *p) {
    CHECK_STATUS(read(p)); /* what is made at first use is there */
    CHECK_STATUS(read(p));
    const int64_t live = mth_debug_live_allocations(), before = mth_debug_allocation_count();
    CHECK_STATUS(read(p));
    const int64_t count = mth_debug_allocation_count() - before;
    CHECK(mth_debug_live_allocations() == live);
    printf("  %s: %lld allocations\n", name, (long long)count);
    for (int64_t i = 0; i < count && unit_failures < 4; i++) {
        mth_debug_fail_allocation(i);
        mth_status status = read(p);
        mth_debug_fail_allocation(-1);
        if (status && mth_error_get_code(status) != MTH_ERROR_MEMORY) {
            unit_failures++;
            printf("  %s: allocation %lld: %s\n", name, (long long)i, mth_error_get_message(status));
        }
        mth_error_free(status);
        if (mth_debug_live_allocations() != live) {
            unit_failures++;
            printf("  %s: allocation %lld leaves %lld\n", name, (long long)i,
                (long long)(mth_debug_live_allocations() - live));
            break;
        }
        CHECK_STATUS(read(p));
    }
}

static void fail_all(const char *engine) {
    mth_backend *backend = open_or_skip(engine, 2);
    if (!backend) return;
    planned p = plan_on(backend);
    for (size_t i = 0; i < sizeof reports / sizeof *reports; i++)
        if (!reports[i].of_xla || !strcmp(engine, "pjrt")) fail_at_every_index(reports[i].name, reports[i].read, &p);
    mth_compiled_free(p.compiled);
    mth_model_free(p.model);
    mth_backend_free(backend);
}
TEST(native_reports) { fail_all("native"); }
TEST(reference_reports) { fail_all("reference"); }
TEST(xla_reports) { fail_all("pjrt"); }

RUN()
