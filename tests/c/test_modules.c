/* Modules: the graphs that they become, what they refuse, pipelines, documentation, memory that runs out. */
#include "compose_kit.h"

/* ---------------------------------------------------------------- modules */
static mth_status expand_one(const char *type, const mth_option *option, size_t n, const mth__input_description *in,
    size_t count, void (*look)(mth__graph *)) {
    mth_model *model;
    mth_wire wires[8];
    TRY(mth_model_create(&model));
    mth_module *module;
    mth_status status = mth_module_create(type, option, n, &module);
    if (!status) {
        bool several = strstr(mth_module_get_ports(module), "inputs*") != NULL;
        for (size_t i = 0; i < count; i++) wires[i] = (mth_wire){several ? "inputs" : in[i].name, in[i].name};
        status = mth_model_add(model, module, wires, count, MTH_PLAIN);
        mth_module_free(module);
    }
    if (!status) status = expand_on(model, MESH(2, 2), in, count, look);
    mth_model_free(model);
    return status;
}

TEST(linear_takes_any_rank) {
    CHECK_STATUS(expand_one("Linear", WIDTH(5), INPUTS(FLOATS("input", 4)), list_ops));
    SAME(listed, "contract add");
    CHECK_STATUS(expand_one("Linear", WIDTH(5), INPUTS(FLOATS("input", 2, 2, 2, 2, 2, 2, 2, 4)), list_parameters));
    CHECK_FAILS(expand_one("Linear", WIDTH(5), &(mth__input_description){"input", MTH_FLOAT32, {0, {0}}}, 1, NULL),
        MTH_ERROR_VALUE, "0 dimensions");
}

static void look_at_attention(mth__graph *graph) {
    CHECK(graph->parameter.n == 8 && graph->parameter.at[0]->sharding.dim[1].grain == 6 &&
        graph->parameter.at[2]->sharding.dim[1].grain == 3 && graph->parameter.at[6]->sharding.dim[0].grain == 6);
    list_parameters(graph);
}

TEST(attention) {
    const mth_option grouped[] = {{"num_heads", mth_int(6)}, {"head_dim", mth_int(3)}, {"num_kv_heads", mth_int(3)},
        {"tensor_axis", mth_int(0)}, {"rotary", mth_bool(false)}};
    CHECK_STATUS(expand_one("MultiHeadAttention", grouped, 5, INPUTS(FLOATS("input", 2, 5, 10)), look_at_attention));
    SAME(listed,
        "multi_head_attention_0.query.weight(10, 18) multi_head_attention_0.query.bias(18,) "
        "multi_head_attention_0.key.weight(10, 9) multi_head_attention_0.key.bias(9,) "
        "multi_head_attention_0.value.weight(10, 9) multi_head_attention_0.value.bias(9,) "
        "multi_head_attention_0.output.weight(18, 10) multi_head_attention_0.output.bias(10,)");
    const mth_option plain[] = {
        {"num_heads", mth_int(2)}, {"bias", mth_bool(false)}, {"causal", mth_bool(true)}, {"rotary", mth_bool(true)}};
    CHECK_STATUS(expand_one("MultiHeadAttention", plain, 4,
        INPUTS(FLOATS("input", 2, 5, 8), FLOATS("key", 2, 7, 6), IDS("mask", 2, 7)), list_ops));
    SAME(listed, "mask contract reshape contract reshape contract reshape rope rope attention reshape contract");
    CHECK_FAILS(expand_one("MultiHeadAttention", plain, 1, INPUTS(FLOATS("input", 5, 8)), NULL), MTH_ERROR_VALUE,
        "3 are needed");
    CHECK_FAILS(expand_one("MultiHeadAttention", plain, 1, INPUTS(FLOATS("input", 2, 5, 7)), NULL), MTH_ERROR_VALUE,
        "no 2 equal heads");
    CHECK_FAILS(
        expand_one("MultiHeadAttention", plain, 1, INPUTS(FLOATS("input", 2, 5, 8), FLOATS("key", 3, 7, 6)), NULL),
        MTH_ERROR_VALUE, "key does not fit");
    CHECK_FAILS(expand_one("MultiHeadAttention", plain, 1, INPUTS(FLOATS("input", 2, 5, 8), IDS("mask", 2, 6)), NULL),
        MTH_ERROR_VALUE, "mask does not fit");
    CHECK_FAILS(expand_one("MultiHeadAttention", MTH_OPTIONS({"num_heads", mth_int(8)}, {"num_kv_heads", mth_int(3)}),
                    INPUTS(FLOATS("input", 2, 5, 8)), NULL),
        MTH_ERROR_VALUE, "no multiple");
}

