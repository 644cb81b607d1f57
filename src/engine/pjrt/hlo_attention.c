/* attention and its gradient as products and a softmax: the scores are materialised, as XLA has no other way on every
 * platform. Batch dimensions are (b, g): heads that share keys (r) become rows of one product, and nothing is repeated.
 * The gradient writes the scores and their exponentials with the very operations of the forward row: in one module XLA
 * merges them.
 *
 * A query must not be reached by what it does not see, not even by NaN and infinities. A product multiplies what is not
 * seen by 0, and 0 * NaN is NaN. So whatever is multiplied by 0 is made finite: operands have 0 in place of what is not
 * finite, and the exponentials of a query that sees NaN, in a key or a value, are 0. The sum of such a query's
 * exponentials is NaN, and its result, its gradient, and the gradients of all that it sees become NaN by that sum. This
 * costs selects in loops over the scores that run anyway; no array of their size is written for it. */
#include "engine/pjrt/hlo.h"
#include <math.h>

/* Which query sees which key: those at or before its index (causal), those that the mask (bool, (b, t)) shows. */
typedef struct {
    bool causal, masked;
    mth__hlo_val query, key, mask;
} visibility;
static visibility look(mth__hlo_call *call, const mth__hlo_operand *mask) {
    mth__hlo *hlo = call->hlo;
    visibility sight = {.causal = call->attrs->causal, .masked = mask};
    if (sight.causal) {
        sight.query = mth__hlo_index(hlo, call->in[0].part, 1);
        sight.key = mth__hlo_index(hlo, call->in[1].part, 1);
    }
    if (mask) sight.mask = mth__hlo_not_zero(hlo, mask->value);
    return sight;
}
/* x[b,g,s,r,t] where the query sees the key, else `hidden`. */
static mth__hlo_val seen_or(mth__hlo *hlo, const visibility *sight, mth__hlo_val x, double hidden) {
    mth__hlo_val seen[2];
    int count = 0;
    if (sight->causal) {
        const mth__shape square = {2, {x.shape.dim[2], x.shape.dim[4]}};
        mth__hlo_val query = mth__hlo_broadcast(hlo, sight->query, square, (int[]){0}),
                     key = mth__hlo_broadcast(hlo, sight->key, square, (int[]){1});
        seen[count++] = mth__hlo_broadcast(hlo, mth__hlo_compare(hlo, "LE", key, query), x.shape, (int[]){2, 4});
    }
    if (sight->masked) seen[count++] = mth__hlo_broadcast(hlo, sight->mask, x.shape, (int[]){0, 4});
    if (count == 2) seen[0] = mth__hlo_binary(hlo, "and", seen[0], seen[1]);
    return count ? mth__hlo_select(hlo, seen[0], x, mth__hlo_splat(hlo, x.dtype, x.shape, hidden)) : x;
}

/* x where `condition` holds, else the number. */
static mth__hlo_val where(mth__hlo *hlo, mth__hlo_val condition, mth__hlo_val x, double number) {
    return mth__hlo_select(hlo, condition, x, mth__hlo_splat(hlo, x.dtype, x.shape, number));
}
static mth__hlo_val compare(mth__hlo *hlo, const char *direction, mth__hlo_val x, double number) {
    return mth__hlo_compare(hlo, direction, x, mth__hlo_splat(hlo, x.dtype, x.shape, number));
}
static mth__hlo_val is_finite(mth__hlo *hlo, mth__hlo_val x) {
    return compare(hlo, "LT", mth__hlo_unary(hlo, "abs", x), INFINITY);
}
static mth__hlo_val finite_or_zero(mth__hlo *hlo, mth__hlo_val x) { return where(hlo, is_finite(hlo, x), x, 0); }
/* The sum of x * scale over the last dimension, as a product: XLA's fastest sum. */
static mth__hlo_val sum_of_rows(mth__hlo *hlo, mth__hlo_val x, double scale) {
    const int last = x.shape.rank - 1;
    mth__hlo_val column = mth__hlo_splat(hlo, x.dtype, (mth__shape){1, {x.shape.dim[last]}}, scale);
    return mth__hlo_dot(hlo, x, column, 0, NULL, NULL, 1, &last, (int[]){0});
}
/* Whether all of a row is finite: no sum of finite values overflows at this scale. */
static mth__hlo_val are_finite(mth__hlo *hlo, mth__hlo_val x) { return is_finite(hlo, sum_of_rows(hlo, x, 0x1p-100)); }
static mth__hlo_val of_rows(mth__hlo *hlo, mth__hlo_val by, mth__shape to) {
    return mth__hlo_broadcast(hlo, by, to, (int[]){0, 1, 2, 3});
}
/* rank 4 or 5 */
static mth__hlo_val swap12(mth__hlo *hlo, mth__hlo_val x) { return mth__hlo_transpose(hlo, x, (int[]){0, 2, 1, 3, 4}); }

