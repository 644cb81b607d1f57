/* Composition: wiring and its errors, names, the order of parameters, outputs, annotations, inputs. */
#include "compose_kit.h"

/* ---------------------------------------------------------------- names and wires */
TEST(a_chain_names_its_blocks) {
    mth_model *m = model();
    ADD(m, "Linear", WIDTH(8), NOTHING, MTH_CHAIN);
    ADD(m, "Relu", NOTHING, NOTHING, MTH_CHAIN);
    ADD(m, "Linear", WIDTH(4), NOTHING, MTH_CHAIN);
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("input", 2, 3)));
    SAME(listed, "linear_0.weight(3, 8) linear_0.bias(8,) linear_1.weight(8, 4) linear_1.bias(4,)");
    SAME(list_inputs(m), "input");
    SAME(list_outputs(m), "linear_1.output");
    char *text;
    CHECK_STATUS(mth_model_print(m, &text));
    CHECK(strstr(text, "relu_0") && strstr(text, "input=linear_0.output -> relu_0.output") &&
        strstr(text, "Linear(dimension=8)"));
    mth_text_free(text);
    mth_model_free(m);
}

TEST(outputs_are_what_nothing_consumes) {
    mth_model *m = model();
    linear(m, 8, "input", "h");
    relu(m, "h", "output");
    linear(m, 16, "input", "hidden");
    CHECK_STATUS(resolve_on(m, MESH(4)));
    SAME(list_outputs(m), "output, hidden");
    SAME(list_inputs(m), "input");
    mth_model_free(m);
}

TEST(wires_refer_forward_and_parameters_keep_the_order_of_composition) {
    mth_model *m = model();
    linear(m, 4, "h", "output");
    linear(m, 8, "x", "h");
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("x", 2, 3)));
    SAME(listed, "linear_0.weight(8, 4) linear_0.bias(4,) linear_1.weight(3, 8) linear_1.bias(8,)");
    SAME(list_outputs(m), "output");
    mth_model_free(m);
}

TEST(names_can_be_given) {
    mth_model *m = model();
    const mth_option named[] = {{"dimension", mth_int(4)}, {"name", mth_string("head")}};
    ADD(m, "Linear", named, 2, NOTHING, MTH_CHAIN);
    ADD(m, "Linear", WIDTH(4), NOTHING, MTH_CHAIN);
    CHECK_FAILS(try_add(m, "Linear", named, 2, NOTHING, MTH_CHAIN), MTH_ERROR_VALUE, "two blocks named 'head'");
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("input", 2, 4)));
    SAME(listed, "head.weight(4, 4) head.bias(4,) linear_0.weight(4, 4) linear_0.bias(4,)");
    CHECK_FAILS(
        try_add(m, "Linear", MTH_OPTIONS({"dimension", mth_int(4)}, {"name", mth_string("a.b")}), NOTHING, MTH_CHAIN),
        MTH_ERROR_VALUE, "dot");
    mth_model_free(m);
}

