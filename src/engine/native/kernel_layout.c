/* Rows that only move elements: strided copies between boxes. */
#include "engine/native/kernel_util.h"

/* ---- rows */
typedef struct {
    int n;
    mth__copy copy[];
} copy_list;
static copy_list *new_copies(mth__arena *arena, mth__call *c, int n) {
    copy_list *p = mth__alloc(arena, sizeof(copy_list) + (size_t)n * sizeof(mth__copy));
    p->n = n;
    c->plan = p;
    return p;
}
static mth_status plan_copies(mth__call *c) {
    copy_list *p = c->plan;
    int64_t rows = 0;
    for (int i = 0; i < p->n; i++) {
        mth__copy_plan(&p->copy[i], c->out[0].dtype);
        rows = mth__max64(rows, p->copy[i].rows);
    }
    mth__one_phase(
        c, 2.0 * (double)mth__size(&c->out[0]) * (double)mth_dtype_size(c->out[0].dtype) / MTH__BYTES_PER_NS, rows);
    return NULL;
}
static void run_copies(const mth__call *c, int chunk) {
    const copy_list *p = c->plan;
    for (int i = 0; i < p->n; i++) {
        const mth__chunk_range r = mth__chunk_of(p->copy[i].rows, c->chunks[0], chunk);
        mth__copy_run(&p->copy[i], c->out[0].data, c->in[i].data, r.lo, r.hi);
    }
}
static void dense(const mth__shape *s, mth__copy *c, int operand) { mth__shape_strides(*s, c->loop.stride[operand]); }
static mth__copy *box_of(mth__copy *c, const mth__shape *size) {
    c->loop.rank = size->rank;
    memcpy(c->loop.size, size->dim, sizeof c->loop.size);
    return c;
}

/* copy, reshape, stop: the same elements in the same order */
mth_status mth__prepare_copy(mth__arena *arena, mth__call *c) {
    mth__copy *p = new_copies(arena, c, 1)->copy;
    p->loop.rank = 1;
    p->loop.size[0] = mth__size(&c->out[0]);
    p->loop.stride[0][0] = p->loop.stride[1][0] = 1;
    return plan_copies(c);
}
void mth__run_copy(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    if (c->out[0].data != c->in[0].data) run_copies(c, chunk);
}
mth_status mth__prepare_broadcast_to(mth__arena *arena, mth__call *c) {
    mth__copy *p = box_of(new_copies(arena, c, 1)->copy, &c->out[0].shape);
    p->combine = c->accumulates ? mth__add_run : NULL;
    dense(&c->out[0].shape, p, 0);
    mth__loop_broadcast(&c->in[0].shape, &c->out[0].shape, p->loop.stride[1]);
    return plan_copies(c);
}
void mth__run_broadcast_to(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(c, chunk);
}

mth_status mth__prepare_transpose(mth__arena *arena, mth__call *c) {
    mth__copy *p = box_of(new_copies(arena, c, 1)->copy, &c->out[0].shape);
    int64_t stride[MTH__RANK];
    dense(&c->out[0].shape, p, 0);
    mth__shape_strides(c->in[0].shape, stride);
    for (int d = 0; d < c->out[0].shape.rank; d++) p->loop.stride[1][d] = stride[c->attrs->permutation[d]];
    return plan_copies(c);
}
void mth__run_transpose(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(c, chunk);
}

mth_status mth__prepare_slice(mth__arena *arena, mth__call *c) {
    mth__copy *p = box_of(new_copies(arena, c, 1)->copy, &c->out[0].shape);
    dense(&c->out[0].shape, p, 0);
    dense(&c->in[0].shape, p, 1);
    p->src = c->attrs->start * p->loop.stride[1][c->attrs->dimension];
    return plan_copies(c);
}
void mth__run_slice(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(c, chunk);
}

/* pad: the operand's box, and zeros before and after it: three boxes, the zeros read from one element. To a sum they
   add nothing. */
mth_status mth__prepare_pad(mth__arena *arena, mth__call *c) {
    mth__copy *p = new_copies(arena, c, 3)->copy;
    const int d = (int)c->attrs->dimension;
    const int64_t before = c->attrs->before, inside = c->in[0].shape.dim[d],
                  size[3] = {inside, before, c->out[0].shape.dim[d] - before - inside};
    const int64_t first[3] = {before, 0, before + inside};
    for (int i = 0; i < 3; i++) {
        box_of(&p[i], &c->out[0].shape);
        dense(&c->out[0].shape, &p[i], 0);
        p[i].dst = first[i] * p[i].loop.stride[0][d];
        p[i].combine = c->accumulates ? mth__add_run : NULL;
        p[i].loop.size[d] = size[i];
        if (i == 0) dense(&c->in[0].shape, &p[i], 1);
    }
    return plan_copies(c);
}
void mth__run_pad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    static const uint64_t zero = 0;
    const copy_list *p = c->plan;
    for (int i = 0; i < (c->accumulates ? 1 : 3); i++) {
        const mth__chunk_range r = mth__chunk_of(p->copy[i].rows, c->chunks[0], chunk);
        mth__copy_run(&p->copy[i], c->out[0].data, i ? &zero : c->in[0].data, r.lo, r.hi);
    }
}
mth_status mth__prepare_concat(mth__arena *arena, mth__call *c) {
    mth__copy *p = new_copies(arena, c, c->nin)->copy;
    const int d = (int)c->attrs->dimension;
    int64_t at = 0;
    for (int i = 0; i < c->nin; i++) {
        box_of(&p[i], &c->in[i].shape);
        dense(&c->out[0].shape, &p[i], 0);
        dense(&c->in[i].shape, &p[i], 1);
        p[i].dst = at * p[i].loop.stride[0][d];
        at += c->in[i].shape.dim[d];
    }
    return plan_copies(c);
}
void mth__run_concat(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(c, chunk);
}

/* keep: the part of the operand's part that the result's sharding leaves here. */
mth_status mth__prepare_keep(mth__arena *arena, mth__call *c) {
    mth__copy *p = box_of(new_copies(arena, c, 1)->copy, &c->out[0].shape);
    dense(&c->out[0].shape, p, 0);
    dense(&c->in[0].shape, p, 1);
    for (int d = 0; d < c->out[0].shape.rank; d++) {
        const int64_t in_step = mth__step(&c->in[0], d), out_step = mth__step(&c->out[0], d),
                      away = c->out[0].start[d] - c->in[0].start[d];
        if (c->out[0].shape.dim[d] == 0) continue;
        const int64_t last = away / in_step + (c->out[0].shape.dim[d] - 1) * (out_step / in_step);
        if (away < 0 || away % in_step || out_step % in_step || last >= c->in[0].shape.dim[d])
            return INTERNAL("keep: the result's part lies outside the operand's, dimension %d", d);
        p->src += away / in_step * p->loop.stride[1][d];
        p->loop.stride[1][d] *= out_step / in_step;
    }
    return plan_copies(c);
}
void mth__run_keep(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(c, chunk);
}
