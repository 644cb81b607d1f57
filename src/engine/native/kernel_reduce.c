/* reduce_sum, reduce_max. Dimensions are merged into kept ones and reduced ones; a long reduction is cut in parts that
 * a second phase combines, so that a column of a million rows keeps all cores busy. */
#include "engine/native/kernel_util.h"

typedef struct {
    mth__loop kept, reduced; /* operand 0: x */
    /* along: the innermost dimension of x is reduced; else it is kept, and is `width` */
    bool max, along;
    int64_t width; /* of an output row */
    int64_t rows;  /* output rows: kept without width */
    /* reduced runs per output row: rows of x (not along), else runs of `run` elements */
    int64_t terms;
    int64_t run;
    int parts, row_chunks, column_chunks; /* phase 0; parts of the reduced elements or rows */
    int64_t column;
} reduce_plan;
enum { BLOCK = 64, COLUMNS = 1024, RUN = 4096 /* elements of 16 bits that are converted at a time */ };

mth_status mth__prepare_reduce(mth__arena *arena, mth__call *c) {
    reduce_plan *p = NEW(arena, reduce_plan);
    const mth__operand *x = &c->in[0];
    int64_t stride[MTH__RANK];
    mth__loop merged = {.operands = 2};
    /* operand 1 marks the reduced dimensions: neighbours merge only where both are kept or both reduced */
    mth__shape_strides(x->shape, stride);
    for (int d = 0; d < x->shape.rank; d++) {
        if (x->shape.dim[d] == 1) continue;
        const int last = merged.rank - 1;
        const int64_t reduced = c->attrs->dimensions >> d & 1;
        if (last >= 0 && merged.stride[1][last] == reduced) {
            merged.size[last] *= x->shape.dim[d];
            merged.stride[0][last] = stride[d];
            continue;
        }
        merged.size[merged.rank] = x->shape.dim[d];
        merged.stride[0][merged.rank] = stride[d];
        merged.stride[1][merged.rank++] = reduced;
    }
    p->kept.operands = p->reduced.operands = 1;
    for (int d = 0; d < merged.rank; d++) {
        mth__loop *l = merged.stride[1][d] ? &p->reduced : &p->kept;
        l->size[l->rank] = merged.size[d];
        l->stride[0][l->rank++] = merged.stride[0][d];
    }
    p->max = mth__op_index(c->op) == MTH__ROW_reduce_max;
    p->along = merged.rank == 0 || merged.stride[1][merged.rank - 1];
    p->width = p->along ? 1 : p->kept.size[--p->kept.rank];
    p->run = !p->along ? 1 : p->reduced.rank ? p->reduced.size[--p->reduced.rank] : 1;
    p->rows = p->terms = 1;
    for (int d = 0; d < p->kept.rank; d++) p->rows *= p->kept.size[d];
    for (int d = 0; d < p->reduced.rank; d++) p->terms *= p->reduced.size[d];

    const double ns = 4.0 * (double)mth__size(x) / MTH__BYTES_PER_NS;
    const int want = mth__chunks(ns, INT32_MAX);
    p->row_chunks = (int)mth__max64(1, mth__min64(p->rows, want));
    p->column_chunks = (int)mth__max64(1, mth__min64(mth__ceil_div(p->width, COLUMNS), want / p->row_chunks));
    const int64_t left = mth__ceil_div(want, p->row_chunks * p->column_chunks);
    const int64_t most = p->along ? p->terms * p->run / 65536 : p->terms / BLOCK;
    p->parts = (int)mth__max64(1, mth__min64(left, most));
    c->phases = 1;
    c->chunks[0] = p->row_chunks * p->column_chunks * p->parts;
    if (p->parts > 1) {
        c->call_scratch = (size_t)(p->rows * p->width * p->parts) * sizeof(float);
        c->phases = 2;
        c->chunks[1] = mth__chunks(
            4.0 * (double)p->rows * (double)p->width * p->parts / MTH__BYTES_PER_NS, p->rows * p->width / 64);
    }
    c->thread_scratch = mth__cascade_bytes(COLUMNS) + mth__tile_bytes(x, RUN) + mth__tile_bytes(&c->out[0], COLUMNS);
    c->plan = p;
    return NULL;
}

