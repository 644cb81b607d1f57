/* attention and its gradient as products and a softmax: the scores are materialised, as XLA has no other way on every platform. Batch
 * dimensions are (b, g): heads that share keys (r) become rows of one product, and nothing is repeated. The gradient writes the scores with
 * the very operations of the forward row: in one module XLA merges them. */
#include "engine/pjrt/hlo.h"
#include <math.h>

/* Of the operands q[b,s,g,r,d], k[b,t,g,d], mask?[b,t]: scores[b,g,s,r,t], -inf where the query does not see the key. */
static mth__hlo_val scores(mth__hlo_call *c, const mth__hlo_operand *mask) {
    mth__hlo *h = c->h;
    const mth__hlo_operand *q = &c->in[0], *k = &c->in[1];
    const int qbatch[] = {0, 2}, qsum[] = {4}, ksum[] = {3};
    mth__hlo_val x = mth__hlo_binary_scalar(h, "multiply", mth__hlo_dot(h, q->v, k->v, 2, qbatch, qbatch, 1, qsum, ksum), c->attrs->f[0]);
    const mth__shape s = x.shape;
    mth__hlo_val seen;
    if (c->attrs->i[0]) {
        const mth__shape square = {2, {s.dim[2], s.dim[4]}};
        mth__hlo_val query = mth__hlo_broadcast(h, mth__hlo_index(h, q->part, 1), square, (int[]){0});
        mth__hlo_val key = mth__hlo_broadcast(h, mth__hlo_index(h, k->part, 1), square, (int[]){1});
        seen = mth__hlo_broadcast(h, mth__hlo_compare(h, "LE", key, query), s, (int[]){2, 4});
    }
    if (mask) {
        mth__hlo_val m = mask->v;
        m = mth__hlo_not_zero(h, m);
        m = mth__hlo_broadcast(h, m, s, (int[]){0, 4});
        seen = c->attrs->i[0] ? mth__hlo_binary(h, "and", seen, m) : m;
    }
    return c->attrs->i[0] || mask ? mth__hlo_select(h, seen, x, mth__hlo_splat(h, x.dtype, s, -INFINITY)) : x;
}
/* exp(scores - by[b,g,s,r]). Queries that see no key have -inf there, and only a mask makes them: every query sees key 0 else. */
static mth__hlo_val exp_minus(mth__hlo *h, mth__hlo_val x, mth__hlo_val by, bool masked) {
    if (masked) {
        mth__hlo_val zero = mth__hlo_splat(h, by.dtype, by.shape, 0), never = mth__hlo_splat(h, by.dtype, by.shape, -INFINITY);
        by = mth__hlo_select(h, mth__hlo_compare(h, "EQ", by, never), zero, by);
    }
    return mth__hlo_unary(h, "exponential", mth__hlo_binary(h, "subtract", x, mth__hlo_broadcast(h, by, x.shape, (int[]){0, 1, 2, 3})));
}
static mth__hlo_val swap12(mth__hlo *h, mth__hlo_val x) { return mth__hlo_transpose(h, x, (int[]){0, 2, 1, 3, 4}); } /* rank 4 or 5 */

void mth__hlo_attention(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const bool masked = c->nin > 3 || !c->in[1].part->shape.dim[1];
    mth__hlo_val x = scores(c, c->nin > 3 ? &c->in[3] : NULL), most = mth__hlo_reduce(h, "maximum", x, 1u << 4, false);
    mth__hlo_val p = exp_minus(h, x, most, masked), sum = mth__hlo_reduce(h, "add", p, 1u << 4, false), over = sum;
    mth__hlo_val o = mth__hlo_dot(h, p, c->in[2].v, 2, (int[]){0, 1}, (int[]){0, 2}, 1, (int[]){4}, (int[]){1});
    if (masked) {
        mth__hlo_val none = mth__hlo_compare(h, "EQ", sum, mth__hlo_splat(h, sum.dtype, sum.shape, 0));
        over = mth__hlo_select(h, none, mth__hlo_splat(h, sum.dtype, sum.shape, 1), sum);
    }
    o = mth__hlo_binary(h, "divide", o, mth__hlo_broadcast(h, over, o.shape, (int[]){0, 1, 2, 3}));
    c->out[0].v = swap12(h, o);
    c->out[1].v = swap12(h, mth__hlo_binary(h, "add", mth__hlo_unary(h, "log", sum), most)); /* of no key: -inf + -inf */
}

void mth__hlo_attention_grad(mth__hlo_call *c) { /* q, k, v, o, lse, do, mask? -> dq, dk, dv */
    mth__hlo *h = c->h;
    mth__hlo_val q = c->in[0].v, k = c->in[1].v, v = c->in[2].v, dout = c->in[5].v;
    mth__hlo_val p = exp_minus(h, scores(c, c->nin > 6 ? &c->in[6] : NULL), swap12(h, c->in[4].v), c->nin > 6);
    mth__hlo_val delta = swap12(h, mth__hlo_reduce(h, "add", mth__hlo_binary(h, "multiply", c->in[3].v, dout), 1u << 4, false));
    const int bg[] = {0, 1}, b_g[] = {0, 2}, rows[] = {2, 3}, s_r[] = {1, 3}, keys[] = {4}, t[] = {1};
    mth__hlo_val dp = mth__hlo_dot(h, dout, v, 2, b_g, b_g, 1, (int[]){4}, (int[]){3});
    mth__hlo_val ds = mth__hlo_binary(h, "subtract", dp, mth__hlo_broadcast(h, delta, dp.shape, (int[]){0, 1, 2, 3}));
    ds = mth__hlo_binary_scalar(h, "multiply", mth__hlo_binary(h, "multiply", p, ds), c->attrs->f[0]);
    c->out[0].v = swap12(h, mth__hlo_dot(h, ds, k, 2, bg, b_g, 1, keys, t));
    c->out[1].v = swap12(h, mth__hlo_dot(h, ds, q, 2, bg, b_g, 2, rows, s_r));
    c->out[2].v = swap12(h, mth__hlo_dot(h, p, dout, 2, bg, b_g, 2, rows, s_r));
}
