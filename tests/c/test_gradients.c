/* mth__gradients: the structure of what it makes. Numbers are the operator table's. */
#include "derive/derive.h"
#include "graph_case.h"
#include <time.h>

static mth__value *value(mth__graph *graph, mth__value_kind kind, const char *name, int64_t x, int64_t y) {
    return mth__graph_value(graph, kind, name, MTH_FLOAT32, (mth__shape){2, {x, y}});
}
static void output(mth__graph *graph, const char *name, mth__value *value) {
    PUSH(graph->arena, graph->output, (mth__output){.name = name, .value = value});
}
static const mth__output *gradient(const mth__graph *graph, const char *of) {
    for (size_t i = 0; i < graph->output.n; i++)
        if (graph->output.at[i].is_gradient && !strcmp(graph->output.at[i].of, of)) return &graph->output.at[i];
    return NULL;
}
static int count(const mth__graph *graph, enum mth__row row) {
    int n = 0;
    for (size_t i = 0; i < graph->node.n; i++) n += graph->node.at[i]->op->row == row;
    return n;
}
static const bool yes[] = {true, true, true}, no[] = {false, false, false};

IN_GRAPH(two_layers) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "input", 8, 32),
               *w1 = value(g, MTH__VALUE_PARAMETER, "linear_0.weight", 32, 64),
               *w2 = value(g, MTH__VALUE_PARAMETER, "linear_1.weight", 64, 16), *h, *r, *y;
    mth__value *unused = value(g, MTH__VALUE_PARAMETER, "linear_2.weight", 3, 3);
    b->label.module = "linear_0";
    CHECK_STATUS(mth__build_contract(b, "bi,io->bo", x, w1, &h));
    b->label.module = "relu_0";
    CHECK_STATUS(mth__build1(b, MTH__ROW_relu, NULL, h, &r));
    b->label.module = "linear_1";
    CHECK_STATUS(mth__build_contract(b, "bi,io->bo", r, w2, &y));
    output(g, "output", y);
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){.seeded = yes}));
    CHECK_STATUS(mth__graph_check(g));
    CHECK(g->seed.n == 1 && !strcmp(g->seed.at[0]->name, "output"));
    const mth__output *d1 = gradient(g, "linear_0.weight"), *d2 = gradient(g, "linear_1.weight"),
                      *d3 = gradient(g, "linear_2.weight");
    CHECK(d1 && mth__shape_equal(d1->value->shape, w1->shape) && !strcmp(d1->value->node->label.module, "linear_0") &&
        d1->value->node->label.phase == MTH__BACKWARD);
    CHECK(d2 && mth__shape_equal(d2->value->shape, w2->shape));
    CHECK(d3 && d3->value->node->op->row == MTH__ROW_scale && d3->value->node->attrs.by == 0 &&
        d3->value->node->in[0] == unused && !strcmp(d3->value->node->label.module, "linear_2"));
    CHECK(!gradient(g, "input"));
    /* two forward; two of weights, one of the hidden value: none of the input */
    CHECK(count(g, MTH__ROW_contract) == 5);
    CHECK(!strcmp(d1->value->node->attrs.spec, "bi,bo->io"));
    CHECK(g->output.n == 4 && !strcmp(g->output.at[1].name, "linear_0.weight") &&
        !strcmp(g->output.at[3].name, "linear_2.weight"));
}

IN_GRAPH(microbatches_sum_in_order) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 4, 8), *w = value(g, MTH__VALUE_PARAMETER, "l.weight", 8, 8), *y[4],
               *all;
    for (int m = 3; m >= 0; m--) { /* the order of the nodes must not matter */
        mth__value *part;
        b->label.microbatch = m;
        b->label.stage = 0;
        CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = m, .stop = m + 1}, x, &part));
        CHECK_STATUS(mth__build_contract(b, "bi,io->bo", part, w, &y[m]));
    }
    b->label.microbatch = -1;
    CHECK_STATUS(mth__build(b, MTH__ROW_concat, NULL, 4, y, &all));
    output(g, "y", all);
    const char *wanted[] = {"x"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, yes}));
    CHECK_STATUS(mth__graph_check(g));
    const mth__node *node = gradient(g, "l.weight")->value->node;
    for (int m = 3; m >= 1; m--) { /* ((0 + 1) + 2) + 3, each add of the later microbatch */
        CHECK(node->op->row == MTH__ROW_add && node->label.microbatch == m && node->label.stage == 0);
        CHECK(node->in[1]->node->label.microbatch == m);
        node = node->in[0]->node;
    }
    CHECK(node->op->row == MTH__ROW_contract && node->label.microbatch == 0);
    const mth__value *dx = gradient(g, "x")->value; /* the slices tile x: one concat, no padding */
    CHECK(dx->node->op->row == MTH__ROW_concat && dx->node->nin == 4 && mth__shape_equal(dx->shape, x->shape));
    for (int m = 0; m < 4; m++) CHECK(dx->node->in[m]->node->label.microbatch == m);
    CHECK(count(g, MTH__ROW_pad) == 0);
}

