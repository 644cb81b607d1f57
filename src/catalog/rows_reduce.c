/* Sums and maxima over dimensions, and their inverse, broadcast_to. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- shapes and rules of the reductions */
static mth__shape kept(const mth__node *n) { /* reduced dimensions as 1 */
    mth__shape s = n->in[0]->shape;
    for (int d = 0; d < s.rank; d++)
        if (n->attrs.dimensions >> d & 1) s.dim[d] = 1;
    return s;
}
static mth_status infer_reduce(mth__node *n) {
    mth__shape in = n->in[0]->shape, *out = &n->out[0]->shape;
    int64_t bits = n->attrs.dimensions;
    if (bits < 0 || bits >> in.rank)
        return mth__row_error(n,
            F("%s is asked for dimension %d of a tensor of %d dimensions", n->op->name,
                bits < 0 ? -1 : 63 - __builtin_clzll((unsigned long long)bits), in.rank),
            F("give dimensions that the tensor has, counted from 0"));
    if (n->op->row == MTH__ROW_reduce_max)
        for (int d = 0; d < in.rank; d++)
            if ((bits >> d & 1) && in.dim[d] == 0)
                return mth__row_error(n, F("the maximum over dimension %d, which has no element, has no value", d),
                    F("give a tensor with at least one element there"));
    if (n->attrs.keep) {
        *out = kept(n);
        return NULL;
    }
    out->rank = 0; /* the verifier infers again into a result that has a shape */
    for (int d = 0; d < in.rank; d++)
        if (!(bits >> d & 1)) out->dim[out->rank++] = in.dim[d];
    return NULL;
}
static void rule_reduce(const mth__node *n, mth__rule *r) {
    mth__rule_begin(n, r);
    mth__shape in = n->in[0]->shape;
    mth__factor_kind combine = n->op->row == MTH__ROW_reduce_sum ? MTH__SUM : MTH__MAX;
    for (int d = 0, e = 0; d < in.rank; d++) {
        bool reduced = n->attrs.dimensions >> d & 1;
        r->in[0][d] = (int8_t)mth__rule_factor(r, in.dim[d], reduced ? combine : MTH__PASS);
        if (!reduced)
            r->out[0][e++] = r->in[0][d];
        else if (n->attrs.keep)
            e++;
    }
}
FLOPS(reduce) { return (double)mth__shape_size(in[0]); }

/* v, of the result's shape, in a shape that broadcasts against the operand: reduced dimensions as 1. Leading ones may
 * be missing. */
static mth_status spread(mth__builder *b, const mth__node *n, mth__value *v, mth__value **out) {
    int gone = n->in[0]->shape.rank - n->out[0]->shape.rank;
    if (!n->attrs.keep && n->attrs.dimensions == ((int64_t)1 << gone) - 1) {
        *out = v;
        return NULL;
    }
    return mth__build_shaped(b, "reshape", v, kept(n), out);
}
GRAD(sum) {
    mth__value *d;
    TRY(spread(b, n, dout[0], &d));
    return mth__build_shaped(b, "broadcast_to", d, n->in[0]->shape, &din[0]);
}
GRAD(max) { /* to the largest elements, in equal parts; NaN is no element's: 0 / 0 for all */
    mth__value *y, *dy, *won, *ties;
    TRY(spread(b, n, n->out[0], &y));
    TRY(mth__build2(b, "equal", NULL, n->in[0], y, &won));
    TRY(mth__build1(b, "reduce_sum", &n->attrs, won, &ties));
    TRY(spread(b, n, ties, &ties));
    TRY(spread(b, n, dout[0], &dy));
    TRY(mth__build2(b, "mul", NULL, won, dy, &dy));
    return mth__build2(b, "div", NULL, dy, ties, &din[0]);
}

const mth__op mth__op_reduce_sum = {ROW(reduce_sum), .args = "x", .results = "y", .attributes = "dimensions, keep",
    .linear = MTH__LINEAR_EACH, .linear_args = 1, .flags = MTH__SUMS, .infer = infer_reduce, .rule = rule_reduce,
    .grad = grad_sum, .flops = flops_reduce, .accumulates = 1,
    .doc = "The sum over the dimensions whose bits are set; with keep they stay as 1."};
const mth__op mth__op_reduce_max = {ROW(reduce_max), .args = "x", .results = "y", .attributes = "dimensions, keep",
    .infer = infer_reduce, .rule = rule_reduce, .grad = grad_max, .flops = flops_reduce,
    .doc = "The maximum over the dimensions whose bits are set, NaN where one of them is; with keep they stay as 1."};

/* ---------------------------------------------------------------- broadcast_to */
static mth_status infer_broadcast_to(mth__node *n) {
    mth__shape in = n->in[0]->shape, *out = &n->out[0]->shape;
    int64_t rank = n->attrs.rank;
    if (rank < in.rank || rank > MTH__RANK)
        return mth__row_error(n, F("a tensor of %d dimensions can't be broadcast to %lld", in.rank, (long long)rank),
            F("give a shape of %d to %d dimensions", in.rank, MTH__RANK));
    out->rank = (int)rank;
    for (int d = 0; d < out->rank; d++) out->dim[d] = n->attrs.shape[d];
    for (int d = 0; d < in.rank; d++) {
        int64_t want = out->dim[d + out->rank - in.rank];
        if (in.dim[d] != 1 && in.dim[d] != want)
            return mth__row_error(n,
                F("dimension %d is %lld and can't be broadcast to %lld", d, (long long)in.dim[d], (long long)want),
                F("give a tensor whose dimension %d is 1 or %lld", d, (long long)want));
    }
    return NULL;
}
static void rule_broadcast_to(const mth__node *n, mth__rule *r) {
    mth__rule_from(n, &(mth__letters){.factors = "*"}, r);
}
GRAD(broadcast_to) { return mth__build_unbroadcast(b, dout[0], n->in[0]->shape, &din[0]); }

const mth__op mth__op_broadcast_to = {ROW(broadcast_to), .args = "x", .results = "y",
    .attributes = "rank, d0, d1, d2, d3, d4, d5, d6, d7", .linear = MTH__LINEAR_EACH, .linear_args = 1, .any_args = 1,
    .flags = MTH__MOVES | MTH__VIEW, .resize = mth__resize_shape, .infer = infer_broadcast_to,
    .rule = rule_broadcast_to, .grad = grad_broadcast_to, .accumulates = 1,
    .doc = "x repeated to a shape, as NumPy's broadcast_to."};
