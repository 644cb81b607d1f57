/* Rows that read or write by id, and those whose values come from positions. */
#include "engine/native/kernel_util.h"

static void check(const mth__call *c, int64_t id, int64_t limit) {
    if (id < 0 || id >= limit) mth__kernel_fault(c->fault, id, limit);
}

/* ---- gather: table[v, d], ids -> [ids, d] */
mth_status mth__prepare_gather(mth__arena *arena, mth__call *c) {
    (void)arena;
    mth__one_phase(c, 8.0 * (double)mth__size(&c->out[0]) / MTH__BYTES_PER_NS + 2.0 * (double)mth__size(&c->in[1]),
        mth__size(&c->in[1]));
    return NULL;
}
void mth__run_gather(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *table = &c->in[0], *ids = &c->in[1];
    const int64_t d = table->shape.dim[1];
    const mth__chunk_range r = mth__chunk_of(mth__size(ids), c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++) {
        const int64_t id = mth__id(ids, i), row = mth__local_index(table, 0, id);
        check(c, id, table->global.dim[0]);
        if (row < 0)
            mth__elements_zero(&c->out[0], i * d, d);
        else
            mth__elements_copy(&c->out[0], i * d, table, row * d, d);
    }
}
/* Each chunk owns a range of the vocabulary and looks at all ids once, to string those of each row together. */
mth_status mth__prepare_gather_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    const int64_t n = mth__size(&c->in[0]), rows = c->out[0].shape.dim[0];
    c->phases = 1;
    c->chunks[0] =
        (int)mth__min64(mth__chunks((c->accumulates ? 0 : 4.0 * (double)mth__size(&c->out[0]) / MTH__BYTES_PER_NS) +
                                8.0 * (double)mth__size(&c->in[1]) / MTH__BYTES_PER_NS,
                            rows),
            mth__max64(1, (int64_t)(5e7 / ((double)n + 1)))); /* reading the ids stays small beside the rest */
    c->call_scratch = mth__chains_bytes(rows, n);
    const int64_t d = c->out[0].shape.dim[1];
    c->thread_scratch = mth__cascade_bytes(d) + mth__tile_bytes(&c->in[1], d) + mth__tile_bytes(&c->out[0], d);
    return NULL;
}
void mth__run_gather_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const mth__operand *ids = &c->in[0], *dy = &c->in[1], *out = &c->out[0];
    const int64_t d = out->shape.dim[1], n = mth__size(ids);
    const mth__chunk_range r = mth__chunk_of(out->shape.dim[0], c->chunks[0], chunk);
    const mth__chains of = mth__chains_of(out->shape.dim[0], c->shared);
    mth__chains_begin(&of, r);
    if (!c->accumulates) mth__elements_zero(out, r.lo * d, (r.hi - r.lo) * d);
    for (int64_t i = 0; i < n; i++) {
        const int64_t id = mth__id(ids, i), row = mth__local_index(out, 0, id);
        if (chunk == 0) check(c, id, out->global.dim[0]);
        if (row < r.lo || row >= r.hi) continue;
        mth__chains_add(&of, row, i);
    }
    void *room = (char *)scratch + mth__cascade_bytes(d);
    float *term = mth__tile_take(&room, dy, d), *tile = mth__tile_take(&room, out, d);
    for (int64_t row = r.lo; row < r.hi; row++) {
        int64_t i = of.first[row];
        if (!i) continue;
        if (!of.next[i - 1] && !c->accumulates) {
            mth__elements_copy(out, row * d, dy, (i - 1) * d, d);
            continue;
        }
        float *y = mth__tile_sum(out, row * d, d, c->accumulates, tile);
        if (!of.next[i - 1]) {
            mth__vec->add_to(d, mth__tile_read(dy, (i - 1) * d, d, term), y);
        } else {
            mth__cascade sum;
            for (mth__cascade_begin(&sum, d, c->accumulates, y, scratch); i; i = of.next[i - 1])
                mth__vec->add_to(d, mth__tile_read(dy, (i - 1) * d, d, term), mth__cascade_next(&sum));
            mth__cascade_end(&sum);
        }
        mth__tile_store(out, row * d, d, y);
    }
}
/* ---- pick: x[..., v], ids -> x[..., id] */
mth_status mth__prepare_pick(mth__arena *arena, mth__call *c) {
    (void)arena;
    mth__one_phase(c, 10.0 * (double)mth__size(&c->out[0]), mth__size(&c->out[0]));
    return NULL;
}
void mth__run_pick(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *x = &c->in[0], *ids = &c->in[1];
    const int last = x->shape.rank - 1;
    const int64_t v = x->shape.dim[last];
    const mth__chunk_range r = mth__chunk_of(mth__size(ids), c->chunks[0], chunk);
    for (int64_t i = r.lo; i < r.hi; i++) {
        const int64_t id = mth__id(ids, i), at = mth__local_index(x, last, id);
        check(c, id, x->global.dim[last]);
        if (at < 0)
            mth__elements_zero(&c->out[0], i, 1);
        else
            mth__elements_copy(&c->out[0], i, x, i * v + at, 1);
    }
}
mth_status mth__prepare_pick_grad(mth__arena *arena, mth__call *c) {
    (void)arena;
    mth__one_phase(c, 4.0 * (double)mth__size(&c->out[0]) / MTH__BYTES_PER_NS, mth__size(&c->in[0]));
    return NULL;
}
void mth__run_pick_grad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__operand *ids = &c->in[0], *dy = &c->in[1], *out = &c->out[0];
    const int last = out->shape.rank - 1;
    const int64_t v = out->shape.dim[last];
    const mth__chunk_range r = mth__chunk_of(mth__size(ids), c->chunks[0], chunk);
    mth__elements_zero(out, r.lo * v, (r.hi - r.lo) * v);
    for (int64_t i = r.lo; i < r.hi; i++) {
        const int64_t id = mth__id(ids, i), at = mth__local_index(out, last, id);
        check(c, id, out->global.dim[last]);
        if (at >= 0) mth__elements_copy(out, i * v + at, dy, i, 1);
    }
}

