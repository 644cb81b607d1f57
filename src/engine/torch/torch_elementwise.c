/* Elementwise rows, casts and masks. A result may lie where an operand does. */
#include "engine/fault.h"
#include "engine/torch/torch_rows.h"

#define IN(j) TENSOR(call->in[j]->tensor)
#define OUT(k) TENSOR(mth__torch_room(call, k))
#define NUMBER(value) TENSOR(mth__torch_number(call, call->out[0]->dtype, value))

/* Does the tensor lie where operand j does? */
static bool lies_on(mth__torch_call *call, mth__tensor tensor, int j) {
    void *here = NULL, *there = NULL;
    if (call->status || call->library->aoti_torch_get_data_ptr(tensor, &here) ||
        call->library->aoti_torch_get_data_ptr(call->in[j]->tensor, &there))
        return true;
    return here == there;
}
/* Of the shape of result k, whose memory it is unless operand j lies there, which is read again. */
static mth__tensor room_beside(mth__torch_call *call, int k, int j) {
    mth__tensor room = mth__torch_room(call, k);
    return lies_on(call, room, j) ? mth__torch_empty(call, call->out[k]->dtype, call->out[k]->shape) : room;
}
static void settle(mth__torch_call *call, int k, mth__tensor value) {
    mth__tensor room = mth__torch_room(call, k);
    if (room != value) ATEN(call, copy_, TENSOR(room), TENSOR(value), BOOL(false));
}

/* ---------------------------------------------------------------- rows of one result */
/* dy where y > 0, else 0. What torch has for it hands dy on where y is NaN; y > 0 as a number is never NaN. */
static void relu_grad(mth__torch_call *call) {
    mth__tensor positive = room_beside(call, 0, 1);
    ATEN(call, gt_out, IN(0), NUMBER(0), TENSOR(positive));
    mth__torch_relu_backward(call, call->in[1]->tensor, positive, mth__torch_room(call, 0));
}

/* ---------------------------------------------------------------- rows of two results */
static void mul_grad(mth__torch_call *call) {
    const mth__torch_argument a = IN(0), b = IN(1), dy = IN(2);
    mth__tensor da = mth__torch_room(call, 0), db = mth__torch_room(call, 1);
    if (!lies_on(call, db, 1) && !lies_on(call, db, 2)) {
        ATEN(call, mul_out, dy, a, TENSOR(db));
        ATEN(call, mul_out, dy, b, TENSOR(da));
        return;
    }
    if (lies_on(call, da, 0) || lies_on(call, da, 2))
        da = mth__torch_empty(call, call->out[0]->dtype, call->out[0]->shape);
    ATEN(call, mul_out, dy, b, TENSOR(da));
    ATEN(call, mul_out, dy, a, TENSOR(db));
    settle(call, 0, da);
}
/* b, y, dy -> da = dy / b, db = -da y */
static void div_grad(mth__torch_call *call) {
    mth__tensor da = room_beside(call, 0, 1), db = mth__torch_room(call, 1);
    ATEN(call, div_out, IN(2), IN(0), TENSOR(da));
    ATEN(call, mul_out, TENSOR(da), IN(1), TENSOR(db));
    ATEN(call, neg_out, TENSOR(db), TENSOR(db));
    settle(call, 0, da);
}
/* 1 where a > b, 1/2 where they are equal, else 0, of NaN too */
static mth__tensor share_of_larger(mth__torch_call *call, int a, int b) {
    const mth__torch_operand *like = call->out[0];
    mth__tensor more = mth__torch_empty(call, like->dtype, like->shape),
                least = mth__torch_empty(call, like->dtype, like->shape);
    ATEN(call, gt_out, IN(a), IN(b), TENSOR(more));
    ATEN(call, ge_out, IN(a), IN(b), TENSOR(least));
    mth__torch_add(call, more, least, 1, more);
    return ATEN(call, mul_out, TENSOR(more), NUMBER(0.5), TENSOR(more));
}
static void maximum_grad(mth__torch_call *call) {
    const mth__torch_argument share[] = {TENSOR(share_of_larger(call, 0, 1)), TENSOR(share_of_larger(call, 1, 0))};
    /* dy is read last where a result lies on it */
    const int last = lies_on(call, mth__torch_room(call, 0), 2) ? 0 : 1;
    ATEN(call, mul_out, IN(2), share[1 - last], OUT(1 - last));
    ATEN(call, mul_out, IN(2), share[last], OUT(last));
}

