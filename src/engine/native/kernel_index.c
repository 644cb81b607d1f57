/* Rows that read or write by id, and those whose values come from positions. */
#include "engine/native/kernel_util.h"

static void check(const mth__call *call, int64_t id, int64_t limit) {
    if (id < 0 || id >= limit) mth__kernel_fault(call->fault, id, limit);
}

/* ---- gather: table[v, d], ids -> [ids, d] */
mth_status mth__prepare_gather(mth__arena *arena, mth__call *call) {
    (void)arena;
    mth__one_phase(call,
        8.0 * (double)mth__size(&call->out[0]) / MTH__BYTES_PER_NS + 2.0 * (double)mth__size(&call->in[1]),
        mth__size(&call->in[1]));
    return NULL;
}
void mth__run_gather(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *table = &call->in[0], *ids = &call->in[1];
    const int64_t d = table->shape.dim[1];
    const mth__chunk_range range = mth__chunk_of(mth__size(ids), call->chunks[0], chunk);
    for (int64_t i = range.lo; i < range.hi; i++) {
        const int64_t id = mth__id(ids, i), row = mth__local_index(table, 0, id);
        check(call, id, table->global.dim[0]);
        if (row < 0)
            mth__elements_zero(&call->out[0], i * d, d);
        else
            mth__elements_copy(&call->out[0], i * d, table, row * d, d);
    }
}
/* Each chunk owns a range of the vocabulary and looks at all ids once, to string those of each row together. */
mth_status mth__prepare_gather_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    const int64_t n = mth__size(&call->in[0]), rows = call->out[0].shape.dim[0];
    call->phases = 1;
    call->chunks[0] = (int)mth__min64(
        mth__chunks((call->accumulates ? 0 : 4.0 * (double)mth__size(&call->out[0]) / MTH__BYTES_PER_NS) +
                8.0 * (double)mth__size(&call->in[1]) / MTH__BYTES_PER_NS,
            rows),
        mth__max64(1, (int64_t)(5e7 / ((double)n + 1)))); /* reading the ids stays small beside the rest */
    call->call_scratch = mth__chains_bytes(rows, n);
    const int64_t d = call->out[0].shape.dim[1];
    call->thread_scratch = mth__cascade_bytes(d) + mth__tile_bytes(&call->in[1], d) + mth__tile_bytes(&call->out[0], d);
    return NULL;
}
void mth__run_gather_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *ids = &call->in[0], *dy = &call->in[1], *out = &call->out[0];
    const int64_t d = out->shape.dim[1], n = mth__size(ids);
    const mth__chunk_range range = mth__chunk_of(out->shape.dim[0], call->chunks[0], chunk);
    const mth__chains of = mth__chains_of(out->shape.dim[0], call->shared);
    mth__chains_begin(&of, range);
    if (!call->accumulates) mth__elements_zero(out, range.lo * d, (range.hi - range.lo) * d);
    for (int64_t i = 0; i < n; i++) {
        const int64_t id = mth__id(ids, i), row = mth__local_index(out, 0, id);
        if (chunk == 0) check(call, id, out->global.dim[0]);
        if (row < range.lo || row >= range.hi) continue;
        mth__chains_add(&of, row, i);
    }
    void *room = (char *)scratch + mth__cascade_bytes(d);
    float *term = mth__tile_take(&room, dy, d), *tile = mth__tile_take(&room, out, d);
    for (int64_t row = range.lo; row < range.hi; row++) {
        int64_t i = of.first[row];
        if (!i) continue;
        if (!of.next[i - 1] && !call->accumulates) {
            mth__elements_copy(out, row * d, dy, (i - 1) * d, d);
            continue;
        }
        float *y = mth__tile_sum(out, row * d, d, call->accumulates, tile);
        if (!of.next[i - 1]) {
            mth__vec->add_to(d, mth__tile_read(dy, (i - 1) * d, d, term), y);
        } else {
            mth__cascade sum;
            for (mth__cascade_begin(&sum, d, call->accumulates, y, scratch); i; i = of.next[i - 1])
                mth__vec->add_to(d, mth__tile_read(dy, (i - 1) * d, d, term), mth__cascade_next(&sum));
            mth__cascade_end(&sum);
        }
        mth__tile_store(out, row * d, d, y);
    }
}
/* ---- pick: x[..., v], ids -> x[..., id] */
mth_status mth__prepare_pick(mth__arena *arena, mth__call *call) {
    (void)arena;
    mth__one_phase(call, 10.0 * (double)mth__size(&call->out[0]), mth__size(&call->out[0]));
    return NULL;
}
void mth__run_pick(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *x = &call->in[0], *ids = &call->in[1];
    const int last = x->shape.rank - 1;
    const int64_t classes = x->shape.dim[last];
    const mth__chunk_range range = mth__chunk_of(mth__size(ids), call->chunks[0], chunk);
    for (int64_t i = range.lo; i < range.hi; i++) {
        const int64_t id = mth__id(ids, i), at = mth__local_index(x, last, id);
        check(call, id, x->global.dim[last]);
        if (at < 0)
            mth__elements_zero(&call->out[0], i, 1);
        else
            mth__elements_copy(&call->out[0], i, x, i * classes + at, 1);
    }
}
mth_status mth__prepare_pick_grad(mth__arena *arena, mth__call *call) {
    (void)arena;
    mth__one_phase(call, 4.0 * (double)mth__size(&call->out[0]) / MTH__BYTES_PER_NS, mth__size(&call->in[0]));
    return NULL;
}
void mth__run_pick_grad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *ids = &call->in[0], *dy = &call->in[1], *out = &call->out[0];
    const int last = out->shape.rank - 1;
    const int64_t classes = out->shape.dim[last];
    const mth__chunk_range range = mth__chunk_of(mth__size(ids), call->chunks[0], chunk);
    mth__elements_zero(out, range.lo * classes, (range.hi - range.lo) * classes);
    for (int64_t i = range.lo; i < range.hi; i++) {
        const int64_t id = mth__id(ids, i), at = mth__local_index(out, last, id);
        check(call, id, out->global.dim[last]);
        if (at >= 0) mth__elements_copy(out, i * classes + at, dy, i, 1);
    }
}

