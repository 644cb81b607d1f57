/* Mixture of experts: tokens to the experts' rows, the experts' products, and back. rows[e, t] names tokens by their
 * global index, -1 where it names none, in any order of runs; what lies in such rows of [e, t, ...], as in the padding
 * of the device's part, is never read. */
#include "engine/pjrt/hlo_index.h"

static mth__hlo_val used(mth__hlo *hlo, mth__hlo_val rows) {
    return mth__hlo_compare(hlo, "GE", rows, mth__hlo_splat(hlo, MTH_INT32, rows.shape, 0));
}
/* Rows that name a token and are no padding. */
static mth__hlo_val real(mth__hlo *hlo, const mth__hlo_operand *rows) {
    mth__hlo_val is = used(hlo, rows->value);
    return mth__hlo_is_padded(rows->part, 3) ? mth__hlo_binary(hlo, "and", is, mth__hlo_mask(hlo, rows->part, 3)) : is;
}
/* x[a, b, ...] where on[a, b], else 0 */
static mth__hlo_val only(mth__hlo *hlo, mth__hlo_val on, mth__hlo_val x) {
    return mth__hlo_select(
        hlo, mth__hlo_broadcast(hlo, on, x.shape, (int[]){0, 1}), x, mth__hlo_splat(hlo, x.dtype, x.shape, 0));
}
static mth__hlo_val times(mth__hlo *hlo, mth__hlo_val x, mth__hlo_val by) { /* x[a, b, ...] * by[a, b] */
    return mth__hlo_binary(hlo, "multiply", x, mth__hlo_broadcast(hlo, by, x.shape, (int[]){0, 1}));
}
/* The flat index of element (a, b) where rows have m elements. */
static mth__hlo_val flat_index(mth__hlo *hlo, mth__hlo_val a, int64_t m, mth__hlo_val b) {
    return mth__hlo_binary(hlo, "add", mth__hlo_binary_scalar(hlo, "multiply", a, (double)m), b);
}
static mth__hlo_val as_list(mth__hlo *hlo, mth__hlo_val x, int dims) { /* the first `dims` dimensions as one */
    mth__shape shape = {1, {1}};
    for (int d = 0; d < x.shape.rank; d++) {
        if (d < dims)
            shape.dim[0] *= x.shape.dim[d];
        else
            shape.dim[shape.rank++] = x.shape.dim[d];
    }
    return mth__hlo_reshape(hlo, x, shape);
}

/* ---------------------------------------------------------------- tokens to rows and back */
/* For each token and choice the row that holds it, as an index into all rows of the device; `here` says whether there
 * is
   one. An expert that a token chooses twice counts once. Reading by choice takes as many rows as there are choices,
   reading by row all that are reserved. */
static mth__hlo_place rows_of_choices(mth__hlo *hlo, const mth__hlo_operand *rows, const mth__hlo_operand *experts) {
    const mth__shape et = rows->value.shape, tk = experts->value.shape, all = {1, {et.dim[0] * tk.dim[0]}};
    const mth__shape tkk = {3, {tk.dim[0], tk.dim[1], tk.dim[1]}};
    mth__hlo_place token = mth__hlo_locate(hlo, experts->part, 0, rows->value);
    token.at = flat_index(hlo, mth__hlo_iota(hlo, MTH_INT32, et, 0), tk.dim[0], token.at);
    token.here = mth__hlo_binary(hlo, "and", token.here, real(hlo, rows));
    mth__hlo_val row =
        flat_index(hlo, mth__hlo_iota(hlo, MTH_INT32, et, 0), et.dim[1], mth__hlo_iota(hlo, MTH_INT32, et, 1));
    /* [e, t] */
    mth__hlo_val row_of = mth__hlo_put(hlo, MTH__HLO_SET, mth__hlo_splat(hlo, MTH_INT32, all, -1), token, row);

    mth__hlo_place place = mth__hlo_locate(hlo, rows->part, 0, experts->value);
    place.at = mth__hlo_lookup(hlo, row_of, flat_index(hlo, place.at, tk.dim[0], mth__hlo_iota(hlo, MTH_INT32, tk, 0)));
    place.here = mth__hlo_binary(hlo, "and", place.here, used(hlo, place.at));
    if (tk.dim[1] == 1) return place;
    mth__hlo_val one = mth__hlo_broadcast(hlo, experts->value, tkk, (int[]){0, 1}),
                 other = mth__hlo_broadcast(hlo, experts->value, tkk, (int[]){0, 2});
    mth__hlo_val same = mth__hlo_compare(hlo, "EQ", one, other);
    mth__hlo_val before =
        mth__hlo_compare(hlo, "LT", mth__hlo_iota(hlo, MTH_INT32, tkk, 2), mth__hlo_iota(hlo, MTH_INT32, tkk, 1));
    mth__hlo_val again = mth__hlo_reduce(hlo, "or", mth__hlo_binary(hlo, "and", same, before), 1u << 2, false);
    place.here = mth__hlo_binary(hlo, "and", place.here, mth__hlo_unary(hlo, "not", again));
    return place;
}

