/* attention and its gradient. Two ways, chosen by measurement (torch 2.13, one thread of an x86 machine with AVX2):
 *
 * - The kernel behind torch's scaled_dot_product_attention of CPUs, in blocks, where its answer is as exact as sums of
 *   float32 can be. It takes a third to two thirds of the time of products and exponentials of its own: (batch, heads,
 *   length, width) = (4, 8, 512, 64): 34 ms against 67 and 97 against 175 with gradients, causal (1, 12, 1024, 64): 38
 *   against 52 and 97 against 115.
 * - Else products over blocks of queries, whose scores are the only large array.
 *
 * The kernel returns the logarithm of a query's sum of exponentials, which is its `most`, and its `sum` is 1: the sum
 * of exp(score) is sum * exp(most) by either way. A logarithm near 40 is rounded by 2e-6, and so are all probabilities
 * of its query; near 1e7 it is rounded by 1, and equal keys no longer share a query. So the gradient goes by the kernel
 * where logarithms lie within LARGEST, which adds an error of 1e-6, and else takes the maximum and the sum of the
 * scores anew. The output needs no such bound: the kernel keeps the two apart while it runs.
 *
 * What a query does not see must not reach it, NaN and infinities included. The kernel adds -inf to hidden scores and
 * multiplies hidden values by 0, so what is hidden reaches a result as NaN, never as a number. Where a result is not
 * finite, the blocks compute it again with care. */
#include "engine/torch/torch_rows.h"
#include <math.h>

/* The kernel adds up all keys in one chain: 2^14 equal values give an error of 2e-4, as torch's products do. */
enum { LARGEST = 32, MOST_KEYS = 1 << 14 };
/* Scores of a block, keys whose terms are added in one chain in longer sums, queries of a block. */
enum { SCORES = 1 << 20, CHAIN = 256, LEAST_QUERIES = 32, MOST_QUERIES = 256 };
enum { KEPT_BIAS, KEPT_LAST };

typedef struct {
    mth__torch_call *call;
    int64_t batches, queries, groups, heads, width, keys, value_width;
    /* How many of the keys, from the first, the first query sees, and the last one. far is 0 where there is no key, or
       no query. */
    int64_t near, far;
    mth_dtype dtype; /* of the arithmetic */
    mth__tensor q, k, v;
    mth__tensor shown; /* bool [b, t]; NULL: the mask hides nothing */
} attention;

/* ---------------------------------------------------------------- short names of calls */
static mth__tensor narrow(mth__torch_call *call, mth__tensor x, int d, int64_t from, int64_t count) {
    return ATEN(call, narrow, TENSOR(x), INTEGER(d), INTEGER(from), INTEGER(count));
}
static mth__tensor permute(mth__torch_call *call, mth__tensor x, int rank, const int64_t *order) {
    return ATEN(call, permute, TENSOR(x), INTEGERS(order, rank));
}
static mth__tensor reshape(mth__torch_call *call, mth__tensor x, mth__shape shape) {
    return ATEN(call, reshape, TENSOR(x), INTEGERS(shape.dim, shape.rank));
}
static mth__tensor swap12(mth__torch_call *call, mth__tensor x) { /* rank 3 */
    return ATEN(call, transpose, TENSOR(x), INTEGER(1), INTEGER(2));
}
static mth__tensor number(const attention *a, double value) { return mth__torch_number(a->call, a->dtype, value); }
static mth__tensor where(const attention *a, mth__tensor condition, mth__tensor x, double otherwise) {
    return ATEN(a->call, where, TENSOR(condition), TENSOR(x), TENSOR(number(a, otherwise)));
}
/* Over the last dimension, which stays as 1. */
static mth__tensor sum_of_rows(mth__torch_call *call, mth__tensor x) {
    return ATEN(call, sum, TENSOR(x), DIMENSION(-1), BOOL(true), NONE);
}
static mth__tensor in_dtype(const attention *a, mth__torch_operand *x) {
    if (x->dtype == a->dtype) return x->tensor;
    return ATEN(a->call, to_dtype, TENSOR(x->tensor), DTYPE(a->dtype), BOOL(false), BOOL(false), NONE);
}
static mth__tensor finite_or_zero(const attention *a, mth__tensor x) {
    return where(a, ATEN(a->call, isfinite, TENSOR(x)), x, 0);
}
/* Where it is, so is all of the tensor. */
static bool sum_is_finite(mth__torch_call *call, mth__tensor x) {
    return isfinite(mth__torch_read_real(call, ATEN(call, sum, TENSOR(x), NONE, BOOL(false), NONE)));
}