/* ---------------------------------------------------------------- all of them */
void mth__torch_elementwise(mth__torch_call *call) {
    const mth__tensor a = call->in[0]->tensor, b = call->nin > 1 ? call->in[1]->tensor : NULL;
    switch (call->op->row) {
    case MTH__ROW_neg: ATEN(call, neg_out, IN(0), OUT(0)); return;
    case MTH__ROW_exp: ATEN(call, exp_out, IN(0), OUT(0)); return;
    case MTH__ROW_log: ATEN(call, log_out, IN(0), OUT(0)); return;
    case MTH__ROW_sqrt: ATEN(call, sqrt_out, IN(0), OUT(0)); return;
    case MTH__ROW_rsqrt: ATEN(call, rsqrt_out, IN(0), OUT(0)); return;
    case MTH__ROW_reciprocal: ATEN(call, reciprocal_out, IN(0), OUT(0)); return;
    case MTH__ROW_square: ATEN(call, mul_out, IN(0), IN(0), OUT(0)); return;
    case MTH__ROW_relu: ATEN(call, maximum_out, IN(0), NUMBER(0), OUT(0)); return;
    case MTH__ROW_gelu: mth__torch_gelu(call, a, false, mth__torch_room(call, 0)); return;
    case MTH__ROW_gelu_tanh: mth__torch_gelu(call, a, true, mth__torch_room(call, 0)); return;
    case MTH__ROW_silu: ATEN(call, silu_out, IN(0), OUT(0)); return;
    case MTH__ROW_sigmoid: ATEN(call, sigmoid_out, IN(0), OUT(0)); return;
    case MTH__ROW_tanh: ATEN(call, tanh_out, IN(0), OUT(0)); return;
    case MTH__ROW_scale: ATEN(call, mul_out, IN(0), NUMBER(call->attrs->by), OUT(0)); return;
    case MTH__ROW_shift:
        mth__torch_add(
            call, a, mth__torch_number(call, call->out[0]->dtype, call->attrs->by), 1, mth__torch_room(call, 0));
        return;
    case MTH__ROW_add: mth__torch_add(call, a, b, 1, mth__torch_room(call, 0)); return;
    case MTH__ROW_sub: mth__torch_add(call, a, b, -1, mth__torch_room(call, 0)); return;
    case MTH__ROW_mul: ATEN(call, mul_out, IN(0), IN(1), OUT(0)); return;
    case MTH__ROW_div: ATEN(call, div_out, IN(0), IN(1), OUT(0)); return;
    case MTH__ROW_maximum: ATEN(call, maximum_out, IN(0), IN(1), OUT(0)); return;
    case MTH__ROW_equal: ATEN(call, eq_out, IN(0), IN(1), OUT(0)); return;
    case MTH__ROW_gelu_grad: mth__torch_gelu_backward(call, b, a, false, mth__torch_room(call, 0)); return;
    case MTH__ROW_gelu_tanh_grad: mth__torch_gelu_backward(call, b, a, true, mth__torch_room(call, 0)); return;
    case MTH__ROW_silu_grad: ATEN(call, silu_backward_out, IN(1), IN(0), OUT(0)); return;
    case MTH__ROW_sigmoid_grad: ATEN(call, sigmoid_backward_out, IN(1), IN(0), OUT(0)); return;
    case MTH__ROW_tanh_grad: ATEN(call, tanh_backward_out, IN(1), IN(0), OUT(0)); return;
    default: mth__torch_fail(call, INTERNAL("%s is not elementwise", call->op->name));
    }
}
void mth__torch_gradients(mth__torch_call *call) {
    switch (call->op->row) {
    case MTH__ROW_relu_grad: relu_grad(call); return;
    case MTH__ROW_mul_grad: mul_grad(call); return;
    case MTH__ROW_div_grad: div_grad(call); return;
    case MTH__ROW_maximum_grad: maximum_grad(call); return;
    default: mth__torch_fail(call, INTERNAL("%s has no such gradient", call->op->name));
    }
}

/* copy, stop and reshape, where the result has memory of its own */
void mth__torch_copy(mth__torch_call *call) {
    mth__tensor x = mth__torch_view(call, call->in[0]->tensor, call->out[0]->shape, NULL, 0);
    ATEN(call, copy_, OUT(0), TENSOR(x), BOOL(false));
}

/* torch leaves open what becomes of a number past an integer's range, and rounds twice on the way from 32 or 64 bits to
 * 16: such casts, which no model has in its inner loop, are the host's. */
void mth__torch_cast(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0], *y = call->out[0];
    const bool saturates = mth__is_float(x->dtype) && mth__is_integer(y->dtype);
    const bool narrows =
        mth__is_half(y->dtype) && (x->dtype == MTH_FLOAT64 || x->dtype == MTH_INT32 || x->dtype == MTH_INT64);
    mth__tensor room = mth__torch_room(call, 0);
    void *from, *to;
    if (!saturates && !narrows)
        ATEN(call, copy_, TENSOR(room), IN(0), BOOL(false));
    else if ((from = mth__torch_host(call, x->tensor)) && (to = mth__torch_host(call, room)))
        mth__dtype_convert(x->dtype, from, y->dtype, to, mth__shape_size(x->shape));
}

/* The error of the first element that is neither 0 nor 1. */
static mth_status mask_error(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    const void *data = mth__torch_host(call, x->tensor);
    double number = 0;
    for (int64_t i = 0; data && i < mth__shape_size(x->shape) && (number == 0 || number == 1); i++)
        number = mth__dtype_load(x->dtype, data, i);
    char shape[256];
    mth__shape_write(shape, sizeof shape, x->global);
    return mth__error_tensor(mth__fault_error(call->op, mth__mask_fault(number), "", 0, ""),
        F("mask: %s %s", mth_dtype_name(x->dtype), shape));
}
void mth__torch_mask(mth__torch_call *call) {
    const mth__torch_operand *x = call->in[0];
    if (x->dtype == MTH_BOOL) {
        mth__torch_copy(call);
        return;
    }
    mth__tensor one = mth__is_float(x->dtype) ? mth__torch_real(call, 1) : mth__torch_whole(call, 1);
    mth__tensor y = ATEN(call, eq_out, IN(0), TENSOR(one), OUT(0));
    mth__tensor differs = ATEN(call, ne, IN(0), TENSOR(y));
    if (mth__torch_read_whole(call, ATEN(call, any, TENSOR(differs)))) mth__torch_fail(call, mask_error(call));
}
