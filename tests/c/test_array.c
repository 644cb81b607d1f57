/* Arrays through the public API: memory that is lent, numbers that are drawn, and objects that are NULL. */
#include "open_or_skip.h"

/* Memory that is lent: shared where the engine can, given back once, never part of an output. */
static _Alignas(64) float lent_memory[24 + 1];
static void count_release(void *count) { ++*(int *)count; }

static void lend(mth_backend *backend, bool shares) {
    mth_model *model = NULL;
    mth_module *reshape = NULL, *relu = NULL;
    mth_compiled *compiled = NULL;
    mth_array *array = NULL;
    mth_arrays *out = NULL, *parameters = NULL;
    for (int i = 0; i < 24; i++) lent_memory[i] = (float)i;
    /* an output that is an input in another shape, which an engine may share */
    CHECK_STATUS(mth_model_create(&model));
    CHECK_STATUS(mth_module_create("Reshape", MTH_OPTIONS({"shape", MTH_INTS(6, 4)}), &reshape));
    CHECK_STATUS(mth_module_create("Relu", NULL, 0, &relu));
    CHECK_STATUS(mth_model_add(model, reshape, MTH_WIRES({"input", "input"}, {"output", "same"}), MTH_PLAIN));
    CHECK_STATUS(mth_model_add(model, relu, MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN));
    mth_module_free(reshape);
    mth_module_free(relu);
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &compiled));
    for (int aligned = 1; aligned >= 0; aligned--) {
        const float *data = lent_memory + !aligned;
        int released = 0;
        CHECK_STATUS(
            mth_array_borrow(backend, MTH_FLOAT32, 2, (int64_t[]){4, 6}, data, count_release, &released, &array));
        CHECK((mth_array_get_whole(array) == data) == (shares && aligned) && released == !(shares && aligned));
        mth_named input = {"input", array};
        CHECK_STATUS(mth_get_parameters(compiled, &input, 1, 0, &parameters));
        CHECK_STATUS(mth_evaluate(compiled, parameters, &input, 1, NULL, &out, NULL));
        mth_array_free(array);
        CHECK(released == 1);
        float have[24];
        for (int k = 0; k < 2; k++) {
            CHECK_STATUS(mth_array_gather(mth_arrays_find(out, k ? "same" : "output"), have));
            for (int i = 0; i < 24; i++) CHECK(have[i] == data[i]);
            CHECK(mth_array_get_whole(mth_arrays_find(out, k ? "same" : "output")) != data);
        }
        mth_arrays_free(out);
        mth_arrays_free(parameters);
    }
    CHECK_STATUS(mth_array_borrow(backend, MTH_FLOAT32, 1, (int64_t[]){24}, lent_memory, NULL, NULL, &array));
    mth_array_free(array);
    mth_compiled_free(compiled);
    mth_model_free(model);
}

TEST(memory_is_lent) {
    static const char *const engine[] = {"native", "pjrt", "reference"};
    for (int i = 0; i < 3; i++) {
        mth_backend *backend = open_or_skip(engine[i], 2);
        if (!backend) continue;
        lend(backend, i < 2); /* what engines keep for the next run, they keep now */
        int64_t live = mth_debug_live_allocations();
        lend(backend, i < 2);
        CHECK(mth_debug_live_allocations() == live);
        mth_backend_free(backend);
    }
}

/* What is drawn by several threads, in parts, equals what one thread draws element by element. */
TEST(drawn_numbers_do_not_depend_on_who_draws_them) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(3)}), &backend));
    enum { ROWS = 1001, COLUMNS = 777 };
    static float whole[ROWS * COLUMNS], part[ROWS * COLUMNS], small[COLUMNS];
    mth_arg columns = MTH_SPEC(MTH_NONE, mth_int(0));
    mth_array *array = NULL;
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){ROWS, COLUMNS}, 5, NULL, &array));
    CHECK_STATUS(mth_array_gather(array, whole));
    mth_array_free(array);
    CHECK_STATUS(mth_array_randn(backend, 2, (int64_t[]){ROWS, COLUMNS}, 5, &columns, &array));
    CHECK_STATUS(mth_array_gather(array, part));
    mth_array_free(array);
    CHECK(memcmp(whole, part, sizeof whole) == 0);
    CHECK_STATUS(mth_array_randn(backend, 1, (int64_t[]){COLUMNS}, 5, NULL, &array));
    CHECK_STATUS(mth_array_gather(array, small));
    mth_array_free(array);
    CHECK(memcmp(whole, small, sizeof small) == 0);
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        h = (h ^ (uint64_t)lrint(small[i] * 1000)) * 1099511628211u;
    CHECK(h == 0xe29938df938a158e); /* the values stay from version to version */
    CHECK_STATUS(mth_array_full(backend, MTH_INT64, -3, 1, (int64_t[]){500000}, NULL, &array));
    const int64_t *all = mth_array_get_whole(array);
    bool same = true;
    for (int i = 0; i < 500000; i++) same &= all[i] == -3;
    CHECK(same);
    mth_array_free(array);
    mth_backend_free(backend);
}

