/* Elementwise rows. Formulas as in the reference engine; where float32 would cancel what float64 keeps, an equal one
 * that does not. */
#include "engine/pjrt/hlo.h"
#include <string.h>

static mth__hlo_val times(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b) {
    return mth__hlo_binary(hlo, "multiply", a, b);
}
static mth__hlo_val scaled(mth__hlo *hlo, mth__hlo_val x, double by) {
    return mth__hlo_binary_scalar(hlo, "multiply", x, by);
}
static mth__hlo_val shifted(mth__hlo *hlo, mth__hlo_val x, double by) {
    return mth__hlo_binary_scalar(hlo, "add", x, by);
}
static mth__hlo_val splat_like(mth__hlo *hlo, mth__hlo_val x, double value) {
    return mth__hlo_splat(hlo, x.dtype, x.shape, value);
}
static mth__hlo_val one_minus(mth__hlo *hlo, mth__hlo_val x) {
    return mth__hlo_binary(hlo, "subtract", splat_like(hlo, x, 1), x);
}
static mth__hlo_val where_positive(mth__hlo *hlo, mth__hlo_val x, mth__hlo_val then) {
    mth__hlo_val zero = splat_like(hlo, x, 0);
    return mth__hlo_select(hlo, mth__hlo_compare(hlo, "GT", x, zero), then, zero);
}

/* ---------------------------------------------------------------- activations */
#define SQRT_HALF 0.70710678118654752440
#define SQRT_2_PI 0.79788456080286535588 /* sqrt(2 / pi) */

/* The standard normal's distribution function. */
static mth__hlo_val normal_cdf(mth__hlo *hlo, mth__hlo_val x) {
    const char *type = mth__hlo_type(hlo->arena, x.dtype, x.shape);
    mth__hlo_val u = scaled(hlo, x, SQRT_HALF);
    mth__hlo_val erf =
        mth__hlo_line(hlo, x.dtype, x.shape, "chlo.erf %s : %s -> %s", mth__hlo_name(hlo->arena, u), type, type);
    return scaled(hlo, shifted(hlo, erf, 1), 0.5);
}
/* (1 + tanh u) / 2 is sigmoid(2 u), which keeps the precision of the negative tail. square: x * x */
static mth__hlo_val tanh_gate(mth__hlo *hlo, mth__hlo_val x, mth__hlo_val square) {
    mth__hlo_val slope = shifted(hlo, scaled(hlo, square, 2 * SQRT_2_PI * 0.044715), 2 * SQRT_2_PI);
    return mth__hlo_unary(hlo, "logistic", times(hlo, x, slope));
}

mth__hlo_val mth__hlo_activation(mth__hlo *hlo, const char *name, mth__hlo_val x) {
    if (!strcmp(name, "relu")) return mth__hlo_binary_scalar(hlo, "maximum", x, 0); /* NaN stays */
    if (!strcmp(name, "gelu")) return times(hlo, x, normal_cdf(hlo, x));
    if (!strcmp(name, "gelu_tanh")) return times(hlo, x, tanh_gate(hlo, x, times(hlo, x, x)));
    return times(hlo, x, mth__hlo_unary(hlo, "logistic", x)); /* silu */
}

