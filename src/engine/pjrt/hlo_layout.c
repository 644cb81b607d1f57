/* Rows that move elements. Shapes are read off the parts: attributes speak of the global tensor. The dimension that
 * slice, pad and concat change is never split. */
#include "engine/pjrt/hlo.h"

void mth__hlo_broadcast_to(mth__hlo_call *call) {
    call->out[0].value = mth__hlo_broadcast_numpy(call->hlo, call->in[0].value, call->out[0].part->local);
}

/* Parts are cut along the major dimension of a group of dimensions alone (see the row's rule), on both sides alike:
   padding is behind all that is real, in both shapes. */
void mth__hlo_reshape_row(mth__hlo_call *call) {
    call->out[0].value = mth__hlo_reshape(call->hlo, call->in[0].value, call->out[0].part->local);
}

void mth__hlo_transpose_row(mth__hlo_call *call) {
    int permutation[MTH__RANK];
    for (int d = 0; d < call->out[0].part->local.rank; d++) permutation[d] = (int)call->attrs->permutation[d];
    call->out[0].value = mth__hlo_transpose(call->hlo, call->in[0].value, permutation);
}

/* A slice of everything and a pad by nothing leave the dimension free to be split. */
static bool unchanged(const mth__hlo_call *call, int d) {
    return call->in[0].part->shape.dim[d] == call->out[0].part->shape.dim[d];
}

void mth__hlo_slice_row(mth__hlo_call *call) {
    const int d = (int)call->attrs->dimension;
    const mth__hlo_val x = call->in[0].value;
    mth__hlo_val start[MTH__RANK], *y = &call->out[0].value;
    if (!call->by_microbatch) {
        *y = unchanged(call, d) ? x : mth__hlo_slice(call->hlo, x, d, call->attrs->start, call->attrs->stop);
        return;
    }
    for (int k = 0; k < x.shape.rank; k++)
        start[k] = k == d ? mth__hlo_number(call->hlo, call->attrs->start) : mth__hlo_scalar_i32(call->hlo, 0);
    *y = mth__hlo_dynamic_slice(call->hlo, x, start, call->out[0].part->local);
}

void mth__hlo_pad_row(mth__hlo_call *call) {
    call->out[0].value = mth__hlo_pad(
        call->hlo, call->in[0].value, (int)call->attrs->dimension, call->attrs->before, call->attrs->after, 0);
}

void mth__hlo_concat_row(mth__hlo_call *call) {
    mth__hlo_val x[MTH__MAX_IN];
    for (int i = 0; i < call->nin; i++) x[i] = call->in[i].value;
    call->out[0].value = mth__hlo_concat(call->hlo, call->nin, x, (int)call->attrs->dimension);
}

/* To an integer toward zero, beyond its range to its limits, NaN to 0; to bool: is it not 0. */
void mth__hlo_cast(mth__hlo_call *call) {
    const mth_dtype to = call->out[0].part->dtype;
    call->out[0].value = to == MTH_BOOL ? mth__hlo_not_zero(call->hlo, call->in[0].value)
                                        : mth__hlo_convert(call->hlo, to, call->in[0].value);
}

/* ---------------------------------------------------------------- keep */
/* Every `stride`-th element of each dimension. */
static mth__hlo_val every(mth__hlo *hlo, mth__hlo_val x, const int64_t *stride, mth__shape to) {
    mth__text range = mth__text_new(hlo->arena);
    for (int d = 0; d < x.shape.rank; d++)
        mth__text_add(&range, "%s0:%lld:%lld", d ? ", " : "", (long long)x.shape.dim[d], (long long)stride[d]);
    return mth__hlo_line(hlo, x.dtype, to, "stablehlo.slice %s [%s] : (%s) -> %s", mth__hlo_name(hlo->arena, x),
        range.at, mth__hlo_type(hlo->arena, x.dtype, x.shape), mth__hlo_type(hlo->arena, x.dtype, to));
}

/* Partition p takes elements offset[p], offset[p] + stride, ... of its part. dynamic_slice moves a start back where the
   slice would end behind its operand: the operand is made long enough for all of them. */
void mth__hlo_keep(mth__hlo_call *call) {
    mth__hlo *hlo = call->hlo;
    const mth__hlo_part *in = call->in[0].part, *out = call->out[0].part;
    const mth__shape to = out->local;
    mth__hlo_val x = call->in[0].value, start[MTH__RANK];
    int64_t stride[MTH__RANK], *offset = NEW_ARRAY(hlo->arena, int64_t, hlo->partitions);
    mth__shape span = to;
    bool strided = false;
    for (int d = 0; d < to.rank; d++) {
        int64_t most = 0;
        stride[d] = 1;
        for (int partition = 0; partition < hlo->partitions; partition++) {
            offset[partition] = 0;
            if (out->size[partition][d] == 0) continue;
            offset[partition] = (out->start[partition][d] - in->start[partition][d]) / in->step[partition][d];
            if (offset[partition] > most) most = offset[partition];
            /* All partitions are cut alike, so that they have the same stride. */
            if (out->size[partition][d] > 1) stride[d] = out->step[partition][d] / in->step[partition][d];
        }
        if (to.dim[d] > 0) span.dim[d] = (to.dim[d] - 1) * stride[d] + 1;
        strided |= stride[d] > 1 && to.dim[d] > 1;
        const int64_t missing = most + span.dim[d] - x.shape.dim[d];
        if (missing > 0) x = mth__hlo_pad(hlo, x, d, 0, missing, 0);
        start[d] = mth__hlo_by_partition(hlo, offset);
    }
    x = mth__hlo_dynamic_slice(hlo, x, start, span);
    call->out[0].value = strided ? every(hlo, x, stride, to) : x;
}
