/* communication_optimization: the program changes, the numbers do not. */
#include "compose_kit.h"
#include "same_arrays.h"

typedef struct {
    mth_arrays *outputs, *gradients;
    char *plan;
} result;

/* Outputs and gradients of all parameters, each output's gradient all ones; `split`: the batch over axis 0. */
static void run(const mth_model *model, mth_arg mesh, bool optimized, bool store, bool split, int64_t rows,
    int64_t width, result *r) {
    mth_backend *backend = NULL;
    mth_compiled *compiled = NULL;
    mth_array *x = NULL;
    mth_arrays *parameters = NULL;
    mth_named seed[8] = {{NULL, NULL}};
    memset(r, 0, sizeof *r);
    CHECK_STATUS(mth_backend_create("native",
        MTH_OPTIONS(
            {"device_mesh", mesh}, {"threads", mth_int(1)}, {"communication_optimization", mth_bool(optimized)}),
        &backend));
    backend->distribute.store_sharded = store;
    const char *key = "input";
    mth_arg axes[] = {mth_int(0), MTH_NONE}, spec = mth_list(2, axes);
    CHECK_STATUS(
        mth_compile(model, backend, MTH_OPTIONS({"input_shard_specs", mth_dict(split, &key, &spec)}), &compiled));
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){rows, width}, 1, NULL, &x));
    mth_named in = {"input", x};
    CHECK_STATUS(mth_get_parameters(compiled, &in, 1, 0, &parameters));
    CHECK_STATUS(mth_evaluate(compiled, parameters, &in, 1, NULL, &r->outputs, NULL));
    size_t n = r->outputs ? r->outputs->count : 0;
    for (size_t i = 0; i < n && i < 8; i++) {
        const mth_array *o = r->outputs->item[i].array;
        seed[i].name = r->outputs->item[i].name;
        CHECK_STATUS(mth_array_full(
            backend, MTH_FLOAT32, 1, mth_array_get_rank(o), mth_array_get_shape(o), NULL, &seed[i].array));
    }
    mth_arrays *again = NULL;
    mth_gradient_request request = {seed, n, NULL, 0};
    CHECK_STATUS(mth_evaluate(compiled, parameters, &in, 1, &request, &again, &r->gradients));
    CHECK_STATUS(mth_plan_print(compiled, &r->plan));
    mth_arrays_free(again);
    mth_arrays_free(parameters);
    mth_array_free(x);
    for (size_t i = 0; i < n; i++) mth_array_free(seed[i].array);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
}

static int channels(const char *plan, const char *kind) {
    char text[64];
    int n = 0;
    snprintf(text, sizeof text, " %s ", kind);
    for (const char *at = plan; (at = strstr(at, "\nchannel ")); at++) {
        const char *found = strstr(at, text), *end = strchr(at + 1, '\n');
        n += found && (!end || found < end);
    }
    return n;
}

static void compare(mth_model *model, mth_arg mesh, bool store, bool split, int64_t rows, int64_t width,
    const char *kind, int before, int after) {
    result plain, less;
    run(model, mesh, false, store, split, rows, width, &plain);
    run(model, mesh, true, store, split, rows, width, &less);
    /* each element is made and summed as before */
    same_arrays(plain.outputs, less.outputs, 0);
    same_arrays(plain.gradients, less.gradients, 0);
    int had = channels(plain.plan, kind), has = channels(less.plan, kind);
    if (had != before || has != after) printf("  %ss: %d, then %d\n", kind, had, has);
    CHECK(had == before && has == after);
    CHECK_STATUS(mth_plan_verify_text(less.plan));
    if (getenv("SHOW")) printf("%s\n%s", plain.plan, less.plan);
    mth_arrays_free(plain.outputs), mth_arrays_free(plain.gradients), mth_text_free(plain.plan);
    mth_arrays_free(less.outputs), mth_arrays_free(less.gradients), mth_text_free(less.plan);
    mth_model_free(model);
}
#define ON(device) {"device_id", mth_int(device)}