mth__hlo_val mth__hlo_activation_grad(mth__hlo *hlo, const char *name, mth__hlo_val x, mth__hlo_val dy) {
    mth__hlo_val slope;
    if (!strcmp(name, "relu")) return where_positive(hlo, x, dy);
    if (!strcmp(name, "gelu")) { /* cdf + x * density */
        mth__hlo_val bell = mth__hlo_unary(hlo, "exponential", scaled(hlo, times(hlo, x, x), -0.5));
        slope = mth__hlo_binary(hlo, "add", normal_cdf(hlo, x), times(hlo, scaled(hlo, x, 0.5 * SQRT_2_PI), bell));
    } else if (!strcmp(name, "gelu_tanh")) { /* s + x * s * (1 - s) * (2 u)' */
        /* The square may overflow where s is 0 or 1 long since, and 0 * inf is NaN. */
        mth__hlo_val square = mth__hlo_binary_scalar(hlo, "minimum", times(hlo, x, x), 1e30),
                     s = tanh_gate(hlo, x, square);
        mth__hlo_val inner = shifted(hlo, scaled(hlo, square, 6 * SQRT_2_PI * 0.044715), 2 * SQRT_2_PI);
        slope = mth__hlo_binary(hlo, "add", s, times(hlo, times(hlo, times(hlo, x, s), one_minus(hlo, s)), inner));
    } else { /* silu: s * (1 + x * (1 - s)) */
        mth__hlo_val s = mth__hlo_unary(hlo, "logistic", x);
        slope = times(hlo, s, shifted(hlo, times(hlo, x, one_minus(hlo, s)), 1));
    }
    return times(hlo, slope, dy);
}

/* ---------------------------------------------------------------- rows */
/* XLA turns a product with converted truth values into a select, in which 0 * NaN is 0. The barrier hides from it that
   these are converted truth values. */
static mth__hlo_val opaque(mth__hlo *hlo, mth__hlo_val x) {
    return mth__hlo_line(hlo, x.dtype, x.shape, "stablehlo.optimization_barrier %s : %s", mth__hlo_name(hlo->arena, x),
        mth__hlo_type(hlo->arena, x.dtype, x.shape));
}

/* dy to the larger of two operands, half of it to each of two equal ones. */
static mth__hlo_val share_of_larger(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b, mth__hlo_val dy) {
    const mth__hlo_val none = splat_like(hlo, a, 0), half = splat_like(hlo, a, 0.5), all = splat_like(hlo, a, 1);
    const mth__hlo_val tie = mth__hlo_select(hlo, mth__hlo_compare(hlo, "EQ", a, b), half, none);
    return times(hlo, dy, opaque(hlo, mth__hlo_select(hlo, mth__hlo_compare(hlo, "GT", a, b), all, tie)));
}

/* y: the results, from x: the operands, all of the results' shape. */
static void compute(mth__hlo_call *call, const mth__hlo_val *x, mth__hlo_val *y) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val a = x[0], b = call->nin > 1 ? x[1] : a, dy = x[call->nin - 1];
    switch (call->op->row) {
    case MTH__ROW_neg: *y = mth__hlo_unary(hlo, "negate", a); return;
    case MTH__ROW_exp: *y = mth__hlo_unary(hlo, "exponential", a); return;
    case MTH__ROW_log: *y = mth__hlo_unary(hlo, "log", a); return;
    case MTH__ROW_sqrt: *y = mth__hlo_unary(hlo, "sqrt", a); return;
    case MTH__ROW_rsqrt: *y = mth__hlo_unary(hlo, "rsqrt", a); return;
    case MTH__ROW_reciprocal: *y = mth__hlo_binary(hlo, "divide", splat_like(hlo, a, 1), a); return;
    case MTH__ROW_square: *y = times(hlo, a, a); return;
    case MTH__ROW_sigmoid: *y = mth__hlo_unary(hlo, "logistic", a); return;
    case MTH__ROW_tanh: *y = mth__hlo_unary(hlo, "tanh", a); return;
    case MTH__ROW_scale: *y = scaled(hlo, a, call->attrs->by); return;
    case MTH__ROW_shift: *y = shifted(hlo, a, call->attrs->by); return;
    case MTH__ROW_copy:
    case MTH__ROW_stop: *y = a; return;
    case MTH__ROW_add: *y = mth__hlo_binary(hlo, "add", a, b); return;
    case MTH__ROW_sub: *y = mth__hlo_binary(hlo, "subtract", a, b); return;
    case MTH__ROW_mul: *y = times(hlo, a, b); return;
    case MTH__ROW_div: *y = mth__hlo_binary(hlo, "divide", a, b); return;
    case MTH__ROW_maximum: *y = mth__hlo_binary(hlo, "maximum", a, b); return;
    case MTH__ROW_equal:
        *y = opaque(hlo, mth__hlo_convert(hlo, call->out[0].part->dtype, mth__hlo_compare(hlo, "EQ", a, b)));
        return;
    case MTH__ROW_sigmoid_grad: *y = times(hlo, times(hlo, a, one_minus(hlo, a)), b); return;
    case MTH__ROW_tanh_grad: *y = times(hlo, one_minus(hlo, times(hlo, a, a)), b); return;
    case MTH__ROW_relu_grad: *y = mth__hlo_activation_grad(hlo, "relu", a, b); return;
    case MTH__ROW_gelu_grad: *y = mth__hlo_activation_grad(hlo, "gelu", a, b); return;
    case MTH__ROW_gelu_tanh_grad: *y = mth__hlo_activation_grad(hlo, "gelu_tanh", a, b); return;
    case MTH__ROW_silu_grad: *y = mth__hlo_activation_grad(hlo, "silu", a, b); return;
    case MTH__ROW_mul_grad:
        y[0] = times(hlo, dy, b);
        y[1] = times(hlo, dy, a);
        return;
    case MTH__ROW_div_grad: /* a is the divisor, b the quotient */
        y[0] = mth__hlo_binary(hlo, "divide", dy, a);
        y[1] = mth__hlo_unary(hlo, "negate", times(hlo, y[0], b));
        return;
    case MTH__ROW_maximum_grad:
        y[0] = share_of_larger(hlo, a, b, dy);
        y[1] = share_of_larger(hlo, b, a, dy);
        return;
    default: *y = mth__hlo_activation(hlo, call->op->name, a);
    }
}

