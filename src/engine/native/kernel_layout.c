/* Rows that only move elements: strided copies between boxes. */
#include "engine/native/kernel_util.h"

/* ---- loops */
void mth__loop_merge(mth__loop *l) {
    int n = 0;
    for (int d = 0; d < l->rank; d++) {
        if (l->size[d] == 1) continue;
        bool joins = n > 0;
        for (int o = 0; o < l->operands && joins; o++) joins = l->stride[o][n - 1] == l->stride[o][d] * l->size[d];
        if (joins) {
            l->size[n - 1] *= l->size[d];
            for (int o = 0; o < l->operands; o++) l->stride[o][n - 1] = l->stride[o][d];
            continue;
        }
        l->size[n] = l->size[d];
        for (int o = 0; o < l->operands; o++) l->stride[o][n] = l->stride[o][d];
        n++;
    }
    l->rank = n;
}
void mth__loop_at(const mth__loop *l, int rank, int64_t index, int64_t *offset) {
    for (int o = 0; o < l->operands; o++) offset[o] = 0;
    for (int d = rank - 1; d >= 0; d--) {
        const int64_t i = index % l->size[d];
        index /= l->size[d];
        for (int o = 0; o < l->operands; o++) offset[o] += i * l->stride[o][d];
    }
}
void mth__loop_broadcast(const mth__shape *from, const mth__shape *to, int64_t *stride) {
    int64_t s = 1;
    for (int d = to->rank - 1; d >= 0; d--) {
        const int f = d - (to->rank - from->rank);
        stride[d] = f < 0 || (from->dim[f] == 1 && to->dim[d] != 1) ? 0 : s;
        if (f >= 0) s *= from->dim[f];
    }
}

enum { PIECE = 8192 }; /* a single run is cut in rows of this many elements */
/* ---- strided copies. The dimension that src has contiguous comes next to last, the one of dst last: where they
   differ, the copy of the two is a transposition in tiles, else a run. */
static void move_dim(mth__loop *l, int from, int to) {
    const int64_t size = l->size[from], d = l->stride[0][from], s = l->stride[1][from];
    for (int i = from; i < to; i++) {
        l->size[i] = l->size[i + 1];
        l->stride[0][i] = l->stride[0][i + 1];
        l->stride[1][i] = l->stride[1][i + 1];
    }
    l->size[to] = size;
    l->stride[0][to] = d;
    l->stride[1][to] = s;
}
void mth__copy_plan(mth__copy *c, mth_dtype dtype) {
    mth__loop *l = &c->loop;
    l->operands = 2;
    c->dtype = dtype;
    c->size = mth_dtype_size(dtype);
    mth__loop_merge(l);
    if (!l->rank) {
        l->rank = 1;
        l->size[0] = l->stride[0][0] = l->stride[1][0] = 1;
    }
    for (int d = 0; d < l->rank - 1; d++)
        if (l->stride[0][l->rank - 1] != 1 && l->stride[0][d] == 1) {
            move_dim(l, d, l->rank - 1);
            break;
        }
    if (l->stride[1][l->rank - 1] != 1)
        for (int d = 0; d < l->rank - 2; d++)
            if (l->stride[1][d] == 1) {
                move_dim(l, d, l->rank - 2);
                break;
            }
    c->rows = 1;
    for (int d = 0; d < l->rank - 1; d++) c->rows *= l->size[d];
    if (l->rank == 1) c->rows = (l->size[0] + PIECE - 1) / PIECE;
    if (l->size[l->rank - 1] == 0) c->rows = 0;
}
static void copy_run(size_t size, int64_t n, char *dst, int64_t ds, const char *src, int64_t ss) {
    if (ds == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * size);
        return;
    }
#define STRIDED(type)                                                                                                  \
    {                                                                                                                  \
        type *d = (type *)(void *)dst;                                                                                 \
        const type *s = (const type *)(const void *)src;                                                               \
        if (ss == 0) {                                                                                                 \
            const type v = *s;                                                                                         \
            for (int64_t i = 0; i < n; i++) d[i * ds] = v;                                                             \
        } else                                                                                                         \
            for (int64_t i = 0; i < n; i++) d[i * ds] = s[i * ss];                                                     \
    }
    switch (size) {
    case 1: STRIDED(uint8_t) break;
    case 2: STRIDED(uint16_t) break;
    case 4: STRIDED(uint32_t) break;
    default: STRIDED(uint64_t)
    }
