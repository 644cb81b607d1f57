/* Rows that move elements and compute nothing: reshape, transpose, slice, pad, concat. Of any dtype. */
#include "catalog/row_tools.h"

#define MOVES .linear = MTH__LINEAR_EACH, .linear_args = 1, .any_args = 1

/* ---------------------------------------------------------------- reshape */
static mth_status infer_reshape(mth__node *n) {
    mth__shape in = n->in[0]->shape, *out = &n->out[0]->shape;
    if (n->attrs.rank < 0 || n->attrs.rank > MTH__RANK)
        return mth__row_error(n, F("reshape to %lld dimensions", (long long)n->attrs.rank),
            F("give a shape of at most %d dimensions", MTH__RANK));
    out->rank = (int)n->attrs.rank;
    for (int d = 0; d < out->rank; d++) out->dim[d] = n->attrs.shape[d];
    TRY(mth__error_operator(mth__shape_check(*out, n->in[0]->dtype), n->label.module));
    if (mth__shape_size(in) == mth__shape_size(*out)) return NULL;
    mth__value wanted = {.name = "shape asked for", .kind = MTH__VALUE_INPUT, .dtype = n->in[0]->dtype, .shape = *out};
    long long has = (long long)mth__shape_size(in);
    mth_status s = mth__row_error(n,
        F("a tensor of %lld elements can't take a shape of %lld", has, (long long)mth__shape_size(*out)),
        F("give a shape whose dimensions multiply to %lld", has));
    return mth__error_tensor(s, mth__value_text(&wanted));
}

static int64_t gcd(int64_t a, int64_t b) {
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return a;
}
/* One side of a group: dimensions [at, end) of a shape, at the first that is not 1. */
typedef struct {
    const mth__shape *s;
    int8_t *factor;
    int32_t *unit;
    int at;
} side;
static int64_t take(side *x) { return x->at < x->s->rank ? x->s->dim[x->at++] : 1; }
static void whole(mth__rule *r, side *x, int from) { /* the minor dimensions of a group */
    for (int d = from; d < x->at; d++)
        if (x->factor[d] < 0 && x->s->dim[d] != 1) x->factor[d] = (int8_t)mth__rule_factor(r, x->s->dim[d], MTH__WHOLE);
}

/* Both shapes fall into groups of adjacent dimensions with equal products: (b, s, h * d) to (b, s, h, d) is b|s|hd and
   b|s|h,d. Cutting the major-most dimension of a group on both sides alike cuts the same elements, so it is the factor
   that may be split: as many parts as divide both, each of `unit` elements on either side. The minor dimensions are
     WHOLE. */
static void rule_reshape(const mth__node *n, mth__rule *r) {
    mth__rule_begin(n, r);
    const mth__shape *in = &n->in[0]->shape, *out = &n->out[0]->shape;
    side x = {in, r->in[0], r->in_unit[0], 0}, y = {out, r->out[0], r->out_unit[0], 0};
    if (mth__shape_size(*in) == 0) {
        x.at = in->rank;
        y.at = out->rank;
        whole(r, &x, 0);
        whole(r, &y, 0);
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
        int64_t parts = gcd(major_x, major_y);
        bool fits = major_x / parts <= INT32_MAX && major_y / parts <= INT32_MAX;
        if (fits && (parts > 1 || (major_x == 1 && major_y == 1))) {
            int f = mth__rule_factor(r, parts, MTH__PASS);
            x.factor[fx] = y.factor[fy] = (int8_t)f;
            x.unit[fx] = (int32_t)(major_x / parts);
            y.unit[fy] = (int32_t)(major_y / parts);
        }
        whole(r, &x, fx);
        whole(r, &y, fy);
    }
}
GRAD(reshape) { return mth__build_shaped(b, "reshape", dout[0], n->in[0]->shape, &din[0]); }

const mth__op mth__op_reshape = {ROW(reshape), .args = "x", .results = "y",
    .attributes = "rank, d0, d1, d2, d3, d4, d5, d6, d7", MOVES,
    .flags = MTH__MOVES | MTH__VIEW | MTH__ALIAS | MTH__FREE, .resize = mth__resize_shape, .infer = infer_reshape,
    .rule = rule_reshape, .grad = grad_reshape, .flops = mth__flops_none,
    .doc = "The same elements, in row-major order, under another shape."};

