/* Elementwise rows. Formulas as in the reference engine; where float32 would cancel what float64 keeps, an equal one
 * that does not. */
#include "engine/pjrt/hlo.h"
#include <string.h>

static mth__hlo_val times(mth__hlo *h, mth__hlo_val a, mth__hlo_val b) { return mth__hlo_binary(h, "multiply", a, b); }
static mth__hlo_val scaled(mth__hlo *h, mth__hlo_val x, double by) {
    return mth__hlo_binary_scalar(h, "multiply", x, by);
}
static mth__hlo_val shifted(mth__hlo *h, mth__hlo_val x, double by) { return mth__hlo_binary_scalar(h, "add", x, by); }
static mth__hlo_val splat_like(mth__hlo *h, mth__hlo_val x, double value) {
    return mth__hlo_splat(h, x.dtype, x.shape, value);
}
static mth__hlo_val one_minus(mth__hlo *h, mth__hlo_val x) {
    return mth__hlo_binary(h, "subtract", splat_like(h, x, 1), x);
}
static mth__hlo_val where_positive(mth__hlo *h, mth__hlo_val x, mth__hlo_val then) {
    mth__hlo_val zero = splat_like(h, x, 0);
    return mth__hlo_select(h, mth__hlo_compare(h, "GT", x, zero), then, zero);
}

/* ---------------------------------------------------------------- activations */
#define SQRT_HALF 0.70710678118654752440
#define SQRT_2_PI 0.79788456080286535588 /* sqrt(2 / pi) */

/* The standard normal's distribution function. */
static mth__hlo_val normal_cdf(mth__hlo *h, mth__hlo_val x) {
    const char *type = mth__hlo_type(h->arena, x.dtype, x.shape);
    mth__hlo_val u = scaled(h, x, SQRT_HALF);
    mth__hlo_val erf =
        mth__hlo_line(h, x.dtype, x.shape, "chlo.erf %s : %s -> %s", mth__hlo_name(h->arena, u), type, type);
    return scaled(h, shifted(h, erf, 1), 0.5);
}
/* (1 + tanh u) / 2 is sigmoid(2 u), which keeps the precision of the negative tail. square: x * x */
static mth__hlo_val tanh_gate(mth__hlo *h, mth__hlo_val x, mth__hlo_val square) {
    mth__hlo_val slope = shifted(h, scaled(h, square, 2 * SQRT_2_PI * 0.044715), 2 * SQRT_2_PI);
    return mth__hlo_unary(h, "logistic", times(h, x, slope));
}

mth__hlo_val mth__hlo_activation(mth__hlo *h, const char *name, mth__hlo_val x) {
    if (!strcmp(name, "relu")) return mth__hlo_binary_scalar(h, "maximum", x, 0); /* NaN stays */
    if (!strcmp(name, "gelu")) return times(h, x, normal_cdf(h, x));
    if (!strcmp(name, "gelu_tanh")) return times(h, x, tanh_gate(h, x, times(h, x, x)));
    return times(h, x, mth__hlo_unary(h, "logistic", x)); /* silu */
}

mth__hlo_val mth__hlo_activation_grad(mth__hlo *h, const char *name, mth__hlo_val x, mth__hlo_val dy) {
    mth__hlo_val slope;
    if (!strcmp(name, "relu")) return where_positive(h, x, dy);
    if (!strcmp(name, "gelu")) { /* cdf + x * density */
        mth__hlo_val bell = mth__hlo_unary(h, "exponential", scaled(h, times(h, x, x), -0.5));
        slope = mth__hlo_binary(h, "add", normal_cdf(h, x), times(h, scaled(h, x, 0.5 * SQRT_2_PI), bell));
    } else if (!strcmp(name, "gelu_tanh")) { /* s + x * s * (1 - s) * (2 u)' */
        mth__hlo_val square = times(h, x, x), s = tanh_gate(h, x, square);
        mth__hlo_val inner = shifted(h, scaled(h, square, 6 * SQRT_2_PI * 0.044715), 2 * SQRT_2_PI);
        slope = mth__hlo_binary(h, "add", s, times(h, times(h, times(h, x, s), one_minus(h, s)), inner));
    } else { /* silu: s * (1 + x * (1 - s)) */
        mth__hlo_val s = mth__hlo_unary(h, "logistic", x);
        slope = times(h, s, shifted(h, times(h, x, one_minus(h, s)), 1));
    }
    return times(h, slope, dy);
}

/* ---------------------------------------------------------------- rows */
/* XLA makes a product with converted truth values a select, in which 0 * NaN is 0: it is not to see that these are. */
static mth__hlo_val opaque(mth__hlo *h, mth__hlo_val x) {
    return mth__hlo_line(h, x.dtype, x.shape, "stablehlo.optimization_barrier %s : %s", mth__hlo_name(h->arena, x),
        mth__hlo_type(h->arena, x.dtype, x.shape));
}

