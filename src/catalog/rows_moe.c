/* Mixture of experts. t: tokens, e: experts, k: choices of a token. Routed tensors are [e, t, ...]: for each expert, in
   its first rows, the tokens that chose it; what follows is padding, which no row of this file reads and where
   each may leave anything. */
#include "catalog/row_tools.h"

/* ---------------------------------------------------------------- shapes */
static mth_status positive(const mth__node *node, const char *what, int64_t size) {
    if (size >= 1) return NULL;
    return mth__row_error(
        node, F("%s of %s is %lld", what, node->op->name, (long long)size), F("give a number of at least 1"));
}
static mth_status infer_route(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    int64_t k = node->attrs.k, experts = node->in[0]->shape.dim[1];
    TRY(positive(node, "the number of choices", k));
    if (k > experts)
        return mth__row_error(node, F("each token is to choose %lld of %lld experts", (long long)k, (long long)experts),
            F("give a top_k of at most %lld", (long long)experts));
    node->out[0]->shape.dim[1] = node->out[1]->shape.dim[1] = k;
    return NULL;
}
static mth_status infer_route_grad(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    node->out[0]->shape.dim[1] = node->attrs.experts;
    return positive(node, "the number of experts", node->attrs.experts);
}
static mth_status infer_capacity(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    node->out[1]->shape.dim[0] = 1;
    if (node->attrs.capacity < 0)
        return mth__row_error(node, F("the capacity of an expert is %lld", (long long)node->attrs.capacity),
            F("give a capacity of at least 0"));
    return positive(node, "the number of experts", node->attrs.experts);
}
static mth_status infer_rows(mth__node *node) {
    TRY(mth__infer_from(node, node->op->factors));
    node->out[0]->shape.dim[0] = node->attrs.experts;
    return positive(node, "the number of experts", node->attrs.experts);
}
static mth_status infer_combine(mth__node *node) {
    if (node->nin == 3)
        return mth__row_error(node, F("moe_combine has weights but no experts"), F("give both or neither"));
    return mth__infer_from(node, node->op->factors);
}
static const char *matmul_factors(const mth__node *node) {
    return node->attrs.transposed ? "eti,eoi,et->eto" : "eti,eio,et->eto";
}
static mth_status infer_matmul(mth__node *node) { return mth__infer_from(node, matmul_factors(node)); }
static void rule_matmul(const mth__node *node, mth__rule *rule) {
    mth__rule_from(node, &(mth__letters){.factors = matmul_factors(node), .sum = "i"}, rule);
}
static mth_status infer_act(mth__node *node) {
    if (node->attrs.activation < 0 || node->attrs.activation > 3)
        return mth__row_error(node, F("%s has no activation %lld", node->op->name, (long long)node->attrs.activation),
            F("give 0 (relu), 1 (gelu), 2 (gelu_tanh) or 3 (silu)"));
    return mth__infer_from(node, node->op->factors);
}

/* ---------------------------------------------------------------- flops */
/* Rows are reserved for the worst case; of those, two choices a token are taken to be real. */
static double real(const mth__node *node, int64_t local_experts) {
    double experts = (double)node->in[0]->shape.dim[0], share = experts > 2 ? 2 / experts : 1;
    return share * (double)local_experts;
}
static double flops_product(const mth__node *node, double tokens, double inputs, double outputs, int64_t experts) {
    return 2 * real(node, experts) * tokens * inputs * outputs;
}
FLOPS(matmul) {
    return flops_product(node, (double)in[0].dim[1], (double)in[0].dim[2], (double)out[0].dim[2], in[0].dim[0]);
}
FLOPS(outer) {
    return flops_product(node, (double)in[0].dim[1], (double)in[0].dim[2], (double)in[1].dim[2], in[0].dim[0]);
}
FLOPS(rows) { return real(node, in[0].dim[0]) * (double)in[0].dim[1] * (double)in[0].dim[2]; }
FLOPS(route) { return 4 * (double)mth__shape_size(in[0]); }