/* Of the operands q[b,s,g,r,d], k[b,t,g,d], v[b,t,g,d]: scores[b,g,s,r,t], -inf where the query does not see the key,
   inf where it is NaN: XLA's maximum of long rows loses NaN.
   The queries are scaled, not the product: XLA would round score - most once, and where scores are large it is then
   above 0 for the largest. */
static mth__hlo_val scores(mth__hlo_call *call, const visibility *sight) {
    mth__hlo *hlo = call->hlo;
    const int qbatch[] = {0, 2}, qsum[] = {4}, ksum[] = {3};
    mth__hlo_val q = mth__hlo_binary_scalar(hlo, "multiply", call->in[0].value, call->attrs->scale),
                 k = call->in[1].value,
                 speaks = mth__hlo_broadcast(hlo, are_finite(hlo, call->in[2].value), k.shape, (int[]){0, 1, 2});
    k = where(hlo, speaks, k, NAN);
    mth__hlo_val x = mth__hlo_dot(hlo, q, k, 2, qbatch, qbatch, 1, qsum, ksum);
    return seen_or(hlo, sight, where(hlo, compare(hlo, "LT", x, INFINITY), x, INFINITY), -INFINITY);
}
/* exp(scores - most[b,g,s,r]), always finite: 0 of hidden keys, and of all keys where `most` is inf. It is -inf of
   queries that see no key. */
static mth__hlo_val exp_minus(mth__hlo *hlo, mth__hlo_val x, mth__hlo_val most) {
    most = where(hlo, compare(hlo, "NE", most, -INFINITY), most, 0);
    x = mth__hlo_binary(hlo, "subtract", x, of_rows(hlo, most, x.shape));
    return where(hlo, compare(hlo, "LT", x, INFINITY), mth__hlo_unary(hlo, "exponential", x), 0);
}
/* The sum of a[b,g,s,r,t] * x over keys, x[b,t,g,d] -> [b,s,g,r,d], or over queries, x[b,s,g,r,d] -> [b,t,g,d]. In this
   order of the operands XLA's CPU library takes `a` as it lies; else it would first be transposed. */
static mth__hlo_val over_keys(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val x) {
    return swap12(hlo, mth__hlo_dot(hlo, a, x, 2, (int[]){0, 1}, (int[]){0, 2}, 1, (int[]){4}, (int[]){1}));
}
static mth__hlo_val over_queries(mth__hlo *hlo, mth__hlo_val a, mth__hlo_val x) {
    mth__hlo_val y = mth__hlo_dot(hlo, x, a, 2, (int[]){0, 2}, (int[]){0, 1}, 2, (int[]){1, 3}, (int[]){2, 3});
    return mth__hlo_transpose(hlo, y, (int[]){0, 3, 1, 2});
}

