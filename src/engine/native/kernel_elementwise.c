/* Elementwise rows: one loop over merged dimensions, runs along the innermost given to the vector functions. */
#include "engine/fault.h"
#include "engine/native/kernel_util.h"

typedef struct {
    mth__loop loop;
    int row;
    int64_t inner, total;
    int64_t most; /* elements of a run */
} elementwise_plan;

static double ns_per_element(const mth__call *call) { /* measured, AVX-512, data in cache */
    switch (call->op->row) {
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
    default: return 0.2 * mth__max64(3, call->nin + call->nout); /* it only moves data */
    }
}
/* The innermost dimension is a run of each operand: stride 1, or 0 (one value). Results are dense, of one shape. */
static mth_status plan_loop(mth__arena *arena, mth__call *call) {
    elementwise_plan *plan = NEW(arena, elementwise_plan);
    mth__loop *loop = &plan->loop;
    const mth__shape *out = &call->out[0].shape;
    if (call->nin > MTH__LOOP_OPERANDS)
        return INTERNAL("%s has %d operands, and a loop %d", call->op->name, call->nin, MTH__LOOP_OPERANDS);
    plan->row = call->op->row;
    plan->total = mth__size(&call->out[0]);
    loop->rank = out->rank;
    loop->operands = call->nin;
    memcpy(loop->size, out->dim, sizeof loop->size);
    for (int j = 0; j < call->nin; j++) mth__loop_broadcast(&call->in[j].shape, out, loop->stride[j]);
    mth__loop_merge(loop);
    if (!loop->rank) {
        loop->rank = 1;
        loop->size[0] = 1;
        for (int j = 0; j < loop->operands; j++) loop->stride[j][0] = 1;
    }
    plan->inner = loop->size[loop->rank - 1];
    plan->most = mth__tile_most(call);
    for (int j = 0; j < call->nin; j++) call->thread_scratch += mth__tile_bytes(&call->in[j], MTH__TILE);
    for (int k = 0; k < call->nout; k++) call->thread_scratch += mth__tile_bytes(&call->out[k], MTH__TILE);
    call->plan = plan;
    mth__one_phase(call, ns_per_element(call) * (double)plan->total, plan->total / 64);
    return NULL;
}
mth_status mth__prepare_elementwise(mth__arena *arena, mth__call *call) { return plan_loop(arena, call); }

void mth__run_elementwise(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const elementwise_plan *plan = call->plan;
    const mth__loop *loop = &plan->loop;
    const mth__chunk_range range = mth__chunk_of(plan->total, call->chunks[0], chunk);
    const int last = loop->rank - 1;
    mth__elementwise *run = mth__vec->elementwise[plan->row];
    const float *in[MTH__LOOP_OPERANDS];
    float *out[MTH__MAX_OUT], *in_tile[MTH__LOOP_OPERANDS], *out_tile[MTH__MAX_OUT];
    int step[MTH__LOOP_OPERANDS];
    int64_t at[MTH__LOOP_OPERANDS];
    for (int j = 0; j < call->nin; j++) {
        step[j] = (int)loop->stride[j][last];
        in_tile[j] = mth__tile_take(&scratch, &call->in[j], MTH__TILE);
    }
    for (int k = 0; k < call->nout; k++) out_tile[k] = mth__tile_take(&scratch, &call->out[k], MTH__TILE);
    for (int64_t pos = range.lo; pos < range.hi;) {
        const int64_t i = pos % plan->inner, n = mth__min64(plan->most, mth__min64(range.hi - pos, plan->inner - i));
        mth__loop_at(loop, last, pos / plan->inner, at);
        for (int j = 0; j < call->nin; j++)
            in[j] = mth__tile_read(&call->in[j], at[j] + i * step[j], step[j] ? n : 1, in_tile[j]);
        for (int k = 0; k < call->nout; k++) out[k] = mth__tile_of(&call->out[k], pos, out_tile[k]);
        run(n, in, step, out, call->attrs);
        for (int k = 0; k < call->nout; k++) mth__tile_store(&call->out[k], pos, n, out[k]);
        pos += n;
    }
}

/* ---- cast */
mth_status mth__prepare_cast(mth__arena *arena, mth__call *call) { return plan_loop(arena, call); }
void mth__run_cast(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__chunk_range range = mth__chunk_of(((const elementwise_plan *)call->plan)->total, call->chunks[0], chunk);
    const mth__operand *x = &call->in[0], *y = &call->out[0];
    mth__dtype_convert(x->dtype, mth__element(x, range.lo), y->dtype, mth__element(y, range.lo), range.hi - range.lo);
}