/* ---------------------------------------------------------------- gradients */
GRAD(route) {
    if (!dout[0]) return NULL;
    return mth__build3(builder, MTH__ROW_moe_route_grad, &(mth__attrs){.experts = node->in[0]->shape.dim[1]},
        node->out[0], node->out[1], dout[0], &din[0]);
}
GRAD(dispatch) {
    return WANTED(builder, 0) ? mth__build2(builder, MTH__ROW_moe_combine, NULL, dout[0], node->in[1], &din[0]) : NULL;
}
GRAD(combine) {
    mth__value *y = node->in[0], *rows = node->in[1];
    if (node->nin == 2)
        return WANTED(builder, 0) ? mth__build2(builder, MTH__ROW_moe_dispatch, NULL, dout[0], rows, &din[0]) : NULL;
    if (WANTED(builder, 0))
        TRY(mth__build(builder, MTH__ROW_moe_dispatch_weighted, NULL, 4,
            (mth__value *[]){dout[0], rows, node->in[2], node->in[3]}, &din[0]));
    if (!WANTED(builder, 2)) return NULL;
    return mth__build(
        builder, MTH__ROW_moe_combine_weights_grad, NULL, 4, (mth__value *[]){y, rows, node->in[3], dout[0]}, &din[2]);
}
GRAD(matmul) {
    mth__value *x = node->in[0], *weight = node->in[1], *rows = node->in[2];
    bool transposed = node->attrs.transposed;
    if (WANTED(builder, 0))
        TRY(mth__build3(
            builder, MTH__ROW_moe_matmul, &(mth__attrs){.transposed = !transposed}, dout[0], weight, rows, &din[0]));
    if (!WANTED(builder, 1)) return NULL;
    mth__value *from = transposed ? dout[0] : x, *to = transposed ? x : dout[0];
    return mth__build3(builder, MTH__ROW_moe_outer, NULL, from, to, rows, &din[1]);
}
GRAD(bias) {
    din[0] = dout[0];
    return WANTED(builder, 1) ? mth__build2(builder, MTH__ROW_moe_bias_grad, NULL, dout[0], node->in[2], &din[1])
                              : NULL;
}
GRAD(act) {
    return mth__build3(builder, MTH__ROW_moe_act_grad, &node->attrs, node->in[0], dout[0], node->in[1], &din[0]);
}
GRAD(mul) {
    for (int j = 0; j < 2; j++)
        if (WANTED(builder, j))
            TRY(mth__build3(builder, MTH__ROW_moe_mul, NULL, dout[0], node->in[1 - j], node->in[2], &din[j]));
    return NULL;
}

/* ---------------------------------------------------------------- rows: routing */
#define BY_TOKEN .flags = MTH__NEEDS_START
#define BY_TOKEN_SUMMED .flags = MTH__NEEDS_START | MTH__SUMS
#define EACH(bits) .linear = MTH__LINEAR_EACH, .linear_args = bits
const mth__op mth__op_moe_route = {ROW(moe_route), .args = "logits", .results = "weights, experts", .attributes = "k",
    .factors = "te->tk,tk", .types = {MTH__TYPE_OPERAND, MTH__TYPE_INT32}, .flags = MTH__SUMS, .whole = "ek",
    .infer = infer_route, .grad = grad_route, .flops = flops_route,
    .doc = "The k largest logits of each token, descending, ties to the lower index, NaN before all numbers; weights = "
           "softmax over "
           "the chosen."};
const mth__op mth__op_moe_route_grad = {ROW(moe_route_grad), .args = "weights, experts, dweights", .results = "dlogits",
    .attributes = "experts", .factors = "tk,tk,tk->te", .whole = "ek", EACH(4), .flags = MTH__SUMS, .index_args = 2,
    .index_name = "expert", .infer = infer_route_grad,
    .doc = "dlogits = weights * (dweights - sum over k of weights * dweights) at the chosen experts, 0 "
           "elsewhere."};
const mth__op mth__op_moe_capacity = {ROW(moe_capacity), .args = "experts", .results = "kept, dropped",
    .attributes = "capacity, experts", .factors = "tk->tk,x", .whole = "tkx", .flags = MTH__GATHERS | MTH__SUMS,
    .index_args = 1, .index_name = "expert", .infer = infer_capacity, .grad = mth__grad_none,
    .doc = "kept = experts, -1 where the expert already has `capacity` tokens, served by token, then by choice; "
           "dropped = how many."};
const mth__op mth__op_moe_rows = {ROW(moe_rows), .args = "experts", .results = "rows", .attributes = "experts",
    .factors = "tk->et", .whole = "k", .flags = MTH__NEEDS_START | MTH__NAMES_ROWS, .index_args = 1,
    .infer = infer_rows, .grad = mth__grad_none,
    .doc = "For each expert the tokens that chose it, ascending, then -1; a device that holds a block of tokens fills "
           "the rows of that "
           "block."};
const mth__op mth__op_moe_count = {ROW(moe_count), .args = "experts", .results = "count", .attributes = "experts",
    .factors = "tk->e", .sum = "t", .whole = "k", BY_TOKEN_SUMMED, .index_args = 1, .types = {MTH__TYPE_FLOAT32},
    .infer = infer_rows, .grad = mth__grad_none, .doc = "How many choices each expert has, as float32."};