void mth__hlo_elementwise_row(mth__hlo_call *call) {
    mth__hlo_val x[MTH__MAX_IN], y[MTH__MAX_OUT] = {0};
    for (int j = 0; j < call->nin; j++)
        x[j] = mth__hlo_broadcast_numpy(call->hlo, call->in[j].value, call->out[0].part->local);
    compute(call, x, y);
    for (int k = 0; k < call->nout; k++) call->out[k].value = y[k];
}

/* Of floating numbers compares the bits, since a CPU may take the smallest for 0. */
void mth__hlo_mask_row(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_operand *in = &call->in[0];
    const mth__shape shape = in->value.shape;
    if (mth_dtype_get_class(in->value.dtype) == MTH_CLASS_INTEGER) {
        mth__hlo_val number = mth__hlo_narrow(hlo, in->value), parity = mth__hlo_binary_scalar(hlo, "and", number, 1);
        call->out[0].value = mth__hlo_compare(hlo, "EQ", number, mth__hlo_splat(hlo, MTH_INT32, shape, 1));
        mth__hlo_report(hlo, in->part, mth__hlo_compare(hlo, "NE", number, parity), number, 0);
        return;
    }
    mth__hlo_val bits = mth__hlo_line(hlo, MTH_INT32, shape, "stablehlo.bitcast_convert %s : (%s) -> %s",
        mth__hlo_name(hlo->arena, mth__hlo_convert(hlo, MTH_FLOAT32, in->value)),
        mth__hlo_type(hlo->arena, MTH_FLOAT32, shape), mth__hlo_type(hlo->arena, MTH_INT32, shape));
    mth__hlo_val one = mth__hlo_compare(hlo, "EQ", bits, mth__hlo_splat(hlo, MTH_INT32, shape, 0x3f800000));
    mth__hlo_val zero =
        mth__hlo_binary(hlo, "or", mth__hlo_compare(hlo, "EQ", bits, mth__hlo_splat(hlo, MTH_INT32, shape, 0)),
            mth__hlo_compare(hlo, "EQ", bits, mth__hlo_splat(hlo, MTH_INT32, shape, INT32_MIN))); /* 0 and -0 */
    mth__hlo_val bad = mth__hlo_unary(hlo, "not", mth__hlo_binary(hlo, "or", one, zero));
    mth__hlo_report(hlo, in->part, bad, bits, 0);
    call->out[0].value = one;
}
