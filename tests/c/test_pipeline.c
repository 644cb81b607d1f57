/* Pipelines: how a batch is cut, what can't be, and in which order stages run; communication merged, cut and
 * overlapped. */
#include "world.h"

static mth__region *pipeline(world *w, int stages, int size, int schedule, mth__value *in) {
    mth__region *region = NEW(w->arena, mth__region);
    *region = (mth__region){.name = "pipeline_0",
        .stages = stages,
        .microbatch_size = size,
        .schedule = schedule,
        .stage_on = NEW_ARRAY(w->arena, const mth__placement *, stages),
        .in = NEW_ARRAY(w->arena, mth__value *, 4),
        .nin = 1};
    region->in[0] = in;
    for (int stage = 0; stage < stages; stage++)
        region->stage_on[stage] = mth__place_device(w->mesh, stage % w->mesh->count);
    PUSH(w->graph->arena, w->graph->region, region);
    w->b.label.region = (int)w->graph->region.n - 1;
    return region;
}
static void stage(world *w, int s) { w->b.label.stage = s; }
static void outside(world *w) { w->b.label.region = w->b.label.stage = -1; }
static const mth__node *find(const world *w, const char *op, int nth) {
    for (size_t i = 0; i < w->graph->node.n; i++)
        if (!strcmp(w->graph->node.at[i]->op->name, op) && nth-- == 0) return w->graph->node.at[i];
    return NULL;
}
static mth__value *layer(world *w, int s, mth__value *x, int64_t width) {
    char name[24];
    snprintf(name, sizeof name, "stage_%d.weight", s);
    stage(w, s);
    mth__value *weight = parameter(w, name, SHAPE(x->shape.dim[1], width));
    return one(w, "relu", contract(w, "bi,io->bo", x, weight));
}

