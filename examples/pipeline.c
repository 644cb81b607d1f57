/* A pipeline of three stages with gradients: GPipe and 1F1B give the same bits, and 1F1B holds fewer activations. */
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, WIDTH = 128, OUT = 10 };

static mth_model *make_stage(int64_t width, bool act) {
    mth_module *linear, *gelu;
    mth_model *stage;
    MTH_CHECK(mth_model_create(&stage));
    MTH_CHECK(mth_module_create("Linear", MTH_OPTIONS({"dimension", mth_int(width)}), &linear));
    MTH_CHECK(mth_module_create("Gelu", NULL, 0, &gelu));
    MTH_CHECK(mth_model_add(stage, linear, MTH_WIRES({"input", "input"}), MTH_PLAIN));
    if (act) MTH_CHECK(mth_model_add(stage, gelu, NULL, 0, MTH_CHAIN));
    mth_module_free(linear);
    mth_module_free(gelu);
    return stage;
}

static int64_t run(const char *schedule, float *slope) {
    mth_model *stage[3] = {make_stage(WIDTH, true), make_stage(WIDTH, true), make_stage(OUT, false)}, *model;
    mth_module *pipeline;
    MTH_CHECK(mth_module_create("Pipeline",
        MTH_OPTIONS({"stages", MTH_SPEC(mth_submodel(stage[0]), mth_submodel(stage[1]), mth_submodel(stage[2]))},
            {"device_assignment", MTH_INTS(0, 1, 2)}, {"microbatch_size", mth_int(8)},
            {"schedule", mth_string(schedule)}),
        &pipeline));
    MTH_CHECK(mth_model_create(&model));
    MTH_CHECK(mth_model_add(model, pipeline, MTH_WIRES({"input", "input"}, {"output", "output"}), MTH_PLAIN));

    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x, *ones;
    mth_arrays *parameters, *outputs, *gradients;
    MTH_CHECK(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(3)}), &backend));
    MTH_CHECK(mth_compile(model, backend, NULL, 0, &compiled));
    MTH_CHECK(mth_array_randn(backend, 2, (int64_t[]){BATCH, WIDTH}, 1, NULL, &x));
    MTH_CHECK(mth_array_full(backend, MTH_FLOAT32, 1.0, 2, (int64_t[]){BATCH, OUT}, NULL, &ones));
    mth_named input = {"input", x}, seed = {"output", ones};
    mth_gradient_request request = {&seed, 1, NULL, 0};
    MTH_CHECK(mth_get_parameters(compiled, &input, 1, 0, &parameters));
    MTH_CHECK(mth_evaluate(compiled, parameters, &input, 1, &request, &outputs, &gradients));
    MTH_CHECK(mth_array_gather(mth_arrays_find(gradients, "pipeline_0.stage_0.linear_0.weight"), slope));
    mth_memory_usage memory[3];
    MTH_CHECK(mth_get_memory_usage(compiled, &input, 1, memory, 3));
    printf("%-5s activations of stages 0, 1, 2: %lld, %lld, %lld bytes\n", schedule, (long long)memory[0].activations,
        (long long)memory[1].activations, (long long)memory[2].activations);

    mth_arrays_free(outputs);
    mth_arrays_free(gradients);
    mth_arrays_free(parameters);
    mth_array_free(x);
    mth_array_free(ones);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
    mth_module_free(pipeline);
    for (int i = 0; i < 3; i++) mth_model_free(stage[i]);
    return memory[0].activations;
}

int main(void) {
    static float gpipe[WIDTH * WIDTH], onef1b[WIDTH * WIDTH];
    int64_t a = run("gpipe", gpipe), b = run("1f1b", onef1b);
    bool same = memcmp(gpipe, onef1b, sizeof gpipe) == 0;
    printf("gradients are %s\n", same ? "the same to the bit" : "DIFFERENT");
    return !same || b > a;
}
