/* softmax and the norms. The normalized dimension is whole on every device: no padding along it. */
#include "engine/pjrt/hlo.h"

static mth__hlo_val times(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b) {
    return mth__hlo_binary(hlo, "multiply", a, b);
}
static mth__hlo_val minus(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val b) {
    return mth__hlo_binary(hlo, "subtract", a, b);
}

/* Repeats `value`, which lacks dimension d of the shape `to`, along that dimension. */
static mth__hlo_val along(mth__hlo *hlo, mth__hlo_val value, mth__shape to, int d) {
    int dims[MTH__RANK];
    for (int i = 0; i < value.shape.rank; i++) dims[i] = i < d ? i : i + 1;
    return mth__hlo_broadcast(hlo, value, to, dims);
}
static mth__hlo_val sum_over(mth__hlo *hlo, mth__hlo_val x, int d) {
    return mth__hlo_reduce(hlo, "add", x, 1u << d, false);
}

void mth__hlo_softmax(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val x = call->in[0].value;
    const int d = (int)call->attrs->dimension;
    mth__hlo_val most = mth__hlo_reduce(hlo, "maximum", x, 1u << d, false);
    mth__hlo_val e = mth__hlo_unary(hlo, "exponential", minus(hlo, x, along(hlo, most, x.shape, d)));
    call->out[0].value = mth__hlo_binary(hlo, "divide", e, along(hlo, sum_over(hlo, e, d), x.shape, d));
}

void mth__hlo_softmax_grad(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val y = call->in[0].value, dy = call->in[1].value;
    const int d = (int)call->attrs->dimension;
    mth__hlo_val dot = sum_over(hlo, times(hlo, y, dy), d);
    call->out[0].value = times(hlo, y, minus(hlo, dy, along(hlo, dot, y.shape, d)));
}

/* ---------------------------------------------------------------- norms: over the last dimension */
static int last(mth__hlo_val x) { return x.shape.rank - 1; }
static mth__hlo_val mean_of(mth__hlo *hlo, mth__hlo_val x) {
    return mth__hlo_binary_scalar(hlo, "divide", sum_over(hlo, x, last(x)), (double)x.shape.dim[last(x)]);
}
static mth__hlo_val rows(mth__hlo *hlo, mth__hlo_val of_row, mth__hlo_val x) {
    return along(hlo, of_row, x.shape, last(x));
}
static mth__hlo_val columns(mth__hlo *hlo, mth__hlo_val of_column, mth__hlo_val x) {
    return mth__hlo_broadcast_numpy(hlo, of_column, x.shape);
}
static mth__hlo_val sum_of_rows(mth__hlo *hlo, mth__hlo_val x) {
    return mth__hlo_reduce(hlo, "add", x, (1u << last(x)) - 1, false);
}
static mth__hlo_val reciprocal_root(mth__hlo *hlo, mth__hlo_val mean_square, double epsilon) {
    return mth__hlo_unary(hlo, "rsqrt", mth__hlo_binary_scalar(hlo, "add", mean_square, epsilon));
}

void mth__hlo_layer_norm(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val x = call->in[0].value;
    mth__hlo_val mean = mean_of(hlo, x), centred = minus(hlo, x, rows(hlo, mean, x));
    mth__hlo_val rstd = reciprocal_root(hlo, mean_of(hlo, times(hlo, centred, centred)), call->attrs->epsilon);
    mth__hlo_val scaled = times(hlo, times(hlo, centred, rows(hlo, rstd, x)), columns(hlo, call->in[1].value, x));
    call->out[0].value = mth__hlo_binary(hlo, "add", scaled, columns(hlo, call->in[2].value, x));
    call->out[1].value = mean;
    call->out[2].value = rstd;
}

void mth__hlo_layer_norm_grad(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val x = call->in[0].value, weight = call->in[1].value, mean = call->in[2].value,
                       rstd = call->in[3].value, dy = call->in[4].value;
    mth__hlo_val hat = times(hlo, minus(hlo, x, rows(hlo, mean, x)), rows(hlo, rstd, x)),
                 g = times(hlo, dy, columns(hlo, weight, x));
    mth__hlo_val rest = minus(hlo, minus(hlo, g, rows(hlo, mean_of(hlo, g), x)),
        times(hlo, hat, rows(hlo, mean_of(hlo, times(hlo, g, hat)), x)));
    call->out[0].value = times(hlo, rows(hlo, rstd, x), rest);
    call->out[1].value = sum_of_rows(hlo, times(hlo, dy, hat));
    call->out[2].value = sum_of_rows(hlo, dy);
}

void mth__hlo_rms_norm(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val x = call->in[0].value;
    mth__hlo_val rstd = reciprocal_root(hlo, mean_of(hlo, times(hlo, x, x)), call->attrs->epsilon);
    call->out[0].value = times(hlo, times(hlo, x, rows(hlo, rstd, x)), columns(hlo, call->in[1].value, x));
    call->out[1].value = rstd;
}

void mth__hlo_rms_norm_grad(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_val x = call->in[0].value, weight = call->in[1].value, rstd = call->in[2].value,
                       dy = call->in[3].value;
    mth__hlo_val hat = times(hlo, x, rows(hlo, rstd, x)), g = times(hlo, dy, columns(hlo, weight, x));
    call->out[0].value =
        times(hlo, rows(hlo, rstd, x), minus(hlo, g, times(hlo, hat, rows(hlo, mean_of(hlo, times(hlo, g, hat)), x))));
    call->out[1].value = sum_of_rows(hlo, times(hlo, dy, hat));
}
