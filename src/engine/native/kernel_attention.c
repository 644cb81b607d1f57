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
    int64_t batches, queries, groups, heads, width, keys, value_width;
    int64_t ldq, ldk, ldv, ldo;
    /* forward: (batch, group, head, block of queries); gradient: (batch, group) and `parts` of the keys */
    int64_t items, blocks;
    int parts, part_chunks;
} attention_plan;

static attention_plan *new_plan(mth__arena *arena, mth__call *call) {
    attention_plan *plan = NEW(arena, attention_plan);
    const int64_t *dim = call->in[0].shape.dim;
    plan->batches = dim[0], plan->queries = dim[1], plan->groups = dim[2], plan->heads = dim[3], plan->width = dim[4];
    plan->keys = call->in[1].shape.dim[1];
    plan->value_width = call->in[2].shape.dim[3];
    plan->ldq = plan->groups * plan->heads * plan->width;
    plan->ldo = plan->groups * plan->heads * plan->value_width;
    plan->ldk = plan->groups * plan->width;
    plan->ldv = plan->groups * plan->value_width;
    call->plan = plan;
    return plan;
}
/* How many of the local keys, from the first, query i sees. */
static int64_t visible(const mth__call *call, const attention_plan *plan, int64_t i) {
    if (!call->attrs->causal) return plan->keys;
    const int64_t query = call->in[0].start[1] + i * mth__step(&call->in[0], 1), away = query - call->in[1].start[1];
    return away < 0 ? 0 : mth__min64(plan->keys, away / mth__step(&call->in[1], 1) + 1);
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
static bool sees(const tile *block, int64_t query, int64_t key) {
    return key < block->in[query] && (!block->hide || block->hide[key] == 0);
}

/* out[query] (+)= sum over keys of w[query, key] rows[key], or out[key] += sum over queries of w[query, key]
   rows[query]. w is 0 where the query does not see the key. */
static void multiply(const tile *block, bool over_keys, const float *w, int64_t width, const float *rows, int64_t ld,
    float beta, float *out, int64_t ldo) {
    const int64_t n = over_keys ? block->queries : block->keys, k = over_keys ? block->keys : block->queries;
    int64_t odd[KEYS], odds = 0; /* the rows that are not finite */
    for (int64_t j = 0; block->clean && j < k; j++) {
        const bool finite = mth__vec->finite(1, width, rows + j * ld, ld);
        if (finite)
            memcpy(block->clean + j * width, rows + j * ld, (size_t)width * sizeof *rows);
        else
            mth__vec->fill(width, 0, block->clean + j * width);
        if (!finite) odd[odds++] = j;
    }
    /* BLAS adds the terms of a single row one by one to what is there: a chain over all tiles */
    const bool apart = n == 1 && beta != 0;
    mth__gemm(!over_keys, false, n, width, k, 1, w, KEYS, block->clean ? block->clean : rows, block->clean ? width : ld,
        apart ? 0 : beta, apart ? block->term : out, apart ? width : ldo);
    if (apart) mth__vec->add_to(width, block->term, out);
    for (int64_t j = 0; j < odds; j++)
        for (int64_t i = 0; i < n; i++) {
            const int64_t query = over_keys ? i : odd[j], key = over_keys ? odd[j] : i;
            if (sees(block, query, key))
                mth__vec->axpy(width, w[query * KEYS + key], rows + odd[j] * ld, out + i * ldo);
        }
}
/* and `term` behind them */
static size_t clean_rows(const attention_plan *plan) {
    return (size_t)((KEYS + 1) * mth__max64(plan->width, plan->value_width));
}

mth_status mth__prepare_attention(mth__arena *arena, mth__call *call) {
    attention_plan *plan = new_plan(arena, call);
    plan->blocks = mth__ceil_div(plan->queries, QUERIES);
    plan->items = plan->batches * plan->groups * plan->heads * plan->blocks;
    const double pairs =
        (double)(plan->batches * plan->groups * plan->heads) * (double)plan->queries * (double)plan->keys;
    call->thread_scratch =
        (QUERIES * KEYS + KEYS + 2 * QUERIES + clean_rows(plan)) * sizeof(float) + QUERIES * sizeof(double);
    call->thread_scratch += mth__tile_bytes(&call->in[0], QUERIES * plan->width) +
        mth__tile_bytes(&call->in[1], KEYS * plan->width) + mth__tile_bytes(&call->in[2], KEYS * plan->value_width) +
        mth__tile_bytes(&call->out[0], QUERIES * plan->value_width);
    mth__one_phase(call,
        pairs * ((double)(2 * (plan->width + plan->value_width)) / 70 + 0.5) * (call->attrs->causal ? 0.6 : 1),
        plan->items);
    return NULL;
}
/* Whether the result is finite. */
static bool attend(const mth__call *call, const attention_plan *plan, int64_t item, void *scratch, bool careful) {
    double *sum = scratch;
    float *score = (float *)(sum + QUERIES), *hide = score + QUERIES * KEYS, *most = hide + KEYS,
          *factor = most + QUERIES, *clean = factor + QUERIES;
    const mth__operand *mask = call->nin > 3 ? &call->in[3] : NULL;
    const int64_t s0 = item % plan->blocks * QUERIES, member = item / plan->blocks % plan->heads,
                  group = item / plan->blocks / plan->heads % plan->groups,
                  batch = item / plan->blocks / plan->heads / plan->groups;
    const int64_t n = mth__min64(QUERIES, plan->queries - s0), head = group * plan->heads + member,
                  seen = visible(call, plan, s0 + n - 1);
    void *room = clean + clean_rows(plan);
    float *q_tile = mth__tile_take(&room, &call->in[0], QUERIES * plan->width),
          *k_tile = mth__tile_take(&room, &call->in[1], KEYS * plan->width),
          *v_tile = mth__tile_take(&room, &call->in[2], KEYS * plan->value_width),
          *o_tile = mth__tile_take(&room, &call->out[0], QUERIES * plan->value_width);
    int64_t ldq, ldk, ldv, ldo;
    const int64_t statistics = (batch * plan->queries + s0) * plan->groups * plan->heads + head,
                  place = (batch * plan->queries + s0) * plan->ldo + head * plan->value_width;
    const float *q = mth__tile_rows_read(&call->in[0], (batch * plan->queries + s0) * plan->ldq + head * plan->width, n,
        plan->width, plan->ldq, q_tile, &ldq);
    float *o = mth__tile_rows(&call->out[0], place, n, plan->value_width, plan->ldo, false, o_tile, &ldo);
    tile block;
    block.queries = n;
    block.clean = careful ? clean : NULL;
    block.term = clean + KEYS * mth__max64(plan->width, plan->value_width);
    for (int64_t i = 0; i < n; i++) most[i] = -INFINITY, sum[i] = 0;
    for (int64_t t0 = 0; t0 < seen; t0 += KEYS) {
        block.keys = mth__min64(KEYS, seen - t0);
        block.hide = hidden_keys(mask, batch * plan->keys + t0, block.keys, hide);
        const float *k = mth__tile_rows_read(&call->in[1], (batch * plan->keys + t0) * plan->ldk + group * plan->width,
                        block.keys, plan->width, plan->ldk, k_tile, &ldk),
                    *v = mth__tile_rows_read(&call->in[2],
                        (batch * plan->keys + t0) * plan->ldv + group * plan->value_width, block.keys,
                        plan->value_width, plan->ldv, v_tile, &ldv);
        mth__gemm(false, true, n, block.keys, plan->width, (float)call->attrs->scale, q, ldq, k, ldk, 0, score, KEYS);
        for (int64_t i = 0; i < n; i++) {
            float *row = score + i * KEYS;
            const int64_t in = block.in[i] = mth__max64(0, mth__min64(block.keys, visible(call, plan, s0 + i) - t0));
            const float here = mth__vec->hide_max(in, row, block.hide),
                        now = here > most[i] || here != here ? here : most[i];
            if (now == -INFINITY) { /* this query has seen no key yet */
                mth__vec->fill(block.keys, 0, row);
                continue;
            }
            const float again = t0 ? expf(most[i] - now) : 0;
            const double terms = (double)mth__vec->exp_sum(in, row, now);
            sum[i] = t0 ? sum[i] * (double)again + terms : terms;
            mth__vec->fill(block.keys - in, 0, row + in);
            if (t0 && again != 1) mth__vec->scale(plan->value_width, again, o + i * ldo, o + i * ldo);
            most[i] = now;
        }
        multiply(&block, true, score, plan->value_width, v, ldv, t0 ? 1 : 0, o, ldo);
    }
    for (int64_t i = 0; i < n; i++) factor[i] = sum[i] == 0 ? 0 : 1 / (float)sum[i];
    for (int64_t i = 0; i < n; i++) {
        mth__f32(&call->out[1])[statistics + i * plan->groups * plan->heads] = most[i];
        mth__f32(&call->out[2])[statistics + i * plan->groups * plan->heads] = (float)sum[i];
    }
    for (int64_t i = 0; seen <= 0 && i < n; i++) mth__vec->fill(plan->value_width, 0, o + i * ldo);
    const bool finite = mth__vec->scale_rows(n, plan->value_width, factor, o, ldo);
    mth__tile_rows_store(&call->out[0], place, n, plan->value_width, plan->ldo, o);
    return finite;
}
void mth__run_attention(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const attention_plan *plan = call->plan;
    const mth__chunk_range range = mth__chunk_of(plan->items, call->chunks[0], chunk);
    for (int64_t i = range.lo; i < range.hi; i++)
        if (!attend(call, plan, i, scratch, false)) attend(call, plan, i, scratch, true);
}

/* ---- tiles of the gradient: of a block of queries, of a block of keys, and of all keys of a part, whose gradients are
   sums over the blocks of queries */
typedef struct {
    float *q, *k, *v, *o, *dout, *dq, *dk, *dv;
} grad_tiles;
static int64_t keys_of_part(const attention_plan *plan) {
    return mth__min64(plan->keys, mth__ceil_div(mth__ceil_div(plan->keys, KEYS), plan->parts) * KEYS);
}
static grad_tiles grad_tiles_of(const mth__call *call, const attention_plan *plan, void **room) {
    grad_tiles all;
    all.q = mth__tile_take(room, &call->in[0], QUERIES * plan->width);
    all.k = mth__tile_take(room, &call->in[1], KEYS * plan->width);
    all.v = mth__tile_take(room, &call->in[2], KEYS * plan->value_width);
    all.o = mth__tile_take(room, &call->in[3], QUERIES * plan->value_width);
    all.dout = mth__tile_take(room, &call->in[6], QUERIES * plan->value_width);
    all.dq = mth__tile_take(room, &call->out[0], mth__max64(QUERIES * plan->width, MTH__TILE));
    all.dk = mth__tile_take(room, &call->out[1], keys_of_part(plan) * plan->width);
    all.dv = mth__tile_take(room, &call->out[2], keys_of_part(plan) * plan->value_width);
    return all;
}
static size_t grad_tile_bytes(const mth__call *call, const attention_plan *plan) {
    static char begin;
    void *end = &begin;
    grad_tiles_of(call, plan, &end);
    return (size_t)((char *)end - &begin);
}

/* ---- gradient: q, k, v, o, most, sum, do, mask? -> dq, dk, dv. A chunk owns dk and dv of its keys. Where (b, g) alone
   are too few chunks the keys are cut in parts too, each with its own terms of dq, summed in a second phase. */
mth_status mth__prepare_attention_grad(mth__arena *arena, mth__call *call) {
    attention_plan *plan = new_plan(arena, call);
    plan->items = plan->batches * plan->groups;
    plan->blocks = mth__ceil_div(plan->queries, QUERIES);
    const double pairs = (double)(plan->items * plan->heads) * (double)plan->queries * (double)plan->keys;
    const int chunks_wanted = mth__chunks(
        pairs * ((double)(6 * plan->width + 4 * plan->value_width) / 70 + 0.5) * (call->attrs->causal ? 0.6 : 1),
        INT32_MAX);
    const int64_t most = mth__max64(1, mth__min64(8, mth__ceil_div(plan->keys, KEYS)));
    plan->parts = plan->items >= mth__min64(chunks_wanted, 16) || !plan->items
        ? 1
        : (int)mth__min64(most, mth__ceil_div(chunks_wanted, plan->items));
    plan->part_chunks = (int)mth__max64(1, mth__min64(plan->items, chunks_wanted));
    call->phases = 1;
    call->chunks[0] = plan->part_chunks * plan->parts;
    call->thread_scratch =
        (2 * QUERIES * KEYS + KEYS + QUERIES + clean_rows(plan)) * sizeof(float) + grad_tile_bytes(call, plan);
    if (plan->parts > 1) {
        const int64_t size = mth__size(&call->in[0]);
        call->phases = 2;
        call->call_scratch = (size_t)(size * plan->parts) * sizeof(float);
        call->chunks[1] = mth__chunks(4.0 * (double)size * plan->parts / MTH__BYTES_PER_NS, size / 1024);
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
static void sharpen(const attention_plan *plan, int64_t n, const float *weight, const float *v, int64_t ldv,
    const float *o, const float *dout, float scale, float *ds) {
    for (int64_t j = 0; j < n; j++)
        if (weight[j] >= LARGE)
            ds[j] = weight[j] * (float)mth__vec->dot_apart(plan->value_width, dout, v + j * ldv, o) * scale;
}
/* Returns whether the results are finite. Where it is careful, a query whose output has a gradient of 0 takes no part:
 * nothing of it reaches any gradient. */
static bool attend_grad(const mth__call *call, const attention_plan *plan, int64_t batch, int64_t group, int part,
    float *score, bool careful) {
    float *ds = score + QUERIES * KEYS, *hide = ds + QUERIES * KEYS, *delta = hide + KEYS, *clean = delta + QUERIES;
    void *room = clean + clean_rows(plan);
    const grad_tiles tile_of = grad_tiles_of(call, plan, &room);
    const mth__operand *mask = call->nin > 7 ? &call->in[7] : NULL,
                       partial = {.data = (float *)call->shared + part * mth__size(&call->in[0]), .dtype = MTH_FLOAT32},
                       *queries = plan->parts > 1 ? &partial : &call->out[0];
    const float scale = (float)call->attrs->scale;
    const mth__chunk_range blocks = mth__chunk_of(mth__ceil_div(plan->keys, KEYS), plan->parts, part),
                           keys = {blocks.lo * KEYS, mth__min64(blocks.hi * KEYS, plan->keys)};
    const int64_t count = keys.hi - keys.lo, first_k = batch * plan->keys * plan->ldk + group * plan->width,
                  first_v = batch * plan->keys * plan->ldv + group * plan->value_width,
                  dk_at = first_k + keys.lo * plan->ldk, dv_at = first_v + keys.lo * plan->ldv;
    int64_t ldq, ldk, ldv, ldo, lddo, lddq, lddk, lddv;
    float *dk = mth__tile_rows(&call->out[1], dk_at, count, plan->width, plan->ldk, false, tile_of.dk, &lddk),
          *dv = mth__tile_rows(&call->out[2], dv_at, count, plan->value_width, plan->ldv, false, tile_of.dv, &lddv);
    for (int64_t j = 0; j < count; j++) {
        mth__vec->fill(plan->width, 0, dk + j * lddk);
        mth__vec->fill(plan->value_width, 0, dv + j * lddv);
    }
    bool finite = true;
    for (int64_t member = 0; member < plan->heads; member++)
        for (int64_t s0 = 0; s0 < plan->queries; s0 += QUERIES) {
            const int64_t n = mth__min64(QUERIES, plan->queries - s0), head = group * plan->heads + member,
                          first = batch * plan->queries + s0, heads = plan->groups * plan->heads,
                          q_at = first * plan->ldq + head * plan->width,
                          o_at = first * plan->ldo + head * plan->value_width;
            const float *q = mth__tile_rows_read(&call->in[0], q_at, n, plan->width, plan->ldq, tile_of.q, &ldq),
                        *o = mth__tile_rows_read(&call->in[3], o_at, n, plan->value_width, plan->ldo, tile_of.o, &ldo),
                        *dout = mth__tile_rows_read(
                            &call->in[6], o_at, n, plan->value_width, plan->ldo, tile_of.dout, &lddo);
            const float *most = mth__f32(&call->in[4]) + first * heads + head,
                        *sum = mth__f32(&call->in[5]) + first * heads + head;
            float *dq = mth__tile_rows(queries, q_at, n, plan->width, plan->ldq, false, tile_of.dq, &lddq);
            const int64_t seen = mth__min64(keys.hi, visible(call, plan, s0 + n - 1));
            bool apart[QUERIES];
            for (int64_t i = 0; i < n; i++) {
                delta[i] = (float)mth__vec->dot(plan->value_width, o + i * ldo, dout + i * lddo);
                apart[i] = sum[i * heads] == 0 || (careful && zeros(plan->value_width, dout + i * lddo));
                mth__vec->fill(plan->width, 0, dq + i * lddq);
            }
            tile block;
            block.queries = n;
            block.clean = careful ? clean : NULL;
            block.term = clean + KEYS * mth__max64(plan->width, plan->value_width);
            for (int64_t t0 = keys.lo; t0 < seen; t0 += KEYS) {
                block.keys = mth__min64(KEYS, seen - t0);
                block.hide = hidden_keys(mask, batch * plan->keys + t0, block.keys, hide);
                const float *k = mth__tile_rows_read(&call->in[1], first_k + t0 * plan->ldk, block.keys, plan->width,
                                plan->ldk, tile_of.k, &ldk),
                            *v = mth__tile_rows_read(&call->in[2], first_v + t0 * plan->ldv, block.keys,
                                plan->value_width, plan->ldv, tile_of.v, &ldv);
                mth__gemm(false, true, n, block.keys, plan->width, scale, q, ldq, k, ldk, 0, score, KEYS);
                mth__gemm(false, true, n, block.keys, plan->value_width, 1, dout, lddo, v, ldv, 0, ds, KEYS);
                for (int64_t i = 0; i < n; i++) {
                    float *row = score + i * KEYS, *drow = ds + i * KEYS;
                    const int64_t in = block.in[i] =
                        apart[i] ? 0 : mth__max64(0, mth__min64(block.keys, visible(call, plan, s0 + i) - t0));
                    if (mth__vec->attention_ds(
                            in, row, drow, block.hide, most[i * heads], 1 / sum[i * heads], delta[i], scale, LARGE))
                        sharpen(plan, in, row, v, ldv, o + i * ldo, dout + i * lddo, scale, drow);
                    mth__vec->fill(block.keys - in, 0, row + in);
                    mth__vec->fill(block.keys - in, 0, drow + in);
                }
                multiply(&block, false, score, plan->value_width, dout, lddo, 1, dv + (t0 - keys.lo) * lddv, lddv);
                multiply(&block, false, ds, plan->width, q, ldq, 1, dk + (t0 - keys.lo) * lddk, lddk);
                multiply(&block, true, ds, plan->width, k, ldk, 1, dq, lddq);
            }
            finite = finite && mth__vec->finite(n, plan->width, dq, lddq);
            mth__tile_rows_store(queries, q_at, n, plan->width, plan->ldq, dq);
        }
    finite = finite && mth__vec->finite(count, plan->width, dk, lddk) &&
        mth__vec->finite(count, plan->value_width, dv, lddv);
    mth__tile_rows_store(&call->out[1], dk_at, count, plan->width, plan->ldk, dk);
    mth__tile_rows_store(&call->out[2], dv_at, count, plan->value_width, plan->ldv, dv);
    return finite;
}
void mth__run_attention_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    const attention_plan *plan = call->plan;
    if (phase == 1) {
        const int64_t size = mth__size(&call->in[0]);
        const mth__chunk_range range = mth__chunk_of(size, call->chunks[1], chunk);
        for (int64_t at = range.lo, n; at < range.hi; at += n) {
            n = mth__min64(mth__tile_most(call), range.hi - at);
            const float *partial = (const float *)call->shared + at;
            float *dq = mth__tile_of(&call->out[0], at, scratch);
            memcpy(dq, partial, (size_t)n * sizeof *dq);
            for (int i = 1; i < plan->parts; i++) mth__vec->add_to(n, partial + i * size, dq);
            mth__tile_store(&call->out[0], at, n, dq);
        }
        return;
    }
    const mth__chunk_range range = mth__chunk_of(plan->items, plan->part_chunks, chunk / plan->parts);
    for (int64_t i = range.lo; i < range.hi; i++)
        if (!attend_grad(call, plan, i / plan->groups, i % plan->groups, chunk % plan->parts, scratch, false))
            attend_grad(call, plan, i / plan->groups, i % plan->groups, chunk % plan->parts, scratch, true);
}
