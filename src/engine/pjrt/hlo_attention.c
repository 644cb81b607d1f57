/* attention and its gradient as products and a softmax: the scores are materialised, as XLA has no other way on every
 * platform. Batch dimensions are (b, g): heads that share keys (r) become rows of one product, and nothing is repeated.
 * The gradient writes the scores and their exponentials with the very operations of the forward row: in one module XLA
 * merges them.
 *
 * What a query does not see must not reach it, NaN and infinities included, and a product multiplies them by 0. So the
 * products are first taken as if all were finite; only where a result is not, a branch takes them again, of the values
 * that are finite. */
#include "engine/pjrt/hlo.h"
#include <math.h>

/* Which query sees which key: those at or before its index (causal), those that the mask (bool, (b, t)) shows (masked);
   none where it does not count (bool, (b, g, s, r)). */
typedef struct {
    bool causal, masked, counted;
    mth__hlo_val query, key, mask, counts;
} sight;
static sight look(mth__hlo_call *c, const mth__hlo_operand *mask) {
    mth__hlo *h = c->h;
    sight s = {.causal = c->attrs->causal, .masked = mask};
    if (s.causal) {
        s.query = mth__hlo_index(h, c->in[0].part, 1);
        s.key = mth__hlo_index(h, c->in[1].part, 1);
    }
    if (mask) s.mask = mth__hlo_not_zero(h, mask->v);
    return s;
}
/* x[b,g,s,r,t] where the query sees the key, else `hidden`. */
static mth__hlo_val seen_or(mth__hlo *h, const sight *s, mth__hlo_val x, double hidden) {
    mth__hlo_val seen[3];
    int n = 0;
    if (s->causal) {
        const mth__shape square = {2, {x.shape.dim[2], x.shape.dim[4]}};
        mth__hlo_val query = mth__hlo_broadcast(h, s->query, square, (int[]){0}),
                     key = mth__hlo_broadcast(h, s->key, square, (int[]){1});
        seen[n++] = mth__hlo_broadcast(h, mth__hlo_compare(h, "LE", key, query), x.shape, (int[]){2, 4});
    }
    if (s->masked) seen[n++] = mth__hlo_broadcast(h, s->mask, x.shape, (int[]){0, 4});
    if (s->counted) seen[n++] = mth__hlo_broadcast(h, s->counts, x.shape, (int[]){0, 1, 2, 3});
    for (int i = 1; i < n; i++) seen[0] = mth__hlo_binary(h, "and", seen[0], seen[i]);
    return n ? mth__hlo_select(h, seen[0], x, mth__hlo_splat(h, x.dtype, x.shape, hidden)) : x;
}

/* Of the operands q[b,s,g,r,d], k[b,t,g,d]: scores[b,g,s,r,t], -inf where the query does not see the key. The queries
   are scaled, not the
   product: XLA would round score - most once, and where scores are large it is then above 0 for the largest. */
static mth__hlo_val scores(mth__hlo_call *c, const sight *s) {
    const int qbatch[] = {0, 2}, qsum[] = {4}, ksum[] = {3};
    mth__hlo_val q = mth__hlo_binary_scalar(c->h, "multiply", c->in[0].v, c->attrs->scale);
    return seen_or(c->h, s, mth__hlo_dot(c->h, q, c->in[1].v, 2, qbatch, qbatch, 1, qsum, ksum), -INFINITY);
}
static mth__hlo_val of_rows(mth__hlo *h, mth__hlo_val by, mth__shape to) {
    return mth__hlo_broadcast(h, by, to, (int[]){0, 1, 2, 3});
}
/* x with `value` where it is `not`. */
static mth__hlo_val replace(mth__hlo *h, mth__hlo_val x, double not, double value) {
    mth__hlo_val is = mth__hlo_compare(h, "EQ", x, mth__hlo_splat(h, x.dtype, x.shape, not));
    return mth__hlo_select(h, is, mth__hlo_splat(h, x.dtype, x.shape, value), x);
}
/* exp(scores - most[b,g,s,r]). Queries that see no key have -inf there. */
static mth__hlo_val exp_minus(mth__hlo *h, mth__hlo_val x, mth__hlo_val most) {
    most = replace(h, most, -INFINITY, 0);
    return mth__hlo_unary(h, "exponential", mth__hlo_binary(h, "subtract", x, of_rows(h, most, x.shape)));
}
/* rank 4 or 5 */
static mth__hlo_val swap12(mth__hlo *h, mth__hlo_val x) { return mth__hlo_transpose(h, x, (int[]){0, 2, 1, 3, 4}); }

