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

mth_status mth__prepare_reduce(mth__arena *arena, mth__call *call) {
    reduce_plan *plan = NEW(arena, reduce_plan);
    const mth__operand *x = &call->in[0];
    int64_t stride[MTH__RANK];
    mth__loop merged = {.operands = 2};
    /* operand 1 marks the reduced dimensions: neighbours merge only where both are kept or both reduced */
    mth__shape_strides(x->shape, stride);
    for (int d = 0; d < x->shape.rank; d++) {
        if (x->shape.dim[d] == 1) continue;
        const int last = merged.rank - 1;
        const int64_t reduced = call->attrs->dimensions >> d & 1;
        if (last >= 0 && merged.stride[1][last] == reduced) {
            merged.size[last] *= x->shape.dim[d];
            merged.stride[0][last] = stride[d];
            continue;
        }
        merged.size[merged.rank] = x->shape.dim[d];
        merged.stride[0][merged.rank] = stride[d];
        merged.stride[1][merged.rank++] = reduced;
    }
    plan->kept.operands = plan->reduced.operands = 1;
    for (int d = 0; d < merged.rank; d++) {
        mth__loop *loop = merged.stride[1][d] ? &plan->reduced : &plan->kept;
        loop->size[loop->rank] = merged.size[d];
        loop->stride[0][loop->rank++] = merged.stride[0][d];
    }
    plan->max = call->op->row == MTH__ROW_reduce_max;
    plan->along = merged.rank == 0 || merged.stride[1][merged.rank - 1];
    plan->width = plan->along ? 1 : plan->kept.size[--plan->kept.rank];
    plan->run = !plan->along ? 1 : plan->reduced.rank ? plan->reduced.size[--plan->reduced.rank] : 1;
    plan->rows = plan->terms = 1;
    for (int d = 0; d < plan->kept.rank; d++) plan->rows *= plan->kept.size[d];
    for (int d = 0; d < plan->reduced.rank; d++) plan->terms *= plan->reduced.size[d];

    const double ns = 4.0 * (double)mth__size(x) / MTH__BYTES_PER_NS;
    const int chunks_wanted = mth__chunks(ns, INT32_MAX);
    plan->row_chunks = (int)mth__max64(1, mth__min64(plan->rows, chunks_wanted));
    plan->column_chunks =
        (int)mth__max64(1, mth__min64(mth__ceil_div(plan->width, COLUMNS), chunks_wanted / plan->row_chunks));
    const int64_t left = mth__ceil_div(chunks_wanted, plan->row_chunks * plan->column_chunks);
    const int64_t most = plan->along ? plan->terms * plan->run / 65536 : plan->terms / BLOCK;
    plan->parts = (int)mth__max64(1, mth__min64(left, most));
    call->phases = 1;
    call->chunks[0] = plan->row_chunks * plan->column_chunks * plan->parts;
    if (plan->parts > 1) {
        call->call_scratch = (size_t)(plan->rows * plan->width * plan->parts) * sizeof(float);
        call->phases = 2;
        call->chunks[1] = mth__chunks(4.0 * (double)plan->rows * (double)plan->width * plan->parts / MTH__BYTES_PER_NS,
            plan->rows * plan->width / 64);
    }
    call->thread_scratch =
        mth__cascade_bytes(COLUMNS) + mth__tile_bytes(x, RUN) + mth__tile_bytes(&call->out[0], COLUMNS);
    call->plan = plan;
    return NULL;
}