/* Each value in each dtype is what a conversion of it to that dtype and back says, or is refused: what is infinite only
 * after it was rounded, and in integers and truths what they can't hold. */
TEST(fills) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    static const double values[] = {0, -0.0, 1, 2, -3, 0.5, -0.5, 1e-46, -1e-46, 5e-324, 1e-40, 65504, 65519.99, 65520,
        256.5, 2147483647, 2147483647.5, 2147483648, -2147483648, -2147483648.5, -2147483649, 0x1p53, 0x1p63 - 1024,
        0x1p63, -0x1p63, -0x1p63 - 2048, 0x1p64, 3.4028235677973362e38, 3.4028235677973366e38, 1e39, -1e300, INFINITY,
        -INFINITY, NAN};
    int taken = 0, refused = 0;
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        for (int dtype = 1; mth_dtype_size(dtype); dtype++) {
            const double value = values[i];
            char element[8], whole[16];
            const bool rounded = mth_dtype_convert(MTH_FLOAT64, &value, dtype, element, 1) < 0;
            const mth_dtype_class kind = mth_dtype_get_class(dtype);
            bool fits = kind == MTH_CLASS_FLOATING ? rounded : value == trunc(value) && rounded && isfinite(value);
            if (kind == MTH_CLASS_BOOLEAN) fits = value == 0 || value == 1;
            mth_array *filled = NULL;
            mth_status status = mth_array_full(backend, dtype, value, 1, (int64_t[]){2}, NULL, &filled);
            CHECK(!status == fits && !filled == !fits);
            CHECK(!status || (mth_error_get_code(status) == MTH_ERROR_VALUE && *mth_error_get_fix(status)));
            mth_error_free(status);
            fits ? taken++ : refused++;
            if (!filled) continue;
            const size_t size = mth_dtype_size(dtype);
            CHECK_STATUS(mth_array_gather(filled, whole));
            CHECK(!memcmp(whole, element, size) && !memcmp(whole + size, element, size));
            mth_array_free(filled);
        }
    CHECK(taken == 138 && refused == 100); /* as NumPy has it */
    mth_array *filled = NULL;
    CHECK_FAILS(mth_array_full(backend, MTH_INT32, 2147483647.5, 0, NULL, NULL, &filled), MTH_ERROR_VALUE,
        "2147483647.5 is not a whole number");
    CHECK_FAILS(mth_array_full(backend, MTH_INT32, 2147483648, 0, NULL, NULL, &filled), MTH_ERROR_VALUE,
        "from -2147483648 to 2147483647");
    CHECK_FAILS(
        mth_array_full(backend, MTH_INT64, 0x1p63, 0, NULL, NULL, &filled), MTH_ERROR_VALUE, "to 9223372036854775807");
    CHECK(!filled);
    mth_backend_free(backend);
}

/* Numbers that are copied, read and brought into other layouts are so in pieces: each call ends at any question whether
 * to, with nothing left of it, and does not go on for long without one. */
static int questions; /* that are answered by no */
static bool is_over(void *nothing) {
    (void)nothing;
    return questions-- <= 0;
}
enum { SIDE = 2048 };
static float given[SIDE * SIDE], back[SIDE * SIDE];

static mth_status copy_and_read(mth_backend *backend) {
    mth_arg columns = MTH_SPEC(MTH_NONE, mth_int(0));
    mth_array *array = NULL;
    mth_status status = mth_array_from_data(backend, MTH_FLOAT32, 2, (int64_t[]){SIDE, SIDE}, given, &columns, &array);
    if (!status) status = mth_array_gather(array, back);
    mth_array_free(array);
    return status;
}

