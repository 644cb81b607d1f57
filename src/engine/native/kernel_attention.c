/* attention and its gradient without the matrix of scores (Dao et al. 2022; Rabe and Staats 2021): blocks of queries meet blocks of keys,
 * with a running maximum and sum for each query. Blocks are read in place through BLAS's leading dimensions. The gradient recomputes the
 * probabilities from lse. Heads that share keys (r) share them here too: nothing is repeated in memory. */
#include "engine/native/kernel_util.h"

enum { QUERIES = 128, KEYS = 256 };
typedef struct {
    int64_t b, s, g, r, d, t, e;
    int64_t ldq, ldk, ldv, ldo;
    int64_t items, blocks;      /* forward: (b, g, r, block of queries); gradient: (b, g) and `parts` of the keys */
    int parts, part_chunks;
} plan;

static plan *new_plan(mth__arena *arena, mth__call *c) {
    plan *p = NEW(arena, plan);
    const int64_t *q = c->in[0].shape.dim;
    p->b = q[0], p->s = q[1], p->g = q[2], p->r = q[3], p->d = q[4];
    p->t = c->in[1].shape.dim[1];
    p->e = c->in[2].shape.dim[3];
    p->ldq = p->g * p->r * p->d;
    p->ldo = p->g * p->r * p->e;
    p->ldk = p->g * p->d;
    p->ldv = p->g * p->e;
    c->plan = p;
    return p;
}
/* How many of the local keys, from the first, query i sees. */
static int64_t visible(const mth__call *c, const plan *p, int64_t i) {
    if (!c->attrs->i[0]) return p->t;
    const int64_t query = c->in[0].start[1] + i * mth__step(&c->in[0], 1), away = query - c->in[1].start[1];
    return away < 0 ? 0 : mth__min64(p->t, away / mth__step(&c->in[1], 1) + 1);
}
/* 0 for keys that count, -inf for hidden ones; NULL where there is no mask. */
static const float *mask_bias(const mth__operand *mask, int64_t at, int64_t n, float *bias) {
    if (!mask) return NULL;
    for (int64_t j = 0; j < n; j++) {
        const int64_t i = at + j;
        const bool on = mask->dtype == MTH_BOOL      ? ((const uint8_t *)mask->data)[i] != 0
                        : mask->dtype == MTH_FLOAT32 ? mth__f32(mask)[i] != 0
                                                     : mth__id(mask, i) != 0;
        bias[j] = on ? 0 : -INFINITY;
    }
    return bias;
}

