#include "base/number.h"
#include "engine/fault.h"
#include "engine/reference/reference.h"
#include <inttypes.h>

void mth__ref_next(mth__shape shape, int64_t *at) {
    for (int d = shape.rank - 1; d >= 0; d--) {
        if (++at[d] < shape.dim[d]) return;
        at[d] = 0;
    }
    at[MTH__RANK] = 0;
}

mth__ref_element *mth__ref_element_at(const mth__ref_value *v, const int64_t *at) {
    int64_t i = 0;
    for (int d = 0; d < v->local.rank; d++) i = i * v->local.dim[d] + at[d];
    return v->data + i;
}

int64_t mth__ref_local(const mth__ref_value *v, int d, int64_t global) {
    int64_t away = global - v->start[d];
    if (away < 0 || away % v->step[d] != 0 || away / v->step[d] >= v->local.dim[d]) return -1;
    return away / v->step[d];
}

const mth__ref_element *mth__ref_broadcast(const mth__ref_value *v, const mth__ref_value *out, const int64_t *at) {
    int64_t mine[MTH__RANK] = {0};
    int lacks = out->local.rank - v->local.rank;
    for (int d = 0; d < v->local.rank; d++) mine[d] = v->global.dim[d] == 1 ? 0 : at[d + lacks];
    return mth__ref_element_at(v, mine);
}

mth_status mth__ref_outside(const mth__ref_call *c, const mth__ref_value *ids, int64_t id, int64_t limit) {
    char shape[256];
    mth__shape_write(shape, sizeof shape, ids->global);
    char value[32];
    mth__print(value, sizeof value, "%" PRId64, id);
    mth_status s = mth__fault_error(c->op, value, limit, "");
    return mth__error_tensor(s, F("%s: %s %s", c->op->index_name ? "ids" : "mask", mth_dtype_name(ids->dtype), shape));
}

mth__ref_row *const mth__ref_rows[MTH__ROW_COUNT] = {
#define ROW(name, function) [MTH__ROW_##name] = mth__ref_##function
    ROW(neg, unary),
    ROW(exp, unary),
    ROW(log, unary),
    ROW(sqrt, unary),
    ROW(rsqrt, unary),
    ROW(reciprocal, unary),
    ROW(square, unary),
    ROW(relu, unary),
    ROW(gelu, unary),
    ROW(gelu_tanh, unary),
    ROW(silu, unary),
    ROW(sigmoid, unary),
    ROW(tanh, unary),
    ROW(copy, copy),
    ROW(scale, unary),
    ROW(shift, unary),
    ROW(cast, cast),
    ROW(mask, mask),
    ROW(stop, copy),
    ROW(relu_grad, binary),
    ROW(gelu_grad, binary),
    ROW(gelu_tanh_grad, binary),
    ROW(silu_grad, binary),
    ROW(sigmoid_grad, binary),
    ROW(tanh_grad, binary),
    ROW(add, binary),
    ROW(sub, binary),
    ROW(mul, binary),
    ROW(div, binary),
    ROW(maximum, binary),
    ROW(equal, binary),
    ROW(dropout, dropout),
    ROW(contract, contract),
    ROW(reduce_sum, reduce),
    ROW(reduce_max, reduce),
    ROW(broadcast_to, broadcast_to),
    ROW(reshape, reshape),
    ROW(transpose, transpose),
    ROW(slice, slice),
    ROW(pad, pad),
    ROW(concat, concat),
    ROW(gather, gather),
    ROW(gather_grad, gather_grad),
    ROW(pick, pick),
    ROW(pick_grad, pick_grad),
    ROW(sinusoid, sinusoid),
    ROW(rope, rope),
    ROW(softmax, softmax),
    ROW(softmax_grad, softmax_grad),
    ROW(layer_norm, layer_norm),
    ROW(layer_norm_grad, layer_norm_grad),
    ROW(rms_norm, rms_norm),
    ROW(rms_norm_grad, rms_norm_grad),
    ROW(attention, attention),
    ROW(attention_grad, attention_grad),
    ROW(moe_route, moe_route),
    ROW(moe_route_grad, moe_route_grad),
    ROW(moe_capacity, moe_capacity),
    ROW(moe_rows, moe_rows),
    ROW(moe_dispatch, moe_dispatch),
    ROW(moe_dispatch_weighted, moe_dispatch),
    ROW(moe_combine, moe_combine),
    ROW(moe_combine_weights_grad, moe_combine_weights_grad),
    ROW(moe_matmul, moe_matmul),
    ROW(moe_outer, moe_outer),
    ROW(moe_bias, moe_bias),
    ROW(moe_bias_grad, moe_bias_grad),
    ROW(moe_act, moe_act),
    ROW(moe_act_grad, moe_act),
    ROW(moe_mul, moe_mul),
    ROW(moe_count, moe_count),
    ROW(keep, keep),
#undef ROW
};