/* ---- sinusoid: -> [s, d]. Angles in double: a position of 10^5 would lose all digits of the fast columns in float32.
   A pair of columns has one angle; `first` is the pair of the first local column. */
typedef struct {
    int64_t first, pairs;
    double *frequency;
} sinusoid;
mth_status mth__prepare_sinusoid(mth__arena *arena, mth__call *call) {
    sinusoid *plan = NEW(arena, sinusoid);
    const mth__operand *y = &call->out[0];
    const int64_t n = y->shape.dim[1];
    plan->first = y->start[1] / 2;
    plan->pairs = n ? (y->start[1] + (n - 1) * mth__step(y, 1)) / 2 - plan->first + 1 : 0;
    plan->frequency = NEW_ARRAY(arena, double, plan->pairs + 1);
    for (int64_t j = 0; j < plan->pairs; j++)
        plan->frequency[j] = pow(10000, -2.0 * (double)(plan->first + j) / (double)call->attrs->width);
    call->plan = plan;
    call->thread_scratch = 2 * (size_t)plan->pairs * sizeof(float);
    mth__one_phase(call, 1.5 * (double)mth__size(y), y->shape.dim[0]);
    return NULL;
}
void mth__run_sinusoid(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const sinusoid *plan = call->plan;
    const mth__operand *y = &call->out[0];
    const int64_t n = y->shape.dim[1], step = mth__step(y, 1);
    const mth__chunk_range range = mth__chunk_of(y->shape.dim[0], call->chunks[0], chunk);
    float *sine = scratch, *cosine = sine + plan->pairs;
    for (int64_t i = range.lo; i < range.hi; i++) {
        float *row = mth__f32(y) + i * n;
        mth__vec->sincos(plan->pairs, (double)(y->start[0] + i * mth__step(y, 0)), plan->frequency, sine, cosine);
        for (int64_t j = 0, column = y->start[1]; j < n; j++, column += step)
            row[j] = (column % 2 ? cosine : sine)[column / 2 - plan->first];
    }
}

