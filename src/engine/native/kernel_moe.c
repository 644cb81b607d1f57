/* Mixture of experts. rows[e, t] says which token each reserved row holds, -1 where it holds none: kernels walk the
 * runs of real rows, and reserved rows cost a write of zeros. */
#include "engine/native/kernel_util.h"

/* global */
static int64_t expert_of(const mth__operand *rows, int64_t e) { return rows->start[0] + e * mth__step(rows, 0); }
/* Of a choice: -1 where it was dropped, or where there is no such expert, which is an error of the run. */
static int64_t chosen(const mth__call *c, int64_t expert, int64_t experts) {
    if (expert < experts) return expert < 0 ? -1 : expert;
    mth__kernel_fault(c->fault, expert, experts);
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
mth_status mth__prepare_moe_route(mth__arena *arena, mth__call *c) {
    (void)arena;
    c->thread_scratch = mth__tile_bytes(&c->in[0], c->in[0].shape.dim[1]) + mth__tile_bytes(&c->out[0], c->attrs->k);
    mth__one_phase(c, 1.0 * (double)mth__size(&c->in[0]) * (double)c->attrs->k, c->in[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_route(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t e = c->in[0].shape.dim[1], k = c->attrs->k;
    const mth__chunk_range r = mth__chunk_of(c->in[0].shape.dim[0], c->chunks[0], chunk);
    float *tile = mth__tile_take(&scratch, &c->in[0], e), *weights = mth__tile_take(&scratch, &c->out[0], k);
    for (int64_t t = r.lo; t < r.hi; t++) {
        const float *x = mth__tile_read(&c->in[0], t * e, e, tile);
        float *w = mth__tile_of(&c->out[0], t * k, weights);
        int32_t *chosen = (int32_t *)c->out[1].data + t * k;
        for (int64_t j = 0; j < k; j++) {
            int64_t best = -1;
            for (int64_t i = 0; i < e; i++) {
                bool taken = false;
                for (int64_t q = 0; q < j; q++) taken |= chosen[q] == i;
                /* NaN is the largest */
                if (!taken && (best < 0 || x[i] > x[best] || (isnan(x[i]) && !isnan(x[best])))) best = i;
            }
            chosen[j] = (int32_t)best;
            w[j] = best < 0 ? -INFINITY : x[best];
        }
        mth__vec->softmax(k, w, w);
        mth__tile_store(&c->out[0], t * k, k, w);
    }
}
mth_status mth__prepare_moe_route_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t k = c->in[0].shape.dim[1];
    c->thread_scratch = mth__tile_bytes(&c->in[0], k) + mth__tile_bytes(&c->in[2], k) +
        mth__tile_bytes(&c->out[0], c->out[0].shape.dim[1]);
    mth__one_phase(c, 1.0 * (double)mth__size(&c->out[0]), c->out[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_route_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t e = c->out[0].shape.dim[1], k = c->in[0].shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(c->out[0].shape.dim[0], c->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &c->in[0], k), *second = mth__tile_take(&scratch, &c->in[2], k),
          *tile = mth__tile_take(&scratch, &c->out[0], e);
    for (int64_t t = r.lo; t < r.hi; t++) {
        const float *w = mth__tile_read(&c->in[0], t * k, k, first), *dw = mth__tile_read(&c->in[2], t * k, k, second);
        float *dx = mth__tile_of(&c->out[0], t * e, tile);
        const float dot = (float)mth__vec->dot(k, w, dw);
        memset(dx, 0, (size_t)e * sizeof *dx);
        for (int64_t j = 0; j < k; j++) {
            const int64_t expert = chosen(c, ((const int32_t *)c->in[1].data)[t * k + j], e);
            if (expert >= 0) dx[expert] = w[j] * (dw[j] - dot);
        }
        mth__tile_store(&c->out[0], t * e, e, dx);
    }
}
/* one chunk: tokens are served in order */
mth_status mth__prepare_moe_capacity(mth__arena *arena, mth__call *c) {
    (void)arena;
    c->phases = c->chunks[0] = 1;
    c->thread_scratch = (size_t)mth__size_product(c->attrs->experts, sizeof(int64_t));
    return NULL;
}
void mth__run_moe_capacity(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)chunk;
    const int32_t *experts = c->in[0].data;
    int32_t *kept = c->out[0].data, dropped = 0;
    int64_t *served = scratch;
    memset(served, 0, (size_t)c->attrs->experts * sizeof *served);
    for (int64_t i = 0, n = mth__size(&c->in[0]); i < n; i++) {
        const int32_t e = (int32_t)chosen(c, experts[i], c->attrs->experts);
        const bool keep = e >= 0 && served[e] < c->attrs->capacity;
        if (keep)
            served[e]++;
        else if (e >= 0)
            dropped++;
        kept[i] = keep ? e : -1;
    }
    *(int32_t *)c->out[1].data = dropped;
}
mth_status mth__prepare_moe_rows(mth__arena *arena, mth__call *c) {
    (void)arena;
    mth__one_phase(c, 1.0 * (double)mth__size(&c->in[0]) * (double)c->out[0].shape.dim[0], c->out[0].shape.dim[0]);
    return NULL;
}
void mth__run_moe_rows(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *experts = &c->in[0], *rows = &c->out[0];
    const int64_t t = experts->shape.dim[0], k = experts->shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(rows->shape.dim[0], c->chunks[0], chunk);
    for (int64_t e = r.lo; e < r.hi; e++) {
        int32_t *row = (int32_t *)rows->data + e * rows->shape.dim[1];
        const int64_t expert = expert_of(rows, e);
        int64_t n = 0;
        for (int64_t i = 0; i < t; i++)
            for (int64_t j = 0; j < k; j++)
                if (((const int32_t *)experts->data)[i * k + j] == expert) {
                    row[n++] = (int32_t)(experts->start[0] + i * mth__step(experts, 0));
                    break;
                }
        while (n < rows->shape.dim[1]) row[n++] = -1;
    }
}
mth_status mth__prepare_moe_count(mth__arena *arena, mth__call *c) {
    (void)arena;
    c->phases = c->chunks[0] = 1;
    return NULL;
}
void mth__run_moe_count(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)chunk, (void)scratch;
    float *count = c->out[0].data;
    memset(count, 0, (size_t)mth__size(&c->out[0]) * sizeof *count);
    for (int64_t i = 0, n = mth__size(&c->in[0]); i < n; i++) {
        const int64_t e = mth__local_index(&c->out[0], 0, ((const int32_t *)c->in[0].data)[i]);
        if (e >= 0) count[e]++;
    }
}

/* ---- tokens to rows and back */
mth_status mth__prepare_moe_dispatch(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t d = c->in[0].shape.dim[1];
    c->thread_scratch = mth__tile_bytes(&c->in[0], d) + mth__tile_bytes(&c->out[0], d);
    mth__one_phase(c, 6.0 * (double)mth__size(&c->out[0]) / MTH__BYTES_PER_NS, mth__size(&c->in[1]));
    return NULL;
}
void mth__run_moe_dispatch(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *x = &c->in[0], *rows = &c->in[1];
    const int64_t d = x->shape.dim[1], t = rows->shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(mth__size(rows), c->chunks[0], chunk);
    float *tile = mth__tile_take(&scratch, x, d), *scaled = mth__tile_take(&scratch, &c->out[0], d), room;
    for (int64_t i = r.lo; i < r.hi; i++) {
        const int64_t token = ((const int32_t *)rows->data)[i], at = token < 0 ? -1 : mth__local_index(x, 0, token);
        if (at < 0)
            mth__elements_zero(&c->out[0], i * d, d);
        else if (c->nin == 2)
            mth__elements_copy(&c->out[0], i * d, x, at * d, d);
        else {
            const int64_t choice = choice_of(&c->in[3], token, expert_of(rows, i / t));
            const float weight = choice < 0 ? 0 : *mth__tile_read(&c->in[2], choice, 1, &room);
            float *y = mth__tile_of(&c->out[0], i * d, scaled);
            mth__vec->scale(d, weight, mth__tile_read(x, at * d, d, tile), y);
            mth__tile_store(&c->out[0], i * d, d, y);
        }
    }
}
/* A chunk owns a range of tokens and looks at all rows once; terms are added in the order of the experts. */
static mth_status plan_combine(mth__call *c) {
    const double n = (double)mth__size(&c->in[1]);
    c->phases = 1;
    c->chunks[0] =
        (int)mth__min64(mth__chunks(4.0 * (double)mth__size(&c->in[0]) / MTH__BYTES_PER_NS, c->out[0].shape.dim[0]),
            mth__max64(1, (int64_t)(5e6 / (n + 1))));
    return NULL;
}
mth_status mth__prepare_moe_combine(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t d = c->out[0].shape.dim[1];
    c->call_scratch = mth__chains_bytes(c->out[0].shape.dim[0], mth__size(&c->in[1]));
    c->thread_scratch = mth__tile_bytes(&c->in[0], d) + mth__tile_bytes(&c->out[0], d);
    return plan_combine(c);
}
mth_status mth__prepare_moe_combine_weights_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t d = c->in[3].shape.dim[1];
    c->thread_scratch = mth__tile_bytes(&c->in[0], d) + mth__tile_bytes(&c->in[3], d);
    return plan_combine(c);
}
void mth__run_moe_combine(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *rows = &c->in[1], *out = &c->out[0];
    const int64_t d = out->shape.dim[1], t = rows->shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(out->shape.dim[0], c->chunks[0], chunk);
    const int32_t *tokens = rows->data;
    const mth__chains of = mth__chains_of(out->shape.dim[0], c->shared);
    float *term = mth__tile_take(&scratch, &c->in[0], d), *tile = mth__tile_take(&scratch, out, d), room;
    mth__chains_begin(&of, r);
    for (int64_t i = 0, n = mth__size(rows); i < n; i++) {
        const int64_t at = tokens[i] < 0 ? -1 : mth__local_index(out, 0, tokens[i]);
        if (at < r.lo || at >= r.hi) continue;
        mth__chains_add(&of, at, i);
    }
    for (int64_t at = r.lo; at < r.hi; at++) {
        float *sum = mth__tile_sum(out, at * d, d, c->accumulates, tile);
        if (!c->accumulates) memset(sum, 0, (size_t)d * sizeof *sum);
        for (int64_t i = of.first[at] - 1; i >= 0; i = of.next[i] - 1) {
            const float *y = mth__tile_read(&c->in[0], i * d, d, term);
            if (c->nin == 2) {
                mth__vec->add_to(d, y, sum);
                continue;
            }
            const int64_t choice = choice_of(&c->in[3], tokens[i], expert_of(rows, i / t));
            if (choice >= 0) mth__vec->axpy(d, *mth__tile_read(&c->in[2], choice, 1, &room), y, sum);
        }
        mth__tile_store(out, at * d, d, sum);
    }
}
/* y, rows, experts, dout -> dweights. A choice is that of one row. */
void mth__run_moe_combine_weights_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *rows = &c->in[1], *experts = &c->in[2], *dout = &c->in[3], *out = &c->out[0];
    const int64_t d = dout->shape.dim[1], t = rows->shape.dim[1], k = out->shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(out->shape.dim[0], c->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &c->in[0], d), *second = mth__tile_take(&scratch, dout, d), room;
    mth__elements_zero(out, r.lo * k, (r.hi - r.lo) * k);
    for (int64_t i = 0, n = mth__size(rows); i < n; i++) {
        const int64_t token = ((const int32_t *)rows->data)[i],
                      at = token < 0 ? -1 : mth__local_index(experts, 0, token);
        if (at < r.lo || at >= r.hi) continue;
        const int64_t choice = choice_of(experts, token, expert_of(rows, i / t)),
                      from = mth__local_index(dout, 0, token);
        if (choice < 0 || from < 0) continue;
        float *weight = mth__tile_of(out, choice, &room);
        *weight = (float)mth__vec->dot(
            d, mth__tile_read(&c->in[0], i * d, d, first), mth__tile_read(dout, from * d, d, second));
        mth__tile_store(out, choice, 1, weight);
    }
}

/* ---- experts' matrices: blocks of rows and columns; a block that holds no real row costs its zeros alone */
enum { ROWS = 256, COLUMNS = 512 };
static int64_t blocks(int64_t n, int64_t of) { return mth__max64(1, mth__ceil_div(n, of)); }
/* Blocks of the result, each of k terms: the scratch of one has tiles for it and for its operands. */
static void plan_blocks(mth__call *c, int64_t k) {
    const int64_t *y = c->out[0].shape.dim, m = mth__min64(ROWS, y[1]), n = mth__min64(COLUMNS, y[2]);
    c->phases = 1;
    c->chunks[0] = (int)mth__max64(1, y[0] * blocks(y[1], ROWS) * blocks(y[2], COLUMNS));
    c->thread_scratch = mth__tile_bytes(&c->out[0], m * n) + mth__matrix_bytes(c->in[0].dtype, c->in[1].dtype, m, n, k);
}
mth_status mth__prepare_moe_matmul(mth__arena *arena, mth__call *c) {
    (void)arena;
    plan_blocks(c, c->in[0].shape.dim[2]);
    return NULL;
}
void mth__run_moe_matmul(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t *dim = c->out[0].shape.dim, t = dim[1], o = dim[2], i = c->in[0].shape.dim[2],
                  bo = blocks(o, COLUMNS), bt = blocks(t, ROWS), e = chunk / (bo * bt);
    if (!dim[0]) return;
    const bool transposed = c->attrs->transposed == 1;
    const int64_t o0 = chunk % bo * COLUMNS, t0 = chunk / bo % bt * ROWS, n = mth__min64(COLUMNS, o - o0),
                  end = mth__min64(t0 + ROWS, t);
    const int32_t *rows = (const int32_t *)c->in[2].data + e * t;
    const mth__operand *y = &c->out[0];
    const mth__matrix w =
        mth__matrix_of(&c->in[1], e * i * o + (transposed ? o0 * i : o0), transposed ? 1 : o, transposed ? i : 1);
    float *tile = mth__tile_take(&scratch, y, mth__min64(ROWS, t) * mth__min64(COLUMNS, o));
    int64_t at = t0, length, done = t0;
    for (bool more = true; more; at += length) {
        more = next_run(rows, &at, end, &length);
        for (; done < at && !c->accumulates; done++) mth__elements_zero(y, (e * t + done) * o + o0, n);
        done = at + length;
        if (!more) continue;
        const int64_t place = (e * t + at) * o + o0;
        const mth__matrix x = mth__matrix_of(&c->in[0], (e * t + at) * i, i, 1);
        int64_t ld;
        float *to = mth__tile_rows(y, place, length, n, o, c->accumulates, tile, &ld);
        mth__matrix_product(length, n, i, &x, &w, c->accumulates, to, ld, scratch);
        mth__tile_rows_store(y, place, length, n, o, to);
    }
}
mth_status mth__prepare_moe_outer(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t *y = c->out[0].shape.dim, terms = c->in[0].shape.dim[1];
    plan_blocks(c, mth__min64(terms, MTH__PANEL));
    if (terms > MTH__PANEL) c->thread_scratch += mth__panels_bytes(mth__min64(ROWS, y[1]), mth__min64(COLUMNS, y[2]));
    return NULL;
}
/* x[e,t,i], dy[e,t,o], rows -> [e,i,o] */
void mth__run_moe_outer(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t *dim = c->out[0].shape.dim, t = c->in[0].shape.dim[1], i = dim[1], o = dim[2],
                  bo = blocks(o, COLUMNS), bi = blocks(i, ROWS), e = chunk / (bo * bi);
    if (!dim[0]) return;
    const int64_t o0 = chunk % bo * COLUMNS, i0 = chunk / bo % bi * ROWS, n = mth__min64(COLUMNS, o - o0),
                  m = mth__min64(ROWS, i - i0);
    const int32_t *rows = (const int32_t *)c->in[2].data + e * t;
    const mth__operand *y = &c->out[0];
    const int64_t place = (e * i + i0) * o + o0, most_m = mth__min64(ROWS, i), most_n = mth__min64(COLUMNS, o);
    const bool in_panels = t > MTH__PANEL;
    mth__panels sum;
    int64_t ld;
    float *term = in_panels ? mth__panels_begin(&sum, m, n, scratch) : NULL;
    if (in_panels) scratch = (char *)scratch + mth__panels_bytes(most_m, most_n);
    float *tile = mth__tile_take(&scratch, y, most_m * most_n),
          *to = mth__tile_rows(y, place, m, n, o, c->accumulates, tile, &ld);
    bool first = !c->accumulates;
    for (int64_t at = 0, length; next_run(rows, &at, t, &length); at += length, first = false) {
        length = mth__min64(length, MTH__PANEL);
        const mth__matrix x = mth__matrix_of(&c->in[0], (e * t + at) * i + i0, 1, i),
                          dy = mth__matrix_of(&c->in[1], (e * t + at) * o + o0, o, 1);
        mth__matrix_product(
            m, n, length, &x, &dy, !first && !in_panels, in_panels ? term : to, in_panels ? n : ld, scratch);
        if (in_panels) mth__panels_add(&sum);
    }
    if (in_panels)
        mth__panels_end(&sum, c->accumulates, to, ld);
    else
        for (int64_t q = 0; first && q < m; q++) memset(to + q * ld, 0, (size_t)n * sizeof *to);
    mth__tile_rows_store(y, place, m, n, o, to);
}

/* ---- rows of experts, elementwise */
static mth_status plan_rows(mth__call *c, double ns) {
    mth__one_phase(c, ns * (double)mth__size(&c->out[0]), c->out[0].shape.dim[0] * c->out[0].shape.dim[1]);
    return NULL;
}
mth_status mth__prepare_moe_bias(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t o = c->out[0].shape.dim[2];
    c->thread_scratch = mth__tile_bytes(&c->in[0], o) + mth__tile_bytes(&c->in[1], o) + mth__tile_bytes(&c->out[0], o);
    return plan_rows(c, 1);
}
void mth__run_moe_bias(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t t = c->out[0].shape.dim[1], o = c->out[0].shape.dim[2];
    const int32_t *rows = c->in[2].data;
    const mth__chunk_range r = mth__chunk_of(c->out[0].shape.dim[0] * t, c->chunks[0], chunk);
    float *first = mth__tile_take(&scratch, &c->in[0], o), *second = mth__tile_take(&scratch, &c->in[1], o),
          *tile = mth__tile_take(&scratch, &c->out[0], o);
    for (int64_t i = r.lo; i < r.hi; i++) {
        if (rows[i] < 0) {
            mth__elements_zero(&c->out[0], i * o, o);
            continue;
        }
        float *y = mth__tile_of(&c->out[0], i * o, tile);
        mth__map_pair(MTH__ROW_add, o, mth__tile_read(&c->in[0], i * o, o, first),
            mth__tile_read(&c->in[1], i / t * o, o, second), y);
        mth__tile_store(&c->out[0], i * o, o, y);
    }
}
mth_status mth__prepare_moe_bias_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    c->phases = 1;
    c->chunks[0] = (int)mth__max64(1, c->out[0].shape.dim[0] * blocks(c->out[0].shape.dim[1], COLUMNS));
    c->thread_scratch =
        mth__cascade_bytes(COLUMNS) + mth__tile_bytes(&c->in[0], COLUMNS) + mth__tile_bytes(&c->out[0], COLUMNS);
    return NULL;
}
void mth__run_moe_bias_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const int64_t o = c->out[0].shape.dim[1], t = c->in[0].shape.dim[1], bo = blocks(o, COLUMNS), e = chunk / bo,
                  o0 = chunk % bo * COLUMNS, n = mth__min64(COLUMNS, o - o0);
    if (!c->out[0].shape.dim[0]) return;
    const int32_t *rows = (const int32_t *)c->in[1].data + e * t;
    void *room = (char *)scratch + mth__cascade_bytes(COLUMNS);
    float *term = mth__tile_take(&room, &c->in[0], COLUMNS), *tile = mth__tile_take(&room, &c->out[0], COLUMNS),
          *to = mth__tile_sum(&c->out[0], e * o + o0, n, c->accumulates, tile);
    mth__cascade sum;
    mth__cascade_begin(&sum, n, c->accumulates, to, scratch);
    for (int64_t i = 0; i < t; i++)
        if (rows[i] >= 0)
            mth__vec->add_to(n, mth__tile_read(&c->in[0], (e * t + i) * o + o0, n, term), mth__cascade_next(&sum));
    mth__cascade_end(&sum);
    mth__tile_store(&c->out[0], e * o + o0, n, to);
}
/* moe_act: x, rows; moe_act_grad: x, dy, rows; moe_mul: a, b, rows */
mth_status mth__prepare_moe_map(mth__arena *arena, mth__call *c) {
    (void)arena;
    for (int j = 0; j < c->nin - 1; j++) c->thread_scratch += mth__tile_bytes(&c->in[j], MTH__TILE);
    c->thread_scratch += mth__tile_bytes(&c->out[0], MTH__TILE);
    return plan_rows(c, 1.5);
}
void mth__run_moe_map(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    static const int act[] = {MTH__ROW_relu, MTH__ROW_gelu, MTH__ROW_gelu_tanh, MTH__ROW_silu},
                     act_grad[] = {MTH__ROW_relu_grad, MTH__ROW_gelu_grad, MTH__ROW_gelu_tanh_grad, MTH__ROW_silu_grad};
    const int64_t h = c->out[0].shape.dim[2];
    const int32_t *rows = c->in[c->nin - 1].data;
    const mth__chunk_range r = mth__chunk_of(c->out[0].shape.dim[0] * c->out[0].shape.dim[1], c->chunks[0], chunk);
    const bool product = mth__op_index(c->op) == MTH__ROW_moe_mul;
    const int row = product ? MTH__ROW_mul : c->nin == 2 ? act[c->attrs->activation] : act_grad[c->attrs->activation];
    const mth__operand *y = &c->out[0];
    float *tile[3];
    for (int j = 0; j < c->nin - 1; j++) tile[j] = mth__tile_take(&scratch, &c->in[j], MTH__TILE);
    tile[2] = mth__tile_take(&scratch, y, MTH__TILE);
    int64_t at = r.lo, length, done = r.lo;
    for (bool more = true; more; at += length) {
        more = next_run(rows, &at, r.hi, &length);
        mth__elements_zero(y, done * h, (at - done) * h);
        done = at + length;
        for (int64_t i = at * h, n; i < done * h; i += n) {
            n = mth__min64(mth__tile_most(c), done * h - i);
            const float *a = mth__tile_read(&c->in[0], i, n, tile[0]);
            float *to = mth__tile_of(y, i, tile[2]);
            if (c->nin == 2)
                mth__map(row, n, a, to);
            else
                mth__map_pair(row, n, a, mth__tile_read(&c->in[1], i, n, tile[1]), to);
            mth__tile_store(y, i, n, to);
        }
    }
}
