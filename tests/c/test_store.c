/* memory_optimization: what is stored in parts gives the same numbers, takes a part of the memory, and is gathered by
 * each direction anew. */
#include "world.h"
#include "same_arrays.h"

/* ---------------------------------------------------------------- the plan */
static mth__value *layer(world *w, int k, mth__value *x, int64_t width) {
    char text[32];
    snprintf(text, sizeof text, "layer_%d.weight", k);
    return one(w, "gelu", contract(w, "bi,io->bo", x, parameter(w, text, SHAPE(x->shape.dim[1], width))));
}

static int64_t position(const world *w, const mth__node *node) {
    for (size_t i = 0; i < w->graph->node.n; i++)
        if (w->graph->node.at[i] == node) return (int64_t)i;
    return -1;
}

/* Each gather stands in front of its one reader: nothing else but gathers in between. */
static void gathers_are_late(const world *w) {
    for (size_t i = 0; i < w->graph->node.n; i++) {
        const mth__node *node = w->graph->node.at[i];
        if (node->in[0]->kind != MTH__VALUE_PARAMETER || strcmp(node->op->name, "all_gather")) continue;
        size_t k = i + 1;
        while (w->graph->node.at[k]->op->flags & MTH__COMM) k++;
        bool reads = false;
        for (int j = 0; j < w->graph->node.at[k]->nin; j++) reads |= w->graph->node.at[k]->in[j] == node->out[0];
        CHECK(reads && position(w, node) == (int64_t)i);
    }
}

WORLD_TEST(each_direction_gathers_and_gradients_are_scattered, 4) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options = (mth__distribute_options){.spec = spec, .specs = 1, .store_sharded = true};
    mth__value *x = input(w, "input", SHAPE(64, 48));
    for (int k = 0; k < 4; k++) x = layer(w, k, x, 48);
    output(w, "output", x);
    TRY(plan(w, true));
    for (size_t i = 0; i < w->graph->parameter.n; i++) {
        CHECK(is_sharded(w, w->graph->parameter.at[i], "(0, None)"));
        CHECK(w->graph->parameter.at[i]->read_as && !mth__sharding_axes(w->graph->parameter.at[i]->read_as, 2));
        CHECK(is_sharded(w, w->graph->output.at[1 + i].value, "(0, None)"));
    }
    CHECK(count(w, "all_gather") == 4 + 3 + 1); /* forward; backward but for the first layer; the output */
    CHECK(count(w, "reduce_scatter") == 4 && count(w, "all_reduce") == 0);
    gathers_are_late(w);
    return NULL;
}
WORLD_TEST(a_gradient_that_is_no_partial_sum_is_made_in_parts, 4) {
    w->options = (mth__distribute_options){.store_sharded = true};
    output(w, "output", layer(w, 0, input(w, "input", SHAPE(64, 48)), 48));
    TRY(plan(w, true));
    CHECK(moving(w) == 1 && count(w, "all_gather") == 1);
    return NULL;
}
WORLD_TEST(the_users_word_and_small_tensors_stay, 2, 2) {
    w->options = (mth__distribute_options){.store_sharded = true};
    mth__value *x = input(w, "input", SHAPE(8, 64));
    x = contract(w, "bi,io->bo", x, PIN(w, parameter(w, "users", SHAPE(64, 64)), -1, 1));
    for (int d = 0; d < 2; d++) w->graph->parameter.at[0]->fixed[d] = true;
    x = two(w, "add", x, parameter(w, "small", SHAPE(64)));
    x = contract(w, "bi,io->bo", x, parameter(w, "open", SHAPE(64, 63))); /* settles at axis 1 */
    x = two(w, "add", x, parameter(w, "table", SHAPE(8, 63 * 1)));
    output(w, "output", x);
    TRY(plan(w, true));
    CHECK(is_sharded(w, w->graph->parameter.at[0], "(None, 1)") && !w->graph->parameter.at[0]->read_as);
    CHECK(is_sharded(w, w->graph->parameter.at[1], "(1,)") && !w->graph->parameter.at[1]->read_as);
    /* what axis 1 leaves whole, axis 0 splits */
    CHECK(is_sharded(w, w->graph->parameter.at[2], "((1, 0), None)"));
    CHECK(!w->graph->parameter.at[3]->read_as);
    return NULL;
}
WORLD_TEST(the_dimension_that_divides_best, 3) {
    w->options = (mth__distribute_options){.store_sharded = true};
    mth__value *x = input(w, "input", SHAPE(8, 64)), *y = contract(w, "bi,io->bo", x, parameter(w, "a", SHAPE(64, 33)));
    y = contract(w, "bi,io->bo", y, parameter(w, "b", SHAPE(33, 300)));
    output(w, "output", contract(w, "bi,io->bo", y, parameter(w, "c", SHAPE(300, 31))));
    TRY(plan(w, false));
    CHECK(is_sharded(w, w->graph->parameter.at[0], "(None, 0)"));
    CHECK(is_sharded(w, w->graph->parameter.at[1], "(None, 0)")); /* of two that divide, the larger */
    CHECK(is_sharded(w, w->graph->parameter.at[2], "(0, None)"));
    return NULL;
}
WORLD_TEST(a_weight_read_at_both_ends_is_gathered_twice, 2) {
    w->options = (mth__distribute_options){.store_sharded = true};
    mth__value *tied = parameter(w, "tied", SHAPE(64, 64)), *x = input(w, "input", SHAPE(8, 64));
    x = contract(w, "bi,io->bo", x, tied);
    x = contract(w, "bi,io->bo", x, tied); /* near: the same copy */
    for (int k = 0; k < 20; k++) x = one(w, "tanh", x);
    output(w, "output", contract(w, "bi,io->bo", x, tied));
    TRY(plan(w, false));
    CHECK(count(w, "all_gather") == 2);
    return NULL;
}

