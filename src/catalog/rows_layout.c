/* Rows that move elements and compute nothing: reshape, transpose, slice, pad, concat. Of any dtype. */
#include "catalog/row_tools.h"

#define MOVES .linear = MTH__LINEAR_EACH, .linear_args = 1, .any_args = 1

/* ---------------------------------------------------------------- reshape */
static mth_status infer_reshape(mth__node *node) {
    mth__shape in = node->in[0]->shape, *out = &node->out[0]->shape;
    if (node->attrs.rank < 0 || node->attrs.rank > MTH__RANK)
        return mth__row_error(node, F("reshape to %lld dimensions", (long long)node->attrs.rank),
            F("give a shape of at most %d dimensions", MTH__RANK));
    *out = mth__shape_of_attrs(&node->attrs);
    TRY(mth__error_operator(mth__shape_check(*out, node->in[0]->dtype), node->label.module));
    if (mth__shape_size(in) == mth__shape_size(*out)) return NULL;
    mth__value wanted = {
        .name = "shape asked for", .kind = MTH__VALUE_INPUT, .dtype = node->in[0]->dtype, .shape = *out};
    long long has = (long long)mth__shape_size(in);
    mth_status status = mth__row_error(node,
        F("a tensor of %lld elements can't take a shape of %lld", has, (long long)mth__shape_size(*out)),
        F("give a shape whose dimensions multiply to %lld", has));
    return mth__error_tensor(status, mth__value_text(&wanted));
}

/* One side of a group: dimensions [at, end) of a shape, at the first that is not 1. */
typedef struct {
    const mth__shape *shape;
    int8_t *factor;
    int32_t *unit;
    int at;
} side;
static int64_t take(side *dims) { return dims->at < dims->shape->rank ? dims->shape->dim[dims->at++] : 1; }
static void whole(mth__rule *rule, side *dims, int from) { /* the minor dimensions of a group */
    for (int d = from; d < dims->at; d++)
        if (dims->factor[d] < 0 && dims->shape->dim[d] != 1)
            dims->factor[d] = (int8_t)mth__rule_factor(rule, dims->shape->dim[d], MTH__WHOLE);
}

/* Both shapes fall into groups of adjacent dimensions with equal products: (b, s, h * d) to (b, s, h, d) is b|s|hd and
   b|s|h,d. Cutting the major-most dimension of a group on both sides alike cuts the same elements, so it is the factor
   that may be split: as many parts as divide both, each of `unit` elements on either side. The minor dimensions are
   WHOLE. */
static void rule_reshape(const mth__node *node, mth__rule *rule) {
    mth__rule_begin(node, rule);
    const mth__shape *in = &node->in[0]->shape, *out = &node->out[0]->shape;
    side x = {in, rule->in[0], rule->in_unit[0], 0}, y = {out, rule->out[0], rule->out_unit[0], 0};
    if (mth__shape_size(*in) == 0) {
        x.at = in->rank;
        y.at = out->rank;
        whole(rule, &x, 0);
        whole(rule, &y, 0);
        return;
    }
    while (x.at < in->rank || y.at < out->rank) {
        bool one_x = x.at < in->rank && in->dim[x.at] == 1, one_y = y.at < out->rank && out->dim[y.at] == 1;
        if (one_x != one_y) {
            if (one_x)
                x.at++;
            else
                y.at++;
            continue;
        } /* a 1 that only one side has */
        int fx = x.at, fy = y.at;
        int64_t px = take(&x), py = take(&y), major_x = px, major_y = py;
        while (px != py) {
            if (px < py)
                px *= take(&x);
            else
                py *= take(&y);
        }
        int64_t parts = mth__gcd(major_x, major_y);
        bool fits = major_x / parts <= INT32_MAX && major_y / parts <= INT32_MAX;
        if (fits && (parts > 1 || (major_x == 1 && major_y == 1))) {
            int factor = mth__rule_factor(rule, parts, MTH__PASS);
            x.factor[fx] = y.factor[fy] = (int8_t)factor;
            x.unit[fx] = (int32_t)(major_x / parts);
            y.unit[fy] = (int32_t)(major_y / parts);
        }
        whole(rule, &x, fx);
        whole(rule, &y, fy);
    }
}
GRAD(reshape) { return mth__build_shaped(builder, MTH__ROW_reshape, dout[0], node->in[0]->shape, &din[0]); }