/* ---- mask: numbers that must be 0 or 1 -> bool */
mth_status mth__prepare_mask(mth__arena *arena, mth__call *call) { return plan_loop(arena, call); }
void mth__run_mask(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    const mth__chunk_range range = mth__chunk_of(((const elementwise_plan *)call->plan)->total, call->chunks[0], chunk);
    const mth__operand *x = &call->in[0];
    uint8_t *y = call->out[0].data;
    double number[256];
    for (int64_t at = range.lo, n; at < range.hi; at += n) {
        n = mth__min64(range.hi - at, (int64_t)(sizeof number / sizeof *number));
        mth__dtype_convert(x->dtype, mth__element(x, at), MTH_FLOAT64, number, n);
        for (int64_t i = 0; i < n; i++) {
            if (number[i] != 0 && number[i] != 1) mth__kernel_fault(call->fault, mth__mask_fault(number[i]), 0);
            y[at + i] = number[i] == 1;
        }
    }
}

/* ---- dropout: the mask of an element depends on its global index alone, in the tensor of which this may be a box */
/* and the index of the box's first element */
static int64_t mask_strides(const mth__call *call, int64_t stride[MTH__RANK]) {
    mth__shape whole = call->out[0].global;
    const int64_t dim = call->attrs->dimension, start = call->attrs->start, size = call->attrs->size;
    if (size) whole.dim[dim] = size;
    mth__shape_strides(whole, stride);
    return size ? start * stride[dim] : 0;
}
mth_status mth__prepare_dropout(mth__arena *arena, mth__call *call) {
    TRY(plan_loop(arena, call));
    elementwise_plan *plan = call->plan;
    const mth__operand *operand = &call->out[0];
    const int last = operand->shape.rank - 1;
    int64_t stride[MTH__RANK];
    /* operand 0: the local offset; 1: the global index */
    mth__loop *loop = &plan->loop;
    loop->operands = 2;
    loop->rank = operand->shape.rank;
    memcpy(loop->size, operand->shape.dim, sizeof loop->size);
    mth__shape_strides(operand->shape, loop->stride[0]);
    mask_strides(call, stride);
    for (int d = 0; d <= last; d++) loop->stride[1][d] = stride[d] * mth__step(operand, d);
    mth__loop_merge(loop);
    if (!loop->rank) {
        loop->rank = 1;
        loop->size[0] = loop->stride[0][0] = loop->stride[1][0] = 1;
    }
    plan->inner = loop->size[loop->rank - 1];
    return NULL;
}
void mth__run_dropout(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase;
    const elementwise_plan *plan = call->plan;
    const mth__loop *loop = &plan->loop;
    const mth__chunk_range range = mth__chunk_of(plan->total, call->chunks[0], chunk);
    const double rate = call->attrs->probability;
    const uint64_t threshold = rate <= 0 ? 0 : (uint64_t)ceil(rate * 0x1p32);
    const float scale = rate < 1 ? (float)(1 / (1 - rate)) : 0;
    const mth__operand *operand = &call->out[0];
    int64_t stride[MTH__RANK], first = mask_strides(call, stride), at[MTH__LOOP_OPERANDS];
    for (int d = 0; d < operand->shape.rank; d++) first += operand->start[d] * stride[d];
    float *x_tile = mth__tile_take(&scratch, &call->in[0], MTH__TILE),
          *y_tile = mth__tile_take(&scratch, operand, MTH__TILE);
    for (int64_t pos = range.lo; pos < range.hi;) {
        const int64_t i = pos % plan->inner, n = mth__min64(plan->most, mth__min64(range.hi - pos, plan->inner - i)),
                      step = loop->stride[1][loop->rank - 1];
        mth__loop_at(loop, loop->rank - 1, pos / plan->inner, at);
        float *y = mth__tile_of(operand, pos, y_tile);
        mth__vec->dropout(n, mth__tile_read(&call->in[0], pos, n, x_tile), y, (uint64_t)call->attrs->key,
            (uint64_t)(first + at[1] + i * step), (uint64_t)step, threshold, scale);
        mth__tile_store(operand, pos, n, y);
        pos += n;
    }
}