/* Whether all that the results really hold is finite; x[i] is result i with its dimensions 1 and 2 swapped. A product
   with a column of small numbers, which no finite value overflows, is the fastest sum that keeps what is not. */
static mth__hlo_val all_finite(mth__hlo_call *c, int n, const mth__hlo_val *x) {
    mth__hlo *h = c->h;
    mth__hlo_val all = {0};
    for (int i = 0; i < n; i++) {
        const int last = x[i].shape.rank - 1;
        const unsigned dims = (1u << last) - 1;
        mth__hlo_val y = x[i], small = mth__hlo_splat(h, y.dtype, (mth__shape){1, {y.shape.dim[last]}}, 0x1p-100);
        if (mth__hlo_is_padded(c->out[i].part, dims))
            y = swap12(h, mth__hlo_fill_padding(h, swap12(h, y), c->out[i].part, dims, 0));
        y = mth__hlo_dot(h, y, small, 0, NULL, NULL, 1, &last, (int[]){0});
        y = mth__hlo_reduce(h, "and",
            mth__hlo_compare(h, "LT", mth__hlo_unary(h, "abs", y), mth__hlo_splat(h, y.dtype, y.shape, INFINITY)), dims,
            false);
        all = i ? mth__hlo_binary(h, "and", all, y) : y;
    }
    return all;
}
/* The sum of a[b,g,s,r,t] * x over keys, x[b,t,g,*] -> [b,g,s,r,*], or over queries, x[b,s,g,r,*] -> [b,g,t,*]. */
static mth__hlo_val product(mth__hlo *h, bool over_keys, mth__hlo_val a, mth__hlo_val x) {
    const int bg[] = {0, 1}, b_g[] = {0, 2}, rows[] = {2, 3}, s_r[] = {1, 3}, keys[] = {4}, t[] = {1};
    return over_keys ? mth__hlo_dot(h, a, x, 2, bg, b_g, 1, keys, t) : mth__hlo_dot(h, a, x, 2, bg, b_g, 2, rows, s_r);
}
typedef struct {
    bool over_keys;
    mth__hlo_val a, x, y;
} taken_product; /* y: the product */
/* y of those that see each other alone, whatever the others are: the product of what is finite; but y itself where a
   value that is not is seen, so that it shows. */
static mth__hlo_val of_seen(mth__hlo *h, const sight *s, const taken_product *p) {
    const mth__hlo_val x = p->x, a = p->a, zero = mth__hlo_splat(h, x.dtype, x.shape, 0),
                       one = mth__hlo_splat(h, x.dtype, x.shape, 1);
    mth__hlo_val finite =
        mth__hlo_compare(h, "LT", mth__hlo_unary(h, "abs", x), mth__hlo_splat(h, x.dtype, x.shape, INFINITY));
    mth__hlo_val y = product(h, p->over_keys, seen_or(h, s, a, 0), mth__hlo_select(h, finite, x, zero));
    mth__hlo_val odd = product(h, p->over_keys, seen_or(h, s, mth__hlo_splat(h, a.dtype, a.shape, 1), 0),
        mth__hlo_select(h, finite, zero, one));
    return mth__hlo_select(h, mth__hlo_compare(h, "EQ", odd, mth__hlo_splat(h, odd.dtype, odd.shape, 0)), y, p->y);
}

typedef struct {
    const sight *s;
    taken_product o;
} forward;
static void attend_to_seen(mth__hlo *h, const void *arguments, mth__hlo_val *out) {
    const forward *f = arguments;
    *out = of_seen(h, f->s, &f->o);
}
void mth__hlo_attention(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const sight s = look(c, c->nin > 3 ? &c->in[3] : NULL);
    mth__hlo_val x = scores(c, &s), most = mth__hlo_reduce(h, "maximum", x, 1u << 4, false), p = exp_minus(h, x, most),
                 sum = mth__hlo_reduce(h, "add", p, 1u << 4, false), v = c->in[2].v;
    const forward f = {&s, {true, p, v, product(h, true, p, v)}};
    mth__hlo_val o = f.o.y;
    if (s.causal || s.masked) mth__hlo_if(h, all_finite(c, 1, &f.o.y), 1, &f.o.y, attend_to_seen, &f, &o);
    c->out[0].v = swap12(h, mth__hlo_binary(h, "divide", o, of_rows(h, replace(h, sum, 0, 1), o.shape)));
    c->out[1].v = swap12(h, most);
    c->out[2].v = swap12(h, sum);
}