/* ---------------------------------------------------------------- cutting */
WORLD_TEST(batches_that_microbatches_do_not_divide, 2) {
    mth__value *x = input(w, "input", SHAPE(10, 8));
    mth__region *region = pipeline(w, 2, 4, MTH__GPIPE, x);
    mth__value *y = layer(w, 1, layer(w, 0, x, 8), 4);
    output(w, "output", y);
    TRY(plan(w, true));
    CHECK(region->batch == 10 && region->microbatches == 3);
    const mth__node *last = find(w, "slice", 2);
    CHECK(last && last->attrs.start == 8 && last->attrs.stop == 10 && last->on == mth__place_device(w->mesh, 0));
    CHECK(find(w, "concat", 0)->nin == 3);
    CHECK(mth__shape_equal(w->graph->output.at[0].value->shape, SHAPE(10, 4)));
    CHECK(count(w, "transfer") == 6 && moving(w) == 6); /* each microbatch once forward, once backward */
    return NULL;
}
WORLD_TEST(a_batch_smaller_than_a_microbatch, 2) {
    mth__value *x = input(w, "input", SHAPE(3, 8));
    mth__region *region = pipeline(w, 2, 4, MTH__GPIPE, x);
    output(w, "output", layer(w, 1, layer(w, 0, x, 8), 4));
    TRY(plan(w, false));
    CHECK(region->microbatches == 1 && count(w, "slice") == 0 && count(w, "relu") == 2);
    return NULL;
}
WORLD_TEST(many_microbatches_are_joined_in_steps, 2) {
    mth__value *x = input(w, "input", SHAPE(130, 2));
    pipeline(w, 2, 1, MTH__1F1B, x);
    output(w, "output", layer(w, 1, layer(w, 0, x, 2), 2));
    TRY(plan(w, true));
    CHECK(count(w, "concat") >= 4);
    return NULL;
}
WORLD_TEST(a_batch_in_a_merged_dimension, 2) {
    mth__value *x = input(w, "input", SHAPE(6, 5, 8));
    pipeline(w, 1, 4, MTH__GPIPE, x);
    stage(w, 0);
    mth__value *flat = with(w, "reshape", (mth__attrs){.rank = 2, .shape = {30, 8}}, x);
    mth__value *y = with(w, "reshape", (mth__attrs){.rank = 3, .shape = {6, 5, 8}}, one(w, "relu", flat));
    output(w, "output", y);
    TRY(plan(w, false));
    CHECK(mth__shape_equal(find(w, "relu", 0)->out[0]->shape, SHAPE(20, 8)));
    CHECK(mth__shape_equal(find(w, "relu", 1)->out[0]->shape, SHAPE(10, 8)));
    CHECK(find(w, "concat", 0)->attrs.dimension == 0);
    return NULL;
}
WORLD_TEST(a_loss_inside_a_stage_is_a_sum_over_microbatches, 2) {
    mth__value *x = input(w, "input", SHAPE(8, 4));
    pipeline(w, 2, 2, MTH__1F1B, x);
    mth__value *y = layer(w, 1, layer(w, 0, x, 4), 4);
    mth__value *sum = with(w, "reduce_sum", (mth__attrs){.dimensions = 3}, one(w, "square", y));
    output(w, "loss", with(w, "scale", (mth__attrs){.by = 1.0 / 32}, sum));
    TRY(plan(w, true));
    CHECK(count(w, "reduce_sum") == 4 && count(w, "concat") == 0);
    CHECK(
        w->graph->output.at[0].value->shape.rank == 0 && !strcmp(w->graph->output.at[0].value->node->op->name, "add"));
    return NULL;
}
WORLD_TEST(what_no_batch_reaches_is_computed_once, 2) {
    mth__value *x = input(w, "input", SHAPE(8, 4));
    pipeline(w, 1, 2, MTH__GPIPE, x);
    stage(w, 0);
    mth__value *scale = one(w, "exp", parameter(w, "scale", SHAPE(4)));
    /* of the batch's size: cut where it meets the batch */
    mth__value *rows = one(w, "tanh", parameter(w, "rows", SHAPE(8, 4)));
    output(w, "output", two(w, "add", two(w, "mul", x, scale), rows));
    TRY(plan(w, false));
    CHECK(count(w, "exp") == 1 && count(w, "tanh") == 1 && count(w, "mul") == 4 && count(w, "slice") == 8);
    return NULL;
}
WORLD_TEST(dropout_keeps_the_mask_of_the_whole_batch, 2) {
    mth__value *x = input(w, "input", SHAPE(6, 4));
    pipeline(w, 1, 4, MTH__GPIPE, x);
    stage(w, 0);
    output(w, "output", with(w, "dropout", (mth__attrs){.key = 7, .probability = 0.5}, x));
    TRY(plan(w, false));
    const mth__node *second = find(w, "dropout", 1);
    CHECK(second->attrs.dimension == 0 && second->attrs.start == 4 && second->attrs.size == 6);
    return NULL;
}
WORLD_TEST(data_parallel_stages_cut_what_they_have, 2, 2) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {1}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    mth__value *x = input(w, "input", SHAPE(16, 8));
    mth__region *region = pipeline(w, 2, 4, MTH__1F1B, x);
    for (int stage = 0; stage < 2; stage++) region->stage_on[stage] = mth__place_slice(w->mesh, 0, stage);
    output(w, "output", layer(w, 1, layer(w, 0, x, 8), 4));
    TRY(plan(w, true));
    CHECK(count(w, "all_gather") == 1); /* the output */
    CHECK(count(w, "all_reduce") == 2); /* a weight each, behind the last microbatch */
    CHECK(count(w, "transfer") == 8);
    CHECK(is_sharded(w, find(w, "relu", 0)->out[0], "(0, None)"));
    return NULL;
}

/* ---------------------------------------------------------------- what can't be cut */
static mth_status refused(world *w, mth__value *(*make)(world *, mth__value *), const char *text) {
    mth__value *x = input(w, "input", SHAPE(8, 8));
    pipeline(w, 1, 2, MTH__GPIPE, x);
    stage(w, 0);
    output(w, "output", make(w, x));
    CHECK_FAILS(mth__microbatch(w->graph, &w->options), MTH_ERROR_VALUE, text);
    w->graph->node.n = w->graph->output.n = 0; /* half a graph is not printed */
    return NULL;
}
static mth__value *top(world *w, mth__value *x) { return with(w, "reduce_max", (mth__attrs){.dimensions = 1}, x); }
static mth__value *over_batch(world *w, mth__value *x) { return with(w, "softmax", (mth__attrs){.dimension = 0}, x); }
static mth__value *pairs(world *w, mth__value *x) { return contract(w, "bi,ci->bc", x, x); }
static mth__value *of_sum(world *w, mth__value *x) {
    return one(w, "exp", with(w, "reduce_sum", (mth__attrs){.dimensions = 1}, x));
}
static mth__value *centred(world *w, mth__value *x) {
    return two(w, "sub", x, with(w, "reduce_sum", (mth__attrs){.dimensions = 1}, x));
}
WORLD_TEST(a_maximum_over_the_batch_is_refused, 2) { return refused(w, top, "reduce_max"); }
WORLD_TEST(a_softmax_over_the_batch_is_refused, 2) { return refused(w, over_batch, "softmax"); }
WORLD_TEST(products_of_pairs_are_refused, 2) { return refused(w, pairs, "contract"); }
WORLD_TEST(a_function_of_the_batch_sum_is_refused, 2) { return refused(w, of_sum, "exp"); }
WORLD_TEST(centring_over_the_batch_is_refused, 2) { return refused(w, centred, "sub"); }