IN_GRAPH(slices_with_gaps_and_overlaps) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 10, 2), *z = value(g, MTH__VALUE_INPUT, "z", 10, 2), *p, *q, *y;
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = 1, .stop = 4}, x, &p));
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = 6, .stop = 9}, x, &q));
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, p, q, &y));
    output(g, "y", y);
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = 1, .stop = 4}, z, &p));
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = 3, .stop = 6}, z, &q));
    CHECK_STATUS(mth__build2(b, MTH__ROW_mul, NULL, p, q, &y));
    output(g, "y2", y);
    const char *wanted[] = {"x", "z"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 2, yes}));
    CHECK_STATUS(mth__graph_check(g));
    CHECK(gradient(g, "x")->value->node->op->row == MTH__ROW_concat &&
        mth__shape_equal(gradient(g, "x")->value->shape, x->shape));
    CHECK(gradient(g, "z")->value->node->op->row == MTH__ROW_add &&
        mth__shape_equal(gradient(g, "z")->value->shape, z->shape));
}

IN_GRAPH(many_pieces_nest) {
    enum { N = 150 };
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", N, 1), *part, *sum = NULL;
    for (int m = 0; m < N; m++) {
        CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = m, .stop = m + 1}, x, &part));
        if (!sum)
            sum = part;
        else
            CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, sum, part, &sum));
    }
    output(g, "y", sum);
    const char *wanted[] = {"x"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, yes}));
    CHECK_STATUS(mth__graph_check(g));
    CHECK(gradient(g, "x")->value->node->op->row == MTH__ROW_concat && gradient(g, "x")->value->node->nin == 3);
    CHECK(gradient(g, "x")->value->shape.dim[0] == N);
}

