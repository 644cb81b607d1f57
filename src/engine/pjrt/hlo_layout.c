/* Rows that move elements. Shapes are read off the parts: attributes speak of the global tensor. The dimension that
 * slice, pad and concat change is never split. */
#include "engine/pjrt/hlo.h"

void mth__hlo_broadcast_to(mth__hlo_call *c) {
    c->out[0].v = mth__hlo_broadcast_numpy(c->h, c->in[0].v, c->out[0].part->local);
}

/* Parts are cut along the major dimension of a group of dimensions alone (see the row's rule), on both sides alike:
   padding is behind all that is real, in both shapes. */
void mth__hlo_reshape_row(mth__hlo_call *c) { c->out[0].v = mth__hlo_reshape(c->h, c->in[0].v, c->out[0].part->local); }

void mth__hlo_transpose_row(mth__hlo_call *c) {
    int permutation[MTH__RANK];
    for (int d = 0; d < c->out[0].part->local.rank; d++) permutation[d] = (int)c->attrs->permutation[d];
    c->out[0].v = mth__hlo_transpose(c->h, c->in[0].v, permutation);
}

/* A slice of everything and a pad by nothing leave the dimension free to be split. */
static bool unchanged(const mth__hlo_call *c, int d) {
    return c->in[0].part->shape.dim[d] == c->out[0].part->shape.dim[d];
}

void mth__hlo_slice_row(mth__hlo_call *c) {
    const int d = (int)c->attrs->dimension;
    const mth__hlo_val x = c->in[0].v;
    mth__hlo_val start[MTH__RANK], *y = &c->out[0].v;
    if (!c->by_microbatch) {
        *y = unchanged(c, d) ? x : mth__hlo_slice(c->h, x, d, c->attrs->start, c->attrs->stop);
        return;
    }
    for (int k = 0; k < x.shape.rank; k++)
        start[k] = k == d ? mth__hlo_number(c->h, c->attrs->start) : mth__hlo_scalar_i32(c->h, 0);
    *y = mth__hlo_dynamic_slice(c->h, x, start, c->out[0].part->local);
}

void mth__hlo_pad_row(mth__hlo_call *c) {
    c->out[0].v = mth__hlo_pad(c->h, c->in[0].v, (int)c->attrs->dimension, c->attrs->before, c->attrs->after, 0);
}

void mth__hlo_concat_row(mth__hlo_call *c) {
    mth__hlo_val x[MTH__MAX_IN];
    for (int i = 0; i < c->nin; i++) x[i] = c->in[i].v;
    c->out[0].v = mth__hlo_concat(c->h, c->nin, x, (int)c->attrs->dimension);
}

/* To an integer toward zero, beyond its range to its limits, NaN to 0; to bool: is it not 0. */
void mth__hlo_cast(mth__hlo_call *c) {
    const mth_dtype to = c->out[0].part->dtype;
    c->out[0].v = to == MTH_BOOL ? mth__hlo_not_zero(c->h, c->in[0].v) : mth__hlo_convert(c->h, to, c->in[0].v);
}

/* ---------------------------------------------------------------- keep */
/* Every `stride`-th element of each dimension. */
static mth__hlo_val every(mth__hlo *h, mth__hlo_val x, const int64_t *stride, mth__shape to) {
    mth__text range = mth__text_new(h->arena);
    for (int d = 0; d < x.shape.rank; d++)
        mth__text_add(&range, "%s0:%lld:%lld", d ? ", " : "", (long long)x.shape.dim[d], (long long)stride[d]);
    return mth__hlo_line(h, x.dtype, to, "stablehlo.slice %s [%s] : (%s) -> %s", mth__hlo_name(h->arena, x), range.at,
        mth__hlo_type(h->arena, x.dtype, x.shape), mth__hlo_type(h->arena, x.dtype, to));
}

/* Partition p takes elements offset[p], offset[p] + stride, ... of its part. dynamic_slice moves a start back where the
   slice would end behind its operand: the operand is made long enough for all of them. */
void mth__hlo_keep(mth__hlo_call *c) {
    mth__hlo *h = c->h;
    const mth__hlo_part *in = c->in[0].part, *out = c->out[0].part;
    const mth__shape to = out->local;
    mth__hlo_val x = c->in[0].v, start[MTH__RANK];
    int64_t stride[MTH__RANK], *offset = NEW_ARRAY(h->arena, int64_t, h->partitions);
    mth__shape span = to;
    bool strided = false;
    for (int d = 0; d < to.rank; d++) {
        int64_t most = 0;
        stride[d] = 1;
        for (int p = 0; p < h->partitions; p++) {
            offset[p] = 0;
            if (out->size[p][d] == 0) continue;
            offset[p] = (out->start[p][d] - in->start[p][d]) / in->step[p][d];
            if (offset[p] > most) most = offset[p];
            /* one for all: they are cut alike */
            if (out->size[p][d] > 1) stride[d] = out->step[p][d] / in->step[p][d];
        }
        if (to.dim[d] > 0) span.dim[d] = (to.dim[d] - 1) * stride[d] + 1;
        strided |= stride[d] > 1 && to.dim[d] > 1;
        const int64_t missing = most + span.dim[d] - x.shape.dim[d];
        if (missing > 0) x = mth__hlo_pad(h, x, d, 0, missing, 0);
        start[d] = mth__hlo_by_partition(h, offset);
    }
    x = mth__hlo_dynamic_slice(h, x, start, span);
    c->out[0].v = strided ? every(h, x, stride, to) : x;
}