/* ---------------------------------------------------------------- rows: tokens to experts and back */
const mth__op mth__op_moe_dispatch = {ROW(moe_dispatch), .args = "x, rows", .results = "y", .factors = "td,et->etd",
    EACH(1), BY_TOKEN, .index_args = 2, .row_args = 2, .grad = grad_dispatch,
    .doc = "y[e, r, :] = x[rows[e, r], :] on real rows."};
const mth__op mth__op_moe_dispatch_weighted = {ROW(moe_dispatch_weighted), .args = "x, rows, weights, experts",
    .results = "y", .factors = "td,et,tk,tk->etd", .whole = "k", EACH(5), BY_TOKEN, .index_args = 10, .row_args = 2,
    .doc = "y[e, r, :] = x[rows[e, r], :] times that token's weight of expert e, on real rows."};
const mth__op mth__op_moe_combine = {ROW(moe_combine), .args = "y, rows, weights?, experts?", .results = "x",
    .factors = "etd,et,tk,tk->td", .sum = "e", .whole = "k", EACH(5), BY_TOKEN_SUMMED, .index_args = 10, .row_args = 2,
    .infer = infer_combine, .grad = grad_combine, .flops = flops_rows, .accumulates = 1,
    .doc = "x[rows[e, r], :] += y[e, r, :], times that token's weight of expert e where weights are given."};
const mth__op mth__op_moe_combine_weights_grad = {ROW(moe_combine_weights_grad), .args = "y, rows, experts, dx",
    .results = "dweights", .factors = "etd,et,tk,td->tk", .sum = "ed", .whole = "k", EACH(9), BY_TOKEN_SUMMED,
    .index_args = 6, .row_args = 2, .flops = flops_rows,
    .doc = "dweights[t, k] = y of token t at its expert k, times dx[t, :], summed."};

/* ---------------------------------------------------------------- rows: experts */
const mth__op mth__op_moe_matmul = {ROW(moe_matmul), .args = "x, weight, rows", .results = "y",
    .attributes = "transposed", EACH(3), BY_TOKEN_SUMMED, .index_args = 4, .row_args = 4, .infer = infer_matmul,
    .rule = rule_matmul, .grad = grad_matmul, .flops = flops_matmul, .accumulates = 1,
    .doc = "y[e] = x[e] weight[e], with transposed y[e] = x[e] weight[e]^T, on real rows."};
const mth__op mth__op_moe_outer = {ROW(moe_outer), .args = "x, dy, rows", .results = "dweight",
    .factors = "eti,eto,et->eio", .sum = "t", EACH(3), BY_TOKEN_SUMMED, .index_args = 4, .row_args = 4,
    .flops = flops_outer, .accumulates = 1, .doc = "dweight[e] = x[e]^T dy[e] over real rows."};
const mth__op mth__op_moe_bias = {ROW(moe_bias), .args = "x, bias, rows", .results = "y", .factors = "eto,eo,et->eto",
    .linear = MTH__LINEAR_JOINT, .linear_args = 3, BY_TOKEN, .index_args = 4, .row_args = 4, .grad = grad_bias,
    .flops = flops_rows, .doc = "y = x + bias on real rows."};
const mth__op mth__op_moe_bias_grad = {ROW(moe_bias_grad), .args = "dy, rows", .results = "dbias",
    .factors = "eto,et->eo", .sum = "t", EACH(1), BY_TOKEN_SUMMED, .index_args = 2, .row_args = 2, .flops = flops_rows,
    .accumulates = 1, .doc = "dbias[e, :] = the sum of dy[e] over real rows."};
const mth__op mth__op_moe_act = {ROW(moe_act), .args = "x, rows", .results = "y", .attributes = "activation",
    .factors = "eth,et->eth", BY_TOKEN, .index_args = 2, .row_args = 2, .infer = infer_act, .grad = grad_act,
    .flops = flops_rows, .doc = "y = relu (0), gelu (1), gelu_tanh (2) or silu (3) of x on real rows."};
const mth__op mth__op_moe_act_grad = {ROW(moe_act_grad), .args = "x, dy, rows", .results = "dx",
    .attributes = "activation", .factors = "eth,eth,et->eth", EACH(2), BY_TOKEN, .index_args = 4, .row_args = 4,
    .infer = infer_act, .flops = flops_rows, .doc = "dx = dy * activation'(x) on real rows."};
const mth__op mth__op_moe_mul = {ROW(moe_mul), .args = "a, b, rows", .results = "y", .factors = "eth,eth,et->eth",
    EACH(3), BY_TOKEN, .index_args = 4, .row_args = 4, .grad = grad_mul, .flops = flops_rows,
    .doc = "y = a * b on real rows."};