TEST(snake_case) {
    const struct {
        const char *type, *want;
        const mth_option *o;
        size_t n;
    } cases[] = {{"MultiHeadAttention", "multi_head_attention_0", MTH_OPTIONS({"num_heads", mth_int(2)})},
        {"MoE", "moe_0", MTH_OPTIONS({"num_experts", mth_int(2)}, {"expert_dim", mth_int(2)})},
        {"RMSNorm", "rms_norm_0", NULL, 0}, {"LayerNorm", "layer_norm_0", NULL, 0},
        {"FeedForward", "feed_forward_0", MTH_OPTIONS({"hidden_dim", mth_int(2)})}, {"MatMul", "mat_mul_0", NULL, 0},
        {"CrossEntropy", "cross_entropy_0", NULL, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mth_model *m = model();
        ADD(m, cases[i].type, cases[i].o, cases[i].n, NOTHING, MTH_PLAIN);
        SAME(m->block.at[0]->name, cases[i].want);
        mth_model_free(m);
    }
}

TEST(submodels_as_in_the_guide) {
    mth_model *m = model();
    linear(m, 8, "input", "embedding");
    for (int i = 0; i < 3; i++) {
        char in[32], out[32], before[32];
        snprintf(in, sizeof in, "layer%d_input", i);
        snprintf(out, sizeof out, "layer%d_output", i);
        snprintf(before, sizeof before, i ? "layer%d_output" : "embedding", i - 1);
        mth_model *b = model();
        ADD(b, "Linear", WIDTH(8), MTH_WIRES({"input", in}, {"output", "h"}), MTH_PLAIN);
        ADD(b, "Add", NOTHING, MTH_WIRES({"inputs", in}, {"inputs", "h"}, {"output", out}), MTH_CHAIN);
        add_model(m, b, NOTHING, MTH_CHAIN);
        CHECK_STATUS(mth_model_connect(m, before, in));
        CHECK_STATUS(mth_model_connect(m, before, in));
    }
    ADD(m, "Linear", WIDTH(5), MTH_WIRES({"input", "layer2_output"}, {"output", "logits"}), MTH_CHAIN);
    mth_model *copy;
    char *text;
    CHECK_STATUS(mth__model_snapshot(m, &copy));
    CHECK_STATUS(mth_model_print(copy, &text));
    CHECK(strstr(text, "model of 2 blocks: layer1_input=model_0.layer0_output -> model_1.layer1_output") &&
        strstr(text, "-> logits"));
    mth_text_free(text);
    mth_model_free(copy);
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("input", 2, 3)));
    SAME(listed,
        "linear_0.weight(3, 8) linear_0.bias(8,) model_0.linear_0.weight(8, 8) model_0.linear_0.bias(8,) "
        "model_1.linear_0.weight(8, 8) model_1.linear_0.bias(8,) "
        "model_2.linear_0.weight(8, 8) model_2.linear_0.bias(8,) linear_1.weight(8, 5) linear_1.bias(5,)");
    SAME(list_outputs(m), "logits");
    SAME(list_inputs(m), "input");
    CHECK_FAILS(mth_model_connect(m, "embedding", "layer1_input"), MTH_ERROR_VALUE,
        "contradicts connect(source='layer0_output', destination='layer1_input')");
    mth_model_free(m);
}

TEST(a_connect_wins_over_a_chain) {
    mth_model *m = model();
    linear(m, 8, "input", "a");
    linear(m, 8, "input", "b");
    add_model(m, block("x", "y"), NOTHING, MTH_CHAIN);
    CHECK_STATUS(mth_model_connect(m, "a", "x"));
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_outputs(m), "b, y");
    mth_model_free(m);
}

TEST(blocks_with_the_same_names_chain) {
    mth_model *m = model();
    for (int i = 0; i < 3; i++) add_model(m, block("input", "output"), NOTHING, MTH_CHAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "input");
    SAME(list_outputs(m), "output");
    relu(m, "output", "z");
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "'output' is written by model_0");
    mth_model_free(m);
}

TEST(a_parents_name_binds_an_uncalled_submodel) {
    mth_model *m = model(), *sub = model();
    ADD(sub, "Multiply", NOTHING, MTH_WIRES({"inputs", "x"}, {"inputs", "mask"}, {"output", "y"}), MTH_PLAIN);
    linear(m, 8, "input", "mask");
    linear(m, 8, "input", "h");
    add_model(m, sub, NOTHING, MTH_CHAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "input");
    SAME(list_outputs(m), "y");
    mth_model_free(m);
}

TEST(an_explicit_wire_renames_a_submodels_ports) {
    mth_model *m = model();
    add_model(m, block("x", "y"), MTH_WIRES({"x", "a"}, {"y", "b"}), MTH_PLAIN);
    add_model(m, block("x", "y"), MTH_WIRES({"x", "b"}), MTH_PLAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "a");
    SAME(list_outputs(m), "y");
    CHECK_FAILS(
        mth_model_add_model(m, m, "twice", MTH_WIRES({"z", "b"}), MTH_PLAIN), MTH_ERROR_TYPE, "twice has no port 'z'");
    mth_model_free(m);
}

TEST(a_plain_block_opens_inputs_of_its_own) {
    mth_model *m = model();
    ADD(m, "Relu", NOTHING, NOTHING, MTH_PLAIN);
    ADD(m, "Relu", NOTHING, NOTHING, MTH_PLAIN);
    ADD(m, "Relu", NOTHING, MTH_WIRES({"input", "relu_0.output"}), MTH_PLAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "input, relu_1.input");
    SAME(list_outputs(m), "relu_1.output, relu_2.output");
    mth_model_free(m);
}

