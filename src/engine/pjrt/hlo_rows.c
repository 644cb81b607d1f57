#include "engine/pjrt/hlo.h"

mth__hlo_row *const mth__hlo_rows[MTH__ROW_COUNT] = {
#define ROW(name, function) [MTH__ROW_##name] = mth__hlo_##function
    ROW(neg, unary_row), ROW(exp, unary_row), ROW(log, unary_row), ROW(sqrt, unary_row), ROW(rsqrt, unary_row), ROW(reciprocal, unary_row),
    ROW(square, unary_row), ROW(relu, unary_row), ROW(gelu, unary_row), ROW(gelu_tanh, unary_row), ROW(silu, unary_row),
    ROW(sigmoid, unary_row), ROW(tanh, unary_row), ROW(copy, unary_row), ROW(scale, unary_row), ROW(shift, unary_row), ROW(cast, cast), ROW(mask, mask_row),
    ROW(stop, unary_row), ROW(relu_grad, binary_row), ROW(gelu_grad, binary_row), ROW(gelu_tanh_grad, binary_row),
    ROW(silu_grad, binary_row), ROW(sigmoid_grad, binary_row), ROW(tanh_grad, binary_row), ROW(add, binary_row), ROW(sub, binary_row),
    ROW(mul, binary_row), ROW(div, binary_row), ROW(maximum, binary_row), ROW(equal, binary_row), ROW(dropout, dropout),
    ROW(contract, contract), ROW(reduce_sum, reduce_row), ROW(reduce_max, reduce_row), ROW(broadcast_to, broadcast_to),
    ROW(reshape, reshape_row), ROW(transpose, transpose_row), ROW(slice, slice_row), ROW(pad, pad_row), ROW(concat, concat_row),
    ROW(gather, gather), ROW(gather_grad, gather_grad), ROW(pick, pick), ROW(pick_grad, pick_grad), ROW(sinusoid, sinusoid),
    ROW(rope, rope), ROW(softmax, softmax), ROW(softmax_grad, softmax_grad), ROW(layer_norm, layer_norm),
    ROW(layer_norm_grad, layer_norm_grad), ROW(rms_norm, rms_norm), ROW(rms_norm_grad, rms_norm_grad), ROW(attention, attention),
    ROW(attention_grad, attention_grad), ROW(moe_route, moe_route), ROW(moe_route_grad, moe_route_grad), ROW(moe_capacity, moe_capacity),
    ROW(moe_rows, moe_rows), ROW(moe_dispatch, moe_dispatch), ROW(moe_dispatch_weighted, moe_dispatch), ROW(moe_combine, moe_combine),
    ROW(moe_combine_weights_grad, moe_combine_weights_grad), ROW(moe_matmul, moe_matmul), ROW(moe_outer, moe_outer),
    ROW(moe_bias, moe_bias), ROW(moe_bias_grad, moe_bias_grad), ROW(moe_act, moe_act), ROW(moe_act_grad, moe_act_grad),
    ROW(moe_mul, moe_mul), ROW(moe_count, moe_count), ROW(keep, keep),
#undef ROW
};

/* Where 0 in the padding is no neutral element (an id, an expert, a row's token 0), or where the row skips it anyway and a fill would be one
   more pass over a table or all experts' rows. */
const unsigned char mth__hlo_masks_itself[MTH__ROW_COUNT] = {
    [MTH__ROW_gather] = 1, [MTH__ROW_gather_grad] = 1, [MTH__ROW_pick] = 1, [MTH__ROW_moe_count] = 1, [MTH__ROW_moe_combine] = 1,
    [MTH__ROW_moe_combine_weights_grad] = 1, [MTH__ROW_moe_outer] = 1, [MTH__ROW_moe_bias_grad] = 1,
};
