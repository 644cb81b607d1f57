/* Rows that read or write by integer index or by position: gather, pick, sinusoid, rope. Their results depend on where
 * a shard lies. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- gather: rows of a table; pick: one element of each
 * row */
static mth_status check_size(const mth__node *n, int64_t size) {
    if (size >= 0) return NULL;
    return mth__row_error(
        n, F("%s makes a dimension of %lld", n->op->name, (long long)size), F("give a size of at least 0"));
}
static mth_status infer_gather_grad(mth__node *n) {
    TRY(mth__infer_from(n, n->op->factors));
    n->out[0]->shape.dim[0] = n->attrs.rows;
    return check_size(n, n->attrs.rows);
}
static mth_status infer_pick_grad(mth__node *n) {
    TRY(mth__infer_from(n, n->op->factors));
    n->out[0]->shape.dim[n->out[0]->shape.rank - 1] = n->attrs.size;
    return check_size(n, n->attrs.size);
}
GRAD(gather) {
    return WANTED(b, 0)
        ? mth__build2(b, "gather_grad", &(mth__attrs){.rows = n->in[0]->shape.dim[0]}, n->in[1], dout[0], &din[0])
        : NULL;
}
GRAD(pick) {
    return WANTED(b, 0)
        ? mth__build2(b, "pick_grad", &(mth__attrs){.size = n->in[0]->shape.dim[n->in[0]->shape.rank - 1]}, n->in[1],
              dout[0], &din[0])
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
static mth_status infer_sinusoid(mth__node *n) {
    n->out[0]->shape = (mth__shape){2, {n->attrs.length, n->attrs.width}};
    if (n->attrs.length >= 0 && n->attrs.width >= 0) return NULL;
    return mth__row_error(n,
        F("sinusoid of length %lld and width %lld", (long long)n->attrs.length, (long long)n->attrs.width),
        F("give sizes of at least 0"));
}
FLOPS(table) { return 20 * (double)mth__shape_size(out[0]); }

const mth__op mth__op_sinusoid = {ROW(sinusoid), .args = "", .results = "y", .attributes = "length, width",
    .factors = "->sd", .types = {MTH__TYPE_FLOAT32}, .flags = MTH__NEEDS_START, .infer = infer_sinusoid,
    .grad = mth__grad_none, .flops = flops_table,
    .doc = "y[s, d] = sin(s / 10000^(d / width)) in even columns, in odd ones the cosine of the same angle as in the "
           "column before."};

static mth_status infer_rope(mth__node *n) {
    mth__shape s = n->in[0]->shape;
    TRY(mth__row_dimension(n, "the dimension of the sequence", n->attrs.dimension));
    if (n->attrs.dimension == s.rank - 1)
        return mth__row_error(n,
            F("rope rotates the last dimension by the position in dimension %lld, which is the same one",
                (long long)n->attrs.dimension),
            F("give a dimension before the last"));
    if (s.dim[s.rank - 1] % 2)
        return mth__row_error(n,
            F("rope rotates pairs, the last dimension has %lld elements", (long long)s.dim[s.rank - 1]),
            F("give an even head width"));
    if (!(n->attrs.base > 0))
        return mth__row_error(n, F("the base of rope is %g", n->attrs.base), F("give a base above 0, such as 10000"));
    return mth__infer_same(n);
}
static void rule_rope(const mth__node *n, mth__rule *r) {
    mth__rule_along(n, 1u << (n->in[0]->shape.rank - 1), r);
    r->factor[r->in[0][n->attrs.dimension]].positional = true;
}
GRAD(rope) { /* the rotation back */
    mth__attrs a = n->attrs;
    a.inverse = !a.inverse;
    return mth__build1(b, "rope", &a, dout[0], &din[0]);
}
FLOPS(rope) { return 3 * (double)mth__shape_size(out[0]); }
const mth__op mth__op_rope = {ROW(rope), .args = "x", .results = "y",
    .attributes = "dimension, inverse, interleaved, base", .linear = MTH__LINEAR_EACH, .linear_args = 1,
    .flags = MTH__NEEDS_START, .infer = infer_rope, .rule = rule_rope, .grad = grad_rope, .flops = flops_rope,
    .doc = "Pair j of the last dimension, of width d, at position s of `dimension` turned by s * base^(-2j / d): pairs "
           "(j, j + d/2), "
           "interleaved (2j, 2j + 1); inverse turns back."};
