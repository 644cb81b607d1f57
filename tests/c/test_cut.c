/* Models that are cut by the option `outputs`, and masks through the public API. */
#include "public_kit.h"
#include "tensor_file.h"
#include <math.h>

static mth_model *attention(void) {
    mth_model *made = model();
    ADD(made, "MultiHeadAttention", MTH_OPTIONS({"num_heads", mth_int(1)}),
        MTH_WIRES({"input", "x"}, {"mask", "m"}, {"output", "y"}), MTH_PLAIN);
    ADD(made, "Linear", MTH_OPTIONS({"dimension", mth_int(2)}), MTH_WIRES({"input", "y"}, {"output", "z"}), MTH_PLAIN);
    ADD(made, "Add", NOTHING, MTH_WIRES({"inputs", "z"}, {"inputs", "shift"}, {"output", "sum"}), MTH_PLAIN);
    return made;
}

TEST(what_a_cut_model_takes) {
    mth_model *composed = attention();
    mth_array *array = NULL, *mask = NULL;
    mth_arrays *parameters = NULL, *out = NULL;
    const mth_arg value = mth_string("z"), y = mth_string("y");
    opened whole = open_compiled("native", MTH_INTS(2), composed, MTH_OPTIONS({"outputs", mth_list(1, &value)}));
    opened cut = open_compiled("native", MTH_INTS(2), composed, MTH_OPTIONS({"outputs", mth_list(1, &y)}));
    CHECK(mth_takes_mask(cut.compiled, "m") && !mth_takes_mask(cut.compiled, "x") &&
        !mth_takes_mask(cut.compiled, "y") && !mth_takes_mask(cut.compiled, NULL));
    CHECK_STATUS(mth_array_randn(cut.backend, 3, (int64_t[]){1, 3, 4}, 1, NULL, &array));
    const struct {
        double hidden;
        bool good;
        const char *fix;
    } masks[] = {{0, true, ""}, {1, true, ""}, {1e-60, false, "mask != 0"}, {1 - 1e-12, false, "mask != 0"},
        {-1e-60, false, "mask == 0"}, {-HUGE_VAL, false, "mask == 0"}, {NAN, false, "mask == 1"}};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        const double shown[] = {1, 1, masks[i].hidden};
        CHECK_STATUS(mth_array_from_data(cut.backend, MTH_FLOAT64, 2, (int64_t[]){1, 3}, shown, NULL, &mask));
        mth_named input[] = {{"x", array}, {"m", mask}};
        if (!parameters) CHECK_STATUS(mth_get_parameters(whole.compiled, input, 2, 0, &parameters));
        if (masks[i].good)
            CHECK_STATUS(mth_evaluate(cut.compiled, parameters, input, 2, NULL, &out, NULL));
        else
            CHECK_FAILS(
                mth_evaluate(cut.compiled, parameters, input, 2, NULL, &out, NULL), MTH_ERROR_VALUE, masks[i].fix);
        CHECK(!out == !masks[i].good && (!out || mth_arrays_get_count(out) == 1));
        mth_arrays_free(out);
        out = NULL;
        mth_array_free(mask);
    }
    mth_arrays_free(parameters);
    mth_array_free(array);
    close_compiled(cut);
    close_compiled(whole);
    mth_model_free(composed);
}

/* One model, `z = x + a`, `s = z + b`, cut at z: what it has for s alone may be given wherever inputs are, and says
 * nothing; names that it doesn't have, and one given twice, are errors. */
