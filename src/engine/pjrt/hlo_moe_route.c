/* Mixture of experts: which tokens go where. All of it is small beside the experts' products. */
#include "engine/pjrt/hlo_index.h"
#include <math.h>

static mth__hlo_val wide(mth__hlo *h, mth__hlo_val column, mth__shape to) {
    return mth__hlo_broadcast(h, column, to, (int[]){0, 1});
}

/* k times the largest that is left, ties to the lower index: a sort costs more for the few choices there are. NaN is
   the largest: what is left of it is no larger than itself, and the maximum is NaN where any is left. */
void mth__hlo_moe_route(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    mth__hlo_val x = c->in[0].v, taken = {0};
    const int64_t e = x.shape.dim[1], k = c->attrs->k;
    mth__hlo_val *weight = NEW_ARRAY(h->arena, mth__hlo_val, k), *expert = NEW_ARRAY(h->arena, mth__hlo_val, k);
    mth__hlo_val index = mth__hlo_iota(h, MTH_INT32, x.shape, 1),
                 none = mth__hlo_splat(h, MTH_INT32, x.shape, (double)e);
    mth__hlo_val low = mth__hlo_splat(h, x.dtype, x.shape, -INFINITY);
    for (int64_t j = 0; j < k; j++) {
        mth__hlo_val left = j ? mth__hlo_select(h, taken, low, x) : x;
        weight[j] = mth__hlo_reduce(h, "maximum", left, 2, true);
        mth__hlo_val is = mth__hlo_binary(h, "or", mth__hlo_compare(h, "EQ", left, wide(h, weight[j], x.shape)),
            mth__hlo_compare(h, "NE", left, left));
        /* where -inf is all that is left */
        if (j) is = mth__hlo_binary(h, "and", is, mth__hlo_unary(h, "not", taken));
        expert[j] = mth__hlo_reduce(h, "minimum", mth__hlo_select(h, is, index, none), 2, true);
        mth__hlo_val now = mth__hlo_compare(h, "EQ", index, wide(h, expert[j], x.shape));
        taken = j ? mth__hlo_binary(h, "or", taken, now) : now;
    }
    mth__hlo_val w = mth__hlo_concat(h, (int)k, weight, 1);
    w = mth__hlo_unary(h, "exponential", mth__hlo_binary(h, "subtract", w, wide(h, weight[0], w.shape)));
    c->out[0].v = mth__hlo_binary(h, "divide", w, wide(h, mth__hlo_reduce(h, "add", w, 2, true), w.shape));
    c->out[1].v = mth__hlo_concat(h, (int)k, expert, 1);
}

void mth__hlo_moe_route_grad(mth__hlo_call *c) { /* weights, experts, dweights -> dlogits */
    mth__hlo *h = c->h;
    mth__hlo_val w = c->in[0].v, dw = c->in[2].v;
    const mth__shape te = c->out[0].part->local, tke = {3, {te.dim[0], w.shape.dim[1], te.dim[1]}};
    mth__hlo_val dot = mth__hlo_reduce(h, "add", mth__hlo_binary(h, "multiply", w, dw), 2, true);
    mth__hlo_val dx = mth__hlo_binary(h, "multiply", w, mth__hlo_binary(h, "subtract", dw, wide(h, dot, w.shape)));
    mth__hlo_val is = mth__hlo_compare(h, "EQ", wide(h, c->in[1].v, tke), mth__hlo_iota(h, MTH_INT32, tke, 2));
    c->out[0].v = mth__hlo_reduce(
        h, "add", mth__hlo_select(h, is, wide(h, dx, tke), mth__hlo_splat(h, dx.dtype, tke, 0)), 2, false);
}

/* Of x[e, n]: in each row the number of true elements up to and with each one. */
static mth__hlo_val running_count(mth__hlo *h, mth__hlo_val x) {
    x = mth__hlo_convert(h, MTH_INT32, x);
    if (!mth__shape_size(x.shape)) return x;
    mth__hlo_val zero = mth__hlo_scalar_i32(h, 0);
    const char *type = mth__hlo_type(h->arena, MTH_INT32, x.shape);
    return mth__hlo_line(h, MTH_INT32, x.shape,
        "\"stablehlo.reduce_window\"(%s, %s) <{padding = dense<[[0, 0], [%lld, 0]]> : tensor<2x2xi64>, "
        "window_dimensions = "
        "array<i64: 1, %lld>, window_strides = array<i64: 1, 1>}> ({\n    ^bb0(%%a: tensor<i32>, %%b: tensor<i32>):\n"
        "      %%sum = stablehlo.add %%a, %%b : tensor<i32>\n      stablehlo.return %%sum : tensor<i32>\n    }) : (%s, "
        "tensor<i32>) -> %s",
        mth__hlo_name(h->arena, x), mth__hlo_name(h->arena, zero), (long long)(x.shape.dim[1] - 1),
        (long long)x.shape.dim[1], type, type);
}