typedef struct {
    void *sum; /* of a cascade */
    float *x, *y;
} tiles;
static tiles tiles_of(const mth__call *call, void *scratch) {
    void *room = (char *)scratch + mth__cascade_bytes(COLUMNS);
    tiles at = {.sum = scratch};
    at.x = mth__tile_take(&room, &call->in[0], RUN);
    at.y = mth__tile_take(&room, &call->out[0], COLUMNS);
    return at;
}
/* Elements [to, to + n) of y, n <= COLUMNS, = (or +=) the reduction of the rows `terms` of x, from `first` on. */
static void reduce_columns(const reduce_plan *plan, const mth__operand *x, int64_t first, mth__chunk_range terms,
    int64_t n, bool add, const mth__operand *y, int64_t to, const tiles *tile) {
    int64_t at[MTH__LOOP_OPERANDS];
    float *result = mth__tile_sum(y, to, n, add, tile->y);
    mth__cascade sum;
    if (plan->max)
        mth__vec->fill(n, -INFINITY, result);
    else
        mth__cascade_begin(&sum, n, add, result, tile->sum);
    for (int64_t term = terms.lo; term < terms.hi; term++) {
        mth__loop_at(&plan->reduced, plan->reduced.rank, term, at);
        const float *row = mth__tile_read(x, first + at[0], n, tile->x);
        if (plan->max)
            mth__vec->max_to(n, row, result);
        else
            mth__vec->add_to(n, row, mth__cascade_next(&sum));
    }
    if (!plan->max) mth__cascade_end(&sum);
    mth__tile_store(y, to, n, result);
}
/* Elements [lo, hi) of the flat sequence of runs of x from `first` on. */
static float reduce_along(
    const reduce_plan *plan, const mth__operand *x, int64_t first, mth__chunk_range elements, float *tile) {
    const int64_t longest = mth__is_half(x->dtype) ? RUN : INT64_MAX;
    int64_t at[MTH__LOOP_OPERANDS];
    double sum = 0;
    float most = -INFINITY;
    for (int64_t element = elements.lo; element < elements.hi;) {
        const int64_t i = element % plan->run,
                      n = mth__min64(longest, mth__min64(plan->run - i, elements.hi - element));
        mth__loop_at(&plan->reduced, plan->reduced.rank, element / plan->run, at);
        const float *run = mth__tile_read(x, first + at[0] + i, n, tile);
        if (plan->max) {
            const float m = mth__vec->max(n, run);
            most = m > most || m != m ? m : most;
        } else
            sum += mth__vec->sum(n, run);
        element += n;
    }
    return plan->max ? most : (float)sum;
}
/* The partial results of all parts, and what is in y. */
static void combine(const mth__call *call, const reduce_plan *plan, mth__chunk_range range, float *tile) {
    float *partial = call->shared;
    const int64_t total = plan->rows * plan->width;
    for (int i = 1; i < plan->parts; i++)
        (plan->max ? mth__vec->max_to : mth__vec->add_to)(
            range.hi - range.lo, partial + i * total + range.lo, partial + range.lo);
    for (int64_t at = range.lo, n; at < range.hi; at += n) {
        n = mth__min64(COLUMNS, range.hi - at);
        float *y = mth__tile_sum(&call->out[0], at, n, call->accumulates, tile);
        if (call->accumulates)
            mth__vec->add_to(n, partial + at, y);
        else
            memcpy(y, partial + at, (size_t)n * sizeof *y);
        mth__tile_store(&call->out[0], at, n, y);
    }
}
void mth__run_reduce(const mth__call *call, int phase, int chunk, void *scratch) {
    const reduce_plan *plan = call->plan;
    const tiles tile = tiles_of(call, scratch);
    const int64_t total = plan->rows * plan->width;
    if (phase == 1) {
        combine(call, plan, mth__chunk_of(total, call->chunks[1], chunk), tile.y);
        return;
    }
    const int part = chunk % plan->parts, columns = chunk / plan->parts % plan->column_chunks,
              rows = chunk / plan->parts / plan->column_chunks;
    const mth__chunk_range range = mth__chunk_of(plan->rows, plan->row_chunks, rows);
    const mth__operand partial = {.data = (float *)call->shared + part * total, .dtype = MTH_FLOAT32};
    const mth__operand *y = plan->parts > 1 ? &partial : &call->out[0];
    const bool add = call->accumulates && plan->parts == 1; /* else the second phase adds */
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = range.lo; row < range.hi; row++) {
        mth__loop_at(&plan->kept, plan->kept.rank, row, at);
        if (plan->along) {
            const float reduced = reduce_along(
                plan, &call->in[0], at[0], mth__chunk_of(plan->terms * plan->run, plan->parts, part), tile.x);
            float *out = mth__tile_sum(y, row, 1, add, tile.y);
            *out = add ? *out + reduced : reduced;
            mth__tile_store(y, row, 1, out);
            continue;
        }
        const mth__chunk_range share = mth__chunk_of(plan->width, plan->column_chunks, columns),
                               terms = mth__chunk_of(plan->terms, plan->parts, part);
        for (int64_t from = share.lo; from < share.hi; from += COLUMNS)
            reduce_columns(plan, &call->in[0], at[0] + from, terms, mth__min64(COLUMNS, share.hi - from), add, y,
                row * plan->width + from, &tile);
    }
}
