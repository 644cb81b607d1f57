/* Mixture of experts. rows[e, t] says which token each reserved row holds, -1 where it holds none: kernels walk the
 * runs of real rows, and reserved rows cost a write of zeros. */
#include "engine/native/kernel_util.h"

/* global */
static int64_t expert_of(const mth__operand *rows, int64_t k) { return rows->start[0] + k * mth__step(rows, 0); }
/* Of a choice: -1 where it was dropped, or where there is no such expert, which is an error of the run. */
static int64_t chosen(const mth__call *call, int64_t expert, int64_t experts) {
    if (expert < experts) return expert < 0 ? -1 : expert;
    mth__kernel_fault(call->fault, expert, experts);
    return -1;
}
/* The next run of real rows in [*from, end) of rows: false where there is none. */
static bool next_run(const int32_t *rows, int64_t *from, int64_t end, int64_t *length) {
    int64_t i = *from;
    while (i < end && rows[i] < 0) i++;
    *from = i;
    while (i < end && rows[i] >= 0) i++;
    *length = i - *from;
    return *length > 0;
}
/* flat index in [t, k], or -1; token is global */
static int64_t choice_of(const mth__operand *experts, int64_t token, int64_t expert) {
    const int64_t k = experts->shape.dim[1], row = mth__local_index(experts, 0, token);
    if (row < 0) return -1;
    for (int64_t j = row * k; j < (row + 1) * k; j++)
        if (((const int32_t *)experts->data)[j] == expert) return j;
    return -1;
}

