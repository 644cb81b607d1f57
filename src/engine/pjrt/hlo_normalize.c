/* softmax and the norms. The normalized dimension is whole on every device: no padding along it. */
#include "engine/pjrt/hlo.h"

static mth__hlo_val times(mth__hlo *h, mth__hlo_val a, mth__hlo_val b) { return mth__hlo_binary(h, "multiply", a, b); }
static mth__hlo_val minus(mth__hlo *h, mth__hlo_val a, mth__hlo_val b) { return mth__hlo_binary(h, "subtract", a, b); }

/* v, which lacks dimension d of `to`, repeated along it. */
static mth__hlo_val along(mth__hlo *h, mth__hlo_val v, mth__shape to, int d) {
    int dims[MTH__RANK];
    for (int i = 0; i < v.shape.rank; i++) dims[i] = i < d ? i : i + 1;
    return mth__hlo_broadcast(h, v, to, dims);
}
static mth__hlo_val sum_over(mth__hlo *h, mth__hlo_val x, int d) {
    return mth__hlo_reduce(h, "add", x, 1u << d, false);
}

void mth__hlo_softmax(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val x = c->in[0].v;
    const int d = (int)c->attrs->dimension;
    mth__hlo_val most = mth__hlo_reduce(h, "maximum", x, 1u << d, false);
    mth__hlo_val e = mth__hlo_unary(h, "exponential", minus(h, x, along(h, most, x.shape, d)));
    c->out[0].v = mth__hlo_binary(h, "divide", e, along(h, sum_over(h, e, d), x.shape, d));
}

void mth__hlo_softmax_grad(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val y = c->in[0].v, dy = c->in[1].v;
    const int d = (int)c->attrs->dimension;
    mth__hlo_val dot = sum_over(h, times(h, y, dy), d);
    c->out[0].v = times(h, y, minus(h, dy, along(h, dot, y.shape, d)));
}

/* ---------------------------------------------------------------- norms: over the last dimension */
static int last(mth__hlo_val x) { return x.shape.rank - 1; }
static mth__hlo_val mean_of(mth__hlo *h, mth__hlo_val x) {
    return mth__hlo_binary_scalar(h, "divide", sum_over(h, x, last(x)), (double)x.shape.dim[last(x)]);
}
static mth__hlo_val rows(mth__hlo *h, mth__hlo_val of_row, mth__hlo_val x) {
    return along(h, of_row, x.shape, last(x));
}
static mth__hlo_val columns(mth__hlo *h, mth__hlo_val of_column, mth__hlo_val x) {
    return mth__hlo_broadcast_numpy(h, of_column, x.shape);
}
static mth__hlo_val sum_of_rows(mth__hlo *h, mth__hlo_val x) {
    return mth__hlo_reduce(h, "add", x, (1u << last(x)) - 1, false);
}
static mth__hlo_val reciprocal_root(mth__hlo *h, mth__hlo_val mean_square, double epsilon) {
    return mth__hlo_unary(h, "rsqrt", mth__hlo_binary_scalar(h, "add", mean_square, epsilon));
}

void mth__hlo_layer_norm(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val x = c->in[0].v;
    mth__hlo_val mean = mean_of(h, x), centred = minus(h, x, rows(h, mean, x));
    mth__hlo_val rstd = reciprocal_root(h, mean_of(h, times(h, centred, centred)), c->attrs->epsilon);
    mth__hlo_val scaled = times(h, times(h, centred, rows(h, rstd, x)), columns(h, c->in[1].v, x));
    c->out[0].v = mth__hlo_binary(h, "add", scaled, columns(h, c->in[2].v, x));
    c->out[1].v = mean;
    c->out[2].v = rstd;
}

void mth__hlo_layer_norm_grad(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val x = c->in[0].v, weight = c->in[1].v, mean = c->in[2].v, rstd = c->in[3].v, dy = c->in[4].v;
    mth__hlo_val hat = times(h, minus(h, x, rows(h, mean, x)), rows(h, rstd, x)),
                 g = times(h, dy, columns(h, weight, x));
    mth__hlo_val rest =
        minus(h, minus(h, g, rows(h, mean_of(h, g), x)), times(h, hat, rows(h, mean_of(h, times(h, g, hat)), x)));
    c->out[0].v = times(h, rows(h, rstd, x), rest);
    c->out[1].v = sum_of_rows(h, times(h, dy, hat));
    c->out[2].v = sum_of_rows(h, dy);
}

void mth__hlo_rms_norm(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val x = c->in[0].v;
    mth__hlo_val rstd = reciprocal_root(h, mean_of(h, times(h, x, x)), c->attrs->epsilon);
    c->out[0].v = times(h, times(h, x, rows(h, rstd, x)), columns(h, c->in[1].v, x));
    c->out[1].v = rstd;
}

void mth__hlo_rms_norm_grad(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_val x = c->in[0].v, weight = c->in[1].v, rstd = c->in[2].v, dy = c->in[3].v;
    mth__hlo_val hat = times(h, x, rows(h, rstd, x)), g = times(h, dy, columns(h, weight, x));
    c->out[0].v = times(h, rows(h, rstd, x), minus(h, g, times(h, hat, rows(h, mean_of(h, times(h, g, hat)), x))));
    c->out[1].v = sum_of_rows(h, times(h, dy, hat));
}
