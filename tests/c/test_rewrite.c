/* The toolkit of passes: sources, tables by value id, rewriting. */
#include "base/rewrite.h"
#include "catalog/row_tools.h"
#include "graph_case.h"

#define SHAPE(...) ((mth__shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define REAL(name, ...) mth__graph_value(g, MTH__VALUE_INPUT, name, MTH_FLOAT32, SHAPE(__VA_ARGS__))

IN_GRAPH(sources_in_order) {
    mth__value *weight = mth__graph_value(g, MTH__VALUE_PARAMETER, "weight", MTH_FLOAT32, SHAPE(3));
    mth__value *seed = mth__graph_value(g, MTH__VALUE_SEED, "y", MTH_FLOAT32, SHAPE(3)), *x = REAL("x", 3), *y;
    CHECK(mth__graph_sources(g) == 3);
    CHECK(mth__graph_source(g, 0) == x && mth__graph_source(g, 1) == weight && mth__graph_source(g, 2) == seed);
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, x, x, &y));
    PUSH(g->arena, g->output, ((mth__output){.name = "x", .value = x}));
    const int *uses = mth__graph_uses(g->arena, g);
    CHECK(uses[x->id] == 3 && uses[weight->id] == 0 && uses[y->id] == 0);
}

IN_GRAPH(tables_grow) {
    BY_VALUE(int64_t) table = {0};
    mth__value *value[500];
    for (int i = 0; i < 500; i++) {
        value[i] = mth__graph_value(g, MTH__VALUE_INPUT, "x", MTH_FLOAT32, SHAPE(1));
        CHECK(*AT_VALUE(g->arena, table, value[i]) == 0);
        *AT_VALUE(g->arena, table, value[i]) = i + 1;
    }
    for (int i = 0; i < 500; i++) CHECK(*AT_VALUE(g->arena, table, value[i]) == i + 1);
}

/* tanh(copy(exp(-x))) becomes tanh(2 * -x): exp is made anew as scale, the copy gives way to what it copies. */
IN_GRAPH(readers_take_what_stands_for_a_value) {
    mth__value *x = REAL("x", 3), *minus, *first, *second, *last;
    CHECK_STATUS(mth__build1(b, MTH__ROW_neg, NULL, x, &minus));
    CHECK_STATUS(mth__build1(b, MTH__ROW_exp, NULL, minus, &first));
    CHECK_STATUS(mth__build1(b, MTH__ROW_copy, NULL, first, &second));
    CHECK_STATUS(mth__build1(b, MTH__ROW_tanh, NULL, second, &last));
    PUSH(g->arena, g->output, ((mth__output){.name = "second", .value = second}));
    PUSH(g->arena, g->output, ((mth__output){.name = "last", .value = last}));
    mth__rewrite rewrite = mth__rewrite_begin(g->arena, g);
    CHECK(rewrite.nodes == 4 && g->node.n == 0);
    mth__value *twice = NULL;
    for (size_t i = 0; i < rewrite.nodes; i++) {
        mth__node *node = rewrite.old[i];
        mth__rewrite_operands(&rewrite, node);
        if (node == first->node) { /* made anew */
            CHECK_STATUS(mth__build1(b, MTH__ROW_scale, &(mth__attrs){.by = 2}, node->in[0], &twice));
            mth__rewrite_replace(&rewrite, first, twice);
        } else if (node == second->node)
            mth__rewrite_replace(&rewrite, second, first); /* through what stands for that one */
        else
            mth__rewrite_push(&rewrite, node);
    }
    CHECK(mth__rewrite_current(&rewrite, second) == twice && mth__rewrite_current(&rewrite, x) == x);
    mth__rewrite_end(&rewrite);
    CHECK_STATUS(mth__graph_check(g));
    CHECK(g->node.n == 3 && last->node->in[0] == twice && last->node->id == 2);
    CHECK(g->output.at[0].value == twice && g->output.at[1].value == last);
}

IN_GRAPH(kept_nodes_are_numbered) {
    mth__value *x = REAL("x", 3), *y[4];
    for (int i = 0; i < 4; i++) CHECK_STATUS(mth__build1(b, MTH__ROW_neg, NULL, x, &y[i]));
    mth__graph_keep(g, (bool[]){false, true, false, true});
    CHECK(g->node.n == 2 && g->node.at[0] == y[1]->node && g->node.at[1] == y[3]->node && y[3]->node->id == 1);
    CHECK_STATUS(mth__graph_check(g));
    y[3]->node->id = 7;
    CHECK_FAILS(mth__graph_check(g), MTH_ERROR_INTERNAL, "node 7 stands at 1");
}
RUN()