/* ---------------------------------------------------------------- who sees whom */
/* How many of the keys, from the first, query i may see. No device has a part of the keys alone: they begin at 0. */
static int64_t visible(const attention *a, int64_t i) {
    const mth__torch_operand *q = a->call->in[0];
    const int64_t seen = a->call->attrs->causal ? q->start[1] + i * q->step[1] + 1 : a->keys;
    return seen < a->keys ? seen : a->keys;
}
static attention look(mth__torch_call *call, int mask) {
    const int64_t *q = call->in[0]->shape.dim, *v = call->in[2]->shape.dim;
    attention a = {.call = call,
        .batches = q[0],
        .queries = q[1],
        .groups = q[2],
        .heads = q[3],
        .width = q[4],
        .keys = v[1],
        .value_width = v[3],
        .dtype = mth__dtypes[call->in[0]->dtype].sums};
    a.near = visible(&a, 0);
    a.far = a.queries ? visible(&a, a.queries - 1) : 0;
    if (!a.batches || !a.groups || !a.heads) a.far = 0;
    for (int j = 0; j < 3; j++) *(mth__tensor *[]){&a.q, &a.k, &a.v}[j] = in_dtype(&a, call->in[j]);
    if (call->nin > mask && a.keys)
        a.shown = ATEN(call, ne, TENSOR(call->in[mask]->tensor), TENSOR(mth__torch_whole(call, 0)));
    return a;
}
/* The last key that each query may see: int64 [s] */
static mth__tensor last_keys(const attention *a) {
    mth__torch_call *call = a->call;
    if (call->kept[KEPT_LAST]) return call->kept[KEPT_LAST];
    mth__tensor made = mth__torch_empty(call, MTH_INT64, (mth__shape){1, {a->queries}});
    int64_t *last = mth__torch_host(call, made);
    for (int64_t i = 0; last && i < a->queries; i++) last[i] = visible(a, i) - 1;
    return mth__torch_keep(call, KEPT_LAST, made);
}
/* bool [b, s, 1, 1], which queries see a key, dimensions of 1 where it is the same for all; NULL: all of them. */
static mth__tensor sees_any(const attention *a) {
    mth__torch_call *call = a->call;
    if (!a->shown) return NULL;
    mth__tensor seen = ATEN(call, cumsum, TENSOR(a->shown), INTEGER(1), DTYPE(MTH_INT64));
    if (call->attrs->causal) {
        seen = ATEN(call, index_select, TENSOR(seen), INTEGER(1), TENSOR(last_keys(a)));
    } else {
        seen = narrow(call, seen, 1, a->keys - 1, 1);
    }
    seen = ATEN(call, gt, TENSOR(seen), TENSOR(mth__torch_whole(call, 0)));
    return reshape(call, seen, (mth__shape){4, {a->batches, call->attrs->causal ? a->queries : 1, 1, 1}});
}
/* bool [b, 1, 1, s, n], what the `queries` from the first on do not see of the first n keys, in batches from b on;
   dimensions of 1 where it is the same for all. NULL: nothing. */