void mth__hlo_moe_dispatch(mth__hlo_call *call) { /* x, rows; weighted: x, rows, weights, experts */
    mth__hlo *hlo = call->hlo;
    const mth__hlo_place token = mth__hlo_locate(hlo, call->in[0].part, 0, call->in[1].value);
    mth__hlo_val y = mth__hlo_lookup(hlo, call->in[0].value, token.at);
    if (call->nin == 4) {
        const mth__shape et = call->in[1].value.shape;
        mth__hlo_val zero = mth__hlo_splat(hlo, y.dtype, (mth__shape){1, {mth__shape_size(et)}}, 0);
        mth__hlo_val weight =
            mth__hlo_put(hlo, MTH__HLO_SET, zero, rows_of_choices(hlo, &call->in[1], &call->in[3]), call->in[2].value);
        y = times(hlo, y, mth__hlo_reshape(hlo, weight, et));
    }
    call->out[0].value = only(hlo, token.here, y);
}

void mth__hlo_moe_combine(mth__hlo_call *call) { /* y, rows, and weights, experts or neither */
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *out = call->out[0].part;
    if (call->nin == 2) {
        mth__hlo_place token = mth__hlo_locate(hlo, out, 0, call->in[1].value);
        token.here = mth__hlo_binary(hlo, "and", token.here, real(hlo, &call->in[1]));
        call->out[0].value = mth__hlo_put(hlo, MTH__HLO_ADD, mth__hlo_start_of(call, 0), token, call->in[0].value);
        return;
    }
    const mth__hlo_place row = rows_of_choices(hlo, &call->in[1], &call->in[3]);
    /* [t, k, d] */
    mth__hlo_val y = times(hlo, mth__hlo_lookup(hlo, as_list(hlo, call->in[0].value, 2), row.at), call->in[2].value);
    call->out[0].value = mth__hlo_reduce(hlo, "add", only(hlo, row.here, y), 1u << 1, false);
}

void mth__hlo_moe_combine_weights_grad(mth__hlo_call *call) { /* y, rows, experts, dout -> dweights */
    mth__hlo *hlo = call->hlo;
    const mth__hlo_place row = rows_of_choices(hlo, &call->in[1], &call->in[2]);
    mth__hlo_val y = mth__hlo_lookup(hlo, as_list(hlo, call->in[0].value, 2), row.at); /* [t, k, d] */
    y = mth__hlo_binary(hlo, "multiply", y, mth__hlo_broadcast(hlo, call->in[3].value, y.shape, (int[]){0, 2}));
    if (mth__hlo_is_padded(call->in[3].part, 2)) {
        mth__hlo_val columns = mth__hlo_broadcast(hlo, mth__hlo_mask(hlo, call->in[3].part, 2), y.shape, (int[]){0, 2});
        y = mth__hlo_select(hlo, columns, y, mth__hlo_splat(hlo, y.dtype, y.shape, 0));
    }
    call->out[0].value = mth__hlo_reduce(hlo, "add", only(hlo, row.here, y), 1u << 2, false);
}

/* ---------------------------------------------------------------- experts */
static const int batch[] = {0};
void mth__hlo_moe_matmul(mth__hlo_call *call) { /* the caller has filled the padding along the factor i */
    mth__hlo *hlo = call->hlo;
    const int i = call->attrs->transposed ? 2 : 1;
    call->out[0].value = only(hlo, used(hlo, call->in[2].value),
        mth__hlo_dot(hlo, call->in[0].value, call->in[1].value, 1, batch, batch, 1, (int[]){2}, &i));
}
void mth__hlo_moe_outer(mth__hlo_call *call) { /* both are cut: 0 times what lies in an unused row could be NaN */
    mth__hlo *hlo = call->hlo;
    mth__hlo_val on = real(hlo, &call->in[2]);
    call->out[0].value = mth__hlo_dot(hlo, only(hlo, on, call->in[0].value), only(hlo, on, call->in[1].value), 1, batch,
        batch, 1, (int[]){1}, (int[]){1});
}
void mth__hlo_moe_bias(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    mth__hlo_val x = call->in[0].value;
    call->out[0].value = only(hlo, used(hlo, call->in[2].value),
        mth__hlo_binary(hlo, "add", x, mth__hlo_broadcast(hlo, call->in[1].value, x.shape, (int[]){0, 2})));
}
void mth__hlo_moe_bias_grad(mth__hlo_call *call) {
    call->out[0].value = mth__hlo_reduce(
        call->hlo, "add", only(call->hlo, real(call->hlo, &call->in[1]), call->in[0].value), 1u << 1, false);
}

static const char *const activation[] = {"relu", "gelu", "gelu_tanh", "silu"};
void mth__hlo_moe_act(mth__hlo_call *call) {
    call->out[0].value = only(call->hlo, used(call->hlo, call->in[1].value),
        mth__hlo_activation(call->hlo, activation[call->attrs->activation], call->in[0].value));
}
void mth__hlo_moe_act_grad(mth__hlo_call *call) {
    mth__hlo_val dx =
        mth__hlo_activation_grad(call->hlo, activation[call->attrs->activation], call->in[0].value, call->in[1].value);
    call->out[0].value = only(call->hlo, used(call->hlo, call->in[2].value), dx);
}
void mth__hlo_moe_mul(mth__hlo_call *call) {
    call->out[0].value = only(call->hlo, used(call->hlo, call->in[2].value),
        mth__hlo_binary(call->hlo, "multiply", call->in[0].value, call->in[1].value));
}