/* ---- sinusoid: -> [s, d]. Angles in double: a position of 10^5 would lose all digits of the fast columns in float32.
   A pair of columns has one angle; `first` is the pair of the first local column. */
typedef struct {
    int64_t first, pairs;
    double *frequency;
} sinusoid;
mth_status mth__prepare_sinusoid(mth__arena *arena, mth__call *c) {
    sinusoid *p = NEW(arena, sinusoid);
    const mth__operand *y = &c->out[0];
    const int64_t n = y->shape.dim[1];
    p->first = y->start[1] / 2;
    p->pairs = n ? (y->start[1] + (n - 1) * mth__step(y, 1)) / 2 - p->first + 1 : 0;
    p->frequency = NEW_ARRAY(arena, double, p->pairs + 1);
    for (int64_t j = 0; j < p->pairs; j++)
        p->frequency[j] = pow(10000, -2.0 * (double)(p->first + j) / (double)c->attrs->width);
    c->plan = p;
    c->thread_scratch = 2 * (size_t)p->pairs * sizeof(float);
    mth__one_phase(c, 1.5 * (double)mth__size(y), y->shape.dim[0]);
    return NULL;
}
void mth__run_sinusoid(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const sinusoid *p = c->plan;
    const mth__operand *y = &c->out[0];
    const int64_t n = y->shape.dim[1], step = mth__step(y, 1);
    const mth__chunk_range r = mth__chunk_of(y->shape.dim[0], c->chunks[0], chunk);
    float *sine = scratch, *cosine = sine + p->pairs;
    for (int64_t i = r.lo; i < r.hi; i++) {
        float *row = mth__f32(y) + i * n;
        mth__vec->sincos(p->pairs, (double)(y->start[0] + i * mth__step(y, 0)), p->frequency, sine, cosine);
        for (int64_t j = 0, column = y->start[1]; j < n; j++, column += step)
            row[j] = (column % 2 ? cosine : sine)[column / 2 - p->first];
    }
}