/* ---- routing */
mth_status mth__prepare_moe_route(mth__arena *arena, mth__call *call) {
    (void)arena;
    call->thread_scratch =
        mth__tile_bytes(&call->in[0], call->in[0].shape.dim[1]) + mth__tile_bytes(&call->out[0], call->attrs->k);
    mth__one_phase(call, 1.0 * (double)mth__size(&call->in[0]) * (double)call->attrs->k, call->in[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_route(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t experts = call->in[0].shape.dim[1], k = call->attrs->k;
    const mth__chunk_range range = mth__chunk_of(call->in[0].shape.dim[0], call->chunks[0], chunk);
    float *tile = mth__tile_take(&scratch, &call->in[0], experts),
          *weights = mth__tile_take(&scratch, &call->out[0], k);
    for (int64_t token = range.lo; token < range.hi; token++) {
        const float *x = mth__tile_read(&call->in[0], token * experts, experts, tile);
        float *w = mth__tile_of(&call->out[0], token * k, weights);
        int32_t *chosen = (int32_t *)call->out[1].data + token * k;
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < experts; i++) {
                bool taken = false;
                for (int64_t before = 0; before < j; before++) taken |= chosen[before] == i;
                /* NaN is the largest */
                if (!taken && (best < 0 || x[i] > x[best] || (isnan(x[i]) && !isnan(x[best])))) best = i;
            }
            chosen[j] = (int32_t)best;
            w[j] = best < 0 ? -INFINITY : x[best];
        }
        mth__vec->softmax(k, w, w);
        mth__tile_store(&call->out[0], token * k, k, w);
    }
}
mth_status mth__prepare_moe_route_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t k = call->in[0].shape.dim[1];
    call->thread_scratch = mth__tile_bytes(&call->in[0], k) + mth__tile_bytes(&call->in[2], k) +
        mth__tile_bytes(&call->out[0], call->out[0].shape.dim[1]);
    mth__one_phase(call, 1.0 * (double)mth__size(&call->out[0]), call->out[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_route_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t experts = call->out[0].shape.dim[1], k = call->in[0].shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(call->out[0].shape.dim[0], call->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &call->in[0], k), *second = mth__tile_take(&scratch, &call->in[2], k),
          *tile = mth__tile_take(&scratch, &call->out[0], experts);
    for (int64_t token = range.lo; token < range.hi; token++) {
        const float *w = mth__tile_read(&call->in[0], token * k, k, first),
                    *dw = mth__tile_read(&call->in[2], token * k, k, second);
        float *dx = mth__tile_of(&call->out[0], token * experts, tile);
        const float dot = (float)mth__vec->dot(k, w, dw);
        memset(dx, 0, (size_t)experts * sizeof *dx);
        for (int64_t j = 0; j < k; j++) {
            const int64_t expert = chosen(call, ((const int32_t *)call->in[1].data)[token * k + j], experts);
            if (expert >= 0) dx[expert] = w[j] * (dw[j] - dot);
        }
        mth__tile_store(&call->out[0], token * experts, experts, dx);
    }
}
/* one chunk: tokens are served in order */
mth_status mth__prepare_moe_capacity(mth__arena *arena, mth__call *call) {
    (void)arena;
    call->phases = call->chunks[0] = 1;
    call->thread_scratch = (size_t)mth__size_product(call->attrs->experts, sizeof(int64_t));
    return NULL;
}
void mth__run_moe_capacity(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)chunk;
    const int32_t *experts = call->in[0].data;
    int32_t *kept = call->out[0].data, dropped = 0;
    int64_t *served = scratch;
    memset(served, 0, (size_t)call->attrs->experts * sizeof *served);
    for (int64_t i = 0, n = mth__size(&call->in[0]); i < n; i++) {
        const int32_t expert = (int32_t)chosen(call, experts[i], call->attrs->experts);
        const bool keep = expert >= 0 && served[expert] < call->attrs->capacity;
        if (keep)
            served[expert]++;
        else if (expert >= 0)
            dropped++;
        kept[i] = keep ? expert : -1;
    }
    *(int32_t *)call->out[1].data = dropped;
}
mth_status mth__prepare_moe_rows(mth__arena *arena, mth__call *call) {
    (void)arena;
    mth__one_phase(
        call, 1.0 * (double)mth__size(&call->in[0]) * (double)call->out[0].shape.dim[0], call->out[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_rows(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *experts = &call->in[0], *rows = &call->out[0];
    const int64_t tokens = experts->shape.dim[0], k = experts->shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(rows->shape.dim[0], call->chunks[0], chunk);
    for (int64_t number = range.lo; number < range.hi; number++) {
        int32_t *row = (int32_t *)rows->data + number * rows->shape.dim[1];
        const int64_t expert = expert_of(rows, number);
        int64_t n = 0;
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t j = 0; j < k; j++)
                if (((const int32_t *)experts->data)[i * k + j] == expert) {
                    row[n++] = (int32_t)(experts->start[0] + i * mth__step(experts, 0));
                    break;
                }
        while (n < rows->shape.dim[1]) row[n++] = -1;
    }
}
mth_status mth__prepare_moe_count(mth__arena *arena, mth__call *call) {
    (void)arena;
    call->phases = call->chunks[0] = 1;
    return NULL;
}
void mth__run_moe_count(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)chunk, (void)scratch;
    float *count = call->out[0].data;
    memset(count, 0, (size_t)mth__size(&call->out[0]) * sizeof *count);
    for (int64_t i = 0, n = mth__size(&call->in[0]); i < n; i++) {
        const int64_t expert = mth__local_index(&call->out[0], 0, ((const int32_t *)call->in[0].data)[i]);
        if (expert >= 0) count[expert]++;
    }
}

/* ---- tokens to rows and back */
mth_status mth__prepare_moe_dispatch(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t d = call->in[0].shape.dim[1];
    call->thread_scratch = mth__tile_bytes(&call->in[0], d) + mth__tile_bytes(&call->out[0], d);
    mth__one_phase(call, 6.0 * (double)mth__size(&call->out[0]) / MTH__BYTES_PER_NS, mth__size(&call->in[1]));
    return NULL;
}
void mth__run_moe_dispatch(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *x = &call->in[0], *rows = &call->in[1];
    const int64_t d = x->shape.dim[1], tokens = rows->shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(mth__size(rows), call->chunks[0], chunk);
    float *tile = mth__tile_take(&scratch, x, d), *scaled = mth__tile_take(&scratch, &call->out[0], d), room;
    for (int64_t i = range.lo; i < range.hi; i++) {
        const int64_t token = ((const int32_t *)rows->data)[i], at = token < 0 ? -1 : mth__local_index(x, 0, token);
        if (at < 0)
            mth__elements_zero(&call->out[0], i * d, d);
        else if (call->nin == 2)
            mth__elements_copy(&call->out[0], i * d, x, at * d, d);
        else {
            const int64_t choice = choice_of(&call->in[3], token, expert_of(rows, i / tokens));
            const float weight = choice < 0 ? 0 : *mth__tile_read(&call->in[2], choice, 1, &room);
            float *y = mth__tile_of(&call->out[0], i * d, scaled);
            mth__vec->scale(d, weight, mth__tile_read(x, at * d, d, tile), y);
            mth__tile_store(&call->out[0], i * d, d, y);
        }
    }
}
/* A chunk owns a range of tokens and looks at all rows once; terms are added in the order of the experts. */
static mth_status plan_combine(mth__call *call) {
    const double n = (double)mth__size(&call->in[1]);
    call->phases = 1;
    call->chunks[0] = (int)mth__min64(
        mth__chunks(4.0 * (double)mth__size(&call->in[0]) / MTH__BYTES_PER_NS, call->out[0].shape.dim[0]),
        mth__max64(1, (int64_t)(5e6 / (n + 1))));
    return NULL;
}
mth_status mth__prepare_moe_combine(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t d = call->out[0].shape.dim[1];
    call->call_scratch = mth__chains_bytes(call->out[0].shape.dim[0], mth__size(&call->in[1]));
    call->thread_scratch = mth__tile_bytes(&call->in[0], d) + mth__tile_bytes(&call->out[0], d);
    return plan_combine(call);
}
mth_status mth__prepare_moe_combine_weights_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t d = call->in[3].shape.dim[1];
    call->thread_scratch = mth__tile_bytes(&call->in[0], d) + mth__tile_bytes(&call->in[3], d);
    return plan_combine(call);
}
void mth__run_moe_combine(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *rows = &call->in[1], *out = &call->out[0];
    const int64_t d = out->shape.dim[1], rows_each = rows->shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(out->shape.dim[0], call->chunks[0], chunk);
    const int32_t *tokens = rows->data;
    const mth__chains of = mth__chains_of(out->shape.dim[0], call->shared);
    float *term = mth__tile_take(&scratch, &call->in[0], d), *tile = mth__tile_take(&scratch, out, d), room;
    mth__chains_begin(&of, range);
    for (int64_t i = 0, n = mth__size(rows); i < n; i++) {
        const int64_t at = tokens[i] < 0 ? -1 : mth__local_index(out, 0, tokens[i]);
        if (at < range.lo || at >= range.hi) continue;
        mth__chains_add(&of, at, i);
    }
    for (int64_t at = range.lo; at < range.hi; at++) {
        float *sum = mth__tile_sum(out, at * d, d, call->accumulates, tile);
        if (!call->accumulates) memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t i = of.first[at] - 1; i >= 0; i = of.next[i] - 1) {
            const float *y = mth__tile_read(&call->in[0], i * d, d, term);
            if (call->nin == 2) {
                mth__vec->add_to(d, y, sum);
                continue;
            }
            const int64_t choice = choice_of(&call->in[3], tokens[i], expert_of(rows, i / rows_each));
            if (choice >= 0) mth__vec->axpy(d, *mth__tile_read(&call->in[2], choice, 1, &room), y, sum);
        }
        mth__tile_store(out, at * d, d, sum);
    }
}
/* y, rows, experts, dout -> dweights. A choice is that of one row. */
void mth__run_moe_combine_weights_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *rows = &call->in[1], *experts = &call->in[2], *dout = &call->in[3], *out = &call->out[0];
    const int64_t d = dout->shape.dim[1], tokens = rows->shape.dim[1], k = out->shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(out->shape.dim[0], call->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &call->in[0], d), *second = mth__tile_take(&scratch, dout, d), room;
    mth__elements_zero(out, range.lo * k, (range.hi - range.lo) * k);
    for (int64_t i = 0, n = mth__size(rows); i < n; i++) {
        const int64_t token = ((const int32_t *)rows->data)[i],
                      at = token < 0 ? -1 : mth__local_index(experts, 0, token);
        if (at < range.lo || at >= range.hi) continue;
        const int64_t choice = choice_of(experts, token, expert_of(rows, i / tokens)),
                      from = mth__local_index(dout, 0, token);
        if (choice < 0 || from < 0) continue;
        float *weight = mth__tile_of(out, choice, &room);
        *weight = (float)mth__vec->dot(
            d, mth__tile_read(&call->in[0], i * d, d, first), mth__tile_read(dout, from * d, d, second));
        mth__tile_store(out, choice, 1, weight);
    }
}