TEST(copies_are_interrupted) {
    mth_backend *backend = NULL;
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(3)}), &backend));
    for (int i = 0; i < SIDE * SIDE; i++) given[i] = (float)i;
    questions = INT32_MAX;
    mth_set_interrupt_check(is_over, NULL);
    CHECK_STATUS(copy_and_read(backend));
    const int asked = INT32_MAX - questions;
    CHECK(asked >= 2 * SIDE * SIDE / (1 << 18));
    CHECK(memcmp(given, back, sizeof given) == 0);
    const int64_t live = mth_debug_live_allocations();
    for (int k = 0; k < 16; k++) {
        questions = k * (asked / 16);
        CHECK_FAILS(copy_and_read(backend), MTH_ERROR_INTERRUPTED, "call again");
        CHECK(mth_debug_live_allocations() == live);
    }
    questions = 0;
    CHECK_FAILS(mth_check_interrupt(), MTH_ERROR_INTERRUPTED, "call again");
    mth_set_interrupt_check(NULL, NULL);
    CHECK_STATUS(mth_check_interrupt());
    mth_backend_free(backend);
}

TEST(null_objects_are_errors_or_read_as_nothing) {
    mth_arrays *arrays = NULL;
    mth_array *array = NULL;
    mth_model *model = NULL;
    char *text = NULL;
    int64_t dim[4];
    mth_memory_usage memory[3];
    mth_communication_usage traffic[3];
    CHECK_STATUS(mth_model_create(&model));
    CHECK_FAILS(mth_get_parameters(NULL, NULL, 0, 0, &arrays), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_get_parameter_layout(NULL, NULL, 0, &arrays), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_evaluate(NULL, NULL, NULL, 0, NULL, &arrays, NULL), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_plan(NULL, NULL, 0, false), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_plan_print(NULL, &text), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_stablehlo(NULL, NULL, 0, &text), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_explain(NULL, NULL, 0, &text), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_get_placement_text(NULL, &text), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_get_memory_usage(NULL, NULL, 0, memory, 3), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_get_communication_usage(NULL, traffic, 3), MTH_ERROR_TYPE, "compiled");
    CHECK_FAILS(mth_plan_verify_text(NULL), MTH_ERROR_TYPE, "text");
    CHECK_FAILS(mth_plan_reprint(NULL, &text), MTH_ERROR_TYPE, "text");
    CHECK_FAILS(mth_backend_describe(NULL, &text), MTH_ERROR_TYPE, "backend");
    CHECK_FAILS(mth_array_borrow(NULL, MTH_FLOAT32, 0, NULL, dim, NULL, NULL, &array), MTH_ERROR_TYPE, "backend");
    CHECK_FAILS(mth_array_gather(NULL, dim), MTH_ERROR_TYPE, "array");
    CHECK_FAILS(mth_array_read_safetensors(NULL, "a", "b", false, &array), MTH_ERROR_TYPE, "layout");
    CHECK_FAILS(mth_model_print(NULL, &text), MTH_ERROR_TYPE, "model");
    CHECK_FAILS(mth_model_connect(NULL, "a", "b"), MTH_ERROR_TYPE, "model");
    CHECK_FAILS(mth_model_add(model, NULL, NULL, 0, MTH_PLAIN), MTH_ERROR_TYPE, "module");
    CHECK_FAILS(mth_model_add_model(model, NULL, NULL, NULL, 0, MTH_PLAIN), MTH_ERROR_TYPE, "model");
    CHECK(!arrays && !array && !text);
    mth_compiled_interrupt(NULL);
    mth_array_retain(NULL);
    CHECK(!mth_array_get_rank(NULL) && !mth_array_get_shape(NULL) && !mth_array_get_dtype(NULL) &&
        !*mth_array_get_sharding(NULL));
    CHECK(
        !mth_array_get_shard_count(NULL) && mth_array_get_shard(NULL, 0).device_id == -1 && !mth_array_get_whole(NULL));
    CHECK(!mth_arrays_get_count(NULL) && !mth_arrays_get(NULL, 0).array && !mth_arrays_find(NULL, "a"));
    CHECK(!mth_backend_get_mesh(NULL, dim) && !mth_backend_get_device_count(NULL) && !mth_module_get_ports(NULL));
    CHECK(!mth_error_get_code(NULL) && !*mth_error_get_message(NULL) && !*mth_error_get_fix(NULL) &&
        !mth_error_get_tensor_count(NULL));
    mth_model_free(model);
}

RUN()
