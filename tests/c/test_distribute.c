/* Decisions: the standard layouts come out, with the communication that the literature gives them and no more. */
#include "world.h"

/* ---------------------------------------------------------------- tensor parallelism */
static mth__value *linear(
    world *w, const char *name, mth__value *x, int64_t in, int64_t out, int in_axis, int out_axis, bool fixed) {
    char text[64];
    snprintf(text, sizeof text, "%s.weight", name);
    mth__value *weight = parameter(w, text, SHAPE(in, out));
    if (fixed) PIN(w, weight, in_axis, out_axis);
    snprintf(text, sizeof text, "%s.bias", name);
    mth__value *bias = parameter(w, text, SHAPE(out));
    return two(w, "add", contract(w, x->shape.rank == 3 ? "bsi,io->bso" : "bi,io->bo", x, weight), bias);
}

WORLD_TEST(megatron_mlp, 4) {
    mth__value *x = input(w, "input", SHAPE(8, 32));
    mth__value *value = one(w, "relu", linear(w, "up", x, 32, 64, -1, 0, true));
    output(w, "output", linear(w, "down", value, 64, 16, 0, -1, true));
    TRY(plan(w, true));
    CHECK(is_sharded(w, w->graph->parameter.at[1], "(0,)"));
    CHECK(count(w, "all_reduce") == 1); /* the input's gradient is not asked for */
    CHECK(moving(w) == 1);
    return NULL;
}
WORLD_TEST(megatron_mlp_two_blocks, 4) {
    mth__value *x = input(w, "input", SHAPE(8, 32));
    for (int k = 0; k < 2; k++) {
        char up[32], down[32];
        snprintf(up, sizeof up, "up%d", k);
        snprintf(down, sizeof down, "down%d", k);
        x = linear(w, down, one(w, "gelu", linear(w, up, x, 32, 64, -1, 0, true)), 64, 32, 0, -1, true);
    }
    output(w, "output", x);
    TRY(plan(w, true));
    CHECK(count(w, "all_reduce") == 3); /* two forward, one backward between the blocks */
    CHECK(moving(w) == 3);
    return NULL;
}
WORLD_TEST(guide_two_dimensions, 2, 2) {
    mth__value *x = input(w, "input", SHAPE(32, 2048));
    mth__value *value = one(w, "relu", linear(w, "linear_0", x, 2048, 16384, 0, 1, true));
    output(w, "output", linear(w, "linear_1", value, 16384, 4096, 0, -1, true));
    TRY(plan(w, true));
    CHECK(is_sharded(w, w->graph->parameter.at[0], "(0, 1)"));
    for (size_t i = 0; i < w->graph->node.n; i++) /* weights stay where they are */
        for (int j = 0; j < w->graph->node.at[i]->nin && w->graph->node.at[i]->op->flags & MTH__COMM; j++)
            CHECK(w->graph->node.at[i]->in[j]->kind != MTH__VALUE_PARAMETER);
    return NULL;
}
WORLD_TEST(uneven, 3) {
    mth__value *x = input(w, "input", SHAPE(5, 7));
    mth__value *value = one(w, "relu", linear(w, "up", x, 7, 10, -1, 0, true));
    output(w, "output", linear(w, "down", value, 10, 2, 0, -1, true));
    TRY(plan(w, true));
    CHECK(count(w, "all_reduce") == 1 && moving(w) == 1);
    return NULL;
}
WORLD_TEST(data_parallel, 4) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    mth__value *x = input(w, "input", SHAPE(64, 32));
    mth__value *value = one(w, "relu", linear(w, "up", x, 32, 64, 0, 0, false));
    output(w, "output", linear(w, "down", value, 64, 16, 0, 0, false));
    TRY(plan(w, true));
    CHECK(count(w, "all_reduce") == 4); /* one a parameter */
    CHECK(count(w, "all_gather") == 1); /* the output is asked for whole */
    CHECK(moving(w) == 5);
    return NULL;
}
WORLD_TEST(data_parallel_merged, 4) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    w->options.communication_optimization = true;
    mth__value *x = input(w, "input", SHAPE(64, 32));
    mth__value *value = one(w, "relu", linear(w, "up", x, 32, 64, 0, 0, false));
    output(w, "output", linear(w, "down", value, 64, 16, 0, 0, false));
    TRY(plan(w, true));
    CHECK(count(w, "all_reduce") == 1);
    CHECK(moving(w) == 2);
    return NULL;
}
/* q, k, v from one input; heads stay together */
static mth__value *attention(world *w, const char *name, mth__value *x, int64_t heads, int64_t width, int axis) {
    int64_t b = x->shape.dim[0], s = x->shape.dim[1], d = x->shape.dim[2];
    mth__value *part[3], *value[3];
    char text[64];
    for (int k = 0; k < 3; k++) {
        snprintf(text, sizeof text, "%s.%c", name, "qkv"[k]);
        mth__value *weight = pin(w, parameter(w, text, SHAPE(d, heads * width)), (int)width, (int[]){-1, axis});
        snprintf(text, sizeof text, "%s.%c.bias", name, "qkv"[k]);
        mth__value *y = two(w, "add", contract(w, "bsi,io->bso", x, weight), parameter(w, text, SHAPE(heads * width)));
        part[k] = with(w, "reshape", (mth__attrs){.rank = k ? 4 : 5, .shape = {b, s, heads, k ? width : 1, width}}, y);
    }
    CHECK_STATUS(mth__build(&w->b, MTH__ROW_attention, &(mth__attrs){.causal = 1, .scale = 1}, 3, part, value));
    mth__value *y = with(w, "reshape", (mth__attrs){.rank = 3, .shape = {b, s, heads * width}}, value[0]);
    snprintf(text, sizeof text, "%s.o", name);
    mth__value *weight = pin(w, parameter(w, text, SHAPE(heads * width, d)), (int)width, (int[]){axis, -1});
    snprintf(text, sizeof text, "%s.o.bias", name);
    return two(w, "add", two(w, "add", contract(w, "bsi,io->bso", y, weight), parameter(w, text, SHAPE(d))), x);
}
static mth__value *norm(world *w, const char *name, mth__value *x) {
    char text[64];
    int64_t d = x->shape.dim[x->shape.rank - 1];
    mth__value *out[3];
    snprintf(text, sizeof text, "%s.weight", name);
    mth__value *weight = parameter(w, text, SHAPE(d));
    snprintf(text, sizeof text, "%s.bias", name);
    CHECK_STATUS(mth__build(&w->b, MTH__ROW_layer_norm, &(mth__attrs){.epsilon = 1e-5}, 3,
        (mth__value *[]){x, weight, parameter(w, text, SHAPE(d))}, out));
    return out[0];
}
WORLD_TEST(megatron_attention, 4) {
    mth__value *x = norm(w, "n", input(w, "input", SHAPE(2, 16, 64)));
    output(w, "output", attention(w, "a", x, 6, 8, 0)); /* 6 heads over 4 devices */
    TRY(plan(w, true));
    CHECK(count(w, "all_reduce") == 2 && moving(w) == 2);
    return NULL;
}
WORLD_TEST(megatron_transformer_with_data_parallel, 2, 2) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 3}};
    w->options.spec = spec;
    w->options.specs = 1;
    mth__value *x = input(w, "input", SHAPE(8, 16, 64));
    x = attention(w, "a", norm(w, "n0", x), 8, 8, 1);
    mth__value *y = norm(w, "n1", x);
    y = linear(w, "down", one(w, "gelu", linear(w, "up", y, 64, 256, -1, 1, true)), 256, 64, 1, -1, true);
    output(w, "output", two(w, "add", x, y));
    TRY(plan(w, true));
    int over_model = 0;
    for (size_t i = 0; i < w->graph->node.n; i++)
        over_model += !strcmp(w->graph->node.at[i]->op->name, "all_reduce") && w->graph->node.at[i]->attrs.axes == 2;
    CHECK(over_model == 4);
    CHECK(count(w, "all_reduce") == 4 + (int)w->graph->parameter.n);
    CHECK(count(w, "all_gather") == 1 && count(w, "transfer") == 0 && count(w, "all_to_all") == 0);
    return NULL;
}
/* Regions between split products, at a size at which computing them in parts pays, and at one at which it does not. */
static mth_status block_of(world *w, int64_t batch, int64_t sequence, int64_t width, mth__when when) {
    w->options.sequence = when;
    mth__value *x = norm(w, "n0", attention(w, "a", input(w, "input", SHAPE(batch, sequence, width)), 8, 8, 0));
    mth__value *y =
        linear(w, "down", one(w, "gelu", linear(w, "up", x, width, 256, -1, 0, true)), 256, width, 0, -1, true);
    output(w, "output", norm(w, "n1", two(w, "add", x, y)));
    return plan(w, true);
}
WORLD_TEST(sequence_parallel_where_it_pays, 4) {
    TRY(block_of(w, 8, 128, 64, MTH__WHEN_NONE));
    CHECK(count(w, "reduce_scatter") >= 2 && count(w, "all_gather") >= 2);
    return NULL;
}
WORLD_TEST(sequence_parallel_where_it_does_not, 4) {
    TRY(block_of(w, 4, 4, 64, MTH__WHEN_NONE));
    CHECK(count(w, "reduce_scatter") == 0 && count(w, "all_gather") == 0);
    return NULL;
}
WORLD_TEST(sequence_parallel_never, 4) {
    TRY(block_of(w, 8, 128, 64, MTH__WHEN_FALSE));
    CHECK(count(w, "reduce_scatter") == 0 && count(w, "all_gather") == 0);
    return NULL;
}
WORLD_TEST(sequence_parallel_always, 4) {
    TRY(block_of(w, 4, 4, 64, MTH__WHEN_TRUE));
    /* forward: 2 sums, one gathered for `up` and one that leaves; backward: 2 gradients, and n0 again for the weight of
       `up`. The rest are sums of small gradients. */
    CHECK(count(w, "reduce_scatter") == 2 + 1 && count(w, "all_gather") == 2 + 2 + 1);
    return NULL;
}
WORLD_TEST(vocabulary_parallel, 4) {
    mth__value *token = ids(w, "ids", SHAPE(8, 16)), *target = ids(w, "target", SHAPE(8, 16));
    mth__value *table = PIN(w, parameter(w, "table", SHAPE(1001, 32)), 0, -1);
    mth__value *x = two(w, "gather", table, token);
    mth__value *logits = contract(w, "bsi,io->bso", x, PIN(w, parameter(w, "head", SHAPE(32, 1001)), -1, 0));
    mth__value *top = with(w, "reduce_max", (mth__attrs){.dimensions = 4, .keep = 1}, logits);
    mth__value *shifted = two(w, "sub", logits, one(w, "stop", top));
    mth__value *sum = with(w, "reduce_sum", (mth__attrs){.dimensions = 4}, one(w, "exp", shifted));
    mth__value *loss = two(w, "sub", one(w, "log", sum), two(w, "pick", shifted, target));
    output(w, "loss", with(w, "reduce_sum", (mth__attrs){.dimensions = 3}, loss));
    TRY(plan(w, true));
    CHECK(is_sharded(w, logits, "(None, None, 0)"));
    CHECK(count(w, "all_gather") == 0 && count(w, "transfer") == 0 && count(w, "all_to_all") == 0);
    CHECK(count(w, "all_reduce") == 5); /* embedding, max, sum, pick; and the gradient of x */
    return NULL;
}