#undef STRIDED
}
static void move_run(const mth__copy *c, int64_t n, char *dst, int64_t ds, const char *src, int64_t ss) {
    if (c->adds)
        mth__reduce_run(MTH__BOX_ADD, c->dtype, n, dst, ds, src, ss);
    else
        copy_run(c->size, n, dst, ds, src, ss);
}
void mth__copy_run(const mth__copy *c, void *dst, const void *src, int64_t lo, int64_t hi) {
    const mth__loop *l = &c->loop;
    const int last = l->rank - 1;
    const int64_t size = (int64_t)c->size, n = l->size[last], ds = l->stride[0][last], ss = l->stride[1][last];
    char *d0 = (char *)dst + c->dst * size;
    const char *s0 = (const char *)src + c->src * size;
    const bool tiles = !c->adds && last > 0 && size == 4 && ds == 1 && ss != 1 && l->stride[1][last - 1] == 1;
    if (last == 0) {
        const int64_t from = lo * PIECE, to = mth__min64(hi * PIECE, n);
        if (from < to) move_run(c, to - from, d0 + from * ds * size, ds, s0 + from * ss * size, ss);
        return;
    }
    int64_t at[MTH__LOOP_OPERANDS];
    for (int64_t row = lo; row < hi;) {
        mth__loop_at(l, last, row, at);
        char *d = d0 + at[0] * size;
        const char *s = s0 + at[1] * size;
        const int64_t run = mth__min64(hi - row, l->size[last - 1] - row % l->size[last - 1]);
        if (tiles)
            mth__vec->transpose(n, run, (const float *)(const void *)s, ss, (float *)(void *)d, l->stride[0][last - 1]);
        else
            for (int64_t r = 0; r < run; r++)
                move_run(c, n, d + r * l->stride[0][last - 1] * size, ds, s + r * l->stride[1][last - 1] * size, ss);
        row += run;
    }
}

/* ---- rows */
typedef struct {
    int n;
    mth__copy copy[];
} copies;
static copies *new_copies(mth__arena *arena, mth__call *c, int n) {
    copies *p = mth__alloc(arena, sizeof(copies) + (size_t)n * sizeof(mth__copy));
    p->n = n;
    c->plan = p;
    return p;
}
static mth_status plan_copies(mth__call *c) {
    copies *p = c->plan;
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
    const copies *p = c->plan;
    for (int i = 0; i < p->n; i++) {
        const mth__range r = mth__chunk_of(p->copy[i].rows, c->chunks[0], chunk);
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
    p->adds = c->accumulates;
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
    for (int d = 0; d < c->out[0].shape.rank; d++) p->loop.stride[1][d] = stride[c->attrs->i[1 + d]];
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
    p->src = c->attrs->i[1] * p->loop.stride[1][c->attrs->i[0]];
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
    const int d = (int)c->attrs->i[0];
    const int64_t before = c->attrs->i[1], inside = c->in[0].shape.dim[d],
                  size[3] = {inside, before, c->out[0].shape.dim[d] - before - inside};
    const int64_t first[3] = {before, 0, before + inside};
    for (int i = 0; i < 3; i++) {
        box_of(&p[i], &c->out[0].shape);
        dense(&c->out[0].shape, &p[i], 0);
        p[i].dst = first[i] * p[i].loop.stride[0][d];
        p[i].adds = c->accumulates;
        p[i].loop.size[d] = size[i];
        if (i == 0) dense(&c->in[0].shape, &p[i], 1);
    }
    return plan_copies(c);
}
void mth__run_pad(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    static const uint64_t zero = 0;
    const copies *p = c->plan;
    for (int i = 0; i < (c->accumulates ? 1 : 3); i++) {
        const mth__range r = mth__chunk_of(p->copy[i].rows, c->chunks[0], chunk);
        mth__copy_run(&p->copy[i], c->out[0].data, i ? &zero : c->in[0].data, r.lo, r.hi);
    }
}
mth_status mth__prepare_concat(mth__arena *arena, mth__call *c) {
    mth__copy *p = new_copies(arena, c, c->nin)->copy;
    const int d = (int)c->attrs->i[0];
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