/* ---------------------------------------------------------------- errors of wiring */
TEST(unknown_ports_and_modules) {
    mth_model *m = model();
    CHECK_FAILS(
        try_add(m, "Relu", NOTHING, MTH_WIRES({"inptu", "x"}), MTH_PLAIN), MTH_ERROR_TYPE, "did you mean 'input'");
    CHECK_FAILS(try_add(m, "Linaer", NOTHING, NOTHING, MTH_PLAIN), MTH_ERROR_VALUE, "did you mean 'Linear'");
    CHECK_FAILS(try_add(m, "Linear", MTH_OPTIONS({"dimensoin", mth_int(3)}), NOTHING, MTH_PLAIN), MTH_ERROR_TYPE,
        "did you mean 'dimension'");
    CHECK_FAILS(try_add(m, "Relu", NOTHING, MTH_WIRES({"input", "a"}, {"input", "b"}), MTH_PLAIN), MTH_ERROR_VALUE,
        "wired to 'a' and to 'b'");
    CHECK_FAILS(try_add(m, "Relu", NOTHING, MTH_WIRES({"input", ""}), MTH_PLAIN), MTH_ERROR_VALUE, "is no name");
    CHECK(m->block.n == 0);
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "no blocks");
    mth_model_free(m);
}

TEST(two_writers) {
    mth_model *m = model();
    relu(m, "a", "x");
    relu(m, "b", "x");
    CHECK_FAILS(
        resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "'x' is written by relu_0 (port output) and by relu_1 (port output)");
    mth_model_free(m);
}

TEST(cycles_name_their_operators) {
    mth_model *m = model();
    relu(m, "input", "start");
    relu(m, "c", "a");
    relu(m, "a", "b");
    relu(m, "b", "c");
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "cycle: relu_2 -> relu_3 -> relu_1 -> relu_2");
    mth_model_free(m);
    m = model();
    relu(m, "x", "x");
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "cycle: relu_0 -> relu_0");
    mth_model_free(m);
}

TEST(connects_that_do_not_hold) {
    mth_model *m = model();
    relu(m, "x", "hidden");
    relu(m, "y", "output");
    CHECK_STATUS(mth_model_connect(m, "hiden", "y"));
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_KEY, "did you mean 'hidden'");
    mth_model_free(m);
    m = model();
    relu(m, "x", "hidden");
    relu(m, "y", "output");
    CHECK_STATUS(mth_model_connect(m, "hidden", "z"));
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_KEY, "no block has the input 'z'");
    mth_model_free(m);
    m = model();
    relu(m, "x", "hidden");
    relu(m, "hidden", "output");
    CHECK_STATUS(mth_model_connect(m, "output", "hidden"));
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "contradicts the wire of relu_0");
    mth_model_free(m);
    m = model();
    relu(m, "x", "p");
    relu(m, "y", "q");
    CHECK_STATUS(mth_model_connect(m, "x", "y"));
    CHECK_STATUS(mth_model_connect(m, "y", "x"));
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "circle");
    CHECK_FAILS(mth_model_connect(m, NULL, "x"), MTH_ERROR_TYPE, "source");
    mth_model_free(m);
}

TEST(open_inputs_that_a_chain_cannot_tell_apart) {
    mth_model *m = model();
    relu(m, "input", "x");
    ADD(m, "CrossEntropy", NOTHING, NOTHING, MTH_CHAIN);
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "2 inputs of cross_entropy_0 are open (input, target)");
    mth_model_free(m);
    m = model();
    relu(m, "input", "x");
    ADD(m, "CrossEntropy", NOTHING, MTH_WIRES({"target", "labels"}), MTH_CHAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "input, labels");
    mth_model_free(m);
    m = model();
    ADD(m, "Add", NOTHING, MTH_WIRES({"inputs", "a"}), MTH_PLAIN);
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "takes 2 or more inputs, and has 1");
    mth_model_free(m);
}

/* ---------------------------------------------------------------- devices, meshes, specs */
static mth_status one_linear(const int64_t *mesh, int naxes, const mth_option *option, size_t n) {
    mth_model *model;
    TRY(mth_model_create(&model));
    mth_status status = try_add(model, "Linear", option, n, NOTHING, MTH_PLAIN);
    if (!status) status = expand_on(model, mesh, naxes, INPUTS(FLOATS("input", 2, 6)), NULL);
    mth_model_free(model);
    return status;
}

