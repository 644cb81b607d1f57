/* attention and its gradient without the matrix of scores (Dao et al. 2022; Rabe and Staats 2021): blocks of queries
 * meet blocks of keys, with a running maximum and sum for each query. Blocks are read in place through BLAS's leading
 * dimensions. The gradient recomputes the probabilities from the maximum and the sum, of scores that are the same bits:
 * both kernels cut queries and keys at the same places, so that BLAS is asked for the same products. Heads that share
 * keys (r) share them here too: nothing is repeated in memory.
 *
 * What a query does not see must not reach it, NaN and infinities included, and a product of blocks multiplies them by
 * 0. So a chunk first runs as if all were finite; only where a result is not, it runs again with care: rows that hold
 * such a value are left out of the products and added one by one to those that see them. */
#include "engine/native/kernel_util.h"

enum { QUERIES = 128, KEYS = 256 };
typedef struct {
    int64_t b, s, g, r, d, t, e;
    int64_t ldq, ldk, ldv, ldo;
    /* forward: (b, g, r, block of queries); gradient: (b, g) and `parts` of the keys */
    int64_t items, blocks;
    int parts, part_chunks;
} attention_plan;

static attention_plan *new_plan(mth__arena *arena, mth__call *c) {
    attention_plan *p = NEW(arena, attention_plan);
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
static int64_t visible(const mth__call *c, const attention_plan *p, int64_t i) {
    if (!c->attrs->causal) return p->t;
    const int64_t query = c->in[0].start[1] + i * mth__step(&c->in[0], 1), away = query - c->in[1].start[1];
    return away < 0 ? 0 : mth__min64(p->t, away / mth__step(&c->in[1], 1) + 1);
}
/* 0 for keys that count, -inf for hidden ones; NULL where there is no mask. */
static const float *hidden_keys(const mth__operand *mask, int64_t at, int64_t n, float *hide) {
    if (!mask) return NULL;
    for (int64_t j = 0; j < n; j++) {
        const int64_t i = at + j;
        const bool on = mask->dtype == MTH_BOOL ? ((const uint8_t *)mask->data)[i] != 0
            : mask->dtype == MTH_FLOAT32        ? mth__f32(mask)[i] != 0
            : mth__is_half(mask->dtype)         ? (((const uint16_t *)mask->data)[i] & 0x7fff) != 0 /* -0 is 0 */
                                                : mth__id(mask, i) != 0;
        hide[j] = on ? 0 : -INFINITY;
    }
    return hide;
}

/* A block of queries beside a block of keys. Query i sees those of the first in[i] keys that `hide` does not hide. */
typedef struct {
    int64_t queries, keys, in[QUERIES];
    const float *hide;
    float *clean; /* NULL: all values are taken as finite */
    float *term;  /* room for one row of a product */
} tile;
static bool sees(const tile *t, int64_t query, int64_t key) {
    return key < t->in[query] && (!t->hide || t->hide[key] == 0);
}

/* out[query] (+)= sum over keys of w[query, key] rows[key], or out[key] += sum over queries of w[query, key]
   rows[query]. w is 0 where the query does not see the key. */
static void multiply(const tile *t, bool over_keys, const float *w, int64_t width, const float *rows, int64_t ld,
    float beta, float *out, int64_t ldo) {
    const int64_t n = over_keys ? t->queries : t->keys, k = over_keys ? t->keys : t->queries;
    int64_t odd[KEYS], odds = 0; /* the rows that are not finite */
    for (int64_t j = 0; t->clean && j < k; j++) {
        const bool finite = mth__vec->finite(1, width, rows + j * ld, ld);
        if (finite)
            memcpy(t->clean + j * width, rows + j * ld, (size_t)width * sizeof *rows);
        else
            mth__vec->fill(width, 0, t->clean + j * width);
        if (!finite) odd[odds++] = j;
    }
    /* BLAS adds the terms of a single row one by one to what is there: a chain over all tiles */
    const bool apart = n == 1 && beta != 0;
    mth__gemm(!over_keys, false, n, width, k, 1, w, KEYS, t->clean ? t->clean : rows, t->clean ? width : ld,
        apart ? 0 : beta, apart ? t->term : out, apart ? width : ldo);
    if (apart) mth__vec->add_to(width, t->term, out);
    for (int64_t j = 0; j < odds; j++)
        for (int64_t i = 0; i < n; i++) {
            const int64_t query = over_keys ? i : odd[j], key = over_keys ? odd[j] : i;
            if (sees(t, query, key)) mth__vec->axpy(width, w[query * KEYS + key], rows + odd[j] * ld, out + i * ldo);
        }
}
/* and `term` behind them */
static size_t clean_rows(const attention_plan *p) { return (size_t)((KEYS + 1) * mth__max64(p->d, p->e)); }

mth_status mth__prepare_attention(mth__arena *arena, mth__call *c) {
    attention_plan *p = new_plan(arena, c);
    p->blocks = mth__ceil_div(p->s, QUERIES);
    p->items = p->b * p->g * p->r * p->blocks;
    const double pairs = (double)(p->b * p->g * p->r) * (double)p->s * (double)p->t;
    c->thread_scratch =
        (QUERIES * KEYS + KEYS + 2 * QUERIES + clean_rows(p)) * sizeof(float) + QUERIES * sizeof(double);
    c->thread_scratch += mth__tile_bytes(&c->in[0], QUERIES * p->d) + mth__tile_bytes(&c->in[1], KEYS * p->d) +
        mth__tile_bytes(&c->in[2], KEYS * p->e) + mth__tile_bytes(&c->out[0], QUERIES * p->e);
    mth__one_phase(c, pairs * ((double)(2 * (p->d + p->e)) / 70 + 0.5) * (c->attrs->causal ? 0.6 : 1), p->items);
    return NULL;
}
/* Whether the result is finite. */
static bool attend(const mth__call *c, const attention_plan *p, int64_t item, void *scratch, bool careful) {
    double *sum = scratch;
    float *score = (float *)(sum + QUERIES), *hide = score + QUERIES * KEYS, *most = hide + KEYS,
          *factor = most + QUERIES, *clean = factor + QUERIES;
    const mth__operand *mask = c->nin > 3 ? &c->in[3] : NULL;
    const int64_t s0 = item % p->blocks * QUERIES, r = item / p->blocks % p->r, g = item / p->blocks / p->r % p->g,
                  b = item / p->blocks / p->r / p->g;
    const int64_t n = mth__min64(QUERIES, p->s - s0), head = g * p->r + r, seen = visible(c, p, s0 + n - 1);
    void *room = clean + clean_rows(p);
    float *q_tile = mth__tile_take(&room, &c->in[0], QUERIES * p->d),
          *k_tile = mth__tile_take(&room, &c->in[1], KEYS * p->d),
          *v_tile = mth__tile_take(&room, &c->in[2], KEYS * p->e),
          *o_tile = mth__tile_take(&room, &c->out[0], QUERIES * p->e);
    int64_t ldq, ldk, ldv, ldo;
    const int64_t statistics = (b * p->s + s0) * p->g * p->r + head, place = (b * p->s + s0) * p->ldo + head * p->e;
    const float *q =
        mth__tile_rows_read(&c->in[0], (b * p->s + s0) * p->ldq + head * p->d, n, p->d, p->ldq, q_tile, &ldq);
    float *o = mth__tile_rows(&c->out[0], place, n, p->e, p->ldo, false, o_tile, &ldo);
    tile t;
    t.queries = n;
    t.clean = careful ? clean : NULL;
    t.term = clean + KEYS * mth__max64(p->d, p->e);
    for (int64_t i = 0; i < n; i++) most[i] = -INFINITY, sum[i] = 0;
    for (int64_t t0 = 0; t0 < seen; t0 += KEYS) {
        t.keys = mth__min64(KEYS, seen - t0);
        t.hide = hidden_keys(mask, b * p->t + t0, t.keys, hide);
        const float *k = mth__tile_rows_read(
                        &c->in[1], (b * p->t + t0) * p->ldk + g * p->d, t.keys, p->d, p->ldk, k_tile, &ldk),
                    *v = mth__tile_rows_read(
                        &c->in[2], (b * p->t + t0) * p->ldv + g * p->e, t.keys, p->e, p->ldv, v_tile, &ldv);
        mth__gemm(false, true, n, t.keys, p->d, (float)c->attrs->scale, q, ldq, k, ldk, 0, score, KEYS);
        for (int64_t i = 0; i < n; i++) {
            float *row = score + i * KEYS;
            const int64_t in = t.in[i] = mth__max64(0, mth__min64(t.keys, visible(c, p, s0 + i) - t0));
            const float here = mth__vec->hide_max(in, row, t.hide),
                        now = here > most[i] || here != here ? here : most[i];
            if (now == -INFINITY) { /* this query has seen no key yet */
                mth__vec->fill(t.keys, 0, row);
                continue;
            }
            const float again = t0 ? expf(most[i] - now) : 0;
            const double terms = (double)mth__vec->exp_sum(in, row, now);
            sum[i] = t0 ? sum[i] * (double)again + terms : terms;
            mth__vec->fill(t.keys - in, 0, row + in);
            if (t0 && again != 1) mth__vec->scale(p->e, again, o + i * ldo, o + i * ldo);
            most[i] = now;
        }
        multiply(&t, true, score, p->e, v, ldv, t0 ? 1 : 0, o, ldo);
    }
    for (int64_t i = 0; i < n; i++) factor[i] = sum[i] == 0 ? 0 : 1 / (float)sum[i];
    for (int64_t i = 0; i < n; i++) {
        mth__f32(&c->out[1])[statistics + i * p->g * p->r] = most[i];
        mth__f32(&c->out[2])[statistics + i * p->g * p->r] = (float)sum[i];
    }
    for (int64_t i = 0; seen <= 0 && i < n; i++) mth__vec->fill(p->e, 0, o + i * ldo);
    const bool finite = mth__vec->scale_rows(n, p->e, factor, o, ldo);
    mth__tile_rows_store(&c->out[0], place, n, p->e, p->ldo, o);
    return finite;
}
void mth__run_attention(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const attention_plan *p = c->plan;
    const mth__chunk_range r = mth__chunk_of(p->items, c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++)
        if (!attend(c, p, i, scratch, false)) attend(c, p, i, scratch, true);
}

/* ---- tiles of the gradient: of a block of queries, of a block of keys, and of all keys of a part, whose gradients are
   sums over the blocks of queries */
typedef struct {
    float *q, *k, *v, *o, *dout, *dq, *dk, *dv;
} grad_tiles;
static int64_t keys_of_part(const attention_plan *p) {
    return mth__min64(p->t, mth__ceil_div(mth__ceil_div(p->t, KEYS), p->parts) * KEYS);
}
static grad_tiles grad_tiles_of(const mth__call *c, const attention_plan *p, void **room) {
    grad_tiles all;
    all.q = mth__tile_take(room, &c->in[0], QUERIES * p->d);
    all.k = mth__tile_take(room, &c->in[1], KEYS * p->d);
    all.v = mth__tile_take(room, &c->in[2], KEYS * p->e);
    all.o = mth__tile_take(room, &c->in[3], QUERIES * p->e);
    all.dout = mth__tile_take(room, &c->in[6], QUERIES * p->e);
    all.dq = mth__tile_take(room, &c->out[0], mth__max64(QUERIES * p->d, MTH__TILE));
    all.dk = mth__tile_take(room, &c->out[1], keys_of_part(p) * p->d);
    all.dv = mth__tile_take(room, &c->out[2], keys_of_part(p) * p->e);
    return all;
}
static size_t grad_tile_bytes(const mth__call *c, const attention_plan *p) {
    static char begin;
    void *end = &begin;
    grad_tiles_of(c, p, &end);
    return (size_t)((char *)end - &begin);
}

/* ---- gradient: q, k, v, o, most, sum, do, mask? -> dq, dk, dv. A chunk owns dk and dv of its keys. Where (b, g) alone
   are too few chunks the keys are cut in parts too, each with its own terms of dq, summed in a second phase. */
mth_status mth__prepare_attention_grad(mth__arena *arena, mth__call *c) {
    attention_plan *p = new_plan(arena, c);
    p->items = p->b * p->g;
    p->blocks = mth__ceil_div(p->s, QUERIES);
    const double pairs = (double)(p->items * p->r) * (double)p->s * (double)p->t;
    const int want =
        mth__chunks(pairs * ((double)(6 * p->d + 4 * p->e) / 70 + 0.5) * (c->attrs->causal ? 0.6 : 1), INT32_MAX);
    const int64_t most = mth__max64(1, mth__min64(8, mth__ceil_div(p->t, KEYS)));
    p->parts = p->items >= mth__min64(want, 16) || !p->items ? 1 : (int)mth__min64(most, mth__ceil_div(want, p->items));
    p->part_chunks = (int)mth__max64(1, mth__min64(p->items, want));
    c->phases = 1;
    c->chunks[0] = p->part_chunks * p->parts;
    c->thread_scratch = (2 * QUERIES * KEYS + KEYS + QUERIES + clean_rows(p)) * sizeof(float) + grad_tile_bytes(c, p);
    if (p->parts > 1) {
        const int64_t size = mth__size(&c->in[0]);
        c->phases = 2;
        c->call_scratch = (size_t)(size * p->parts) * sizeof(float);
        c->chunks[1] = mth__chunks(4.0 * (double)size * p->parts / MTH__BYTES_PER_NS, size / 1024);
    }
    return NULL;
}
static bool zeros(int64_t n, const float *x) {
    for (int64_t i = 0; i < n; i++)
        if (x[i] != 0) return false;
    return true;
}
/* dp - delta of a key that gets much is a small difference of two large sums, and a key can be large: the difference is
 * taken before the sums, of the value and the output, which are the same bits where one key gets all. Few keys of a
 * query can get as much as LARGE. */
static const float LARGE = 0.125f;
static void sharpen(const attention_plan *p, int64_t n, const float *weight, const float *v, int64_t ldv,
    const float *o, const float *dout, float scale, float *ds) {
    for (int64_t j = 0; j < n; j++)
        if (weight[j] >= LARGE) ds[j] = weight[j] * (float)mth__vec->dot_apart(p->e, dout, v + j * ldv, o) * scale;
}
/* Whether the results are finite. With care, a query takes no part whose output has a gradient of 0: what it says
 * counts nowhere. */
static bool attend_grad(
    const mth__call *c, const attention_plan *p, int64_t b, int64_t g, int part, float *score, bool careful) {
    float *ds = score + QUERIES * KEYS, *hide = ds + QUERIES * KEYS, *delta = hide + KEYS, *clean = delta + QUERIES;
    void *room = clean + clean_rows(p);
    const grad_tiles tile_of = grad_tiles_of(c, p, &room);
    const mth__operand *mask = c->nin > 7 ? &c->in[7] : NULL,
                       partial = {.data = (float *)c->shared + part * mth__size(&c->in[0]), .dtype = MTH_FLOAT32},
                       *queries = p->parts > 1 ? &partial : &c->out[0];
    const float scale = (float)c->attrs->scale;
    const mth__chunk_range blocks = mth__chunk_of(mth__ceil_div(p->t, KEYS), p->parts, part),
                           keys = {blocks.lo * KEYS, mth__min64(blocks.hi * KEYS, p->t)};
    const int64_t count = keys.hi - keys.lo, first_k = b * p->t * p->ldk + g * p->d,
                  first_v = b * p->t * p->ldv + g * p->e, dk_at = first_k + keys.lo * p->ldk,
                  dv_at = first_v + keys.lo * p->ldv;
    int64_t ldq, ldk, ldv, ldo, lddo, lddq, lddk, lddv;
    float *dk = mth__tile_rows(&c->out[1], dk_at, count, p->d, p->ldk, false, tile_of.dk, &lddk),
          *dv = mth__tile_rows(&c->out[2], dv_at, count, p->e, p->ldv, false, tile_of.dv, &lddv);
    for (int64_t j = 0; j < count; j++) {
        mth__vec->fill(p->d, 0, dk + j * lddk);
        mth__vec->fill(p->e, 0, dv + j * lddv);
    }
    bool finite = true;
    for (int64_t r = 0; r < p->r; r++)
        for (int64_t s0 = 0; s0 < p->s; s0 += QUERIES) {
            const int64_t n = mth__min64(QUERIES, p->s - s0), head = g * p->r + r, first = b * p->s + s0,
                          heads = p->g * p->r, q_at = first * p->ldq + head * p->d, o_at = first * p->ldo + head * p->e;
            const float *q = mth__tile_rows_read(&c->in[0], q_at, n, p->d, p->ldq, tile_of.q, &ldq),
                        *o = mth__tile_rows_read(&c->in[3], o_at, n, p->e, p->ldo, tile_of.o, &ldo),
                        *dout = mth__tile_rows_read(&c->in[6], o_at, n, p->e, p->ldo, tile_of.dout, &lddo);
            const float *most = mth__f32(&c->in[4]) + first * heads + head,
                        *sum = mth__f32(&c->in[5]) + first * heads + head;
            float *dq = mth__tile_rows(queries, q_at, n, p->d, p->ldq, false, tile_of.dq, &lddq);
            const int64_t seen = mth__min64(keys.hi, visible(c, p, s0 + n - 1));
            bool apart[QUERIES];
            for (int64_t i = 0; i < n; i++) {
                delta[i] = (float)mth__vec->dot(p->e, o + i * ldo, dout + i * lddo);
                apart[i] = sum[i * heads] == 0 || (careful && zeros(p->e, dout + i * lddo));
                mth__vec->fill(p->d, 0, dq + i * lddq);
            }
            tile t;
            t.queries = n;
            t.clean = careful ? clean : NULL;
            t.term = clean + KEYS * mth__max64(p->d, p->e);
            for (int64_t t0 = keys.lo; t0 < seen; t0 += KEYS) {
                t.keys = mth__min64(KEYS, seen - t0);
                t.hide = hidden_keys(mask, b * p->t + t0, t.keys, hide);
                const float *k = mth__tile_rows_read(
                                &c->in[1], first_k + t0 * p->ldk, t.keys, p->d, p->ldk, tile_of.k, &ldk),
                            *v = mth__tile_rows_read(
                                &c->in[2], first_v + t0 * p->ldv, t.keys, p->e, p->ldv, tile_of.v, &ldv);
                mth__gemm(false, true, n, t.keys, p->d, scale, q, ldq, k, ldk, 0, score, KEYS);
                mth__gemm(false, true, n, t.keys, p->e, 1, dout, lddo, v, ldv, 0, ds, KEYS);
                for (int64_t i = 0; i < n; i++) {
                    float *row = score + i * KEYS, *drow = ds + i * KEYS;
                    const int64_t in = t.in[i] =
                        apart[i] ? 0 : mth__max64(0, mth__min64(t.keys, visible(c, p, s0 + i) - t0));
                    if (mth__vec->attention_ds(
                            in, row, drow, t.hide, most[i * heads], 1 / sum[i * heads], delta[i], scale, LARGE))
                        sharpen(p, in, row, v, ldv, o + i * ldo, dout + i * lddo, scale, drow);
                    mth__vec->fill(t.keys - in, 0, row + in);
                    mth__vec->fill(t.keys - in, 0, drow + in);
                }
                multiply(&t, false, score, p->e, dout, lddo, 1, dv + (t0 - keys.lo) * lddv, lddv);
                multiply(&t, false, ds, p->d, q, ldq, 1, dk + (t0 - keys.lo) * lddk, lddk);
                multiply(&t, true, ds, p->d, k, ldk, 1, dq, lddq);
            }
            finite = finite && mth__vec->finite(n, p->d, dq, lddq);
            mth__tile_rows_store(queries, q_at, n, p->d, p->ldq, dq);
        }
    finite = finite && mth__vec->finite(count, p->d, dk, lddk) && mth__vec->finite(count, p->e, dv, lddv);
    mth__tile_rows_store(&c->out[1], dk_at, count, p->d, p->ldk, dk);
    mth__tile_rows_store(&c->out[2], dv_at, count, p->e, p->ldv, dv);
    return finite;
}
void mth__run_attention_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    const attention_plan *p = c->plan;
    if (phase == 1) {
        const int64_t size = mth__size(&c->in[0]);
        const mth__chunk_range r = mth__chunk_of(size, c->chunks[1], chunk);
        for (int64_t at = r.lo, n; at < r.hi; at += n) {
            n = mth__min64(mth__tile_most(c), r.hi - at);
            const float *partial = (const float *)c->shared + at;
            float *dq = mth__tile_of(&c->out[0], at, scratch);
            memcpy(dq, partial, (size_t)n * sizeof *dq);
            for (int i = 1; i < p->parts; i++) mth__vec->add_to(n, partial + i * size, dq);
            mth__tile_store(&c->out[0], at, n, dq);
        }
        return;
    }
    const mth__chunk_range r = mth__chunk_of(p->items, p->part_chunks, chunk / p->parts);
    for (int64_t i = r.lo; i < r.hi; i++)
        if (!attend_grad(c, p, i / p->g, i % p->g, chunk % p->parts, scratch, false))
            attend_grad(c, p, i / p->g, i % p->g, chunk % p->parts, scratch, true);
}