TEST(slices_of_what_has_moved_are_cut_there) {
    mth_model *m = model();
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(64)}, ON(0)), MTH_WIRES({"input", "input"}, {"output", "h"}),
        MTH_PLAIN);
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(8)}, ON(1)), MTH_WIRES({"input", "h"}, {"output", "a"}),
        MTH_PLAIN);
    ADD(m, "Slice", MTH_OPTIONS({"axis", mth_int(1)}, {"stop", mth_int(32)}, ON(0)),
        MTH_WIRES({"input", "h"}, {"output", "left"}), MTH_PLAIN);
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(8)}, ON(1)), MTH_WIRES({"input", "left"}, {"output", "b"}),
        MTH_PLAIN);
    /* h; backward two that are added there, as one */
    compare(m, MTH_INTS(2), false, false, 16, 8, "transfer", 5, 2);
}
TEST(gradients_are_added_where_they_are_needed) {
    mth_model *m = model();
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(64)}, ON(0)), MTH_WIRES({"input", "input"}, {"output", "h"}),
        MTH_PLAIN);
    ADD(m, "Tanh", MTH_OPTIONS(ON(1)), MTH_WIRES({"input", "h"}, {"output", "a"}), MTH_PLAIN);
    ADD(m, "Relu", MTH_OPTIONS(ON(0)), MTH_WIRES({"input", "h"}, {"output", "b"}), MTH_PLAIN);
    compare(m, MTH_INTS(2), false, false, 16, 8, "transfer", 3, 2);
}
TEST(a_view_of_what_is_here_does_not_come_back) {
    mth_model *m = model();
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(64)}, ON(0)), MTH_WIRES({"input", "input"}, {"output", "h"}),
        MTH_PLAIN);
    ADD(m, "Reshape", MTH_OPTIONS({"shape", MTH_INTS(32, 32)}, ON(1)), MTH_WIRES({"input", "h"}, {"output", "v"}),
        MTH_PLAIN);
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(8)}, ON(0)), MTH_WIRES({"input", "v"}, {"output", "a"}),
        MTH_PLAIN);
    compare(m, MTH_INTS(2), false, false, 16, 8, "transfer", 4, 0);
}
TEST(a_tensor_and_its_views_are_gathered_once) {
    mth_model *m = model();
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(2048)}), MTH_WIRES({"input", "input"}, {"output", "h"}),
        MTH_PLAIN);
    ADD(m, "Relu", NOTHING, MTH_WIRES({"input", "h"}, {"output", "r"}), MTH_PLAIN);
    ADD(m, "Reshape", MTH_OPTIONS({"shape", MTH_INTS(16, 4, 512)}), MTH_WIRES({"input", "r"}, {"output", "v"}),
        MTH_PLAIN);
    /* needs all rows */
    ADD(m, "Softmax", MTH_OPTIONS({"axis", mth_int(0)}), MTH_WIRES({"input", "r"}, {"output", "s"}), MTH_PLAIN);
    compare(m, MTH_INTS(4), false, true, 16, 8, "all_gather", 2, 1);
}

static mth_model *heads(int n, int64_t width) {
    mth_model *m = model();
    char name[16];
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "y%d", i);
        ADD(m, "Linear", WIDTH(width + i), MTH_WIRES({"input", "input"}, {"output", name}), MTH_PLAIN);
    }
    return m;
}
TEST(small_gathers_are_merged) { compare(heads(4, 40), MTH_INTS(4), false, true, 16, 32, "all_gather", 4, 1); }
TEST(small_gathers_over_two_axes_are_merged) {
    compare(heads(4, 40), MTH_INTS(2, 2), false, true, 16, 32, "all_gather", 4, 1);
}
TEST(large_gathers_are_not) { compare(heads(3, 4000), MTH_INTS(4), false, true, 16, 8, "all_gather", 3, 3); }
TEST(small_gradients_are_scattered_together) {
    compare(heads(3, 41), MTH_INTS(4), true, true, 16, 32, "reduce_scatter", 3, 1);
}

RUN()