/* ---- rope: x[outer, s, inner, d]; a chunk takes positions and outer rows, one table of sines serves all outer and
 * inner rows */
typedef struct {
    int64_t outer, positions, inner, d;
    int outer_chunks, position_chunks;
    double *frequency;
} rope;
static size_t tables_bytes(const rope *plan) { return (2 * (size_t)(plan->d / 2) * sizeof(float) + 63) & ~(size_t)63; }
mth_status mth__prepare_rope(mth__arena *arena, mth__call *call) {
    rope *plan = NEW(arena, rope);
    const mth__operand *x = &call->in[0];
    const int axis = (int)call->attrs->dimension, last = x->shape.rank - 1;
    plan->outer = mth__dims(x, 0, axis);
    plan->positions = x->shape.dim[axis];
    plan->inner = mth__dims(x, axis + 1, last);
    plan->d = x->shape.dim[last];
    plan->frequency = NEW_ARRAY(arena, double, plan->d / 2 + 1);
    for (int64_t j = 0; j < plan->d / 2; j++)
        plan->frequency[j] = pow(call->attrs->base, -2.0 * (double)j / (double)plan->d);
    const int chunks_wanted = mth__chunks(
        8.0 * (double)mth__size(x) / MTH__BYTES_PER_NS + 3.0 * (double)(plan->positions * plan->d), INT32_MAX);
    plan->position_chunks = (int)mth__max64(1, mth__min64(plan->positions, chunks_wanted));
    plan->outer_chunks = (int)mth__max64(1, mth__min64(plan->outer, chunks_wanted / plan->position_chunks));
    call->phases = 1;
    call->chunks[0] = plan->position_chunks * plan->outer_chunks;
    call->thread_scratch = tables_bytes(plan) + mth__tile_bytes(x, plan->d) + mth__tile_bytes(&call->out[0], plan->d);
    call->plan = plan;
    return NULL;
}
void mth__run_rope(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const rope *plan = call->plan;
    const mth__operand *x = &call->in[0];
    const int axis = (int)call->attrs->dimension;
    const int64_t half = plan->d / 2;
    const mth__chunk_range ps = mth__chunk_of(plan->positions, plan->position_chunks, chunk % plan->position_chunks),
                           os = mth__chunk_of(plan->outer, plan->outer_chunks, chunk / plan->position_chunks);
    float *sine = scratch, *cosine = sine + half;
    void *room = (char *)scratch + tables_bytes(plan);
    float *x_tile = mth__tile_take(&room, x, plan->d), *y_tile = mth__tile_take(&room, &call->out[0], plan->d);
    for (int64_t position = ps.lo; position < ps.hi; position++) {
        mth__vec->sincos(half, (double)(x->start[axis] + position * mth__step(x, axis)), plan->frequency, sine, cosine);
        if (call->attrs->inverse) mth__map(MTH__ROW_neg, half, sine, sine);
        for (int64_t row = os.lo; row < os.hi; row++)
            for (int64_t i = 0; i < plan->inner; i++) {
                const int64_t at = ((row * plan->positions + position) * plan->inner + i) * plan->d;
                const float *from = mth__tile_read(x, at, plan->d, x_tile);
                float *to = mth__tile_of(&call->out[0], at, y_tile);
                if (call->attrs->interleaved) {
                    for (int64_t j = 0; j < half; j++) {
                        const float a = from[2 * j], b = from[2 * j + 1];
                        to[2 * j] = a * cosine[j] - b * sine[j];
                        to[2 * j + 1] = a * sine[j] + b * cosine[j];
                    }
                } else
                    mth__vec->rotate(half, from, from + half, sine, cosine, to, to + half);
                mth__tile_store(&call->out[0], at, plan->d, to);
            }
    }
}
