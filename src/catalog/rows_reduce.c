/* Sums and maxima over dimensions, and their inverse, broadcast_to. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- shapes and rules of the reductions */
static mth__shape kept(const mth__node *node) { /* reduced dimensions as 1 */
    mth__shape shape = node->in[0]->shape;
    for (int d = 0; d < shape.rank; d++)
        if (node->attrs.dimensions >> d & 1) shape.dim[d] = 1;
    return shape;
}
static mth_status infer_reduce(mth__node *node) {
    mth__shape in = node->in[0]->shape, *out = &node->out[0]->shape;
    int64_t bits = node->attrs.dimensions;
    if (bits < 0 || bits >> in.rank)
        return mth__row_error(node,
            F("%s is asked for dimension %d of a tensor of %d dimensions", node->op->name,
                bits < 0 ? -1 : 63 - __builtin_clzll((unsigned long long)bits), in.rank),
            F("give dimensions that the tensor has, counted from 0"));
    if (node->op->row == MTH__ROW_reduce_max)
        for (int d = 0; d < in.rank; d++)
            if ((bits >> d & 1) && in.dim[d] == 0)
                return mth__row_error(node, F("the maximum over dimension %d, which has no element, has no value", d),
                    F("give a tensor with at least one element there"));
    if (node->attrs.keep) {
        *out = kept(node);
        return NULL;
    }
    out->rank = 0; /* the verifier infers again into a result that has a shape */
    for (int d = 0; d < in.rank; d++)
        if (!(bits >> d & 1)) out->dim[out->rank++] = in.dim[d];
    return NULL;
}
static void rule_reduce(const mth__node *node, mth__rule *rule) {
    mth__rule_begin(node, rule);
    mth__shape in = node->in[0]->shape;
    mth__factor_kind combine = node->op->row == MTH__ROW_reduce_sum ? MTH__SUM : MTH__MAX;
    for (int d = 0, m = 0; d < in.rank; d++) {
        bool reduced = node->attrs.dimensions >> d & 1;
        rule->in[0][d] = (int8_t)mth__rule_factor(rule, in.dim[d], reduced ? combine : MTH__PASS);
        if (!reduced)
            rule->out[0][m++] = rule->in[0][d];
        else if (node->attrs.keep)
            m++;
    }
}
FLOPS(reduce) { return (double)mth__shape_size(in[0]); }

/* The value, of the result's shape, in a shape that broadcasts against the operand: reduced dimensions as 1. Leading
 * ones may be missing. */
static mth_status spread(mth__builder *builder, const mth__node *node, mth__value *value, mth__value **out) {
    int gone = node->in[0]->shape.rank - node->out[0]->shape.rank;
    if (!node->attrs.keep && node->attrs.dimensions == ((int64_t)1 << gone) - 1) {
        *out = value;
        return NULL;
    }
    return mth__build_shaped(builder, MTH__ROW_reshape, value, kept(node), out);
}
GRAD(sum) {
    mth__value *value;
    TRY(spread(builder, node, dout[0], &value));
    return mth__build_shaped(builder, MTH__ROW_broadcast_to, value, node->in[0]->shape, &din[0]);
}
GRAD(max) { /* to the largest elements, in equal parts; NaN is no element's: 0 / 0 for all */
    mth__value *y, *dy, *won, *ties;
    TRY(spread(builder, node, node->out[0], &y));
    TRY(mth__build2(builder, MTH__ROW_equal, NULL, node->in[0], y, &won));
    TRY(mth__build1(builder, MTH__ROW_reduce_sum, &node->attrs, won, &ties));
    TRY(spread(builder, node, ties, &ties));
    TRY(spread(builder, node, dout[0], &dy));
    TRY(mth__build2(builder, MTH__ROW_mul, NULL, won, dy, &dy));
    return mth__build2(builder, MTH__ROW_div, NULL, dy, ties, &din[0]);
}

const mth__op mth__op_reduce_sum = {ROW(reduce_sum), .args = "x", .results = "y", .attributes = "dimensions, keep",
    .linear = MTH__LINEAR_EACH, .linear_args = 1, .flags = MTH__SUMS, .infer = infer_reduce, .rule = rule_reduce,
    .grad = grad_sum, .flops = flops_reduce, .accumulates = 1,
    .doc = "The sum over the dimensions whose bits are set; with keep they stay as 1."};
const mth__op mth__op_reduce_max = {ROW(reduce_max), .args = "x", .results = "y", .attributes = "dimensions, keep",
    .infer = infer_reduce, .rule = rule_reduce, .grad = grad_max, .flops = flops_reduce,
    .doc = "The maximum over the dimensions whose bits are set, NaN where one of them is; with keep they stay as 1."};

/* ---------------------------------------------------------------- broadcast_to */
static mth_status infer_broadcast_to(mth__node *node) {
    mth__shape in = node->in[0]->shape, *out = &node->out[0]->shape;
    int64_t rank = node->attrs.rank;
    if (rank < in.rank || rank > MTH__RANK)
        return mth__row_error(node, F("a tensor of %d dimensions can't be broadcast to %lld", in.rank, (long long)rank),
            F("give a shape of %d to %d dimensions", in.rank, MTH__RANK));
    *out = mth__shape_of_attrs(&node->attrs);
    for (int d = 0; d < in.rank; d++) {
        int64_t size = out->dim[d + out->rank - in.rank];
        if (in.dim[d] != 1 && in.dim[d] != size)
            return mth__row_error(node,
                F("dimension %d is %lld and can't be broadcast to %lld", d, (long long)in.dim[d], (long long)size),
                F("give a tensor whose dimension %d is 1 or %lld", d, (long long)size));
    }
    return NULL;
}
static void rule_broadcast_to(const mth__node *node, mth__rule *rule) {
    mth__rule_from(node, &(mth__letters){.factors = "*"}, rule);
}
GRAD(broadcast_to) { return mth__build_unbroadcast(builder, dout[0], node->in[0]->shape, &din[0]); }

const mth__op mth__op_broadcast_to = {ROW(broadcast_to), .args = "x", .results = "y",
    .attributes = "rank, d0, d1, d2, d3, d4, d5, d6, d7", .linear = MTH__LINEAR_EACH, .linear_args = 1, .any_args = 1,
    .flags = MTH__MOVES | MTH__VIEW, .resize = mth__resize_shape, .infer = infer_broadcast_to,
    .rule = rule_broadcast_to, .grad = grad_broadcast_to, .accumulates = 1,
    .doc = "x repeated to a shape, as NumPy's broadcast_to."};