/* p is not divided by the sum of the softmax; what it is multiplied by is: dout_over, and over_sum[b,g,s,r] in ds. */
typedef struct {
    const sight *s;
    mth__hlo_val p, dp, over_sum, q, k, dout, dout_over, y[3];
    double scale;
} backward;
/* The sum over keys of p * dp is that of the very p and dp, not do * o: a query that gives all to one key then has a ds
   of exactly 0, which large keys do not blow up. */
static mth__hlo_val ds_of(mth__hlo *h, const backward *f, mth__hlo_val dp) {
    mth__hlo_val delta = mth__hlo_reduce(h, "add", mth__hlo_binary(h, "multiply", f->p, dp), 1u << 4, false);
    delta = mth__hlo_binary(h, "multiply", delta, f->over_sum);
    mth__hlo_val ds =
        mth__hlo_binary(h, "multiply", f->p, mth__hlo_binary(h, "subtract", dp, of_rows(h, delta, dp.shape)));
    return mth__hlo_binary(
        h, "multiply", ds, of_rows(h, mth__hlo_binary_scalar(h, "multiply", f->over_sum, f->scale), dp.shape));
}
/* ds is written again: handed to the branch it would have to be stored, for nothing. A query whose do is 0 does not
   count: nobody asks what it says. */
static void gradients_of_seen(mth__hlo *h, const void *arguments, mth__hlo_val *out) {
    const backward *f = arguments;
    sight s = *f->s;
    mth__hlo_val asked = mth__hlo_compare(h, "NE", f->dout, mth__hlo_splat(h, f->dout.dtype, f->dout.shape, 0));
    s.counts = swap12(h, mth__hlo_reduce(h, "or", asked, 1u << 4, false));
    s.counted = true;
    mth__hlo_val ds = ds_of(h, f, seen_or(h, &s, f->dp, 0));
    out[0] = of_seen(h, &s, &(taken_product){true, ds, f->k, f->y[0]});
    out[1] = of_seen(h, &s, &(taken_product){false, ds, f->q, f->y[1]});
    out[2] = of_seen(h, &s, &(taken_product){false, f->p, f->dout_over, f->y[2]});
}
void mth__hlo_attention_grad(mth__hlo_call *c) { /* q, k, v, o, most, sum, do, mask? -> dq, dk, dv */
    mth__hlo *h = c->h;
    const sight s = look(c, c->nin > 7 ? &c->in[7] : NULL);
    const mth__hlo_val dout = c->in[6].v, sum = replace(h, c->in[5].v, 0, 1);
    backward f = {.s = &s, .q = c->in[0].v, .k = c->in[1].v, .dout = dout, .scale = c->attrs->scale};
    f.p = exp_minus(h, scores(c, &s), swap12(h, c->in[4].v));
    f.over_sum = swap12(h, mth__hlo_binary(h, "divide", mth__hlo_splat(h, sum.dtype, sum.shape, 1), sum));
    f.dp = mth__hlo_dot(h, dout, c->in[2].v, 2, (int[]){0, 2}, (int[]){0, 2}, 1, (int[]){4}, (int[]){3});
    f.dout_over = mth__hlo_binary(h, "divide", dout, of_rows(h, sum, dout.shape));
    const mth__hlo_val ds = ds_of(h, &f, f.dp);
    f.y[0] = product(h, true, ds, f.k);
    f.y[1] = product(h, false, ds, f.q);
    f.y[2] = product(h, false, f.p, f.dout_over);
    mth__hlo_val out[3];
    mth__hlo_if(h, all_finite(c, 3, f.y), 3, f.y, gradients_of_seen, &f, out);
    for (int i = 0; i < 3; i++) c->out[i].v = swap12(h, out[i]);
}