static void look_at_experts(mth__graph *graph) {
    const mth__value *up = graph->parameter.at[1];
    CHECK(!strcmp(up->name, "moe_0.experts.up.weight") && up->pinned && up->sharding.dim[0].naxes == 2 &&
        !up->sharding.dim[0].cyclic);
    list_parameters(graph);
}
static void look_at_round_robin(mth__graph *graph) {
    const mth__value *up = graph->parameter.at[1];
    CHECK(up->sharding.dim[0].cyclic && up->sharding.dim[0].naxes == 1);
    list_ops(graph);
}

static void look_at_split_experts(mth__graph *graph) {
    for (size_t i = 1; i < graph->parameter.n; i++)
        CHECK(graph->parameter.at[i]->pinned && graph->parameter.at[i]->sharding.dim[0].axis[0] == 1);
    list_ops(graph);
}

TEST(gated_experts_split_by_a_spec) {
    const mth_option gated[] = {{"num_experts", mth_int(4)}, {"expert_dim", mth_int(6)}, {"gated", mth_bool(true)},
        {"weight_shard_spec", MTH_SPEC(mth_int(1), MTH_NONE, MTH_NONE)}};
    CHECK_STATUS(expand_one("MoE", gated, 4, INPUTS(FLOATS("input", 5, 4)), look_at_split_experts));
    SAME(listed,
        "contract moe_route moe_rows moe_dispatch moe_matmul moe_bias moe_act moe_matmul moe_bias moe_mul moe_matmul "
        "moe_bias moe_combine");
}

TEST(mixture_of_experts) {
    const mth_option spread[] = {{"num_experts", mth_int(8)}, {"expert_dim", mth_int(6)},
        {"expert_distribution", mth_string("one_per_device")}, {"device_mesh", MTH_INTS(2, 2)}};
    CHECK_STATUS(expand_one("MoE", spread, 4, INPUTS(FLOATS("input", 2, 5, 4)), look_at_experts));
    SAME(listed,
        "moe_0.router.weight(4, 8) moe_0.experts.up.weight(8, 4, 6) moe_0.experts.up.bias(8, 6) "
        "moe_0.experts.down.weight(8, 6, "
        "4) moe_0.experts.down.bias(8, 4)");
    const mth_option all[] = {{"num_experts", mth_int(8)}, {"expert_dim", mth_int(6)},
        {"expert_distribution", mth_string("round_robin")}, {"capacity_factor", mth_float(1.25)},
        {"load_balancing_loss", mth_bool(true)}, {"bias", mth_bool(false)}};
    CHECK_STATUS(expand_one("MoE", all, 6, INPUTS(FLOATS("input", 10, 4)), look_at_round_robin));
    SAME(listed,
        "contract moe_route moe_capacity moe_rows moe_dispatch moe_matmul moe_act moe_matmul moe_combine moe_count "
        "scale softmax "
        "reduce_sum scale mul reduce_sum");
    CHECK_FAILS(
        expand_one("MoE", MTH_OPTIONS({"num_experts", mth_int(2)}, {"expert_dim", mth_int(6)}, {"top_k", mth_int(3)}),
            INPUTS(FLOATS("input", 10, 4)), NULL),
        MTH_ERROR_VALUE, "top_k=3");
    mth_model *m = model();
    ADD(m, "MoE", all, 6, NOTHING, MTH_CHAIN);
    ADD(m, "Relu", NOTHING, MTH_WIRES({"output", "y"}), MTH_CHAIN);
    CHECK_STATUS(resolve_on(m, MESH(4)));
    SAME(list_outputs(m), "moe_0.dropped, moe_0.load_balancing_loss, y");
    mth_model_free(m);
}