/* ---- experts' matrices: blocks of rows and columns; a block that holds no real row costs its zeros alone */
enum { ROWS = 256, COLUMNS = 512 };
static int64_t blocks(int64_t n, int64_t of) { return mth__max64(1, mth__ceil_div(n, of)); }
/* Blocks of the result, each of k terms: the scratch of one has panels, and tiles for it and for its operands. A run of
 * rows can be a single one, and what is left of the columns too. */
static size_t panels_bytes(const mth__call *call, int64_t k) {
    const int64_t *dim = call->out[0].shape.dim, m = mth__min64(ROWS, dim[1]), n = mth__min64(COLUMNS, dim[2]);
    return k > MTH__PANEL ? mth__panels_bytes(m, n) : mth__panels_bytes(1, mth__max64(m, n));
}
static void plan_blocks(mth__call *call, int64_t k) {
    const int64_t *dim = call->out[0].shape.dim, m = mth__min64(ROWS, dim[1]), n = mth__min64(COLUMNS, dim[2]);
    call->phases = 1;
    call->chunks[0] = (int)mth__max64(1, dim[0] * blocks(dim[1], ROWS) * blocks(dim[2], COLUMNS));
    call->thread_scratch = panels_bytes(call, k) + mth__tile_bytes(&call->out[0], m * n) +
        mth__matrix_bytes(call->in[0].dtype, call->in[1].dtype, m, n, k);
}
mth_status mth__prepare_moe_matmul(mth__arena *arena, mth__call *call) {
    (void)arena;
    plan_blocks(call, call->in[0].shape.dim[2]);
    return NULL;
}
void mth__run_moe_matmul(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t *dim = call->out[0].shape.dim, tokens = dim[1], width = dim[2],
                  input_width = call->in[0].shape.dim[2], bo = blocks(width, COLUMNS), bt = blocks(tokens, ROWS),
                  expert = chunk / (bo * bt);
    if (!dim[0]) return;
    const bool transposed = call->attrs->transposed == 1;
    const int64_t o0 = chunk % bo * COLUMNS, t0 = chunk / bo % bt * ROWS, n = mth__min64(COLUMNS, width - o0),
                  end = mth__min64(t0 + ROWS, tokens);
    const int32_t *rows = (const int32_t *)call->in[2].data + expert * tokens;
    const mth__operand *y = &call->out[0];
    const mth__matrix matrix =
        mth__matrix_of(&call->in[1], expert * input_width * width + (transposed ? o0 * input_width : o0),
            transposed ? 1 : width, transposed ? input_width : 1);
    mth__panels sum;
    void *panels = scratch;
    scratch = (char *)scratch + panels_bytes(call, input_width);
    float *tile = mth__tile_take(&scratch, y, mth__min64(ROWS, tokens) * mth__min64(COLUMNS, width));
    int64_t at = t0, length, done = t0;
    for (bool more = true; more; at += length) {
        more = next_run(rows, &at, end, &length);
        for (; done < at && !call->accumulates; done++) mth__elements_zero(y, (expert * tokens + done) * width + o0, n);
        done = at + length;
        if (!more) continue;
        const int64_t place = (expert * tokens + at) * width + o0;
        const mth__matrix x = mth__matrix_of(&call->in[0], (expert * tokens + at) * input_width, input_width, 1);
        int64_t ld;
        float *to = mth__tile_rows(y, place, length, n, width, call->accumulates, tile, &ld);
        const int64_t panel = mth__panel(length, n, x.column, matrix.row);
        if (mth__needs_panels(length, n, input_width, panel, call->accumulates)) {
            float *term = mth__panels_begin(&sum, length, n, panels);
            for (int64_t k0 = 0, k; k0 < input_width; k0 += k) {
                k = mth__min64(panel, input_width - k0);
                const mth__matrix left = mth__matrix_from(&x, 0, k0), right = mth__matrix_from(&matrix, k0, 0);
                mth__matrix_product(length, n, k, &left, &right, false, term, n, scratch);
                mth__panels_add(&sum);
            }
            mth__panels_end(&sum, call->accumulates, to, ld);
        } else {
            mth__matrix_product(length, n, input_width, &x, &matrix, call->accumulates, to, ld, scratch);
        }
        mth__tile_rows_store(y, place, length, n, width, to);
    }
}
mth_status mth__prepare_moe_outer(mth__arena *arena, mth__call *call) {
    (void)arena;
    plan_blocks(call, call->in[0].shape.dim[1]);
    return NULL;
}
/* x[e,t,i], dy[e,t,o], rows -> [e,i,o] */
void mth__run_moe_outer(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t *dim = call->out[0].shape.dim, tokens = call->in[0].shape.dim[1], input_width = dim[1],
                  width = dim[2], bo = blocks(width, COLUMNS), bi = blocks(input_width, ROWS),
                  expert = chunk / (bo * bi);
    if (!dim[0]) return;
    const int64_t o0 = chunk % bo * COLUMNS, i0 = chunk / bo % bi * ROWS, n = mth__min64(COLUMNS, width - o0),
                  m = mth__min64(ROWS, input_width - i0);
    const int32_t *rows = (const int32_t *)call->in[2].data + expert * tokens;
    const mth__operand *y = &call->out[0];
    const int64_t place = (expert * input_width + i0) * width + o0, most_m = mth__min64(ROWS, input_width),
                  most_n = mth__min64(COLUMNS, width);
    /* Each run of rows is added to the ones before it. */
    const int64_t panel = mth__panel(m, n, input_width, width);
    const bool in_panels = mth__needs_panels(m, n, tokens, panel, true);
    mth__panels sum;
    int64_t ld;
    float *term = in_panels ? mth__panels_begin(&sum, m, n, scratch) : NULL;
    scratch = (char *)scratch + panels_bytes(call, tokens);
    float *tile = mth__tile_take(&scratch, y, most_m * most_n),
          *to = mth__tile_rows(y, place, m, n, width, call->accumulates, tile, &ld);
    bool first = !call->accumulates;
    for (int64_t at = 0, length; next_run(rows, &at, tokens, &length); at += length, first = false) {
        length = mth__min64(length, panel);
        const mth__matrix x = mth__matrix_of(&call->in[0], (expert * tokens + at) * input_width + i0, 1, input_width),
                          dy = mth__matrix_of(&call->in[1], (expert * tokens + at) * width + o0, width, 1);
        mth__matrix_product(
            m, n, length, &x, &dy, !first && !in_panels, in_panels ? term : to, in_panels ? n : ld, scratch);
        if (in_panels) mth__panels_add(&sum);
    }
    if (in_panels)
        mth__panels_end(&sum, call->accumulates, to, ld);
    else
        for (int64_t row = 0; first && row < m; row++) memset(to + row * ld, 0, (size_t)n * sizeof *to);
    mth__tile_rows_store(y, place, m, n, width, to);
}