typedef struct {
    int64_t batch, batches, query, queries, keys;
} query_block;
static mth__tensor hidden_from(const attention *a, const query_block *of) {
    mth__torch_call *call = a->call;
    mth__tensor hidden = NULL;
    if (visible(a, of->query) < of->keys) {
        mth__tensor key = mth__torch_range(call, 0, of->keys, 1),
                    last = narrow(call, last_keys(a), 0, of->query, of->queries);
        last = reshape(call, last, (mth__shape){2, {of->queries, 1}});
        hidden = ATEN(call, gt, TENSOR(key), TENSOR(last));
        hidden = reshape(call, hidden, (mth__shape){5, {1, 1, 1, of->queries, of->keys}});
    }
    if (!a->shown) return hidden;
    mth__tensor shown = narrow(call, narrow(call, a->shown, 0, of->batch, of->batches), 1, 0, of->keys);
    mth__tensor masked = ATEN(call, logical_not, TENSOR(shown));
    masked = reshape(call, masked, (mth__shape){5, {of->batches, 1, 1, 1, of->keys}});
    return hidden ? ATEN(call, logical_or, TENSOR(hidden), TENSOR(masked)) : masked;
}
static void hide(const attention *a, mth__tensor hidden, mth__tensor x, double value) {
    if (hidden) ATEN(a->call, masked_fill_, TENSOR(x), TENSOR(hidden), TENSOR(number(a, value)));
}

/* ---------------------------------------------------------------- by torch's kernel */
static bool fits_kernel(const attention *a) {
    /* heads that share keys: from this release on the kernel takes them as they are */
    return a->width == a->value_width && a->width > 0 && a->keys <= MOST_KEYS &&
        (a->heads == 1 || a->call->library->version >= 213);
}
/* The first `shown` positions of x[b, length, heads, width] as the kernel takes them, [b, heads, shown, width]. */
static mth__tensor by_head(
    const attention *a, mth__tensor x, int64_t length, int64_t shown, int64_t heads, int64_t width) {
    const int64_t stride[] = {length * heads * width, width, heads * width, 1};
    return mth__torch_view(a->call, x, (mth__shape){4, {a->batches, heads, shown, width}}, stride, 0);
}
/* Statistics [b, s, heads] likewise: [b, heads, s]. */
static mth__tensor statistics_by_head(const attention *a, mth__tensor x) {
    const int64_t heads = a->groups * a->heads, stride[] = {a->queries * heads, 1, heads};
    return mth__torch_view(a->call, x, (mth__shape){3, {a->batches, heads, a->queries}}, stride, 0);
}
/* What the kernel makes as [b, heads, s, d] lies as [b, s, heads, d]. */
static mth__tensor by_position(const attention *a, mth__tensor x, mth__shape shape) {
    x = ATEN(a->call, transpose, TENSOR(x), INTEGER(1), INTEGER(2));
    return reshape(a->call, x, shape);
}

/* How the kernel is told what is hidden: `causal`: query i sees the keys to i; `bias`: what is added to the scores. */
typedef struct {
    bool causal;
    int64_t keys; /* those behind them are seen by no query */
    mth__torch_argument bias, scale;
} kernel_mask;
static kernel_mask kernel_mask_of(const attention *a) {
    mth__torch_call *call = a->call;
    kernel_mask mask = {.keys = a->far, .scale = REAL(call->attrs->scale)};
    const bool partly = a->near < a->far;
    mask.causal = partly && call->in[0]->start[1] == 0 && call->in[0]->step[1] == 1;
    mth__tensor bias = NULL;
    if (partly && !mask.causal) {
        bias = call->kept[KEPT_BIAS];
        if (!bias) {
            attention all = *a;
            all.shown = NULL;
            mth__tensor hidden = hidden_from(&all, &(query_block){0, a->batches, 0, a->queries, a->far});
            hidden = reshape(call, hidden, (mth__shape){4, {1, 1, a->queries, a->far}});
            bias = where(a, ATEN(call, logical_not, TENSOR(hidden)), number(a, 0), -INFINITY);
            mth__torch_keep(call, KEPT_BIAS, bias);
        }
    }
    if (a->shown) {
        mth__tensor shown = narrow(call, a->shown, 1, 0, a->far);
        shown = reshape(call, shown, (mth__shape){4, {a->batches, 1, 1, a->far}});
        bias = where(a, shown, bias ? bias : number(a, 0), -INFINITY);
    }
    if (bias) mask.bias = TENSOR(bias);
    return mask;
}

