/* softmax, layer_norm, rms_norm and their gradients: a row at a time; the gradients of weights are summed per chunk of
 * rows, then over chunks. */
#include "engine/native/kernel_util.h"

/* ---- softmax over one dimension: [outer, n, inner]; with inner rows, `COLUMNS` columns at a time */
typedef struct {
    int64_t outer, n, inner, blocks;
} soft;
enum { COLUMNS = 256 };
static mth_status plan_softmax(mth__arena *arena, mth__call *c) {
    soft *p = NEW(arena, soft);
    const mth__operand *x = &c->in[0];
    const int d = (int)c->attrs->dimension;
    p->outer = mth__dims(x, 0, d);
    p->n = x->shape.dim[d];
    p->inner = mth__dims(x, d + 1, x->shape.rank);
    p->blocks = mth__ceil_div(p->inner, COLUMNS);
    c->plan = p;
    const int64_t columns = p->inner == 1 ? p->n : COLUMNS;
    c->thread_scratch = 2 * COLUMNS * sizeof(float) + mth__cascade_bytes(COLUMNS);
    for (int j = 0; j < c->nin; j++) c->thread_scratch += mth__tile_bytes(&c->in[j], columns);
    c->thread_scratch += mth__tile_bytes(&c->out[0], columns);
    mth__one_phase(c, 1.5 * (double)mth__size(x), p->inner == 1 ? p->outer : p->outer * p->blocks);
    return NULL;
}
mth_status mth__prepare_softmax(mth__arena *arena, mth__call *c) { return plan_softmax(arena, c); }
mth_status mth__prepare_softmax_grad(mth__arena *arena, mth__call *c) { return plan_softmax(arena, c); }
typedef struct {
    float *vector[2], *cascade, *in[2], *out;
} soft_tiles;
static soft_tiles tiles_of(const mth__call *c, void *scratch) {
    const soft *p = c->plan;
    const int64_t columns = p->inner == 1 ? p->n : COLUMNS;
    soft_tiles tile = {.vector = {scratch, (float *)scratch + COLUMNS}, .cascade = (float *)scratch + 2 * COLUMNS};
    void *room = (char *)tile.cascade + mth__cascade_bytes(COLUMNS);
    for (int j = 0; j < c->nin; j++) tile.in[j] = mth__tile_take(&room, &c->in[j], columns);
    tile.out = mth__tile_take(&room, &c->out[0], columns);
    return tile;
}
/* exp(x - most) of k elements from `at` on, where they are computed. */
static float *exponentials(const mth__call *c, int64_t at, int64_t k, const float *most, const soft_tiles *tile) {
    float *row = mth__tile_of(&c->out[0], at, tile->out);
    mth__map_pair(MTH__ROW_sub, k, mth__tile_read(&c->in[0], at, k, tile->in[0]), most, row);
    mth__map(MTH__ROW_exp, k, row, row);
    return row;
}
void mth__run_softmax(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *p = c->plan;
    const mth__operand *x = &c->in[0], *y = &c->out[0];
    const soft_tiles tile = tiles_of(c, scratch);
    float *most = tile.vector[0], *sum = tile.vector[1];
    if (p->inner == 1) {
        const mth__chunk_range r = mth__chunk_of(p->outer, c->chunks[0], chunk);
        for (int64_t i = r.lo; i < r.hi; i++) {
            float *row = mth__tile_of(y, i * p->n, tile.out);
            mth__vec->softmax(p->n, mth__tile_read(x, i * p->n, p->n, tile.in[0]), row);
            mth__tile_store(y, i * p->n, p->n, row);
        }
        return;
    }
    const mth__chunk_range r = mth__chunk_of(p->outer * p->blocks, c->chunks[0], chunk);
    for (int64_t b = r.lo; b < r.hi; b++) {
        const int64_t column = b % p->blocks * COLUMNS, k = mth__min64(COLUMNS, p->inner - column),
                      at = b / p->blocks * p->n * p->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, sum, tile.cascade);
        mth__vec->fill(k, -INFINITY, most);
        for (int64_t i = 0; i < p->n; i++)
            mth__vec->max_to(k, mth__tile_read(x, at + i * p->inner, k, tile.in[0]), most);
        for (int64_t i = 0; i < p->n; i++)
            mth__vec->add_to(k, exponentials(c, at + i * p->inner, k, most, &tile), mth__cascade_next(&total));
        mth__cascade_end(&total);
        for (int64_t i = 0; i < p->n; i++) {
            const int64_t place = at + i * p->inner;
            /* a result of 16 bits has no room for them between the two rounds */
            float *row = mth__is_half(y->dtype) ? exponentials(c, place, k, most, &tile) : mth__f32(y) + place;
            mth__map_pair(MTH__ROW_div, k, row, sum, row);
            mth__tile_store(y, place, k, row);
        }
    }
}
void mth__run_softmax_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *p = c->plan;
    const mth__operand *y = &c->in[0], *dy = &c->in[1], *dx = &c->out[0];
    const soft_tiles tile = tiles_of(c, scratch);
    float *dot = tile.vector[0];
    if (p->inner == 1) {
        const mth__chunk_range r = mth__chunk_of(p->outer, c->chunks[0], chunk);
        for (int64_t i = r.lo; i < r.hi; i++) {
            const int64_t at = i * p->n;
            float *row = mth__tile_of(dx, at, tile.out);
            mth__vec->softmax_grad(
                p->n, mth__tile_read(y, at, p->n, tile.in[0]), mth__tile_read(dy, at, p->n, tile.in[1]), row);
            mth__tile_store(dx, at, p->n, row);
        }
        return;
    }
    const mth__chunk_range r = mth__chunk_of(p->outer * p->blocks, c->chunks[0], chunk);
    for (int64_t b = r.lo; b < r.hi; b++) {
        const int64_t column = b % p->blocks * COLUMNS, k = mth__min64(COLUMNS, p->inner - column),
                      at = b / p->blocks * p->n * p->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, dot, tile.cascade);
        for (int64_t i = 0; i < p->n; i++) {
            float *sum = mth__cascade_next(&total);
            const float *left = mth__tile_read(y, at + i * p->inner, k, tile.in[0]),
                        *right = mth__tile_read(dy, at + i * p->inner, k, tile.in[1]);
            for (int64_t j = 0; j < k; j++) sum[j] += left[j] * right[j];
        }
        mth__cascade_end(&total);
        for (int64_t i = 0; i < p->n; i++) {
            const int64_t place = at + i * p->inner;
            float *row = mth__tile_of(dx, place, tile.out);
            mth__map_pair(MTH__ROW_sub, k, mth__tile_read(dy, place, k, tile.in[1]), dot, row);
            mth__map_pair(MTH__ROW_mul, k, row, mth__tile_read(y, place, k, tile.in[0]), row);
            mth__tile_store(dx, place, k, row);
        }
    }
}