void mth__hlo_attention(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const visibility sight = look(call, call->nin > 3 ? &call->in[3] : NULL);
    mth__hlo_val x = scores(call, &sight), most = mth__hlo_reduce(hlo, "maximum", x, 1u << 4, false),
                 p = exp_minus(hlo, x, most), sum = mth__hlo_reduce(hlo, "add", p, 1u << 4, false),
                 o = over_keys(hlo, p, finite_or_zero(hlo, call->in[2].value));
    sum = swap12(hlo, where(hlo, compare(hlo, "LT", most, INFINITY), sum, NAN));
    call->out[0].value =
        mth__hlo_binary(hlo, "divide", o, of_rows(hlo, where(hlo, compare(hlo, "NE", sum, 0), sum, 1), o.shape));
    call->out[1].value = swap12(hlo, most);
    call->out[2].value = sum;
}

/* A query whose output has a gradient of 0 takes no part: nothing of it reaches any gradient. */
void mth__hlo_attention_grad(mth__hlo_call *call) { /* q, k, v, o, most, sum, do, mask? -> dq, dk, dv */
    mth__hlo *hlo = call->hlo;
    const visibility sight = look(call, call->nin > 7 ? &call->in[7] : NULL);
    const mth__hlo_val q = finite_or_zero(hlo, call->in[0].value), k = finite_or_zero(hlo, call->in[1].value),
                       v = finite_or_zero(hlo, call->in[2].value), dout = finite_or_zero(hlo, call->in[6].value),
                       sum = where(hlo, compare(hlo, "NE", call->in[5].value, 0), call->in[5].value, 1),
                       asked = sum_of_rows(hlo, mth__hlo_unary(hlo, "abs", call->in[6].value), 1);
    mth__hlo_val p = exp_minus(hlo, scores(call, &sight), swap12(hlo, call->in[4].value)),
                 dp = mth__hlo_dot(hlo, dout, v, 2, (int[]){0, 2}, (int[]){0, 2}, 1, (int[]){4}, (int[]){3});
    /* Not p is divided by the sum of the softmax, but what p is multiplied by. */
    mth__hlo_val over_sum = mth__hlo_binary(hlo, "divide", mth__hlo_splat(hlo, sum.dtype, sum.shape, 1), sum),
                 dout_over =
                     mth__hlo_binary(hlo, "multiply", dout, of_rows(hlo, finite_or_zero(hlo, over_sum), dout.shape));
    over_sum = where(hlo, compare(hlo, "LT", asked, INFINITY), over_sum, NAN);
    over_sum = swap12(hlo, where(hlo, compare(hlo, "NE", asked, 0), over_sum, 0));
    /* The sum over keys of p * dp is that of the very p and dp, not do * o: a query that gives all to one key then has
       a ds of exactly 0, which large keys do not blow up. The dp of a hidden key may have overflowed. */
    mth__hlo_val delta =
        mth__hlo_reduce(hlo, "add", seen_or(hlo, &sight, mth__hlo_binary(hlo, "multiply", p, dp), 0), 1u << 4, false);
    delta = of_rows(hlo, mth__hlo_binary(hlo, "multiply", delta, over_sum), p.shape);
    over_sum = of_rows(hlo, mth__hlo_binary_scalar(hlo, "multiply", over_sum, call->attrs->scale), p.shape);
    mth__hlo_val ds = mth__hlo_binary(hlo, "multiply", p, mth__hlo_binary(hlo, "subtract", dp, delta));
    ds = seen_or(hlo, &sight, mth__hlo_binary(hlo, "multiply", ds, over_sum), 0);
    /* A NaN in ds reaches a whole row of dk, and must reach the same row of dv. */
    mth__hlo_val dk = over_queries(hlo, ds, q), dv = over_queries(hlo, p, dout_over),
                 first = mth__hlo_slice(hlo, dk, 3, 0, 1);
    call->out[0].value = over_keys(hlo, ds, k);
    call->out[1].value = dk;
    call->out[2].value = where(hlo,
        mth__hlo_broadcast(hlo, mth__hlo_compare(hlo, "EQ", first, first), dv.shape, (int[]){0, 1, 2, 3}), dv, NAN);
}