/* ---------------------------------------------------------------- experts */
static mth__value *moe(world *w, mth__value *x, int64_t e, int64_t h, bool capacity) {
    int64_t d = x->shape.dim[1];
    mth__value *route[2], *rows, *y, *kept[2];
    mth__value *logits = contract(w, "td,de->te", x, parameter(w, "router", SHAPE(d, e)));
    CHECK_STATUS(mth__build(&w->b, MTH__ROW_moe_route, &(mth__attrs){.k = 2}, 1, &logits, route));
    mth__value *experts = route[1];
    if (capacity) {
        CHECK_STATUS(
            mth__build(&w->b, MTH__ROW_moe_capacity, &(mth__attrs){.capacity = 8, .experts = e}, 1, &experts, kept));
        experts = kept[0];
    }
    CHECK_STATUS(mth__build1(&w->b, MTH__ROW_moe_rows, &(mth__attrs){.experts = e}, experts, &rows));
    CHECK_STATUS(mth__build2(&w->b, MTH__ROW_moe_dispatch, NULL, x, rows, &y));
    CHECK_STATUS(mth__build3(
        &w->b, MTH__ROW_moe_matmul, NULL, y, PIN(w, parameter(w, "up", SHAPE(e, d, h)), 0, -1, -1), rows, &y));
    CHECK_STATUS(mth__build2(&w->b, MTH__ROW_moe_act, NULL, y, rows, &y));
    CHECK_STATUS(mth__build3(
        &w->b, MTH__ROW_moe_matmul, NULL, y, PIN(w, parameter(w, "down", SHAPE(e, h, d)), 0, -1, -1), rows, &y));
    CHECK_STATUS(mth__build(&w->b, MTH__ROW_moe_combine, NULL, 4, (mth__value *[]){y, rows, route[0], experts}, &y));
    return y;
}
WORLD_TEST(experts_with_replicated_tokens, 4) {
    output(w, "output", moe(w, input(w, "input", SHAPE(32, 16)), 8, 64, false));
    TRY(plan(w, false));
    CHECK(count(w, "all_reduce") == 1 && moving(w) == 1);
    return NULL;
}
WORLD_TEST(experts_with_sharded_tokens, 4) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    output(w, "output", moe(w, input(w, "input", SHAPE(32, 16)), 8, 64, false));
    TRY(plan(w, true));
    CHECK(count(w, "all_to_all") >= 3);
    CHECK(count(w, "all_gather") == 1); /* the output */
    return NULL;
}
WORLD_TEST(experts_with_capacity_and_sharded_tokens, 4) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    output(w, "output", moe(w, input(w, "input", SHAPE(32, 16)), 4, 64, true));
    TRY(plan(w, false));
    CHECK(count(w, "all_to_all") >= 2);
    return NULL;
}

