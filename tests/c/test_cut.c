/* Models that are cut by the option `outputs`, and masks through the public API. */
#include "unit.h"
#include <math.h>

static void add(
    mth_model *model, const char *type, const mth_option *option, size_t options, const mth_wire *wire, size_t wires) {
    mth_module *added = NULL;
    CHECK_STATUS(mth_module_create(type, option, options, &added));
    CHECK_STATUS(mth_model_add(model, added, wire, wires, MTH_PLAIN));
    mth_module_free(added);
}

TEST(what_a_cut_model_takes) {
    mth_model *model = NULL;
    mth_backend *backend = NULL;
    mth_compiled *whole = NULL, *cut = NULL;
    mth_array *x = NULL, *mask = NULL;
    mth_arrays *parameters = NULL, *out = NULL;
    CHECK_STATUS(mth_model_create(&model));
    add(model, "MultiHeadAttention", MTH_OPTIONS({"num_heads", mth_int(1)}),
        MTH_WIRES({"input", "x"}, {"mask", "m"}, {"output", "y"}));
    add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(2)}), MTH_WIRES({"input", "y"}, {"output", "z"}));
    CHECK_STATUS(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(2)}), &backend));
    CHECK_STATUS(mth_compile(model, backend, NULL, 0, &whole));
    const mth_arg y = mth_string("y");
    CHECK_STATUS(mth_compile(model, backend, MTH_OPTIONS({"outputs", mth_list(1, &y)}), &cut));
    CHECK(mth_takes_mask(cut, "m") && !mth_takes_mask(cut, "x") && !mth_takes_mask(cut, "y") &&
        !mth_takes_mask(cut, NULL));
    CHECK_STATUS(mth_array_randn(backend, 3, (int64_t[]){1, 3, 4}, 1, NULL, &x));
    const struct {
        double hidden;
        bool good;
        const char *fix;
    } masks[] = {{0, true, ""}, {1, true, ""}, {1e-60, false, "mask != 0"}, {1 - 1e-12, false, "mask != 0"},
        {-1e-60, false, "mask == 0"}, {-HUGE_VAL, false, "mask == 0"}, {NAN, false, "mask == 1"}};
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        const double shown[] = {1, 1, masks[i].hidden};
        CHECK_STATUS(mth_array_from_data(backend, MTH_FLOAT64, 2, (int64_t[]){1, 3}, shown, NULL, &mask));
        mth_named input[] = {{"x", x}, {"m", mask}};
        if (!parameters) CHECK_STATUS(mth_get_parameters(whole, input, 2, 0, &parameters));
        if (masks[i].good)
            CHECK_STATUS(mth_evaluate(cut, parameters, input, 2, NULL, &out, NULL));
        else
            CHECK_FAILS(mth_evaluate(cut, parameters, input, 2, NULL, &out, NULL), MTH_ERROR_VALUE, masks[i].fix);
        CHECK(!out == !masks[i].good && (!out || mth_arrays_get_count(out) == 1));
        mth_arrays_free(out);
        out = NULL;
        mth_array_free(mask);
    }
    mth_arrays_free(parameters);
    mth_array_free(x);
    mth_compiled_free(cut);
    mth_compiled_free(whole);
    mth_backend_free(backend);
    mth_model_free(model);
}

RUN()