mth_status mth__prepare_attention(mth__arena *arena, mth__call *c) {
    plan *p = new_plan(arena, c);
    p->blocks = (p->s + QUERIES - 1) / QUERIES;
    p->items = p->b * p->g * p->r * p->blocks;
    const double pairs = (double)(p->b * p->g * p->r) * (double)p->s * (double)p->t;
    c->thread_scratch = (QUERIES * KEYS + KEYS + 2 * QUERIES) * sizeof(float);
    mth__one_phase(c, pairs * ((double)(2 * (p->d + p->e)) / 70 + 0.5) * (c->attrs->i[0] ? 0.6 : 1), p->items);
    return NULL;
}
static void attend(const mth__call *c, const plan *p, int64_t item, float *score) {
    float *bias = score + QUERIES * KEYS, *most = bias + KEYS, *sum = most + QUERIES;
    const mth__operand *mask = c->nin > 3 ? &c->in[3] : NULL;
    const int64_t s0 = item % p->blocks * QUERIES, r = item / p->blocks % p->r, g = item / p->blocks / p->r % p->g,
                  b = item / p->blocks / p->r / p->g;
    const int64_t n = mth__min64(QUERIES, p->s - s0), head = g * p->r + r, seen = visible(c, p, s0 + n - 1);
    const float *q = mth__f32(&c->in[0]) + (b * p->s + s0) * p->ldq + head * p->d;
    const float *k = mth__f32(&c->in[1]) + b * p->t * p->ldk + g * p->d, *v = mth__f32(&c->in[2]) + b * p->t * p->ldv + g * p->e;
    float *o = mth__f32(&c->out[0]) + (b * p->s + s0) * p->ldo + head * p->e,
          *lse = mth__f32(&c->out[1]) + (b * p->s + s0) * p->g * p->r + head;
    for (int64_t i = 0; i < n; i++) most[i] = -INFINITY, sum[i] = 0;
    for (int64_t t0 = 0; t0 < seen; t0 += KEYS) {
        const int64_t keys = mth__min64(KEYS, seen - t0);
        mth__gemm(false, true, n, keys, p->d, (float)c->attrs->f[0], q, p->ldq, k + t0 * p->ldk, p->ldk, 0, score, KEYS);
        const float *hide = mask_bias(mask, b * p->t + t0, keys, bias);
        for (int64_t i = 0; i < n; i++) {
            float *row = score + i * KEYS;
            const int64_t in = mth__max64(0, mth__min64(keys, visible(c, p, s0 + i) - t0));
            const float here = mth__vec->bias_max(in, row, hide), now = here > most[i] || here != here ? here : most[i];
            if (now == -INFINITY) { /* this query has seen no key yet */
                mth__vec->fill(keys, 0, row);
                continue;
            }
            const float again = t0 ? expf(most[i] - now) : 0;
            sum[i] = sum[i] * again + mth__vec->exp_sum(in, row, now);
            mth__vec->fill(keys - in, 0, row + in);
            if (t0 && again != 1) mth__vec->unary[MTH__ROW_scale](p->e, o + i * p->ldo, o + i * p->ldo, again);
            most[i] = now;
        }
        mth__gemm(false, false, n, p->e, keys, 1, score, KEYS, v + t0 * p->ldv, p->ldv, t0 ? 1 : 0, o, p->ldo);
    }
    for (int64_t i = 0; i < n; i++) {
        if (sum[i] == 0) mth__vec->fill(p->e, 0, o + i * p->ldo);
        else mth__vec->unary[MTH__ROW_scale](p->e, o + i * p->ldo, o + i * p->ldo, 1 / sum[i]);
        lse[i * p->g * p->r] = sum[i] == 0 ? -INFINITY : most[i] + logf(sum[i]);
    }
}
void mth__run_attention(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const plan *p = c->plan;
    const mth__range r = mth__chunk_of(p->items, c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++) attend(c, p, i, scratch);
}

/* ---- gradient: q, k, v, o, lse, do, mask? -> dq, dk, dv. A chunk owns dk and dv of its keys. Where (b, g) alone are too few chunks the
   keys are cut in parts too, each with its own terms of dq, summed in a second phase. */