/* ---------------------------------------------------------------- order */
static mth_status ordered(world *w, int stages, int microbatches, int schedule) {
    mth__value *x = input(w, "input", SHAPE(microbatches * 4, 16));
    pipeline(w, stages, 4, schedule, x);
    for (int stage = 0; stage < stages; stage++) x = layer(w, stage, x, 16);
    outside(w);
    output(w, "output", x);
    TRY(plan(w, true));
    for (int stage = 0; stage < stages; stage++) {
        int flight = 0, most = 0, backward = 0;
        for (size_t i = 0; i < w->graph->node.n; i++) {
            const mth__node *node = w->graph->node.at[i];
            if (node->label.stage != stage) continue;
            flight += !strcmp(node->op->name, "relu") - !strcmp(node->op->name, "relu_grad");
            backward += !strcmp(node->op->name, "relu_grad");
            if (flight > most) most = flight;
            if (schedule == MTH__GPIPE && !strcmp(node->op->name, "relu")) CHECK(backward == 0);
        }
        CHECK(flight == 0 && most <= (schedule == MTH__GPIPE ? microbatches : stages - stage));
    }
    /* what a device takes is what it uses next */
    for (size_t i = 0; i < w->graph->node.n; i++) {
        const mth__node *node = w->graph->node.at[i];
        if (strcmp(node->op->name, "transfer")) continue;
        size_t next = i + 1;
        while (next < w->graph->node.n &&
            (w->graph->node.at[next]->on != node->on || !strcmp(w->graph->node.at[next]->op->name, "transfer")))
            next++;
        bool used = false;
        const mth__node *reader = next < w->graph->node.n ? w->graph->node.at[next] : NULL;
        for (int j = 0; reader && j < reader->nin; j++) used |= reader->in[j] == node->out[0];
        CHECK(used);
    }
    return NULL;
}
WORLD_TEST(gpipe, 4) { return ordered(w, 4, 8, MTH__GPIPE); }
WORLD_TEST(one_forward_one_backward, 4) { return ordered(w, 4, 8, MTH__1F1B); }
WORLD_TEST(more_stages_than_devices, 2) {
    mth__value *x = input(w, "input", SHAPE(16, 16));
    pipeline(w, 6, 4, MTH__1F1B, x);
    for (int s = 0; s < 6; s++) x = layer(w, s, x, 16);
    output(w, "output", x);
    TRY(plan(w, true));
    CHECK(count(w, "transfer") == 4 * 5 * 2);
    return NULL;
}
WORLD_TEST(a_loss_behind_the_pipeline, 2) { /* nothing goes backward before all have gone forward */
    mth__value *x = input(w, "input", SHAPE(16, 16));
    pipeline(w, 2, 4, MTH__1F1B, x);
    x = layer(w, 1, layer(w, 0, x, 16), 16);
    outside(w);
    output(w, "loss", with(w, "reduce_sum", (mth__attrs){.dimensions = 3}, one(w, "square", x)));
    return plan(w, true);
}