TEST(annotations) {
    CHECK_STATUS(one_linear(MESH(4), LINEAR({"device_id", mth_int(3)})));
    CHECK_FAILS(one_linear(MESH(4), LINEAR({"device_id", mth_int(4)})), MTH_ERROR_VALUE,
        "device_id=4 lies outside of the mesh (4,)");
    CHECK_FAILS(one_linear(MESH(4), LINEAR({"device_id", mth_int(-1)})), MTH_ERROR_VALUE, "device_id=-1");
    CHECK_FAILS(one_linear(MESH(2, 2), LINEAR({"device_mesh", MTH_INTS(4)})), MTH_ERROR_VALUE,
        "device_mesh=(4,) differs from the backend's, (2, 2)");
    CHECK_FAILS(
        one_linear(MESH(4), LINEAR({"weight_shard_spec", MTH_SPEC(mth_int(1), MTH_NONE)})), MTH_ERROR_VALUE, "axis 1");
    CHECK_FAILS(one_linear(MESH(4), LINEAR({"weight_shard_spec", MTH_SPEC(mth_int(0), mth_int(0))})), MTH_ERROR_VALUE,
        "axis 0 twice");
    CHECK_FAILS(one_linear(MESH(4), LINEAR({"weight_shard_spec", MTH_SPEC(mth_int(0))})), MTH_ERROR_VALUE,
        "2 dimensions, its spec 1 entry");
    CHECK_FAILS(
        one_linear(MESH(4), LINEAR({"device_id", mth_int(1)}, {"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)})),
        MTH_ERROR_VALUE, "splits it over several");
    const char *const keys[] = {"wieght"}, *const bias[] = {"bias"};
    mth_arg spec = MTH_SPEC(MTH_NONE, mth_int(0)), one = MTH_SPEC(mth_int(0));
    CHECK_FAILS(
        one_linear(MESH(4), LINEAR({"shard_specs", mth_dict(1, keys, &spec)})), MTH_ERROR_KEY, "did you mean 'weight'");
    CHECK_STATUS(one_linear(MESH(4), LINEAR({"shard_specs", mth_dict(1, bias, &one)})));
    CHECK_FAILS(one_linear(MESH(4), LINEAR({"shard_specs", mth_dict(1, bias, &one)}, {"bias", mth_bool(false)})),
        MTH_ERROR_KEY, "leave out");
    CHECK_FAILS(one_linear(MESH(4), MTH_OPTIONS({"dimension", mth_int(0)})), MTH_ERROR_VALUE, "below 1");
}

static void look_at_specs(mth__graph *graph) {
    const mth__value *value = graph->parameter.at[0], *b = graph->parameter.at[1];
    CHECK(value->pinned && value->fixed[1] && value->sharding.on == mth__place_whole(graph->mesh) &&
        value->sharding.dim[0].naxes == 1 && value->sharding.dim[1].naxes == 0);
    CHECK(!b->pinned && b->sharding.on == value->sharding.on && value->init == MTH__INIT_NORMAL &&
        fabs(value->init_scale - 1 / sqrt(6)) < 1e-9);
    CHECK(!strcmp(value->origin.said, "user, linear_0") && graph->node.at[0]->on == value->sharding.on &&
        !strcmp(graph->node.at[0]->attrs.spec, "ai,io->ao"));
}

TEST(specs_pin_the_weight) {
    mth_model *m = model();
    ADD(m, "Linear", LINEAR({"weight_shard_spec", MTH_SPEC(mth_int(0), MTH_NONE)}), NOTHING, MTH_PLAIN);
    CHECK_STATUS(EXPAND(m, look_at_specs, FLOATS("input", 2, 6)));
    mth_model_free(m);
}

/* ---------------------------------------------------------------- inputs */
TEST(inputs_that_do_not_fit) {
    mth_model *m = model();
    linear(m, 8, "tokens", "output");
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("toknes", 2, 3)), MTH_ERROR_KEY, "it was given as 'toknes'");
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("tokens", 2, 3), FLOATS("token", 2, 3)), MTH_ERROR_KEY, "did you mean 'tokens'");
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("tokens", 2, 3), FLOATS("tokens", 2, 3)), MTH_ERROR_KEY, "given twice");
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("tokens", 2, 0)), MTH_ERROR_VALUE, "nothing along dimension 1");
    CHECK_FAILS(EXPAND(m, NULL, IDS("tokens", 2, 3)), MTH_ERROR_TYPE, "linear_0: input must be floating, it is int32");
    CHECK_FAILS(EXPAND(m, NULL,
                    {
                        "tokens", MTH_INT32, X(2, 3)
                        , "uint8"
                    }),
        MTH_ERROR_TYPE, "linear_0: input must be floating, it is uint8");
    mth_model_free(m);
    m = model();
    ADD(m, "Embedding", MTH_OPTIONS({"vocab_size", mth_int(7)}, {"embedding_dim", mth_int(4)}), NOTHING, MTH_PLAIN);
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("input", 2, 3)), MTH_ERROR_TYPE, "must be integers");
    CHECK_STATUS(EXPAND(m, list_parameters, IDS("input", 2, 3)));
    SAME(listed, "embedding_0.weight(7, 4)");
    mth_model_free(m);
    m = model();
    ADD(m, "Add", NOTHING, MTH_WIRES({"inputs", "a"}, {"inputs", "b"}, {"output", "c"}), MTH_PLAIN);
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("a", 2, 3), FLOATS("b", 2, 4)), MTH_ERROR_VALUE, "add_0");
    mth_model_free(m);
}