mth_status mth__prepare_attention_grad(mth__arena *arena, mth__call *c) {
    plan *p = new_plan(arena, c);
    p->items = p->b * p->g;
    p->blocks = (p->s + QUERIES - 1) / QUERIES;
    const double pairs = (double)(p->items * p->r) * (double)p->s * (double)p->t;
    const int want = mth__chunks(pairs * ((double)(6 * p->d + 4 * p->e) / 70 + 0.5) * (c->attrs->i[0] ? 0.6 : 1), INT32_MAX);
    const int64_t most = mth__max64(1, mth__min64(8, p->t / 64));
    p->parts = p->items >= mth__min64(want, 16) || !p->items ? 1 : (int)mth__min64(most, (want + p->items - 1) / p->items);
    p->part_chunks = (int)mth__max64(1, mth__min64(p->items, want));
    c->phases = 1;
    c->chunks[0] = p->part_chunks * p->parts;
    c->thread_scratch = (2 * QUERIES * KEYS + KEYS + QUERIES) * sizeof(float);
    if (p->parts > 1) {
        const int64_t size = mth__size(&c->in[0]);
        c->phases = 2;
        c->call_scratch = (size_t)(size * p->parts) * sizeof(float);
        c->chunks[1] = mth__chunks(4.0 * (double)size * p->parts / MTH__BYTES_PER_NS, size / 1024);
    }
    return NULL;
}
static void attend_grad(const mth__call *c, const plan *p, int64_t b, int64_t g, int part, float *score) {
    float *ds = score + QUERIES * KEYS, *bias = ds + QUERIES * KEYS, *delta = bias + KEYS;
    const mth__operand *mask = c->nin > 6 ? &c->in[6] : NULL;
    const float scale = (float)c->attrs->f[0];
    const mth__range keys = mth__chunk_of(p->t, p->parts, part);
    const float *k = mth__f32(&c->in[1]) + b * p->t * p->ldk + g * p->d, *v = mth__f32(&c->in[2]) + b * p->t * p->ldv + g * p->e;
    float *dk = mth__f32(&c->out[1]) + b * p->t * p->ldk + g * p->d, *dv = mth__f32(&c->out[2]) + b * p->t * p->ldv + g * p->e;
    for (int64_t j = keys.lo; j < keys.hi; j++) {
        mth__vec->fill(p->d, 0, dk + j * p->ldk);
        mth__vec->fill(p->e, 0, dv + j * p->ldv);
    }
    for (int64_t r = 0; r < p->r; r++)
        for (int64_t s0 = 0; s0 < p->s; s0 += QUERIES) {
            const int64_t n = mth__min64(QUERIES, p->s - s0), head = g * p->r + r, first = b * p->s + s0;
            const float *q = mth__f32(&c->in[0]) + first * p->ldq + head * p->d, *o = mth__f32(&c->in[3]) + first * p->ldo + head * p->e;
            const float *lse = mth__f32(&c->in[4]) + first * p->g * p->r + head, *dout = mth__f32(&c->in[5]) + first * p->ldo + head * p->e;
            float *dq =
                (p->parts > 1 ? (float *)c->shared + part * mth__size(&c->in[0]) : mth__f32(&c->out[0])) + first * p->ldq + head * p->d;
            for (int64_t i = 0; i < n; i++) {
                delta[i] = (float)mth__vec->dot(p->e, o + i * p->ldo, dout + i * p->ldo);
                mth__vec->fill(p->d, 0, dq + i * p->ldq);
            }
            const int64_t seen = mth__min64(keys.hi, visible(c, p, s0 + n - 1));
            for (int64_t t0 = keys.lo; t0 < seen; t0 += KEYS) {
                const int64_t m = mth__min64(KEYS, seen - t0);
                mth__gemm(false, true, n, m, p->d, scale, q, p->ldq, k + t0 * p->ldk, p->ldk, 0, score, KEYS);
                mth__gemm(false, true, n, m, p->e, 1, dout, p->ldo, v + t0 * p->ldv, p->ldv, 0, ds, KEYS);
                const float *hide = mask_bias(mask, b * p->t + t0, m, bias);
                for (int64_t i = 0; i < n; i++) {
                    float *row = score + i * KEYS, *drow = ds + i * KEYS, l = lse[i * p->g * p->r];
                    const int64_t in = l == -INFINITY ? 0 : mth__max64(0, mth__min64(m, visible(c, p, s0 + i) - t0));
                    if (hide) mth__vec->add_to(in, hide, row);
                    mth__vec->attention_ds(in, row, drow, l, delta[i], scale);
                    mth__vec->fill(m - in, 0, row + in);
                    mth__vec->fill(m - in, 0, drow + in);
                }
                mth__gemm(true, false, m, p->e, n, 1, score, KEYS, dout, p->ldo, 1, dv + t0 * p->ldv, p->ldv);
                mth__gemm(true, false, m, p->d, n, 1, ds, KEYS, q, p->ldq, 1, dk + t0 * p->ldk, p->ldk);
                mth__gemm(false, false, n, p->d, m, 1, ds, KEYS, k + t0 * p->ldk, p->ldk, 1, dq, p->ldq);
            }
        }
}
void mth__run_attention_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    const plan *p = c->plan;
    if (phase == 1) {
        const int64_t size = mth__size(&c->in[0]);
        const mth__range r = mth__chunk_of(size, c->chunks[1], chunk);
        float *dq = mth__f32(&c->out[0]) + r.lo;
        const float *partial = (const float *)c->shared + r.lo;
        memcpy(dq, partial, (size_t)(r.hi - r.lo) * sizeof *dq);
        for (int i = 1; i < p->parts; i++) mth__vec->add_to(r.hi - r.lo, partial + i * size, dq);
        return;
    }
    const mth__range r = mth__chunk_of(p->items, p->part_chunks, chunk / p->parts);
    for (int64_t i = r.lo; i < r.hi; i++) attend_grad(c, p, i / p->g, i % p->g, chunk % p->parts, scratch);
}