/* ---------------------------------------------------------------- options of communication */
static mth__value *row_parallel(world *w, int64_t rows) {
    mth__value *x = input(w, "input", SHAPE(rows, 64));
    mth__value *y = contract(w, "bi,io->bo", x, PIN(w, parameter(w, "weight", SHAPE(64, 128)), 0, -1));
    return one(w, "relu", two(w, "add", y, parameter(w, "bias", SHAPE(128))));
}
/* The nominal machine with another latency of its links. Chunks are in proportion to it. */
static void links_of(world *w, const char *latency) {
    mth__machine *machine = NULL;
    const char *text = mth__format(
        w->arena, "flops float32 50e9\nmemory_rate 10e9\nkernel_latency 0\nlink_rate 5e9\nlink_latency %s\n", latency);
    CHECK_STATUS(mth__machine_parse(w->arena, "links", text, &machine));
    mth__mesh_use(w->mesh, machine);
}
WORLD_TEST(large_communication_is_cut, 4) {
    w->options.pipeline_communication = true;
    links_of(w, "1.25e-6"); /* of 16 KiB, where those of 20e-6 are of 256 KiB */
    output(w, "output", row_parallel(w, 128));
    TRY(plan(w, false));
    CHECK(count(w, "all_reduce") == 4 && count(w, "contract") == 1 && count(w, "add") == 4 && count(w, "relu") == 4);
    return NULL;
}
WORLD_TEST(the_product_is_cut_with_it_where_they_overlap, 4) {
    w->options.pipeline_communication = w->options.overlap = true;
    links_of(w, "1.25e-6"); /* of 16 KiB, where those of 20e-6 are of 256 KiB */
    output(w, "output", row_parallel(w, 128));
    TRY(plan(w, false));
    CHECK(count(w, "all_reduce") == 4 && count(w, "contract") == 4);
    size_t first = 0; /* the second product runs while the first sum is under way */
    while (strcmp(w->graph->node.at[first]->op->name, "all_reduce")) first++;
    while (w->graph->node.at[first]->op->flags & (MTH__COMM | MTH__ALIAS) ||
        !strcmp(w->graph->node.at[first]->op->name, "slice"))
        first++;
    CHECK(!strcmp(w->graph->node.at[first]->op->name, "contract"));
    return NULL;
}
WORLD_TEST(communication_that_is_small_is_left, 4) {
    w->options.pipeline_communication = true;
    links_of(w, "80e-6");
    output(w, "output", row_parallel(w, 128));
    TRY(plan(w, false));
    CHECK(count(w, "all_reduce") == 1 && count(w, "concat") == 0);
    return NULL;
}
/* Six gradients of weights and biases, summed over the axis of the data: by how many all_reduces. */
static int sums_over_data(world *w) {
    static const mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {0}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    w->options.communication_optimization = true;
    mth__value *x = input(w, "input", SHAPE(16, 8));
    for (int k = 0; k < 3; k++) {
        char name[32];
        snprintf(name, sizeof name, "w%d", k);
        mth__value *weight = parameter(w, name, SHAPE(8, 8));
        snprintf(name, sizeof name, "b%d", k);
        x = one(w, "tanh",
            two(w, "add", contract(w, "bi,io->bo", x, PIN(w, weight, k % 2 ? 1 : -1, k % 2 ? -1 : 1)),
                parameter(w, name, SHAPE(8))));
    }
    output(w, "output", x);
    CHECK_STATUS(plan(w, true));
    int over_data = 0;
    for (size_t i = 0; i < w->graph->node.n; i++)
        over_data += !strcmp(w->graph->node.at[i]->op->name, "all_reduce") && (w->graph->node.at[i]->attrs.axes & 1);
    return over_data;
}
WORLD_TEST(sums_of_sharded_gradients_are_merged, 2, 2) {
    /* whole ones, ones split along their rows, and those split along columns by themselves */
    CHECK(sums_over_data(w) <= 4);
    for (size_t i = 0; i < w->graph->output.n; i++) {
        const mth__output *o = &w->graph->output.at[i];
        for (size_t k = 0; k < w->graph->parameter.n && o->is_gradient; k++)
            if (!strcmp(o->of, w->graph->parameter.at[k]->name))
                CHECK(mth__sharding_equal(
                    &o->value->sharding, &w->graph->parameter.at[k]->sharding, o->value->shape.rank));
    }
    return NULL;
}

WORLD_TEST(sums_are_left_apart_where_each_takes_many_latencies, 2, 2) {
    links_of(w, "1e-9"); /* 5 bytes */
    CHECK(sums_over_data(w) == 6);
    return NULL;
}