TEST(inputs_that_the_outputs_do_not_need) {
    mth_model *composed = model();
    ADD(composed, "Add", NOTHING, MTH_WIRES({"inputs", "x"}, {"inputs", "a"}, {"output", "z"}), MTH_PLAIN);
    ADD(composed, "Add", NOTHING, MTH_WIRES({"inputs", "z"}, {"inputs", "b"}, {"output", "s"}), MTH_PLAIN);
    const mth_arg value = mth_string("z"), shape = MTH_INTS(3), far = MTH_INTS(5), split = MTH_SPEC(mth_int(0));
    opened cut = open_compiled("native", MTH_INTS(2), composed,
        MTH_OPTIONS({"outputs", mth_list(1, &value)},
            {"shapes", mth_dict(3, (const char *[]){"x", "a", "b"}, (mth_arg[]){shape, shape, far})},
            {"input_shard_specs", mth_dict(2, (const char *[]){"b", "x"}, (mth_arg[]){split, split})}));
    mth_compiled *none = NULL;
    CHECK_FAILS(
        mth_compile(composed, cut.backend,
            MTH_OPTIONS({"outputs", mth_list(1, &value)}, {"shapes", mth_dict(1, (const char *[]){"c"}, &shape)}),
            &none),
        MTH_ERROR_KEY, "no input 'c'");
    const mth_arg beyond = MTH_SPEC(mth_int(7));
    CHECK_FAILS(mth_compile(composed, cut.backend,
                    MTH_OPTIONS({"outputs", mth_list(1, &value)},
                        {"input_shard_specs", mth_dict(1, (const char *[]){"b"}, &beyond)}),
                    &none),
        MTH_ERROR_VALUE, "7");
    char *plan = NULL;
    CHECK_STATUS(mth_plan_print(cut.compiled, &plan)); /* of the shapes, in which b plays no part */
    CHECK(plan && !strstr(plan, " b:"));
    mth_text_free(plan);
    mth_array *array = NULL, *a = NULL, *b = NULL;
    CHECK_STATUS(mth_array_from_data(cut.backend, MTH_FLOAT32, 1, (int64_t[]){3}, (float[]){1, 2, 3}, NULL, &array));
    CHECK_STATUS(mth_array_from_data(cut.backend, MTH_FLOAT32, 1, (int64_t[]){3}, (float[]){4, 5, 6}, NULL, &a));
    CHECK_STATUS(mth_array_from_data(cut.backend, MTH_BOOL, 2, (int64_t[]){0, 9}, NULL, NULL, &b)); /* fits nowhere */
    const mth_named orders[][4] = {{{"x", array}, {"a", a}, {"b", b}}, {{"b", b}, {"a", a}, {"x", array}},
        {{"x", array}, {"b", b}, {"a", a}}, {{"x", array}, {"a", a}, {"b", b}, {"b", b}},
        {{"x", array}, {"a", a}, {"c", b}}};
    for (int i = 0; i < 5; i++) {
        mth_arrays *out = NULL, *layout = NULL;
        const size_t count = i == 3 ? 4 : 3;
        if (i < 3) {
            CHECK_STATUS(mth_evaluate(cut.compiled, NULL, orders[i], count, NULL, &out, NULL));
            CHECK_STATUS(mth_get_parameter_layout(cut.compiled, orders[i], count, &layout));
            CHECK_STATUS(mth_plan(cut.compiled, orders[i], count, true));
            float sum[3] = {0};
            CHECK_STATUS(mth_array_gather(mth_arrays_find(out, "z"), sum));
            CHECK(sum[0] == 5 && sum[1] == 7 && sum[2] == 9 && mth_arrays_get_count(out) == 1);
        } else {
            const char *why = i == 3 ? "'b' is given twice" : "no input 'c'";
            CHECK_FAILS(mth_evaluate(cut.compiled, NULL, orders[i], count, NULL, &out, NULL), MTH_ERROR_KEY, why);
            CHECK_FAILS(mth_get_parameter_layout(cut.compiled, orders[i], count, &layout), MTH_ERROR_KEY, why);
            CHECK_FAILS(mth_plan(cut.compiled, orders[i], count, true), MTH_ERROR_KEY, why);
        }
        mth_arrays_free(out);
        mth_arrays_free(layout);
    }
    CHECK_FAILS(mth_plan(cut.compiled, orders[1], 2, false), MTH_ERROR_KEY, "the input 'x' is missing");
    mth_array_free(array);
    mth_array_free(a);
    mth_array_free(b);
    close_compiled(cut);
    mth_model_free(composed);
}

/* A file of the whole model's weights, named in whole: the tensors that a cut model has no use for are not even looked
 * for. Any allocation of its layout and of reading may fail. */
TEST(files_of_the_whole_model) {
    mth_model *composed = model();
    ADD(composed, "Linear", MTH_OPTIONS({"dimension", mth_int(2)}, {"bias", mth_bool(false)}),
        MTH_WIRES({"input", "x"}, {"output", "h"}), MTH_PLAIN);
    ADD(composed, "Linear", MTH_OPTIONS({"dimension", mth_int(3)}), MTH_WIRES({"input", "h"}, {"output", "y"}),
        MTH_PLAIN);
    const mth_arg value = mth_string("h"), shape = MTH_INTS(1, 2);
    const opened cut = open_compiled("native", MTH_INTS(2), composed,
        MTH_OPTIONS(
            {"outputs", mth_list(1, &value)}, {"shapes", mth_dict(1, (const char *[]){"x"}, (mth_arg[]){shape})}));
    static const char header[] = "{\"w\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]}}";
    const char *path = file_of(header, strlen(header), (float[]){1, 2, 3, 4}, 16);
    const mth_file_tensor names[] = {
        {"linear_1.weight", "nowhere", true}, {"linear_0.weight", "w", false}, {"linear_1.bias", "w", false}};
    mth_arrays *layout = NULL, *read = NULL;
    mth_status status = mth_get_parameter_layout(cut.compiled, NULL, 0, &layout); /* the plan is made */
    CHECK(!status);
    mth_arrays_free(layout);
    const int64_t live = mth_debug_live_allocations();
    for (int64_t i = 0; !read; i++) {
        layout = NULL;
        mth_debug_fail_allocation(i);
        status = mth_get_parameter_layout(cut.compiled, NULL, 0, &layout);
        if (!status) status = mth_arrays_read_safetensors(layout, path, names, 3, &read);
        mth_debug_fail_allocation(-1);
        CHECK(!status == (read != NULL) && (!status || mth_error_get_code(status) == MTH_ERROR_MEMORY));
        mth_error_free(status);
        if (read) break;
        mth_arrays_free(layout);
        CHECK(mth_debug_live_allocations() == live);
    }
    float weight[4] = {0};
    CHECK(mth_arrays_get_count(read) == 1);
    CHECK_STATUS(mth_array_gather(mth_arrays_find(read, "linear_0.weight"), weight));
    CHECK(weight[0] == 1 && weight[1] == 2 && weight[2] == 3 && weight[3] == 4);
    mth_arrays_free(read);
    const mth_file_tensor twice[] = {{"linear_0.weight", "w", false}, {"linear_1.bias", "a", false}, names[2]},
                          other[] = {names[1], {"linear_2.bias", "w", false}},
                          null[] = {names[1], {"linear_1.bias", NULL, false}};
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, names, 1, &read), MTH_ERROR_KEY, "'linear_0.weight' has no");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, twice, 3, &read), MTH_ERROR_KEY, "'linear_1.bias' is named");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, other, 2, &read), MTH_ERROR_KEY, "'linear_2.bias' is no");
    CHECK_FAILS(mth_arrays_read_safetensors(layout, path, null, 2, &read), MTH_ERROR_TYPE, "tensor's name");
    unlink(path);
    mth_arrays_free(layout);
    close_compiled(cut);
    mth_model_free(composed);
}

RUN()
