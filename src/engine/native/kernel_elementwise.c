/* Elementwise rows: one loop over merged dimensions, runs along the innermost given to the vector functions. */
#include "engine/fault.h"
#include "engine/native/kernel_util.h"

typedef struct {
    mth__loop loop;
    int row;
    int64_t inner, total;
    int64_t most; /* elements of a run */
} elementwise_plan;

static double ns_per_element(const mth__call *c) { /* measured, AVX-512, data in cache */
    switch (mth__op_index(c->op)) {
    case MTH__ROW_exp:
    case MTH__ROW_log:
    case MTH__ROW_sigmoid:
    case MTH__ROW_silu:
    case MTH__ROW_tanh:
    case MTH__ROW_gelu:
    case MTH__ROW_gelu_tanh:
    case MTH__ROW_silu_grad:
    case MTH__ROW_gelu_tanh_grad: return 1;
    case MTH__ROW_gelu_grad:
    case MTH__ROW_dropout: return 2;
    default: return 0.2 * mth__max64(3, c->nin + c->nout); /* it only moves data */
    }
}
/* The innermost dimension is a run of each operand: stride 1, or 0 (one value). Results are dense, of one shape. */
static mth_status plan_loop(mth__arena *arena, mth__call *c) {
    elementwise_plan *p = NEW(arena, elementwise_plan);
    mth__loop *l = &p->loop;
    const mth__shape *out = &c->out[0].shape;
    if (c->nin > MTH__LOOP_OPERANDS)
        return INTERNAL("%s has %d operands, and a loop %d", c->op->name, c->nin, MTH__LOOP_OPERANDS);
    p->row = mth__op_index(c->op);
    p->total = mth__size(&c->out[0]);
    l->rank = out->rank;
    l->operands = c->nin;
    memcpy(l->size, out->dim, sizeof l->size);
    for (int j = 0; j < c->nin; j++) mth__loop_broadcast(&c->in[j].shape, out, l->stride[j]);
    mth__loop_merge(l);
    if (!l->rank) {
        l->rank = 1;
        l->size[0] = 1;
        for (int j = 0; j < l->operands; j++) l->stride[j][0] = 1;
    }
    p->inner = l->size[l->rank - 1];
    p->most = mth__tile_most(c);
    for (int j = 0; j < c->nin; j++) c->thread_scratch += mth__tile_bytes(&c->in[j], MTH__TILE);
    for (int k = 0; k < c->nout; k++) c->thread_scratch += mth__tile_bytes(&c->out[k], MTH__TILE);
    c->plan = p;
    mth__one_phase(c, ns_per_element(c) * (double)p->total, p->total / 64);
    return NULL;
}
mth_status mth__prepare_elementwise(mth__arena *arena, mth__call *c) { return plan_loop(arena, c); }

void mth__run_elementwise(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const elementwise_plan *p = c->plan;
    const mth__loop *l = &p->loop;
    const mth__chunk_range r = mth__chunk_of(p->total, c->chunks[0], chunk);
    const int last = l->rank - 1;
    mth__elementwise *run = mth__vec->elementwise[p->row];
    const float *in[MTH__LOOP_OPERANDS];
    float *out[MTH__MAX_OUT], *in_tile[MTH__LOOP_OPERANDS], *out_tile[MTH__MAX_OUT];
    int step[MTH__LOOP_OPERANDS];
    int64_t at[MTH__LOOP_OPERANDS];
    for (int j = 0; j < c->nin; j++) {
        step[j] = (int)l->stride[j][last];
        in_tile[j] = mth__tile_take(&scratch, &c->in[j], MTH__TILE);
    }
    for (int k = 0; k < c->nout; k++) out_tile[k] = mth__tile_take(&scratch, &c->out[k], MTH__TILE);
    for (int64_t pos = r.lo; pos < r.hi;) {
        const int64_t i = pos % p->inner, n = mth__min64(p->most, mth__min64(r.hi - pos, p->inner - i));
        mth__loop_at(l, last, pos / p->inner, at);
        for (int j = 0; j < c->nin; j++)
            in[j] = mth__tile_read(&c->in[j], at[j] + i * step[j], step[j] ? n : 1, in_tile[j]);
        for (int k = 0; k < c->nout; k++) out[k] = mth__tile_of(&c->out[k], pos, out_tile[k]);
        run(n, in, step, out, c->attrs);
        for (int k = 0; k < c->nout; k++) mth__tile_store(&c->out[k], pos, n, out[k]);
        pos += n;
    }
}