/* ---------------------------------------------------------------- transpose */
static mth_status infer_transpose(mth__node *n) {
    mth__shape in = n->in[0]->shape, *out = &n->out[0]->shape;
    unsigned seen = 0;
    for (int d = 0; d < in.rank; d++)
        if (n->attrs.permutation[d] >= 0 && n->attrs.permutation[d] < in.rank) seen |= 1u << n->attrs.permutation[d];
    if (n->attrs.rank != in.rank || seen != (1u << in.rank) - 1)
        return mth__row_error(n,
            F("the dimensions of transpose are no permutation of the %d that the tensor has", in.rank),
            F("name each of 0 to %d once", in.rank - 1));
    out->rank = in.rank;
    for (int d = 0; d < in.rank; d++) out->dim[d] = in.dim[n->attrs.permutation[d]];
    return NULL;
}
static void rule_transpose(const mth__node *n, mth__rule *r) {
    mth__rule_begin(n, r);
    for (int d = 0; d < n->out[0]->shape.rank; d++)
        r->out[0][d] = r->in[0][n->attrs.permutation[d]] =
            (int8_t)mth__rule_factor(r, n->out[0]->shape.dim[d], MTH__PASS);
}
GRAD(transpose) {
    mth__attrs inverse = {.rank = n->attrs.rank};
    for (int d = 0; d < n->attrs.rank; d++) inverse.permutation[n->attrs.permutation[d]] = d;
    return mth__build1(b, "transpose", &inverse, dout[0], &din[0]);
}
const mth__op mth__op_transpose = {ROW(transpose), .args = "x", .results = "y",
    .attributes = "rank, p0, p1, p2, p3, p4, p5, p6, p7", MOVES, .flags = MTH__MOVES | MTH__VIEW,
    .infer = infer_transpose, .rule = rule_transpose, .grad = grad_transpose,
    .doc = "Dimension d of y is dimension p[d] of x."};

/* ---------------------------------------------------------------- slice, pad: the dimension they touch is WHOLE where
 * they change it */
static void rule_touched(const mth__node *n, mth__rule *r) {
    mth__shape in = n->in[0]->shape, out = n->out[0]->shape;
    int64_t touched = n->attrs.dimension;
    mth__rule_along(n, 0, r);
    if (in.dim[touched] == out.dim[touched]) return;
    r->factor[r->out[0][touched]].kind = MTH__WHOLE;
    r->in[0][touched] = (int8_t)mth__rule_factor(r, in.dim[touched], MTH__WHOLE);
}
static mth_status infer_slice(mth__node *n) {
    int64_t d = n->attrs.dimension, start = n->attrs.start, stop = n->attrs.stop;
    TRY(mth__row_dimension(n, "the dimension", d));
    int64_t size = n->in[0]->shape.dim[d];
    TRY(mth__infer_same(n));
    if (start < 0 || stop > size || start > stop)
        return mth__row_error(n,
            F("slice takes %lld to %lld of dimension %lld, which has %lld elements", (long long)start, (long long)stop,
                (long long)d, (long long)size),
            F("give 0 <= start <= stop <= %lld", (long long)size));
    n->out[0]->shape.dim[d] = stop - start;
    return NULL;
}
static void resize_slice(mth__attrs *attrs, int dimension, int64_t size) {
    if (attrs->dimension == dimension) attrs->stop = attrs->start + size;
}
GRAD(slice) {
    const mth__attrs *a = &n->attrs;
    const mth__attrs pad = {
        .dimension = a->dimension, .before = a->start, .after = n->in[0]->shape.dim[a->dimension] - a->stop};
    return mth__build1(b, "pad", &pad, dout[0], &din[0]);
}
const mth__op mth__op_slice = {ROW(slice), .args = "x", .results = "y", .attributes = "dimension, start, stop", MOVES,
    .flags = MTH__MOVES | MTH__VIEW | MTH__GATHERS, .resize = resize_slice, .infer = infer_slice, .rule = rule_touched,
    .grad = grad_slice, .doc = "Elements start to stop - 1 of one dimension."};