TEST(each_module_expands) {
    const struct {
        const char *type, *ops;
        const mth_option *o;
        size_t n;
        const mth__input_description *in;
        size_t count;
    } cases[] = {
        {"Gelu", "gelu_tanh", MTH_OPTIONS({"approximate", mth_bool(true)}), INPUTS(FLOATS("input", 3))},
        {"Silu", "silu", NOTHING, INPUTS(FLOATS("input", 3))},
        {"Sigmoid", "sigmoid", NOTHING, INPUTS(FLOATS("input", 3))},
        {"Tanh", "tanh", NOTHING, INPUTS(FLOATS("input", 3))},
        {"Softmax", "softmax", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"LayerNorm", "layer_norm", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"LayerNorm", "scale layer_norm", MTH_OPTIONS({"bias", mth_bool(false)}), INPUTS(FLOATS("input", 3, 4))},
        {"RMSNorm", "rms_norm", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"Dropout", "dropout", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"Dropout", "copy", MTH_OPTIONS({"rate", mth_int(0)}), INPUTS(FLOATS("input", 3, 4))},
        {"PositionalEncoding", "sinusoid add", MTH_OPTIONS({"max_len", mth_int(5)}), INPUTS(FLOATS("input", 2, 3, 4))},
        {"PositionalEncoding", "slice add", MTH_OPTIONS({"max_len", mth_int(5)}, {"kind", mth_string("learned")}),
            INPUTS(FLOATS("input", 2, 3, 4))},
        {"PositionalEncoding", "reshape rope reshape",
            MTH_OPTIONS({"max_len", mth_int(5)}, {"kind", mth_string("rotary")}, {"head_dim", mth_int(2)}),
            INPUTS(FLOATS("input", 2, 3, 4))},
        {"FeedForward", "contract add gelu contract add", MTH_OPTIONS({"hidden_dim", mth_int(8)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"FeedForward", "contract silu contract mul contract",
            MTH_OPTIONS({"hidden_dim", mth_int(8)}, {"gated", mth_bool(true)}, {"activation", mth_string("silu")},
                {"bias", mth_bool(false)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"Add", "add add", NOTHING, INPUTS(FLOATS("a", 3, 4), FLOATS("b", 4), FLOATS("c", 1))},
        {"Subtract", "sub", NOTHING, INPUTS(FLOATS("a", 3, 4), FLOATS("b", 4))},
        {"Multiply", "mul", NOTHING, INPUTS(FLOATS("a", 3, 4), FLOATS("b", 4))},
        {"Divide", "div", NOTHING, INPUTS(FLOATS("a", 3, 4), FLOATS("b", 4))},
        {"MatMul", "contract", NOTHING, INPUTS(FLOATS("a", 2, 3, 4), FLOATS("b", 4, 5))},
        {"MatMul", "contract", NOTHING, INPUTS(FLOATS("a", 2, 3, 4), FLOATS("b", 2, 4, 5))},
        {"Concat", "concat", MTH_OPTIONS({"axis", mth_int(-1)}), INPUTS(FLOATS("a", 3, 4), FLOATS("b", 3, 2))},
        {"Split", "slice slice", MTH_OPTIONS({"parts", mth_int(2)}, {"axis", mth_int(1)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"Slice", "slice", MTH_OPTIONS({"axis", mth_int(1)}, {"start", mth_int(-2)}), INPUTS(FLOATS("input", 3, 4))},
        {"Reshape", "reshape", MTH_OPTIONS({"shape", MTH_INTS(2, -1)}), INPUTS(FLOATS("input", 3, 4))},
        {"Transpose", "transpose", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"Mean", "reduce_sum scale", NOTHING, INPUTS(FLOATS("input", 3, 4))},
        {"Sum", "reduce_sum", MTH_OPTIONS({"axis", MTH_INTS(0, -1)}), INPUTS(FLOATS("input", 3, 4))},
        {"Max", "reduce_max", MTH_OPTIONS({"axis", mth_int(1)}, {"keepdims", mth_bool(true)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"CrossEntropy", "reduce_max stop sub exp reduce_sum log pick sub reduce_sum scale", NOTHING,
            INPUTS(FLOATS("input", 3, 4), IDS("target", 3))},
        {"SquaredError", "sub square reduce_sum", MTH_OPTIONS({"reduction", mth_string("sum")}),
            INPUTS(FLOATS("input", 3, 4), FLOATS("target", 3, 4))},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CHECK_STATUS(expand_one(cases[i].type, cases[i].o, cases[i].n, cases[i].in, cases[i].count, list_ops));
        SAME(listed, cases[i].ops);
    }
}

#define EXPERTS                                                                                                        \
    {"num_experts", mth_int(4)}, { "expert_dim", mth_int(6) }

TEST(modules_refuse) {
    const struct {
        const char *type, *text;
        const mth_option *o;
        size_t n;
        const mth__input_description *in;
        size_t count;
    } cases[] = {
        {"Softmax", "axis=2 is no dimension", MTH_OPTIONS({"axis", mth_int(2)}), INPUTS(FLOATS("input", 3, 4))},
        {"Split", "no 3 equal parts", MTH_OPTIONS({"parts", mth_int(3)}, {"axis", mth_int(1)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"Slice", "take nothing", MTH_OPTIONS({"axis", mth_int(0)}, {"start", mth_int(3)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"Reshape", "12 elements do not fill", MTH_OPTIONS({"shape", MTH_INTS(5, -1)}), INPUTS(FLOATS("input", 3, 4))},
        {"Reshape", "2 times -1", MTH_OPTIONS({"shape", MTH_INTS(-1, -1)}), INPUTS(FLOATS("input", 3, 4))},
        {"Transpose", "name each of the 2 dimensions once", MTH_OPTIONS({"axes", MTH_INTS(0, 0)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"PositionalEncoding", "longer than max_len=2", MTH_OPTIONS({"max_len", mth_int(2)}),
            INPUTS(FLOATS("input", 2, 3, 4))},
        {"MatMul", "do not fit a matrix product", NOTHING, INPUTS(FLOATS("a", 2, 3), FLOATS("b", 4, 5))},
        {"CrossEntropy", "targets do not fit", NOTHING, INPUTS(FLOATS("input", 3, 4), IDS("target", 4))},
        {"SquaredError", "different shapes", NOTHING, INPUTS(FLOATS("input", 3, 4), FLOATS("target", 4))},
        {"Subtract", "takes 2 inputs, and has 3", NOTHING, INPUTS(FLOATS("a", 3), FLOATS("b", 3), FLOATS("c", 3))},
        {"Split", "more than 1024", MTH_OPTIONS({"parts", mth_int(5000)}), INPUTS(FLOATS("input", 5000))},
        {"LayerNorm", "epsilon=-1 is negative", MTH_OPTIONS({"epsilon", mth_float(-1)}), INPUTS(FLOATS("input", 3))},
        {"PositionalEncoding", "no whole heads of 3",
            MTH_OPTIONS({"max_len", mth_int(9)}, {"kind", mth_string("rotary")}, {"head_dim", mth_int(3)}),
            INPUTS(FLOATS("input", 2, 3, 4))},
        {"MultiHeadAttention", "more than any device can hold",
            MTH_OPTIONS({"num_heads", mth_int(1ll << 40)}, {"head_dim", mth_int(1 << 20)}),
            INPUTS(FLOATS("input", 2, 3, 4))},
        {"FeedForward", "tensor_axis=2 is no axis of the mesh (2, 2)",
            MTH_OPTIONS({"hidden_dim", mth_int(4)}, {"tensor_axis", mth_int(2)}), INPUTS(FLOATS("input", 3))},
        {"Embedding", "both say how the weight is split",
            MTH_OPTIONS({"vocab_size", mth_int(4)}, {"embedding_dim", mth_int(4)}, {"tensor_axis", mth_int(0)},
                {"weight_shard_spec", MTH_SPEC(MTH_NONE, mth_int(0))}),
            INPUTS(IDS("input", 3))},
        {"MoE", "no room", MTH_OPTIONS(EXPERTS, {"capacity_factor", mth_float(0)}), INPUTS(FLOATS("input", 3, 4))},
        {"MoE", "both say where",
            MTH_OPTIONS(EXPERTS, {"expert_distribution", mth_string("round_robin")},
                {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE, MTH_NONE)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"MoE", "the first of 3 dimensions",
            MTH_OPTIONS(EXPERTS, {"weight_shard_spec", MTH_SPEC(mth_int(0), mth_int(1), MTH_NONE)}),
            INPUTS(FLOATS("input", 3, 4))},
        {"Dropout", "rate=1", MTH_OPTIONS({"rate", mth_int(1)}), INPUTS(FLOATS("input", 3, 4))},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_FAILS(expand_one(cases[i].type, cases[i].o, cases[i].n, cases[i].in, cases[i].count, NULL),
            MTH_ERROR_VALUE, cases[i].text);
}

/* ---------------------------------------------------------------- pipelines */
static mth_model *stage(const char *in, const char *hidden, const char *out) {
    mth_model *m = model();
    linear(m, 8, in, hidden);
    relu(m, hidden, out);
    return m;
}
static mth_status try_pipeline(mth_model *model, mth_model **stages, size_t n, const mth_option *more, size_t count,
    const mth_wire *wire, size_t wires) {
    mth_arg items[8];
    mth_option option[8];
    for (size_t i = 0; i < n; i++) items[i] = mth_submodel(stages[i]);
    option[0] = (mth_option){"stages", mth_list(n, items)};
    for (size_t i = 0; i < count; i++) option[i + 1] = more[i];
    mth_status status = try_add(model, "Pipeline", option, count + 1, wire, wires, MTH_PLAIN);
    for (size_t i = 0; i < n; i++) mth_model_free(stages[i]);
    return status;
}
static void look_at_stages(mth__graph *graph) {
    list_parameters(graph);
    CHECK(graph->region.n == 1);
    const mth__region *region = graph->region.at[0];
    CHECK(region->stages == 3 && region->microbatch_size == 8 && region->schedule == MTH__1F1B && region->nin == 1 &&
        region->nout == 1 && !strcmp(region->name, "pipeline_0"));
    for (size_t i = 0; i < graph->node.n; i++) {
        const mth__node *node = graph->node.at[i];
        CHECK(node->label.region == 0 && node->label.stage >= 0 && node->label.stage < 3 &&
            node->on == region->stage_on[node->label.stage] && node->label.microbatch == -1);
    }
    CHECK(region->stage_on[1] == mth__place_device(graph->mesh, 1) && region->stage_on[2]->count == 2);
    for (size_t i = 0; i < graph->parameter.n; i++)
        CHECK(graph->parameter.at[i]->sharding.on == region->stage_on[i / 2]);
}

TEST(pipeline) {
    mth_model *m = model();
    mth_arg last = MTH_INTS(2, 3), where = MTH_SPEC(mth_int(0), mth_int(1), last);
    CHECK_STATUS(try_pipeline(m,
        (mth_model *[]){stage("input", "h", "a"), stage("input", "h", "a"), stage("input", "h", "y")}, 3,
        MTH_OPTIONS({"device_assignment", where}, {"microbatch_size", mth_int(8)}, {"schedule", mth_string("1f1b")}),
        MTH_WIRES({"input", "input"}, {"output", "output"})));
    CHECK_STATUS(EXPAND(m, look_at_stages, FLOATS("input", 16, 3)));
    SAME(listed,
        "pipeline_0.stage_0.linear_0.weight(3, 8) pipeline_0.stage_0.linear_0.bias(8,) "
        "pipeline_0.stage_1.linear_0.weight(8, 8) "
        "pipeline_0.stage_1.linear_0.bias(8,) "
        "pipeline_0.stage_2.linear_0.weight(8, 8) pipeline_0.stage_2.linear_0.bias(8,)");
    SAME(list_outputs(m), "output");
    mth_model_free(m);
}

/* y = x * skip, named as given */
static mth_model *product(const char *a, const char *b, const char *out) {
    mth_model *m = model();
    ADD(m, "Multiply", NOTHING, MTH_WIRES({"inputs", a}, {"inputs", b}, {"output", out}), MTH_PLAIN);
    return m;
}

TEST(stages_bind_by_name) {
    mth_model *m = model();
    CHECK_STATUS(
        try_pipeline(m, (mth_model *[]){block("input", "skip"), block("input", "h"), product("x", "skip", "y")}, 3,
            NOTHING, MTH_WIRES({"input", "input"})));
    CHECK_STATUS(resolve_on(m, MESH(3)));
    SAME(m->block.at[0]->module->ports, "input -> output");
    SAME(list_outputs(m), "pipeline_0.output");
    mth_model_free(m);
    m = model();
    CHECK_STATUS(try_pipeline(m, (mth_model *[]){block("input", "h"), product("h", "mask", "y")}, 2, NOTHING,
        MTH_WIRES({"input", "input"}, {"mask", "m"})));
    CHECK_STATUS(resolve_on(m, MESH(3)));
    SAME(list_inputs(m), "input, m");
    mth_model_free(m);
    m = model();
    CHECK_STATUS(try_pipeline(m, (mth_model *[]){block("input", "h"), product("x", "mask", "y")}, 2, NOTHING,
        MTH_WIRES({"input", "input"}, {"mask", "m"})));
    CHECK_STATUS(resolve_on(m, MESH(3)));
    CHECK_STATUS(EXPAND(m, list_ops, FLOATS("input", 16, 3), FLOATS("m", 16, 3)));
    SAME(listed, "relu mul");
    mth_model_free(m);
    m = model();
    CHECK_STATUS(try_pipeline(
        m, (mth_model *[]){block("input", "h"), product("x", "mask", "y")}, 2, NOTHING, MTH_WIRES({"input", "input"})));
    CHECK_FAILS(resolve_on(m, MESH(3)), MTH_ERROR_VALUE, "nothing binds the input 'mask' of stage_1");
    mth_model_free(m);
    m = model();
    CHECK_STATUS(try_pipeline(
        m, (mth_model *[]){block("input", "h"), product("h", "mask", "y")}, 2, NOTHING, MTH_WIRES({"input", "input"})));
    CHECK_FAILS(resolve_on(m, MESH(3)), MTH_ERROR_VALUE, "pipeline_0: nothing binds the input 'mask' of stage_1");
    mth_model_free(m);
}

TEST(a_stage_that_nothing_feeds) {
    mth_model *m = model();
    CHECK_STATUS(try_pipeline(m, (mth_model *[]){product("a", "b", "h"), product("a", "b", "h")}, 2, NOTHING,
        MTH_WIRES({"a", "x"}, {"b", "y"})));
    CHECK_FAILS(resolve_on(m, MESH(2)), MTH_ERROR_VALUE, "all inputs of stage_1 are wired from outside");
    mth_model_free(m);
}

TEST(pipelines_refuse) {
    mth_model *m = model();
    mth_arg two = MTH_INTS(0, 1), far = MTH_INTS(0, 7), twice = MTH_INTS(1, 1), pair = MTH_SPEC(mth_int(0), twice);
#define TWO (mth_model *[]){block("input", "h"), block("input", "h")}, 2
    CHECK_FAILS(
        try_pipeline(m, (mth_model *[]){block("input", "h")}, 1, MTH_OPTIONS({"device_assignment", two}), NOTHING),
        MTH_ERROR_VALUE, "2 entries for 1 stages");
    CHECK_FAILS(
        try_pipeline(m, TWO, MTH_OPTIONS({"device_assignment", pair}), NOTHING), MTH_ERROR_VALUE, "device 1 twice");
    CHECK_FAILS(try_pipeline(m, TWO, MTH_OPTIONS({"microbatch_size", mth_int(0)}), NOTHING), MTH_ERROR_VALUE,
        "microbatch_size=0");
    CHECK_FAILS(try_pipeline(m, TWO, MTH_OPTIONS({"microbatch_size", mth_int(-3)}), NOTHING), MTH_ERROR_VALUE,
        "microbatch_size=-3");
    CHECK_FAILS(
        try_pipeline(m, TWO, MTH_OPTIONS({"schedule", mth_string("gpip")}), NOTHING), MTH_ERROR_VALUE, "did you mean");
    CHECK_FAILS(
        try_pipeline(m, TWO, MTH_OPTIONS({"device_id", mth_int(0)}), NOTHING), MTH_ERROR_VALUE, "device_assignment");
    CHECK_FAILS(try_pipeline(m, TWO, MTH_OPTIONS({"device_assignment", two}, {"axis", mth_int(0)}), NOTHING),
        MTH_ERROR_VALUE, "one of the two");
    CHECK_FAILS(try_pipeline(m, (mth_model *[]){model()}, 1, NOTHING, NOTHING), MTH_ERROR_VALUE, "empty model");
    CHECK_FAILS(try_pipeline(m, NULL, 0, NOTHING, NOTHING), MTH_ERROR_VALUE, "without stages");
    CHECK_STATUS(try_pipeline(m, TWO, MTH_OPTIONS({"device_assignment", far}), NOTHING));
    CHECK_FAILS(resolve_on(m, MESH(4)), MTH_ERROR_VALUE, "gives stage_1 device 7, and the mesh has 4");
    mth_model *nested = model();
    CHECK_FAILS(try_pipeline(nested, (mth_model *[]){m}, 1, NOTHING, NOTHING), MTH_ERROR_VALUE, "holds a Pipeline");
    mth_model_free(nested);
    m = model();
    mth_model *s = model();
    ADD(s, "Linear", LINEAR({"device_id", mth_int(3)}), NOTHING, MTH_PLAIN);
    CHECK_STATUS(
        try_pipeline(m, (mth_model *[]){block("input", "h"), s}, 2, MTH_OPTIONS({"device_assignment", two}), NOTHING));
    CHECK_FAILS(
        resolve_on(m, MESH(4)), MTH_ERROR_VALUE, "pipeline_0.stage_1.linear_0: device_id=3 lies outside of the stage");
    mth_model_free(m);
}

static void look_at_slices(mth__graph *graph) {
    const mth__region *region = graph->region.at[0];
    CHECK(region->stage_on[0] == mth__place_slice(graph->mesh, 0, 0) &&
        region->stage_on[1] == mth__place_slice(graph->mesh, 0, 1) && region->stage_on[2] == region->stage_on[0]);
    CHECK(graph->parameter.at[0]->sharding.on == region->stage_on[0] &&
        graph->parameter.at[0]->sharding.dim[1].naxes == 1);
}

TEST(stages_along_an_axis) {
    mth_model *m = model(), *s[3];
    for (int i = 0; i < 3; i++)
        ADD(s[i] = model(), "Linear",
            LINEAR({"weight_shard_spec", MTH_SPEC(MTH_NONE, mth_int(0))}, {"device_mesh", MTH_INTS(2)}), NOTHING,
            MTH_PLAIN);
    CHECK_STATUS(try_pipeline(m, s, 3, MTH_OPTIONS({"axis", mth_int(0)}), NOTHING));
    CHECK_STATUS(expand_on(m, MESH(2, 2), INPUTS(FLOATS("input", 4, 6)), look_at_slices));
    CHECK_FAILS(resolve_on(m, MESH(2, 3)), MTH_ERROR_VALUE, "device_mesh=(2,) differs from the stage's, (3,)");
    mth_model_free(m);
}

/* ---------------------------------------------------------------- documentation, memory */
TEST(every_type_is_documented) {
    CHECK(mth_module_type_count() == 32 && !mth_module_type_name(32) && !mth_module_type_doc("Linaer"));
    for (size_t i = 0; i < mth_module_type_count(); i++) {
        const char *name = mth_module_type_name(i);
        CHECK(strlen(mth_module_type_doc(name)) > 40 &&
            strstr(mth_module_type_signature(name), "device_id: int | None = None") &&
            strstr(mth_module_type_ports(name), " -> output"));
    }
    SAME(mth_module_type_ports("MultiHeadAttention"), "input, key?, value?, mask? -> output");
    CHECK(strstr(mth_module_type_doc("Linear"), "Parameters: weight (in, dimension), bias (dimension,)"));
}

static mth_status compose_all(void *context) {
    (void)context;
    mth_model *model = NULL, *sub = NULL, *again = NULL;
    mth_module *module = NULL, *other = NULL;
    mth_status status = mth_model_create(&model);
    if (!status) status = mth_model_create(&sub);
    if (!status) status = mth_module_create("Linear", WIDTH(4), &module);
    if (!status) status = mth_model_add(sub, module, NOTHING, MTH_CHAIN);
    if (!status) status = mth_model_add_model(model, sub, NULL, NOTHING, MTH_CHAIN);
    if (!status) status = mth_module_copy(module, &other); /* of another input width: weights of its own */
    if (!status) status = mth_model_add(model, other, MTH_WIRES({"output", "y"}), MTH_CHAIN);
    if (!status) status = mth_model_copy(model, &again);
    if (!status) status = expand_on(model, MESH(4), INPUTS(FLOATS("input", 2, 6)), NULL);
    mth_module_free(module);
    mth_module_free(other);
    mth_model_free(again);
    mth_model_free(sub);
    mth_model_free(model);
    return status;
}

TEST(warnings_and_what_is_absent_are_told_in_c_too) {
    mth_module *after = NULL, *before = NULL;
    const char *why = NULL, *fix = NULL;
    CHECK_STATUS(mth_module_create(
        "MoE", MTH_OPTIONS({"num_experts", mth_int(4)}, {"expert_dim", mth_int(8)}, {"top_k", mth_int(1)}), &after));
    CHECK_STATUS(mth_module_create("MoE",
        MTH_OPTIONS({"num_experts", mth_int(4)}, {"expert_dim", mth_int(8)}, {"top_k", mth_int(1)},
            {"router_softmax", mth_string("before")}),
        &before));
    CHECK(mth_module_get_warning(after) && strstr(mth_module_get_warning(after), "router.weight has no gradient"));
    CHECK(!mth_module_get_warning(before) && !mth_module_get_warning(NULL));
    mth_module_free(after);
    mth_module_free(before);
    CHECK(mth_absent("option", "max_memory_per_device", &why, &fix) && strstr(why, "not in this version"));
    CHECK(strstr(fix, "mth_get_memory_usage") && !strstr(fix, "()")); /* the library's words */
    CHECK(mth_absent("option", "jit", NULL, NULL));
    CHECK(!mth_absent("option", "dimension", &why, &fix) && !mth_absent("option", "", &why, &fix));
    CHECK(!mth_absent("option", "jit file_path", &why, &fix) && !mth_absent("model", "jit", &why, &fix));
    CHECK(!mth_absent(NULL, "jit", &why, &fix) && !mth_absent("option", NULL, &why, &fix));
}

TEST(memory_that_runs_out_at_any_index) {
    int64_t live = mth_debug_live_allocations(), before = mth_debug_allocation_count();
    CHECK_STATUS(compose_all(NULL));
    int64_t count = mth_debug_allocation_count() - before;
    CHECK(mth_debug_live_allocations() == live);
    for (int64_t i = 0; i < count; i++) {
        mth_debug_fail_allocation(i);
        mth_status status = compose_all(NULL);
        mth_debug_fail_allocation(-1);
        CHECK(status && mth_error_get_code(status) == MTH_ERROR_MEMORY);
        mth_error_free(status);
        CHECK(mth_debug_live_allocations() == live);
    }
}

RUN()