const mth__op mth__op_reshape = {ROW(reshape), .args = "x", .results = "y",
    .attributes = "rank, d0, d1, d2, d3, d4, d5, d6, d7", MOVES,
    .flags = MTH__MOVES | MTH__VIEW | MTH__ALIAS | MTH__FREE, .resize = mth__resize_shape, .infer = infer_reshape,
    .rule = rule_reshape, .grad = grad_reshape, .flops = mth__flops_none,
    .doc = "The same elements, in row-major order, under another shape."};

/* ---------------------------------------------------------------- transpose */
static mth_status infer_transpose(mth__node *node) {
    mth__shape in = node->in[0]->shape, *out = &node->out[0]->shape;
    unsigned seen = 0;
    for (int d = 0; d < in.rank; d++)
        if (node->attrs.permutation[d] >= 0 && node->attrs.permutation[d] < in.rank)
            seen |= 1u << node->attrs.permutation[d];
    if (node->attrs.rank != in.rank || seen != (1u << in.rank) - 1)
        return mth__row_error(node,
            F("the dimensions of transpose are no permutation of the %d that the tensor has", in.rank),
            F("name each of 0 to %d once", in.rank - 1));
    out->rank = in.rank;
    for (int d = 0; d < in.rank; d++) out->dim[d] = in.dim[node->attrs.permutation[d]];
    return NULL;
}
static void rule_transpose(const mth__node *node, mth__rule *rule) {
    mth__rule_begin(node, rule);
    for (int d = 0; d < node->out[0]->shape.rank; d++)
        rule->out[0][d] = rule->in[0][node->attrs.permutation[d]] =
            (int8_t)mth__rule_factor(rule, node->out[0]->shape.dim[d], MTH__PASS);
}
GRAD(transpose) {
    mth__attrs inverse = {.rank = node->attrs.rank};
    for (int d = 0; d < node->attrs.rank; d++) inverse.permutation[node->attrs.permutation[d]] = d;
    return mth__build1(builder, MTH__ROW_transpose, &inverse, dout[0], &din[0]);
}
const mth__op mth__op_transpose = {ROW(transpose), .args = "x", .results = "y",
    .attributes = "rank, p0, p1, p2, p3, p4, p5, p6, p7", MOVES, .flags = MTH__MOVES | MTH__VIEW,
    .infer = infer_transpose, .rule = rule_transpose, .grad = grad_transpose,
    .doc = "Dimension d of y is dimension p[d] of x."};

/* ---------------------------------------------------------------- slice, pad: the dimension they touch is WHOLE where
 * they change it */
static void rule_touched(const mth__node *node, mth__rule *rule) {
    mth__shape in = node->in[0]->shape, out = node->out[0]->shape;
    int64_t touched = node->attrs.dimension;
    mth__rule_along(node, 0, rule);
    if (in.dim[touched] == out.dim[touched]) return;
    rule->factor[rule->out[0][touched]].kind = MTH__WHOLE;
    rule->in[0][touched] = (int8_t)mth__rule_factor(rule, in.dim[touched], MTH__WHOLE);
}
static mth_status infer_slice(mth__node *node) {
    int64_t d = node->attrs.dimension, start = node->attrs.start, stop = node->attrs.stop;
    TRY(mth__row_dimension(node, "the dimension", d));
    int64_t size = node->in[0]->shape.dim[d];
    TRY(mth__infer_same(node));
    if (start < 0 || stop > size || start > stop)
        return mth__row_error(node,
            F("slice takes %lld to %lld of dimension %lld, which has %lld elements", (long long)start, (long long)stop,
                (long long)d, (long long)size),
            F("give 0 <= start <= stop <= %lld", (long long)size));
    node->out[0]->shape.dim[d] = stop - start;
    return NULL;
}
static void resize_slice(mth__attrs *attrs, int dimension, int64_t size) {
    if (attrs->dimension == dimension) attrs->stop = attrs->start + size;
}
GRAD(slice) {
    const mth__attrs *attrs = &node->attrs;
    const mth__attrs pad = {.dimension = attrs->dimension,
        .before = attrs->start,
        .after = node->in[0]->shape.dim[attrs->dimension] - attrs->stop};
    return mth__build1(builder, MTH__ROW_pad, &pad, dout[0], &din[0]);
}
const mth__op mth__op_slice = {ROW(slice), .args = "x", .results = "y", .attributes = "dimension, start, stop", MOVES,
    .flags = MTH__MOVES | MTH__VIEW | MTH__GATHERS, .resize = resize_slice, .infer = infer_slice, .rule = rule_touched,
    .grad = grad_slice, .doc = "Elements start to stop - 1 of one dimension."};

