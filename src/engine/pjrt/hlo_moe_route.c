/* Mixture of experts: which tokens go where. All of it is small beside the experts' products. */
#include "engine/pjrt/hlo_index.h"
#include <math.h>

static mth__hlo_val wide(mth__hlo *hlo, mth__hlo_val column, mth__shape to) {
    return mth__hlo_broadcast(hlo, column, to, (int[]){0, 1});
}

/* Takes the largest of what is left, k times; of equal ones the one of the lowest index. A sort costs more, since there
   are few choices. NaN counts as the largest: a maximum is NaN where any NaN is left, and NaN differs from itself. */
void mth__hlo_moe_route(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    mth__hlo_val x = call->in[0].value, taken = {0};
    const int64_t experts = x.shape.dim[1], k = call->attrs->k;
    mth__hlo_val *weight = NEW_ARRAY(hlo->arena, mth__hlo_val, k), *expert = NEW_ARRAY(hlo->arena, mth__hlo_val, k);
    mth__hlo_val index = mth__hlo_iota(hlo, MTH_INT32, x.shape, 1),
                 none = mth__hlo_splat(hlo, MTH_INT32, x.shape, (double)experts);
    mth__hlo_val low = mth__hlo_splat(hlo, x.dtype, x.shape, -INFINITY);
    for (int64_t j = 0; j < k; j++) {
        mth__hlo_val left = j ? mth__hlo_select(hlo, taken, low, x) : x;
        weight[j] = mth__hlo_reduce(hlo, "maximum", left, 2, true);
        mth__hlo_val chosen = mth__hlo_binary(hlo, "or",
            mth__hlo_compare(hlo, "EQ", left, wide(hlo, weight[j], x.shape)), mth__hlo_compare(hlo, "NE", left, left));
        /* where -inf is all that is left */
        if (j) chosen = mth__hlo_binary(hlo, "and", chosen, mth__hlo_unary(hlo, "not", taken));
        expert[j] = mth__hlo_reduce(hlo, "minimum", mth__hlo_select(hlo, chosen, index, none), 2, true);
        mth__hlo_val newly = mth__hlo_compare(hlo, "EQ", index, wide(hlo, expert[j], x.shape));
        taken = j ? mth__hlo_binary(hlo, "or", taken, newly) : newly;
    }
    mth__hlo_val w = mth__hlo_concat(hlo, (int)k, weight, 1);
    w = mth__hlo_unary(hlo, "exponential", mth__hlo_binary(hlo, "subtract", w, wide(hlo, weight[0], w.shape)));
    call->out[0].value = mth__hlo_binary(hlo, "divide", w, wide(hlo, mth__hlo_reduce(hlo, "add", w, 2, true), w.shape));
    call->out[1].value = mth__hlo_concat(hlo, (int)k, expert, 1);
}

void mth__hlo_moe_route_grad(mth__hlo_call *call) { /* weights, experts, dweights -> dlogits */
    mth__hlo *hlo = call->hlo;
    mth__hlo_val w = call->in[0].value, dw = call->in[2].value;
    const mth__shape te = call->out[0].part->local, tke = {3, {te.dim[0], w.shape.dim[1], te.dim[1]}};
    mth__hlo_val dot = mth__hlo_reduce(hlo, "add", mth__hlo_binary(hlo, "multiply", w, dw), 2, true);
    mth__hlo_val dx =
        mth__hlo_binary(hlo, "multiply", w, mth__hlo_binary(hlo, "subtract", dw, wide(hlo, dot, w.shape)));
    mth__hlo_val chosen =
        mth__hlo_compare(hlo, "EQ", wide(hlo, call->in[1].value, tke), mth__hlo_iota(hlo, MTH_INT32, tke, 2));
    call->out[0].value = mth__hlo_reduce(
        hlo, "add", mth__hlo_select(hlo, chosen, wide(hlo, dx, tke), mth__hlo_splat(hlo, dx.dtype, tke, 0)), 2, false);
}

/* x[e, n]: counts, for each element of a row, the true elements from the row's first to that element. */
static mth__hlo_val running_count(mth__hlo *hlo, mth__hlo_val x) {
    x = mth__hlo_convert(hlo, MTH_INT32, x);
    if (!mth__shape_size(x.shape)) return x;
    mth__hlo_val zero = mth__hlo_scalar_i32(hlo, 0);
    const char *type = mth__hlo_type(hlo->arena, MTH_INT32, x.shape);
    return mth__hlo_line(hlo, MTH_INT32, x.shape,
        "\"stablehlo.reduce_window\"(%s, %s) <{padding = dense<[[0, 0], [%lld, 0]]> : tensor<2x2xi64>, "
        "window_dimensions = "
        "array<i64: 1, %lld>, window_strides = array<i64: 1, 1>}> ({\n    ^bb0(%%a: tensor<i32>, %%b: tensor<i32>):\n"
        "      %%sum = stablehlo.add %%a, %%b : tensor<i32>\n      stablehlo.return %%sum : tensor<i32>\n    }) : (%s, "
        "tensor<i32>) -> %s",
        mth__hlo_name(hlo->arena, x), mth__hlo_name(hlo->arena, zero), (long long)(x.shape.dim[1] - 1),
        (long long)x.shape.dim[1], type, type);
}