/* ---------------------------------------------------------------- places */
WORLD_TEST(chain_over_devices, 4) {
    mth__value *x = input(w, "input", SHAPE(8, 32));
    for (int k = 0; k < 4; k++) {
        char name[32];
        snprintf(name, sizeof name, "linear_%d", k);
        w->b.on = mth__place_device(w->mesh, k);
        x = linear(w, name, x, 32, 32, 0, 0, false);
        w->b.on = NULL;
        if (k < 3) x = one(w, "relu", x);
        CHECK(x->node->on == NULL || k == 3);
    }
    output(w, "output", x);
    TRY(plan(w, true));
    CHECK(count(w, "transfer") == 6 && moving(w) == 6); /* three forward, three backward */
    for (size_t i = 0; i < w->graph->parameter.n; i++)
        CHECK(w->graph->parameter.at[i]->sharding.on == mth__place_device(w->mesh, (int)i / 2));
    return NULL;
}
WORLD_TEST(an_input_is_fed_to_each_place, 2) {
    mth__value *x = input(w, "input", SHAPE(8, 32)), *y[2];
    for (int k = 0; k < 2; k++) {
        w->b.on = mth__place_device(w->mesh, k);
        y[k] = one(w, "relu", x);
    }
    output(w, "output", two(w, "add", y[0], y[1]));
    TRY(plan(w, false));
    CHECK(w->graph->input.n == 2 && moving(w) == 1);
    return NULL;
}

