/* Rows that read or write by integer index or by position: gather, pick, sinusoid, rope. Their results depend on where
 * a shard lies. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- gather: rows of a table; pick: one element of each
 * row */
static mth_status check_size(const mth__node *node, int64_t size) {
    if (size >= 0) return NULL;
    return mth__row_error(
        node, F("%s makes a dimension of %lld", node->op->name, (long long)size), F("give a size of at least 0"));
}
static mth_status infer_gather_grad(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    node->out[0]->shape.dim[0] = node->attrs.rows;
    return check_size(node, node->attrs.rows);
}
static mth_status infer_pick_grad(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    node->out[0]->shape.dim[node->out[0]->shape.rank - 1] = node->attrs.size;
    return check_size(node, node->attrs.size);
}
GRAD(gather) {
    return WANTED(builder, 0) ? mth__build2(builder, MTH__ROW_gather_grad,
                                    &(mth__attrs){.rows = node->in[0]->shape.dim[0]}, node->in[1], dout[0], &din[0])
                              : NULL;
}
GRAD(pick) {
    return WANTED(builder, 0)
        ? mth__build2(builder, MTH__ROW_pick_grad,
              &(mth__attrs){.size = node->in[0]->shape.dim[node->in[0]->shape.rank - 1]}, node->in[1], dout[0], &din[0])
        : NULL;
}
/* The element count of the operand that is read, not of the table that is written: the rest is zeros. */
FLOPS(of_dy) { return (double)mth__shape_size(in[1]); }

#define BY_INDEX (MTH__NEEDS_START | MTH__WIDE_IDS)
const mth__op mth__op_gather = {ROW(gather), .args = "table, ids", .results = "y", .factors = "vd,...->...d",
    .sum = "v", .positional = "v", .linear = MTH__LINEAR_EACH, .linear_args = 1, .flags = BY_INDEX, .index_args = 2,
    .index_name = "token id", .grad = grad_gather,
    .doc = "y[..., :] = table[ids[...], :]; an id outside the table is an error of the run."};
const mth__op mth__op_gather_grad = {ROW(gather_grad), .args = "ids, dy", .results = "dtable", .attributes = "rows",
    .factors = "...,...d->vd", .sum = "...", .linear = MTH__LINEAR_EACH, .linear_args = 2,
    .flags = BY_INDEX | MTH__SUMS, .index_args = 1, .index_name = "token id", .infer = infer_gather_grad,
    .flops = flops_of_dy, .accumulates = 1, .doc = "dtable[v, :] = the sum of dy over the positions whose id is v."};
const mth__op mth__op_pick = {ROW(pick), .args = "x, ids", .results = "y", .factors = "...v,...->...", .sum = "v",
    .positional = "v", .linear = MTH__LINEAR_EACH, .linear_args = 1, .flags = BY_INDEX, .index_args = 2,
    .index_name = "class", .grad = grad_pick,
    .doc = "y[...] = x[..., ids[...]]; an id outside x is an error of the run."};
const mth__op mth__op_pick_grad = {ROW(pick_grad), .args = "ids, dy", .results = "dx", .attributes = "size",
    .factors = "...,...->...v", .linear = MTH__LINEAR_EACH, .linear_args = 2, .flags = BY_INDEX, .index_args = 1,
    .index_name = "class", .infer = infer_pick_grad, .doc = "dx[..., v] = dy[...] where ids[...] is v, else 0."};

/* ---------------------------------------------------------------- positions */
static mth_status infer_sinusoid(mth__node *node) {
    node->out[0]->shape = (mth__shape){2, {node->attrs.length, node->attrs.width}};
    if (node->attrs.length >= 0 && node->attrs.width >= 0) return NULL;
    return mth__row_error(node,
        F("sinusoid of length %lld and width %lld", (long long)node->attrs.length, (long long)node->attrs.width),
        F("give sizes of at least 0"));
}
FLOPS(table) { return 20 * (double)mth__shape_size(out[0]); }

const mth__op mth__op_sinusoid = {ROW(sinusoid), .args = "", .results = "y", .attributes = "length, width",
    .factors = "->sd", .types = {MTH__TYPE_FLOAT32}, .flags = MTH__NEEDS_START, .infer = infer_sinusoid,
    .grad = mth__grad_none, .flops = flops_table,
    .doc = "y[s, d] = sin(s / 10000^(d / width)) in even columns, in odd ones the cosine of the same angle as in the "
           "column before."};

static mth_status infer_rope(mth__node *node) {
    mth__shape shape = node->in[0]->shape;
    TRY(mth__row_dimension(node, "the dimension of the sequence", node->attrs.dimension));
    if (node->attrs.dimension == shape.rank - 1)
        return mth__row_error(node,
            F("rope rotates the last dimension by the position in dimension %lld, which is the same one",
                (long long)node->attrs.dimension),
            F("give a dimension before the last"));
    if (shape.dim[shape.rank - 1] % 2)
        return mth__row_error(node,
            F("rope rotates pairs, the last dimension has %lld elements", (long long)shape.dim[shape.rank - 1]),
            F("give an even head width"));
    if (!(node->attrs.base > 0))
        return mth__row_error(
            node, F("the base of rope is %g", node->attrs.base), F("give a base above 0, such as 10000"));
    return mth__infer_same(node);
}
static void rule_rope(const mth__node *node, mth__rule *rule) {
    mth__rule_along(node, 1u << (node->in[0]->shape.rank - 1), rule);
    rule->factor[rule->in[0][node->attrs.dimension]].positional = true;
}
GRAD(rope) { /* the rotation back */
    mth__attrs attrs = node->attrs;
    attrs.inverse = !attrs.inverse;
    return mth__build1(builder, MTH__ROW_rope, &attrs, dout[0], &din[0]);
}
FLOPS(rope) { return 3 * (double)mth__shape_size(out[0]); }
const mth__op mth__op_rope = {ROW(rope), .args = "x", .results = "y",
    .attributes = "dimension, inverse, interleaved, base", .linear = MTH__LINEAR_EACH, .linear_args = 1,
    .flags = MTH__NEEDS_START, .infer = infer_rope, .rule = rule_rope, .grad = grad_rope, .flops = flops_rope,
    .doc = "Pair j of the last dimension, of width d, at position s of `dimension` turned by s * base^(-2j / d): pairs "
           "(j, j + d/2), "
           "interleaved (2j, 2j + 1); inverse turns back."};