static mth_status infer_pad(mth__node *node) {
    int64_t d = node->attrs.dimension, before = node->attrs.before, after = node->attrs.after, size;
    TRY(mth__row_dimension(node, "the dimension", d));
    TRY(mth__infer_same(node));
    if (before < 0 || after < 0 || __builtin_add_overflow(node->in[0]->shape.dim[d], before, &size) ||
        __builtin_add_overflow(size, after, &size))
        return mth__row_error(node, F("pad by %lld before and %lld after", (long long)before, (long long)after),
            F("give numbers of elements of at least 0"));
    node->out[0]->shape.dim[d] = size;
    return NULL;
}
GRAD(pad) {
    const mth__attrs *attrs = &node->attrs;
    const mth__attrs slice = {.dimension = attrs->dimension,
        .start = attrs->before,
        .stop = attrs->before + node->in[0]->shape.dim[attrs->dimension]};
    return mth__build1(builder, MTH__ROW_slice, &slice, dout[0], &din[0]);
}
const mth__op mth__op_pad = {ROW(pad), .args = "x", .results = "y", .attributes = "dimension, before, after", MOVES,
    .flags = MTH__MOVES | MTH__GATHERS, .infer = infer_pad, .rule = rule_touched, .grad = grad_pad, .accumulates = 1,
    .doc = "x with zeros before and after it in one dimension."};

/* ---------------------------------------------------------------- concat */
static mth_status infer_concat(mth__node *node) {
    int64_t d = node->attrs.dimension;
    TRY(mth__row_dimension(node, "the dimension", d));
    TRY(mth__infer_same(node));
    int64_t *sum = &node->out[0]->shape.dim[d];
    for (int j = 1; j < node->nin; j++) {
        TRY(mth__row_rank(node, j, node->in[0]->shape.rank));
        for (int m = 0; m < node->in[0]->shape.rank; m++) {
            if (m == d || node->in[j]->shape.dim[m] == node->in[0]->shape.dim[m]) continue;
            return mth__row_error(node,
                F("concat over dimension %lld: dimension %d of operand %d is %lld, of operand 0 it is %lld",
                    (long long)d, m, j, (long long)node->in[j]->shape.dim[m], (long long)node->in[0]->shape.dim[m]),
                F("give tensors that differ in dimension %lld alone", (long long)d));
        }
        if (__builtin_add_overflow(*sum, node->in[j]->shape.dim[d], sum))
            return mth__row_error(
                node, F("the result of concat would have 2^63 elements or more"), F("give smaller tensors"));
    }
    return NULL;
}
/* The joined dimension is one WHOLE factor for all operands, of the result's size: there may be more operands than a
 * rule has factors. */
static void rule_concat(const mth__node *node, mth__rule *rule) {
    mth__rule_along(node, node->nin == 1 ? 0 : 1u << node->attrs.dimension, rule);
}
GRAD(concat) {
    int64_t d = node->attrs.dimension, at = 0;
    mth__value *from = dout[0];
    /* of concats of concats: one slice each */
    while (from->node && from->node->op == &mth__op_slice && from->node->attrs.dimension == d) {
        at += from->node->attrs.start;
        from = from->node->in[0];
    }
    for (int j = 0; j < node->nin; j++) {
        int64_t size = node->in[j]->shape.dim[d];
        if (WANTED(builder, j))
            TRY(mth__build1(
                builder, MTH__ROW_slice, &(mth__attrs){.dimension = d, .start = at, .stop = at + size}, from, &din[j]));
        at += size;
    }
    return NULL;
}
const mth__op mth__op_concat = {ROW(concat), .args = "xs*", .results = "y", .attributes = "dimension",
    .linear = MTH__LINEAR_JOINT, .linear_args = ALL_ARGS, .any_args = ALL_ARGS, .flags = MTH__MOVES | MTH__GATHERS,
    .infer = infer_concat, .rule = rule_concat, .grad = grad_concat,
    .doc = "The operands one after the other along one dimension."};