/* Returns false where a result is not finite. */
static bool attend_by_kernel(const attention *a) {
    mth__torch_call *call = a->call;
    const int64_t heads = a->groups * a->heads;
    const kernel_mask mask = kernel_mask_of(a);
    mth__tensor made[2], q = by_head(a, a->q, a->queries, a->queries, heads, a->width),
                         k = by_head(a, a->k, a->keys, mask.keys, a->groups, a->width),
                         v = by_head(a, a->v, a->keys, mask.keys, a->groups, a->width);
    ATEN_ALL(
        call, attention_cpu, made, TENSOR(q), TENSOR(k), TENSOR(v), REAL(0), BOOL(mask.causal), mask.bias, mask.scale);
    if (!sum_is_finite(call, made[0]) || !sum_is_finite(call, made[1])) return false;
    mth__torch_result(call, 0, by_position(a, made[0], call->out[0]->shape));
    mth__tensor most = by_position(a, made[1], call->out[1]->shape), seen = sees_any(a);
    if (seen) {
        mth__torch_result(call, 1, where(a, seen, most, -INFINITY));
        ATEN(call, copy_, TENSOR(mth__torch_room(call, 2)), TENSOR(seen), BOOL(false));
    } else {
        mth__torch_result(call, 1, most);
        ATEN(call, fill_, TENSOR(mth__torch_room(call, 2)), TENSOR(number(a, 1)));
    }
    return true;
}

/* The gradients of keys or values are those of the first `count`, which alone are seen by a query. */
static void put_keys(const attention *a, int result, mth__tensor x, int64_t count) {
    mth__torch_call *call = a->call;
    if (count == a->keys) {
        mth__torch_result(call, result, x);
        return;
    }
    mth__tensor room = mth__torch_room(call, result);
    ATEN(call, zero_, TENSOR(room));
    ATEN(call, copy_, TENSOR(narrow(call, room, 1, 0, count)), TENSOR(x), BOOL(false));
}
/* Are the logarithms within LARGEST? */
static bool are_small(const attention *a, mth__tensor logarithm) {
    mth__torch_call *call = a->call;
    mth__tensor square = ATEN(call, mul, TENSOR(logarithm), TENSOR(logarithm));
    const double largest = mth__torch_read_real(call, ATEN(call, amax, TENSOR(square), INTEGERS(NULL, 0), BOOL(false)));
    return largest <= LARGEST * LARGEST;
}
/* most + log(sum), 0 of queries that see no key */
static mth__tensor logarithms(const attention *a) {
    mth__torch_call *call = a->call;
    mth__tensor most = call->in[4]->tensor, sum = call->in[5]->tensor;
    mth__tensor logarithm = mth__torch_add(call, most, ATEN(call, log, TENSOR(sum)), 1, NULL);
    return where(a, ATEN(call, ne, TENSOR(sum), TENSOR(number(a, 0))), logarithm, 0);
}
static bool attend_grad_by_kernel(const attention *a, mth__tensor logarithm) {
    mth__torch_call *call = a->call;
    const int64_t heads = a->groups * a->heads;
    const kernel_mask mask = kernel_mask_of(a);
    mth__tensor made[3], q = by_head(a, a->q, a->queries, a->queries, heads, a->width),
                         k = by_head(a, a->k, a->keys, mask.keys, a->groups, a->width),
                         v = by_head(a, a->v, a->keys, mask.keys, a->groups, a->width),
                         o = by_head(a, in_dtype(a, call->in[3]), a->queries, a->queries, heads, a->width),
                         dout = by_head(a, in_dtype(a, call->in[6]), a->queries, a->queries, heads, a->width);
    ATEN_ALL(call, attention_cpu_backward, made, TENSOR(dout), TENSOR(q), TENSOR(k), TENSOR(v), TENSOR(o),
        TENSOR(statistics_by_head(a, logarithm)), REAL(0), BOOL(mask.causal), mask.bias, mask.scale);
    for (int i = 0; i < 3; i++)
        if (!sum_is_finite(call, made[i])) return false;
    mth__shape keys = call->out[1]->shape;
    keys.dim[1] = mask.keys;
    mth__torch_result(call, 0, by_position(a, made[0], call->out[0]->shape));
    put_keys(a, 1, by_position(a, made[1], keys), mask.keys);
    put_keys(a, 2, by_position(a, made[2], keys), mask.keys);
    return true;
}

