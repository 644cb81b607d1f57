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
    c->thread_scratch = 2 * COLUMNS * sizeof(float) + mth__cascade_bytes(COLUMNS);
    mth__one_phase(c, 1.5 * (double)mth__size(x), p->inner == 1 ? p->outer : p->outer * p->blocks);
    return NULL;
}
mth_status mth__prepare_softmax(mth__arena *arena, mth__call *c) { return plan_softmax(arena, c); }
mth_status mth__prepare_softmax_grad(mth__arena *arena, mth__call *c) { return plan_softmax(arena, c); }
void mth__run_softmax(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *p = c->plan;
    const float *x = c->in[0].data;
    float *y = c->out[0].data, *most = scratch, *sum = most + COLUMNS;
    if (p->inner == 1) {
        const mth__chunk_range r = mth__chunk_of(p->outer, c->chunks[0], chunk);
        for (int64_t i = r.lo; i < r.hi; i++) mth__vec->softmax(p->n, x + i * p->n, y + i * p->n);
        return;
    }
    const mth__chunk_range r = mth__chunk_of(p->outer * p->blocks, c->chunks[0], chunk);
    for (int64_t b = r.lo; b < r.hi; b++) {
        const int64_t column = b % p->blocks * COLUMNS, k = mth__min64(COLUMNS, p->inner - column),
                      at = b / p->blocks * p->n * p->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, sum, sum + COLUMNS);
        mth__vec->fill(k, -INFINITY, most);
        for (int64_t i = 0; i < p->n; i++) mth__vec->max_to(k, x + at + i * p->inner, most);
        for (int64_t i = 0; i < p->n; i++) {
            float *row = y + at + i * p->inner;
            mth__map_pair(MTH__ROW_sub, k, x + at + i * p->inner, most, row);
            mth__map(MTH__ROW_exp, k, row, row);
            mth__vec->add_to(k, row, mth__cascade_next(&total));
        }
        mth__cascade_end(&total);
        for (int64_t i = 0; i < p->n; i++)
            mth__map_pair(MTH__ROW_div, k, y + at + i * p->inner, sum, y + at + i * p->inner);
    }
}
void mth__run_softmax_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *p = c->plan;
    const float *y = c->in[0].data, *dy = c->in[1].data;
    float *dx = c->out[0].data, *dot = scratch;
    if (p->inner == 1) {
        const mth__chunk_range r = mth__chunk_of(p->outer, c->chunks[0], chunk);
        for (int64_t i = r.lo; i < r.hi; i++) mth__vec->softmax_grad(p->n, y + i * p->n, dy + i * p->n, dx + i * p->n);
        return;
    }
    const mth__chunk_range r = mth__chunk_of(p->outer * p->blocks, c->chunks[0], chunk);
    for (int64_t b = r.lo; b < r.hi; b++) {
        const int64_t column = b % p->blocks * COLUMNS, k = mth__min64(COLUMNS, p->inner - column),
                      at = b / p->blocks * p->n * p->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, dot, dot + COLUMNS);
        for (int64_t i = 0; i < p->n; i++) {
            float *sum = mth__cascade_next(&total);
            for (int64_t j = 0; j < k; j++) sum[j] += y[at + i * p->inner + j] * dy[at + i * p->inner + j];
        }
        mth__cascade_end(&total);
        for (int64_t i = 0; i < p->n; i++) {
            float *row = dx + at + i * p->inner;
            mth__map_pair(MTH__ROW_sub, k, dy + at + i * p->inner, dot, row);
            mth__map_pair(MTH__ROW_mul, k, row, y + at + i * p->inner, row);
        }
    }
}

/* ---- norms */
static void norm_rows(const mth__call *c, int64_t *rows, int64_t *width) {
    const mth__operand *x = &c->in[0];
    *width = x->shape.dim[x->shape.rank - 1];
    *rows = mth__dims(x, 0, x->shape.rank - 1);
}
static mth_status plan_norm(mth__call *c) {
    int64_t rows, n;
    norm_rows(c, &rows, &n);
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
void mth__run_layer_norm(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    const mth__chunk_range r = mth__chunk_of(rows, c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++)
        mth__vec->layer_norm(n, mth__f32(&c->in[0]) + i * n, c->in[1].data, c->in[2].data, (float)c->attrs->epsilon,
            mth__f32(&c->out[0]) + i * n, mth__f32(&c->out[1]) + i, mth__f32(&c->out[2]) + i);
}
void mth__run_rms_norm(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    const mth__chunk_range r = mth__chunk_of(rows, c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++)
        mth__vec->rms_norm(n, mth__f32(&c->in[0]) + i * n, c->in[1].data, (float)c->attrs->epsilon,
            mth__f32(&c->out[0]) + i * n, mth__f32(&c->out[1]) + i);
}
/* Both gradients. The shared scratch holds dweight (and dbias) of each chunk. */
mth_status mth__prepare_norm_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    int64_t rows, n;
    norm_rows(c, &rows, &n);
    c->phases = 2;
    c->chunks[0] = mth__chunks(1.5 * (double)(rows * n), (rows + 15) / 16);
    c->call_scratch = (size_t)c->chunks[0] * 2 * (size_t)n * sizeof(float);
    c->thread_scratch = mth__cascade_bytes(2 * n);
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
            float *sum = mth__f32(&c->out[o]) + r.lo, *partial = (float *)c->shared + (o - 1) * n + r.lo;
            for (int i = 1; i < c->chunks[0]; i++) mth__vec->add_to(r.hi - r.lo, partial + (int64_t)i * 2 * n, partial);
            if (c->accumulates)
                mth__vec->add_to(r.hi - r.lo, partial, sum);
            else
                memcpy(sum, partial, (size_t)(r.hi - r.lo) * sizeof *sum);
        }
        return;
    }
    const mth__chunk_range r = mth__chunk_of(rows, c->chunks[0], chunk);
    const float *x = c->in[0].data, *w = c->in[1].data, *mean = c->in[2].data, *rstd = c->in[layer ? 3 : 2].data,
                *dy = c->in[layer ? 4 : 3].data;
    float *dx = c->out[0].data;
    mth__cascade sum; /* of dw and db, side by side */
    mth__cascade_begin(&sum, (layer ? 2 : 1) * n, false, (float *)c->shared + (int64_t)chunk * 2 * n, scratch);
    for (int64_t i = r.lo; i < r.hi; i++) {
        float *dw = mth__cascade_next(&sum);
        if (layer)
            mth__vec->layer_norm_grad(n, x + i * n, w, mean[i], rstd[i], dy + i * n, dx + i * n, dw, dw + n);
        else
            mth__vec->rms_norm_grad(n, x + i * n, w, rstd[i], dy + i * n, dx + i * n, dw);
    }
    mth__cascade_end(&sum);
}
