/* Rows that move elements. Shapes are those of the parts: attributes speak of the global tensor. The dimension that
 * slice, pad and concat change is never split. */
#include "engine/torch/torch_rows.h"

static void copy_to(mth__torch_call *call, mth__tensor to, mth__tensor from) {
    ATEN(call, copy_, TENSOR(to), TENSOR(from), BOOL(false));
}

/* Added to the sum, a broadcast needs no memory of its own. */
void mth__torch_broadcast_to(mth__torch_call *call) {
    mth__tensor sum = mth__torch_take_sum(call, 0);
    if (sum)
        mth__torch_add(call, sum, call->in[0]->tensor, 1, sum);
    else
        copy_to(call, mth__torch_room(call, 0), call->in[0]->tensor);
}

void mth__torch_transpose(mth__torch_call *call) {
    const int rank = call->out[0]->shape.rank;
    mth__tensor view = ATEN(call, permute, TENSOR(call->in[0]->tensor), INTEGERS(call->attrs->permutation, rank));
    copy_to(call, mth__torch_room(call, 0), view);
}

/* A slice of everything and a pad by nothing leave the dimension free to be split. */
static bool unchanged(const mth__torch_call *call, int d) {
    return call->in[0]->global.dim[d] == call->out[0]->global.dim[d];
}
static mth__tensor narrow(mth__torch_call *call, mth__tensor of, int d, int64_t start, int64_t size) {
    return ATEN(call, narrow, TENSOR(of), INTEGER(d), INTEGER(start), INTEGER(size));
}

void mth__torch_slice(mth__torch_call *call) {
    const int d = (int)call->attrs->dimension;
    mth__tensor x = call->in[0]->tensor;
    if (!unchanged(call, d)) x = narrow(call, x, d, call->attrs->start, call->out[0]->shape.dim[d]);
    copy_to(call, mth__torch_room(call, 0), x);
}

void mth__torch_pad(mth__torch_call *call) {
    const int d = (int)call->attrs->dimension;
    const int64_t before = call->attrs->before, after = call->attrs->after, size = call->in[0]->shape.dim[d];
    mth__tensor sum = mth__torch_take_sum(call, 0), y = sum ? sum : mth__torch_room(call, 0);
    mth__tensor middle = before || after ? narrow(call, y, d, before, size) : y;
    if (sum) {
        mth__torch_add(call, middle, call->in[0]->tensor, 1, middle);
        return;
    }
    if (before) ATEN(call, zero_, TENSOR(narrow(call, y, d, 0, before)));
    copy_to(call, middle, call->in[0]->tensor);
    if (after) ATEN(call, zero_, TENSOR(narrow(call, y, d, before + size, after)));
}

void mth__torch_concat(mth__torch_call *call) {
    mth__tensor x[MTH__MAX_IN];
    for (int j = 0; j < call->nin; j++) x[j] = call->in[j]->tensor;
    ATEN(call, cat_out, TENSORS(x, call->nin), INTEGER(call->attrs->dimension), TENSOR(mth__torch_room(call, 0)));
}

/* Of what the device has: elements from an offset on, every so many. */
void mth__torch_part(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0], *y = call->out[0];
    int64_t stride[MTH__RANK], offset = 0;
    mth__shape_strides(x->shape, stride);
    for (int d = 0; d < y->shape.rank && mth__shape_size(y->shape) > 0; d++) {
        offset += (y->start[d] - x->start[d]) / x->step[d] * stride[d];
        stride[d] *= y->shape.dim[d] > 1 ? y->step[d] / x->step[d] : 1;
    }
    copy_to(call, mth__torch_room(call, 0), mth__torch_view(call, x->tensor, y->shape, stride, offset));
}