/* ---------------------------------------------------------------- by blocks of queries */
/* The block at (batch, query) of as many of each as its scores have room for. */
static query_block block_at(const attention *a, int64_t batch, int64_t query) {
    const int64_t heads = a->groups * a->heads, of_query = heads * a->far;
    int64_t batches = 8 * SCORES / (of_query * LEAST_QUERIES), queries;
    batches = batches < 1 ? 1 : batches < a->batches - batch ? batches : a->batches - batch;
    queries = SCORES / (of_query * batches);
    queries = queries < LEAST_QUERIES ? LEAST_QUERIES : queries > MOST_QUERIES ? MOST_QUERIES : queries;
    if (queries > a->queries - query) queries = a->queries - query;
    return (query_block){batch, batches, query, queries, visible(a, query + queries - 1)};
}
static int64_t rows_of(const attention *a, const query_block *of) { return a->heads * of->queries; }
/* The block's part of x[b, s, g, r, ...]. */
static mth__tensor cut(const attention *a, const query_block *of, mth__tensor x) {
    return narrow(a->call, narrow(a->call, x, 0, of->batch, of->batches), 1, of->query, of->queries);
}
/* x[b, s, g, r, d] as [b * g, r * s, d], copied; that of statistics x[b, s, g, r]: d is 1. */
static mth__tensor by_group(const attention *a, const query_block *of, mth__tensor x, int64_t width) {
    mth__torch_call *call = a->call;
    x = mth__torch_shape(call, x).rank == 5 ? permute(call, x, 5, (int64_t[]){0, 2, 3, 1, 4})
                                            : permute(call, x, 4, (int64_t[]){0, 2, 3, 1});
    return reshape(call, x, (mth__shape){3, {of->batches * a->groups, rows_of(a, of), width}});
}
/* And back, into the block's part of `to`. */
static void put(const attention *a, const query_block *of, mth__tensor x, mth__tensor to, int64_t width) {
    mth__torch_call *call = a->call;
    x = reshape(call, x, (mth__shape){5, {of->batches, a->groups, a->heads, of->queries, width}});
    x = permute(call, x, 5, (int64_t[]){0, 3, 1, 2, 4});
    to = cut(a, of, to);
    if (mth__torch_shape(call, to).rank == 4) x = ATEN(call, squeeze, TENSOR(x), INTEGER(4));
    ATEN(call, copy_, TENSOR(to), TENSOR(x), BOOL(false));
}
/* x[b, t, g, d] as [b * g, t, d], copied. */
static mth__tensor keys_by_group(const attention *a, mth__tensor x, int64_t width) {
    x = permute(a->call, x, 4, (int64_t[]){0, 2, 1, 3});
    return reshape(a->call, x, (mth__shape){3, {a->batches * a->groups, a->keys, width}});
}
static mth__tensor cut_keys(const attention *a, const query_block *of, mth__tensor x) {
    x = narrow(a->call, x, 0, of->batch * a->groups, of->batches * a->groups);
    return narrow(a->call, x, 1, 0, of->keys);
}
static mth__tensor as_scores(const attention *a, const query_block *of, mth__tensor x) {
    return reshape(a->call, x, (mth__shape){5, {of->batches, a->groups, a->heads, of->queries, of->keys}});
}
static mth__tensor product(const attention *a, mth__tensor x, mth__tensor y) {
    return ATEN(a->call, bmm, TENSOR(x), TENSOR(y));
}
/* The product over keys: in pieces where one chain of terms would lose too much. */
static mth__tensor over_keys(const attention *a, const query_block *of, mth__tensor x, mth__tensor y) {
    mth__torch_call *call = a->call;
    if (a->keys <= MOST_KEYS) return product(a, x, y);
    mth__tensor sum = NULL;
    for (int64_t at = 0; at < of->keys && !call->status; at += CHAIN) {
        const int64_t count = of->keys - at < CHAIN ? of->keys - at : CHAIN;
        const int mark = mth__torch_mark(call);
        mth__tensor term = product(a, narrow(call, x, 2, at, count), narrow(call, y, 1, at, count));
        if (!sum)
            sum = term;
        else {
            mth__torch_add(call, sum, term, 1, sum);
            mth__torch_drop_since(call, mark);
        }
    }
    return sum;
}
/* By row: 0 where all of it is finite, else NaN. */
static mth__tensor marks_of(const attention *a, mth__tensor x) {
    return sum_of_rows(a->call, ATEN(a->call, mul, TENSOR(x), TENSOR(number(a, 0))));
}
/* Keys with NaN where the value holds what is not finite: a query that sees it gets NaN by its scores, and values can
   be made finite. */