static mth_status nominal_body(void *context) {
    mth__arena *arena = mth__arena_new();
    mth__input_description *description;
    size_t n = mth__model_nominal_inputs(arena, context, &description);
    listed[0] = 0;
    for (size_t i = 0; i < n; i++) {
        char shape[64];
        mth__shape_write(shape, sizeof shape, description[i].shape);
        strcat(strcat(strcat(strcat(listed, i ? " " : ""), description[i].name), mth_dtype_name(description[i].dtype)),
            shape);
    }
    mth__arena_free(arena);
    return NULL;
}

TEST(nominal_inputs) {
    mth_model *m = model(), *sub = model();
    ADD(sub, "Embedding", MTH_OPTIONS({"vocab_size", mth_int(7)}, {"embedding_dim", mth_int(8)}),
        MTH_WIRES({"input", "ids"}), MTH_CHAIN);
    ADD(sub, "PositionalEncoding", MTH_OPTIONS({"max_len", mth_int(16)}), MTH_WIRES({"output", "x"}), MTH_CHAIN);
    add_model(m, sub, NOTHING, MTH_CHAIN);
    ADD(m, "MultiHeadAttention", MTH_OPTIONS({"num_heads", mth_int(2)}), MTH_WIRES({"mask", "mask"}), MTH_CHAIN);
    CHECK_STATUS(resolve_on(m, MESH(1)));
    CHECK_STATUS(mth__guard(nominal_body, m));
    SAME(listed, "idsint32(8, 16) maskint32(8, 16)");
    mth_model *piped = model(), *copy;
    mth_arg stage = mth_submodel(m);
    ADD(piped, "Pipeline", MTH_OPTIONS({"stages", mth_list(1, &stage)}), MTH_WIRES({"ids", "tokens"}, {"mask", "seen"}),
        MTH_PLAIN);
    CHECK_STATUS(mth__model_snapshot(piped, &copy));
    mth_model_free(piped);
    CHECK_STATUS(resolve_on(copy, MESH(1)));
    CHECK_STATUS(mth__guard(nominal_body, copy));
    SAME(listed, "tokensint32(8, 16) seenint32(8, 16)");
    mth_model_free(copy);
    linear(m, 4, "features", "y");
    CHECK_STATUS(resolve_on(m, MESH(1)));
    CHECK_STATUS(mth__guard(nominal_body, m));
    SAME(listed, "");
    mth_model_free(m);
}