void mth__hlo_unary_row(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    mth__hlo_val x = c->in[0].v, *y = &c->out[0].v;
    switch (mth__op_index(c->op)) {
    case MTH__ROW_neg: *y = mth__hlo_unary(h, "negate", x); return;
    case MTH__ROW_exp: *y = mth__hlo_unary(h, "exponential", x); return;
    case MTH__ROW_log: *y = mth__hlo_unary(h, "log", x); return;
    case MTH__ROW_sqrt: *y = mth__hlo_unary(h, "sqrt", x); return;
    case MTH__ROW_rsqrt: *y = mth__hlo_unary(h, "rsqrt", x); return;
    case MTH__ROW_reciprocal: *y = mth__hlo_binary(h, "divide", splat_like(h, x, 1), x); return;
    case MTH__ROW_square: *y = times(h, x, x); return;
    case MTH__ROW_sigmoid: *y = mth__hlo_unary(h, "logistic", x); return;
    case MTH__ROW_tanh: *y = mth__hlo_unary(h, "tanh", x); return;
    case MTH__ROW_scale: *y = scaled(h, x, c->attrs->by); return;
    case MTH__ROW_shift: *y = shifted(h, x, c->attrs->by); return;
    case MTH__ROW_copy:
    case MTH__ROW_stop: *y = x; return;
    default: *y = mth__hlo_activation(h, c->op->name, x);
    }
}

/* By the bits, since a CPU may take the smallest floats for 0. */
void mth__hlo_mask_row(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_operand *in = &c->in[0];
    const mth__shape s = in->v.shape;
    const unsigned all = (1u << s.rank) - 1;
    mth__hlo_val bits = mth__hlo_line(h, MTH_INT32, s, "stablehlo.bitcast_convert %s : (%s) -> %s",
        mth__hlo_name(h->arena, in->v), mth__hlo_type(h->arena, MTH_FLOAT32, s), mth__hlo_type(h->arena, MTH_INT32, s));
    mth__hlo_val one = mth__hlo_compare(h, "EQ", bits, mth__hlo_splat(h, MTH_INT32, s, 0x3f800000));
    mth__hlo_val zero = mth__hlo_binary(h, "or", mth__hlo_compare(h, "EQ", bits, mth__hlo_splat(h, MTH_INT32, s, 0)),
        mth__hlo_compare(h, "EQ", bits, mth__hlo_splat(h, MTH_INT32, s, INT32_MIN))); /* 0 and -0 */
    mth__hlo_val bad = mth__hlo_unary(h, "not", mth__hlo_binary(h, "or", one, zero));
    if (mth__hlo_is_padded(in->part, all)) bad = mth__hlo_binary(h, "and", bad, mth__hlo_mask(h, in->part, all));
    bad = mth__hlo_convert(
        h, MTH_INT32, mth__hlo_reshape(h, mth__hlo_reduce(h, "or", bad, all, false), (mth__shape){1, {1}}));
    mth__hlo_val pair[2] = {bad, bad};
    PUSH(h->arena, h->check, (struct mth__hlo_check){mth__hlo_concat(h, 2, pair, 0), h->instr, 0});
    c->out[0].v = one;
}

void mth__hlo_binary_row(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__shape to = c->out[0].part->local;
    mth__hlo_val a = mth__hlo_broadcast_numpy(h, c->in[0].v, to), b = mth__hlo_broadcast_numpy(h, c->in[1].v, to),
                 *y = &c->out[0].v;
    switch (mth__op_index(c->op)) {
    case MTH__ROW_add: *y = mth__hlo_binary(h, "add", a, b); return;
    case MTH__ROW_sub: *y = mth__hlo_binary(h, "subtract", a, b); return;
    case MTH__ROW_mul: *y = times(h, a, b); return;
    case MTH__ROW_div: *y = mth__hlo_binary(h, "divide", a, b); return;
    case MTH__ROW_maximum: *y = mth__hlo_binary(h, "maximum", a, b); return;
    case MTH__ROW_equal:
        *y = opaque(h, mth__hlo_convert(h, c->out[0].part->dtype, mth__hlo_compare(h, "EQ", a, b)));
        return;
    case MTH__ROW_sigmoid_grad: *y = times(h, times(h, a, one_minus(h, a)), b); return;
    case MTH__ROW_tanh_grad: *y = times(h, one_minus(h, times(h, a, a)), b); return;
    case MTH__ROW_relu_grad: *y = mth__hlo_activation_grad(h, "relu", a, b); return;
    case MTH__ROW_gelu_grad: *y = mth__hlo_activation_grad(h, "gelu", a, b); return;
    case MTH__ROW_gelu_tanh_grad: *y = mth__hlo_activation_grad(h, "gelu_tanh", a, b); return;
    default: *y = mth__hlo_activation_grad(h, "silu", a, b);
    }
}