static mth__tensor speaking_keys(const attention *a) {
    mth__torch_call *call = a->call;
    return mth__torch_add(call, a->k, marks_of(a, a->v), 1, NULL);
}
/* Scores[b * g, r * s, t] of scaled queries; -inf where hidden. */
static mth__tensor scores(const attention *a, const query_block *of, mth__tensor q, mth__tensor k, mth__tensor hidden) {
    mth__tensor x = product(a, q, swap12(a->call, cut_keys(a, of, k)));
    hide(a, hidden, as_scores(a, of, x), -INFINITY);
    return x;
}
static mth__tensor scaled_queries(const attention *a, const query_block *of, mth__tensor q) {
    q = ATEN(a->call, mul, TENSOR(cut(a, of, q)), TENSOR(number(a, a->call->attrs->scale)));
    return by_group(a, of, q, a->width);
}
/* exp(x - most), in place of x; `most` of -inf counts as 0 */
static void exponentials(const attention *a, mth__tensor x, mth__tensor most) {
    mth__torch_call *call = a->call;
    most = where(a, ATEN(call, ne, TENSOR(most), TENSOR(number(a, -INFINITY))), most, 0);
    mth__torch_add(call, x, most, -1, x);
    ATEN(call, exp_out, TENSOR(x), TENSOR(x));
}
static mth__tensor largest_of_rows(mth__torch_call *call, mth__tensor x) {
    return ATEN(call, amax, TENSOR(x), DIMENSION(-1), BOOL(true));
}
static mth__tensor one_where_zero(const attention *a, mth__tensor sum) {
    return where(a, ATEN(a->call, ne, TENSOR(sum), TENSOR(number(a, 0))), sum, 1);
}

/* A row of scores with NaN gives NaN alone, and no other row: no more care is needed. */
static void attend_block(const attention *a, const query_block *of, mth__tensor k, mth__tensor v, mth__tensor *out) {
    mth__torch_call *call = a->call;
    mth__tensor x = scores(a, of, scaled_queries(a, of, a->q), k, hidden_from(a, of)), most = largest_of_rows(call, x);
    exponentials(a, x, most);
    mth__tensor sum = sum_of_rows(call, x), o = over_keys(a, of, x, cut_keys(a, of, v));
    put(a, of, ATEN(call, div, TENSOR(o), TENSOR(one_where_zero(a, sum))), out[0], a->value_width);
    put(a, of, most, out[1], 1);
    put(a, of, sum, out[2], 1);
}
/* Memory of the dtype of the arithmetic for a result. */
static mth__tensor wide_room(const attention *a, int result) {
    return mth__torch_empty(a->call, a->dtype, a->call->out[result]->shape);
}
static void attend_in_blocks(const attention *a) {
    mth__torch_call *call = a->call;
    mth__tensor k = keys_by_group(a, speaking_keys(a), a->width),
                v = keys_by_group(a, finite_or_zero(a, a->v), a->value_width), out[3];
    for (int i = 0; i < 3; i++) out[i] = wide_room(a, i);
    query_block of = {0};
    for (int64_t batch = 0; batch < a->batches && !call->status; batch += of.batches)
        for (int64_t query = 0; query < a->queries && !call->status; query += of.queries) {
            const int mark = mth__torch_mark(call);
            of = block_at(a, batch, query);
            attend_block(a, &of, k, v, out);
            mth__torch_drop_since(call, mark);
        }
    for (int i = 0; i < 3; i++) mth__torch_result(call, i, out[i]);
}