/* ---- rope: x[outer, s, inner, d]; a chunk takes positions and outer rows, one table of sines serves all outer and
 * inner rows */
typedef struct {
    int64_t outer, positions, inner, d;
    int outer_chunks, position_chunks;
    double *frequency;
} rope;
static size_t tables_bytes(const rope *p) { return (2 * (size_t)(p->d / 2) * sizeof(float) + 63) & ~(size_t)63; }
mth_status mth__prepare_rope(mth__arena *arena, mth__call *c) {
    rope *p = NEW(arena, rope);
    const mth__operand *x = &c->in[0];
    const int s = (int)c->attrs->dimension, last = x->shape.rank - 1;
    p->outer = mth__dims(x, 0, s);
    p->positions = x->shape.dim[s];
    p->inner = mth__dims(x, s + 1, last);
    p->d = x->shape.dim[last];
    p->frequency = NEW_ARRAY(arena, double, p->d / 2 + 1);
    for (int64_t j = 0; j < p->d / 2; j++) p->frequency[j] = pow(c->attrs->base, -2.0 * (double)j / (double)p->d);
    const int want =
        mth__chunks(8.0 * (double)mth__size(x) / MTH__BYTES_PER_NS + 3.0 * (double)(p->positions * p->d), INT32_MAX);
    p->position_chunks = (int)mth__max64(1, mth__min64(p->positions, want));
    p->outer_chunks = (int)mth__max64(1, mth__min64(p->outer, want / p->position_chunks));
    c->phases = 1;
    c->chunks[0] = p->position_chunks * p->outer_chunks;
    c->thread_scratch = tables_bytes(p) + mth__tile_bytes(x, p->d) + mth__tile_bytes(&c->out[0], p->d);
    c->plan = p;
    return NULL;
}
void mth__run_rope(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const rope *p = c->plan;
    const mth__operand *x = &c->in[0];
    const int axis = (int)c->attrs->dimension;
    const int64_t half = p->d / 2;
    const mth__chunk_range ps = mth__chunk_of(p->positions, p->position_chunks, chunk % p->position_chunks),
                           os = mth__chunk_of(p->outer, p->outer_chunks, chunk / p->position_chunks);
    float *sine = scratch, *cosine = sine + half;
    void *room = (char *)scratch + tables_bytes(p);
    float *x_tile = mth__tile_take(&room, x, p->d), *y_tile = mth__tile_take(&room, &c->out[0], p->d);
    for (int64_t s = ps.lo; s < ps.hi; s++) {
        mth__vec->sincos(half, (double)(x->start[axis] + s * mth__step(x, axis)), p->frequency, sine, cosine);
        if (c->attrs->inverse) mth__map(MTH__ROW_neg, half, sine, sine);
        for (int64_t o = os.lo; o < os.hi; o++)
            for (int64_t i = 0; i < p->inner; i++) {
                const int64_t at = ((o * p->positions + s) * p->inner + i) * p->d;
                const float *from = mth__tile_read(x, at, p->d, x_tile);
                float *to = mth__tile_of(&c->out[0], at, y_tile);
                if (c->attrs->interleaved) {
                    for (int64_t j = 0; j < half; j++) {
                        const float a = from[2 * j], b = from[2 * j + 1];
                        to[2 * j] = a * cosine[j] - b * sine[j];
                        to[2 * j + 1] = a * sine[j] + b * cosine[j];
                    }
                } else
                    mth__vec->rotate(half, from, from + half, sine, cosine, to, to + half);
                mth__tile_store(&c->out[0], at, p->d, to);
            }
    }
}