/* ---------------------------------------------------------------- sums without their terms */
/* Plans, and accumulates. How many rows add to a sum. */
static int accumulated(world *w, bool gradients) {
    int adding = 0;
    CHECK_STATUS(plan(w, gradients));
    CHECK_STATUS(mth__accumulate(w->graph));
    CHECK_STATUS(mth__distribute_check(w->graph, MTH__PASS_ACCUMULATE));
    CHECK_STATUS(mth__graph_check(w->graph));
    for (size_t i = 0; i < w->graph->node.n; i++) adding += w->graph->node.at[i]->accumulates;
    return adding;
}
WORLD_TEST(gradients_of_microbatches_are_added_where_they_are_made, 2) {
    mth__value *x = input(w, "input", SHAPE(12, 8));
    pipeline(w, 2, 3, MTH__1F1B, x);
    output(w, "output", layer(w, 1, layer(w, 0, x, 8), 4));
    CHECK(accumulated(w, true) == 6 && count(w, "add") == 0); /* two weights, four microbatches */
    for (size_t i = 0; i < w->graph->output.n; i++) {
        const mth__output *o = &w->graph->output.at[i];
        if (!o->is_gradient) continue;
        const mth__node *node = o->value->node;
        for (int m = 3; m > 0; m--, node = node->in[2]->node)
            CHECK(node->accumulates && node->nin == 3 && node->label.microbatch == m);
        CHECK(!node->accumulates && node->label.microbatch == 0);
    }
    return NULL;
}
WORLD_TEST(data_parallel_terms_are_added_before_they_are_reduced, 2, 2) {
    mth__spec_of spec[] = {{.name = "input", .sharding = {.dim = {{.naxes = 1, .axis = {1}}}}, .rank = 2}};
    w->options.spec = spec;
    w->options.specs = 1;
    mth__value *x = input(w, "input", SHAPE(16, 8));
    mth__region *region = pipeline(w, 2, 4, MTH__1F1B, x);
    for (int stage = 0; stage < 2; stage++) region->stage_on[stage] = mth__place_slice(w->mesh, 0, stage);
    output(w, "output", layer(w, 1, layer(w, 0, x, 8), 4));
    CHECK(accumulated(w, true) == 6 && count(w, "add") == 0 && count(w, "all_reduce") == 2);
    const mth__node *reduced = find(w, "all_reduce", 0);
    CHECK(reduced->in[0]->node->accumulates && reduced->in[0]->sharding.partial);
    return NULL;
}
WORLD_TEST(both_gradients_of_a_norm_are_added_or_none, 1) {
    mth__value *x = input(w, "input", SHAPE(6, 8)), *y[3];
    pipeline(w, 1, 2, MTH__GPIPE, x);
    stage(w, 0);
    mth__value *weight = parameter(w, "n.weight", SHAPE(8)), *bias = parameter(w, "n.bias", SHAPE(8));
    mth__value *in[] = {x, weight, bias};
    CHECK_STATUS(mth__build(&w->b, MTH__ROW_layer_norm, &(mth__attrs){.epsilon = 1e-5}, 3, in, y));
    output(w, "output", y[0]);
    CHECK(accumulated(w, true) == 2 && count(w, "add") == 0);
    CHECK(find(w, "layer_norm_grad", 2)->nin == 7);
    return NULL;
}
WORLD_TEST(a_sum_over_microbatches_forward, 1) {
    mth__value *x = input(w, "input", SHAPE(8, 4));
    pipeline(w, 1, 2, MTH__GPIPE, x);
    stage(w, 0);
    output(w, "output", contract(w, "bi,bo->io", x, one(w, "relu", x)));
    CHECK(accumulated(w, false) == 3 && count(w, "add") == 0);
    return NULL;
}
/* A row's weight gradients and what its operands' makers send back, with something in the way of the addition. */
WORLD_TEST(what_is_needed_otherwise_stays_an_addition, 2) {
    for (int k = 0; k < 7; k++) {
        mth__graph *graph = w->graph = w->b.graph = mth__graph_new(w->arena, w->mesh);
        w->b.label.phase = k != 5 ? MTH__BACKWARD : MTH__FORWARD;
        mth__value *x = input(w, "x", SHAPE(8, 4)), *value = input(w, "z", SHAPE(8, 4));
        mth__value *sum = contract(w, "bi,bo->io", x, value);
        mth__value *view = k == 1 ? with(w, "reshape", (mth__attrs){.rank = 1, .shape = {16}}, sum) : NULL;
        mth__value *term = contract(w, "bi,bo->io", value, x);
        if (k == 6) output(w, "between", one(w, "exp", sum));
        mth__value *total = two(w, "add", sum, term);
        output(w, "total", total);
        if (k == 0) output(w, "later", one(w, "exp", sum));
        if (k == 1) output(w, "view", one(w, "exp", view));
        if (k == 2) output(w, "sum", sum);
        if (k == 3) output(w, "term", one(w, "exp", term));
        if (k == 4) two(w, "add", total, total); /* nothing is in the way */
        int adding = accumulated(w, false);
        CHECK(adding == (k == 4) && count(w, "contract") == 2);
        if (adding != (k == 4)) printf("  case %d\n", k);
        CHECK(w->graph == graph);
    }
    return NULL;
}

RUN()