typedef struct {
    mth__tensor q, k, clean_k, v, dout; /* k: with NaN where it or its value speaks, where there is need for care */
    mth__tensor marks, asked;           /* by query, with care: 0, or NaN; whether its gradient is not 0 */
    mth__tensor dq, dk, dv;
    bool anew, careful;
} gradient;
/* With care: rows of queries that see NaN are NaN where they see a key and 0 elsewhere, and queries whose gradient is 0
   have 0 alone, so that products over queries hand on to each key what is its own. */
static void attend_grad_block(const attention *a, const query_block *of, const gradient *g) {
    mth__torch_call *call = a->call;
    mth__tensor hidden = hidden_from(a, of), q = scaled_queries(a, of, g->q), x = scores(a, of, q, g->k, hidden), most,
                sum;
    if (g->anew) {
        exponentials(a, x, largest_of_rows(call, x));
        sum = sum_of_rows(call, x);
    } else {
        most = by_group(a, of, cut(a, of, call->in[4]->tensor), 1);
        sum = by_group(a, of, cut(a, of, call->in[5]->tensor), 1);
        exponentials(a, x, most);
    }
    /* Not the exponentials are divided by their sum, but what they are multiplied by. */
    mth__tensor over_sum = ATEN(call, reciprocal, TENSOR(one_where_zero(a, sum)));
    if (g->careful) {
        mth__tensor mark = ATEN(call, mul, TENSOR(over_sum), TENSOR(number(a, 0))),
                    asked = by_group(a, of, cut(a, of, g->asked), 1);
        mark = mth__torch_add(call, mark, by_group(a, of, cut(a, of, g->marks), 1), 1, NULL);
        mth__torch_add(call, x, mark, 1, x);
        hide(a, ATEN(call, logical_not, TENSOR(asked)), x, 0);
        hide(a, hidden, as_scores(a, of, x), 0);
        over_sum = finite_or_zero(a, over_sum);
    }
    mth__tensor dout = by_group(a, of, cut(a, of, g->dout), a->value_width);
    dout = ATEN(call, mul, TENSOR(dout), TENSOR(over_sum));
    mth__torch_product(call, swap12(call, x), dout, 3, 1, cut_keys(a, of, g->dv));
    mth__tensor dp = product(a, dout, swap12(call, cut_keys(a, of, g->v)));
    if (g->careful) hide(a, hidden, as_scores(a, of, dp), 0); /* it may have overflowed */
    /* The sum over keys of p * dp is that of the very p and dp, not dout * o: a query that gives all to one key then
       has a ds of exactly 0, which large keys do not blow up. */
    mth__tensor delta = sum_of_rows(call, ATEN(call, mul, TENSOR(x), TENSOR(dp)));
    delta = ATEN(call, mul, TENSOR(delta), TENSOR(over_sum));
    mth__torch_add(call, dp, delta, -1, dp);
    mth__tensor ds = ATEN(call, mul_out, TENSOR(dp), TENSOR(x), TENSOR(dp));
    if (g->careful) hide(a, hidden, as_scores(a, of, ds), 0);
    mth__torch_product(call, swap12(call, ds), q, 3, 1, cut_keys(a, of, g->dk));
    mth__tensor dq = over_keys(a, of, ds, cut_keys(a, of, g->clean_k));
    put(a, of, ATEN(call, mul, TENSOR(dq), TENSOR(number(a, call->attrs->scale))), g->dq, a->width);
}
static mth__tensor keys_by_position(const attention *a, mth__tensor x, int64_t width) {
    x = reshape(a->call, x, (mth__shape){4, {a->batches, a->groups, a->keys, width}});
    return permute(a->call, x, 4, (int64_t[]){0, 2, 1, 3});
}
static bool attend_grad_in_blocks(const attention *a, bool anew, bool careful) {
    mth__torch_call *call = a->call;
    const int64_t all = a->batches * a->groups;
    gradient g = {.q = a->q, .dout = in_dtype(a, call->in[6]), .anew = anew, .careful = careful};
    mth__tensor clean_v = a->v;
    if (careful) {
        g.marks = mth__torch_add(call, marks_of(a, a->q), marks_of(a, g.dout), 1, NULL);
        mth__tensor asked = ATEN(call, ne, TENSOR(g.dout), TENSOR(number(a, 0)));
        asked = ATEN(call, sum, TENSOR(asked), DIMENSION(-1), BOOL(true), NONE);
        g.asked = ATEN(call, gt, TENSOR(asked), TENSOR(mth__torch_whole(call, 0)));
        g.q = finite_or_zero(a, g.q);
        g.dout = finite_or_zero(a, g.dout);
        clean_v = finite_or_zero(a, clean_v);
    }
    g.k = keys_by_group(a, careful ? speaking_keys(a) : a->k, a->width);
    g.clean_k = careful ? finite_or_zero(a, keys_by_group(a, a->k, a->width)) : g.k;
    g.v = keys_by_group(a, clean_v, a->value_width);
    g.dq = wide_room(a, 0);
    g.dk = mth__torch_zeros(call, a->dtype, (mth__shape){3, {all, a->keys, a->width}});
    g.dv = mth__torch_zeros(call, a->dtype, (mth__shape){3, {all, a->keys, a->value_width}});
    query_block of = {0};
    for (int64_t batch = 0; batch < a->batches && !call->status; batch += of.batches)
        for (int64_t query = 0; query < a->queries && !call->status; query += of.queries) {
            const int mark = mth__torch_mark(call);
            of = block_at(a, batch, query);
            attend_grad_block(a, &of, &g);
            mth__torch_drop_since(call, mark);
        }
    const mth__tensor made[] = {g.dq, g.dk, g.dv};
    for (int i = 0; i < 3 && !careful; i++)
        if (!sum_is_finite(call, made[i])) return false;
    mth__torch_result(call, 0, g.dq);
    mth__torch_result(call, 1, keys_by_position(a, g.dk, a->width));
    mth__torch_result(call, 2, keys_by_position(a, g.dv, a->value_width));
    return true;
}

