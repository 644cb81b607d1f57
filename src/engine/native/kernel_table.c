/* The table: which functions run a row. */
#include "engine/native/kernel_util.h"
#include <pthread.h>

#define HAS(row, functions) [MTH__ROW_##row] = {mth__prepare_##functions, mth__run_##functions, NULL}
#define SAME(row) HAS(row, row)
#define COMMUNICATES(row)                                                                                              \
    [MTH__ROW_##row] = {                                                                                               \
        NULL, NULL, "communication between devices: an instruction of its own in the program, not a kernel"}
const mth__kernel mth__kernels[MTH__ROW_COUNT] = {
    HAS(neg, elementwise),
    HAS(exp, elementwise),
    HAS(log, elementwise),
    HAS(sqrt, elementwise),
    HAS(rsqrt, elementwise),
    HAS(reciprocal, elementwise),
    HAS(square, elementwise),
    HAS(relu, elementwise),
    HAS(gelu, elementwise),
    HAS(gelu_tanh, elementwise),
    HAS(silu, elementwise),
    HAS(sigmoid, elementwise),
    HAS(tanh, elementwise),
    SAME(copy),
    HAS(scale, elementwise),
    HAS(shift, elementwise),
    SAME(cast),
    SAME(mask),
    HAS(stop, copy),
    HAS(relu_grad, elementwise),
    HAS(gelu_grad, elementwise),
    HAS(gelu_tanh_grad, elementwise),
    HAS(silu_grad, elementwise),
    HAS(sigmoid_grad, elementwise),
    HAS(tanh_grad, elementwise),
    HAS(mul_grad, elementwise),
    HAS(div_grad, elementwise),
    HAS(maximum_grad, elementwise),
    HAS(add, elementwise),
    HAS(sub, elementwise),
    HAS(mul, elementwise),
    HAS(div, elementwise),
    HAS(maximum, elementwise),
    HAS(equal, elementwise),
    SAME(dropout),
    SAME(contract),
    HAS(reduce_sum, reduce),
    HAS(reduce_max, reduce),
    SAME(broadcast_to),
    HAS(reshape, copy),
    SAME(transpose),
    SAME(slice),
    SAME(pad),
    SAME(concat),
    SAME(gather),
    SAME(gather_grad),
    SAME(pick),
    SAME(pick_grad),
    SAME(sinusoid),
    SAME(rope),
    SAME(softmax),
    SAME(softmax_grad),
    SAME(layer_norm),
    HAS(layer_norm_grad, norm_grad),
    SAME(rms_norm),
    HAS(rms_norm_grad, norm_grad),
    SAME(attention),
    SAME(attention_grad),
    SAME(moe_route),
    SAME(moe_route_grad),
    SAME(moe_capacity),
    SAME(moe_rows),
    SAME(moe_dispatch),
    HAS(moe_dispatch_weighted, moe_dispatch),
    SAME(moe_combine),
    SAME(moe_combine_weights_grad),
    SAME(moe_matmul),
    SAME(moe_outer),
    SAME(moe_bias),
    SAME(moe_bias_grad),
    HAS(moe_act, moe_map),
    HAS(moe_act_grad, moe_map),
    HAS(moe_mul, moe_map),
    SAME(moe_count),
    COMMUNICATES(all_reduce),
    COMMUNICATES(all_gather),
    COMMUNICATES(reduce_scatter),
    COMMUNICATES(all_to_all),
    SAME(keep),
    COMMUNICATES(transfer),
    COMMUNICATES(broadcast),
};

static void open_all(void) {
    mth__vector_open();
    mth__gemm_open();
}
void mth__kernels_open(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_all);
}

mth_status mth__kernels_start(void) { return mth__gemm_start(); }

const char *mth__kernel_lacks(const mth__node *node, int *at) {
    const mth__kernel *kernel = &mth__kernels[node->op->row];
    *at = -1;
    if (!kernel->run) return kernel->reason;
    if (node->op->flags & MTH__MOVES || node->op->row == MTH__ROW_cast) return NULL;
    for (*at = 0; *at < node->nin + node->nout; ++*at)
        if (mth__operand_or_result(node, *at)->dtype == MTH_FLOAT64)
            return "the native engine computes in float32; the reference engine has float64";
    return NULL;
}
