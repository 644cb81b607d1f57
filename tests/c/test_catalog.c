/* The catalog: lookup, rules, shapes, the builder and its errors. */
#include "catalog/row_tools.h"
#include "graph_case.h"

#define SHAPE(...) ((mth__shape){sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}})
static mth__value *input(mth__graph *graph, const char *name, mth_dtype dtype, mth__shape shape) {
    return mth__graph_value(graph, MTH__VALUE_INPUT, name, dtype, shape);
}
#define REAL(name, ...) input(g, name, MTH_FLOAT32, SHAPE(__VA_ARGS__))
#define IDS(name, ...) input(g, name, MTH_INT32, SHAPE(__VA_ARGS__))
static mth__rule rule_of(const mth__value *value) {
    mth__rule rule;
    mth__op_rule(value->node, &rule);
    return rule;
}
#define KIND(r, f) ((f) < 0 ? -1 : (int)(r).factor[f].kind)

TEST(lookup) {
    CHECK(mth__op_count() == MTH__ROW_COUNT && !mth__op_find("matmull") && !mth__op_find(""));
    for (size_t i = 0; i < mth__op_count(); i++) {
        const mth__op *op = mth__op_at(i);
        CHECK(mth__op_find(op->name) == op && op->row == i);
        CHECK(op->doc && op->results && op->args && (op->factors || op->rule) && (op->factors || op->infer));
        CHECK(op->doc[strlen(op->doc) - 1] == '.');
        /* all listed names are known, in that order, and no two of a row share a place */
        const char *name = op->attributes;
        size_t places[16];
        int count = 0;
        for (const mth__attribute *attribute; (attribute = mth__op_attribute(op, count)); count++) {
            size_t length = strlen(attribute->name);
            CHECK(count < 15 && name && !strncmp(name, attribute->name, length));
            name += length;
            CHECK(*name == ',' || !*name);
            name += strspn(name, ", ");
            places[count] = attribute->offset;
            CHECK(attribute->offset + 8 <= sizeof(mth__attrs));
            for (int k = 0; k < count; k++) CHECK(places[k] != places[count]);
        }
        CHECK(!name || !*name);
    }
}

IN_GRAPH(contract) {
    mth__value *x = REAL("x", 2, 5, 6), *w = REAL("w", 6, 7), *y;
    CHECK_STATUS(mth__build_contract(b, "bsi,io->bso", x, w, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(2, 5, 7)) && y->dtype == MTH_FLOAT32 &&
        y->node->label.module == b->label.module);
    mth__rule rule = rule_of(y);
    CHECK(rule.n == 4 && rule.in[0][2] == rule.in[1][0] && rule.factor[rule.in[0][2]].kind == MTH__SUM &&
        rule.factor[rule.in[0][2]].size == 6 && rule.factor[rule.in[0][2]].letter == 'i');
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.in[1][1] == rule.out[0][2] &&
        KIND(rule, rule.out[0][2]) == MTH__PASS && rule.in_unit[0][0] == 1);
    CHECK(mth__op_flops(y->node, (mth__shape[]){x->shape, w->shape}, &y->shape) == 2.0 * 2 * 5 * 6 * 7);
    mth__value *q = REAL("q", 2, 3, 4, 5), *k = REAL("k", 2, 6, 4, 5);
    CHECK_STATUS(mth__build_contract(b, "bshd,bthd->bhst", q, k, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(2, 4, 3, 6)));
    size_t nodes = g->node.n;
    int values = g->values;
    CHECK_FAILS(mth__build_contract(b, "bsi,io->bso", x, REAL("bad", 5, 7), &y), MTH_ERROR_VALUE,
        "dimension 2 of a is 6, dimension 0 of b is 5");
    CHECK_FAILS(mth__build_contract(b, "bsi,io->bso", x, REAL("bad", 5, 7), &y), MTH_ERROR_VALUE, "block_0");
    CHECK_FAILS(
        mth__build_contract(b, "bsi,io->bso", x, REAL("bad", 5, 7), &y), MTH_ERROR_VALUE, "bad: float32 (5, 7)");
    CHECK_FAILS(mth__build_contract(b, "bi,io->bo", x, w, &y), MTH_ERROR_VALUE, "3 dimensions");
    const char *bad[] = {"", "bi", "bi,io", "bi->bo", "bi,io->boo", "bii,io->bo", "bi,io->b", "bi,io->bx",
        "...i,io->...o", "b i,io->bo"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(mth__build_contract(b, bad[i], w, w, &y), MTH_ERROR_VALUE, "spec");
    CHECK(g->node.n == nodes && g->values == values + 3); /* only the three inputs made above */
}