/* ---------------------------------------------------------------- the numbers */
static void add(
    mth_model *model, const char *type, const mth_option *option, size_t n, const char *out, mth_add_mode mode) {
    mth_module *module = NULL;
    CHECK_STATUS(mth_module_create(type, option, n, &module));
    CHECK_STATUS(mth_model_add(model, module, &(mth_wire){"output", out}, out != NULL, mode));
    mth_module_free(module);
}

static mth_model *deep(void) {
    mth_model *model = NULL;
    CHECK_STATUS(mth_model_create(&model));
    add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(60)}), NULL, MTH_PLAIN);
    for (int k = 0; k < 5; k++) {
        add(model, "FeedForward", MTH_OPTIONS({"hidden_dim", mth_int(230)}), NULL, MTH_CHAIN);
        add(model, "LayerNorm", NULL, 0, NULL, MTH_CHAIN);
    }
    add(model, "Linear", MTH_OPTIONS({"dimension", mth_int(37)}), "output", MTH_CHAIN);
    return model;
}

typedef struct {
    mth_arrays *parameters, *outputs, *gradients;
    mth_memory_usage memory[4];
    mth_backend *backend;
    mth_compiled *compiled;
} result;

static void run(
    const mth_model *model, mth_arg mesh, size_t devices, bool stored, bool split, bool gradients_first, result *r) {
    mth_array *array = NULL, *seed = NULL;
    memset(r, 0, sizeof *r);
    CHECK_STATUS(
        mth_backend_create("native", MTH_OPTIONS({"device_mesh", mesh}, {"threads", mth_int(2)}), &r->backend));
    r->backend->distribute.store_sharded = stored;
    const char *key = "input";
    mth_arg axes[] = {mth_int(0), MTH_NONE}, spec = mth_list(2, axes);
    CHECK_STATUS(
        mth_compile(model, r->backend, MTH_OPTIONS({"input_shard_specs", mth_dict(split, &key, &spec)}), &r->compiled));
    CHECK_STATUS(mth_array_randn(r->backend, 2, (int64_t[]){32, 50}, 1, NULL, &array));
    CHECK_STATUS(mth_array_randn(r->backend, 2, (int64_t[]){32, 37}, 2, NULL, &seed));
    mth_named in = {"input", array}, given = {"output", seed};
    mth_gradient_request request = {&given, 1, NULL, 0};
    if (gradients_first) CHECK_STATUS(mth_plan(r->compiled, &in, 1, true));
    CHECK_STATUS(mth_get_parameters(r->compiled, &in, 1, 0, &r->parameters));
    CHECK_STATUS(mth_evaluate(r->compiled, r->parameters, &in, 1, &request, &r->outputs, &r->gradients));
    CHECK_STATUS(mth_get_memory_usage(r->compiled, &in, 1, r->memory, devices));
    mth_array_free(array);
    mth_array_free(seed);
}

static void finish(result *r) {
    mth_arrays_free(r->parameters);
    mth_arrays_free(r->outputs);
    mth_arrays_free(r->gradients);
    mth_compiled_free(r->compiled);
    mth_backend_free(r->backend);
}

static void compare(mth_arg mesh, size_t devices) {
    mth_model *model = deep();
    for (int k = 0; k < 4; k++) { /* the batch split or not; planned forward or backward first */
        result whole, parts;
        run(model, mesh, devices, false, k & 1, false, &whole);
        run(model, mesh, devices, true, k & 1, k & 2, &parts);
        same_arrays(whole.outputs, parts.outputs, 1e-4);
        same_arrays(whole.gradients, parts.gradients, 1e-4);
        same_arrays(whole.parameters, parts.parameters, 1e-4);
        for (size_t d = 0; d < devices; d++) {
            double part = (double)parts.memory[d].weights / (double)whole.memory[d].weights;
            CHECK(part < 1.25 / (double)devices);
            CHECK(parts.memory[d].gradients <= parts.memory[d].weights);
            CHECK(parts.memory[d].total < whole.memory[d].total);
        }
        finish(&whole);
        finish(&parts);
    }
    mth_model_free(model);
}
TEST(numbers_on_4) { compare(MTH_INTS(4), 4); }
TEST(numbers_on_2_2) { compare(MTH_INTS(2, 2), 4); }
TEST(numbers_on_3) { compare(MTH_INTS(3), 3); }

RUN()