/* ---------------------------------------------------------------- outputs that something reads */
TEST(exposed_connections_are_outputs) {
    mth_model *m = model(), *outer = model();
    const char *const *names = NULL;
    size_t count = 0;
    linear(m, 8, "x", "h");
    relu(m, "h", "y");
    CHECK_STATUS(mth_model_expose(m, "h"));
    CHECK_STATUS(mth_model_expose(m, "h"));
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_outputs(m), "h, y");
    SAME(list_inputs(m), "x");
    CHECK_STATUS(mth_model_get_outputs(m, &names, &count));
    CHECK(count == 2 && !strcmp(names[0], "h") && !strcmp(names[1], "y"));
    CHECK_STATUS(mth_model_get_inputs(m, &names, &count));
    CHECK(count == 1 && !strcmp(names[0], "x"));
    CHECK_STATUS(mth_model_add_model(outer, m, NULL, MTH_WIRES({"h", "hidden"}), MTH_PLAIN));
    ADD(outer, "Relu", NOTHING, MTH_WIRES({"output", "z"}), MTH_CHAIN); /* reads y, not what is exposed */
    CHECK_STATUS(resolve_on(outer, MESH(1)));
    SAME(list_outputs(outer), "hidden, z");
    CHECK_STATUS(mth_model_expose(outer, "hiden"));
    CHECK_FAILS(resolve_on(outer, MESH(1)), MTH_ERROR_KEY, "'hiden' is to be an output, and no block makes it");
    CHECK_FAILS(mth_model_expose(outer, ""), MTH_ERROR_TYPE, "empty text");
    CHECK_STATUS(mth_model_expose(m, "x"));
    CHECK_FAILS(resolve_on(m, MESH(1)), MTH_ERROR_VALUE, "'x' is to be an output, and it is an input of the model");
    mth_model_free(outer);
    mth_model_free(m);
}

static mth_status select_body(void *context) {
    mth_arg names[] = {mth_string("h"), mth_string("a")}, list = mth_list(2, names);
    return mth__model_select(context, &list);
}
static mth_status expand_selected(void *context) {
    mth__arena *arena = mth__arena_new();
    mth__mesh *mesh;
    TRY(mth__mesh_new(arena, 1, (const int64_t[]){1}, &mesh));
    mth__graph *graph = mth__graph_new(arena, mesh);
    const mth__input_description description = FLOATS("x", 2, 3);
    mth__names parameters = {0}, idle = {0};
    TRY(mth__expand(context, &description, 1, graph));
    TRY(mth__graph_check(graph));
    list_parameters(graph);
    mth__model_parameters(arena, context, &parameters, &idle);
    CHECK(parameters.name.n == graph->parameter.n);
    for (size_t i = 0; i < graph->parameter.n; i++) CHECK(!strcmp(parameters.name.at[i], graph->parameter.at[i]->name));
    CHECK(graph->output.n == 2 && !strcmp(graph->output.at[0].name, "h") && !strcmp(graph->output.at[1].name, "a"));
    mth__arena_free(arena);
    return NULL;
}

TEST(what_the_selected_outputs_do_not_need_is_left_out) {
    mth_model *m = model(), *sub = model();
    linear(m, 4, "unused", "u");
    linear(m, 8, "x", "a");
    linear(sub, 8, "i", "h");
    linear(sub, 8, "j", "k"); /* reads what is not needed */
    add_model(m, sub, MTH_WIRES({"i", "a"}, {"j", "u"}, {"h", "h"}, {"k", "k"}), MTH_PLAIN);
    relu(m, "h", "y");
    CHECK_STATUS(resolve_on(m, MESH(1)));
    SAME(list_inputs(m), "unused, x");
    CHECK_STATUS(mth__guard(select_body, m));
    SAME(list_inputs(m), "x");
    SAME(list_outputs(m), "h, a");
    CHECK_STATUS(mth__guard(expand_selected, m));
    SAME(listed, "linear_1.weight(3, 8) linear_1.bias(8,) model_0.linear_0.weight(8, 8) model_0.linear_0.bias(8,)");
    mth_model_free(m);
}