IN_GRAPH(broadcasting) {
    mth__value *a = REAL("a", 4, 1, 6), *c = REAL("c", 5, 1), *y;
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, a, c, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 5, 6)));
    mth__rule rule = rule_of(y);
    CHECK(rule.n == 3 && rule.in[0][0] == 0 && rule.in[0][1] == -1 && rule.in[0][2] == 2 && rule.in[1][0] == 1 &&
        rule.in[1][1] == -1 && rule.out[0][1] == 1);
    CHECK_FAILS(mth__build2(b, MTH__ROW_mul, NULL, a, REAL("e", 7, 7), &y), MTH_ERROR_VALUE, "broadcast");
    CHECK_FAILS(mth__build2(b, MTH__ROW_mul, NULL, a, IDS("ids", 6), &y), MTH_ERROR_TYPE, "int32");
    CHECK_FAILS(
        mth__build2(b, MTH__ROW_mul, NULL, a, input(g, "d", MTH_FLOAT64, SHAPE(6)), &y), MTH_ERROR_TYPE, "float64");
    CHECK_FAILS(mth__build1(b, MTH__ROW_add, NULL, a, &y), MTH_ERROR_VALUE, "operand");
    mth__value *u;
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, a, c, &y));
    CHECK_STATUS(mth__build_unbroadcast(b, y, a->shape, &u));
    CHECK(mth__shape_equal(u->shape, a->shape) && u->node->op->row == MTH__ROW_reduce_sum);
    CHECK_STATUS(mth__build_unbroadcast(b, y, c->shape, &u));
    CHECK(mth__shape_equal(u->shape, c->shape));
    CHECK_STATUS(mth__build_unbroadcast(b, y, SHAPE(6), &u));
    CHECK(mth__shape_equal(u->shape, SHAPE(6)) && u->node->op->row == MTH__ROW_reduce_sum);
    CHECK_STATUS(mth__build_unbroadcast(b, y, (mth__shape){0}, &u));
    CHECK(u->shape.rank == 0);
}

static mth__rule reshape_rule(mth__graph *graph, mth__builder *builder, mth__shape from, mth__shape to) {
    mth__value *y = NULL;
    mth__attrs attrs = mth__attrs_of_shape(to);
    CHECK_STATUS(mth__build1(builder, MTH__ROW_reshape, &attrs, input(graph, "x", MTH_FLOAT32, from), &y));
    CHECK(mth__shape_equal(y->shape, to));
    return rule_of(y);
}
IN_GRAPH(reshape) {
    mth__rule rule = reshape_rule(g, b, SHAPE(2, 5, 12), SHAPE(2, 5, 4, 3)); /* heads * width to heads, width */
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.in[0][1] == rule.out[0][1] && rule.in[0][2] == rule.out[0][2] &&
        rule.in_unit[0][2] == 3 && rule.out_unit[0][2] == 1);
    CHECK(rule.factor[rule.in[0][2]].size == 4 && KIND(rule, rule.in[0][2]) == MTH__PASS &&
        KIND(rule, rule.out[0][3]) == MTH__WHOLE);
    rule = reshape_rule(g, b, SHAPE(2, 5, 12), SHAPE(10, 12)); /* batch and sequence to rows */
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.out_unit[0][0] == 5 && KIND(rule, rule.in[0][1]) == MTH__WHOLE &&
        rule.in[0][2] == rule.out[0][1]);
    rule = reshape_rule(g, b, SHAPE(12), SHAPE(2, 3, 2)); /* groups, heads, width */
    CHECK(rule.in_unit[0][0] == 6 && rule.factor[rule.in[0][0]].size == 2 && KIND(rule, rule.out[0][1]) == MTH__WHOLE &&
        KIND(rule, rule.out[0][2]) == MTH__WHOLE);
    rule = reshape_rule(g, b, SHAPE(4, 6), SHAPE(8, 3)); /* quarters of both are the same elements */
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.factor[rule.in[0][0]].size == 4 && rule.in_unit[0][0] == 1 &&
        rule.out_unit[0][0] == 2);
    rule = reshape_rule(g, b, SHAPE(3, 5), SHAPE(5, 3)); /* no common cut */
    for (int d = 0; d < 2; d++)
        CHECK(KIND(rule, rule.in[0][d]) == MTH__WHOLE && KIND(rule, rule.out[0][d]) == MTH__WHOLE);
    rule = reshape_rule(g, b, SHAPE(4, 7), SHAPE(4, 1, 7, 1));
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.in[0][1] == rule.out[0][2] && rule.out[0][1] == -1 &&
        rule.out[0][3] == -1);
    rule = reshape_rule(g, b, SHAPE(1, 6), SHAPE(1, 2, 3)); /* a batch of one is still the batch */
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.in[0][0] >= 0 && KIND(rule, rule.in[0][0]) == MTH__PASS);
    rule = reshape_rule(g, b, SHAPE(2, 1, 3), SHAPE(6));
    CHECK(rule.in[0][0] == rule.out[0][0] && rule.out_unit[0][0] == 3 && rule.in[0][1] == -1);
    rule = reshape_rule(g, b, SHAPE(0, 6), SHAPE(3, 0));
    CHECK(KIND(rule, rule.in[0][0]) == MTH__WHOLE);
    rule = reshape_rule(g, b, SHAPE(1), (mth__shape){0});
    CHECK(rule.in[0][0] == -1);
    mth__value *x = REAL("x", 4, 6), *y;
    CHECK_FAILS(mth__build1(b, MTH__ROW_reshape, &(mth__attrs){.rank = 1, .shape = {25}}, x, &y), MTH_ERROR_VALUE,
        "multiply to 24");
    CHECK_FAILS(mth__build1(b, MTH__ROW_reshape, &(mth__attrs){.rank = 1, .shape = {-24}}, x, &y), MTH_ERROR_VALUE, "");
    CHECK_FAILS(mth__build1(b, MTH__ROW_reshape, &(mth__attrs){.rank = 9}, x, &y), MTH_ERROR_VALUE, "dimensions");
    CHECK_FAILS(mth__build1(b, MTH__ROW_reshape, &(mth__attrs){.rank = 3, .shape = {INT64_MAX, INT64_MAX, 4}}, x, &y),
        MTH_ERROR_VALUE, "");
}