typedef struct {
    void *sum; /* of a cascade */
    float *x, *y;
} tiles;
static tiles tiles_of(const mth__call *c, void *scratch) {
    void *room = (char *)scratch + mth__cascade_bytes(COLUMNS);
    tiles at = {.sum = scratch};
    at.x = mth__tile_take(&room, &c->in[0], RUN);
    at.y = mth__tile_take(&room, &c->out[0], COLUMNS);
    return at;
}
/* Elements [to, to + n) of y, n <= COLUMNS, = (or +=) the reduction of the rows `terms` of x, from `first` on. */
static void reduce_columns(const reduce_plan *p, const mth__operand *x, int64_t first, mth__chunk_range terms,
    int64_t n, bool add, const mth__operand *y, int64_t to, const tiles *tile) {
    int64_t at[MTH__LOOP_OPERANDS];
    float *result = mth__tile_sum(y, to, n, add, tile->y);
    mth__cascade sum;
    if (p->max)
        mth__vec->fill(n, -INFINITY, result);
    else
        mth__cascade_begin(&sum, n, add, result, tile->sum);
    for (int64_t t = terms.lo; t < terms.hi; t++) {
        mth__loop_at(&p->reduced, p->reduced.rank, t, at);
        const float *row = mth__tile_read(x, first + at[0], n, tile->x);
        if (p->max)
            mth__vec->max_to(n, row, result);
        else
            mth__vec->add_to(n, row, mth__cascade_next(&sum));
    }
    if (!p->max) mth__cascade_end(&sum);
    mth__tile_store(y, to, n, result);
}
/* Elements [lo, hi) of the flat sequence of runs of x from `first` on. */
static float reduce_along(
    const reduce_plan *p, const mth__operand *x, int64_t first, mth__chunk_range elements, float *tile) {
    const int64_t longest = mth__is_half(x->dtype) ? RUN : INT64_MAX;
    int64_t at[MTH__LOOP_OPERANDS];
    double sum = 0;
    float most = -INFINITY;
    for (int64_t e = elements.lo; e < elements.hi;) {
        const int64_t i = e % p->run, n = mth__min64(longest, mth__min64(p->run - i, elements.hi - e));
        mth__loop_at(&p->reduced, p->reduced.rank, e / p->run, at);
        const float *run = mth__tile_read(x, first + at[0] + i, n, tile);
        if (p->max) {
            const float m = mth__vec->max(n, run);
            most = m > most || m != m ? m : most;
        } else
            sum += mth__vec->sum(n, run);
        e += n;
    }
    return p->max ? most : (float)sum;
}
/* The partial results of all parts, and what is in y. */
static void combine(const mth__call *c, const reduce_plan *p, mth__chunk_range r, float *tile) {
    float *partial = c->shared;
    const int64_t total = p->rows * p->width;
    for (int i = 1; i < p->parts; i++)
        (p->max ? mth__vec->max_to : mth__vec->add_to)(r.hi - r.lo, partial + i * total + r.lo, partial + r.lo);
    for (int64_t at = r.lo, n; at < r.hi; at += n) {
        n = mth__min64(COLUMNS, r.hi - at);
        float *y = mth__tile_sum(&c->out[0], at, n, c->accumulates, tile);
        if (c->accumulates)
            mth__vec->add_to(n, partial + at, y);
        else
            memcpy(y, partial + at, (size_t)n * sizeof *y);
        mth__tile_store(&c->out[0], at, n, y);
    }
}
void mth__run_reduce(const mth__call *c, int phase, int chunk, void *scratch) {
    const reduce_plan *p = c->plan;
    const tiles tile = tiles_of(c, scratch);
    const int64_t total = p->rows * p->width;
    if (phase == 1) {
        combine(c, p, mth__chunk_of(total, c->chunks[1], chunk), tile.y);
        return;
    }
    const int part = chunk % p->parts, columns = chunk / p->parts % p->column_chunks,
              rows = chunk / p->parts / p->column_chunks;
    const mth__chunk_range r = mth__chunk_of(p->rows, p->row_chunks, rows);
    const mth__operand partial = {.data = (float *)c->shared + part * total, .dtype = MTH_FLOAT32};
    const mth__operand *y = p->parts > 1 ? &partial : &c->out[0];
    const bool add = c->accumulates && p->parts == 1; /* else the second phase adds */
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = r.lo; row < r.hi; row++) {
        mth__loop_at(&p->kept, p->kept.rank, row, at);
        if (p->along) {
            const float reduced =
                reduce_along(p, &c->in[0], at[0], mth__chunk_of(p->terms * p->run, p->parts, part), tile.x);
            float *out = mth__tile_sum(y, row, 1, add, tile.y);
            *out = add ? *out + reduced : reduced;
            mth__tile_store(y, row, 1, out);
            continue;
        }
        const mth__chunk_range w = mth__chunk_of(p->width, p->column_chunks, columns),
                               terms = mth__chunk_of(p->terms, p->parts, part);
        for (int64_t from = w.lo; from < w.hi; from += COLUMNS)
            reduce_columns(p, &c->in[0], at[0] + from, terms, mth__min64(COLUMNS, w.hi - from), add, y,
                row * p->width + from, &tile);
    }
}