/* ---- norms. The tiles are rows: of x, the weight, the bias or dy, and the result. */
static void norm_rows(const mth__call *c, int64_t *rows, int64_t *width) {
    const mth__operand *x = &c->in[0];
    *width = x->shape.dim[x->shape.rank - 1];
    *rows = mth__dims(x, 0, x->shape.rank - 1);
}
static size_t norm_tiles(const mth__call *c, int64_t n) {
    size_t bytes = mth__tile_bytes(&c->out[0], n);
    for (int j = 0; j < c->nin; j++) bytes += mth__tile_bytes(&c->in[j], n);
    return bytes;
}
typedef struct {
    float *in[5], *out;
} norm_tile;
static norm_tile norm_tile_of(const mth__call *c, int64_t n, void *room) {
    norm_tile tile = {.out = mth__tile_take(&room, &c->out[0], n)};
    for (int j = 0; j < c->nin; j++) tile.in[j] = mth__tile_take(&room, &c->in[j], n);
    return tile;
}
static mth_status plan_norm(mth__call *c) {
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    c->thread_scratch = norm_tiles(c, n);
    mth__one_phase(c, (double)(rows * n), rows);
    return NULL;
}
mth_status mth__prepare_layer_norm(mth__arena *arena, mth__call *c) {
    (void)arena;
    return plan_norm(c);
}
mth_status mth__prepare_rms_norm(mth__arena *arena, mth__call *c) {
    (void)arena;
    return plan_norm(c);
}
static void norm(const mth__call *c, int chunk, void *scratch) {
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    const bool layer = c->nout == 3;
    const mth__operand *y = &c->out[0];
    const norm_tile tile = norm_tile_of(c, n, scratch);
    const float epsilon = (float)c->attrs->epsilon, *weight = mth__tile_read(&c->in[1], 0, n, tile.in[1]),
                *bias = layer ? mth__tile_read(&c->in[2], 0, n, tile.in[2]) : NULL;
    const mth__chunk_range r = mth__chunk_of(rows, c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++) {
        const float *x = mth__tile_read(&c->in[0], i * n, n, tile.in[0]);
        float *row = mth__tile_of(y, i * n, tile.out), *statistic = mth__f32(&c->out[1]) + i;
        if (layer)
            mth__vec->layer_norm(n, x, weight, bias, epsilon, row, statistic, mth__f32(&c->out[2]) + i);
        else
            mth__vec->rms_norm(n, x, weight, epsilon, row, statistic);
        mth__tile_store(y, i * n, n, row);
    }
}
void mth__run_layer_norm(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    norm(c, chunk, scratch);
}
void mth__run_rms_norm(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    norm(c, chunk, scratch);
}
/* Both gradients. The shared scratch holds dweight (and dbias) of each chunk. */
mth_status mth__prepare_norm_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    c->phases = 2;
    c->chunks[0] = mth__chunks(1.5 * (double)(rows * n), (rows + 15) / 16);
    c->call_scratch = (size_t)c->chunks[0] * 2 * (size_t)n * sizeof(float);
    c->thread_scratch = mth__cascade_bytes(2 * n) + norm_tiles(c, n) + mth__tile_bytes(&c->out[1], MTH__TILE);
    c->chunks[1] = mth__chunks(8.0 * (double)n * c->chunks[0] / MTH__BYTES_PER_NS, n / 64);
    return NULL;
}
void mth__run_norm_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    const bool layer = c->nout == 3;
    if (phase == 1) {
        const mth__chunk_range r = mth__chunk_of(n, c->chunks[1], chunk);
        for (int o = 1; o < c->nout; o++) {
            float *partial = (float *)c->shared + (o - 1) * n;
            for (int i = 1; i < c->chunks[0]; i++)
                mth__vec->add_to(r.hi - r.lo, partial + (int64_t)i * 2 * n + r.lo, partial + r.lo);
            for (int64_t at = r.lo, k; at < r.hi; at += k) {
                k = mth__min64(MTH__TILE, r.hi - at);
                float *sum = mth__tile_sum(&c->out[o], at, k, c->accumulates, scratch);
                if (c->accumulates)
                    mth__vec->add_to(k, partial + at, sum);
                else
                    memcpy(sum, partial + at, (size_t)k * sizeof *sum);
                mth__tile_store(&c->out[o], at, k, sum);
            }
        }
        return;
    }
    const mth__chunk_range r = mth__chunk_of(rows, c->chunks[0], chunk);
    const mth__operand *dx = &c->out[0];
    const int last = c->nin - 1; /* dy */
    const norm_tile tile = norm_tile_of(c, n, (char *)scratch + mth__cascade_bytes(2 * n));
    const float *weight = mth__tile_read(&c->in[1], 0, n, tile.in[1]), *mean = c->in[2].data,
                *rstd = c->in[layer ? 3 : 2].data;
    mth__cascade sum; /* of dw and db, side by side */
    mth__cascade_begin(&sum, (layer ? 2 : 1) * n, false, (float *)c->shared + (int64_t)chunk * 2 * n, scratch);
    for (int64_t i = r.lo; i < r.hi; i++) {
        const float *x = mth__tile_read(&c->in[0], i * n, n, tile.in[0]),
                    *dy = mth__tile_read(&c->in[last], i * n, n, tile.in[last]);
        float *row = mth__tile_of(dx, i * n, tile.out), *dw = mth__cascade_next(&sum);
        if (layer)
            mth__vec->layer_norm_grad(n, x, weight, mean[i], rstd[i], dy, row, dw, dw + n);
        else
            mth__vec->rms_norm_grad(n, x, weight, rstd[i], dy, row, dw);
        mth__tile_store(dx, i * n, n, row);
    }
    mth__cascade_end(&sum);
}