/* ---------------------------------------------------------------- rows */
void mth__torch_attention(mth__torch_call *call) { /* q, k, v, mask? -> o, most, sum */
    const attention a = look(call, 3);
    if (a.far == 0) {
        ATEN(call, zero_, TENSOR(mth__torch_room(call, 0)));
        ATEN(call, fill_, TENSOR(mth__torch_room(call, 1)), TENSOR(number(&a, -INFINITY)));
        ATEN(call, zero_, TENSOR(mth__torch_room(call, 2)));
    } else if (!fits_kernel(&a) || !attend_by_kernel(&a)) {
        attend_in_blocks(&a);
    }
}

void mth__torch_attention_grad(mth__torch_call *call) { /* q, k, v, o, most, sum, dout, mask? -> dq, dk, dv */
    const attention a = look(call, 7);
    if (a.far == 0) {
        for (int i = 0; i < 3; i++) ATEN(call, zero_, TENSOR(mth__torch_room(call, i)));
        return;
    }
    mth__tensor logarithm = logarithms(&a);
    const bool small = are_small(&a, logarithm);
    if (small && fits_kernel(&a) && attend_grad_by_kernel(&a, logarithm)) return;
    if (!attend_grad_in_blocks(&a, !small, false)) attend_grad_in_blocks(&a, !small, true);
}