IN_GRAPH(layout) {
    mth__value *x = REAL("x", 4, 6, 8), *ids = IDS("ids", 4, 6), *y, *many[MTH__MAX_IN];
    CHECK_STATUS(mth__build1(b, MTH__ROW_transpose, &(mth__attrs){.rank = 3, .permutation = {2, 0, 1}}, x, &y));
    mth__rule rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(8, 4, 6)) && rule.in[0][2] == rule.out[0][0] &&
        rule.in[0][0] == rule.out[0][1]);
    CHECK_FAILS(mth__build1(b, MTH__ROW_transpose, &(mth__attrs){.rank = 3, .permutation = {2, 0, 0}}, x, &y),
        MTH_ERROR_VALUE, "permutation");
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.dimension = 1, .start = 2, .stop = 5}, ids, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 3)) && y->dtype == MTH_INT32 && KIND(rule, rule.in[0][1]) == MTH__WHOLE &&
        KIND(rule, rule.out[0][1]) == MTH__WHOLE && KIND(rule, rule.in[0][0]) == MTH__PASS);
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.dimension = 1, .stop = 6}, ids, &y)); /* all of it */
    rule = rule_of(y);
    CHECK(KIND(rule, rule.in[0][1]) == MTH__PASS);
    CHECK_STATUS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.dimension = 1, .start = 3, .stop = 3}, ids, &y));
    CHECK_FAILS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.dimension = 1, .stop = 7}, ids, &y), MTH_ERROR_VALUE,
        "6 elements");
    CHECK_FAILS(mth__build1(b, MTH__ROW_slice, &(mth__attrs){.dimension = 2, .stop = 1}, ids, &y), MTH_ERROR_VALUE,
        "outside the 2 dimensions");
    CHECK_STATUS(mth__build1(b, MTH__ROW_pad, &(mth__attrs){.before = 2, .after = 1}, x, &y));
    CHECK(y->shape.dim[0] == 7);
    CHECK_FAILS(
        mth__build1(b, MTH__ROW_pad, &(mth__attrs){.before = INT64_MAX, .after = 1}, x, &y), MTH_ERROR_VALUE, "");
    CHECK_FAILS(
        mth__build1(b, MTH__ROW_pad, &(mth__attrs){.before = INT64_MAX / 16, .after = 1}, x, &y), MTH_ERROR_VALUE, "");
    for (int j = 0; j < MTH__MAX_IN; j++) many[j] = x;
    CHECK_STATUS(mth__build(b, MTH__ROW_concat, &(mth__attrs){.dimension = 1}, MTH__MAX_IN, many, &y));
    rule = rule_of(y);
    CHECK(y->shape.dim[1] == 6 * MTH__MAX_IN && rule.n == 3 && KIND(rule, rule.in[MTH__MAX_IN - 1][1]) == MTH__WHOLE &&
        KIND(rule, rule.in[5][0]) == MTH__PASS);
    CHECK_FAILS(mth__build(b, MTH__ROW_concat, &(mth__attrs){.dimension = 1}, MTH__MAX_IN + 1, many, &y),
        MTH_ERROR_VALUE, "at most 64");
    CHECK_FAILS(
        mth__build2(b, MTH__ROW_concat, &(mth__attrs){.dimension = 0}, x, ids, &y), MTH_ERROR_TYPE, "two dtypes");
    CHECK_FAILS(mth__build2(b, MTH__ROW_concat, &(mth__attrs){.dimension = 0}, x, REAL("z", 4, 6, 9), &y),
        MTH_ERROR_VALUE, "dimension 2 of operand 1 is 9");
    CHECK_STATUS(mth__build1(b, MTH__ROW_broadcast_to, &(mth__attrs){.rank = 4, .shape = {3, 4, 6, 8}}, x, &y));
    CHECK_FAILS(mth__build1(b, MTH__ROW_broadcast_to, &(mth__attrs){.rank = 3, .shape = {4, 5, 8}}, x, &y),
        MTH_ERROR_VALUE, "broadcast to 5");
    CHECK_STATUS(mth__build1(b, MTH__ROW_reduce_sum, &(mth__attrs){.dimensions = 5}, x, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(6)) && KIND(rule, rule.in[0][0]) == MTH__SUM &&
        rule.out[0][0] == rule.in[0][1]);
    CHECK_STATUS(mth__build1(b, MTH__ROW_reduce_max, &(mth__attrs){.dimensions = 2, .keep = 1}, x, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 1, 8)) && KIND(rule, rule.in[0][1]) == MTH__MAX && rule.out[0][1] == -1);
    CHECK_FAILS(mth__build1(b, MTH__ROW_reduce_max, &(mth__attrs){.dimensions = 8, .keep = 1}, x, &y), MTH_ERROR_VALUE,
        "dimension 3");
    CHECK_FAILS(mth__build1(b, MTH__ROW_reduce_max, &(mth__attrs){.dimensions = 1, .keep = 1}, REAL("empty", 0, 2), &y),
        MTH_ERROR_VALUE, "no element");
}