/* ---------------------------------------------------------------- shared weights */
TEST(one_module_object_is_one_set_of_weights) {
    mth_module *layer = NULL, *other = NULL;
    mth_model *m = model(), *sub = model();
    CHECK_STATUS(mth_module_create("Linear", WIDTH(6), &layer));
    CHECK_STATUS(mth_module_copy(layer, &other));
    CHECK_STATUS(mth_model_add(sub, layer, MTH_WIRES({"input", "x"}, {"output", "y"}), MTH_PLAIN));
    CHECK_STATUS(mth_model_add(m, layer, NOTHING, MTH_CHAIN));
    CHECK_STATUS(mth_model_add(m, layer, NOTHING, MTH_CHAIN));
    CHECK_STATUS(mth_model_add_model(m, sub, NULL, NOTHING, MTH_CHAIN));
    CHECK_STATUS(mth_model_add(m, other, NOTHING, MTH_CHAIN));
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("input", 2, 6)));
    SAME(listed, "linear_0.weight(6, 6) linear_0.bias(6,) linear_2.weight(6, 6) linear_2.bias(6,)");
    /* what is shared inside of a copy is shared inside of it alone */
    mth_model *copy = NULL;
    CHECK_STATUS(mth_model_copy(m, &copy));
    CHECK_STATUS(mth_model_add_model(m, copy, "copy", NOTHING, MTH_CHAIN));
    CHECK_STATUS(EXPAND(m, list_parameters, FLOATS("input", 2, 6)));
    CHECK(strstr(listed, "copy.linear_0.weight") && strstr(listed, "copy.linear_2.weight") &&
        !strstr(listed, "copy.linear_1.weight") && !strstr(listed, "copy.model_0"));
    CHECK_FAILS(EXPAND(m, NULL, FLOATS("input", 2, 3)), MTH_ERROR_VALUE,
        "linear_1 shares linear_0.weight with linear_0, and takes it as (6, 6)");
    mth_model_free(copy);
    mth_model_free(sub);
    mth_model_free(m);
    mth_module_free(other);
    mth_module_free(layer);
}

TEST(a_weight_by_name) {
    mth_model *m = model();
    ADD(m, "Embedding",
        MTH_OPTIONS({"vocab_size", mth_int(7)}, {"embedding_dim", mth_int(6)}, {"name", mth_string("e")}),
        MTH_WIRES({"input", "ids"}), MTH_PLAIN);
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(7)}, {"weight", mth_string("e.weight")}), NOTHING, MTH_CHAIN);
    CHECK_STATUS(EXPAND(m, list_parameters, IDS("ids", 2, 3)));
    SAME(listed, "e.weight(7, 6) linear_0.bias(7,)");
    CHECK_STATUS(EXPAND(m, list_ops, IDS("ids", 2, 3)));
    SAME(listed, "gather contract add"); /* no transpose */
    ADD(m, "Linear", MTH_OPTIONS({"dimension", mth_int(7)}, {"weight", mth_string("linear_0.weight")}), NOTHING,
        MTH_CHAIN);
    CHECK_FAILS(EXPAND(m, NULL, IDS("ids", 2, 3)), MTH_ERROR_VALUE, "it shares 'e.weight'");
    mth_model_free(m);
}

/* A model lives on where a call had no memory: what follows finds it as it was before. */
TEST(composing_goes_on_after_a_lack_of_memory) {
    enum { BLOCKS = 40 };
    mth_model *m = model(), *plain = model();
    mth_module *layer = NULL;
    char *text = NULL, *wanted = NULL, in[16], out[16];
    CHECK_STATUS(mth_module_create("Relu", NULL, 0, &layer));
    for (int k = 0; k < BLOCKS; k++) {
        snprintf(in, sizeof in, "h%d", k);
        snprintf(out, sizeof out, "h%d", k + 1);
        const mth_wire wires[] = {{"input", in}, {"output", out}};
        CHECK_STATUS(mth_model_add(plain, layer, wires, 2, MTH_PLAIN));
        mth_status status;
        int64_t i = 0;
        do { /* the first allocation fails, then the second, until none does */
            mth_debug_fail_allocation(i++);
            status = mth_model_add(m, layer, wires, 2, MTH_PLAIN);
            mth_debug_fail_allocation(-1);
            if (status) CHECK(mth_error_get_code(status) == MTH_ERROR_MEMORY);
            mth_error_free(status);
        } while (status && i < 100);
        CHECK(!status);
    }
    CHECK_STATUS(mth_model_print(m, &text));
    CHECK_STATUS(mth_model_print(plain, &wanted));
    CHECK(strstr(text, "relu_39") && !strcmp(text, wanted));
    mth_text_free(text);
    mth_text_free(wanted);
    mth_module_free(layer);
    mth_model_free(m);
    mth_model_free(plain);
}

RUN()
