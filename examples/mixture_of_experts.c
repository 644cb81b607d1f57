/* Eight experts on four devices: tokens go to the two experts that the router likes best; each device holds and runs
 * two experts. */
#include <mithril.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    mth_module *moe;
    mth_model *model;
    mth_backend *backend;
    mth_compiled *compiled;
    mth_array *x;
    mth_arrays *parameters, *outputs;
    MTH_CHECK(mth_module_create("MoE",
        MTH_OPTIONS({"num_experts", mth_int(8)}, {"expert_dim", mth_int(256)}, {"top_k", mth_int(2)},
            {"expert_distribution", mth_string("round_robin")}, {"load_balancing_loss", mth_bool(true)},
            {"device_mesh", MTH_INTS(4)}),
        &moe));
    MTH_CHECK(mth_model_create(&model));
    MTH_CHECK(mth_model_add(
        model, moe, MTH_WIRES({"input", "input"}, {"output", "output"}, {"load_balancing_loss", "loss"}), MTH_PLAIN));
    MTH_CHECK(mth_backend_create("native", MTH_OPTIONS({"device_mesh", MTH_INTS(4)}), &backend));
    MTH_CHECK(mth_compile(model, backend, NULL, 0, &compiled));
    MTH_CHECK(mth_array_randn(backend, 2, (int64_t[]){64, 128}, 3, NULL, &x));
    mth_named input = {"input", x};
    MTH_CHECK(mth_get_parameters(compiled, &input, 1, 0, &parameters));
    MTH_CHECK(mth_evaluate(compiled, parameters, &input, 1, NULL, &outputs, NULL));

    const mth_array *experts = mth_arrays_find(parameters, "moe_0.experts.up.weight");
    for (size_t i = 0; i < mth_array_get_shard_count(experts); i++) {
        mth_shard s = mth_array_get_shard(experts, i);
        printf("device %lld holds experts", (long long)s.device_id);
        for (int64_t e = 0; e < s.size[0]; e++) printf(" %lld", (long long)(s.start[0] + e * s.step[0]));
        printf("\n");
    }
    float loss;
    MTH_CHECK(mth_array_gather(mth_arrays_find(outputs, "loss"), &loss));
    printf("load balancing loss %.4f (1 is even)\n", loss);

    mth_arrays_free(outputs);
    mth_arrays_free(parameters);
    mth_array_free(x);
    mth_compiled_free(compiled);
    mth_backend_free(backend);
    mth_model_free(model);
    mth_module_free(moe);
    return !(loss >= 0.9f && loss < 8.0f);
}