IN_GRAPH(index_and_norms) {
    mth__value *table = REAL("table", 10, 4), *ids = IDS("ids", 2, 3), *wide = input(g, "wide", MTH_INT64, SHAPE(2, 3)),
               *x = REAL("x", 2, 3, 4), *value = REAL("w", 4), *y, *many[3];
    CHECK_STATUS(mth__build2(b, MTH__ROW_gather, NULL, table, wide, &y));
    mth__rule rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(2, 3, 4)) && KIND(rule, rule.in[0][0]) == MTH__SUM &&
        rule.in[1][1] == rule.out[0][1] && rule.in[0][1] == rule.out[0][2]);
    CHECK_FAILS(mth__build2(b, MTH__ROW_gather, NULL, table, x, &y), MTH_ERROR_TYPE, "int32 or int64");
    CHECK_FAILS(mth__build2(b, MTH__ROW_gather, NULL, x, ids, &y), MTH_ERROR_VALUE, "3 dimensions");
    CHECK_STATUS(mth__build2(b, MTH__ROW_gather_grad, &(mth__attrs){.rows = 10}, ids, x, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, table->shape) && y->dtype == MTH_FLOAT32 &&
        KIND(rule, rule.in[0][0]) == MTH__SUM && KIND(rule, rule.in[0][1]) == MTH__SUM &&
        KIND(rule, rule.out[0][0]) == MTH__PASS);
    CHECK_STATUS(mth__build2(b, MTH__ROW_pick, NULL, x, ids, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(2, 3)));
    CHECK_FAILS(mth__build2(b, MTH__ROW_pick, NULL, x, IDS("short", 3), &y), MTH_ERROR_VALUE, "1 dimensions");
    CHECK_FAILS(mth__build2(b, MTH__ROW_pick, NULL, x, IDS("other", 2, 4), &y), MTH_ERROR_VALUE,
        "dimension 1 of x is 3, dimension 1 of ids is 4");
    CHECK_STATUS(mth__build2(b, MTH__ROW_pick_grad, &(mth__attrs){.size = 4}, ids, REAL("dy", 2, 3), &y));
    CHECK(mth__shape_equal(y->shape, x->shape));
    CHECK_STATUS(mth__build(b, MTH__ROW_sinusoid, &(mth__attrs){.length = 7, .width = 4}, 0, NULL, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(7, 4)));
    CHECK_STATUS(mth__build1(b, MTH__ROW_rope, &(mth__attrs){.dimension = 1, .base = 1e4}, x, &y));
    rule = rule_of(y);
    CHECK(KIND(rule, rule.in[0][2]) == MTH__WHOLE && KIND(rule, rule.in[0][1]) == MTH__PASS);
    CHECK_FAILS(mth__build1(b, MTH__ROW_rope, &(mth__attrs){.dimension = 2, .base = 1e4}, x, &y), MTH_ERROR_VALUE,
        "before the last");
    CHECK_FAILS(mth__build1(b, MTH__ROW_rope, &(mth__attrs){.dimension = 0, .base = 1e4}, REAL("odd", 2, 3), &y),
        MTH_ERROR_VALUE, "even head width");
    CHECK_STATUS(mth__build3(b, MTH__ROW_layer_norm, &(mth__attrs){.epsilon = 1e-5}, x, value, value, many));
    CHECK(many[0] && mth__shape_equal(many[0]->shape, x->shape) && mth__shape_equal(many[1]->shape, SHAPE(2, 3)) &&
        mth__shape_equal(many[2]->shape, SHAPE(2, 3)) && many[2]->index == 2);
    mth__value *grads[3], *five[] = {x, value, many[1], many[2], x};
    CHECK_STATUS(mth__build(b, MTH__ROW_layer_norm_grad, NULL, 5, five, grads));
    rule = rule_of(grads[0]);
    CHECK(KIND(rule, rule.in[0][0]) == MTH__SUM && rule.out[0][0] == rule.in[0][0] &&
        KIND(rule, rule.in[0][2]) == MTH__WHOLE && mth__shape_equal(grads[1]->shape, value->shape));
    CHECK_FAILS(mth__build3(b, MTH__ROW_layer_norm, &(mth__attrs){.epsilon = 1e-5}, x, REAL("w5", 5), value, many),
        MTH_ERROR_VALUE, "weight");
    CHECK_FAILS(mth__build2(b, MTH__ROW_layer_norm, NULL, x, value, many), MTH_ERROR_VALUE, "x, weight, bias");
}