static mth_status infer_pad(mth__node *n) {
    int64_t d = n->attrs.dimension, before = n->attrs.before, after = n->attrs.after, size;
    TRY(mth__row_dimension(n, "the dimension", d));
    TRY(mth__infer_same(n));
    if (before < 0 || after < 0 || __builtin_add_overflow(n->in[0]->shape.dim[d], before, &size) ||
        __builtin_add_overflow(size, after, &size))
        return mth__row_error(n, F("pad by %lld before and %lld after", (long long)before, (long long)after),
            F("give numbers of elements of at least 0"));
    n->out[0]->shape.dim[d] = size;
    return NULL;
}
GRAD(pad) {
    const mth__attrs *a = &n->attrs;
    const mth__attrs slice = {
        .dimension = a->dimension, .start = a->before, .stop = a->before + n->in[0]->shape.dim[a->dimension]};
    return mth__build1(b, "slice", &slice, dout[0], &din[0]);
}
const mth__op mth__op_pad = {ROW(pad), .args = "x", .results = "y", .attributes = "dimension, before, after", MOVES,
    .flags = MTH__MOVES | MTH__GATHERS, .infer = infer_pad, .rule = rule_touched, .grad = grad_pad, .accumulates = 1,
    .doc = "x with zeros before and after it in one dimension."};

/* ---------------------------------------------------------------- concat */
static mth_status infer_concat(mth__node *n) {
    int64_t d = n->attrs.dimension;
    TRY(mth__row_dimension(n, "the dimension", d));
    TRY(mth__infer_same(n));
    int64_t *sum = &n->out[0]->shape.dim[d];
    for (int j = 1; j < n->nin; j++) {
        TRY(mth__row_rank(n, j, n->in[0]->shape.rank));
        for (int e = 0; e < n->in[0]->shape.rank; e++) {
            if (e == d || n->in[j]->shape.dim[e] == n->in[0]->shape.dim[e]) continue;
            return mth__row_error(n,
                F("concat over dimension %lld: dimension %d of operand %d is %lld, of operand 0 it is %lld",
                    (long long)d, e, j, (long long)n->in[j]->shape.dim[e], (long long)n->in[0]->shape.dim[e]),
                F("give tensors that differ in dimension %lld alone", (long long)d));
        }
        if (__builtin_add_overflow(*sum, n->in[j]->shape.dim[d], sum))
            return mth__row_error(
                n, F("the result of concat would have 2^63 elements or more"), F("give smaller tensors"));
    }
    return NULL;
}
/* The joined dimension is one WHOLE factor for all operands, of the result's size: there may be more operands than a
 * rule has factors. */
static void rule_concat(const mth__node *n, mth__rule *r) {
    mth__rule_along(n, n->nin == 1 ? 0 : 1u << n->attrs.dimension, r);
}
GRAD(concat) {
    int64_t d = n->attrs.dimension, at = 0;
    mth__value *from = dout[0];
    /* of concats of concats: one slice each */
    while (from->node && from->node->op == &mth__op_slice && from->node->attrs.dimension == d) {
        at += from->node->attrs.start;
        from = from->node->in[0];
    }
    for (int j = 0; j < n->nin; j++) {
        int64_t size = n->in[j]->shape.dim[d];
        if (WANTED(b, j))
            TRY(mth__build1(b, "slice", &(mth__attrs){.dimension = d, .start = at, .stop = at + size}, from, &din[j]));
        at += size;
    }
    return NULL;
}
const mth__op mth__op_concat = {ROW(concat), .args = "xs*", .results = "y", .attributes = "dimension",
    .linear = MTH__LINEAR_JOINT, .linear_args = ALL_ARGS, .any_args = ALL_ARGS, .flags = MTH__MOVES | MTH__GATHERS,
    .infer = infer_concat, .rule = rule_concat, .grad = grad_concat,
    .doc = "The operands one after the other along one dimension."};