/* ---- cast */
mth_status mth__prepare_cast(mth__arena *arena, mth__call *c) { return plan_loop(arena, c); }
void mth__run_cast(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__chunk_range r = mth__chunk_of(((const elementwise_plan *)c->plan)->total, c->chunks[0], chunk);
    const mth__operand *x = &c->in[0], *y = &c->out[0];
    mth__dtype_convert(x->dtype, mth__element(x, r.lo), y->dtype, mth__element(y, r.lo), r.hi - r.lo);
}

/* ---- mask: numbers that must be 0 or 1 -> bool */
mth_status mth__prepare_mask(mth__arena *arena, mth__call *c) { return plan_loop(arena, c); }
void mth__run_mask(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__chunk_range r = mth__chunk_of(((const elementwise_plan *)c->plan)->total, c->chunks[0], chunk);
    const mth__operand *x = &c->in[0];
    uint8_t *y = c->out[0].data;
    double number[256];
    for (int64_t at = r.lo, n; at < r.hi; at += n) {
        n = mth__min64(r.hi - at, (int64_t)(sizeof number / sizeof *number));
        mth__dtype_convert(x->dtype, mth__element(x, at), MTH_FLOAT64, number, n);
        for (int64_t i = 0; i < n; i++) {
            if (number[i] != 0 && number[i] != 1) mth__kernel_fault(c->fault, mth__mask_fault(number[i]), 0);
            y[at + i] = number[i] == 1;
        }
    }
}

/* ---- dropout: the mask of an element depends on its global index alone, in the tensor of which this may be a box */
/* and the index of the box's first element */
static int64_t mask_strides(const mth__call *c, int64_t stride[MTH__RANK]) {
    mth__shape whole = c->out[0].global;
    const int64_t dim = c->attrs->dimension, start = c->attrs->start, size = c->attrs->size;
    if (size) whole.dim[dim] = size;
    mth__shape_strides(whole, stride);
    return size ? start * stride[dim] : 0;
}
mth_status mth__prepare_dropout(mth__arena *arena, mth__call *c) {
    TRY(plan_loop(arena, c));
    elementwise_plan *p = c->plan;
    const mth__operand *o = &c->out[0];
    const int last = o->shape.rank - 1;
    int64_t stride[MTH__RANK];
    /* operand 0: the local offset; 1: the global index */
    mth__loop *l = &p->loop;
    l->operands = 2;
    l->rank = o->shape.rank;
    memcpy(l->size, o->shape.dim, sizeof l->size);
    mth__shape_strides(o->shape, l->stride[0]);
    mask_strides(c, stride);
    for (int d = 0; d <= last; d++) l->stride[1][d] = stride[d] * mth__step(o, d);
    mth__loop_merge(l);
    if (!l->rank) {
        l->rank = 1;
        l->size[0] = l->stride[0][0] = l->stride[1][0] = 1;
    }
    p->inner = l->size[l->rank - 1];
    return NULL;
}
void mth__run_dropout(const mth__call *c, int phase, int chunk, void *scratch) {
    (void)phase;
    const elementwise_plan *p = c->plan;
    const mth__loop *l = &p->loop;
    const mth__chunk_range r = mth__chunk_of(p->total, c->chunks[0], chunk);
    const double rate = c->attrs->probability;
    const uint64_t threshold = rate <= 0 ? 0 : (uint64_t)ceil(rate * 0x1p32);
    const float scale = rate < 1 ? (float)(1 / (1 - rate)) : 0;
    const mth__operand *o = &c->out[0];
    int64_t stride[MTH__RANK], first = mask_strides(c, stride), at[MTH__LOOP_OPERANDS];
    for (int d = 0; d < o->shape.rank; d++) first += o->start[d] * stride[d];
    float *x_tile = mth__tile_take(&scratch, &c->in[0], MTH__TILE), *y_tile = mth__tile_take(&scratch, o, MTH__TILE);
    for (int64_t pos = r.lo; pos < r.hi;) {
        const int64_t i = pos % p->inner, n = mth__min64(p->most, mth__min64(r.hi - pos, p->inner - i)),
                      step = l->stride[1][l->rank - 1];
        mth__loop_at(l, l->rank - 1, pos / p->inner, at);
        float *y = mth__tile_of(o, pos, y_tile);
        mth__vec->dropout(n, mth__tile_read(&c->in[0], pos, n, x_tile), y, (uint64_t)c->attrs->key,
            (uint64_t)(first + at[1] + i * step), (uint64_t)step, threshold, scale);
        mth__tile_store(o, pos, n, y);
        pos += n;
    }
}