IN_GRAPH(attention) {
    mth__value *in[] = {REAL("q", 2, 5, 3, 2, 8), REAL("k", 2, 6, 3, 8), REAL("v", 2, 6, 3, 4),
        input(g, "mask", MTH_BOOL, SHAPE(2, 6))},
               *out[3];
    mth__attrs attrs = {.causal = 1, .scale = 0.5};
    CHECK_STATUS(mth__build(b, MTH__ROW_attention, &attrs, 4, in, out));
    CHECK(mth__shape_equal(out[0]->shape, SHAPE(2, 5, 3, 2, 4)) && mth__shape_equal(out[1]->shape, SHAPE(2, 5, 3, 2)) &&
        mth__shape_equal(out[2]->shape, out[1]->shape));
    mth__rule rule = rule_of(out[0]);
    CHECK(KIND(rule, rule.in[1][1]) == MTH__WHOLE && KIND(rule, rule.in[0][1]) == MTH__PASS &&
        rule.in[0][2] == rule.in[1][2] && KIND(rule, rule.in[0][4]) == MTH__WHOLE && rule.in[3][1] == rule.in[1][1]);
    CHECK_STATUS(mth__build(b, MTH__ROW_attention, &attrs, 3, in, out));
    mth__value *eight[] = {in[0], in[1], in[2], out[0], out[1], out[2], out[0], in[3]}, *grads[3];
    CHECK_STATUS(mth__build(b, MTH__ROW_attention_grad, &attrs, 8, eight, grads));
    for (int j = 0; j < 3; j++) CHECK(mth__shape_equal(grads[j]->shape, in[j]->shape));
    rule = rule_of(grads[0]);
    CHECK(KIND(rule, rule.in[0][1]) == MTH__SUM && KIND(rule, rule.in[0][3]) == MTH__SUM &&
        rule.out[0][1] == rule.in[0][1]);
    in[3] = REAL("mask2", 2, 7);
    CHECK_FAILS(mth__build(b, MTH__ROW_attention, &attrs, 4, in, out), MTH_ERROR_VALUE, "mask");
    in[1] = REAL("k2", 2, 6, 4, 8);
    CHECK_FAILS(mth__build(b, MTH__ROW_attention, &attrs, 3, in, out), MTH_ERROR_VALUE,
        "dimension 2 of q is 3, dimension 2 of k is 4");
}

