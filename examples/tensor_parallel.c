/* Tensor parallelism: one MLP on one device and, its weights split, on four; the same seed gives the same weights, and
 * so the same numbers. */
#include <math.h>
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>

/* 512 -> 1024 -> 256. The first weight is split by columns, the second by rows, so that one all_reduce joins the parts.
 */
static mth_model *make_mlp(bool split) {
    mth_module *up, *act, *down;
    mth_model *model;
    mth_arg columns = split ? MTH_SPEC(MTH_NONE, mth_int(0)) : MTH_NONE,
            rows = split ? MTH_SPEC(mth_int(0), MTH_NONE) : MTH_NONE;
    MTH_CHECK(
        mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(1024)}, {"weight_shard_spec", columns}), &up));
    MTH_CHECK(mth_module_create("Gelu", NULL, 0, &act));
    MTH_CHECK(
        mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(256)}, {"weight_shard_spec", rows}), &down));
    MTH_CHECK(mth_model_create(&model));
    MTH_CHECK(mth_model_add(model, up, MTH_WIRES({"input", "input"}, {"output", "hidden"}), MTH_PLAIN));
    /* MTH_CHAIN: takes the previous block's output */
    MTH_CHECK(mth_model_add(model, act, MTH_WIRES({"output", "active"}), MTH_CHAIN));
    MTH_CHECK(mth_model_add(model, down, MTH_WIRES({"output", "output"}), MTH_CHAIN));
    mth_module_free(up);
    mth_module_free(act);
    mth_module_free(down);
    return model;
}

static void run(int64_t devices, float *result) {
    mth_model *model = make_mlp(devices > 1);
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x;
    mth_arrays *parameters, *outputs;
    MTH_CHECK(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(devices)}), &backend));
    MTH_CHECK(mth_compile(model, backend, NULL, 0, &compiled));
    MTH_CHECK(mth_array_randn(backend, 2, (int64_t[]){32, 512}, 7, NULL, &x));
    mth_named input = {"input", x};
    MTH_CHECK(mth_get_parameters(compiled, &input, 1, 0, &parameters));
    MTH_CHECK(mth_evaluate(compiled, parameters, &input, 1, NULL, &outputs, NULL));
    MTH_CHECK(mth_array_gather(mth_arrays_find(outputs, "output"), result));

    mth_memory_usage memory[4];
    mth_communication_usage traffic[4];
    MTH_CHECK(mth_get_memory_usage(compiled, &input, 1, memory, 4));
    MTH_CHECK(mth_get_communication_usage(compiled, traffic, 4));
    for (int64_t d = 0; d < devices; d++)
        printf("%lld of %lld: %8.1f KB of weights, %8.1f KB in all, %6.1f KB received\n", (long long)d,
            (long long)devices, (double)memory[d].weights / 1e3, (double)memory[d].total / 1e3,
            (double)traffic[d].received / 1e3);
    mth_arrays_free(outputs);
    mth_arrays_free(parameters);
    mth_array_free(x);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
}

int main(void) {
    static float one[32 * 256], four[32 * 256];
    run(1, one);
    run(4, four);
    double worst = 0, largest = 0;
    for (int i = 0; i < 32 * 256; i++) {
        worst = fmax(worst, fabs((double)one[i] - four[i]));
        largest = fmax(largest, fabs((double)one[i]));
    }
    printf("largest difference between one device and four: %.2e of %.2f\n", worst, largest);
    return worst > 1e-5 * largest;
}
