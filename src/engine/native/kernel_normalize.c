/* softmax, layer_norm, rms_norm and their gradients: a row at a time; the gradients of weights are summed per chunk of
 * rows, then over chunks. */
#include "engine/native/kernel_util.h"

/* ---- softmax over one dimension: [outer, n, inner]; with inner rows, `COLUMNS` columns at a time */
typedef struct {
    int64_t outer, n, inner, blocks;
} soft;
enum { COLUMNS = 256 };
static mth_status plan_softmax(mth__arena *arena, mth__call *call) {
    soft *plan = NEW(arena, soft);
    const mth__operand *x = &call->in[0];
    const int d = (int)call->attrs->dimension;
    plan->outer = mth__dims(x, 0, d);
    plan->n = x->shape.dim[d];
    plan->inner = mth__dims(x, d + 1, x->shape.rank);
    plan->blocks = mth__ceil_div(plan->inner, COLUMNS);
    call->plan = plan;
    const int64_t columns = plan->inner == 1 ? plan->n : COLUMNS;
    call->thread_scratch = 2 * COLUMNS * sizeof(float) + mth__cascade_bytes(COLUMNS);
    for (int j = 0; j < call->nin; j++) call->thread_scratch += mth__tile_bytes(&call->in[j], columns);
    call->thread_scratch += mth__tile_bytes(&call->out[0], columns);
    mth__one_phase(call, 1.5 * (double)mth__size(x), plan->inner == 1 ? plan->outer : plan->outer * plan->blocks);
    return NULL;
}
mth_status mth__prepare_softmax(mth__arena *arena, mth__call *call) { return plan_softmax(arena, call); }
mth_status mth__prepare_softmax_grad(mth__arena *arena, mth__call *call) { return plan_softmax(arena, call); }
typedef struct {
    float *vector[2], *cascade, *in[2], *out;
} soft_tiles;
static soft_tiles tiles_of(const mth__call *call, void *scratch) {
    const soft *plan = call->plan;
    const int64_t columns = plan->inner == 1 ? plan->n : COLUMNS;
    soft_tiles tile = {.vector = {scratch, (float *)scratch + COLUMNS}, .cascade = (float *)scratch + 2 * COLUMNS};
    void *room = (char *)tile.cascade + mth__cascade_bytes(COLUMNS);
    for (int j = 0; j < call->nin; j++) tile.in[j] = mth__tile_take(&room, &call->in[j], columns);
    tile.out = mth__tile_take(&room, &call->out[0], columns);
    return tile;
}
/* exp(x - most) of k elements from `at` on, where they are computed. */
static float *exponentials(const mth__call *call, int64_t at, int64_t k, const float *most, const soft_tiles *tile) {
    float *row = mth__tile_of(&call->out[0], at, tile->out);
    mth__map_pair(MTH__ROW_sub, k, mth__tile_read(&call->in[0], at, k, tile->in[0]), most, row);
    mth__map(MTH__ROW_exp, k, row, row);
    return row;
}
void mth__run_softmax(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *plan = call->plan;
    const mth__operand *x = &call->in[0], *y = &call->out[0];
    const soft_tiles tile = tiles_of(call, scratch);
    float *most = tile.vector[0], *sum = tile.vector[1];
    if (plan->inner == 1) {
        const mth__chunk_range range = mth__chunk_of(plan->outer, call->chunks[0], chunk);
        for (int64_t i = range.lo; i < range.hi; i++) {
            float *row = mth__tile_of(y, i * plan->n, tile.out);
            mth__vec->softmax(plan->n, mth__tile_read(x, i * plan->n, plan->n, tile.in[0]), row);
            mth__tile_store(y, i * plan->n, plan->n, row);
        }
        return;
    }
    const mth__chunk_range range = mth__chunk_of(plan->outer * plan->blocks, call->chunks[0], chunk);
    for (int64_t block = range.lo; block < range.hi; block++) {
        const int64_t column = block % plan->blocks * COLUMNS, k = mth__min64(COLUMNS, plan->inner - column),
                      at = block / plan->blocks * plan->n * plan->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, sum, tile.cascade);
        mth__vec->fill(k, -INFINITY, most);
        for (int64_t i = 0; i < plan->n; i++)
            mth__vec->max_to(k, mth__tile_read(x, at + i * plan->inner, k, tile.in[0]), most);
        for (int64_t i = 0; i < plan->n; i++)
            mth__vec->add_to(k, exponentials(call, at + i * plan->inner, k, most, &tile), mth__cascade_next(&total));
        mth__cascade_end(&total);
        for (int64_t i = 0; i < plan->n; i++) {
            const int64_t place = at + i * plan->inner;
            /* a result of 16 bits has no room for them between the two rounds */
            float *row = mth__is_half(y->dtype) ? exponentials(call, place, k, most, &tile) : mth__f32(y) + place;
            mth__map_pair(MTH__ROW_div, k, row, sum, row);
            mth__tile_store(y, place, k, row);
        }
    }
}
void mth__run_softmax_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const soft *plan = call->plan;
    const mth__operand *y = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    const soft_tiles tile = tiles_of(call, scratch);
    float *dot = tile.vector[0];
    if (plan->inner == 1) {
        const mth__chunk_range range = mth__chunk_of(plan->outer, call->chunks[0], chunk);
        for (int64_t i = range.lo; i < range.hi; i++) {
            const int64_t at = i * plan->n;
            float *row = mth__tile_of(dx, at, tile.out);
            mth__vec->softmax_grad(
                plan->n, mth__tile_read(y, at, plan->n, tile.in[0]), mth__tile_read(dy, at, plan->n, tile.in[1]), row);
            mth__tile_store(dx, at, plan->n, row);
        }
        return;
    }
    const mth__chunk_range range = mth__chunk_of(plan->outer * plan->blocks, call->chunks[0], chunk);
    for (int64_t block = range.lo; block < range.hi; block++) {
        const int64_t column = block % plan->blocks * COLUMNS, k = mth__min64(COLUMNS, plan->inner - column),
                      at = block / plan->blocks * plan->n * plan->inner + column;
        mth__cascade total;
        mth__cascade_begin(&total, k, false, dot, tile.cascade);
        for (int64_t i = 0; i < plan->n; i++) {
            float *sum = mth__cascade_next(&total);
            const float *left = mth__tile_read(y, at + i * plan->inner, k, tile.in[0]),
                        *right = mth__tile_read(dy, at + i * plan->inner, k, tile.in[1]);
            for (int64_t j = 0; j < k; j++) sum[j] += left[j] * right[j];
        }
        mth__cascade_end(&total);
        for (int64_t i = 0; i < plan->n; i++) {
            const int64_t place = at + i * plan->inner;
            float *row = mth__tile_of(dx, place, tile.out);
            mth__map_pair(MTH__ROW_sub, k, mth__tile_read(dy, place, k, tile.in[1]), dot, row);
            mth__map_pair(MTH__ROW_mul, k, row, mth__tile_read(y, place, k, tile.in[0]), row);
            mth__tile_store(dx, place, k, row);
        }
    }
}