IN_GRAPH(seeds) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 2, 2), *z = value(g, MTH__VALUE_INPUT, "z", 2, 2), *y, *r;
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, x, z, &y));
    CHECK_STATUS(mth__build1(b, MTH__ROW_relu, NULL, y, &r));
    output(g, "y", y);
    output(g, "again", y);
    output(g, "r", r);
    const char *wanted[] = {"x", "z"};
    const bool seeded[] = {true, true, false};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 2, seeded}));
    CHECK_STATUS(mth__graph_check(g));
    CHECK(g->seed.n == 2 && count(g, MTH__ROW_relu_grad) == 0);
    const mth__value *dx = gradient(g, "x")->value, *dz = gradient(g, "z")->value;
    CHECK(dx != dz && dx->node && dz->node); /* both are the sum of the seeds: the second is a copy */
    CHECK(dx->node->op->row == MTH__ROW_add && dz->node->op->row == MTH__ROW_copy && dz->node->in[0] == dx);
}
IN_GRAPH(nothing_seeded_is_zero) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 2, 2), *y;
    CHECK_STATUS(mth__build1(b, MTH__ROW_exp, NULL, x, &y));
    output(g, "y", y);
    const char *wanted[] = {"x"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, no}));
    CHECK(gradient(g, "x")->value->node->op->row == MTH__ROW_scale && g->seed.n == 0);
}
IN_GRAPH(input_that_is_an_output) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 2, 2);
    output(g, "y", x);
    const char *wanted[] = {"x"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, yes}));
    CHECK_STATUS(mth__graph_check(g));
    CHECK(gradient(g, "x")->value->node->op->row == MTH__ROW_copy &&
        gradient(g, "x")->value->node->in[0] == g->seed.at[0]);
}
IN_GRAPH(stop_ends_it) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 2, 2), *s, *y;
    CHECK_STATUS(mth__build1(b, MTH__ROW_stop, NULL, x, &s));
    CHECK_STATUS(mth__build2(b, MTH__ROW_mul, NULL, x, s, &y));
    output(g, "y", y);
    const char *wanted[] = {"x"};
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, yes}));
    /* one gradient, and no other beside it */
    CHECK(count(g, MTH__ROW_add) == 0 && count(g, MTH__ROW_mul) == 2 && count(g, MTH__ROW_mul_grad) == 0);
}
IN_GRAPH(tags) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", 2, 2), *y, *z;
    b->on = mth__place_device(g->mesh, 2);
    b->label.module = "exp_0";
    b->label.source = "train.py:3";
    b->label.region = 0;
    b->label.stage = 1;
    b->label.microbatch = 5;
    CHECK_STATUS(mth__build1(b, MTH__ROW_exp, NULL, x, &y));
    b->on = mth__place_device(g->mesh, 3);
    b->label.stage = 2;
    CHECK_STATUS(mth__build2(b, MTH__ROW_mul, NULL, y, y, &z));
    output(g, "z", z);
    const char *wanted[] = {"x"};
    size_t forward = g->node.n;
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){wanted, 1, yes}));
    CHECK_STATUS(mth__graph_check(g));
    for (size_t i = forward; i < g->node.n; i++) {
        const mth__node *node = g->node.at[i];
        bool last = i + 1 == g->node.n; /* mul, mul and their sum where z was made; then exp's */
        CHECK(node->label.phase == MTH__BACKWARD && node->label.region == 0 && node->label.microbatch == 5 &&
            node->label.stage == (last ? 1 : 2) && node->on == mth__place_device(g->mesh, last ? 2 : 3) &&
            node->label.source && !strcmp(node->label.source, "train.py:3"));
    }
}
IN_GRAPH(errors) {
    mth__value *x = value(g, MTH__VALUE_INPUT, "hidden", 2, 2), *y;
    mth__graph_value(g, MTH__VALUE_INPUT, "ids", MTH_INT32, (mth__shape){1, {3}});
    CHECK_STATUS(mth__build2(b, MTH__ROW_relu_grad, NULL, x, x, &y));
    output(g, "y", y);
    const char *misspelt[] = {"hiden"}, *integer[] = {"ids"}, *second[] = {"hidden"};
    CHECK_FAILS(mth__gradients(g, &(mth__gradient_options){misspelt, 1, yes}), MTH_ERROR_KEY, "hidden");
    CHECK_FAILS(mth__gradients(g, &(mth__gradient_options){integer, 1, yes}), MTH_ERROR_TYPE, "int32");
    CHECK_FAILS(mth__gradients(g, &(mth__gradient_options){second, 1, yes}), MTH_ERROR_UNSUPPORTED, "relu_grad");
}
IN_GRAPH(linear_in_nodes) {
    enum { LAYERS = 200, MICROBATCHES = 64 };
    mth__value *x = value(g, MTH__VALUE_INPUT, "x", MICROBATCHES, 8), *w[LAYERS], *y[MICROBATCHES], *all;
    for (int l = 0; l < LAYERS; l++)
        w[l] = value(g, MTH__VALUE_PARAMETER, mth__format(g->arena, "linear_%d.weight", l), 8, 8);
    struct timespec t0, t1, t2; /* of this thread: tests run beside others */
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t0);
    for (int m = 0; m < MICROBATCHES; m++) {
        b->label.microbatch = m;
        CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.start = m, .stop = m + 1}, x, &y[m]));
        for (int l = 0; l < LAYERS; l++) {
            mth__value *h;
            CHECK_STATUS(mth__build_contract(b, "bi,io->bo", y[m], w[l], &h));
            CHECK_STATUS(mth__build1(b, MTH__ROW_relu, NULL, h, &h));
            CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, y[m], h, &y[m]));
        }
    }
    b->label.microbatch = -1;
    CHECK_STATUS(mth__build(b, MTH__ROW_concat, NULL, MICROBATCHES, y, &all));
    output(g, "y", all);
    size_t forward = g->node.n;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t1);
    CHECK_STATUS(mth__gradients(g, &(mth__gradient_options){.seeded = yes}));
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t2);
    double build = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec),
           back = (double)(t2.tv_sec - t1.tv_sec) + 1e-9 * (double)(t2.tv_nsec - t1.tv_nsec);
    printf("  %zu nodes built in %.0f ms; %zu of the gradients in %.0f ms\n", forward, build * 1e3, g->node.n - forward,
        back * 1e3);
    CHECK_STATUS(mth__graph_check(g));
    CHECK(back < 2);
}
RUN()