/* ---- rows of experts, elementwise */
static mth_status plan_rows(mth__call *call, double ns) {
    mth__one_phase(call, ns * (double)mth__size(&call->out[0]), call->out[0].shape.dim[0] * call->out[0].shape.dim[1]);
    return NULL;
}
mth_status mth__prepare_moe_bias(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t width = call->out[0].shape.dim[2];
    call->thread_scratch = mth__tile_bytes(&call->in[0], width) + mth__tile_bytes(&call->in[1], width) +
        mth__tile_bytes(&call->out[0], width);
    return plan_rows(call, 1);
}
void mth__run_moe_bias(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t tokens = call->out[0].shape.dim[1], width = call->out[0].shape.dim[2];
    const int32_t *rows = call->in[2].data;
    const mth__chunk_range range = mth__chunk_of(call->out[0].shape.dim[0] * tokens, call->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &call->in[0], width),
          *second = mth__tile_take(&scratch, &call->in[1], width),
          *tile = mth__tile_take(&scratch, &call->out[0], width);
    for (int64_t input_width = range.lo; input_width < range.hi; input_width++) {
        if (rows[input_width] < 0) {
            mth__elements_zero(&call->out[0], input_width * width, width);
            continue;
        }
        float *y = mth__tile_of(&call->out[0], input_width * width, tile);
        mth__map_pair(MTH__ROW_add, width, mth__tile_read(&call->in[0], input_width * width, width, first),
            mth__tile_read(&call->in[1], input_width / tokens * width, width, second), y);
        mth__tile_store(&call->out[0], input_width * width, width, y);
    }
}
mth_status mth__prepare_moe_bias_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    call->phases = 1;
    call->chunks[0] = (int)mth__max64(1, call->out[0].shape.dim[0] * blocks(call->out[0].shape.dim[1], COLUMNS));
    call->thread_scratch =
        mth__cascade_bytes(COLUMNS) + mth__tile_bytes(&call->in[0], COLUMNS) + mth__tile_bytes(&call->out[0], COLUMNS);
    return NULL;
}
void mth__run_moe_bias_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t width = call->out[0].shape.dim[1], tokens = call->in[0].shape.dim[1], bo = blocks(width, COLUMNS),
                  expert = chunk / bo, o0 = chunk % bo * COLUMNS, n = mth__min64(COLUMNS, width - o0);
    if (!call->out[0].shape.dim[0]) return;
    const int32_t *rows = (const int32_t *)call->in[1].data + expert * tokens;
    void *room = (char *)scratch + mth__cascade_bytes(COLUMNS);
    float *term = mth__tile_take(&room, &call->in[0], COLUMNS), *tile = mth__tile_take(&room, &call->out[0], COLUMNS),
          *to = mth__tile_sum(&call->out[0], expert * width + o0, n, call->accumulates, tile);
    mth__cascade sum;
    mth__cascade_begin(&sum, n, call->accumulates, to, scratch);
    for (int64_t input_width = 0; input_width < tokens; input_width++)
        if (rows[input_width] >= 0)
            mth__vec->add_to(n, mth__tile_read(&call->in[0], (expert * tokens + input_width) * width + o0, n, term),
                mth__cascade_next(&sum));
    mth__cascade_end(&sum);
    mth__tile_store(&call->out[0], expert * width + o0, n, to);
}
/* moe_act: x, rows; moe_act_grad: x, dy, rows; moe_mul: a, b, rows */
mth_status mth__prepare_moe_map(mth__arena *arena, mth__call *call) {
    (void)arena;
    for (int j = 0; j < call->nin - 1; j++) call->thread_scratch += mth__tile_bytes(&call->in[j], MTH__TILE);
    call->thread_scratch += mth__tile_bytes(&call->out[0], MTH__TILE);
    return plan_rows(call, 1.5);
}
void mth__run_moe_map(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    static const int act[] = {MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu},
                     act_grad[] = {MTH__ROW_relu_grad, MTH__ROW_gelu_grad, MTH__ROW_gelu_tanh_grad, MTH__ROW_silu_grad};
    const int64_t width = call->out[0].shape.dim[2];
    const int32_t *rows = call->in[call->nin - 1].data;
    const mth__chunk_range range =
        mth__chunk_of(call->out[0].shape.dim[0] * call->out[0].shape.dim[1], call->chunks[0], chunk);
    const bool product = call->op->row == MTH__ROW_moe_mul;
    const int row = product ? MTH__ROW_mul
        : call->nin == 2    ? act[call->attrs->activation]
                            : act_grad[call->attrs->activation];
    const mth__operand *y = &call->out[0];
    float *tile[3];
    for (int j = 0; j < call->nin - 1; j++) tile[j] = mth__tile_take(&scratch, &call->in[j], MTH__TILE);
    tile[2] = mth__tile_take(&scratch, y, MTH__TILE);
    int64_t at = range.lo, length, done = range.lo;
    for (bool more = true; more; at += length) {
        more = next_run(rows, &at, range.hi, &length);
        mth__elements_zero(y, done * width, (at - done) * width);
        done = at + length;
        for (int64_t i = at * width, n; i < done * width; i += n) {
            n = mth__min64(mth__tile_most(call), done * width - i);
            const float *a = mth__tile_read(&call->in[0], i, n, tile[0]);
            float *to = mth__tile_of(y, i, tile[2]);
            if (call->nin == 2)
                mth__map(row, n, a, to);
            else
                mth__map_pair(row, n, a, mth__tile_read(&call->in[1], i, n, tile[1]), to);
            mth__tile_store(y, i, n, to);
        }
    }
}