/* What passes promise is checked: each broken promise is found, and named. */
WORLD_TEST(broken_promises, 4) {
    mth__value *x = input(w, "x", SHAPE(8, 16)), *weight = parameter(w, "weight", SHAPE(16, 32));
    PIN(w, weight, -1, 0);
    output(w, "y", one(w, "relu", contract(w, "bi,io->bo", x, weight)));
    TRY(plan(w, false));
    mth__node *product = w->graph->node.at[0];
    CHECK(!strcmp(product->op->name, "contract"));
    const mth__sharding good = product->need[1];
    product->need[1] = (mth__sharding){.on = good.on};
    CHECK_FAILS(mth__distribute_check(w->graph, MTH__PASS_RESHARD), MTH_ERROR_INTERNAL, "takes operand 1 otherwise");
    CHECK_STATUS(mth__distribute_check(w->graph, MTH__PASS_SHARD));
    product->need[1].on = mth__place_device(w->mesh, 0);
    CHECK_FAILS(mth__distribute_check(w->graph, MTH__PASS_SHARD), MTH_ERROR_INTERNAL, "elsewhere than it runs");
    product->need[1] = good;
    product->need[1].dim[1].grain = 4; /* changes no part */
    CHECK_FAILS(mth__distribute_check(w->graph, MTH__PASS_SHARD), MTH_ERROR_INTERNAL, "not canonical");
    product->need[1] = good;
    mth__value *y = w->graph->output.at[0].value;
    y->sharding.partial = 1;
    CHECK_FAILS(mth__distribute_check(w->graph, MTH__PASS_OVERLAP), MTH_ERROR_INTERNAL, "leaves otherwise");
    y->sharding.partial = 0;
    product->on = NULL;
    CHECK_FAILS(mth__distribute_check(w->graph, MTH__PASS_PLACE), MTH_ERROR_INTERNAL, "has no placement");
    CHECK_STATUS(mth__distribute_check(w->graph, MTH__PASS_MICROBATCH));
    product->on = product->out[0]->sharding.on;
    return mth__distribute_check(w->graph, MTH__PASS_OVERLAP);
}
RUN()