IN_GRAPH(moe) {
    mth__value *logits = REAL("logits", 6, 4), *route[2], *kept[2], *rows, *y, *x = REAL("x", 6, 5),
               *value = REAL("w", 4, 5, 7), *wt = REAL("wt", 4, 7, 5);
    CHECK_STATUS(mth__build1(b, MTH__ROW_moe_route, &(mth__attrs){.k = 2}, logits, route));
    CHECK(mth__shape_equal(route[0]->shape, SHAPE(6, 2)) && route[0]->dtype == MTH_FLOAT32 &&
        route[1]->dtype == MTH_INT32);
    CHECK_FAILS(mth__build1(b, MTH__ROW_moe_route, &(mth__attrs){.k = 5}, logits, route), MTH_ERROR_VALUE, "at most 4");
    CHECK_STATUS(mth__build1(b, MTH__ROW_moe_capacity, &(mth__attrs){.capacity = 3, .experts = 4}, route[1], kept));
    CHECK(mth__shape_equal(kept[1]->shape, SHAPE(1)) && kept[0]->dtype == MTH_INT32);
    CHECK_STATUS(mth__build1(b, MTH__ROW_moe_rows, &(mth__attrs){.experts = 4}, kept[0], &rows));
    mth__rule rule = rule_of(rows);
    CHECK(mth__shape_equal(rows->shape, SHAPE(4, 6)) && rows->dtype == MTH_INT32 && rule.out[0][1] == rule.in[0][0] &&
        KIND(rule, rule.out[0][0]) == MTH__PASS);
    CHECK_STATUS(mth__build2(b, MTH__ROW_moe_dispatch, NULL, x, rows, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 6, 5)));
    CHECK_STATUS(mth__build3(b, MTH__ROW_moe_matmul, NULL, y, value, rows, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 6, 7)) && KIND(rule, rule.in[0][2]) == MTH__SUM &&
        rule.in[1][2] == rule.out[0][2]);
    CHECK_STATUS(mth__build3(b, MTH__ROW_moe_matmul, &(mth__attrs){.transposed = 1}, y, value, rows, &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(4, 6, 5)));
    CHECK_FAILS(
        mth__build3(b, MTH__ROW_moe_matmul, NULL, y, wt, rows, &y), MTH_ERROR_VALUE, "dimension 1 of weight is 7");
    mth__value *four[] = {y, rows, route[0], route[1]};
    CHECK_STATUS(mth__build(b, MTH__ROW_moe_combine, NULL, 4, four, &y));
    rule = rule_of(y);
    CHECK(mth__shape_equal(y->shape, x->shape) && KIND(rule, rule.in[0][0]) == MTH__SUM);
    CHECK_FAILS(mth__build3(b, MTH__ROW_moe_combine, NULL, four[0], rows, route[0], &y), MTH_ERROR_VALUE, "experts");
    CHECK_STATUS(mth__build1(b, MTH__ROW_moe_count, &(mth__attrs){.experts = 4}, route[1], &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(4)) && y->dtype == MTH_FLOAT32);
}

IN_GRAPH(sizes) {
    mth__value *big = REAL("big", (int64_t)1 << 40, 1), *wide = REAL("wide", 1, (int64_t)1 << 40), *y;
    CHECK_FAILS(mth__build2(b, MTH__ROW_add, NULL, big, wide, &y), MTH_ERROR_VALUE, "block_0");
    CHECK_FAILS(mth__build_contract(b, "ab,bc->ac", big, wide, &y), MTH_ERROR_VALUE, "");
    /* empty tensors are legal inside */
    CHECK_STATUS(mth__build2(b, MTH__ROW_add, NULL, REAL("none", 0, 3), REAL("row", 3), &y));
    CHECK(mth__shape_equal(y->shape, SHAPE(0, 3)));
}
RUN()