void mth__hlo_moe_capacity(mth__hlo_call *call) { /* nothing is split here */
    mth__hlo *hlo = call->hlo;
    mth__hlo_val experts = call->in[0].value;
    const int64_t n = mth__shape_size(experts.shape),
                  capacity = call->attrs->capacity < INT32_MAX ? call->attrs->capacity : INT32_MAX;
    const mth__shape en = {2, {call->attrs->experts, n}};
    mth__hlo_val x = mth__hlo_reshape(hlo, experts, (mth__shape){1, {n}});
    mth__hlo_val chosen =
        mth__hlo_compare(hlo, "EQ", mth__hlo_broadcast(hlo, x, en, (int[]){1}), mth__hlo_iota(hlo, MTH_INT32, en, 0));
    mth__hlo_val fits =
        mth__hlo_compare(hlo, "LE", running_count(hlo, chosen), mth__hlo_splat(hlo, MTH_INT32, en, (double)capacity));
    mth__hlo_val fitting = mth__hlo_reduce(hlo, "or", mth__hlo_binary(hlo, "and", chosen, fits), 1, false);
    mth__hlo_val y = mth__hlo_select(hlo, fitting, x, mth__hlo_splat(hlo, MTH_INT32, x.shape, -1)),
                 dropped = mth__hlo_compare(hlo, "NE", x, y);
    call->out[0].value = mth__hlo_reshape(hlo, y, experts.shape);
    call->out[1].value = mth__hlo_reshape(
        hlo, mth__hlo_reduce(hlo, "add", mth__hlo_convert(hlo, MTH_INT32, dropped), 1, false), (mth__shape){1, {1}});
}

/* ---------------------------------------------------------------- rows and counts
   experts[t, k] against the device's experts: true[e, t, k] where real token t has expert e as its choice k. */
static mth__hlo_val matches(mth__hlo *hlo, const mth__hlo_operand *experts, const mth__hlo_part *out) {
    const mth__shape tk = experts->value.shape, etk = {3, {out->local.dim[0], tk.dim[0], tk.dim[1]}};
    mth__hlo_val expert = mth__hlo_broadcast(hlo, mth__hlo_index(hlo, out, 0), etk, (int[]){0});
    mth__hlo_val equal =
        mth__hlo_compare(hlo, "EQ", mth__hlo_broadcast(hlo, experts->value, etk, (int[]){1, 2}), expert);
    if (!mth__hlo_is_padded(experts->part, 1)) return equal;
    return mth__hlo_binary(
        hlo, "and", equal, mth__hlo_broadcast(hlo, mth__hlo_mask(hlo, experts->part, 1), etk, (int[]){1, 2}));
}

/* The row of a token in its expert is the number of tokens before it that have the same expert. */
void mth__hlo_moe_rows(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    mth__hlo_val chosen = mth__hlo_reduce(hlo, "or", matches(hlo, &call->in[0], call->out[0].part), 1u << 2, false);
    const mth__shape et = chosen.shape, flat = {1, {mth__shape_size(et)}};
    mth__hlo_val row = mth__hlo_binary_scalar(hlo, "subtract", running_count(hlo, chosen), 1);
    mth__hlo_val first =
        mth__hlo_binary_scalar(hlo, "multiply", mth__hlo_iota(hlo, MTH_INT32, et, 0), (double)et.dim[1]);
    mth__hlo_val token = mth__hlo_broadcast(hlo, mth__hlo_index(hlo, call->in[0].part, 0), et, (int[]){1});
    mth__hlo_place place = {mth__hlo_binary(hlo, "add", first, row), chosen};
    call->out[0].value = mth__hlo_reshape(
        hlo, mth__hlo_put(hlo, MTH__HLO_SET, mth__hlo_splat(hlo, MTH_INT32, flat, -1), place, token), et);
}

void mth__hlo_moe_count(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    mth__hlo_val chosen = mth__hlo_convert(hlo, MTH_INT32, matches(hlo, &call->in[0], call->out[0].part));
    call->out[0].value =
        mth__hlo_convert(hlo, MTH_FLOAT32, mth__hlo_reduce(hlo, "add", chosen, 1u << 1 | 1u << 2, false));
}