/* ---- norms. The tiles are rows: of x, the weight, the bias or dy, and the result. */
static void norm_rows(const mth__call *call, int64_t *rows, int64_t *width) {
    const mth__operand *x = &call->in[0];
    *width = x->shape.dim[x->shape.rank - 1];
    *rows = mth__dims(x, 0, x->shape.rank - 1);
}
static size_t norm_tiles(const mth__call *call, int64_t n) {
    size_t bytes = mth__tile_bytes(&call->out[0], n);
    for (int j = 0; j < call->nin; j++) bytes += mth__tile_bytes(&call->in[j], n);
    return bytes;
}
typedef struct {
    float *in[5], *out;
} norm_tile;
static norm_tile norm_tile_of(const mth__call *call, int64_t n, void *room) {
    norm_tile tile = {.out = mth__tile_take(&room, &call->out[0], n)};
    for (int j = 0; j < call->nin; j++) tile.in[j] = mth__tile_take(&room, &call->in[j], n);
    return tile;
}
static mth_status plan_norm(mth__call *call) {
    int64_t rows, n;
    norm_rows(call, &rows, &n);
    call->thread_scratch = norm_tiles(call, n);
    mth__one_phase(call, (double)(rows * n), rows);
    return NULL;
}
mth_status mth__prepare_layer_norm(mth__arena *arena, mth__call *call) {
    (void)arena;
    return plan_norm(call);
}
mth_status mth__prepare_rms_norm(mth__arena *arena, mth__call *call) {
    (void)arena;
    return plan_norm(call);
}
static void norm(const mth__call *call, int chunk, void *scratch) {
    int64_t rows, n;
    norm_rows(call, &rows, &n);
    const bool layer = call->nout == 3;
    const mth__operand *y = &call->out[0];
    const norm_tile tile = norm_tile_of(call, n, scratch);
    const float epsilon = (float)call->attrs->epsilon, *weight = mth__tile_read(&call->in[1], 0, n, tile.in[1]),
                *bias = layer ? mth__tile_read(&call->in[2], 0, n, tile.in[2]) : NULL;
    const mth__chunk_range range = mth__chunk_of(rows, call->chunks[0], chunk);
    for (int64_t i = range.lo; i < range.hi; i++) {
        const float *x = mth__tile_read(&call->in[0], i * n, n, tile.in[0]);
        float *row = mth__tile_of(y, i * n, tile.out), *statistic = mth__f32(&call->out[1]) + i;
        if (layer)
            mth__vec->layer_norm(n, x, weight, bias, epsilon, row, statistic, mth__f32(&call->out[2]) + i);
        else
            mth__vec->rms_norm(n, x, weight, epsilon, row, statistic);
        mth__tile_store(y, i * n, n, row);
    }
}
void mth__run_layer_norm(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    norm(call, chunk, scratch);
}
void mth__run_rms_norm(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    norm(call, chunk, scratch);
}
/* Both gradients. The shared scratch holds dweight (and dbias) of each chunk. */
mth_status mth__prepare_norm_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    int64_t rows, n;
    norm_rows(call, &rows, &n);
    call->phases = 2;
    call->chunks[0] = mth__chunks(1.5 * (double)(rows * n), (rows + 15) / 16);
    call->call_scratch = (size_t)call->chunks[0] * 2 * (size_t)n * sizeof(float);
    call->thread_scratch = mth__cascade_bytes(2 * n) + norm_tiles(call, n) + mth__tile_bytes(&call->out[1], MTH__TILE);
    call->chunks[1] = mth__chunks(8.0 * (double)n * call->chunks[0] / MTH__BYTES_PER_NS, n / 64);
    return NULL;
}
void mth__run_norm_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    int64_t rows, n;
    norm_rows(call, &rows, &n);
    const bool layer = call->nout == 3;
    if (phase == 1) {
        const mth__chunk_range range = mth__chunk_of(n, call->chunks[1], chunk);
        for (int operand = 1; operand < call->nout; operand++) {
            float *partial = (float *)call->shared + (operand - 1) * n;
            for (int i = 1; i < call->chunks[0]; i++)
                mth__vec->add_to(range.hi - range.lo, partial + (int64_t)i * 2 * n + range.lo, partial + range.lo);
            for (int64_t at = range.lo, k; at < range.hi; at += k) {
                k = mth__min64(MTH__TILE, range.hi - at);
                float *sum = mth__tile_sum(&call->out[operand], at, k, call->accumulates, scratch);
                if (call->accumulates)
                    mth__vec->add_to(k, partial + at, sum);
                else
                    memcpy(sum, partial + at, (size_t)k * sizeof *sum);
                mth__tile_store(&call->out[operand], at, k, sum);
            }
        }
        return;
    }
    const mth__chunk_range range = mth__chunk_of(rows, call->chunks[0], chunk);
    const mth__operand *dx = &call->out[0];
    const int last = call->nin - 1; /* dy */
    const norm_tile tile = norm_tile_of(call, n, (char *)scratch + mth__cascade_bytes(2 * n));
    const float *weight = mth__tile_read(&call->in[1], 0, n, tile.in[1]), *mean = call->in[2].data,
                *rstd = call->in[layer ? 3 : 2].data;
    mth__cascade sum; /* of dw and db, side by side */
    mth__cascade_begin(&sum, (layer ? 2 : 1) * n, false, (float *)call->shared + (int64_t)chunk * 2 * n, scratch);
    for (int64_t i = range.lo; i < range.hi; i++) {
        const float *x = mth__tile_read(&call->in[0], i * n, n, tile.in[0]),
                    *dy = mth__tile_read(&call->in[last], i * n, n, tile.in[last]);
        float *row = mth__tile_of(dx, i * n, tile.out), *dw = mth__cascade_next(&sum);
        if (layer)
            mth__vec->layer_norm_grad(n, x, weight, mean[i], rstd[i], dy, row, dw, dw + n);
        else
            mth__vec->rms_norm_grad(n, x, weight, rstd[i], dy, row, dw);
        mth__tile_store(dx, i * n, n, row);
    }
    mth__cascade_end(&sum);
}
