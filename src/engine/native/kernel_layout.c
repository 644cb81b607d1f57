/* Rows that only move elements: strided copies between boxes. */
#include "engine/native/kernel_util.h"

/* ---- rows */
typedef struct {
    int n;
    mth__copy copy[];
} copy_list;
static copy_list *new_copies(mth__arena *arena, mth__call *call, int n) {
    copy_list *list = mth__alloc(arena, sizeof(copy_list) + (size_t)n * sizeof(mth__copy));
    list->n = n;
    call->plan = list;
    return list;
}
static mth_status plan_copies(mth__call *call) {
    copy_list *list = call->plan;
    int64_t rows = 0;
    for (int i = 0; i < list->n; i++) {
        mth__copy_plan(&list->copy[i], call->out[0].dtype);
        rows = mth__max64(rows, list->copy[i].rows);
    }
    mth__one_phase(call,
        2.0 * (double)mth__size(&call->out[0]) * (double)mth_dtype_size(call->out[0].dtype) / MTH__BYTES_PER_NS, rows);
    return NULL;
}
static void run_copies(const mth__call *call, int chunk) {
    const copy_list *list = call->plan;
    for (int i = 0; i < list->n; i++) {
        const mth__chunk_range range = mth__chunk_of(list->copy[i].rows, call->chunks[0], chunk);
        mth__copy_run(&list->copy[i], call->out[0].data, call->in[i].data, range.lo, range.hi);
    }
}
static void dense(const mth__shape *shape, mth__copy *copy, int operand) {
    mth__shape_strides(*shape, copy->loop.stride[operand]);
}
static mth__copy *box_of(mth__copy *copy, const mth__shape *size) {
    copy->loop.rank = size->rank;
    memcpy(copy->loop.size, size->dim, sizeof copy->loop.size);
    return copy;
}

/* copy, reshape, stop: the same elements in the same order */
mth_status mth__prepare_copy(mth__arena *arena, mth__call *call) {
    mth__copy *copy = new_copies(arena, call, 1)->copy;
    copy->loop.rank = 1;
    copy->loop.size[0] = mth__size(&call->out[0]);
    copy->loop.stride[0][0] = copy->loop.stride[1][0] = 1;
    return plan_copies(call);
}
void mth__run_copy(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    if (call->out[0].data != call->in[0].data) run_copies(call, chunk);
}
mth_status mth__prepare_broadcast_to(mth__arena *arena, mth__call *call) {
    mth__copy *copy = box_of(new_copies(arena, call, 1)->copy, &call->out[0].shape);
    copy->combine = call->accumulates ? mth__add_run : NULL;
    dense(&call->out[0].shape, copy, 0);
    mth__loop_broadcast(&call->in[0].shape, &call->out[0].shape, copy->loop.stride[1]);
    return plan_copies(call);
}
void mth__run_broadcast_to(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(call, chunk);
}

mth_status mth__prepare_transpose(mth__arena *arena, mth__call *call) {
    mth__copy *copy = box_of(new_copies(arena, call, 1)->copy, &call->out[0].shape);
    int64_t stride[MTH__RANK];
    dense(&call->out[0].shape, copy, 0);
    mth__shape_strides(call->in[0].shape, stride);
    for (int d = 0; d < call->out[0].shape.rank; d++) copy->loop.stride[1][d] = stride[call->attrs->permutation[d]];
    return plan_copies(call);
}
void mth__run_transpose(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(call, chunk);
}

mth_status mth__prepare_slice(mth__arena *arena, mth__call *call) {
    mth__copy *copy = box_of(new_copies(arena, call, 1)->copy, &call->out[0].shape);
    dense(&call->out[0].shape, copy, 0);
    dense(&call->in[0].shape, copy, 1);
    copy->src = call->attrs->start * copy->loop.stride[1][call->attrs->dimension];
    return plan_copies(call);
}
void mth__run_slice(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(call, chunk);
}

/* pad: the operand's box, and zeros before and after it: three boxes, the zeros read from one element. To a sum they
   add nothing. */
mth_status mth__prepare_pad(mth__arena *arena, mth__call *call) {
    mth__copy *copy = new_copies(arena, call, 3)->copy;
    const int d = (int)call->attrs->dimension;
    const int64_t before = call->attrs->before, inside = call->in[0].shape.dim[d],
                  size[3] = {inside, before, call->out[0].shape.dim[d] - before - inside};
    const int64_t first[3] = {before, 0, before + inside};
    for (int i = 0; i < 3; i++) {
        box_of(&copy[i], &call->out[0].shape);
        dense(&call->out[0].shape, &copy[i], 0);
        copy[i].dst = first[i] * copy[i].loop.stride[0][d];
        copy[i].combine = call->accumulates ? mth__add_run : NULL;
        copy[i].loop.size[d] = size[i];
        if (i == 0) dense(&call->in[0].shape, &copy[i], 1);
    }
    return plan_copies(call);
}
void mth__run_pad(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    static const uint64_t zero = 0;
    const copy_list *list = call->plan;
    for (int i = 0; i < (call->accumulates ? 1 : 3); i++) {
        const mth__chunk_range range = mth__chunk_of(list->copy[i].rows, call->chunks[0], chunk);
        mth__copy_run(&list->copy[i], call->out[0].data, i ? &zero : call->in[0].data, range.lo, range.hi);
    }
}
mth_status mth__prepare_concat(mth__arena *arena, mth__call *call) {
    mth__copy *copy = new_copies(arena, call, call->nin)->copy;
    const int d = (int)call->attrs->dimension;
    int64_t at = 0;
    for (int i = 0; i < call->nin; i++) {
        box_of(&copy[i], &call->in[i].shape);
        dense(&call->out[0].shape, &copy[i], 0);
        dense(&call->in[i].shape, &copy[i], 1);
        copy[i].dst = at * copy[i].loop.stride[0][d];
        at += call->in[i].shape.dim[d];
    }
    return plan_copies(call);
}
void mth__run_concat(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(call, chunk);
}

/* keep: the part of the operand's part that the result's sharding leaves here. */
mth_status mth__prepare_keep(mth__arena *arena, mth__call *call) {
    mth__copy *copy = box_of(new_copies(arena, call, 1)->copy, &call->out[0].shape);
    dense(&call->out[0].shape, copy, 0);
    dense(&call->in[0].shape, copy, 1);
    for (int d = 0; d < call->out[0].shape.rank; d++) {
        const int64_t in_step = mth__step(&call->in[0], d), out_step = mth__step(&call->out[0], d),
                      away = call->out[0].start[d] - call->in[0].start[d];
        if (call->out[0].shape.dim[d] == 0) continue;
        const int64_t last = away / in_step + (call->out[0].shape.dim[d] - 1) * (out_step / in_step);
        if (away < 0 || away % in_step || out_step % in_step || last >= call->in[0].shape.dim[d])
            return INTERNAL("keep: the result's part lies outside the operand's, dimension %d", d);
        copy->src += away / in_step * copy->loop.stride[1][d];
        copy->loop.stride[1][d] *= out_step / in_step;
    }
    return plan_copies(call);
}
void mth__run_keep(const mth__call *call, int phase, int chunk, void *scratch) {
    (void)phase, (void)scratch;
    run_copies(call, chunk);
}