void mth__hlo_moe_capacity(mth__hlo_call *c) { /* nothing is split here */
    mth__hlo *h = c->h;
    mth__hlo_val experts = c->in[0].v;
    const int64_t n = mth__shape_size(experts.shape),
                  capacity = c->attrs->capacity < INT32_MAX ? c->attrs->capacity : INT32_MAX;
    const mth__shape en = {2, {c->attrs->experts, n}};
    mth__hlo_val x = mth__hlo_reshape(h, experts, (mth__shape){1, {n}});
    mth__hlo_val is =
        mth__hlo_compare(h, "EQ", mth__hlo_broadcast(h, x, en, (int[]){1}), mth__hlo_iota(h, MTH_INT32, en, 0));
    mth__hlo_val fits =
        mth__hlo_compare(h, "LE", running_count(h, is), mth__hlo_splat(h, MTH_INT32, en, (double)capacity));
    mth__hlo_val kept = mth__hlo_reduce(h, "or", mth__hlo_binary(h, "and", is, fits), 1, false);
    mth__hlo_val y = mth__hlo_select(h, kept, x, mth__hlo_splat(h, MTH_INT32, x.shape, -1)),
                 dropped = mth__hlo_compare(h, "NE", x, y);
    c->out[0].v = mth__hlo_reshape(h, y, experts.shape);
    c->out[1].v = mth__hlo_reshape(
        h, mth__hlo_reduce(h, "add", mth__hlo_convert(h, MTH_INT32, dropped), 1, false), (mth__shape){1, {1}});
}

/* ---------------------------------------------------------------- rows and counts
   experts[t, k] against the device's experts: true[e, t, k] where real token t has expert e as its choice k. */
static mth__hlo_val matches(mth__hlo *h, const mth__hlo_operand *experts, const mth__hlo_part *out) {
    const mth__shape tk = experts->v.shape, etk = {3, {out->local.dim[0], tk.dim[0], tk.dim[1]}};
    mth__hlo_val expert = mth__hlo_broadcast(h, mth__hlo_index(h, out, 0), etk, (int[]){0});
    mth__hlo_val is = mth__hlo_compare(h, "EQ", mth__hlo_broadcast(h, experts->v, etk, (int[]){1, 2}), expert);
    if (!mth__hlo_is_padded(experts->part, 1)) return is;
    return mth__hlo_binary(h, "and", is, mth__hlo_broadcast(h, mth__hlo_mask(h, experts->part, 1), etk, (int[]){1, 2}));
}

/* a token's row in its expert is the number of tokens before it there */
void mth__hlo_moe_rows(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    mth__hlo_val is = mth__hlo_reduce(h, "or", matches(h, &c->in[0], c->out[0].part), 1u << 2, false);
    const mth__shape et = is.shape, flat = {1, {mth__shape_size(et)}};
    mth__hlo_val row = mth__hlo_binary_scalar(h, "subtract", running_count(h, is), 1);
    mth__hlo_val first = mth__hlo_binary_scalar(h, "multiply", mth__hlo_iota(h, MTH_INT32, et, 0), (double)et.dim[1]);
    mth__hlo_val token = mth__hlo_broadcast(h, mth__hlo_index(h, c->in[0].part, 0), et, (int[]){1});
    mth__hlo_place place = {mth__hlo_binary(h, "add", first, row), is};
    c->out[0].v =
        mth__hlo_reshape(h, mth__hlo_put(h, MTH__HLO_SET, mth__hlo_splat(h, MTH_INT32, flat, -1), place, token), et);
}

void mth__hlo_moe_count(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    mth__hlo_val is = mth__hlo_convert(h, MTH_INT32, matches(h, &c->in[0], c->out[0].part));
    c->out[0].v = mth__hlo_convert(h, MTH_FLOAT32, mth__hlo_reduce(h, "add", is, 1u << 1 | 1u << 2, false));
}
